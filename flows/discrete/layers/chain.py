"""Flows that are made of layers: what they have in common, and the chain of layers on vectors."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn

from flows.base import Base, Flow, Traits, VectorFlow, global_noise_from
from flows.discrete.layers.norm import BatchNorm
from flows.discrete.layers.transform import Transform, columns, columns_or_none, in_chunks

__all__ = ["ChainFlow", "LayeredFlow"]

Visit = Callable[[Transform, Tensor, Tensor | None], object]


class LayeredFlow(Flow):
    """A flow made of layers, which are initialised, and given their statistics, one by one."""

    @abc.abstractmethod
    def _visit(self, data: Tensor, context: Tensor | None, visit: Visit) -> None:
        """Call ``visit`` on each layer with its input and context, from data to latent.

        A layer's input is made after the layers before it have been visited.
        """

    def _visit_in_evaluation(self, data: Tensor, context: Tensor | None, visit: Visit) -> None:
        training = self.training
        self.eval()
        with torch.no_grad():
            self._visit(data, context, visit)
        self.train(training)

    def initialize(self, batch: Tensor, context: Tensor | None = None) -> None:
        super().initialize(batch, context)
        self._visit_in_evaluation(batch, context, lambda layer, *given: layer.initialize(*given))

    @property
    def indivisible(self) -> str:
        # Layers draw nothing else, and batch norm is the one that averages.
        drops = any(getattr(module, "dropout", 0.0) > 0 for module in self.modules())
        return "dropout draws for the rows of one process alone" if drops else ""

    @property
    def keeps_statistics(self) -> bool:
        return any(isinstance(module, BatchNorm) for module in self.modules())

    def refresh_statistics(self, data: Tensor, context: Tensor | None = None) -> None:
        super().refresh_statistics(data, context)
        if self.keeps_statistics:
            self._visit_in_evaluation(
                data, context, lambda layer, *given: layer.refresh_statistics(*given)
            )


class ChainFlow(LayeredFlow, VectorFlow):
    """A flow that is a chain of layers, first to last from data to latent.

    Args:
        event_shape: shape of one datum.
        context_features: width of the context; 0 for none.
        transforms: the layers.
        traits: what the literature's comparisons list of the system.
        base: density of the latents; standard normal if None.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        context_features: int,
        transforms: Iterable[Transform],
        traits: Traits,
        base: Base | None = None,
    ) -> None:
        super().__init__(event_shape, context_features, base)
        self.transforms = nn.ModuleList(transforms)
        self.traits = traits
        self._drops = any(getattr(module, "dropout", 0.0) > 0 for module in self.modules())

    @property
    def _layers(self) -> list[Transform]:
        return cast(list[Transform], list(self.transforms))

    def _noise_from(self, generator: torch.Generator | None) -> AbstractContextManager[None]:
        if generator is None or not (self._drops and self.training):
            return nullcontext()
        return global_noise_from(generator, self.device)

    def _encode_vector(
        self, x: Tensor, context: Tensor | None, *, exact: bool, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        value, given = columns(x), columns_or_none(context)
        log_abs_det = x.new_zeros(len(x))
        with self._noise_from(generator):
            for layer in self.transforms:
                value, change = layer(value, given)
                log_abs_det = log_abs_det + change
        return value.T, log_abs_det

    def _decode_vector(
        self, z: Tensor, context: Tensor | None, *, exact: bool, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        value, given = columns(z), columns_or_none(context)
        log_abs_det = z.new_zeros(len(z))
        with self._noise_from(generator):
            for layer in reversed(self._layers):
                value, change = layer.inverse(value, given)
                log_abs_det = log_abs_det + change
        return value.T, log_abs_det

    def _visit(self, data: Tensor, context: Tensor | None, visit: Visit) -> None:
        value, given = columns(data.flatten(1)), columns_or_none(context)
        for layer in self._layers:
            visit(layer, value, given)
            value = in_chunks(lambda *parts, of=layer: of(*parts)[0], value, given)

    def outside_fraction(self, x: Tensor, context: Tensor | None = None) -> float | None:
        super().outside_fraction(x, context)
        nothing = x.new_empty(self.dimension, 0)
        if all(layer.outside(nothing) is None for layer in self._layers):
            return None
        found = x.new_zeros(len(x), dtype=torch.bool)

        def look(layer: Transform, value: Tensor, context: Tensor | None) -> None:
            nonlocal found
            if (here := layer.outside(value)) is not None:
                found = found | here

        self._visit_in_evaluation(x, context, look)
        return found.double().mean().item()
