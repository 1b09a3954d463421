"""The right-hand side with small dense dynamics on CUDA: a step, or its gradient, is one kernel.

A program takes :data:`ROWS` points through all stages of an attempted step: value and tangent
together through each layer, in registers, so that a weight is loaded once for both. What the stages
leave it writes, and reads again where a later one wants it; the sums of squares of the error leave
each program, and torch adds them up. The weights at the stages' times come from torch, one row of
numbers a time, whatever the kind of the layers.

A pull goes the same way once more, keeps what the way back needs in memory, and leaves each
program's share of the gradients by the weights, which torch adds up.

All that :func:`covers` says no to is torch's (:class:`flows.continuous.ode.dense.DenseEvaluator`),
and so is the gradient of steps with several probes, with regularisers, or without velocities. The
kernels agree with it to rounding, to which they are held in Triton's interpreter by the tests, and
on each device before they are used there.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, cast, overload

import torch
import triton
import triton.language as tl
from torch import Tensor

from flows.continuous.ode import on_device
from flows.continuous.ode.dense import DenseEvaluator, Moment
from flows.continuous.ode.dynamics import DenseDynamics, TimeAffine
from flows.continuous.ode.evaluator import Problem, Shares, Step
from flows.continuous.ode.settings import Settings
from flows.continuous.ode.tableaus import coefficients

__all__ = ["TritonEvaluator", "covers", "refused"]

ROWS = 16
"""Points of a program, the fewest that a product takes; more leave most of a device without work
at batches of a thousand."""

WIDEST = 64
"""Of a layer, in numbers, padded to a power of two: its weights are to fit the shared memory."""

MOST_PROBES = 8
"""The value goes through the network once more with each of the probes' tangents."""

ACTIVATIONS = ("tanh", "softplus", "elu", "swish", "square")


@triton.jit
def _activated(p, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    """a(p), a'(p) and a''(p)."""
    if ACTIVATION == 0:
        a = 2 * tl.sigmoid(2 * p) - 1
        s = 1 - a * a
        c = -2 * a * s
    elif ACTIVATION == 1:
        # Beyond 20 the value is taken for p, as torch does.
        a = tl.where(p > 20, p, tl.maximum(p, 0.0) + tl.log(1 + tl.exp(-tl.abs(p))))
        s = tl.sigmoid(p)
        c = s * (1 - s)
    elif ACTIVATION == 2:
        e = tl.exp(tl.minimum(p, 0.0))
        a = tl.where(p > 0, p, e - 1)
        s = tl.where(p > 0, 1.0, e)
        c = tl.where(p < 0, e, 0.0)
    elif ACTIVATION == 3:
        gate = tl.sigmoid(p)
        a = p * gate
        s = gate + a * (1 - gate)
        c = gate * (1 - gate) * (2 + p * (1 - 2 * gate))
    else:
        a = p * p
        s = 2 * p
        c = 0 * p + 2
    return a, s, c


@triton.jit
def _layer(made, table, layer, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """A layer's weight, turned around, and shift; 0 beyond its own."""
    row = table + 4 * layer
    weight, shift = tl.load(row), tl.load(row + 1)
    inputs, outputs = tl.load(row + 2), tl.load(row + 3)
    i, o = tl.arange(0, INPUTS)[:, None], tl.arange(0, OUTPUTS)[None, :]
    there = (i < inputs) & (o < outputs)
    turned = tl.load(made + weight + o * inputs + i, mask=there, other=0.0)
    return turned, tl.load(made + shift + o, mask=o < outputs, other=0.0)


@triton.jit
def _combined(begin, rates, factors, dt, count, size, places, there):  # type: ignore[no-untyped-def]
    """What is at these places of the state, and so many rates, each by its factor times dt."""
    total = tl.load(begin + places, mask=there, other=0.0)
    for stage in range(count):
        factor = tl.load(factors + stage) * dt
        total += factor * tl.load(rates + stage * size + places, mask=there, other=0.0)
    return total


@triton.jit
def _squares(error, begin, end, atol, rtol, there):  # type: ignore[no-untyped-def]
    scaled = error / (atol + rtol * tl.maximum(tl.abs(begin), tl.abs(end)))
    return tl.where(there, scaled * scaled, 0.0)


@triton.jit
def _step(  # type: ignore[no-untyped-def]
    y,  # the state, flat
    first_rate,  # dy/dt there; not read without ADAPTIVE
    dt_at,  # the step's size
    made,  # (times, total): weights and shifts at the times of the evaluated stages
    total,
    table,  # a row a layer: where weight and shift are in a row of these, inputs, outputs
    stages,  # A, (STAGES, STAGES), of the method
    solution,  # b
    error,  # b minus the embedded method's
    asked,  # whether a stage's integrands are
    vectors,  # of the probes, with the steps from one to the next, of rows and of numbers
    vectors_step,
    vectors_row,
    vectors_column,
    weight,  # of the products' sum
    context,  # (n, width - dimension)
    rates,  # (STAGES, size), written
    y1,  # the solution, written
    squares,  # (programs, 2), written
    nothing,  # zeros, as many as the state has numbers
    n,
    dimension,
    size,
    atol,
    rtol,
    width,  # of the first layer's input
    probes,
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
    ADAPTIVE: tl.constexpr,
    INTEGRALS: tl.constexpr,
    KINETIC: tl.constexpr,
    JACOBIAN: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RESIDUAL: tl.constexpr,
    INPUTS: tl.constexpr,  # padded: of the first layer
    HIDDEN: tl.constexpr,  # of the widest in between
    OUTPUTS: tl.constexpr,  # of the last
    BLOCK: tl.constexpr,
):
    dt = tl.load(dt_at)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = row < n
    # The state as the first layer takes it, beside the context, and as the last one gives it.
    column = tl.arange(0, INPUTS)[None, :]
    of_input = row[:, None] * dimension + column
    is_state = valid[:, None] & (column < dimension)
    out = tl.arange(0, OUTPUTS)[None, :]
    places = row[:, None] * dimension + out
    there = valid[:, None] & (out < dimension)
    given = tl.load(
        context + row[:, None] * (width - dimension) + column - dimension,
        mask=valid[:, None] & (column >= dimension) & (column < width),
        other=0.0,
    )
    if ADAPTIVE:
        tl.store(rates + places, tl.load(first_rate + places, mask=there), mask=there)
        for q in range(INTEGRALS):
            given_at = n * dimension + q * n + row
            tl.store(rates + given_at, tl.load(first_rate + given_at, mask=valid), mask=valid)
        tl.debug_barrier()
    for stage in range(1 if ADAPTIVE else 0, STAGES):
        layers = made + (stage - (1 if ADAPTIVE else 0)) * total
        row_of_a = stages + stage * STAGES
        x = given + _combined(y, rates, row_of_a, dt, stage, size, of_input, is_state)
        f = tl.zeros((BLOCK, OUTPUTS), tl.float32)
        trace = tl.zeros((BLOCK,), tl.float32)
        norm = tl.zeros((BLOCK,), tl.float32)
        for probe in range(probes):
            base = vectors + probe * vectors_step + row[:, None] * vectors_row
            # Each loop has names of its own: what one carries cannot change its shape.
            w_first, b_first = _layer(layers, table, 0, INPUTS, HIDDEN)
            p = tl.dot(x, w_first, input_precision="ieee") + b_first
            h, slope, _ = _activated(p, ACTIVATION)
            u = h
            if INTEGRALS > 0:
                v = tl.load(base + column * vectors_column, mask=is_state, other=0.0)
                u = tl.dot(v, w_first, input_precision="ieee") * slope
            for layer in range(1, DEPTH - 1):
                w, b = _layer(layers, table, layer, HIDDEN, HIDDEN)
                h, slope, _ = _activated(tl.dot(h, w, input_precision="ieee") + b, ACTIVATION)
                if INTEGRALS > 0:
                    u = tl.dot(u, w, input_precision="ieee") * slope
            w_last, b_last = _layer(layers, table, DEPTH - 1, HIDDEN, OUTPUTS)
            f = tl.dot(h, w_last, input_precision="ieee") + b_last
            if INTEGRALS > 0:
                v_out = tl.load(base + out * vectors_column, mask=there, other=0.0)
                image = tl.dot(u, w_last, input_precision="ieee")
                trace += tl.sum(image * v_out, 1)
                if RESIDUAL:
                    image -= v_out
                norm += tl.sum(image * image, 1)
        if RESIDUAL:
            f -= _combined(y, rates, row_of_a, dt, stage, size, places, there)
        rate = rates + stage * size
        tl.store(rate + places, f, mask=there)
        if INTEGRALS > 0:
            counts = tl.load(asked + stage)
            trace *= weight
            if RESIDUAL:
                trace -= dimension
            at = rate + n * dimension + row
            tl.store(at, trace * counts, mask=valid)
            if KINETIC > 0:
                speed = tl.sum(tl.where(there, f * f, 0.0), 1)
                tl.store(at + KINETIC * n, speed * counts, mask=valid)
            if JACOBIAN > 0:
                tl.store(at + JACOBIAN * n, norm * weight * counts, mask=valid)
        # What a thread has written others read.
        tl.debug_barrier()
    # An adaptive method's last stage is at the solution, whose weights are its row of A.
    used = STAGES - 1 if ADAPTIVE else STAGES
    b_at = stages + (STAGES - 1) * STAGES if ADAPTIVE else solution
    end = _combined(y, rates, b_at, dt, used, size, places, there)
    tl.store(y1 + places, end, mask=there)
    first = n * dimension + row
    for q in range(INTEGRALS):
        end_at = first + q * n
        integral = _combined(y, rates, b_at, dt, used, size, end_at, valid)
        tl.store(y1 + end_at, integral, mask=valid)
    if ADAPTIVE:
        own = squares + 2 * tl.program_id(0)
        begin = tl.load(y + places, mask=there, other=0.0)
        off = _combined(nothing, rates, error, dt, STAGES, size, places, there)
        state = tl.sum(tl.sum(_squares(off, begin, end, atol, rtol, there), 1), 0)
        tl.store(own, state)
        if INTEGRALS > 0:
            begin_q = tl.load(y + first, mask=valid, other=0.0)
            end_q = _combined(y, rates, b_at, dt, used, size, first, valid)
            off_q = _combined(nothing, rates, error, dt, STAGES, size, first, valid)
            tl.store(own + 1, tl.sum(_squares(off_q, begin_q, end_q, atol, rtol, valid), 0))


@triton.jit
def _stored_bars(  # type: ignore[no-untyped-def]
    bars,
    table,
    layer,
    x,
    p_bar,
    u,
    u_bar,
    TANGENT: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """A program's share of the gradients by a layer's weight and shift."""
    row = table + 4 * layer
    weight, shift = tl.load(row), tl.load(row + 1)
    inputs, outputs = tl.load(row + 2), tl.load(row + 3)
    i, o = tl.arange(0, INPUTS)[:, None], tl.arange(0, OUTPUTS)[None, :]
    bar = tl.dot(tl.trans(x), p_bar, input_precision="ieee")
    if TANGENT:
        bar += tl.dot(tl.trans(u), u_bar, input_precision="ieee")
    tl.store(bars + weight + o * inputs + i, bar, mask=(i < inputs) & (o < outputs))
    column = tl.arange(0, OUTPUTS)
    tl.store(bars + shift + column, tl.sum(p_bar, 0), mask=column < outputs)


@triton.jit
def _f_bar(  # type: ignore[no-untyped-def]
    z_bar, point_bars, stages, scaled, dt, stage, used, size, places, there, STAGES: tl.constexpr
):
    """The gradient by a stage's rate: by the solution, and by the points of later stages."""
    bar = tl.load(z_bar + places, mask=there, other=0.0) * scaled
    for later in range(stage + 1, used):
        factor = tl.load(stages + later * STAGES + stage) * dt
        bar += factor * tl.load(point_bars + later * size + places, mask=there, other=0.0)
    return bar


@triton.jit
def _pull(  # type: ignore[no-untyped-def]
    z,  # where the step began, flat
    velocities,  # (used - 1, size), at its stages but the last
    z_bar,  # gradient by the solution
    q_bar,  # that by the trace; not read without TANGENT
    dt_at,
    made,  # (used, total), as a step has them; as all that follows
    total,
    table,
    stages,
    solution,
    vectors,
    vectors_row,
    vectors_column,
    weight,
    context,
    point_bars,  # (used, size), written: the gradients by the stages' points
    context_bar,  # shape of the context, zeros; added to
    bars,  # (programs, used, total), written: each program's share of those by weights and shifts
    kept,  # (programs, DEPTH - 1, 4, BLOCK, HIDDEN), between a stage's way forward and back
    n,
    dimension,
    size,
    width,
    used,
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
    TANGENT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RESIDUAL: tl.constexpr,
    INPUTS: tl.constexpr,
    HIDDEN: tl.constexpr,
    OUTPUTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    dt = tl.load(dt_at)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = row < n
    column = tl.arange(0, INPUTS)[None, :]
    of_input = row[:, None] * dimension + column
    is_state = valid[:, None] & (column < dimension)
    out = tl.arange(0, OUTPUTS)[None, :]
    places = row[:, None] * dimension + out
    there = valid[:, None] & (out < dimension)
    of_context = row[:, None] * (width - dimension) + column - dimension
    is_context = valid[:, None] & (column >= dimension) & (column < width)
    given = tl.load(context + of_context, mask=is_context, other=0.0)
    base = vectors + row[:, None] * vectors_row
    v = tl.zeros((BLOCK, INPUTS), tl.float32)
    v_out = tl.zeros((BLOCK, OUTPUTS), tl.float32)
    if TANGENT:
        v = tl.load(base + column * vectors_column, mask=is_state, other=0.0)
        v_out = tl.load(base + out * vectors_column, mask=there, other=0.0)
    # Of each layer but the last: value, slope, curvature, and the tangent before the slope.
    tile: tl.constexpr = BLOCK * HIDDEN
    inside = tl.arange(0, BLOCK)[:, None] * HIDDEN + tl.arange(0, HIDDEN)[None, :]
    own = kept + tl.program_id(0) * (DEPTH - 1) * 4 * tile + inside
    for turn in range(used):
        stage = used - 1 - turn
        layers = made + stage * total
        own_bars = bars + (tl.program_id(0) * used + stage) * total
        # Forward.
        x = given + _combined(
            z, velocities, stages + stage * STAGES, dt, stage, size, of_input, is_state
        )
        w_first, b_first = _layer(layers, table, 0, INPUTS, HIDDEN)
        h, slope, curve = _activated(
            tl.dot(x, w_first, input_precision="ieee") + b_first, ACTIVATION
        )
        q = tl.zeros((BLOCK, HIDDEN), tl.float32)
        if TANGENT:
            q = tl.dot(v, w_first, input_precision="ieee")
        tl.store(own, h)
        tl.store(own + tile, slope)
        tl.store(own + 2 * tile, curve)
        tl.store(own + 3 * tile, q)
        for layer in range(1, DEPTH - 1):
            w, b = _layer(layers, table, layer, HIDDEN, HIDDEN)
            if TANGENT:
                q = tl.dot(q * slope, w, input_precision="ieee")
            h, slope, curve = _activated(tl.dot(h, w, input_precision="ieee") + b, ACTIVATION)
            at = own + 4 * layer * tile
            tl.store(at, h)
            tl.store(at + tile, slope)
            tl.store(at + 2 * tile, curve)
            tl.store(at + 3 * tile, q)
        # What a thread has written others read.
        tl.debug_barrier()
        # Back, the last layer first.
        scaled = tl.load(solution + stage) * dt
        p_out = _f_bar(
            z_bar, point_bars, stages, scaled, dt, stage, used, size, places, there, STAGES
        )
        u_out = tl.zeros((BLOCK, OUTPUTS), tl.float32)
        if TANGENT:
            by_trace = tl.load(q_bar + row, mask=valid, other=0.0) * scaled * weight
            u_out = v_out * by_trace[:, None]
        w_last, _b_last = _layer(layers, table, DEPTH - 1, HIDDEN, OUTPUTS)
        _stored_bars(
            own_bars, table, DEPTH - 1, h, p_out, q * slope, u_out, TANGENT, HIDDEN, OUTPUTS
        )
        x_bar = tl.dot(p_out, tl.trans(w_last), input_precision="ieee")
        u_bar = tl.dot(u_out, tl.trans(w_last), input_precision="ieee")
        for down in range(1, DEPTH - 1):
            layer_back = DEPTH - 1 - down
            at_back = own + 4 * layer_back * tile
            slope_back = tl.load(at_back + tile)
            p_bar = slope_back * x_bar
            if TANGENT:
                p_bar += tl.load(at_back + 2 * tile) * tl.load(at_back + 3 * tile) * u_bar
            by_q = u_bar * slope_back
            before = at_back - 4 * tile
            u_before = tl.load(before + 3 * tile) * tl.load(before + tile)
            _stored_bars(
                own_bars,
                table,
                layer_back,
                tl.load(before),
                p_bar,
                u_before,
                by_q,
                TANGENT,
                HIDDEN,
                HIDDEN,
            )
            w_back, _b_back = _layer(layers, table, layer_back, HIDDEN, HIDDEN)
            x_bar = tl.dot(p_bar, tl.trans(w_back), input_precision="ieee")
            u_bar = tl.dot(by_q, tl.trans(w_back), input_precision="ieee")
        slope_first = tl.load(own + tile)
        p_first = slope_first * x_bar
        if TANGENT:
            p_first += tl.load(own + 2 * tile) * tl.load(own + 3 * tile) * u_bar
        _stored_bars(
            own_bars, table, 0, x, p_first, v, u_bar * slope_first, TANGENT, INPUTS, HIDDEN
        )
        bar = tl.dot(p_first, tl.trans(w_first), input_precision="ieee")
        tl.store(
            context_bar + of_context,
            tl.load(context_bar + of_context, mask=is_context, other=0.0) + bar,
            mask=is_context,
        )
        if RESIDUAL:
            bar -= _f_bar(
                z_bar, point_bars, stages, scaled, dt, stage, used, size, of_input, is_state, STAGES
            )
        tl.store(point_bars + stage * size + of_input, bar, mask=is_state)
        tl.debug_barrier()


@dataclass(frozen=True)
class _Moments(Sequence[Moment]):
    """The network at several times, a row of numbers each, and views of it as torch wants them."""

    rows: Tensor
    shapes: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Moment: ...
    @overload
    def __getitem__(self, place: slice) -> _Moments: ...
    def __getitem__(self, place: int | slice) -> Moment | _Moments:
        if isinstance(place, slice):
            return _Moments(self.rows[place], self.shapes)
        sizes = [size for outputs, inputs in self.shapes for size in (outputs * inputs, outputs)]
        parts = self.rows[place].split(sizes)
        weights = tuple(w.view(shape) for w, shape in zip(parts[0::2], self.shapes, strict=True))
        return Moment(weights, parts[1::2])


class TritonEvaluator(DenseEvaluator):
    """What :class:`DenseEvaluator` gives, each attempted step and its gradient by one kernel."""

    # What torch.compile would fuse is one kernel already.
    compiles = False

    def moments(self, times: Tensor) -> Sequence[Moment]:  # type: ignore[override]
        with torch.no_grad():
            affine = self.held.call("affine", times)
            rows = torch.cat([one.reshape(len(times), -1) for one in affine], 1)
        return _Moments(rows, self._shapes)

    @property
    def _shapes(self) -> tuple[tuple[int, int], ...]:
        layers = cast(DenseDynamics, self.held.module).stack
        found = (cast(TimeAffine, layer) for layer in layers)
        return tuple((layer.outputs, layer.inputs) for layer in found)

    def step(
        self,
        problem: Problem,
        moments: Sequence[Moment],
        y: Tensor,
        first_rate: Tensor | None,
        dt: Tensor,
    ) -> Step:
        rows = cast(_Moments, moments).rows
        settings, weights, n = problem.settings, problem.coefficients, problem.shape[0]
        tableau, shapes = settings.tableau, self._shapes
        stages = len(tableau.times)
        programs = triton.cdiv(n, ROWS)
        rates, y1 = y.new_empty(stages, problem.size), torch.empty_like(y)
        squares = y.new_zeros(programs, 2)
        probes = self.probes
        vectors = y if probes is None else probes.vectors
        strides = (0, 0, 0) if probes is None else vectors.stride()
        place = {name: 1 + index for index, name in enumerate(self.regularizers)}
        _step[(programs,)](
            y,
            y if first_rate is None else first_rate,
            dt,
            rows,
            rows.shape[1],
            _table(shapes, y.device),
            *weights,
            _asked(settings.solver, y.device),
            vectors,
            *strides,
            1.0 if probes is None else float(probes.weight),
            y if self.context is None else self.context.contiguous(),
            rates,
            y1,
            squares,
            torch.zeros_like(y),
            n,
            self.dimension,
            problem.size,
            settings.atol,
            settings.rtol,
            shapes[0][1],
            1 if probes is None else len(vectors),
            DEPTH=self.depth,
            STAGES=stages,
            ADAPTIVE=tableau.adaptive,
            INTEGRALS=problem.integrals,
            KINETIC=place.get("kinetic_energy", 0),
            JACOBIAN=place.get("jacobian_norm", 0),
            ACTIVATION=ACTIVATIONS.index(cast(DenseDynamics, self.held.module).activation),
            RESIDUAL=self.residual,
            INPUTS=_padded(shapes[0][1]),
            HIDDEN=_padded(max(outputs for outputs, _ in shapes[:-1])),
            OUTPUTS=_padded(self.dimension),
            BLOCK=ROWS,
        )
        if not tableau.adaptive:
            return Step(y1, y.new_zeros(()), rates)
        sums = squares.sum(0)
        square = sums[0] / (n * self.dimension)
        if problem.integrals:
            square = torch.maximum(square, sums[1] / n)
        return Step(y1, square, rates)

    def pull_step(
        self,
        problem: Problem,
        moments: Sequence[Moment],
        dt: Tensor,
        z: Tensor,
        velocities: Tensor | None,
        z_bar: Tensor,
        q_bar: Tensor | None,
    ) -> tuple[Tensor, list[Shares]]:
        probes = self.probes
        if (
            velocities is None
            or self.regularizers
            or (probes is not None and len(probes.vectors) > 1)
        ):
            return super().pull_step(problem, moments, dt, z, velocities, z_bar, q_bar)
        tableau, weights, n = problem.settings.tableau, problem.coefficients, problem.shape[0]
        rows, shapes, used = cast(_Moments, moments).rows, self._shapes, tableau.used
        programs, hidden = triton.cdiv(n, ROWS), _padded(max(out for out, _ in shapes[:-1]))
        tangent = q_bar is not None and probes is not None
        vectors = z if probes is None else probes.vectors
        point_bars = z.new_empty(used, problem.z_size)
        context = None if self.context is None else self.context.contiguous()
        context_bar = z.new_zeros(1) if context is None else torch.zeros_like(context)
        bars = z.new_empty(programs, used, rows.shape[1])
        _pull[(programs,)](
            z,
            velocities,
            z_bar.contiguous(),
            z if q_bar is None else q_bar.contiguous(),
            dt,
            rows,
            rows.shape[1],
            _table(shapes, z.device),
            weights.stages,
            weights.solution,
            vectors,
            *((0, 0) if probes is None else vectors.stride()[1:]),
            1.0 if probes is None else float(probes.weight),
            z if context is None else context,
            point_bars,
            context_bar,
            bars,
            z.new_empty(programs, self.depth - 1, 4, ROWS, hidden),
            n,
            self.dimension,
            problem.z_size,
            shapes[0][1],
            used,
            DEPTH=self.depth,
            STAGES=len(tableau.times),
            TANGENT=tangent,
            ACTIVATION=ACTIVATIONS.index(cast(DenseDynamics, self.held.module).activation),
            RESIDUAL=self.residual,
            INPUTS=_padded(shapes[0][1]),
            HIDDEN=hidden,
            OUTPUTS=_padded(self.dimension),
            BLOCK=ROWS,
        )
        by_stage = _Moments(bars.sum(0), shapes)
        shares: list[Shares] = []
        for one in by_stage:
            parts = zip(one.weights, one.shifts, strict=True)
            shares.append([*(part for pair in parts for part in pair), None])
        if context is not None:
            shares[0][-1] = context_bar
        return z_bar + point_bars.sum(0), shares


def _padded(width: int) -> int:
    """A product takes powers of two, 16 at the least."""
    return max(16, int(triton.next_power_of_2(width)))


_tables: dict[Hashable, Tensor] = {}


def _kept(key: Hashable, numbers: list[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Constants on a device, copied there once: a graph that is recorded may not wait for it."""
    key = key, device
    if key not in _tables:
        _tables[key] = torch.tensor(numbers, dtype=dtype).to(device)
    return _tables[key]


def _table(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    rows, at = [], 0
    for outputs, inputs in shapes:
        rows.append([at, at + outputs * inputs, inputs, outputs])
        at += outputs * (inputs + 1)
    return _kept(shapes, rows, torch.int32, device)


def _asked(solver: str, device: torch.device) -> Tensor:
    counts = Settings(solver=solver).tableau.counts
    return _kept(solver, [float(one) for one in counts], torch.float32, device)


# -- where it is used -----------------------------------------------------------------------------

refused: dict[Hashable, str] = {}
"""Why the kernel is not used for a structure that it is made for."""

_proven: set[Hashable] = set()


def covers(dense: DenseEvaluator, z: Tensor) -> bool:
    """Whether the kernel can, and should, stand for an evaluator from an initial state on."""
    probes, tensors = dense.probes, (z, *dense.tensors)
    if not on_device.applies(z) or not made_for(dense):
        return False
    if any(one.dtype != torch.float32 or one.device != z.device for one in tensors):
        return False
    key = dense.structure, None if probes is None else len(probes.vectors), z.device
    if key not in _proven and key not in refused:
        try:
            reason = _differs(dense, z)
        except Exception as error:
            # A compiler may fail in any way, and torch's path is there.
            reason = f"{type(error).__name__}: {error}"
        if reason is None:
            _proven.add(key)
        else:
            refused[key] = reason
    return key in _proven


def made_for(dense: DenseEvaluator) -> bool:
    """Whether the kernel has what the evaluator needs."""
    dynamics, probes = dense.held.module, dense.probes
    if type(dynamics) is not DenseDynamics or dense.depth < 2 or dense.tangent_order[0]:
        return False
    layers = [cast(TimeAffine, layer) for layer in dynamics.stack]
    widest = max(max(layer.inputs, layer.outputs) for layer in layers)
    return _padded(widest) <= WIDEST and (probes is None or len(probes.vectors) <= MOST_PROBES)


AGREEMENT = 1e-4
"""Relative, of numbers in single precision after six evaluations."""


@torch.no_grad()
def _differs(dense: DenseEvaluator, z: Tensor) -> str | None:
    """How the kernel's step differs from torch's, by more than rounding; None if it does not."""
    kernel = TritonEvaluator(
        cast(DenseDynamics, dense.held.module), dense.context, dense.probes, dense.regularizers
    )
    settings = Settings()
    weights = coefficients(settings.solver, z.dtype, z.device)
    problem = Problem(settings, weights, tuple(z.shape), dense.integrals)
    y = torch.zeros(problem.size, dtype=z.dtype, device=z.device)
    y[: problem.z_size] = z.reshape(-1)
    numbers = torch.tensor([0.1, *settings.tableau.evaluated], dtype=z.dtype).to(z.device)
    dt, times = numbers[0], 0.1 * numbers[1:]
    rate = torch.zeros_like(y)
    steps = [one.step(problem, one.moments(times), y, rate, dt) for one in (kernel, dense)]
    velocities = steps[1].rate[: settings.tableau.used - 1, : problem.z_size].contiguous()
    q_bar = z.new_ones(dense.integrals, len(z)) if dense.integrals else None
    flat = z.reshape(-1)
    compared = []
    for one, step in zip((kernel, dense), steps, strict=True):
        # A pull asks for the first stage, and not for the last.
        moments = one.moments(torch.cat([times.new_zeros(1), times[:-1]]))
        bar, shares = one.pull_step(problem, moments, dt, flat, velocities, flat, q_bar)
        # Of all stages; the context's is in a place of each way's own.
        parts = [part.reshape(-1) for share in shares for part in share[:-1] if part is not None]
        compared.append({**step._asdict(), "gradient": bar, "weights' gradient": torch.cat(parts)})
    for name, true in compared[1].items():
        mine = compared[0][name]
        finite = true.isfinite().all()
        off = (mine - true).abs().max() / true.abs().max().clamp(min=1e-30)
        # The error is a difference of near numbers.
        wrong = off > AGREEMENT * (100 if name == "square" else 1)
        if any(on_device.read((finite & (wrong | off.isnan()))[None])):
            return f"{name} is off by {off.item():.1e}"
    return None
