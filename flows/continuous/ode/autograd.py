"""The right-hand side of any dynamics with any regulariser, differentiated by autograd."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from typing import Self

import torch
from torch import Tensor

from flows.continuous.ode.evaluator import Evaluator, Shares
from flows.continuous.ode.field import Field, added, gradients_by, inputs_of
from flows.continuous.ode.regularizers import INTEGRANDS

__all__ = ["AutogradEvaluator"]


class AutogradEvaluator(Evaluator):
    """A field for the native solver.

    Args:
        field: the dynamics.
        regularizers: names of :data:`INTEGRANDS`, whose integrals go along, after the trace.
    """

    # Autograd inside a step is no graph of its own.
    compiles = False

    def __init__(self, field: Field, regularizers: Sequence[str] = ()) -> None:
        self.field = field
        self.regularizers = tuple(regularizers)
        self.integrals = 0 if field.probes is None else 1 + len(self.regularizers)
        self.tensors: Sequence[Tensor] = field.tensors

    @property
    def structure(self) -> Hashable:  # type: ignore[override]
        module, probes = self.field.held.module, self.field.probes
        noise = None if probes is None else (probes.narrow, probes.weight)
        return type(self), module, module.training, noise, self.regularizers

    def inputs(self) -> list[Tensor]:
        return inputs_of(self.field.held, self.field.context, self.field.probes)

    def over(self, inputs: Sequence[Tensor]) -> Self:
        made = copy.copy(self)
        made.field = self.field.over(inputs)
        made.tensors = made.field.tensors
        return made

    def room(self, z: Tensor) -> int:
        # A guess at what the graph of an unknown network takes: some ten layers of some width.
        return 64 * z.numel()

    def moments(self, times: Tensor) -> Sequence[Tensor]:
        return times.unbind()

    def rates(self, moment: Tensor, z: Tensor, *, integrands: bool) -> tuple[Tensor, Tensor | None]:
        with torch.no_grad():
            if not integrands:
                return self.field.velocity(moment, z), None
            return self._integrands(moment, z)

    def pull(
        self, moment: Tensor, z: Tensor, f_bar: Tensor, q_bar: Tensor | None
    ) -> tuple[Tensor, Shares]:
        with torch.enable_grad():
            z = z.detach().requires_grad_(True)
            if q_bar is None:
                outputs, bars = [self.field.velocity(moment, z)], [f_bar]
            else:
                outputs, bars = [*self._integrands(moment, z)], [f_bar, q_bar]
        z_bar, *shares = gradients_by((z, *self.tensors), outputs, bars)
        return torch.zeros_like(z) if z_bar is None else z_bar, shares

    def gradients(self) -> _Sums:
        return _Sums(len(self.tensors))

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
            rows = [trace, *(INTEGRANDS[name](f, z, self.field) for name in self.regularizers)]
            integrands = torch.stack(rows)
        return (f, integrands) if outer_grad else (f.detach(), integrands.detach())


class _Sums:
    """The plain sums of the shares."""

    def __init__(self, size: int) -> None:
        self.sums: Shares = [None] * size

    def add(self, times: Tensor, shares: Sequence[Shares]) -> None:
        for share in reversed(shares):
            self.sums = [added(before, more) for before, more in zip(self.sums, share, strict=True)]

    def totals(self) -> list[Tensor | None]:
        return self.sums
