"""Coupling layers: one half of the features is transformed, given the other half."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flows.base import InputError, Traits
from flows.discrete.elementwise import Elementwise
from flows.discrete.transforms import BatchNorm, Transform, apply_in_chunks
from flows.meter import tick

__all__ = ["COUPLING_TRAITS", "Coupling", "Couplings", "HalfCoupling", "Halves"]

COUPLING_TRAITS = Traits(
    density="exact",
    density_passes="1",
    sample_passes="1",
    jacobian="block-triangular",
)


def _check_dimension(dimension: int) -> None:
    if dimension < 2:
        raise InputError(
            "a coupling needs two halves: an event of one number has none; "
            "take an autoregressive flow (maf) instead"
        )


class Coupling(nn.Module):
    """Transforms one half, given the other.

    Args:
        network: from the given half (with the context behind it) to ``P`` times as many numbers
            as the transformed half has.
        elementwise: what is done with the parameters.
    """

    def __init__(self, network: nn.Module, elementwise: Elementwise) -> None:
        super().__init__()
        self.network = network
        self.elementwise = elementwise

    def parameters_of(self, given: Tensor, context: Tensor | None) -> Tensor:
        """Parameters of the elementwise function, shape ``(P, F, n)``."""
        tick()
        seen = given if context is None else torch.cat((given, context))
        parameters: Tensor = self.network(seen)
        count = self.elementwise.parameter_count
        return parameters.view(count, len(parameters) // count, -1)

    def forward(
        self, half: Tensor, given: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The new half and its log-derivatives, ``(F, n)`` each; None stands for zeros."""
        return self.elementwise.encode(half, self.parameters_of(given, context))

    def inverse(
        self, half: Tensor, given: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The inverse of :meth:`forward`."""
        return self.elementwise.decode(half, self.parameters_of(given, context))


class HalfCoupling(Transform):
    """A coupling as a layer of a chain: the second half is transformed, given the first.

    Args:
        dimension: D.
        context_features: width of the context.
        network: makes a network of so many inputs and outputs.
        elementwise: what is done with the parameters.

    Raises:
        InputError: if D is 1.
    """

    def __init__(
        self,
        dimension: int,
        context_features: int,
        network: Callable[[int, int], nn.Module],
        elementwise: Elementwise,
    ) -> None:
        super().__init__()
        _check_dimension(dimension)
        self.sizes = [dimension - dimension // 2, dimension // 2]
        inputs, features = self.sizes
        self.coupling = Coupling(
            network(inputs + context_features, elementwise.parameter_count * features), elementwise
        )

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        given, half = x.split(self.sizes)
        half, log_derivative = self.coupling(half, given, context)
        change = x.new_zeros(()) if log_derivative is None else log_derivative.sum(0)
        return torch.cat((given, half)), change

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        given, half = z.split(self.sizes)
        half, log_derivative = self.coupling.inverse(half, given, context)
        change = z.new_zeros(()) if log_derivative is None else log_derivative.sum(0)
        return torch.cat((given, half)), change

    def outside(self, x: Tensor) -> Tensor | None:
        found = self.coupling.elementwise.outside(x[self.sizes[0] :])
        return None if found is None else found.any(0)


class Halves(NamedTuple):
    """The features of even and of odd index, ``(ceil(D / 2), n)`` and ``(D // 2, n)``."""

    even: Tensor
    odd: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Halves:
        """The halves of ``(D, n)``."""
        return cls(x[0::2].contiguous(), x[1::2].contiguous())

    def joined(self) -> Tensor:
        """The features in their order, ``(D, n)``."""
        pairs = len(self.odd)
        paired = torch.stack((self.even[:pairs], self.odd), 1).flatten(0, 1)
        return paired if len(self.even) == pairs else torch.cat((paired, self.even[pairs:]))


class Couplings(Transform):
    """Couplings that transform the two halves in turn.

    The halves are the features of even and of odd index (the alternating masks of MAF's
    experiments, arXiv:1705.07057, section 4). They are kept apart from the first layer to the
    last: there is nothing to mask, gather or scatter in between.

    Args:
        dimension: D.
        context_features: width of the context; 0 for none.
        layers: number of couplings; the first transforms the features of odd index.
        network: makes a network of so many inputs and outputs.
        elementwise: what is done with the parameters.
        batch_norm: whether batch normalisation follows each coupling.

    Raises:
        InputError: if D is 1.
    """

    def __init__(
        self,
        dimension: int,
        context_features: int,
        layers: int,
        network: Callable[[int, int], nn.Module],
        elementwise: Elementwise,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        _check_dimension(dimension)
        sizes = (dimension - dimension // 2, dimension // 2)
        self.couplings = nn.ModuleList()
        for layer in range(layers):
            given, transformed = (sizes[0], sizes[1]) if layer % 2 == 0 else (sizes[1], sizes[0])
            self.couplings.append(
                Coupling(
                    network(given + context_features, elementwise.parameter_count * transformed),
                    elementwise,
                )
            )
        # One for each half of each layer, or none at all.
        self.norms = nn.ModuleList(
            BatchNorm(size) for _ in range(layers) for size in sizes if batch_norm
        )

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        halves = list(Halves.of(x))
        log_abs_det = x.new_zeros(x.shape[1])
        for layer, coupling in enumerate(self.couplings):
            given, target = layer % 2, 1 - layer % 2
            halves[target], log_derivative = coupling(halves[target], halves[given], context)
            if log_derivative is not None:
                log_abs_det = log_abs_det + log_derivative.sum(0)
            for half, norm in enumerate(self._norms_of(layer)):
                halves[half], change = norm(halves[half], None)
                log_abs_det = log_abs_det + change
        return Halves(*halves).joined(), log_abs_det

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        halves = list(Halves.of(z))
        log_abs_det = z.new_zeros(z.shape[1])
        for layer in reversed(range(len(self.couplings))):
            for half, norm in enumerate(self._norms_of(layer)):
                halves[half], change = norm.inverse(halves[half], None)
                log_abs_det = log_abs_det + change
            given, target = layer % 2, 1 - layer % 2
            coupling = self.couplings[layer]
            assert isinstance(coupling, Coupling)
            halves[target], log_derivative = coupling.inverse(
                halves[target], halves[given], context
            )
            if log_derivative is not None:
                log_abs_det = log_abs_det + log_derivative.sum(0)
        return Halves(*halves).joined(), log_abs_det

    def outside(self, x: Tensor) -> Tensor | None:
        # What is outside stays as it is and what is inside stays inside, so that for each half
        # the first layer that transforms it speaks for all.
        halves = Halves.of(x)
        found = None
        for layer, coupling in enumerate(self.couplings[:2]):
            assert isinstance(coupling, Coupling)
            part = coupling.elementwise.outside(halves[1 - layer % 2])
            if part is None:
                return None
            found = part.any(0) if found is None else found | part.any(0)
        return found

    def _norms_of(self, layer: int) -> list[BatchNorm]:
        return [
            norm for norm in self.norms[2 * layer : 2 * layer + 2] if isinstance(norm, BatchNorm)
        ]

    def initialize(self, x: Tensor, context: Tensor | None) -> None:
        if not self.norms:
            return
        halves = list(Halves.of(x))
        for layer, coupling in enumerate(self.couplings):
            given, target = layer % 2, 1 - layer % 2
            halves[target], _ = coupling(halves[target], halves[given], context)
            for half, norm in enumerate(self._norms_of(layer)):
                norm.initialize(halves[half], None)
                halves[half], _ = norm(halves[half], None)

    def refresh_statistics(self, x: Tensor, context: Tensor | None) -> None:
        halves = list(Halves.of(x))
        for layer, coupling in enumerate(self.couplings):
            given, target = layer % 2, 1 - layer % 2
            seen = halves[given] if context is None else torch.cat((halves[given], context))

            def transformed(
                half: Tensor,
                seen: Tensor | None,
                coupling: nn.Module = coupling,
            ) -> Tensor:
                result: Tensor = coupling(half, seen, None)[0]
                return result

            halves[target] = apply_in_chunks(transformed, halves[target], seen)
            for half, norm in enumerate(self._norms_of(layer)):
                norm.refresh_statistics(halves[half], None)
                halves[half], _ = norm(halves[half], None)
