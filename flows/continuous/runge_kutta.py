"""Explicit Runge-Kutta solvers that waste nothing on what a continuous flow does not need.

The problem is ``dz/dt = f(t, z)`` together with integrals over the path, ``dq/dt = r(t, z)`` (the
trace, regularisers), which do not act back on ``z``. What differs from a general solver:

* The forward solve keeps no graph. The gradient is that of the discrete solution: the accepted
  steps are evaluated once more, from the last to the first, each with its own graph
  (checkpointing; Gholami et al. 2019, ANODE, arXiv:1902.10298), at as many evaluations as the step
  had and with no second adaptive problem to solve. Memory grows with the number of steps by their
  starting points, and up to the size of one evaluation's graph by the velocities of its stages.
* The last step lands on the end. Where the rest of the way takes two steps, they are equal.
* A stage whose integrand has no weight in the solution or in the error estimate (the second of
  Dormand and Prince's) is evaluated without its trace.
* The step size that fitted the start of the last solve is the first guess of the next one.

Error control is that of torchdiffeq: the root mean square of the local error over
``atol + rtol max(|y0|, |y1|)``, the larger of the state's and the integral's, must not exceed 1.
Only the step sizes that are tried differ: they come from a proportional-integral controller, which
has fewer rejected than torchdiffeq's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flows.continuous.errors import StepUnderflow, TooManyEvaluations
from flows.meter import step as step_taken
from flows.meter import tick

__all__ = ["TABLEAUS", "Evaluator", "StepGuess", "Tableau", "integrate"]


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method.

    Attributes:
        times: c, the stages' times as fractions of the step.
        stages: A, row i the weights of the stages before i.
        solution: b, the weights of the solution.
        error: b minus the weights of the embedded method; None for a fixed-step method. An
            adaptive method's last stage is at the solution itself, and is the first of the
            next step.
        order: of the solution.
    """

    times: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    solution: tuple[float, ...]
    error: tuple[float, ...] | None
    order: int


TABLEAUS = {
    # Dormand and Prince 1980, with the error weights of Shampine 1986 that torchdiffeq uses.
    "dopri5": Tableau(
        (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
        (
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0),
        (
            35 / 384 - 1951 / 21600,
            0,
            500 / 1113 - 22642 / 50085,
            125 / 192 - 451 / 720,
            -2187 / 6784 + 12231 / 42400,
            11 / 84 - 649 / 6300,
            -1 / 60,
        ),
        5,
    ),
    # Bogacki and Shampine 1989.
    "bosh3": Tableau(
        (0, 1 / 2, 3 / 4, 1),
        ((), (1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        (2 / 9, 1 / 3, 4 / 9, 0),
        (2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
        3,
    ),
    "euler": Tableau((0,), ((),), (1,), None, 1),
    "midpoint": Tableau((0, 1 / 2), ((), (1 / 2,)), (0, 1), None, 2),
    # Kutta's 3/8 rule, which torchdiffeq calls rk4.
    "rk4": Tableau(
        (0, 1 / 3, 2 / 3, 1),
        ((), (1 / 3,), (-1 / 3, 1), (1, -1, 1)),
        (1 / 8, 3 / 8, 3 / 8, 1 / 8),
        None,
        4,
    ),
}
"""The methods by torchdiffeq's names."""


class Evaluator(Protocol):
    """The right-hand side of one solve, and how to differentiate it.

    Attributes:
        tensors: what it depends on and whose gradient may be asked for.
        integrals: m, how many integrals go along.
        controlled: how many of them, from the first, the error control looks at.
    """

    tensors: Sequence[Tensor]
    integrals: int
    controlled: int

    def room(self, z: Tensor) -> int:
        """How many numbers may be kept to spare memory later: about what an evaluation takes."""

    def moments(self, times: Sequence[float], like: Tensor) -> Sequence[Any]:
        """What depends on time alone, for each of the times."""

    def rates(self, moment: Any, z: Tensor, f: Tensor, q: Tensor | None) -> None:
        """Write dz/dt into ``f``, shape of ``z``, and dq/dt into ``q``, ``(m, n)``, if given."""

    def recorded(self, moment: Any, z: Tensor, f: Tensor, *, with_integrals: bool) -> Any:
        """The same, and what :meth:`pull` needs; the integrands' values are not asked for."""

    def pull(self, record: Any, f_bar: Tensor, q_bar: Tensor | None) -> Tensor:
        """From the gradients by dz/dt and dq/dt to that by ``z``; others are accumulated."""

    def collect(self) -> None:
        """A step is done: what waits to be accumulated may be."""

    def gradients(self) -> list[Tensor | None]:
        """The accumulated gradients, one for each of ``tensors``."""


class StepGuess:
    """The step size that fitted the start of the last solve; not part of a flow's state."""

    def __init__(self) -> None:
        self.size: float | None = None


@dataclass
class Path:
    """What a forward solve leaves for its gradient.

    Attributes:
        steps: of each accepted step the time, the size, the starting point, and the velocities at
            its stages, or None.
        room: how many numbers may yet be spent on velocities.
    """

    room: int
    steps: list[tuple[float, float, Tensor, Tensor | None]] = field(default_factory=list)

    def accept(self, march: _March, t: float, dt: float) -> None:
        """Note the step that the march has just made from its present state."""
        size = march.z_size
        used = _used_stages(march.solver)
        velocities = None
        if self.room >= used * size:
            self.room -= used * size
            velocities = march.rate[:used, :size].clone()
        self.steps.append((t, dt, march.y[:size], velocities))


@cache
def _weights(name: str, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    tableau = TABLEAUS[name]
    size = len(tableau.times)
    rows = [(*row, *[0.0] * (size - len(row))) for row in tableau.stages]
    stages = torch.tensor(rows, dtype=torch.float64)
    solution = torch.tensor(tableau.solution, dtype=torch.float64)
    error = torch.tensor(tableau.error or [0.0] * size, dtype=torch.float64)
    return (
        stages.to(device, dtype),
        solution.to(device, dtype),
        error.to(device, dtype),
    )


@cache
def _used_stages(name: str) -> int:
    """How many stages the solution depends on: all but an adaptive method's last."""
    tableau = TABLEAUS[name]
    return len(tableau.times) - (tableau.error is not None)


@cache
def _integrand_counts(name: str) -> tuple[bool, ...]:
    """Whether a stage's integrand has a weight in the solution or the error."""
    tableau = TABLEAUS[name]
    error = tableau.error or (0.0,) * len(tableau.times)
    return tuple(b != 0 or e != 0 for b, e in zip(tableau.solution, error, strict=True))


class _March:
    """One forward solve, without gradients."""

    def __init__(
        self,
        evaluator: Evaluator,
        solver: str,
        z: Tensor,
        atol: float,
        rtol: float,
        max_evaluations: int,
        part: str | None,
    ) -> None:
        self.part = part
        self.evaluator = evaluator
        self.solver = solver
        self.tableau = TABLEAUS[solver]
        self.atol = atol
        self.rtol = rtol
        self.max_evaluations = max_evaluations
        self.evaluations = 0
        self.shape = z.shape
        self.n = len(z)
        self.z_size = z.numel()
        self.q_size = evaluator.integrals * self.n
        self.controlled = self.z_size + evaluator.controlled * self.n
        size = len(self.tableau.times)
        # Zeros: what a stage leaves out is still multiplied by its weight of zero, and garbage that
        # happens to be NaN would come through.
        self.rate = z.new_zeros(size, self.z_size + self.q_size)
        self.y = z.new_zeros(self.z_size + self.q_size)
        self.y[: self.z_size] = z.reshape(-1)
        self.stages, self.solution, self.error = _weights(solver, z.dtype, z.device)
        self.counts = _integrand_counts(solver)

    def evaluate(self, moment: Any, z: Tensor, stage: int, *, integrand: bool = True) -> None:
        self.evaluations += 1
        if self.evaluations > self.max_evaluations:
            raise TooManyEvaluations.at(self.max_evaluations, self.atol, self.rtol)
        tick(part=self.part)
        rate = self.rate[stage]
        q = None
        if integrand and self.q_size:
            q = rate[self.z_size :].view(-1, self.n)
        self.evaluator.rates(moment, z.view(self.shape), rate[: self.z_size].view(self.shape), q)

    def step(self, t: float, dt: float, first: int) -> Tensor:
        """Evaluate the stages from ``first`` on; the solution after the step."""
        times = [t + c * dt for c in self.tableau.times[first:]]
        moments = self.evaluator.moments(times, self.y)
        weights = self.stages * dt
        y, size = self.y, self.z_size
        z = y[:size]
        last = len(self.tableau.times) - 1
        lands = self.tableau.error is not None
        y1 = y
        for stage in range(first, last + 1):
            if stage == last and lands:
                y1 = torch.addmv(y, self.rate[:last].t(), weights[last, :last])
                point = y1[:size]
            elif stage == 0:
                point = z
            else:
                point = torch.addmv(z, self.rate[:stage, :size].t(), weights[stage, :stage])
            self.evaluate(moments[stage - first], point, stage, integrand=self.counts[stage])
        return y1 if lands else torch.addmv(y, self.rate.t(), self.solution * dt)

    def error_ratio(self, y1: Tensor, dt: float) -> float:
        size, end = self.z_size, self.controlled
        error = torch.mv(self.rate[:, :end].t(), self.error * dt)
        scale = torch.maximum(self.y[:end].abs(), y1[:end].abs()).mul_(self.rtol).add_(self.atol)
        error.div_(scale).square_()
        ratio = error[:size].mean()
        if end > size:
            ratio = torch.maximum(ratio, error[size:].mean())
        return math.sqrt(ratio.item())

    def initial_step(self, t: float, direction: float, span: float) -> float:
        """A first step; uses and counts one evaluation besides the first stage's.

        Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, section II.4, but
        aiming at an error of the size of the tolerance, not of a hundredth of it.
        """
        end = self.controlled
        y, f = self.y[:end], self.rate[0, :end]
        scale = y.abs().mul_(self.rtol).add_(self.atol)

        def norm(value: Tensor) -> Tensor:
            square = (value / scale).square_()
            state = square[: self.z_size].mean()
            if end > self.z_size:
                state = torch.maximum(state, square[self.z_size :].mean())
            return state.sqrt()

        d0, d1 = torch.stack([norm(y), norm(f)]).tolist()
        if not math.isfinite(d1):
            raise StepUnderflow.at(self.solver, "the dynamics are not finite at the start")
        h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
        # The evaluation goes to the second stage's place, which the first step overwrites.
        (moment,) = self.evaluator.moments([t + direction * h0], self.y)
        point = torch.add(self.y[: self.z_size], self.rate[0, : self.z_size], alpha=direction * h0)
        self.evaluate(moment, point, 1)
        d2 = norm(self.rate[1, :end] - f).item() / h0
        if max(d1, d2) <= 1e-15:
            h1 = max(1e-6, h0 * 1e-3)
        else:
            h1 = (1.0 / max(d1, d2)) ** (1 / self.tableau.order)
        size = min(100 * h0, h1)
        # The estimate is cautious, by a factor of three or four on the dynamics of flows: where so
        # few steps are due, one over all of the way fits more often than not, and spares the rest.
        return span if 5 * size >= span else size


def _growth(ratio: float, before: float | None, order: int, *, after_rejection: bool) -> float:
    """What to multiply the step size with, by a proportional-integral controller.

    The constants are those of dopri5.f (Hairer, Norsett and Wanner, section IV.2 of volume II):
    exponents 1 / order - 0.75 beta and beta = 0.04, safety 0.9, bounds 0.2 and 10, no growth right
    after a rejection.

    Args:
        ratio: the error over its tolerance.
        before: the same of the last accepted step; None at the first.
        order: of the method.
        after_rejection: whether the last attempt was rejected.
    """
    if not math.isfinite(ratio):
        return 0.2
    if ratio > 1:
        return max(0.2, 0.9 / math.pow(ratio, 1 / order - 0.03))
    exponent = 1 / order if before is None else 1 / order - 0.03
    factor = 0.9 * math.pow(before or 1.0, 0.04) / math.pow(max(ratio, 1e-10), exponent)
    return min(1.0 if after_rejection else 10.0, max(0.2, factor))


def _solve_adaptively(
    march: _March, start: float, end: float, guess: StepGuess | None, path: Path | None
) -> None:
    direction = 1.0 if end > start else -1.0
    span = abs(end - start)
    order = march.tableau.order
    smallest = torch.finfo(march.y.dtype).eps * span
    last = len(march.tableau.times) - 1
    (moment,) = march.evaluator.moments([start], march.y)
    march.evaluate(moment, march.y[: march.z_size], 0)
    if guess is not None and guess.size is not None:
        size = guess.size
    else:
        size = march.initial_step(start, direction, span)
    done, after_rejection = 0.0, False
    # After a first step of full size the next is not to grow much; after a searched one it may.
    before = None if guess is None or guess.size is None else 1e-4
    while True:
        rest = span - done
        # Two equal steps rather than a long and a short one; the last one ends on the end.
        step = rest if size >= rest else min(size, rest / 2) if 2 * size >= rest else size
        if not step > smallest:
            raise StepUnderflow.at(
                march.solver, f"step size {step:.1e} at t = {start + direction * done:.6g}"
            )
        dt = direction * step
        t = start + direction * done
        y1 = march.step(t, dt, first=1)
        ratio = march.error_ratio(y1, dt)
        accepted = ratio <= 1
        factor = _growth(ratio, before, order, after_rejection=after_rejection)
        if done == 0 and guess is not None and accepted:
            # What would just have fitted, be it shorter: the next solve is much like this one.
            guess.size = step * min(10.0, 0.9 / max(ratio, 1e-9) ** (1 / order))
        size = step * factor
        step_taken(accepted, march.part)
        after_rejection = not accepted
        if not accepted:
            continue
        before = max(ratio, 1e-4)
        if path is not None:
            path.accept(march, t, dt)
        march.y = y1
        if step == rest:
            return
        done += step
        march.rate[0] = march.rate[last]


def _solve_with_steps(
    march: _March, start: float, end: float, steps: int, path: Path | None
) -> None:
    dt = (end - start) / steps
    for index in range(steps):
        t = start + index * dt
        y1 = march.step(t, dt, first=0)
        step_taken(True, march.part)
        if path is not None:
            path.accept(march, t, dt)
        march.y = y1
    if not torch.isfinite(march.y).all():
        raise StepUnderflow.at(march.solver, "the state is not finite")


def _pull_step(
    evaluator: Evaluator,
    solver: str,
    moments: Sequence[Any],
    dt: float,
    z: Tensor,
    velocities: Tensor | None,
    shape: torch.Size,
    z_bar: Tensor,
    q_bar: Tensor | None,
    part: str | None,
) -> Tensor:
    """Gradient of one step: from that by its solution to that by its starting point."""
    tableau = TABLEAUS[solver]
    used = _used_stages(solver)
    stages, solution, _ = _weights(solver, z.dtype, z.device)
    weights = stages * dt

    def record(stage: int) -> Any:
        point = z
        if stage:
            point = torch.addmv(z, rate[:stage].t(), weights[stage, :stage])
        tick(part=part)
        return evaluator.recorded(
            moments[stage],
            point.view(shape),
            rate[stage].view(shape),
            with_integrals=q_bar is not None and tableau.solution[stage] != 0,
        )

    # With the velocities at hand a stage is evaluated when its turn comes, and one at a time is in
    # memory; without them all are, from the first to the last, before the first turn.
    records: list[Any] = []
    if velocities is None:
        rate = z.new_empty(used, z.numel())
        records = [record(stage) for stage in range(used)]
    else:
        rate = velocities
    bars = z.new_empty(used, z.numel())
    scaled = solution * dt
    for stage in reversed(range(used)):
        f_bar = torch.mul(z_bar, scaled[stage])
        if stage + 1 < used:
            f_bar.addmv_(bars[stage + 1 :].t(), weights[stage + 1 : used, stage])
        weight = tableau.solution[stage]
        bars[stage] = evaluator.pull(
            records.pop() if records else record(stage),
            f_bar.view(shape),
            q_bar * (weight * dt) if q_bar is not None and weight != 0 else None,
        ).reshape(-1)
    evaluator.collect()
    return z_bar + bars.sum(0)


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        evaluator: Evaluator,
        settings: _Settings,
        path: Path | None,
        z: Tensor,
        start: Tensor | None,
        end: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        march = _March(
            evaluator,
            settings.solver,
            z,
            settings.atol,
            settings.rtol,
            settings.max_evaluations,
            settings.part,
        )
        if march.tableau.error is None:
            _solve_with_steps(march, settings.start, settings.end, settings.steps, path)
        else:
            _solve_adaptively(march, settings.start, settings.end, settings.guess, path)
        final = march.y[: march.z_size].view(z.shape)
        # A copy, so that neither output is a view of the other's memory.
        integrals = march.y[march.z_size :].reshape(evaluator.integrals, len(z)).clone()
        ctx.evaluator, ctx.settings, ctx.path = evaluator, settings, path
        ctx.times_wanted = start is not None, end is not None
        ctx.save_for_backward(z, final, *tensors)
        return final.clone(), integrals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, z_bar: Tensor, q_bar: Tensor) -> tuple[Tensor | None, ...]:
        z, final, *_ = ctx.saved_tensors
        evaluator, settings, path = ctx.evaluator, ctx.settings, ctx.path
        q = q_bar if evaluator.integrals else None
        at_end = (
            _flow_of_time(evaluator, settings.end, final, z_bar, q) if ctx.times_wanted[1] else None
        )
        bar = z_bar.reshape(-1).clone()
        used = _used_stages(settings.solver)
        for t, dt, point, velocities in reversed(path.steps):
            moments = evaluator.moments(
                [t + c * dt for c in TABLEAUS[settings.solver].times[:used]], point
            )
            bar = _pull_step(
                evaluator,
                settings.solver,
                moments,
                dt,
                point,
                velocities,
                z.shape,
                bar,
                q,
                settings.part,
            )
        bar = bar.view(z.shape)
        at_start = None
        if ctx.times_wanted[0]:
            at_start = -_flow_of_time(evaluator, settings.start, z, bar, q)
        return (None, None, None, bar, at_start, at_end, *evaluator.gradients())


def _flow_of_time(
    evaluator: Evaluator, time: float, z: Tensor, z_bar: Tensor, q_bar: Tensor | None
) -> Tensor:
    """How the loss changes as the path is prolonged at ``time``, shape ``()``."""
    (moment,) = evaluator.moments([time], z)
    f = torch.empty_like(z)
    q = None if q_bar is None else torch.empty_like(q_bar)
    tick()
    with torch.no_grad():
        evaluator.rates(moment, z, f, q)
    change = (f * z_bar).sum()
    if q is not None and q_bar is not None:
        change = change + (q * q_bar).sum()
    return change


@dataclass(frozen=True)
class _Settings:
    solver: str
    start: float
    end: float
    atol: float
    rtol: float
    steps: int
    max_evaluations: int
    part: str | None
    guess: StepGuess | None


def integrate(
    evaluator: Evaluator,
    z: Tensor,
    start: Tensor | float,
    end: Tensor | float,
    *,
    solver: str = "dopri5",
    atol: float = 1e-5,
    rtol: float = 1e-5,
    steps: int = 20,
    max_evaluations: int = 10_000,
    part: str | None = None,
    guess: StepGuess | None = None,
) -> tuple[Tensor, Tensor]:
    """Integrate from ``start`` to ``end``, which may lie before it.

    Args:
        evaluator: the right-hand side.
        z: initial state, shape ``(n, ...)``.
        start: initial time; a tensor of shape ``()`` if its gradient is wanted.
        end: final time, likewise.
        solver: a key of :data:`TABLEAUS`.
        atol: absolute tolerance of the local error.
        rtol: relative tolerance of the local error.
        steps: number of equal steps of a fixed-step method.
        max_evaluations: cap on evaluations of the right-hand side.
        part: what the meter calls the part of the flow that is solved.
        guess: first step size, taken and renewed where a gradient is wanted, so that
            elsewhere a result does not depend on what was solved before.

    Returns:
        The final state and the integrals, shape ``(m, n)``.

    Raises:
        StepUnderflow: if the step size underflows or the dynamics are not finite.
        TooManyEvaluations: at the cap on evaluations.
    """
    times = [float(time.detach()) if isinstance(time, Tensor) else time for time in (start, end)]
    moving = [
        time if isinstance(time, Tensor) and time.requires_grad else None for time in (start, end)
    ]
    wanted = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (z, *moving, *evaluator.tensors)
    )
    settings = _Settings(
        solver,
        times[0],
        times[1],
        atol,
        rtol,
        steps,
        max_evaluations,
        part,
        guess if wanted else None,
    )
    path = Path(evaluator.room(z)) if wanted else None
    result: tuple[Tensor, Tensor] = _Solve.apply(
        evaluator, settings, path, z, *moving, *evaluator.tensors
    )
    return result
