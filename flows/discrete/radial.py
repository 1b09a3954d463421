"""Radial flows: each layer contracts or expands around a point."""

from __future__ import annotations

import torch
from torch import Tensor

from flows.config import Entry
from flows.discrete.layers.lowrank import LowRankConfig, LowRankLayer, positive

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


class RadialConfig(LowRankConfig):
    """Radial flow.

    Variational Inference with Normalizing Flows (Rezende and Mohamed 2015, arXiv:1505.05770),
    section 4.1, equations 13 and 14, and appendix A.2.

    Example:
        >>> flow = RadialConfig(layers=2).build(event_shape=(3,))
        >>> flow.sample(5).shape
        torch.Size([5, 3])
    """

    system = "radial"

    def layer(self, dimension: int, context_features: int) -> LowRankLayer:
        return _Radial(dimension, context_features)


ENTRIES = [
    Entry(
        "radial",
        RadialConfig,
        "each layer contracts or expands around a point; samples only",
        "Rezende and Mohamed 2015, arXiv:1505.05770",
    )
]
