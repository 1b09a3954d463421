"""Solving with torchdiffeq, and counting what it takes.

The gradient with respect to parameters, context and initial state is by the adjoint method
(Chen et al. 2018, arXiv:1806.07366, section 2), which solves a second problem backward in time in
memory that does not grow with the number of steps, or by plain backpropagation through the solver.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flows.continuous.errors import StepUnderflow, TooManyEvaluations
from flows.continuous.ode.field import Field
from flows.continuous.ode.settings import FIXED, Settings
from flows.meter import tick

__all__ = ["solve"]


def solve(
    field: Field, z: Tensor, start: Tensor | float, end: Tensor | float, settings: Settings
) -> tuple[Tensor, Tensor]:
    """Integrate from ``start`` to ``end``, which may lie before it.

    Args:
        field: the dynamics; with probes the trace is integrated as well.
        z: initial state, shape ``(n, ...)``.
        start: initial time, a number or of shape ``()``.
        end: final time, likewise.
        settings: how to solve.

    Returns:
        The final state, and the integrals, ``(1, n)`` with probes and ``(0, n)`` without.

    Raises:
        StepUnderflow: if the step size underflows or the state becomes non-finite.
        TooManyEvaluations: at the cap on evaluations.
    """
    # Imports much of SciPy.
    import torchdiffeq

    evaluations = 0

    def rates(t: Tensor, y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal evaluations
        evaluations += 1
        if evaluations > settings.max_evaluations:
            raise TooManyEvaluations.at(settings.max_evaluations, settings.atol, settings.rtol)
        tick(part=settings.part)
        return (field.velocity(t, y[0]),) if field.probes is None else field.rates(t, y[0])

    state = (z,) if field.probes is None else (z, z.new_zeros(len(z)))
    start, end = (
        time if isinstance(time, Tensor) else z.new_full((), time) for time in (start, end)
    )
    options: dict[str, object] = {"method": settings.solver}
    adjoint_options: dict[str, object] = {}
    if settings.solver in FIXED:
        options["options"] = {"step_size": float((end - start).detach().abs()) / settings.steps}
    elif settings.solver == "dopri8":
        # torchdiffeq steps over the end and interpolates back, for dopri8 to an order so low that
        # the error is that of the interpolation. A prescribed step lands on the end instead.
        options["options"] = {"step_t": end.detach().reshape(1)}
        adjoint_options["step_t"] = start.detach().reshape(1)
    times = torch.stack([start, end])
    wanted = torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in (*state, *field.tensors, times)
    )
    solver = torchdiffeq.odeint
    if wanted and settings.gradient != "backprop":
        solver = torchdiffeq.odeint_adjoint
        options["adjoint_params"] = field.tensors
        if settings.gradient == "seminorm":
            adjoint_options["norm"] = "seminorm"
        if adjoint_options:
            options["adjoint_options"] = adjoint_options
    try:
        path = solver(rates, state, times, rtol=settings.rtol, atol=settings.atol, **options)
    except AssertionError as error:
        # torchdiffeq checks what the user did with assertions.
        if "underflow" in str(error) or "non-finite" in str(error):
            reason = str(error).splitlines()[0][:80]
            raise StepUnderflow.at(settings.solver, reason) from error
        raise
    final, *integrals = (part[-1] for part in path)
    return final, torch.stack(integrals) if integrals else z.new_zeros(0, len(z))
