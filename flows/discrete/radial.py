"""Radial flows: each layer contracts or expands around a point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from flows.base import Flow, Traits, dimension_of
from flows.config import Entry, FlowConfig
from flows.discrete.layers.lowrank import LOW_RANK_TRAITS, LowRankFlow, LowRankLayer, positive

__all__ = ["ENTRIES", "RadialConfig"]


class _Radial(LowRankLayer):
    """``x = z + beta (z - centre) / (alpha + |z - centre|)``, ``alpha > 0``, ``beta > -alpha``."""

    def __init__(self, dimension: int, context_features: int) -> None:
        # beta = 0: the fresh layer is the identity.
        super().__init__(torch.cat((torch.randn(dimension), torch.zeros(2))), context_features)
        self.dimension = dimension

    def _transform(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        centre, raw_alpha, raw_beta = parameters.split((self.dimension, 1, 1), 1)
        alpha = positive(raw_alpha)
        beta = positive(raw_beta) - alpha
        away = z - centre
        # The square root has no derivative at zero.
        radius = (away.square().sum(1, keepdim=True) + torch.finfo(z.dtype).tiny).sqrt()
        pull = beta / (alpha + radius)
        along = beta * alpha / (alpha + radius).square()
        log_abs_det = (self.dimension - 1) * pull.log1p() + along.log1p()
        return z + pull * away, log_abs_det.squeeze(1)


class RadialConfig(FlowConfig):
    """Radial flow.

    Variational Inference with Normalizing Flows (Rezende and Mohamed 2015, arXiv:1505.05770),
    section 4.1, equations 13 and 14, and appendix A.2.

    Example:
        >>> flow = RadialConfig(layers=2).build(event_shape=(3,))
        >>> flow.sample(5).shape
        torch.Size([5, 3])
    """

    traits: ClassVar[Traits] = LOW_RANK_TRAITS

    layers: PositiveInt = Field(default=16, description="number of layers")

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> Flow:
        dimension = dimension_of(event_shape)
        return LowRankFlow(
            event_shape,
            context_features,
            self.layers,
            lambda: _Radial(dimension, context_features),
            "radial",
        )


ENTRIES = [
    Entry(
        "radial",
        RadialConfig,
        "each layer contracts or expands around a point; samples only",
        "Rezende and Mohamed 2015, arXiv:1505.05770",
    )
]
