"""The right-hand side of one solve: dynamics with context, probes and weights held fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from flows.continuous.errors import DynamicsShapeError
from flows.continuous.trace import bottleneck_products, products, unit_vectors

__all__ = ["AutogradEvaluator", "Dynamics", "Field", "Probes"]


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

    def forward(self, *arguments: Tensor | None) -> Tensor:
        """The method's value."""
        result: Tensor = getattr(self.module, self.method)(*arguments)
        return result


class Field:
    """Dynamics with everything but time and state held fixed.

    A gradient may evaluate the dynamics again in the backward pass. By then a
    ``torch.func.functional_call`` that swapped the weights is over, so they are held here.

    Args:
        dynamics: a module that keeps :class:`Dynamics`.
        context: shape ``(n, context_features)``, or None.
        probes: the vectors of the trace; None where no trace is asked for.
    """

    def __init__(self, dynamics: nn.Module, context: Tensor | None, probes: Probes | None) -> None:
        self.dynamics = dynamics
        self.context = context
        self.probes = probes
        self.named = dict(dynamics.named_parameters())
        self.residual = bool(getattr(dynamics, "residual", False))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What the field depends on, and whose gradient may be asked for."""
        held = tuple(self.named.values())
        return held if self.context is None else (*held, self.context)

    def velocity(self, t: Tensor, z: Tensor) -> Tensor:
        """dz/dt, shape of ``z``.

        Raises:
            DynamicsShapeError: if the dynamics give another shape.
        """
        f = self._call("forward", t, z, self.context)
        self._check(f, z)
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

        def forward(y: Tensor) -> Tensor:
            f = self._call("forward", t, y, self.context)
            self._check(f, y)
            return f

        if self.probes.narrow:
            f, found = bottleneck_products(
                lambda y: self._call("narrow", t, y, self.context),
                lambda h: self._call("widen", t, h),
                z,
                self.probes.vectors,
            )
        else:
            f, found = products(forward, z, self.probes.vectors)
        if self.residual:
            # The trace of -z is known, and needs no noise. It is a part of each draw's estimate,
            # or is spread evenly over the exact trace's terms.
            f = f - z
            found = found - z[0].numel() / (len(found) * self.probes.weight)
        return f, found

    def _check(self, f: Tensor, z: Tensor) -> None:
        if f.shape != z.shape:
            raise DynamicsShapeError(
                f"dynamics must give the shape of the state, {tuple(z.shape)}, but gave "
                f"{tuple(f.shape)}: make the last layer as wide as the event"
            )

    def _call(self, method: str, *arguments: Tensor | None) -> Tensor:
        dynamics = self.dynamics
        if all(a is b for a, b in zip(self.named.values(), dynamics.parameters(), strict=True)):
            called: Tensor = (
                dynamics(*arguments)
                if method == "forward"
                else getattr(dynamics, method)(*arguments)
            )
            return called
        swapped: Tensor = functional_call(_Method(dynamics, method), self._renamed, arguments)
        return swapped

    @cached_property
    def _renamed(self) -> dict[str, Tensor]:
        return {f"module.{name}": tensor for name, tensor in self.named.items()}


class AutogradEvaluator:
    """A field for the native solver, differentiated by autograd: any dynamics, any regulariser.

    Args:
        field: the dynamics.
        regularizers: names of :data:`flows.continuous.options.REGULARIZERS`, whose integrals go
            along, after the trace.
    """

    # Autograd inside a step is no graph of its own.
    compiles = False

    def __init__(self, field: Field, regularizers: Sequence[str] = ()) -> None:
        self.field = field
        self.regularizers = tuple(regularizers)
        self.controlled = 0 if field.probes is None else 1
        self.integrals = self.controlled + len(self.regularizers)
        self.tensors: Sequence[Tensor] = field.tensors
        self.totals: list[Tensor | None] = [None] * len(self.tensors)

    def room(self, z: Tensor) -> int:
        # A guess at what the graph of an unknown network takes: some ten layers of some width.
        return 64 * z.numel()

    def moments(self, times: Tensor) -> Sequence[Tensor]:
        return times.unbind()

    def rates(self, moment: Tensor, z: Tensor, f: Tensor, q: Tensor | None) -> None:
        with torch.no_grad():
            if q is None:
                f.copy_(self.field.velocity(moment, z))
                return
            velocity, integrands = self._integrands(moment, z)
            f.copy_(velocity)
            q.copy_(integrands)

    def recorded(self, moment: Tensor, z: Tensor, f: Tensor, *, with_integrals: bool) -> Any:
        with torch.enable_grad():
            z = z.detach().requires_grad_(True)
            if with_integrals:
                velocity, integrands = self._integrands(moment, z)
            else:
                velocity, integrands = self.field.velocity(moment, z), None
        f.copy_(velocity.detach())
        return z, velocity, integrands

    def pull(self, record: Any, f_bar: Tensor, q_bar: Tensor | None) -> Tensor:
        z, velocity, integrands = record
        outputs, bars = [velocity], [f_bar]
        if integrands is not None and q_bar is not None:
            outputs.append(integrands)
            bars.append(q_bar)
        wanted = [tensor for tensor in self.tensors if tensor.requires_grad]
        z_bar, *found = torch.autograd.grad(outputs, [z, *wanted], bars, allow_unused=True)
        gradients = iter(found)
        for place, tensor in enumerate(self.tensors):
            gradient = next(gradients) if tensor.requires_grad else None
            before = self.totals[place]
            if gradient is not None:
                self.totals[place] = gradient if before is None else before + gradient
        return torch.zeros_like(z) if z_bar is None else z_bar

    def collect(self) -> None:
        """Nothing waits."""

    def gradients(self) -> list[Tensor | None]:
        totals, self.totals = self.totals, [None] * len(self.tensors)
        return totals

    def _integrands(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity, and trace and regularisers, ``(m, n)``."""
        outer_grad = torch.is_grad_enabled()
        if not self.regularizers:
            f, trace = self.field.rates(t, z)
            return f, trace[None]
        with torch.enable_grad():
            if not outer_grad:
                z = z.detach().requires_grad_(True)
            f, trace = self.field.rates(t, z)
            rows = [trace, *(_REGULARIZERS[name](f, z, self.field) for name in self.regularizers)]
            integrands = torch.stack(rows)
        return (f, integrands) if outer_grad else (f.detach(), integrands.detach())


def _transposed(f: Tensor, z: Tensor, vector: Tensor) -> Tensor:
    """``J^T v``, flattened."""
    (product,) = torch.autograd.grad(f, z, vector, create_graph=True, retain_graph=True)
    return product.flatten(1)


def _jacobian(f: Tensor, z: Tensor, _: Field) -> Tensor:
    """J, shape ``(n, D, D)``."""
    vectors = unit_vectors(len(z), z[0].numel(), z)
    return torch.stack([_transposed(f, z, vector.view_as(z)) for vector in vectors], 1)


def _jacobian_norm(f: Tensor, z: Tensor, field: Field) -> Tensor:
    """Mean over the probes of ``||J^T e||^2``."""
    probes = field.probes
    assert probes is not None
    if probes.narrow:
        # The noise lives in the bottleneck and cannot be pulled back by J.
        return _jacobian(f, z, field).square().sum((1, 2))
    found = torch.stack([_transposed(f, z, v).square().sum(1) for v in probes.vectors])
    # Unit vectors, whose weight is 1, give the rows of J, and noise an estimate each.
    return found.sum(0) * probes.weight


def _length(vector: Tensor) -> Tensor:
    """Euclidean length of each row, with a gradient at zero."""
    return vector.flatten(1).square().sum(1).add(1e-12).sqrt()


_REGULARIZERS: dict[str, Callable[[Tensor, Tensor, Field], Tensor]] = {
    "kinetic_energy": lambda f, z, field: f.flatten(1).square().sum(1),
    "jacobian_norm": _jacobian_norm,
    "mean_speed": lambda f, z, field: f.flatten(1).abs().mean(1),
    "rms_speed": lambda f, z, field: _length(f) / z[0].numel() ** 0.5,
    "directional_derivative": lambda f, z, field: (
        _length(_transposed(f, z, f)) / z[0].numel() ** 0.5
    ),
    "jacobian_frobenius": lambda f, z, field: _length(_jacobian(f, z, field)),
    "jacobian_diagonal": lambda f, z, field: _length(
        _jacobian(f, z, field).diagonal(dim1=1, dim2=2)
    ),
    "jacobian_off_diagonal": lambda f, z, field: _length(
        _jacobian(f, z, field) * (1 - torch.eye(z[0].numel(), dtype=z.dtype, device=z.device))
    ),
}
