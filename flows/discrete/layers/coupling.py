"""Coupling layers: one half of the features is transformed, given the other half."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from flows.base import InputError, Traits
from flows.discrete.layers.convolutions import Conditioner
from flows.discrete.layers.elementwise import Affine, Elementwise
from flows.discrete.layers.norm import BatchNorm
from flows.discrete.layers.transform import Transform, in_chunks, parameters_ahead, sum_features
from flows.meter import tick

__all__ = ["COUPLING_TRAITS", "CheckerboardCoupling", "Couplings"]

COUPLING_TRAITS = Traits(
    density="exact",
    density_passes="1",
    sample_passes="1",
    jacobian="block-triangular",
)


def _parameters_of(network: nn.Module, count: int, given: Tensor, context: Tensor | None) -> Tensor:
    """Parameters of an elementwise function, shape ``(count, *S)`` for S that of the values.

    Networks on columns see the context behind what is given; those on images take it apart.
    """
    tick()
    if given.ndim == 2:
        raw = network(given if context is None else torch.cat((given, context)))
    else:
        raw = network(given, context)
    return parameters_ahead(raw, count)


def _total(changes: list[Tensor], like: Tensor) -> Tensor:
    return functools.reduce(operator.add, changes) if changes else like.new_zeros(())


class Couplings(Transform):
    """Couplings that transform the two halves of the features, or of an image's channels, in turn.

    The halves are kept apart from the first coupling to the last: there is nothing to mask,
    gather or scatter in between.

    Args:
        features: D, or the number of channels.
        layers: number of couplings.
        network: makes a network of so many inputs (without the context) and outputs.
        elementwise: what is done with the parameters.
        interleaved: whether the halves are the features of even and of odd index (the alternating
            masks of MAF's experiments, arXiv:1705.07057, section 4), and not the first and the
            last ones. For columns.
        swap: whether the first coupling transforms the first half, and not the second.
        batch_norm: whether batch normalisation follows each coupling. For columns.

    Raises:
        InputError: for a single feature.
    """

    def __init__(
        self,
        features: int,
        layers: int,
        network: Callable[[int, int], nn.Module],
        elementwise: Elementwise,
        *,
        interleaved: bool = False,
        swap: bool = False,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if features < 2:
            raise InputError(
                "a coupling needs two halves: an event of one number has none; "
                "take an autoregressive flow (maf) instead"
            )
        self.sizes = [features - features // 2, features // 2]
        self.elementwise = elementwise
        self.interleaved = interleaved
        # Which half each coupling transforms.
        self.targets = [(layer + swap + 1) % 2 for layer in range(layers)]
        self.networks = nn.ModuleList(
            network(self.sizes[1 - target], elementwise.parameter_count * self.sizes[target])
            for target in self.targets
        )
        # One for each half of each layer, or none at all.
        self.norms = nn.ModuleList(
            BatchNorm(size) for _ in range(layers) for size in self.sizes if batch_norm
        )

    def _apart(self, x: Tensor) -> list[Tensor]:
        if self.interleaved:
            return [x[0::2].contiguous(), x[1::2].contiguous()]
        return list(x.split(self.sizes, 0 if x.ndim == 2 else 1))

    def _together(self, halves: list[Tensor]) -> Tensor:
        if not self.interleaved:
            return torch.cat(halves, 0 if halves[0].ndim == 2 else 1)
        even, odd = halves
        pairs = len(odd)
        paired = torch.stack((even[:pairs], odd), 1).flatten(0, 1)
        return paired if len(even) == pairs else torch.cat((paired, even[pairs:]))

    def _steps(self) -> Iterator[tuple[int, nn.Module, list[BatchNorm]]]:
        """Of each coupling the half that it transforms, its network and what follows."""
        # A slice of a ModuleList is a module that is made anew, which takes longer than a norm.
        norms = cast(list[BatchNorm], list(self.norms))
        for layer, (target, network) in enumerate(zip(self.targets, self.networks, strict=True)):
            yield target, network, norms[2 * layer : 2 * layer + 2]

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        halves, changes = self._apart(x), []
        count = self.elementwise.parameter_count
        for target, network, norms in self._steps():
            parameters = _parameters_of(network, count, halves[1 - target], context)
            halves[target], log_derivative = self.elementwise.encode(halves[target], parameters)
            if log_derivative is not None:
                changes.append(sum_features(log_derivative))
            for half, norm in enumerate(norms):
                halves[half], change = norm(halves[half], None)
                changes.append(change)
        return self._together(halves), _total(changes, x)

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        halves, changes = self._apart(z), []
        count = self.elementwise.parameter_count
        for target, network, norms in reversed(list(self._steps())):
            for half, norm in enumerate(norms):
                halves[half], change = norm.inverse(halves[half], None)
                changes.append(change)
            parameters = _parameters_of(network, count, halves[1 - target], context)
            halves[target], log_derivative = self.elementwise.decode(halves[target], parameters)
            if log_derivative is not None:
                changes.append(sum_features(log_derivative))
        return self._together(halves), _total(changes, z)

    def initialize(self, x: Tensor, context: Tensor | None) -> None:
        self._prepare(x, context)

    def refresh_statistics(self, x: Tensor, context: Tensor | None) -> None:
        if self.norms:
            self._prepare(x, context)

    def _prepare(self, x: Tensor, context: Tensor | None) -> None:
        """Initialise the networks, and set the norms' statistics to those of ``x``."""
        halves = self._apart(x)
        count = self.elementwise.parameter_count
        for target, network, norms in self._steps():
            given = halves[1 - target]
            if isinstance(network, Conditioner):
                network.initialize(given, context)
            if norms:
                seen = given if context is None else torch.cat((given, context))

                def encode(
                    half: Tensor, seen: Tensor | None, network: nn.Module = network
                ) -> Tensor:
                    parameters = _parameters_of(network, count, cast(Tensor, seen), None)
                    return self.elementwise.encode(half, parameters)[0]

                halves[target] = in_chunks(encode, halves[target], seen)
            for half, norm in enumerate(norms):
                norm.refresh_statistics(halves[half], None)
                halves[half], _ = norm(halves[half], None)

    def outside(self, x: Tensor) -> Tensor | None:
        # What is outside stays as it is and what is inside stays inside, so that for each half
        # the first coupling that transforms it speaks for all.
        halves = self._apart(x)
        parts = [self.elementwise.outside(halves[target]) for target in set(self.targets)]
        found = [part.any(0) for part in parts if part is not None]
        return torch.stack(found).any(0) if found else None


class CheckerboardCoupling(Transform):
    """Pixels of one colour of a checkerboard are transformed, given those of the other.

    RealNVP, arXiv:1605.08803, section 3.4, figure 3. The network sees the colour's mask too.

    Args:
        channels: C.
        height: H.
        width: W.
        network: makes a conditioner of so many inputs and outputs.
        affine: what is done with the parameters; those of zero are the identity.
        swap: whether the pixel in the corner is among those transformed.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        network: Callable[[int, int], Conditioner],
        affine: Affine,
        swap: bool = False,
    ) -> None:
        super().__init__()
        colour = (torch.arange(height)[:, None] + torch.arange(width)) % 2 == int(swap)
        self.given: Tensor
        self.register_buffer("given", colour.to(torch.get_default_dtype()), persistent=False)
        self.network = network(channels + 1, affine.parameter_count * channels)
        self.affine = affine

    def _seen(self, x: Tensor) -> Tensor:
        mask = self.given.expand(len(x), 1, -1, -1)
        return torch.cat((x * self.given, mask), 1)

    def _compute_parameters(self, x: Tensor, context: Tensor | None) -> Tensor:
        count = self.affine.parameter_count
        return _parameters_of(self.network, count, self._seen(x), context) * (1 - self.given)

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        z, change = self.affine.encode(x, self._compute_parameters(x, context))
        return z, sum_features(change)

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        x, change = self.affine.decode(z, self._compute_parameters(z, context))
        return x, sum_features(change)

    def initialize(self, x: Tensor, context: Tensor | None) -> None:
        self.network.initialize(self._seen(x), context)
