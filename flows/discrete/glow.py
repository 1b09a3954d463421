"""Glow on vectors: actnorm, an LU-parameterised linear map and an affine coupling a step."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveFloat, PositiveInt
from torch import nn

from flows.base import Flow
from flows.config import FlowConfig, Widths
from flows.discrete.coupling import COUPLING_TRAITS, HalfCoupling
from flows.discrete.elementwise import Affine
from flows.discrete.transforms import ActNorm, ChainFlow, LULinear, Transform, dimension_of
from flows.networks import MLP, Activation

__all__ = ["GlowConfig"]


class GlowConfig(FlowConfig):
    """Glow on vectors, where the 1x1 convolution is a linear map of all features.

    Glow: Generative flow with invertible 1x1 convolutions (Kingma and Dhariwal 2018,
    arXiv:1807.03039), section 3, Table 1. ``initialize`` sets the actnorm layers from a batch.

    Attributes:
        steps: number of steps of flow.
        hidden: widths of each conditioner's hidden layers.
        activation: of the conditioners.
        log_scale_bound: largest absolute log-scale of a coupling.

    Example:
        >>> import torch
        >>> flow = GlowConfig(steps=2).build(event_shape=(3,))
        >>> flow.log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    steps: PositiveInt = 6
    hidden: Widths = (64, 64)
    activation: Activation = "relu"
    log_scale_bound: PositiveFloat = 5.0

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> Flow:
        def network(inputs: int, outputs: int) -> nn.Module:
            return MLP(inputs, self.hidden, outputs, self.activation)

        dimension = dimension_of(event_shape)
        affine = Affine(self.log_scale_bound, shift_first=True)
        transforms: list[Transform] = []
        for _ in range(self.steps):
            transforms += [
                ActNorm(dimension),
                LULinear(dimension),
                HalfCoupling(dimension, context_features, network, affine),
            ]
        return ChainFlow(event_shape, context_features, transforms, COUPLING_TRAITS)
