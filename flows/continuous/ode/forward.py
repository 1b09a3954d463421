"""One way through a problem, without a graph; what its gradient needs is left on a tape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flows import meter, shares
from flows.continuous.errors import StepUnderflow, TooManyEvaluations
from flows.continuous.ode.control import (
    Attempts,
    adaptive_steps,
    equal_steps,
    fitting_step,
    initial_step,
)
from flows.continuous.ode.evaluator import Evaluator, Problem, Step

__all__ = ["Accepted", "Tape", "compiled", "forward", "moved"]


class Accepted(NamedTuple):
    """An accepted step.

    Attributes:
        t: where it begins in time.
        dt: its size.
        z: where it begins, flat.
        velocities: dz/dt at its stages but the last, whose point none depends on, one flat row
            each; or None.
    """

    t: float
    dt: float
    z: Tensor
    velocities: Tensor | None


@dataclass
class Tape:
    """What a way forward leaves.

    Attributes:
        room: how many numbers may yet be spent on velocities.
        steps: the accepted steps.
        fitting_step: the step size that would just have fitted at the start, by the error there.
        whole: what an evaluator that went the whole way itself left in place of the steps.
    """

    room: int
    steps: list[Accepted] = field(default_factory=list)
    fitting_step: float | None = None
    whole: Any = None

    def accept(self, problem: Problem, t: float, dt: float, y: Tensor, rate: Tensor | None) -> None:
        """Note a step that began at ``y``, with the rates of its stages, where they are at hand."""
        size = problem.z_size
        kept = problem.settings.tableau.used - 1
        velocities = None
        if rate is not None and self.room >= kept * size:
            self.room -= kept * size
            velocities = rate[:kept, :size].clone()
        self.steps.append(Accepted(t, dt, y[:size], velocities))


def forward(
    evaluator: Evaluator,
    problem: Problem,
    z: Tensor,
    start: float,
    end: float,
    first_step: float | None,
    tape: Tape | None,
) -> Tensor:
    """Follow a path.

    Args:
        evaluator: the right-hand side.
        problem: how to solve, and the state's layout.
        z: where the path begins, shape ``(n, ...)``.
        start: initial time.
        end: final time, which may lie before.
        first_step: what fitted a solve much like this one; None to look for one.
        tape: gets the accepted steps; None where no gradient is wanted.

    Returns:
        The solution at the end, flat.

    Raises:
        StepUnderflow: if the step size underflows or the state is not finite.
        TooManyEvaluations: at the cap on evaluations.
    """
    settings, tableau = problem.settings, problem.settings.tableau
    whole = evaluator.solve(problem, z, start, end, first_step, tape)
    if whole is not None:
        return whole
    graph = tape is not None and settings.compiled and evaluator.compiles
    evaluations = 0

    def moments(times: Sequence[float], dt: float) -> tuple[Sequence[Any], Tensor]:
        nonlocal evaluations
        evaluations += len(times)
        if evaluations > settings.max_evaluations:
            raise TooManyEvaluations.at(settings.max_evaluations, settings.atol, settings.rtol)
        meter.tick(len(times), part=settings.part)
        values = moved([*times, dt], z)
        return evaluator.moments(values[:-1]), values[-1]

    def first_rate() -> Tensor:
        (moment,), _ = moments([start], 0.0)
        f, q = evaluator.rates(moment, z, integrands=problem.integrals > 0)
        return f.reshape(-1) if q is None else torch.cat([f.reshape(-1), q.reshape(-1)])

    def step(t: float, dt: float) -> Step:
        made, size = moments([t + c * dt for c in tableau.evaluated], dt)
        if not graph:
            return evaluator.step(problem, made, y, rate, size)
        found: Step = compiled(type(evaluator).step)(evaluator, problem, made, y, rate, size)
        return found

    y = z.new_zeros(problem.size)
    y[: problem.z_size] = z.reshape(-1)
    rate: Tensor | None = None
    attempts: Attempts
    if not tableau.adaptive:
        attempts = equal_steps(start, end, settings.steps)
    else:
        rate = first_rate()
        attempts = adaptive_steps(
            settings,
            start,
            end,
            first_step or initial_step(problem, start, end, y, rate),
            resolution=torch.finfo(z.dtype).eps,
        )
    attempt = next(attempts, None)
    while attempt is not None:
        t, dt = attempt
        found = step(t, dt)
        # The one time in a step that the host waits for the device.
        ratio = math.sqrt(found.square.item()) if tableau.adaptive else 0.0
        accepted = ratio <= 1
        meter.step(accepted, settings.part)
        if accepted:
            if tape is not None:
                if tableau.adaptive and not tape.steps:
                    tape.fitting_step = fitting_step(abs(dt), ratio, tableau.order)
                tape.accept(problem, t, dt, y, found.rate)
            y = found.y
            rate = found.rate[-1] if tableau.adaptive else None
        attempt = _send(attempts, ratio)
    # The part of a batch that is not finite anywhere is so everywhere.
    if not tableau.adaptive and shares.mean((~torch.isfinite(y)).any().to(y)) > 0:
        raise StepUnderflow.at(settings.solver, "the state is not finite")
    return y


def _send(attempts: Attempts, ratio: float) -> tuple[float, float] | None:
    """The next attempt after one with that error; None at the end."""
    try:
        return attempts.send(ratio)
    except StopIteration:
        return None


def moved(values: Sequence[float], like: Tensor) -> Tensor:
    """Numbers of the host on the device, which it does not wait for."""
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one step as one graph; what replays it without the host is `on_device`."""
    return torch.compile(function, dynamic=False)
