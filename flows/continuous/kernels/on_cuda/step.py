"""The kernel of an attempted step, of all its stages.

Value and tangent go together through each layer, in registers, so that a weight is loaded once
for both. What the stages leave a program writes, and reads again where a later one wants it; the
sums of squares of the error leave each program, and torch adds them up. The weights at the stages'
times come from torch, one row of numbers a time, whatever the kind of the layers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from flows.continuous.kernels.on_cuda.network import activated, combined, weights_of

__all__ = ["step_kernel"]


@triton.jit
def _squares(error, begin, end, atol, rtol, there):  # type: ignore[no-untyped-def]
    scaled = error / (atol + rtol * tl.maximum(tl.abs(begin), tl.abs(end)))
    return tl.where(there, scaled * scaled, 0.0)


@triton.jit
def step_kernel(  # type: ignore[no-untyped-def]
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
        x = given + combined(y, rates, row_of_a, dt, stage, size, of_input, is_state)
        f = tl.zeros((BLOCK, OUTPUTS), tl.float32)
        trace = tl.zeros((BLOCK,), tl.float32)
        norm = tl.zeros((BLOCK,), tl.float32)
        for probe in range(probes):
            base = vectors + probe * vectors_step + row[:, None] * vectors_row
            # Each loop has names of its own: what one carries cannot change its shape.
            w_first, b_first = weights_of(layers, table, 0, INPUTS, HIDDEN)
            p = tl.dot(x, w_first, input_precision="ieee") + b_first
            h, slope, _ = activated(p, ACTIVATION)
            u = h
            if INTEGRALS > 0:
                v = tl.load(base + column * vectors_column, mask=is_state, other=0.0)
                u = tl.dot(v, w_first, input_precision="ieee") * slope
            for layer in range(1, DEPTH - 1):
                w, b = weights_of(layers, table, layer, HIDDEN, HIDDEN)
                h, slope, _ = activated(tl.dot(h, w, input_precision="ieee") + b, ACTIVATION)
                if INTEGRALS > 0:
                    u = tl.dot(u, w, input_precision="ieee") * slope
            w_last, b_last = weights_of(layers, table, DEPTH - 1, HIDDEN, OUTPUTS)
            f = tl.dot(h, w_last, input_precision="ieee") + b_last
            if INTEGRALS > 0:
                v_out = tl.load(base + out * vectors_column, mask=there, other=0.0)
                image = tl.dot(u, w_last, input_precision="ieee")
                trace += tl.sum(image * v_out, 1)
                if RESIDUAL:
                    image -= v_out
                norm += tl.sum(image * image, 1)
        if RESIDUAL:
            f -= combined(y, rates, row_of_a, dt, stage, size, places, there)
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
    end = combined(y, rates, b_at, dt, used, size, places, there)
    tl.store(y1 + places, end, mask=there)
    first = n * dimension + row
    for q in range(INTEGRALS):
        end_at = first + q * n
        integral = combined(y, rates, b_at, dt, used, size, end_at, valid)
        tl.store(y1 + end_at, integral, mask=valid)
    if ADAPTIVE:
        own = squares + 2 * tl.program_id(0)
        begin = tl.load(y + places, mask=there, other=0.0)
        off = combined(nothing, rates, error, dt, STAGES, size, places, there)
        state = tl.sum(tl.sum(_squares(off, begin, end, atol, rtol, there), 1), 0)
        tl.store(own, state)
        if INTEGRALS > 0:
            begin_q = tl.load(y + first, mask=valid, other=0.0)
            end_q = combined(y, rates, b_at, dt, used, size, first, valid)
            off_q = combined(nothing, rates, error, dt, STAGES, size, first, valid)
            tl.store(own + 1, tl.sum(_squares(off_q, begin_q, end_q, atol, rtol, valid), 0))
