"""The right-hand side of one solve: dynamics with context, probes and weights held fixed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from flows.continuous.errors import DynamicsShapeError
from flows.continuous.ode.trace import Product, products, pulled_back

__all__ = ["Dynamics", "Field", "Held", "Probes", "added", "gradients_by", "inputs_of", "taken"]


class Dynamics(Protocol):
    """What a module must be to serve as dynamics.

    ``forward(t, z, context)`` gives dz/dt with the shape of ``z``. With a ``bottleneck`` that is
    not None there are also ``narrow(t, z, context)`` and ``widen(t, h)``, of which forward is the
    composition, with ``(n, bottleneck)`` between. With ``residual`` the velocity is forward's
    value minus ``z``.
    """

    bottleneck: int | None
    residual: bool


@dataclass(frozen=True)
class Probes:
    """The vectors v of the products ``v^T M v`` of one solve.

    Attributes:
        vectors: shape ``(m, n, width)``, or ``(m, n, *shape of the state)``.
        narrow: whether M is the k x k matrix ``(dh/dz)(dg/dh)`` of dynamics f = g(h(z)), or the
            D x D Jacobian.
        weight: what the products' sum is multiplied with: 1 for the exact trace by unit vectors,
            1 / m for the mean of m draws.
    """

    vectors: Tensor
    narrow: bool
    weight: float


class _Method(nn.Module):
    """One method of a module as a module's forward, which is what functional_call can call."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module = module
        self.method = method

    def forward(self, *arguments: Any) -> Any:
        """The method's value."""
        return getattr(self.module, self.method)(*arguments)


class Held:
    """A module with its parameters as they are now.

    A gradient may evaluate the dynamics again in the backward pass. By then a
    ``torch.func.functional_call`` that swapped the weights is over, so they are held here.

    Args:
        module: the dynamics.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.named: dict[str, Tensor] = dict(module.named_parameters())
        self.tensors: tuple[Tensor, ...] = tuple(self.named.values())

    def call(self, method: str, *arguments: Any) -> Any:
        """The value of a method with the parameters held."""
        module = self.module
        if all(a is b for a, b in zip(self.tensors, module.parameters(), strict=True)):
            return (module if method == "forward" else getattr(module, method))(*arguments)
        return functional_call(_Method(module, method), self._renamed, arguments)

    def over(self, tensors: Sequence[Tensor]) -> Self:
        """The same module with other tensors held in place of its parameters."""
        made = copy.copy(self)
        made.__dict__.pop("_renamed", None)
        made.named = dict(zip(self.named, tensors, strict=True))
        made.tensors = tuple(tensors)
        return made

    @cached_property
    def _renamed(self) -> dict[str, Tensor]:
        return {f"module.{name}": tensor for name, tensor in self.named.items()}

    def with_context(self, context: Tensor | None) -> tuple[Tensor, ...]:
        """The parameters and the context, where there is one."""
        return self.tensors if context is None else (*self.tensors, context)


class Field:
    """Dynamics with everything but time and state held fixed.

    Args:
        dynamics: a module that keeps :class:`Dynamics`.
        context: shape ``(n, context_features)``, or None.
        probes: the vectors of the trace; None where no trace is asked for.
    """

    def __init__(self, dynamics: nn.Module, context: Tensor | None, probes: Probes | None) -> None:
        self.held = Held(dynamics)
        self.context = context
        self.probes = probes
        self.residual = bool(getattr(dynamics, "residual", False))
        self.tensors = self.held.with_context(context)

    def over(self, inputs: Sequence[Tensor]) -> Self:
        """The same field of other tensors, see :func:`inputs_of`."""
        made = copy.copy(self)
        made.held, made.context, made.probes = taken(self.held, self.context, self.probes, inputs)
        made.tensors = made.held.with_context(made.context)
        return made

    def velocity(self, t: Tensor, z: Tensor) -> Tensor:
        """dz/dt, shape of ``z``.

        Raises:
            DynamicsShapeError: if the dynamics give another shape.
        """
        f = self._value(t, z)
        return f - z if self.residual else f

    def rates(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """dz/dt and the trace or its estimate, shape ``(n,)``."""
        f, found = self.products(t, z)
        assert self.probes is not None
        trace = found.sum(0)
        return f, trace if self.probes.weight == 1 else trace * self.probes.weight

    def products(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """dz/dt and the products, shape ``(m, n)``."""
        assert self.probes is not None
        if self.probes.narrow:
            f, found = products(
                lambda h: self._call("widen", t, h),
                z,
                self.probes.vectors,
                lambda y: self._call("narrow", t, y, self.context),
            )
        else:
            f, found = products(lambda y: self._value(t, y), z, self.probes.vectors)
        if self.residual:
            # The trace of -z is known, and needs no noise. It is a part of each draw's estimate,
            # or is spread evenly over the exact trace's terms.
            f = f - z
            found = found - z[0].numel() / (len(found) * self.probes.weight)
        return f, found

    def vector_jacobians(self, t: Tensor, z: Tensor, *, narrow: bool) -> Product:
        """The products ``v^T M`` at one state, M the matrix whose trace noise estimates.

        Of residual dynamics, whose trace is known in part, that is the network's.

        Args:
            t: time, shape ``()``.
            z: state, shape ``(n, ...)``.
            narrow: whether M is the k x k matrix ``(dh/dz)(dg/dh)``, as :class:`Probes` has it.
        """
        if not narrow:
            return pulled_back(lambda y: self._value(t, y), z)[1]
        return pulled_back(
            lambda h: self._call("widen", t, h),
            z,
            lambda y: self._call("narrow", t, y, self.context),
        )[1]

    def _value(self, t: Tensor, z: Tensor) -> Tensor:
        f = self._call("forward", t, z, self.context)
        if f.shape != z.shape:
            raise DynamicsShapeError(
                f"dynamics must give the shape of the state, {tuple(z.shape)}, but gave "
                f"{tuple(f.shape)}: make the last layer as wide as the event"
            )
        return f

    def _call(self, method: str, *arguments: Tensor | None) -> Tensor:
        called: Tensor = self.held.call(method, *arguments)
        return called


def inputs_of(held: Held, context: Tensor | None, probes: Probes | None) -> list[Tensor]:
    """All tensors of these, in one order."""
    return [*held.with_context(context), *([] if probes is None else [probes.vectors])]


def taken(
    held: Held, context: Tensor | None, probes: Probes | None, inputs: Sequence[Tensor]
) -> tuple[Held, Tensor | None, Probes | None]:
    """The same with other tensors, as :func:`inputs_of` orders them."""
    count = len(held.tensors)
    rest = iter(inputs[count:])
    return (
        held.over(inputs[:count]),
        None if context is None else next(rest),
        None if probes is None else replace(probes, vectors=next(rest)),
    )


def gradients_by(
    tensors: Sequence[Tensor], outputs: Sequence[Tensor], bars: Sequence[Tensor]
) -> list[Tensor | None]:
    """Gradients by those of the tensors that want one, from the gradients by the outputs."""
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    if not wanted:
        return [None] * len(tensors)
    found = iter(torch.autograd.grad(outputs, wanted, bars, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in tensors]


def added(before: Tensor | None, more: Tensor | None) -> Tensor | None:
    """The sum of two gradients, of which any may be missing."""
    return before if more is None else more if before is None else before + more
