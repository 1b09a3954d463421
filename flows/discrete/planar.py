"""Planar flows: each layer moves the latent along one direction."""

from __future__ import annotations

import torch
from torch import Tensor

from flows.config import Entry
from flows.discrete.layers.lowrank import LowRankConfig, LowRankLayer, positive

__all__ = ["ENTRIES", "PlanarConfig"]


class _Planar(LowRankLayer):
    """``x = z + u tanh(w z + b)``, with ``w u > -1`` so that it is one-to-one."""

    def __init__(self, dimension: int, context_features: int) -> None:
        # u = 0: the fresh layer is the identity.
        direction = torch.randn(dimension) / dimension**0.5
        super().__init__(
            torch.cat((torch.zeros(dimension), direction, torch.zeros(1))), context_features
        )
        self.dimension = dimension

    def _transform(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        u, w, b = parameters.split((self.dimension, self.dimension, 1), 1)
        # Appendix A.1 of the paper: u is moved along w until w u > -1; the function that does it
        # has 0 for 0 here, so that u = 0 stays.
        product = (w * u).sum(1, keepdim=True)
        square = w.square().sum(1, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny)
        u = u + (positive(product) - 1 - product) * w / square
        bent = torch.tanh((w * z).sum(1, keepdim=True) + b)
        slope = (w * u).sum(1, keepdim=True) * (1 - bent.square())
        return z + u * bent, slope.log1p().squeeze(1)


class PlanarConfig(LowRankConfig):
    """Planar flow.

    Variational Inference with Normalizing Flows (Rezende and Mohamed 2015, arXiv:1505.05770),
    section 4.1, equations 10 to 12, and appendix A.1.

    Example:
        >>> flow = PlanarConfig(layers=2).build(event_shape=(3,))
        >>> flow.sample(5).shape
        torch.Size([5, 3])
    """

    system = "planar"

    def layer(self, dimension: int, context_features: int) -> LowRankLayer:
        return _Planar(dimension, context_features)


ENTRIES = [
    Entry(
        "planar",
        PlanarConfig,
        "each layer moves the latent along one direction; samples only",
        "Rezende and Mohamed 2015, arXiv:1505.05770",
    )
]
