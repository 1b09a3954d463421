"""Solving by explicit Runge-Kutta methods, and the gradient of what was computed.

The forward way keeps no graph. The gradient is that of the discrete solution: the accepted steps
are evaluated once more, from the last to the first, each with its own graph (checkpointing;
Gholami et al. 2019, ANODE, arXiv:1902.10298), with no second adaptive problem to solve. Memory
grows with the number of steps by their starting points, and up to the size of one evaluation's
graph by the velocities of the stages: with these a step takes as many evaluations again as it had,
without them almost twice as many, the first half of them of velocities alone. A stage whose
integrand has no weight in the solution or in the error estimate (the second of Dormand and
Prince's) is evaluated without its trace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flows.continuous.ode import on_device
from flows.continuous.ode.evaluator import Evaluator, Problem
from flows.continuous.ode.forward import Tape, compiled, forward, moved
from flows.continuous.ode.settings import Settings
from flows.continuous.ode.tableaus import coefficients
from flows.meter import tick

__all__ = ["integrate"]


def integrate(
    evaluator: Evaluator,
    z: Tensor,
    start: Tensor | float,
    end: Tensor | float,
    settings: Settings,
    first_step: float | None = None,
) -> tuple[Tensor, Tensor, float | None]:
    """Integrate from ``start`` to ``end``, which may lie before it.

    Args:
        evaluator: the right-hand side.
        z: initial state, shape ``(n, ...)``.
        start: initial time; a tensor of shape ``()`` if its gradient is wanted.
        end: final time, likewise.
        settings: how to solve, with a solver of :data:`TABLEAUS`.
        first_step: size of the first step, where a gradient is wanted; None to look for one.

    Returns:
        The final state, shape ``(n, ...)``, the integrals, shape ``(m, n)``, and the step size that
        would just have fitted at the start, None where no gradient is wanted or the method has no
        estimate of its error.

    Raises:
        StepUnderflow: if the step size underflows or the dynamics are not finite.
        TooManyEvaluations: at the cap on evaluations.
    """
    weights = coefficients(settings.solver, z.dtype, z.device)
    problem = Problem(settings, weights, tuple(z.shape), evaluator.integrals)
    times = _number(start), _number(end)
    moving = [
        time if isinstance(time, Tensor) and time.requires_grad else None for time in (start, end)
    ]
    wanted = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (z, *moving, *evaluator.tensors)
    )
    if not wanted:
        y = _way(z)(evaluator, problem, z, *times, None, None)
        return *_parts(problem, y), None
    tape = Tape(evaluator.room(z))
    final, integrals = _Solve.apply(
        evaluator, problem, times, first_step, tape, z, *moving, *evaluator.tensors
    )
    return final, integrals, tape.fitting_step


def _number(time: Tensor | float) -> float:
    return float(on_device.read(time.detach()[None])[0]) if isinstance(time, Tensor) else time


def _way(z: Tensor) -> Callable[..., Tensor]:
    """What follows a path from a state on."""
    return on_device.follow if on_device.applies(z) else forward


def _parts(problem: Problem, y: Tensor) -> tuple[Tensor, Tensor]:
    """State and integrals; copies, so that neither is a view of the other's memory."""
    size = problem.z_size
    integrals = y[size:].view(problem.integrals, problem.shape[0])
    return y[:size].view(problem.shape).clone(), integrals.clone()


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        evaluator: Evaluator,
        problem: Problem,
        times: tuple[float, float],
        first_step: float | None,
        tape: Tape,
        z: Tensor,
        start: Tensor | None,
        end: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        y = _way(z)(evaluator, problem, z, *times, first_step, tape)
        final, integrals = _parts(problem, y)
        ctx.pulls = on_device.recorded_pulls(evaluator, problem, z, tape)
        ctx.evaluator, ctx.problem, ctx.times, ctx.tape = evaluator, problem, times, tape
        ctx.times_wanted = start is not None, end is not None
        ctx.save_for_backward(z, final, *tensors)
        return final, integrals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, z_bar: Tensor, q_bar: Tensor) -> tuple[Tensor | None, ...]:
        z, final, *_ = ctx.saved_tensors
        q = q_bar if ctx.problem.integrals else None
        (start, end), (start_wanted, end_wanted) = ctx.times, ctx.times_wanted
        at_start = at_end = None
        if end_wanted:
            at_end = _by_time(ctx.evaluator, ctx.problem, end, final, z_bar, q)
        of = ctx.evaluator, ctx.problem, ctx.tape, z_bar, q
        bar, totals = on_device.pull_back(ctx.pulls, *of) if ctx.pulls else _backward(*of)
        if start_wanted:
            at_start = -_by_time(ctx.evaluator, ctx.problem, start, z, bar, q)
        return (None, None, None, None, None, bar, at_start, at_end, *totals)


def _backward(
    evaluator: Evaluator, problem: Problem, tape: Tape, z_bar: Tensor, q_bar: Tensor | None
) -> tuple[Tensor, list[Tensor | None]]:
    """The way back along a tape: gradients by the initial state and the evaluator's tensors."""
    if tape.whole is not None:
        return evaluator.pull_solve(problem, tape, z_bar, q_bar)
    settings, tableau = problem.settings, problem.settings.tableau
    used = tableau.used
    graph = settings.compiled and evaluator.compiles
    gradients = evaluator.gradients()
    bar = z_bar.reshape(-1)
    for t, dt, point, velocities in reversed(tape.steps):
        values = moved([*(t + c * dt for c in tableau.times[:used]), dt], point)
        times, size = values[:-1], values[-1]
        moments = evaluator.moments(times)
        tick(used if velocities is not None else 2 * used - 1, part=settings.part)
        arguments = (problem, moments, size, point, velocities, bar, q_bar)
        if not graph:
            bar, shares = evaluator.pull_step(*arguments)
        else:
            bar, shares = compiled(type(evaluator).pull_step)(evaluator, *arguments)
        gradients.add(times, shares)
        # Not in memory beside those of the next step.
        del shares
    return bar.view(problem.shape), gradients.totals()


def _by_time(
    evaluator: Evaluator,
    problem: Problem,
    time: float,
    z: Tensor,
    z_bar: Tensor,
    q_bar: Tensor | None,
) -> Tensor:
    """How the loss changes as the path is prolonged at ``time``, shape ``()``."""
    (moment,) = evaluator.moments(moved([time], z))
    tick(part=problem.settings.part)
    with torch.no_grad():
        f, q = evaluator.rates(moment, z, integrands=q_bar is not None)
    change = (f * z_bar).sum()
    return change if q is None or q_bar is None else change + (q * q_bar).sum()
