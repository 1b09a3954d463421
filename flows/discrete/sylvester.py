"""Sylvester flows: planar flows with several directions at once."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional

from flows.config import Entry
from flows.discrete.layers.lowrank import LowRankConfig, LowRankLayer

__all__ = ["ENTRIES", "SylvesterConfig"]


class _Sylvester(LowRankLayer):
    """``x = z + Q R tanh(S Q' z + b)``, R and S upper triangular, Q with orthonormal columns.

    Q is the first columns of a product of Householder reflections. The diagonals of R and S lie
    within (-1, 1), so that the map is one-to-one.
    """

    def __init__(self, dimension: int, context_features: int, rank: int, reflections: int) -> None:
        self.dimension, self.rank, self.reflections = dimension, rank, reflections
        # R = 0: the fresh layer is the identity.
        start = torch.cat(
            (
                torch.randn(reflections * dimension),
                torch.zeros(rank * rank),
                torch.randn(rank * rank) / rank**0.5,
                torch.zeros(rank),
            )
        )
        super().__init__(start, context_features)

    def _transform(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        square = self.rank * self.rank
        vectors, first, second, b = parameters.split(
            (self.reflections * self.dimension, square, square, self.rank), 1
        )
        vectors = functional.normalize(vectors.unflatten(1, (self.reflections, -1)), dim=2)
        directions = vectors.unbind(1)
        outer, outer_diagonal = self._triangular(first)
        inner, inner_diagonal = self._triangular(second)
        turned = z
        for direction in directions:
            turned = _reflect(turned, direction)
        low = turned[:, : self.rank]
        bent = torch.tanh((inner @ low.unsqueeze(2)).squeeze(2) + b)
        change = (outer @ bent.unsqueeze(2)).squeeze(2)
        change = functional.pad(change, (0, self.dimension - self.rank))
        for direction in reversed(directions):
            change = _reflect(change, direction)
        slopes = outer_diagonal * inner_diagonal * (1 - bent.square())
        return z + change, slopes.log1p().sum(1)

    def _triangular(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        matrix = raw.unflatten(1, (self.rank, self.rank))
        diagonal = torch.tanh(matrix.diagonal(dim1=1, dim2=2))
        return matrix.triu(1) + torch.diag_embed(diagonal), diagonal


def _reflect(value: Tensor, direction: Tensor) -> Tensor:
    """Reflect rows ``(n, D)`` by unit vectors ``(n, D)`` or ``(1, D)``."""
    return value - 2 * (value * direction).sum(1, keepdim=True) * direction


class SylvesterConfig(LowRankConfig):
    """Sylvester flow with Householder reflections (H-SNF).

    Sylvester Normalizing Flows for Variational Inference (van den Berg, Hasenclever, Tomczak and
    Welling 2018, arXiv:1803.05649), section 3, equations 8 to 13, and section 3.2.

    Example:
        >>> flow = SylvesterConfig(layers=2).build(event_shape=(3,))
        >>> flow.sample(5).shape
        torch.Size([5, 3])
    """

    system = "Sylvester"

    layers: PositiveInt = Field(default=8, description="number of layers")
    rank: PositiveInt = Field(
        default=8, description="number of directions that a layer moves along, at most D"
    )
    reflections: PositiveInt = Field(
        default=8, description="number of Householder reflections that make the directions"
    )

    def layer(self, dimension: int, context_features: int) -> LowRankLayer:
        rank = min(self.rank, dimension)
        return _Sylvester(dimension, context_features, rank, self.reflections)


ENTRIES = [
    Entry(
        "sylvester",
        SylvesterConfig,
        "planar layers of several directions at once; samples only",
        "van den Berg, Hasenclever, Tomczak and Welling 2018, arXiv:1803.05649",
    )
]
