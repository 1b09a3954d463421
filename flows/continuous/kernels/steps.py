"""A whole solve of a batch, panel by panel, and its gradient.

The points of a batch know nothing of each other but the size of a step. So one panel goes through
all stages of an attempted step, value, products and error, before the next one is looked at. The
steps are those of :mod:`flows.continuous.ode.control`, whose functions are compiled in here.

Of several threads each goes the whole way with its share of the panels, and takes the same
decisions: they meet once an attempt to see each other's errors. On the way back they need not meet.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numpy.typing import NDArray

from flows.continuous.kernels import layers
from flows.continuous.kernels.blocks import PANEL_BYTES, part
from flows.continuous.kernels.compiled import compiled
from flows.continuous.kernels.network import Network, Room, forward, low_panel, panel, pull
from flows.continuous.kernels.threads import meet
from flows.continuous.ode import control

__all__ = [
    "DONE",
    "FULL",
    "NOT_FINITE",
    "TOO_MANY",
    "UNDERFLOW",
    "Batch",
    "Memory",
    "Method",
    "Tape",
    "Way",
    "pull_solve",
    "solve",
]

Array = NDArray[Any]

# How a solve ended, or why it came back before: the tape has no room for another step.
FULL, DONE, UNDERFLOW, NOT_FINITE, TOO_MANY = range(1, 6)

_part_of, _growth = compiled(control.part_of), compiled(control.growth)


class Method(NamedTuple):
    """A Runge-Kutta method, see :class:`flows.continuous.ode.tableaus.Tableau`.

    Attributes:
        times: ``(s,)``, c.
        stages: ``(s, s)``, the weights A.
        solution: ``(s,)``, b.
        error: ``(s,)``, b minus the embedded method's; zeros for a fixed-step method.
        counts: ``(s,)``, whether a stage's integrand has a weight in the solution or the error.
        adaptive: whether the first stage is the last one of the step before.
        used: how many stages the solution depends on.
        order: of the solution.
    """

    times: Array
    stages: Array
    solution: Array
    error: Array
    counts: Array
    adaptive: bool
    used: int
    order: int


class Batch(NamedTuple):
    """What of a batch stays the same from step to step.

    Attributes:
        size: n, points in all.
        panels: which they make.
        vectors: flat, those of the trace's products.
        strides: of these ``(P, n, width)``, in numbers.
        context: flat, ``(n, context)``.
        parameters: flat, of the layers.
    """

    size: int
    panels: int
    vectors: Array
    strides: tuple[int, ...]
    context: Array
    parameters: Array


class Way(NamedTuple):
    """Where a solve goes, see :class:`flows.continuous.ode.settings.Settings`.

    Attributes:
        start: initial time.
        end: final time.
        first: size of the first step; 0 to look for one.
        steps: of a fixed-step method.
        atol: absolute tolerance.
        rtol: relative tolerance.
        resolution: the part of the way that a step cannot be shorter than.
        max_evaluations: cap on evaluations.
    """

    start: float
    end: float
    first: float
    steps: int
    atol: float
    rtol: float
    resolution: float
    max_evaluations: int


class Memory(NamedTuple):
    """What the threads, or workers, write to; in all but the last two each has a row.

    Attributes:
        work: panels that one after the other is worked with.
        times: ``(workers, s)``, of stages.
        gates: ``(workers, s, ...)``, at these times.
        weights: likewise.
        shifts: likewise.
        control: what the control knows, by the names below.
        counts: what it counts, likewise.
        states: ``(panels, ...)``, what a panel takes along: low panels, by the names below.
        squares: ``(2, panels, 2)``, sums of squares of errors over their tolerance, of the state
            and of the first integral; in turn, as some read when others write again.
    """

    work: Array
    times: Array
    gates: Array
    weights: Array
    shifts: Array
    control: Array
    counts: Array
    states: Array
    squares: Array


# Forward a panel has the state and integrals at both ends of a step, and the rates of its stages;
# back the gradients by state and context, and by the integrals.
_BEGIN, _END, RATES = range(3)
_BAR, _INTEGRAL_BAR, BARS = range(3)

# The size that is due and the part of the way that is done; the error ratio of the last accepted
# step; where an attempt failed, and its size; size and ratio of the first accepted step.
_SIZE, _DONE, _BEFORE, AT, STEP, FIRST_SIZE, FIRST_RATIO, CONTROL = range(8)
OUTCOME, EVALUATIONS, ACCEPTED, REJECTED, TAPED, COUNTS = range(6)


class Tape(NamedTuple):
    """A piece of what a solve leaves for its gradient.

    Attributes:
        times: ``(c,)``, where c steps begin.
        sizes: ``(c,)``, of these.
        states: ``(c, panels, ...)``, panels of the state where they begin.
        velocities: ``(v, panels, used - 1, ...)``, at the stages but the last, of the first v.
    """

    times: Array
    sizes: Array
    states: Array
    velocities: Array


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
def _copy(source: Array, target: Array, count: int) -> None:
    for i in range(count):
        target[i] = source[i]


@compiled
def _load_given(net: Network, room: Room, batch: Batch, work: Array, index: int) -> int:
    """Context and the vectors of the products of a panel; how many points it has."""
    points = PANEL_BYTES // work.itemsize
    first = index * points
    valid = min(points, batch.size - first)
    width = net.table[0, 0] - net.dimension
    target = part(panel(room, work, room.point), net.dimension * points)
    _load(part(batch.context, first * width), width, 1, target, width, valid)
    probes, rows, features = batch.strides
    for probe in range(net.probes):
        source = part(batch.vectors, probe * probes + first * rows)
        _load(source, rows, features, panel(room, work, room.vectors + probe), net.width, valid)
    return valid


@compiled
def _combine(
    rates: Array,
    apart: int,
    weights: Array,
    dt: float,
    before: int,
    y: Array,
    target: Array,
    count: int,
) -> None:
    """``target = y + dt sum of weights[j] rates[j]`` of the stages before one."""
    number = y.dtype.type
    _copy(y, target, count)
    for stage in range(before):
        if weights[stage] != 0:
            factor = number(weights[stage] * dt)
            rate = part(rates, stage * apart)
            for i in range(count):
                target[i] += factor * rate[i]


@compiled
def _make(
    net: Network, method: Method, batch: Batch, memory: Memory, worker: int,
    t: float, dt: float, first: int, last: int,
) -> None:  # fmt: skip
    """The weights at the times of the stages from ``first`` to before ``last``, for a worker."""
    times = memory.times[worker]
    for stage in range(first, last):
        times[stage] = t + method.times[stage] * dt
    layers.make(
        net.table,
        batch.parameters,
        times[first:last],
        memory.gates[worker, first:last],
        memory.weights[worker, first:last],
        memory.shifts[worker, first:last],
    )


# -- forward --------------------------------------------------------------------------------------


@compiled
def _attempt(
    net: Network,
    room: Room,
    method: Method,
    way: Way,
    work: Array,
    dt: float,
    weights: Array,
    shifts: Array,
    state: Array,
    valid: int,
    squares: Array,
) -> None:
    """Try a step with one panel; set the sums of squares of its error over the tolerance."""
    points = PANEL_BYTES // work.itemsize
    number, dimension = work.dtype.type, net.dimension
    height = (dimension + net.integrals) * points
    x = panel(room, work, room.point)
    begin = low_panel(room, state, _BEGIN)
    end, rates = low_panel(room, state, _END), low_panel(room, state, RATES)
    last = len(method.solution) - 1
    for stage in range(1 if method.adaptive else 0, last + 1):
        row = method.stages[stage]
        if method.adaptive and stage == last:
            _combine(rates, room.thin_size, row, dt, last, begin, end, height)
            _copy(end, x, dimension * points)
        else:
            _combine(rates, room.thin_size, row, dt, stage, begin, x, dimension * points)
        traced = net.integrals > 0 and method.counts[stage]
        rate = low_panel(room, state, RATES + stage)
        forward(net, room, weights[stage], shifts[stage], work, rate, traced)
        if not traced:
            rate[dimension * points : height] = 0
    if not method.adaptive:
        _combine(rates, room.thin_size, method.solution, dt, last + 1, begin, end, height)
        return
    controlled = dimension + min(net.integrals, 1)
    nothing = panel(room, work, room.nothing)
    error = low_panel(room, part(work, room.thin), room.spare)
    _combine(rates, room.thin_size, method.error, dt, last + 1, nothing, error, controlled * points)
    atol, rtol = number(way.atol), number(way.rtol)
    squares[:] = 0
    for row in range(controlled):
        at = row * points
        total = number(0)
        for c in range(valid):
            scale = atol + rtol * max(abs(begin[at + c]), abs(end[at + c]))
            ratio = error[at + c] / scale
            total += ratio * ratio
        squares[0 if row < dimension else 1] += total


@compiled
def _first_step(
    net: Network,
    room: Room,
    method: Method,
    batch: Batch,
    way: Way,
    memory: Memory,
    meeting: Array,
    worker: int,
    workers: int,
) -> float:
    """As :func:`flows.continuous.ode.control.initial_step`, by state and trace one after the other.

    Workers meet twice.
    """
    points = PANEL_BYTES // memory.work.itemsize
    number = memory.work.dtype.type
    first = abs(way.end - way.start)
    atol, rtol = number(way.atol), number(way.rtol)
    for trace in range(1 + min(net.integrals, 1)):
        rows = 1 if trace else net.dimension
        for index in range(worker, batch.panels, workers):
            valid = min(points, batch.size - index * points)
            rate = low_panel(room, memory.states[index], RATES)
            value = low_panel(room, memory.states[index], _BEGIN)
            total = number(0)
            for row in range(net.dimension if trace else 0, net.dimension + trace):
                for i in range(row * points, row * points + valid):
                    scale = rate[i] * number(first) if trace else value[i]
                    ratio = rate[i] / (atol + rtol * abs(scale))
                    total += ratio * ratio
            memory.squares[trace, index, 0] = total
        meet(meeting, 1 + trace, workers)
        mean = memory.squares[trace, :, 0].sum() / (batch.size * rows)
        size = control.FIRST * mean ** (-0.5 / method.order)
        # The comparison as it stands lets NaN through.
        first = first if size >= first else size
    return first


@compiled
def _accept(
    net: Network, room: Room, method: Method, state: Array, index: int, tape: Tape, step: int
) -> None:
    """Go on at the end of a step of one panel, and note where it began; nowhere if ``step < 0``."""
    points = PANEL_BYTES // state.itemsize
    size = net.dimension * points
    begin = low_panel(room, state, _BEGIN)
    if step >= 0:
        _copy(begin, tape.states[step, index], size)
        if step < len(tape.velocities):
            for stage in range(method.used - 1):
                rate = low_panel(room, state, RATES + stage)
                _copy(rate, tape.velocities[step, index, stage], size)
    height = size + net.integrals * points
    _copy(low_panel(room, state, _END), begin, height)
    last = len(method.solution) - 1
    if method.adaptive:
        _copy(low_panel(room, state, RATES + last), low_panel(room, state, RATES), height)


@compiled
def solve(
    net: Network,
    room: Room,
    method: Method,
    batch: Batch,
    way: Way,
    memory: Memory,
    tape: Tape,
    taping: bool,
    y: Array,
    meeting: Array,
    worker: int,
    workers: int,
) -> None:
    """Follow a path, or go on with one where the last piece of tape was full.

    Args:
        net: the network.
        room: how the panels are numbered.
        method: the method.
        batch: the batch.
        way: where to go.
        memory: with zeros in ``counts`` at first.
        tape: gets the accepted steps.
        taping: whether it does.
        y: flat, the state and the integrals, row by row; becomes that at the end.
        meeting: where the workers meet: ``(1,)``, 0.
        worker: which one this is.
        workers: how many there are.
    """
    points = PANEL_BYTES // y.itemsize
    n, dimension = batch.size, net.dimension
    integrals = part(y, n * dimension)
    stages = len(method.solution)
    work = memory.work[worker]
    weights, shifts = memory.weights[worker], memory.shifts[worker]
    known, counts = memory.control[worker], memory.counts[worker]
    panel(room, work, room.nothing)[: room.size] = 0
    direction, span = (1.0 if way.end > way.start else -1.0), abs(way.end - way.start)
    met = 0
    outcome = 0
    if counts[OUTCOME] == 0:
        for index in range(worker, batch.panels, workers):
            first = index * points
            valid = min(points, n - first)
            begin = low_panel(room, memory.states[index], _BEGIN)
            _load(part(y, first * dimension), dimension, 1, begin, dimension, valid)
            _load(
                part(integrals, first), 1, n, part(begin, dimension * points), net.integrals, valid
            )
        if method.adaptive and way.max_evaluations < 1:
            outcome = TOO_MANY
        elif method.adaptive:
            counts[EVALUATIONS] = 1
            _make(net, method, batch, memory, worker, way.start, 0.0, 0, 1)
            for index in range(worker, batch.panels, workers):
                _load_given(net, room, batch, work, index)
                state = memory.states[index]
                x = panel(room, work, room.point)
                _copy(low_panel(room, state, _BEGIN), x, dimension * points)
                rate = low_panel(room, state, RATES)
                forward(net, room, weights[0], shifts[0], work, rate, net.integrals > 0)
            known[_SIZE] = way.first
            if way.first == 0:
                known[_SIZE] = _first_step(
                    net, room, method, batch, way, memory, meeting, worker, workers
                )
                met = 1 + min(net.integrals, 1)
                if not known[_SIZE] > 0:
                    outcome = NOT_FINITE
    counts[TAPED] = 0
    after_rejection = False
    while outcome == 0:
        if taping and counts[TAPED] == len(tape.sizes):
            outcome = FULL
            break
        step = span / way.steps
        done = counts[ACCEPTED] * step
        if method.adaptive:
            done = known[_DONE]
            step = _part_of(span - done, known[_SIZE])
        t = way.start + direction * done
        known[AT], known[STEP] = t, step
        if method.adaptive and not step > way.resolution * span:
            outcome = UNDERFLOW
            break
        first_stage = 1 if method.adaptive else 0
        if counts[EVALUATIONS] + stages - first_stage > way.max_evaluations:
            outcome = TOO_MANY
            break
        counts[EVALUATIONS] += stages - first_stage
        # As its weights, the step is multiplied in the state's precision.
        dt = float(y.dtype.type(direction * step))
        _make(net, method, batch, memory, worker, t, direction * step, first_stage, stages)
        squares = memory.squares[met % 2]
        for index in range(worker, batch.panels, workers):
            valid = _load_given(net, room, batch, work, index)
            state = memory.states[index]
            _attempt(
                net, room, method, way, work, dt, weights, shifts, state, valid, squares[index]
            )
        ratio = 0.0
        if method.adaptive:
            met += 1
            meet(meeting, met, workers)
            of_state = squares[:, 0].sum() / (n * dimension)
            of_trace = squares[:, 1].sum() / n
            # The comparison as it stands lets NaN of either through.
            ratio = math.sqrt(
                of_state if of_state >= of_trace or of_state != of_state else of_trace
            )
            known[_SIZE] = step * _growth(ratio, known[_BEFORE], method.order, after_rejection)
        after_rejection = not ratio <= 1
        if after_rejection:
            counts[REJECTED] += 1
            continue
        if counts[ACCEPTED] == 0:
            known[FIRST_SIZE], known[FIRST_RATIO] = step, ratio
        known[_BEFORE] = max(ratio, 1e-4)
        if taping:
            tape.times[counts[TAPED]], tape.sizes[counts[TAPED]] = t, direction * step
        for index in range(worker, batch.panels, workers):
            place = counts[TAPED] if taping else -1
            _accept(net, room, method, memory.states[index], index, tape, place)
        counts[TAPED] += 1
        counts[ACCEPTED] += 1
        known[_DONE] += step
        if counts[ACCEPTED] == way.steps if not method.adaptive else step == span - done:
            outcome = DONE
    counts[OUTCOME] = outcome
    if outcome != DONE:
        return
    for index in range(worker, batch.panels, workers):
        first = index * points
        valid = min(points, n - first)
        begin = low_panel(room, memory.states[index], _BEGIN)
        _store(begin, part(y, first * dimension), dimension, 1, dimension, valid)
        _store(part(begin, dimension * points), part(integrals, first), 1, n, net.integrals, valid)


# -- back -----------------------------------------------------------------------------------------


@compiled
def _pull_step(
    net: Network,
    room: Room,
    method: Method,
    work: Array,
    dt: float,
    weights: Array,
    shifts: Array,
    z: Array,
    velocities: Array,
    state: Array,
    weight_bars: Array,
    shift_bars: Array,
) -> None:
    """Gradient of a step of one panel.

    Args:
        net: the network.
        room: how the panels are numbered, with a record.
        method: the method.
        work: the panels, with context and vectors.
        dt: step.
        weights: at the times of the stages that the solution depends on.
        shifts: likewise.
        z: where the step began.
        velocities: those of the stages but the last; empty where they were not kept, and are
            computed once more.
        state: the gradient by the step's end, which becomes that by its beginning.
        weight_bars: ``(used, ...)``; those by the weights are added.
        shift_bars: likewise by the shifts.
    """
    points = PANEL_BYTES // work.itemsize
    number, used = work.dtype.type, method.used
    size, wide = net.dimension * points, net.table[0, 0] * points
    low = part(work, room.thin)
    x, f = panel(room, work, room.point), low_panel(room, low, room.spare)
    f_bar = low_panel(room, low, room.spare + 1)
    stage_bar = low_panel(room, low, room.spare + 2)
    bar, integral_bar = low_panel(room, state, _BAR), low_panel(room, state, _INTEGRAL_BAR)
    rates, apart = velocities, size
    if len(velocities) == 0:
        rates, apart = low_panel(room, low, room.rates), room.thin_size
        for stage in range(used - 1):
            _combine(rates, apart, method.stages[stage], dt, stage, z, x, size)
            rate = low_panel(room, low, room.rates + stage)
            forward(net, room, weights[stage], shifts[stage], work, rate, False)
    for stage in range(used - 1, -1, -1):
        scaled = number(method.solution[stage] * dt)
        for i in range(size):
            f_bar[i] = scaled * bar[i]
        for later in range(stage + 1, used):
            if method.stages[later, stage] != 0:
                factor = number(method.stages[later, stage] * dt)
                by_point = low_panel(room, low, room.stages + later)
                for i in range(size):
                    f_bar[i] += factor * by_point[i]
        for i in range(net.integrals * points):
            stage_bar[i] = scaled * integral_bar[i]
        traced = net.integrals > 0 and method.solution[stage] != 0
        _combine(rates, apart, method.stages[stage], dt, stage, z, x, size)
        forward(net, room, weights[stage], shifts[stage], work, f, traced)
        by_point = low_panel(room, low, room.stages + stage)
        pull(
            net,
            room,
            weights[stage],
            work,
            f,
            f_bar,
            stage_bar,
            traced,
            by_point,
            weight_bars[stage],
            shift_bars[stage],
        )
    for stage in range(used):
        by_point = low_panel(room, low, room.stages + stage)
        for i in range(wide):
            bar[i] += by_point[i]


@compiled
def pull_solve(
    net: Network,
    room: Room,
    method: Method,
    batch: Batch,
    memory: Memory,
    tape: Tape,
    taped: int,
    z_bar: Array,
    q_bar: Array,
    context_bar: Array,
    weight_bars: Array,
    shift_bars: Array,
    bars: Array,
    worker: int,
    workers: int,
) -> None:
    """Gradient of the steps on a piece of tape.

    Args:
        net: the network.
        room: how the panels are numbered, with a record.
        method: the method.
        batch: the batch.
        memory: without the parts of the control.
        tape: the piece.
        taped: how many steps are on it.
        z_bar: flat, the gradient by the solution, row by row; becomes that by the beginning.
        q_bar: that by the integrals, flat.
        context_bar: flat; that by the context is added.
        weight_bars: like ``memory.weights``, for those by the weights.
        shift_bars: likewise.
        bars: ``(workers, ...)``; a worker's share of those by the parameters is added.
        worker: which one this is.
        workers: how many there are.
    """
    points = PANEL_BYTES // z_bar.itemsize
    n, dimension, used = batch.size, net.dimension, method.used
    width = net.table[0, 0] - dimension
    work, times = memory.work[worker], memory.times[worker]
    weights, shifts = memory.weights[worker], memory.shifts[worker]
    by_weights, by_shifts = weight_bars[worker], shift_bars[worker]
    panel(room, work, room.nothing)[: room.size] = 0
    for index in range(worker, batch.panels, workers):
        first, state = index * points, memory.states[index]
        valid = min(points, n - first)
        # Nothing comes by the points that fill the last panel.
        state[:] = 0
        bar, integral_bar = low_panel(room, state, _BAR), low_panel(room, state, _INTEGRAL_BAR)
        by_context = part(bar, dimension * points)
        _load_valid(part(z_bar, first * dimension), dimension, 1, bar, dimension, valid)
        _load_valid(part(context_bar, first * width), width, 1, by_context, width, valid)
        _load_valid(part(q_bar, first), 1, n, integral_bar, net.integrals, valid)
    for step in range(taped - 1, -1, -1):
        t, dt = tape.times[step], tape.sizes[step]
        _make(net, method, batch, memory, worker, t, dt, 0, used)
        dt = float(z_bar.dtype.type(dt))
        by_weights[:] = 0
        by_shifts[:] = 0
        for index in range(worker, batch.panels, workers):
            _load_given(net, room, batch, work, index)
            z = tape.states[step, index]
            velocities = z[:0]
            if step < len(tape.velocities):
                velocities = tape.velocities[step, index].ravel()
            _pull_step(
                net,
                room,
                method,
                work,
                dt,
                weights,
                shifts,
                z,
                velocities,
                memory.states[index],
                by_weights,
                by_shifts,
            )
        gates = memory.gates[worker, :used]
        layers.pull_back(
            net.table, batch.parameters, times[:used], gates, by_weights, by_shifts, bars[worker]
        )
    for index in range(worker, batch.panels, workers):
        first = index * points
        valid = min(points, n - first)
        bar = low_panel(room, memory.states[index], _BAR)
        by_context = part(bar, dimension * points)
        _store(bar, part(z_bar, first * dimension), dimension, 1, dimension, valid)
        _store(by_context, part(context_bar, first * width), width, 1, width, valid)


@compiled
def _load_valid(source: Array, down: int, along: int, target: Array, rows: int, valid: int) -> None:
    """Like :func:`_load`, without filling the panel."""
    points = PANEL_BYTES // source.itemsize
    for row in range(rows):
        for c in range(valid):
            target[row * points + c] = source[c * down + row * along]
