"""Glow on images: steps of actnorm, 1 x 1 convolution and affine coupling at several scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, PositiveInt

from flows.base import Flow, Traits
from flows.config import Entry, FlowConfig
from flows.discrete.layers.convolutions import Conditioner, GlowNetwork
from flows.discrete.layers.coupling import COUPLING_TRAITS, Couplings
from flows.discrete.layers.elementwise import Affine, LogScaleBound
from flows.discrete.layers.linear import ChannelLinear
from flows.discrete.layers.multiscale import LearnedPrior, MultiScaleFlow, image_shape
from flows.discrete.layers.norm import ActNorm, ChannelNorm
from flows.discrete.layers.squeeze import Squeeze
from flows.discrete.layers.transform import Transform

__all__ = ["ENTRIES", "ImageGlowConfig"]


class ImageGlowConfig(FlowConfig):
    """Glow on images.

    Glow: Generative flow with invertible 1x1 convolutions (Kingma and Dhariwal 2018,
    arXiv:1807.03039), section 3, figure 2, and the authors' code: learned split priors and top
    prior, zero-initialised last convolutions, data-dependent initialisation by ``initialize``.
    Unlike there the scale of a coupling can expand as well as contract (there
    ``sigmoid(h + 2)``), and the 1 x 1 convolutions are LU-parameterised (section 3.2).

    Example:
        >>> import torch
        >>> flow = ImageGlowConfig(steps=2, channels=8).build(event_shape=(1, 8, 8))
        >>> flow.log_prob(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5])
    """

    traits: ClassVar[Traits] = COUPLING_TRAITS

    levels: PositiveInt = Field(
        default=2, description="number of scales, each of which halves the sides"
    )
    steps: PositiveInt = Field(default=8, description="number of steps of flow at each scale")
    channels: PositiveInt = Field(default=64, description="width of the conditioners")
    log_scale_bound: LogScaleBound = 5.0

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> Flow:
        channels, _, _ = image_shape(event_shape, self.levels)
        affine = Affine(self.log_scale_bound, shift_first=True)

        def network(inputs: int, outputs: int) -> Conditioner:
            return GlowNetwork(inputs, outputs, self.channels, context_features)

        levels: list[list[Transform]] = []
        priors: list[LearnedPrior | None] = []
        for level in range(self.levels):
            channels *= 4
            layers: list[Transform] = [Squeeze()]
            for _ in range(self.steps):
                layers += [
                    ChannelNorm(ActNorm(channels)),
                    ChannelLinear(channels),
                    Couplings(channels, 1, network, affine),
                ]
            levels.append(layers)
            if level < self.levels - 1:
                channels //= 2
                priors.append(LearnedPrior(channels, channels, context_features, affine))
            else:
                priors.append(LearnedPrior(0, channels, context_features, affine))
        return MultiScaleFlow(event_shape, context_features, levels, priors)


ENTRIES = [
    Entry(
        "glow-image",
        ImageGlowConfig,
        "Glow on images: 1 x 1 convolutions and learned priors at several scales",
        "Kingma and Dhariwal 2018, arXiv:1807.03039",
    ),
    Entry(
        "glow-cifar10",
        ImageGlowConfig,
        "Glow with 3 scales of 32 steps and 512 channels, as for CIFAR-10",
        "Kingma and Dhariwal 2018, arXiv:1807.03039, Table 4 and the authors' code",
        {"levels": 3, "steps": 32, "channels": 512},
    ),
]
