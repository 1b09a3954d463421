"""Where the steps of a solve go, and how long they are.

A control is a generator of attempts ``(t, dt)``, to which the error of each, over its tolerance, is
sent; it ends when the last attempt was accepted. Error control is that of torchdiffeq: the root
mean square of the local error over ``atol + rtol max(|y0|, |y1|)``, the larger of the state's and
the integral's, must not exceed 1. Only the step sizes that are tried differ: they come from a
proportional-integral controller, which has fewer rejected than torchdiffeq's.

* The last step lands on the end. Where the rest of the way takes two steps, they are equal.
* A first step may be remembered from a solve that is much like this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

import torch
from torch import Tensor

from flows.continuous.errors import StepUnderflow
from flows.continuous.ode.evaluator import Problem, mean_square
from flows.continuous.ode.settings import Settings

__all__ = ["Attempts", "adaptive_steps", "equal_steps", "fitting_step", "initial_step"]

Attempts = Generator[tuple[float, float], float, None]


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
    remembered: bool,
    resolution: float,
) -> Attempts:
    """Steps whose error stays within the tolerance.

    Args:
        settings: how to solve.
        start: where the way begins.
        end: where it ends; may lie before.
        first: size of the first step, above 0.
        remembered: whether that fitted a solve before. After a step of full size the next is not
            to grow much; after a searched one it may.
        resolution: the part of the way that a step cannot be shorter than.

    Raises:
        StepUnderflow: if a step would be shorter.
    """
    direction = 1.0 if end > start else -1.0
    span = abs(end - start)
    size, done, after_rejection = first, 0.0, False
    before = 1e-4 if remembered else None
    while True:
        rest = span - done
        # Two equal steps rather than a long and a short one; the last one ends on the end.
        step = rest if size >= rest else min(size, rest / 2) if 2 * size >= rest else size
        t = start + direction * done
        if not step > resolution * span:
            raise StepUnderflow.at(settings.solver, f"step size {step:.1e} at t = {t:.6g}")
        ratio = yield t, direction * step
        order = settings.tableau.order
        size = step * _growth(ratio, before, order, after_rejection=after_rejection)
        after_rejection = not ratio <= 1
        if after_rejection:
            continue
        if step == rest:
            return
        before = max(ratio, 1e-4)
        done += step


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


def fitting_step(size: float, ratio: float, order: int) -> float:
    """The size that would just have fitted, be it shorter, where one gave an error ratio."""
    return size * min(10.0, 0.9 / math.pow(max(ratio, 1e-9), 1 / order))


def initial_step(
    problem: Problem,
    start: float,
    end: float,
    y: Tensor,
    rate: Tensor,
    evaluate: Callable[[float, Tensor], Tensor],
) -> float:
    """A first step, by one evaluation.

    Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, section II.4, but
    aiming at an error of the size of the tolerance, not of a hundredth of it.

    Args:
        problem: how to solve, and the state's layout.
        start: where the way begins.
        end: where it ends.
        y: the state there, flat.
        rate: dy/dt there.
        evaluate: from a time and a flat ``z`` to dy/dt.

    Raises:
        StepUnderflow: if the rate is not finite.
    """
    settings, last = problem.settings, problem.controlled_size
    direction = 1.0 if end > start else -1.0
    span = abs(end - start)
    scale = y[:last].abs().mul_(settings.rtol).add_(settings.atol)

    def norm(value: Tensor) -> Tensor:
        return mean_square(value / scale, problem).sqrt()

    d0, d1 = torch.stack([norm(y[:last]), norm(rate[:last])]).tolist()
    if not math.isfinite(d1):
        raise StepUnderflow.at(settings.solver, "the dynamics are not finite at the start")
    h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
    z, velocity = y[: problem.z_size], rate[: problem.z_size]
    after = evaluate(start + direction * h0, torch.add(z, velocity, alpha=direction * h0))
    d2 = norm(after[:last] - rate[:last]).item() / h0
    if max(d1, d2) <= 1e-15:
        h1 = max(1e-6, h0 * 1e-3)
    else:
        h1 = (1.0 / max(d1, d2)) ** (1 / settings.tableau.order)
    size = min(100 * h0, h1)
    # The estimate is cautious, by a factor of three or four on the dynamics of flows: where so
    # few steps are due, one over all of the way fits more often than not, and spares the rest.
    return span if 5 * size >= span else size
