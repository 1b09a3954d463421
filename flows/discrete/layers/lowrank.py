"""Flows whose layers add a term of low rank: latent to data only."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from flows.base import Flow, NotInvertible, Traits, VectorFlow, dimension_of
from flows.config import FlowConfig
from flows.meter import tick

__all__ = ["LowRankConfig", "LowRankFlow", "LowRankLayer", "positive"]

LOW_RANK_TRAITS = Traits(
    density="exact",
    density_passes="none",
    sample_passes="1",
    jacobian="low-rank",
    trains_on_data=False,
)

# What makes softplus(0 + offset) = 1.
_OFFSET = math.log(math.expm1(1.0))


def positive(raw: Tensor) -> Tensor:
    """A positive number for any number; 1 for 0."""
    return functional.softplus(raw + _OFFSET)


class LowRankLayer(nn.Module, abc.ABC):
    """A layer ``x = z + g(z)`` whose parameters are one vector, which a context shifts.

    Args:
        start: the parameters of a fresh layer, shape ``(P,)``.
        context_features: width of the context; 0 for none.
    """

    def __init__(self, start: Tensor, context_features: int) -> None:
        super().__init__()
        self.parameters_without_context = nn.Parameter(start)
        self.shift = (
            nn.Linear(context_features, len(start), bias=False) if context_features else None
        )
        if self.shift is not None:
            nn.init.zeros_(self.shift.weight)

    def forward(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Latent side to data side: ``(n, D)`` to the same and ``log |det dx/dz|``, ``(n,)``."""
        tick()
        parameters = self.parameters_without_context.unsqueeze(0)
        if self.shift is not None:
            parameters = parameters + self.shift(context)
        return self._transform(z, parameters)

    @abc.abstractmethod
    def _transform(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The layer with parameters ``(n, P)`` or ``(1, P)``."""


class LowRankFlow(VectorFlow):
    """A chain of low-rank layers from latent to data.

    Args:
        event_shape: shape of one datum.
        context_features: width of the context; 0 for none.
        layers: from latent to data.
        name: of the system, for messages.
    """

    traits = LOW_RANK_TRAITS

    def __init__(
        self,
        event_shape: Sequence[int],
        context_features: int,
        layers: Iterable[LowRankLayer],
        name: str,
    ) -> None:
        super().__init__(event_shape, context_features)
        self.layers = nn.ModuleList(layers)
        self.name = name

    def _encode_vector(
        self, x: Tensor, context: Tensor | None, *, exact: bool, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        raise NotInvertible(
            f"a {self.name} flow has no inverse in closed form: it gives samples and the density "
            "of each, but not the density of given data; train it by a variational objective, or "
            "take a flow that trains on data"
        )

    def _decode_vector(
        self, z: Tensor, context: Tensor | None, *, exact: bool, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        log_abs_det = z.new_zeros(len(z))
        for layer in self.layers:
            z, change = layer(z, context)
            log_abs_det = log_abs_det + change
        return z, log_abs_det


class LowRankConfig(FlowConfig):
    """Options of a :class:`LowRankFlow`.

    Attributes:
        system: its name, for messages.
    """

    traits: ClassVar[Traits] = LOW_RANK_TRAITS
    system: ClassVar[str]

    layers: PositiveInt = Field(default=16, description="number of layers")

    @abc.abstractmethod
    def layer(self, dimension: int, context_features: int) -> LowRankLayer:
        """A fresh layer, on D numbers."""

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> Flow:
        dimension = dimension_of(event_shape)
        layers = (self.layer(dimension, context_features) for _ in range(self.layers))
        return LowRankFlow(event_shape, context_features, layers, self.system)
