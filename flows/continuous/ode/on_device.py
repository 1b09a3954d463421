"""One way through a problem on a device, and back, where the host does not decide the steps.

What :mod:`flows.continuous.ode.forward` does attempt by attempt with the host's control is done
here with :mod:`flows.continuous.ode.tensor_control`: accept or reject, the size of the next step
and the end are tensors. The host issues a *window* of attempts, of which those past the end change
nothing, and asks once for what has come of them. It then knows as much as if it had decided
itself: steps, NFE and tape are the same, and masked attempts count as nothing.

Attempts and the gradients of steps are functions over buffers, which
:mod:`flows.continuous.ode.recorded` replays as CUDA graphs where it can.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flows import meter, shares
from flows.continuous.errors import StepUnderflow, TooManyEvaluations
from flows.continuous.ode import tensor_control as control
from flows.continuous.ode.control import (
    LONGER,
    equal_steps,
    fitting_step,
    initial_size,
    not_finite_at_the_start,
    too_short,
)
from flows.continuous.ode.evaluator import Evaluator, Problem
from flows.continuous.ode.forward import Tape, compiled
from flows.continuous.ode.recorded import Recorder, fresh_inputs, layout, recorded

__all__ = ["Pull", "applies", "chosen", "follow", "pull_back", "read", "recorded_pulls"]

WINDOW = 4
"""Attempts that are issued before the host asks, at most; fewer where fewer are due.

To ask is to let the device wait for the host, some 20 us; an attempt past the end is an attempt
for nothing. Both numbers here are guesses: no device has been measured.
"""

FIRST_WINDOW = 2
"""The same where the size of the first step is not known to the host."""

_chosen: list[bool] = []


@contextlib.contextmanager
def chosen(yes: bool) -> Iterator[None]:
    """Have solves controlled by tensors, or by the host, wherever the state is."""
    _chosen.append(yes)
    try:
        yield
    finally:
        _chosen.pop()


def applies(z: Tensor) -> bool:
    """Whether to solve here from a state.

    Where someone watches torch's operations, or has them done in another way, or where several
    processes share a batch and with it the error, the host decides step by step.
    """
    if (
        shares.current() is not None
        or type(z) is not Tensor
        or not z.numel()
        or torch.compiler.is_compiling()
    ):
        return False
    if torch._C._len_torch_dispatch_stack() or torch.is_autocast_enabled(z.device.type):
        return False
    return _chosen[-1] if _chosen else z.is_cuda


def read(values: Tensor) -> list[Any]:
    """A tensor's numbers: the one place where a solve waits for the device.

    By an event, since this wait is meant: `torch.cuda.set_sync_debug_mode` shows the others.
    """
    if not values.is_cuda:
        found: list[Any] = values.tolist()
        return found
    there = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    there.copy_(values, non_blocking=True)
    done = torch.cuda.Event()
    done.record()
    done.synchronize()
    numbers: list[Any] = there.tolist()
    return numbers


# -- forward ------------------------------------------------------------------------------------


class Way:
    """The buffers of a way forward, and its two functions: the beginning and an attempt.

    Args:
        evaluator: the right-hand side, over the buffers of its inputs.
        problem: how to solve, and the state's layout.
        like: a tensor of the state's dtype and device.
        taped: whether a tape wants the beginnings of steps.
        with_velocities: whether it wants the velocities of their stages.
        recorder: what is made of the functions.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        problem: Problem,
        like: Tensor,
        taped: bool,
        with_velocities: bool,
        recorder: Recorder,
    ) -> None:
        tableau, size = problem.settings.tableau, problem.size
        self.evaluator, self.problem = evaluator, problem
        self.inputs = evaluator.inputs()
        self.fractions = torch.tensor(tableau.evaluated, dtype=torch.float64).to(like.device)
        self.resolution = torch.finfo(like.dtype).eps
        self.control = like.new_zeros(control.FIELDS, dtype=torch.float64)
        self.y, self.first_rate = like.new_zeros(size), like.new_zeros(size)
        # Of the attempts of a window, in its order.
        self.index = like.new_zeros(1, dtype=torch.long)
        self.rows = like.new_zeros(WINDOW, control.ROW, dtype=torch.float64)
        kept = tableau.used - 1
        self.points = like.new_zeros(WINDOW, problem.z_size) if taped else None
        self.velocities = (
            like.new_zeros(WINDOW, kept, problem.z_size) if taped and with_velocities else None
        )
        self.step = _compiled(evaluator, problem, type(evaluator).step)
        self.begin = recorder(torch.no_grad()(self._begin))
        self.attempt = recorder(torch.no_grad()(self._attempt))

    def _begin(self) -> None:
        """From ``y`` and the control vector to the first rate and the first size."""
        problem, y = self.problem, self.y
        if not problem.settings.tableau.adaptive:
            return
        numbers = self.control
        (moment,) = self.evaluator.moments(numbers[:1].to(y.dtype))
        state = y[: problem.z_size].view(problem.shape)
        f, q = self.evaluator.rates(moment, state, integrands=problem.integrals > 0)
        self.first_rate.copy_(
            f.reshape(-1) if q is None else torch.cat([f.reshape(-1), q.view(-1)])
        )
        span = numbers[control.SPAN].to(y.dtype)
        found = initial_size(problem, span, y, self.first_rate).double()
        size = numbers[control.FIRST_SIZE]
        size.copy_(torch.where(size.isnan(), found, size))

    def _attempt(self) -> None:
        problem, y, dtype = self.problem, self.y, self.y.dtype
        tableau = problem.settings.tableau
        if tableau.adaptive:
            due = control.due(self.control, self.resolution)
            t, dt = due.t, due.dt
        else:
            due, (t, dt) = None, self.control[:2].unbind()
        moments = self.evaluator.moments((t + self.fractions * dt).to(dtype))
        rate = self.first_rate if tableau.adaptive else None
        found = self.step(self.evaluator, problem, moments, y, rate, dt.to(dtype))
        if self.points is not None:
            self.points.index_copy_(0, self.index, y[None, : problem.z_size])
        if self.velocities is not None:
            velocities = found.rate[None, : tableau.used - 1, : problem.z_size]
            self.velocities.index_copy_(0, self.index, velocities)
        if due is None:
            y.copy_(found.y)
            return
        after, accepted, row = control.judged(self.control, due, found.square, tableau.order)
        self.rows.index_copy_(0, self.index, row[None])
        # Whoever warms this up may run it more often than a window is long.
        self.index.add_(1).clamp_(max=WINDOW - 1)
        y.copy_(torch.where(accepted, found.y, y))
        self.first_rate.copy_(torch.where(accepted, found.rate[-1], self.first_rate))
        self.control.copy_(after)


def follow(
    evaluator: Evaluator,
    problem: Problem,
    z: Tensor,
    start: float,
    end: float,
    first_step: float | None,
    tape: Tape | None,
) -> Tensor:
    """What :func:`flows.continuous.ode.forward.forward` does, with the same result and errors."""
    settings, tableau = problem.settings, problem.settings.tableau
    taped = tape is not None
    with_velocities = tape is not None and tape.room >= (tableau.used - 1) * problem.z_size
    way = _recorded(
        evaluator,
        problem,
        z,
        lambda over, alone, recorder: Way(over, alone, z, taped, with_velocities, recorder),
        ("way", taped, with_velocities),
    )
    if way is None:
        way = Way(evaluator, problem, z, taped, with_velocities, lambda function: function)
    else:
        _copy_inputs(way.inputs, evaluator)
    way.y[: problem.z_size] = z.detach().reshape(-1)
    way.y[problem.z_size :] = 0
    counted = _Counted(problem)
    if not tableau.adaptive:
        for t, dt in equal_steps(start, end, settings.steps):
            counted.evaluations(len(tableau.evaluated))
            way.control[:2].copy_(_doubles([t, dt], z))
            way.attempt()
            meter.step(True, settings.part)
            _accept(tape, problem, way, 0, t, dt)
        # Whatever is not finite makes this NaN, and a sum of finite numbers rarely is infinite.
        if not all(read(torch.isfinite(way.y).all()[None])):
            raise StepUnderflow.at(settings.solver, "the state is not finite")
        return way.y.clone()
    counted.evaluations(1)
    way.control.copy_(_doubles(control.begun(start, end, first_step), z))
    way.begin()
    rest, size = abs(end - start), first_step
    while rest > 0:
        window = FIRST_WINDOW if size is None else min(WINDOW, math.ceil(rest / (LONGER * size)))
        way.index.zero_()
        for _ in range(window):
            way.attempt()
        for place, row in enumerate(read(way.rows[:window])):
            t, dt, ratio, status, rest, size = row
            if status == control.UNDERFLOW:
                if not dt > 0 and t == start:
                    raise not_finite_at_the_start(settings)
                raise too_short(settings, dt, t)
            counted.evaluations(len(tableau.evaluated))
            meter.step(status == control.ACCEPTED, settings.part)
            if status == control.ACCEPTED:
                if tape is not None and not tape.steps:
                    tape.fitting_step = fitting_step(abs(dt), ratio, tableau.order)
                _accept(tape, problem, way, place, t, dt)
            if rest == 0:
                break
    return way.y.clone()


def _accept(tape: Tape | None, problem: Problem, way: Way, place: int, t: float, dt: float) -> None:
    if tape is not None and way.points is not None:
        velocities = None if way.velocities is None else way.velocities[place]
        tape.accept(problem, t, dt, way.points[place].clone(), velocities)


class _Counted:
    """The evaluations of one solve, as they are reported."""

    def __init__(self, problem: Problem) -> None:
        self.settings, self.sum = problem.settings, 0

    def evaluations(self, count: int) -> None:
        settings = self.settings
        self.sum += count
        if self.sum > settings.max_evaluations:
            raise TooManyEvaluations.at(settings.max_evaluations, settings.atol, settings.rtol)
        meter.tick(count, part=settings.part)


# -- back -----------------------------------------------------------------------------------------


class Pull:
    """The buffers of the gradient of a step, the weights' included, and its function.

    Args:
        evaluator: the right-hand side, over the buffers of its inputs.
        problem: how to solve, and the state's layout.
        like: a tensor of the state's dtype and device.
        with_velocities: whether the velocities of the stages were kept.
        with_integrals: whether the integrals have a gradient.
        recorder: what is made of the function.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        problem: Problem,
        like: Tensor,
        with_velocities: bool,
        with_integrals: bool,
        recorder: Recorder,
    ) -> None:
        used = problem.settings.tableau.used
        self.evaluator, self.problem = evaluator, problem
        self.inputs = evaluator.inputs()
        # The stages' times, then the step's size.
        self.when = like.new_zeros(used + 1)
        self.z, self.bar = like.new_zeros(problem.z_size), like.new_zeros(problem.z_size)
        self.velocities = like.new_zeros(used - 1, problem.z_size) if with_velocities else None
        integrals = problem.integrals, problem.shape[0]
        self.q_bar = like.new_zeros(integrals) if with_integrals else None
        self.pull_step = _compiled(evaluator, problem, type(evaluator).pull_step)
        self.sums = [torch.zeros_like(one, requires_grad=False) for one in evaluator.tensors]
        self.reached = [False for _ in self.sums]
        self.pull = recorder(torch.no_grad()(self._pull))

    def _pull(self) -> None:
        evaluator, when = self.evaluator, self.when
        moments = evaluator.moments(when[:-1])
        bar, shares = self.pull_step(
            evaluator,
            self.problem,
            moments,
            when[-1],
            self.z,
            self.velocities,
            self.bar,
            self.q_bar,
        )
        gradients = evaluator.gradients()
        gradients.add(when[:-1], shares)
        for place, more in enumerate(gradients.totals()):
            if more is not None:
                self.reached[place] = True
                self.sums[place].add_(more)
        self.bar.copy_(bar)


Pulls = dict[bool, Pull]
"""By whether velocities were kept."""


def recorded_pulls(evaluator: Evaluator, problem: Problem, z: Tensor, tape: Tape) -> Pulls | None:
    """What a way back along a tape replays; None to have it done step by step.

    It is asked for on the way forward: a graph is not to be captured inside a backward pass.
    """
    if not applies(z):
        return None
    found: Pulls = {}
    for kept in {step.velocities is not None for step in tape.steps}:

        def make(over: Evaluator, alone: Problem, recorder: Recorder, kept: bool = kept) -> Pull:
            return Pull(over, alone, z, kept, problem.integrals > 0, recorder)

        pull = _recorded(evaluator, problem, z, make, ("pull", kept))
        if pull is None:
            return None
        found[kept] = pull
    return found


def pull_back(
    pulls: Pulls,
    evaluator: Evaluator,
    problem: Problem,
    tape: Tape,
    z_bar: Tensor,
    q_bar: Tensor | None,
) -> tuple[Tensor, list[Tensor | None]]:
    """The way back along a tape: gradients by the initial state and the evaluator's tensors."""
    settings, tableau = problem.settings, problem.settings.tableau
    used, bar = tableau.used, z_bar.reshape(-1)
    for pull in pulls.values():
        _copy_inputs(pull.inputs, evaluator)
        torch._foreach_zero_(pull.sums)
        if pull.q_bar is not None and q_bar is not None:
            pull.q_bar.copy_(q_bar)
    numbers = [[*(t + c * dt for c in tableau.times[:used]), dt] for t, dt, *_ in tape.steps]
    whens = torch.tensor(numbers, dtype=bar.dtype).to(bar.device, non_blocking=True)
    for when, (_, _, point, velocities) in zip(
        reversed(whens.unbind()), reversed(tape.steps), strict=True
    ):
        meter.tick(used if velocities is not None else 2 * used - 1, part=settings.part)
        pull = pulls[velocities is not None]
        pull.when.copy_(when)
        pull.z.copy_(point)
        if pull.velocities is not None and velocities is not None:
            pull.velocities.copy_(velocities)
        pull.bar.copy_(bar)
        pull.pull()
        bar = pull.bar
    totals: list[Tensor | None] = [None] * len(evaluator.tensors)
    for pull in pulls.values():
        for place, (reached, more) in enumerate(zip(pull.reached, pull.sums, strict=True)):
            if reached:
                before = totals[place]
                totals[place] = more.clone() if before is None else before + more
    return bar.clone().view(problem.shape), totals


# -- what both have in common ---------------------------------------------------------------------


def _recorded(
    evaluator: Evaluator,
    problem: Problem,
    z: Tensor,
    make: Callable[[Evaluator, Problem, Recorder], Any],
    more: Sequence[object],
) -> Any | None:
    """Recorded buffers, or None."""
    if evaluator.structure is None:
        return None
    # The name of a block does not matter, nor where a solve is given up.
    settings = replace(problem.settings, part=None, max_evaluations=0)
    inputs = evaluator.inputs()
    key = (
        *more,
        evaluator.structure,
        settings,
        problem.shape,
        layout([z.detach(), *inputs]),
        z.device,
    )

    def recording(recorder: Recorder) -> Any:
        over = evaluator.over(fresh_inputs(evaluator))
        return make(over, replace(problem, settings=settings), recorder)

    return recorded(key, z.device, recording)


@torch.no_grad()
def _copy_inputs(buffers: list[Tensor], evaluator: Evaluator) -> None:
    if buffers:
        torch._foreach_copy_(buffers, [one.detach() for one in evaluator.inputs()])


def _doubles(numbers: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64).to(like.device, non_blocking=True)


def _compiled(
    evaluator: Evaluator, problem: Problem, function: Callable[..., Any]
) -> Callable[..., Any]:
    """A step's function, by torch.compile where that is asked for and the evaluator allows."""
    return compiled(function) if problem.settings.compiled and evaluator.compiles else function
