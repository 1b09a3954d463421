"""How an initial value problem is solved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from flows.continuous.errors import ToleranceTooTight
from flows.continuous.ode.tableaus import TABLEAUS, Tableau

__all__ = ["ADAPTIVE", "FIXED", "Gradient", "Settings"]

Gradient = Literal["checkpoint", "adjoint", "seminorm", "backprop"]

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
"""Solvers that choose their steps from the tolerances."""
FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4")
"""Solvers with a given number of equal steps."""


@dataclass(frozen=True)
class Settings:
    """How to solve, in whichever backend.

    Attributes:
        solver: one of :data:`ADAPTIVE` or :data:`FIXED`.
        atol: absolute tolerance of the local error, in units of the state.
        rtol: relative tolerance of the local error.
        steps: number of equal steps of a fixed-step solver.
        gradient: how the gradient is computed.
        max_evaluations: cap on evaluations of the right-hand side in one solve.
        part: what the meter calls the part of the flow that is solved.
        compiled: whether steps are compiled where a gradient is wanted and the evaluator allows.
    """

    solver: str = "dopri5"
    atol: float = 1e-5
    rtol: float = 1e-5
    steps: int = 20
    gradient: Gradient = "checkpoint"
    max_evaluations: int = 10_000
    part: str | None = None
    compiled: bool = False

    @property
    def tableau(self) -> Tableau:
        """The method, where the native backend has it."""
        return TABLEAUS[self.solver]

    def check(self, dtype: torch.dtype) -> None:
        """See that a dtype can resolve the tolerances.

        Raises:
            ToleranceTooTight: if it cannot.
        """
        # Rounding is random where error control sees it, so that a tolerance somewhat below it
        # still works; this far below, steps shrink without end.
        eps = torch.finfo(dtype).eps
        if max(self.atol, self.rtol) < eps / 16:
            raise ToleranceTooTight(
                f"atol = {self.atol:g} and rtol = {self.rtol:g} are below what {dtype} "
                f"resolves (about {eps:.1g}): loosen them, or use flow.double()"
            )
