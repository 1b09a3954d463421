"""Explicit Runge-Kutta solvers that waste nothing on what a continuous flow does not need.

The problem is ``dz/dt = f(t, z)`` together with integrals over the path, ``dq/dt = r(t, z)`` (the
trace, regularisers), which do not act back on ``z``. What differs from a general solver:

* The forward solve keeps no graph. The gradient is that of the discrete solution: the accepted
  steps are evaluated once more, from the last to the first, each with its own graph
  (checkpointing; Gholami et al. 2019, ANODE, arXiv:1902.10298), with no second adaptive problem to
  solve. Memory grows with the number of steps by their starting points, and up to the size of one
  evaluation's graph by the velocities of the stages: with these a step takes as many evaluations
  again as it had, without them almost twice as many, the first half of them of velocities alone.
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
from collections.abc import Callable, Sequence
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

    @property
    def used(self) -> int:
        """How many stages the solution depends on: all but an adaptive method's last."""
        return len(self.times) - (self.error is not None)

    @property
    def counts(self) -> tuple[bool, ...]:
        """Whether a stage's integrand has a weight in the solution or the error."""
        error = self.error or (0.0,) * len(self.times)
        return tuple(b != 0 or e != 0 for b, e in zip(self.solution, error, strict=True))


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
        compiles: whether torch.compile makes one graph of a step.
    """

    tensors: Sequence[Tensor]
    integrals: int
    controlled: int
    compiles: bool

    def room(self, z: Tensor) -> int:
        """How many numbers may be kept to spare memory later: about what an evaluation takes."""

    def moments(self, times: Tensor) -> Sequence[Any]:
        """What depends on time alone, for each of the times, shape ``(s,)``."""

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
            its stages but the last, whose point none depends on, or None.
        room: how many numbers may yet be spent on velocities.
    """

    room: int
    steps: list[tuple[float, float, Tensor, Tensor | None]] = field(default_factory=list)

    def accept(self, march: _March, t: float, dt: float) -> None:
        """Note the step that the march has just made from its present state."""
        size = march.layout.z_size
        kept = TABLEAUS[march.layout.solver].used - 1
        velocities = None
        if self.room >= kept * size:
            self.room -= kept * size
            velocities = march.rate[:kept, :size].clone()
        self.steps.append((t, dt, march.y[:size], velocities))


_Tables = tuple[Tensor, Tensor, Tensor]


@cache
def _tables(name: str, dtype: torch.dtype, device: torch.device) -> _Tables:
    """Weights of the stages, the solution and the error."""
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


def _moved(values: Sequence[float], like: Tensor) -> Tensor:
    """Numbers of the host on the device, which it does not wait for."""
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)


@dataclass(frozen=True)
class _Layout:
    """Where what is in the flat state ``y``: the solver's ``z``, then the integrals.

    Attributes:
        solver: a key of :data:`TABLEAUS`.
        shape: of ``z``.
        integrals: how many follow, one number a row of ``z`` each.
        controlled: how many of them the error control looks at.
        atol: absolute tolerance.
        rtol: relative tolerance.
    """

    solver: str
    shape: tuple[int, ...]
    integrals: int
    controlled: int
    atol: float
    rtol: float

    @property
    def z_size(self) -> int:
        return math.prod(self.shape)

    @property
    def controlled_size(self) -> int:
        return self.z_size + self.controlled * self.shape[0]

    @property
    def size(self) -> int:
        return self.z_size + self.integrals * self.shape[0]

    def evaluate(
        self, evaluator: Evaluator, moment: Any, z: Tensor, rate: Tensor, *, integrand: bool
    ) -> None:
        """Write the rate at ``z`` into ``rate``, both flat."""
        q = None
        if integrand and self.integrals:
            q = rate[self.z_size :].view(self.integrals, self.shape[0])
        evaluator.rates(moment, z.view(self.shape), rate[: self.z_size].view(self.shape), q)


def _step(
    evaluator: Evaluator,
    layout: _Layout,
    tables: _Tables,
    moments: Sequence[Any],
    y: Tensor,
    rate: Tensor,
    dt: Tensor,
) -> tuple[Tensor, Tensor]:
    """Evaluate a method's stages, of an adaptive one all but the first, into ``rate``.

    Returns:
        The solution after the step, and the mean square of the error over its tolerance, shape
        ``()``; 0 for a fixed-step method.
    """
    tableau = TABLEAUS[layout.solver]
    stages, solution, error = tables
    counts = tableau.counts
    weights = stages * dt
    z = y[: layout.z_size]
    last = len(tableau.times) - 1
    adaptive = tableau.error is not None
    y1 = y
    for place, stage in enumerate(range(int(adaptive), last + 1)):
        if stage == last and adaptive:
            y1 = torch.addmv(y, rate[:last].t(), weights[last, :last])
            point = y1[: layout.z_size]
        elif stage == 0:
            point = z
        else:
            point = torch.addmv(z, rate[:stage, : layout.z_size].t(), weights[stage, :stage])
        layout.evaluate(evaluator, moments[place], point, rate[stage], integrand=counts[stage])
    if not adaptive:
        return torch.addmv(y, rate.t(), solution * dt), y.new_zeros(())
    end = layout.controlled_size
    ratio = torch.mv(rate[:, :end].t(), error * dt)
    scale = torch.maximum(y[:end].abs(), y1[:end].abs()).mul_(layout.rtol).add_(layout.atol)
    return y1, _mean_square(ratio.div_(scale), layout)


def _mean_square(scaled: Tensor, layout: _Layout) -> Tensor:
    """The larger of the state's and the integrals' mean square; overwrites its argument."""
    square = scaled.square_()
    state = square[: layout.z_size].mean()
    if layout.controlled:
        state = torch.maximum(state, square[layout.z_size :].mean())
    return state


def _fresh_step(
    evaluator: Evaluator,
    layout: _Layout,
    tables: _Tables,
    moments: Sequence[Any],
    y: Tensor,
    first_rate: Tensor,
    dt: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`_step` with rates of its own, which it returns, for the compiler."""
    rate = y.new_zeros(len(TABLEAUS[layout.solver].times), layout.size)
    rate[0] = first_rate
    y1, error = _step(evaluator, layout, tables, moments, y, rate, dt)
    return y1, error, rate


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one step as one graph; on CUDA it is replayed without the host's work."""
    return torch.compile(function, dynamic=False, mode="reduce-overhead")


class _March:
    """One forward solve, without gradients."""

    def __init__(
        self,
        evaluator: Evaluator,
        settings: _Settings,
        z: Tensor,
    ) -> None:
        self.evaluator = evaluator
        self.settings = settings
        self.layout = settings.layout(evaluator, z)
        self.tableau = TABLEAUS[settings.solver]
        self.tables = _tables(settings.solver, z.dtype, z.device)
        self.evaluations = 0
        # Zeros: what a stage leaves out is still multiplied by its weight of zero, and garbage that
        # happens to be NaN would come through.
        self.rate = z.new_zeros(len(self.tableau.times), self.layout.size)
        self.y = z.new_zeros(self.layout.size)
        self.y[: self.layout.z_size] = z.reshape(-1)

    def count(self, evaluations: int) -> None:
        """Note that so many evaluations are about to be made."""
        settings = self.settings
        if self.evaluations + evaluations > settings.max_evaluations:
            raise TooManyEvaluations.at(settings.max_evaluations, settings.atol, settings.rtol)
        self.evaluations += evaluations
        tick(evaluations, part=settings.part)

    def evaluate(self, t: float, z: Tensor, stage: int) -> None:
        """One evaluation outside a step, into a stage's place."""
        self.count(1)
        (moment,) = self.evaluator.moments(_moved([t], self.y))
        self.layout.evaluate(self.evaluator, moment, z, self.rate[stage], integrand=True)

    def step(self, t: float, dt: float) -> tuple[Tensor, Tensor]:
        """Try a step; see :func:`_step`."""
        first = int(self.tableau.error is not None)
        self.count(len(self.tableau.times) - first)
        evaluator, layout = self.evaluator, self.layout
        moved = _moved([*(t + c * dt for c in self.tableau.times[first:]), dt], self.y)
        moments, size = evaluator.moments(moved[:-1]), moved[-1]
        if not self.settings.compiled:
            return _step(evaluator, layout, self.tables, moments, self.y, self.rate, size)
        step = _compiled(_fresh_step)
        made = step(evaluator, layout, self.tables, moments, self.y, self.rate[0], size)
        # The graph's next replay writes where these are.
        y1, error, rate = (tensor.clone() for tensor in made)
        self.rate = rate
        return y1, error

    def initial_step(self, t: float, direction: float, span: float) -> float:
        """A first step; uses and counts one evaluation besides the first stage's.

        Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, section II.4, but
        aiming at an error of the size of the tolerance, not of a hundredth of it.
        """
        layout = self.layout
        end = layout.controlled_size
        y, f = self.y[:end], self.rate[0, :end]
        scale = y.abs().mul_(layout.rtol).add_(layout.atol)

        def norm(value: Tensor) -> Tensor:
            return _mean_square(value / scale, layout).sqrt()

        d0, d1 = torch.stack([norm(y), norm(f)]).tolist()
        if not math.isfinite(d1):
            raise StepUnderflow.at(layout.solver, "the dynamics are not finite at the start")
        h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
        # The evaluation goes to the second stage's place, which the first step overwrites.
        z, velocity = self.y[: layout.z_size], self.rate[0, : layout.z_size]
        self.evaluate(t + direction * h0, torch.add(z, velocity, alpha=direction * h0), 1)
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
    march.evaluate(start, march.y[: march.layout.z_size], 0)
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
                march.layout.solver, f"step size {step:.1e} at t = {start + direction * done:.6g}"
            )
        dt = direction * step
        t = start + direction * done
        y1, square = march.step(t, dt)
        # The one time in a step that the host waits for the device.
        ratio = math.sqrt(square.item())
        accepted = ratio <= 1
        factor = _growth(ratio, before, order, after_rejection=after_rejection)
        if done == 0 and guess is not None and accepted:
            # What would just have fitted, be it shorter: the next solve is much like this one.
            guess.size = step * min(10.0, 0.9 / max(ratio, 1e-9) ** (1 / order))
        size = step * factor
        step_taken(accepted, march.settings.part)
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
        y1, _ = march.step(t, dt)
        step_taken(True, march.settings.part)
        if path is not None:
            path.accept(march, t, dt)
        march.y = y1
    if not torch.isfinite(march.y).all():
        raise StepUnderflow.at(march.layout.solver, "the state is not finite")


def _pull_step(
    evaluator: Evaluator,
    layout: _Layout,
    tables: _Tables,
    moments: Sequence[Any],
    dt: Tensor,
    z: Tensor,
    velocities: Tensor | None,
    z_bar: Tensor,
    q_bar: Tensor | None,
) -> Tensor:
    """Gradient of one step: from that by its solution to that by its starting point."""
    tableau = TABLEAUS[layout.solver]
    used = tableau.used
    stages, solution, _ = tables
    weights = stages * dt

    def point(stage: int) -> Tensor:
        if stage == 0:
            return z.view(layout.shape)
        return torch.addmv(z, rate[:stage].t(), weights[stage, :stage]).view(layout.shape)

    # With the velocities at hand a stage is evaluated, with its graph, when its turn comes, and
    # one at a time is in memory. Where they were not kept they come first, without graphs.
    if velocities is None:
        rate = z.new_empty(used - 1, z.numel())
        for stage in range(used - 1):
            evaluator.rates(moments[stage], point(stage), rate[stage].view(layout.shape), None)
    else:
        rate = velocities
    velocity = z.new_empty(layout.shape)
    bars = z.new_empty(used, z.numel())
    scaled = solution * dt
    for stage in reversed(range(used)):
        f_bar = torch.mul(z_bar, scaled[stage])
        if stage + 1 < used:
            f_bar.addmv_(bars[stage + 1 :].t(), weights[stage + 1 : used, stage])
        stage_q_bar = None
        if q_bar is not None and tableau.solution[stage] != 0:
            stage_q_bar = q_bar * scaled[stage]
        record = evaluator.recorded(
            moments[stage], point(stage), velocity, with_integrals=stage_q_bar is not None
        )
        bars[stage] = evaluator.pull(record, f_bar.view(layout.shape), stage_q_bar).reshape(-1)
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
        march = _March(evaluator, settings, z)
        if march.tableau.error is None:
            _solve_with_steps(march, settings.start, settings.end, settings.steps, path)
        else:
            _solve_adaptively(march, settings.start, settings.end, settings.guess, path)
        size = march.layout.z_size
        final = march.y[:size].view(z.shape)
        # A copy, so that neither output is a view of the other's memory.
        integrals = march.y[size:].reshape(evaluator.integrals, len(z)).clone()
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
        layout = settings.layout(evaluator, z)
        used = TABLEAUS[settings.solver].used
        tables = _tables(settings.solver, z.dtype, z.device)
        pull = _compiled(_pull_step) if settings.compiled else _pull_step
        for t, dt, point, velocities in reversed(path.steps):
            times = [t + c * dt for c in TABLEAUS[settings.solver].times[:used]]
            moved = _moved([*times, dt], point)
            moments = evaluator.moments(moved[:-1])
            tick(used if velocities is not None else 2 * used - 1, part=settings.part)
            bar = pull(evaluator, layout, tables, moments, moved[-1], point, velocities, bar, q)
            if settings.compiled:
                bar = bar.clone()
            evaluator.collect()
        bar = bar.view(z.shape)
        at_start = None
        if ctx.times_wanted[0]:
            at_start = -_flow_of_time(evaluator, settings.start, z, bar, q)
        return (None, None, None, bar, at_start, at_end, *evaluator.gradients())


def _flow_of_time(
    evaluator: Evaluator, time: float, z: Tensor, z_bar: Tensor, q_bar: Tensor | None
) -> Tensor:
    """How the loss changes as the path is prolonged at ``time``, shape ``()``."""
    (moment,) = evaluator.moments(_moved([time], z))
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
    compiled: bool

    def layout(self, evaluator: Evaluator, z: Tensor) -> _Layout:
        """Of the state of a solve from ``z``."""
        return _Layout(
            self.solver,
            tuple(z.shape),
            evaluator.integrals,
            evaluator.controlled,
            self.atol,
            self.rtol,
        )


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
    compiled: bool = False,
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
        compiled: whether steps are compiled where a gradient is wanted and the evaluator allows.

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
        compiled and wanted and evaluator.compiles,
    )
    path = Path(evaluator.room(z)) if wanted else None
    result: tuple[Tensor, Tensor] = _Solve.apply(
        evaluator, settings, path, z, *moving, *evaluator.tensors
    )
    return result
