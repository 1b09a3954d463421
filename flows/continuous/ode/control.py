"""Where the steps of a solve go, and how long they are.

A control is a generator of attempts ``(t, dt)``, to which the error of each, over its tolerance, is
sent; it ends when the last attempt was accepted. Error control is that of torchdiffeq: the root
mean square of the local error over ``atol + rtol max(|y0|, |y1|)``, the larger of the state's and
the integral's, must not exceed 1. Only the step sizes that are tried differ: they come from a
proportional-integral controller, which has fewer rejected than torchdiffeq's.

* The first step is chosen by the state, or remembered from a solve that is much like this one.
* The last step lands on the end. Where the rest of the way takes two steps, they are equal.

A step over all of the way is taken where the error is expected to allow it, by the same estimate as
any other. That the first step is not searched for from far below, and that the end is not reached
by going past it and interpolating, as torchdiffeq does, makes the error at a tolerance the smaller
and the evaluations the fewer.
"""

from __future__ import annotations

import math
from collections.abc import Generator

import torch
from torch import Tensor

from flows import shares
from flows.continuous.errors import StepUnderflow
from flows.continuous.ode.evaluator import Problem
from flows.continuous.ode.settings import Settings

__all__ = [
    "FIRST",
    "LEAST_RATIO",
    "LONGER",
    "Attempts",
    "adaptive_steps",
    "equal_steps",
    "fitting_step",
    "growth",
    "initial_size",
    "initial_step",
    "not_finite_at_the_start",
    "part_of",
    "too_short",
]

Attempts = Generator[tuple[float, float], float, None]

LONGER = 1.05
"""The last step may be by so much longer than the size that is due, which has the safety for it."""

LEAST_RATIO = 1e-4
"""What an accepted step's error counts as for the next one, at the least."""

FIRST = 2.0
"""What the first step is, over ``d1 ** (-1 / order)``.

At the starts of solves of 15 flows, trained for 100 to 300 steps, at tolerances from 1e-3 to 1e-7
the size that just fits the state is 1.4 to 15 times that (median 4.5; standard deviation of the
decimal logarithm 0.23, and 0.22 with the change of the rate, for one evaluation more).
"""


def equal_steps(start: float, end: float, count: int) -> Attempts:
    """So many steps of one size, whatever their error."""
    dt = (end - start) / count
    for index in range(count):
        yield start + index * dt, dt


def adaptive_steps(
    settings: Settings,
    start: float,
    end: float,
    first: float,
    *,
    resolution: float,
) -> Attempts:
    """Steps whose error stays within the tolerance.

    Args:
        settings: how to solve.
        start: where the way begins.
        end: where it ends; may lie before.
        first: size of the first step, above 0.
        resolution: the part of the way that a step cannot be shorter than.

    Raises:
        StepUnderflow: if a step would be shorter.
    """
    direction = 1.0 if end > start else -1.0
    span = abs(end - start)
    size, done, before, after_rejection = first, 0.0, 0.0, False
    while True:
        rest = span - done
        step = part_of(rest, size)
        t = start + direction * done
        if not step > resolution * span:
            raise too_short(settings, step, t)
        ratio = yield t, direction * step
        order = settings.tableau.order
        size = step * growth(ratio, before, order, after_rejection)
        after_rejection = not ratio <= 1
        if after_rejection:
            continue
        if step == rest:
            return
        before = max(ratio, LEAST_RATIO)
        done += step


# Floats in, floats out: the compiled kernels are made of these two as well.


def part_of(rest: float, size: float) -> float:
    """How much of the rest of the way the next step takes, where a size is due.

    Two equal steps rather than a long and a short one; the last one ends on the end.
    """
    reach = LONGER * size
    return rest if reach >= rest else rest / 2 if 2 * reach >= rest else size


def growth(ratio: float, before: float, order: int, after_rejection: bool) -> float:
    """What to multiply the step size with, by a proportional-integral controller.

    The constants are those of dopri5.f (Hairer, Norsett and Wanner, section IV.2 of volume II):
    exponents 1 / order - 0.75 beta and beta = 0.04, safety 0.9, bounds 0.2 and 10, no growth right
    after a rejection.

    Args:
        ratio: the error over its tolerance.
        before: the same of the last accepted step, at least 1e-4; 0 at the first.
        order: of the method.
        after_rejection: whether the last attempt was rejected.
    """
    if not math.isfinite(ratio):
        return 0.2
    if ratio > 1:
        return max(0.2, 0.9 / math.pow(ratio, 1 / order - 0.03))
    exponent = 1 / order - 0.03 if before > 0 else 1 / order
    factor = 0.9 * math.pow(before if before > 0 else 1.0, 0.04)
    factor /= math.pow(max(ratio, 1e-10), exponent)
    return min(1.0 if after_rejection else 10.0, max(0.2, factor))


def fitting_step(size: float, ratio: float, order: int) -> float:
    """The size that would just have fitted, be it shorter, where one gave an error ratio."""
    return size * min(10.0, 0.9 / math.pow(max(ratio, 1e-9), 1 / order))


def initial_step(problem: Problem, start: float, end: float, y: Tensor, rate: Tensor) -> float:
    """A first step, by the rate at the start, see :func:`initial_size`.

    Args:
        problem: how to solve, and the state's layout.
        start: where the way begins.
        end: where it ends.
        y: the state there, flat.
        rate: dy/dt there.

    Raises:
        StepUnderflow: if the rate is not finite.
    """
    first = initial_size(problem, abs(end - start), y, rate).item()
    if not first > 0:
        raise not_finite_at_the_start(problem.settings)
    return first


def initial_size(problem: Problem, span: float | Tensor, y: Tensor, rate: Tensor) -> Tensor:
    """The size of a first step, by the rate at the start, which the step needs anyway.

    Of Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, section II.4, the part
    that knows the rate alone: ``d1 ** (-1 / order)`` with ``d1`` the root mean square of the rate
    over the tolerance. The change of the rate, which theirs asks for by another evaluation, adds
    nothing to that on the dynamics of flows (see :data:`FIRST`).

    Args:
        problem: how to solve, and the state's layout.
        span: length of the way; a tensor is of ``y``'s dtype.
        y: the state there, flat.
        rate: dy/dt there.

    Returns:
        Shape ``()``; not above 0 where the rate is not finite.
    """
    settings = problem.settings
    z_size, last = problem.z_size, problem.controlled_size

    def size(rate: Tensor, value: Tensor) -> Tensor:
        """By the root mean square of a rate over the tolerance of what it changes."""
        scale = value.abs().mul(settings.rtol).add_(settings.atol)
        norm = shares.mean((rate / scale).square_().mean()).sqrt_()
        return norm.pow(-1 / settings.tableau.order).mul_(FIRST).clamp_max_(span)

    found = size(rate[:z_size], y[:z_size])
    if last > z_size:
        # An integral starts at 0. The scale of its error is that at the step's end, by which the
        # step will be judged: at 0 it is `atol` alone, and the step would be far too small.
        found = torch.minimum(found, size(rate[z_size:last], rate[z_size:last] * found))
    return found


def not_finite_at_the_start(settings: Settings) -> StepUnderflow:
    """The error where there is no first step."""
    return StepUnderflow.at(settings.solver, "the dynamics are not finite at the start")


def too_short(settings: Settings, step: float, t: float) -> StepUnderflow:
    """The error where a step would be shorter than time resolves."""
    return StepUnderflow.at(settings.solver, f"step size {step:.1e} at t = {t:.6g}")
