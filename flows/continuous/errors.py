"""What can go wrong in solving a continuous flow's initial value problem."""

from __future__ import annotations

from typing import Self

from flows.base import FlowError

__all__ = [
    "CostWarning",
    "DynamicsShapeError",
    "SolverError",
    "StepUnderflow",
    "ToleranceTooTight",
    "TooManyEvaluations",
]


class SolverError(FlowError, ArithmeticError):
    """The initial value problem could not be solved; the base of the reasons."""


class StepUnderflow(SolverError):
    """The step size fell below what the time can resolve: stiff or non-finite dynamics."""

    @classmethod
    def at(cls, solver: str, reason: str) -> Self:
        """The error of a solver that could not go on."""
        return cls(
            f"{solver} could not go on ({reason}): the dynamics are stiff or not "
            "finite. Use a smoother activation, weight decay or a smaller learning rate, loosen "
            "the tolerances, or take a fixed-step solver"
        )


class TooManyEvaluations(SolverError):
    """The cap on evaluations of the dynamics was reached."""

    @classmethod
    def at(cls, cap: int, atol: float, rtol: float) -> Self:
        """The error at a cap."""
        return cls(
            f"the solver reached its cap of {cap} evaluations of the dynamics: loosen "
            f"atol = {atol:g} and rtol = {rtol:g}, regularise the dynamics, or raise "
            "max_evaluations"
        )


class DynamicsShapeError(SolverError):
    """The dynamics give another shape than the state's."""


class ToleranceTooTight(SolverError):
    """The tolerance lies below what the floating-point type can resolve."""


class CostWarning(UserWarning):
    """What was asked for works, at a price that the message states."""
