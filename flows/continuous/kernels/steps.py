"""One Runge-Kutta step of all panels, and its gradient.

What the step sizes are is decided elsewhere: here is what each attempt costs. The panels of a batch
know nothing of each other but the size of the step, so that one panel goes through all stages of a
step, value, products and error, before the next one is looked at.

Sums over panels (the error's, the weights' gradients) are made in one order, whichever thread made
their terms: results do not depend on how many there are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
from numpy.typing import NDArray

from flows.continuous.kernels.compiled import compiled, in_parallel
from flows.continuous.kernels.network import Network, Workspace, copy, forward, pull

__all__ = ["Batch", "Method", "attempt", "evaluate", "pull_step"]

Array = NDArray[Any]


class Method(NamedTuple):
    """A Runge-Kutta method, see :class:`flows.continuous.ode.tableaus.Tableau`.

    Attributes:
        stages: ``(s, s)``, the weights A.
        solution: ``(s,)``, b.
        error: ``(s,)``, b minus the embedded method's; zeros for a fixed-step method.
        counts: ``(s,)``, whether a stage's integrand has a weight in the solution or the error.
        adaptive: whether the first stage is the last one of the step before.
        used: how many stages the solution depends on.
    """

    stages: Array
    solution: Array
    error: Array
    counts: Array
    adaptive: bool
    used: int


class Batch(NamedTuple):
    """What of a batch stays the same from step to step, panel by panel.

    Attributes:
        size: points in all; what fills the last panel repeats the last of them.
        vectors: ``(panels, P, width, points)``, those of the trace's products.
        context: ``(panels, context, points)``.
        controlled: how many integrals the error control looks at.
        atol: absolute tolerance.
        rtol: relative tolerance.
    """

    size: int
    vectors: Array
    context: Array
    controlled: int
    atol: float
    rtol: float


@compiled
def _of(works: Workspace, worker: int) -> Workspace:
    """The room of one worker."""
    return Workspace(
        works.values[worker],
        works.slopes[worker],
        works.curves[worker],
        works.tangents[worker],
        works.images[worker],
        works.curved[worker],
        works.bars[worker],
        works.turned[worker],
        works.zeros,
    )


@compiled
def add_scaled(factor: float, source: Array, target: Array, count: int) -> None:
    """``target += factor source`` of the first numbers of flat arrays."""
    if factor != 0:
        for i in range(count):
            target[i] += factor * source[i]


@compiled
def _point(
    y: Array, rates: Array, panel: int, weights: Array, dt: float, before: int, x: Array, rows: int
) -> None:
    """``x = y + dt sum of weights[j] rates[j]`` of the stages before one, the first rows."""
    end = x.ravel()
    count = rows * y.shape[2]
    copy(y[panel].ravel(), end, count)
    for stage in range(before):
        weight = y.dtype.type(weights[stage] * dt)
        add_scaled(weight, rates[stage, panel].ravel(), end, count)


@compiled
def _attempt_panel(
    net: Network,
    method: Method,
    batch: Batch,
    work: Workspace,
    x: Array,
    panel: int,
    weights: Array,
    shifts: Array,
    y: Array,
    rates: Array,
    y1: Array,
    dt: float,
    squares: Array,
) -> None:
    dimension, points = net.dimension, y.shape[2]
    number = y.dtype.type
    v = batch.vectors[panel]
    last = len(method.solution) - 1
    given = batch.context[panel]
    copy(given.ravel(), x[dimension:].ravel(), given.size)
    for stage in range(1 if method.adaptive else 0, last + 1):
        if method.adaptive and stage == last:
            _point(y, rates, panel, method.stages[last], dt, last, y1[panel], y.shape[1])
            copy(y1[panel].ravel(), x.ravel(), dimension * points)
        else:
            _point(y, rates, panel, method.stages[stage], dt, stage, x, dimension)
        rate = rates[stage, panel]
        integrals = len(v) > 0 and method.counts[stage]
        forward(
            net,
            weights[stage],
            shifts[stage],
            x[: net.widths[0]],
            v,
            work,
            rate[:dimension],
            rate[dimension:],
            integrals,
            False,
        )
    if not method.adaptive:
        _point(y, rates, panel, method.solution, dt, last + 1, y1[panel], y.shape[1])
        return
    valid = min(points, batch.size - panel * points)
    atol, rtol = number(batch.atol), number(batch.rtol)
    squares[panel] = 0
    for row in range(dimension + batch.controlled):
        total = number(0)
        for c in range(valid):
            error = number(0)
            for stage in range(last + 1):
                error += number(method.error[stage] * dt) * rates[stage, panel, row, c]
            error /= atol + rtol * max(abs(y[panel, row, c]), abs(y1[panel, row, c]))
            total += error * error
        squares[panel, 0 if row < dimension else 1] += total


def _attempt(
    net: Network,
    method: Method,
    batch: Batch,
    works: Workspace,
    points: Array,
    weights: Array,
    shifts: Array,
    y: Array,
    rates: Array,
    y1: Array,
    dt: float,
    squares: Array,
) -> None:
    """Try a step.

    Args:
        net: the network.
        method: the method.
        batch: the batch.
        works: room of each worker, there being as many as ``points`` is long.
        points: ``(workers, F, points)``, room for a stage's point.
        weights: ``(s, ...)``, flat, at the stages' times.
        shifts: likewise.
        y: ``(panels, D + integrals, points)``, the state.
        rates: ``(s, *shape of y)``; of an adaptive method the first is there, the rest are written.
        y1: gets the solution, shape of ``y``.
        dt: step.
        squares: ``(panels, 2)``, gets the sums of squares of the error over its tolerance, of the
            state and of the integrals that are controlled.
    """
    panels, workers = len(y), len(points)
    for worker in numba.prange(workers):
        work = _of(works, worker)
        for panel in range(worker, panels, workers):
            _attempt_panel(
                net,
                method,
                batch,
                work,
                points[worker],
                panel,
                weights,
                shifts,
                y,
                rates,
                y1,
                dt,
                squares,
            )


attempt = compiled(_attempt)
attempt_in_parallel = in_parallel(_attempt)


@compiled
def evaluate(
    net: Network,
    batch: Batch,
    works: Workspace,
    points: Array,
    weights: Array,
    shifts: Array,
    z: Array,
    rate: Array,
    integrals: bool,
) -> None:
    """Velocity and integrands at one time, ``rate`` of the shape of ``y`` in :func:`attempt`."""
    work, x = _of(works, 0), points[0]
    for panel in range(len(z)):
        given = batch.context[panel]
        copy(z[panel].ravel(), x.ravel(), net.dimension * z.shape[2])
        copy(given.ravel(), x[net.dimension :].ravel(), given.size)
        forward(
            net,
            weights,
            shifts,
            x[: net.widths[0]],
            batch.vectors[panel],
            work,
            rate[panel, : net.dimension],
            rate[panel, net.dimension :],
            integrals,
            False,
        )


@compiled
def _pull_panel(
    net: Network,
    method: Method,
    batch: Batch,
    work: Workspace,
    x: Array,
    bars: Array,
    panel: int,
    weights: Array,
    shifts: Array,
    y: Array,
    rates: Array,
    dt: float,
    z_bar: Array,
    q_bar: Array,
    context_bar: Array,
    weight_bars: Array,
    shift_bars: Array,
) -> None:
    dimension, used = net.dimension, method.used
    number = y.dtype.type
    v = batch.vectors[panel]
    bar, integral_bar = z_bar[panel], q_bar[panel]
    given = batch.context[panel]
    copy(given.ravel(), x[dimension:].ravel(), given.size)
    # Beside the stages' bars, in the last two places: a velocity and the gradient by it.
    f, f_bar = bars[used, :dimension], bars[used + 1, :dimension]
    q = bars[used + 2, : len(integral_bar)]
    stage_bar = bars[used + 3, : len(integral_bar)]
    for stage in range(used - 1, -1, -1):
        scaled = number(method.solution[stage] * dt)
        f_bar[:] = 0
        add_scaled(scaled, bar.ravel(), f_bar.ravel(), bar.size)
        for later in range(stage + 1, used):
            weight = number(method.stages[later, stage] * dt)
            add_scaled(weight, bars[later].ravel(), f_bar.ravel(), bar.size)
        stage_bar[:] = 0
        add_scaled(scaled, integral_bar.ravel(), stage_bar.ravel(), integral_bar.size)
        integrals = len(v) > 0 and scaled != 0
        _point(y, rates, panel, method.stages[stage], dt, stage, x, dimension)
        forward(
            net, weights[stage], shifts[stage], x[: net.widths[0]], v, work, f, q, integrals, True
        )
        pull(
            net,
            weights[stage],
            x[: net.widths[0]],
            v,
            work,
            f,
            f_bar,
            stage_bar,
            integrals,
            weight_bars[stage],
            shift_bars[stage],
            bars[stage],
        )
        of_context = context_bar[panel]
        add_scaled(number(1), bars[stage, dimension:].ravel(), of_context.ravel(), of_context.size)
    for stage in range(used):
        add_scaled(number(1), bars[stage].ravel(), bar.ravel(), bar.size)


def _pull_step(
    net: Network,
    method: Method,
    batch: Batch,
    works: Workspace,
    points: Array,
    bars: Array,
    weights: Array,
    shifts: Array,
    y: Array,
    rates: Array,
    dt: float,
    z_bar: Array,
    q_bar: Array,
    context_bar: Array,
    parts: Array,
    shift_parts: Array,
    weight_bars: Array,
    shift_bars: Array,
) -> None:
    """Gradient of a step.

    Args:
        net: the network.
        method: the method.
        batch: the batch.
        works: room of each worker.
        points: ``(workers, F, points)``.
        bars: ``(workers, used + 4, F, points)``, room.
        weights: ``(used or more, ...)``, flat, at the stages' times.
        shifts: likewise.
        y: the state that the step began from.
        rates: of its stages.
        dt: step.
        z_bar: ``(panels, D, points)``, the gradient by the solution, which becomes that by ``y``.
        q_bar: ``(panels, integrals, points)``, that by the integrals.
        context_bar: ``(panels, context, points)``; what comes of the step is added.
        parts: ``(groups, used, ...)``, room for the weights' gradients: a group is some panels.
        shift_parts: likewise.
        weight_bars: gets the gradients by the weights, ``(used, ...)``.
        shift_bars: likewise by the shifts.
    """
    panels, workers, groups = len(y), len(points), len(parts)
    for worker in numba.prange(workers):
        work = _of(works, worker)
        for group in range(worker, groups, workers):
            parts[group] = 0
            shift_parts[group] = 0
            for panel in range(group, panels, groups):
                _pull_panel(
                    net,
                    method,
                    batch,
                    work,
                    points[worker],
                    bars[worker],
                    panel,
                    weights,
                    shifts,
                    y,
                    rates,
                    dt,
                    z_bar,
                    q_bar,
                    context_bar,
                    parts[group],
                    shift_parts[group],
                )
    for stage in numba.prange(len(weight_bars)):
        weight_bars[stage] = parts[0, stage]
        shift_bars[stage] = shift_parts[0, stage]
        for group in range(1, groups):
            weight_bars[stage] += parts[group, stage]
            shift_bars[stage] += shift_parts[group, stage]


pull_step = compiled(_pull_step)
pull_step_in_parallel = in_parallel(_pull_step)
