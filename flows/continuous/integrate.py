"""Solving the flow's initial value problem with torchdiffeq, and counting what it takes.

The gradient with respect to parameters, context and initial state is by the adjoint method
(Chen et al. 2018, arXiv:1806.07366, section 2), which solves a second problem backward in time in
memory that does not grow with the number of steps, or by plain backpropagation through the solver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torchdiffeq
from torch import Tensor

from flows.continuous.errors import StepUnderflow, TooManyEvaluations
from flows.meter import tick

__all__ = [
    "ADAPTIVE",
    "FIXED",
    "Gradient",
    "SolverOptions",
    "solve",
]

Gradient = Literal["checkpoint", "adjoint", "seminorm", "backprop"]

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
"""Solvers that choose their steps from the tolerances."""
FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4")
"""Solvers with a given number of equal steps."""

RightHandSide = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class SolverOptions:
    """How to solve.

    Attributes:
        solver: one of :data:`ADAPTIVE` or :data:`FIXED`.
        atol: absolute tolerance of the local error, in units of the state.
        rtol: relative tolerance of the local error.
        steps: number of equal steps of a fixed-step solver.
        gradient: how the gradient is computed.
        max_evaluations: cap on evaluations of the dynamics in one solve.
        part: what the meter calls the part of the flow that is solved.
    """

    solver: str = "dopri5"
    atol: float = 1e-5
    rtol: float = 1e-5
    steps: int = 20
    gradient: Gradient = "adjoint"
    max_evaluations: int = 10_000
    part: str | None = None


def solve(
    field: RightHandSide,
    state: Sequence[Tensor],
    start: Tensor,
    end: Tensor,
    options: SolverOptions,
    parameters: Sequence[Tensor] = (),
) -> tuple[Tensor, ...]:
    """Integrate ``d state / dt = field(t, state)`` from ``start`` to ``end``.

    Args:
        field: right-hand side; takes a time of shape ``()`` and a tuple like ``state``.
        state: initial state, tensors of any shape.
        start: initial time, shape ``()``.
        end: final time, shape ``()``; may lie before ``start``.
        options: solver, tolerances, gradient.
        parameters: tensors that the field depends on and whose gradient may be asked for.

    Returns:
        The state at ``end``.

    Raises:
        StepUnderflow: if the step size underflows or the state becomes non-finite.
        TooManyEvaluations: at the cap on evaluations.
    """
    evaluations = 0

    def counted(t: Tensor, y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal evaluations
        evaluations += 1
        if evaluations > options.max_evaluations:
            raise TooManyEvaluations.at(options.max_evaluations, options.atol, options.rtol)
        tick(part=options.part)
        return field(t, y)

    settings: dict[str, object] = {"method": options.solver}
    adjoint_settings: dict[str, dict[str, object]] = {}
    if options.solver in FIXED:
        settings["options"] = {"step_size": float((end - start).detach().abs()) / options.steps}
    elif options.solver == "dopri8":
        # torchdiffeq steps over the end and interpolates back, for dopri8 to an order so low that
        # the error is that of the interpolation. A prescribed step lands on the end instead.
        settings["options"] = {"step_t": end.detach().reshape(1)}
        adjoint_settings["adjoint_options"] = {"step_t": start.detach().reshape(1)}
    times = torch.stack([start, end])
    wants_gradient = torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in (*state, *parameters, times)
    )
    try:
        if wants_gradient and options.gradient in ("adjoint", "seminorm"):
            if options.gradient == "seminorm":
                adjoint_settings.setdefault("adjoint_options", {})["norm"] = "seminorm"
            path = torchdiffeq.odeint_adjoint(
                counted,
                tuple(state),
                times,
                rtol=options.rtol,
                atol=options.atol,
                adjoint_params=tuple(parameters),
                **settings,
                **adjoint_settings,
            )
        else:
            path = torchdiffeq.odeint(
                counted, tuple(state), times, rtol=options.rtol, atol=options.atol, **settings
            )
    except AssertionError as error:
        # torchdiffeq checks what the user did with assertions.
        if "underflow" in str(error) or "non-finite" in str(error):
            reason = str(error).splitlines()[0][:80]
            raise StepUnderflow.at(options.solver, reason) from error
        raise
    return tuple(part[-1] for part in path)
