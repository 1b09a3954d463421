"""One Runge-Kutta step of a batch, panel by panel, and its gradient.

What the step sizes are is decided elsewhere: here is what each attempt costs. The points of a batch
know nothing of each other but the size of the step, so that one panel goes through all stages of a
step, value, products and error, before the next one is looked at. Outside of a panel everything is
laid out as the solver has it: a state is ``z``, row by row, and then the integrals, one number a
row each.

Of several threads each takes its share of the panels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

from flows.continuous.kernels.blocks import PANEL_BYTES, part
from flows.continuous.kernels.compiled import compiled
from flows.continuous.kernels.network import Network, Room, forward, low_panel, panel, pull

__all__ = ["Batch", "Method", "pull_step", "step"]

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
    """What of a batch stays the same from step to step.

    Attributes:
        size: n, points in all.
        vectors: flat, those of the trace's products.
        strides: of these ``(P, n, width)``, in numbers.
        context: flat, ``(n, context)``.
        atol: absolute tolerance.
        rtol: relative tolerance.
    """

    size: int
    vectors: Array
    strides: tuple[int, ...]
    context: Array
    atol: float
    rtol: float


@compiled
def _load(source: Array, down: int, along: int, target: Array, rows: int, valid: int) -> None:
    """Points that are ``down`` numbers apart, of features ``along`` apart, to a panel's rows.

    The last point fills the panel.
    """
    points = PANEL_BYTES // source.itemsize
    for row in range(rows):
        for c in range(valid):
            target[row * points + c] = source[c * down + row * along]
        for c in range(valid, points):
            target[row * points + c] = target[row * points + valid - 1]


@compiled
def _store(source: Array, target: Array, down: int, along: int, rows: int, valid: int) -> None:
    """The other way."""
    points = PANEL_BYTES // source.itemsize
    for row in range(rows):
        for c in range(valid):
            target[c * down + row * along] = source[row * points + c]


@compiled
def _load_state(net: Network, n: int, y: Array, first: int, target: Array, valid: int) -> None:
    """State and integrals of the points from ``first`` on."""
    dimension = net.dimension
    points = PANEL_BYTES // y.itemsize
    _load(part(y, first * dimension), dimension, 1, target, dimension, valid)
    integrals = part(target, dimension * points)
    _load(part(y, n * dimension + first), 1, n, integrals, net.integrals, valid)


@compiled
def _store_state(net: Network, n: int, source: Array, y: Array, first: int, valid: int) -> None:
    dimension = net.dimension
    points = PANEL_BYTES // y.itemsize
    _store(source, part(y, first * dimension), dimension, 1, dimension, valid)
    integrals = part(source, dimension * points)
    _store(integrals, part(y, n * dimension + first), 1, n, net.integrals, valid)


@compiled
def _load_given(
    net: Network, room: Room, batch: Batch, work: Array, first: int, valid: int
) -> None:
    """Context and the vectors of the products."""
    points = PANEL_BYTES // work.itemsize
    width = net.table[0, 0] - net.dimension
    context = part(batch.context, first * width)
    target = part(panel(room, work, room.point), net.dimension * points)
    _load(context, width, 1, target, width, valid)
    for probe in range(net.probes):
        source = part(batch.vectors, probe * batch.strides[0] + first * batch.strides[1])
        target = panel(room, work, room.vectors + probe)
        _load(source, batch.strides[1], batch.strides[2], target, net.width, valid)


@compiled
def _combine(
    room: Room,
    work: Array,
    weights: Array,
    dt: float,
    before: int,
    y: Array,
    target: Array,
    count: int,
) -> None:
    """``target = y + dt sum of weights[j] rates[j]`` of the stages before one."""
    number = work.dtype.type
    for i in range(count):
        target[i] = y[i]
    for stage in range(before):
        if weights[stage] != 0:
            factor = number(weights[stage] * dt)
            rate = low_panel(room, work, room.rates + stage)
            for i in range(count):
                target[i] += factor * rate[i]


@compiled
def step(
    net: Network,
    room: Room,
    method: Method,
    batch: Batch,
    work: Array,
    worker: int,
    dt: float,
    weights: Array,
    shifts: Array,
    y: Array,
    rates: Array,
    y1: Array,
    squares: Array,
) -> None:
    """Try a step.

    Args:
        net: the network.
        room: how the panels are numbered.
        method: the method.
        batch: the batch.
        work: ``(workers, ...)``, the panels of each.
        worker: which one this is.
        dt: step.
        weights: ``(s, ...)``, flat, at the stages' times.
        shifts: likewise.
        y: flat, the state.
        rates: ``(s, size of y)``; of an adaptive method the first is there, the rest are written.
        y1: gets the solution.
        squares: ``(workers, 2)``, gets the sums of squares of the error over its tolerance, of the
            state and of the first integral.
    """
    points = PANEL_BYTES // y.itemsize
    n, dimension = batch.size, net.dimension
    number = y.dtype.type
    atol, rtol = number(batch.atol), number(batch.rtol)
    last = len(method.solution) - 1
    everything = (dimension + net.integrals) * points
    own = work[worker]
    zeros = panel(room, own, room.nothing)
    for i in range(room.size):
        zeros[i] = 0
    squares[worker] = 0
    x = panel(room, own, room.point)
    begin, end = low_panel(room, own, room.ends), low_panel(room, own, room.ends + 1)
    error = low_panel(room, own, room.ends + 2)
    for first in range(worker * points, n, len(work) * points):
        valid = min(points, n - first)
        _load_given(net, room, batch, own, first, valid)
        _load_state(net, n, y, first, begin, valid)
        if method.adaptive:
            _load_state(net, n, rates[0], first, low_panel(room, own, room.rates), valid)
        for stage in range(1 if method.adaptive else 0, last + 1):
            row = method.stages[stage]
            if method.adaptive and stage == last:
                _combine(room, own, row, dt, last, begin, end, everything)
                for i in range(dimension * points):
                    x[i] = end[i]
            else:
                _combine(room, own, row, dt, stage, begin, x, dimension * points)
            traced = net.integrals > 0 and method.counts[stage]
            forward(net, room, weights[stage], shifts[stage], own, stage, traced)
            rate = low_panel(room, own, room.rates + stage)
            if net.integrals > 0 and not traced:
                for i in range(dimension * points, everything):
                    rate[i] = 0
            _store_state(net, n, rate, rates[stage], first, valid)
        if not method.adaptive:
            _combine(room, own, method.solution, dt, last + 1, begin, end, everything)
        _store_state(net, n, end, y1, first, valid)
        if not method.adaptive:
            continue
        controlled = dimension + min(net.integrals, 1)
        for i in range(controlled * points):
            error[i] = 0
        _combine(room, own, method.error, dt, last + 1, error, error, controlled * points)
        for row in range(controlled):
            at = row * points
            total = number(0)
            for c in range(valid):
                scale = atol + rtol * max(abs(begin[at + c]), abs(end[at + c]))
                ratio = error[at + c] / scale
                total += ratio * ratio
            squares[worker, 0 if row < dimension else 1] += total


@compiled
def pull_step(
    net: Network,
    room: Room,
    method: Method,
    batch: Batch,
    work: Array,
    worker: int,
    dt: float,
    weights: Array,
    shifts: Array,
    z: Array,
    velocities: Array,
    z_bar: Array,
    q_bar: Array,
    begin_bar: Array,
    context_bar: Array,
    weight_bars: Array,
    shift_bars: Array,
) -> None:
    """Gradient of a step.

    Args:
        net: the network.
        room: how the panels are numbered, with a record.
        method: the method.
        batch: the batch.
        work: ``(workers, ...)``, the panels of each.
        worker: which one this is.
        dt: step.
        weights: ``(used, ...)``, flat, at the times of the stages that the solution depends on.
        shifts: likewise.
        z: flat, the state that the step began from.
        velocities: ``(used - 1, size of z)``, those of the stages but the last; with no rows where
            they were not kept, and are computed once more.
        z_bar: the gradient by the solution, shape of ``z``.
        q_bar: that by the integrals, flat.
        begin_bar: gets what the stages contribute to the gradient by ``z``.
        context_bar: gets that by the context.
        weight_bars: ``(workers, used, ...)``, gets a worker's share of those by the weights.
        shift_bars: likewise by the shifts.
    """
    points = PANEL_BYTES // z.itemsize
    n, dimension, used = batch.size, net.dimension, method.used
    context = net.table[0, 0] - dimension
    number = z.dtype.type
    own = work[worker]
    zeros = panel(room, own, room.nothing)
    for i in range(room.size):
        zeros[i] = 0
    weight_bars[worker] = 0
    shift_bars[worker] = 0
    x = panel(room, own, room.point)
    begin, bar = low_panel(room, own, room.ends), low_panel(room, own, room.ends + 1)
    integral_bar = low_panel(room, own, room.ends + 2)
    f_bar, stage_bar = low_panel(room, own, room.ends + 3), low_panel(room, own, room.ends + 4)
    for first in range(worker * points, n, len(work) * points):
        valid = min(points, n - first)
        _load_given(net, room, batch, own, first, valid)
        _load(part(z, first * dimension), dimension, 1, begin, dimension, valid)
        _load(part(z_bar, first * dimension), dimension, 1, bar, dimension, valid)
        _load(part(q_bar, first), 1, n, integral_bar, net.integrals, valid)
        # Nothing comes by the points that fill the last panel.
        for c in range(valid, points):
            for row in range(dimension):
                bar[row * points + c] = 0
            for row in range(net.integrals):
                integral_bar[row * points + c] = 0
        for stage in range(used - 1):
            rate = low_panel(room, own, room.rates + stage)
            if len(velocities) > 0:
                source = part(velocities[stage], first * dimension)
                _load(source, dimension, 1, rate, dimension, valid)
            else:
                _combine(room, own, method.stages[stage], dt, stage, begin, x, dimension * points)
                forward(net, room, weights[stage], shifts[stage], own, stage, False)
        for stage in range(used - 1, -1, -1):
            scaled = number(method.solution[stage] * dt)
            for i in range(dimension * points):
                f_bar[i] = scaled * bar[i]
            for later in range(stage + 1, used):
                if method.stages[later, stage] != 0:
                    factor = number(method.stages[later, stage] * dt)
                    by_point = low_panel(room, own, room.stages + later)
                    for i in range(dimension * points):
                        f_bar[i] += factor * by_point[i]
            for i in range(net.integrals * points):
                stage_bar[i] = scaled * integral_bar[i]
            traced = net.integrals > 0 and method.solution[stage] != 0
            _combine(room, own, method.stages[stage], dt, stage, begin, x, dimension * points)
            forward(net, room, weights[stage], shifts[stage], own, stage, traced)
            pull(
                net,
                room,
                weights[stage],
                own,
                stage,
                f_bar,
                stage_bar,
                traced,
                weight_bars[worker, stage],
                shift_bars[worker, stage],
            )
        total = low_panel(room, own, room.stages)
        for stage in range(1, used):
            by_point = low_panel(room, own, room.stages + stage)
            for i in range((dimension + context) * points):
                total[i] += by_point[i]
        _store(total, part(begin_bar, first * dimension), dimension, 1, dimension, valid)
        by_context = part(total, dimension * points)
        _store(by_context, part(context_bar, first * context), context, 1, context, valid)
