"""Glow on vectors: actnorm, an LU-parameterised linear map and an affine coupling a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, PositiveInt
from torch import nn

from flows.base import Flow, Traits, dimension_of
from flows.config import Entry, FlowConfig
from flows.discrete.layers.chain import ChainFlow
from flows.discrete.layers.coupling import COUPLING_TRAITS, Couplings
from flows.discrete.layers.elementwise import LOG_SCALE_BOUND, Affine, LogScaleBound
from flows.discrete.layers.linear import LULinear
from flows.discrete.layers.norm import ActNorm
from flows.discrete.layers.transform import Transform
from flows.networks import MLP, ConditionerActivation, ConditionerWidths

__all__ = ["ENTRIES", "GlowConfig"]


class GlowConfig(FlowConfig):
    """Glow on vectors, where the 1x1 convolution is a linear map of all features.

    Glow: Generative flow with invertible 1x1 convolutions (Kingma and Dhariwal 2018,
    arXiv:1807.03039), section 3, Table 1. ``initialize`` sets the actnorm layers from a batch.

    Example:
        >>> import torch
        >>> flow = GlowConfig(steps=2).build(event_shape=(3,))
        >>> flow.log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    version: ClassVar[int] = 2
    traits: ClassVar[Traits] = COUPLING_TRAITS

    steps: PositiveInt = Field(default=6, description="number of steps of flow")
    hidden: ConditionerWidths = (64, 64)
    activation: ConditionerActivation = "relu"
    log_scale_bound: LogScaleBound = LOG_SCALE_BOUND

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> Flow:
        def network(inputs: int, outputs: int) -> nn.Module:
            return MLP(inputs + context_features, self.hidden, outputs, self.activation)

        dimension = dimension_of(event_shape)
        affine = Affine(self.log_scale_bound, shift_first=True)
        transforms: list[Transform] = []
        for _ in range(self.steps):
            transforms += [
                ActNorm(dimension),
                LULinear(dimension),
                Couplings(dimension, 1, network, affine),
            ]
        return ChainFlow(event_shape, context_features, transforms, self.traits)


ENTRIES = [
    Entry(
        "glow",
        GlowConfig,
        "actnorm, LU-parameterised linear map, affine coupling",
        "Kingma and Dhariwal 2018, arXiv:1807.03039",
    )
]
