"""Glow on images: steps of actnorm, 1 x 1 convolution and affine coupling at several scales."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveFloat, PositiveInt

from flows.base import Flow
from flows.config import FlowConfig
from flows.discrete.elementwise import Affine
from flows.discrete.image import (
    ChannelCoupling,
    ChannelLinear,
    ChannelNorm,
    Conditioner,
    GlowNetwork,
    ImageTransform,
    LearnedPrior,
    MultiScaleFlow,
    Squeeze,
    image_shape,
)
from flows.discrete.transforms import ActNorm

__all__ = ["ImageGlowConfig"]


class ImageGlowConfig(FlowConfig):
    """Glow on images.

    Glow: Generative flow with invertible 1x1 convolutions (Kingma and Dhariwal 2018,
    arXiv:1807.03039), section 3, figure 2, and the authors' code: learned split priors and top
    prior, zero-initialised last convolutions, data-dependent initialisation by ``initialize``.
    Unlike there the scale of a coupling can expand as well as contract (there
    ``sigmoid(h + 2)``), and the 1 x 1 convolutions are LU-parameterised (section 3.2).

    Attributes:
        levels: number of scales, each of which halves the sides.
        steps: number of steps of flow at each scale.
        channels: width of the conditioners.
        log_scale_bound: largest absolute log-scale of a coupling or prior.

    Example:
        >>> import torch
        >>> flow = ImageGlowConfig(steps=2, channels=8).build(event_shape=(1, 8, 8))
        >>> flow.log_prob(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5])
    """

    levels: PositiveInt = 2
    steps: PositiveInt = 8
    channels: PositiveInt = 64
    log_scale_bound: PositiveFloat = 5.0

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> Flow:
        channels, _, _ = image_shape(event_shape, self.levels)
        affine = Affine(self.log_scale_bound, shift_first=True)

        def network(inputs: int, outputs: int) -> Conditioner:
            return GlowNetwork(inputs, outputs, self.channels, context_features)

        levels: list[list[ImageTransform]] = []
        priors: list[LearnedPrior | None] = []
        for level in range(self.levels):
            channels *= 4
            layers: list[ImageTransform] = [Squeeze()]
            for _ in range(self.steps):
                layers += [
                    ChannelNorm(ActNorm(channels)),
                    ChannelLinear(channels),
                    ChannelCoupling(channels, network, affine),
                ]
            levels.append(layers)
            if level < self.levels - 1:
                channels //= 2
                priors.append(LearnedPrior(channels, channels, context_features, affine))
            else:
                priors.append(LearnedPrior(0, channels, context_features, affine))
        return MultiScaleFlow(event_shape, context_features, levels, priors)
