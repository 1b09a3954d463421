"""The kernel of an accepted step's gradient.

It goes the step's way once more, keeps what the way back needs in memory, and leaves each program's
share of the gradients by the weights, which torch adds up.
"""

from __future__ import annotations

import triton
import triton.language as tl

from flows.continuous.kernels.on_cuda.network import activated, combined, weights_of

__all__ = ["pull_kernel"]


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
def pull_kernel(  # type: ignore[no-untyped-def]
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
        x = given + combined(
            z, velocities, stages + stage * STAGES, dt, stage, size, of_input, is_state
        )
        w_first, b_first = weights_of(layers, table, 0, INPUTS, HIDDEN)
        h, slope, curve = activated(
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
            w, b = weights_of(layers, table, layer, HIDDEN, HIDDEN)
            if TANGENT:
                q = tl.dot(q * slope, w, input_precision="ieee")
            h, slope, curve = activated(tl.dot(h, w, input_precision="ieee") + b, ACTIVATION)
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
        w_last, _b_last = weights_of(layers, table, DEPTH - 1, HIDDEN, OUTPUTS)
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
            w_back, _b_back = weights_of(layers, table, layer_back, HIDDEN, HIDDEN)
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
