"""Matrix products of panels, which stay in the first-level cache.

A panel is some features of a few points of the batch: features are rows, points lie along them,
and :data:`PANEL_BYTES` of numbers make a row, 32 in single precision. A layer of 64 inputs and as
many outputs is then 16 kB of weights that turn 8 kB into 8 kB, however large the batch.

All products are made of one block: ``ROWS`` rows of the result by ``VECTORS`` vectors along them
are summed up in registers, and each turn of the innermost loop loads ``VECTORS`` vectors of one
matrix and multiplies them with ``ROWS`` numbers of the other::

    result[r, c] = start[r, c] + sum over i of  factors[r, i] * panel[i, c]

The sum may go along the rows or the columns of the factors, so that the same block makes ``W x``,
``W^T y`` and, of a panel turned around, ``y x^T``. It is written for LLVM, which plain loops do not
bring to hold results in registers: they reach half of its speed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from flows.continuous.kernels.compiled import compiled

__all__ = ["PADDING", "PANEL_BYTES", "multiply", "multiply_transposed", "outer", "turn"]

Array = NDArray[Any]

PANEL_BYTES = 128
"""Of a panel's row."""

PADDING = 8
"""Rows of weights and panels come in multiples of this."""

_FEATURES = llvmlite.binding.get_host_cpu_features()
# AVX-512 has 32 registers of 64 bytes. What has half of either takes half of a block.
_WIDE = bool(_FEATURES.get("avx512f"))
VECTOR_BYTES = 64 if _WIDE else 32
VECTORS = 2
ROWS = 8 if _WIDE else 4


def _block(*, accumulate: bool) -> Callable[..., Any]:
    """The block that starts from a number for each row, or from what the result holds."""

    @intrinsic
    def block(  # type: ignore[no-untyped-def]
        typing,
        factors,  # array
        factors_at,  # where the block's first factor lies in it
        along_rows,  # from one row's factor to the next one's
        along_sum,  # from one summand's factor to the next one's
        panel,
        panel_at,
        panel_row,  # from one row of the panel to the next
        start,
        start_at,
        result,
        result_at,
        result_row,
        length,  # of the sum, 1 at the least
    ):
        index = types.intp
        array, number = panel, panel.dtype
        signature = types.void(
            factors,
            index,
            index,
            index,
            array,
            index,
            index,
            start,
            index,
            result,
            index,
            index,
            index,
        )

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            values = list(arguments)
            for place in (0, 4, 7, 9):
                made = context.make_array(signature.args[place])
                values[place] = made(context, builder, values[place]).data
            (factors, factors_at, along_rows, along_sum, panel, panel_at, panel_row) = values[:7]
            (start, start_at, result, result_at, result_row, length) = values[7:]
            scalar = context.get_value_type(number)
            size = number.bitwidth // 8
            lanes = VECTOR_BYTES // size
            vector = ir.VectorType(scalar, lanes)
            integer = length.type
            lane, undefined = ir.IntType(32), ir.Constant(vector, ir.Undefined)
            everywhere = ir.Constant(ir.VectorType(lane, lanes), None)

            def spread(pointer):  # type: ignore[no-untyped-def]
                one = builder.insert_element(undefined, builder.load(pointer), lane(0))
                return builder.shuffle_vector(one, undefined, everywhere)

            def vector_at(pointer, offset):  # type: ignore[no-untyped-def]
                return builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer())

            def place_of(row, column):  # type: ignore[no-untyped-def]
                down = builder.mul(integer(row), result_row)
                offset = builder.add(builder.add(result_at, down), integer(column * lanes))
                return vector_at(result, offset)

            cells = [(row, column) for row in range(ROWS) for column in range(VECTORS)]
            if accumulate:
                begin = [builder.load(place_of(*cell), align=size) for cell in cells]
            else:
                shifts = [
                    spread(builder.gep(start, [builder.add(start_at, integer(row))]))
                    for row in range(ROWS)
                ]
                begin = [shifts[row] for row, _ in cells]
            before = builder.block
            loop = builder.append_basic_block("sum")
            after = builder.append_basic_block("done")
            builder.branch(loop)
            builder.position_at_end(loop)
            i = builder.phi(integer)
            i.add_incoming(integer(0), before)
            sums = [builder.phi(vector) for _ in cells]
            for total, value in zip(sums, begin, strict=True):
                total.add_incoming(value, before)
            row_at = builder.add(panel_at, builder.mul(i, panel_row))
            loaded = [
                builder.load(
                    vector_at(panel, builder.add(row_at, integer(column * lanes))), align=size
                )
                for column in range(VECTORS)
            ]
            column_at = builder.add(factors_at, builder.mul(i, along_sum))
            spreads = []
            for row in range(ROWS):
                offset = builder.add(column_at, builder.mul(integer(row), along_rows))
                spreads.append(spread(builder.gep(factors, [offset])))
            fused = ("contract",)
            news = [
                builder.fadd(
                    builder.fmul(spreads[row], loaded[column], flags=fused), total, flags=fused
                )
                for (row, column), total in zip(cells, sums, strict=True)
            ]
            following = builder.add(i, integer(1))
            i.add_incoming(following, loop)
            for total, new in zip(sums, news, strict=True):
                total.add_incoming(new, loop)
            builder.cbranch(builder.icmp_signed("<", following, length), loop, after)
            builder.position_at_end(after)
            for cell, new in zip(cells, news, strict=True):
                builder.store(new, place_of(*cell), align=size)
            return context.get_dummy_value()

        return signature, generate

    made: Callable[..., Any] = block
    return made


_set = _block(accumulate=False)
_add = _block(accumulate=True)


@compiled
def multiply(
    weights: Array,
    at: int,
    row: int,
    shift: Array,
    shift_at: int,
    x: Array,
    y: Array,
    outputs: int,
    inputs: int,
) -> None:
    """``y = W x + b``.

    Args:
        weights: flat, with W from ``at`` on and ``row`` numbers from one of its rows to the next.
        at: see there.
        row: see there.
        shift: flat, with b from ``shift_at`` on.
        shift_at: see there.
        x: shape ``(inputs or more, points)``.
        y: shape ``(outputs or more, points)``; rows up to the next multiple of ``PADDING`` are
            written.
        outputs: rows of W.
        inputs: columns of W.
    """
    points = x.shape[1]
    step = VECTORS * VECTOR_BYTES // x.itemsize
    for o in range(0, outputs, ROWS):
        for c in range(0, points, step):
            _set(
                weights,
                at + o * row,
                row,
                1,
                x,
                c,
                points,
                shift,
                shift_at + o,
                y,
                o * points + c,
                points,
                inputs,
            )


@compiled
def multiply_transposed(
    weights: Array,
    at: int,
    row: int,
    nothing: Array,
    y: Array,
    x: Array,
    outputs: int,
    inputs: int,
) -> None:
    """``x = W^T y``, like :func:`multiply`; ``nothing`` is an array of ``PADDING`` zeros."""
    points = x.shape[1]
    step = VECTORS * VECTOR_BYTES // x.itemsize
    for i in range(0, inputs, ROWS):
        for c in range(0, points, step):
            _set(
                weights,
                at + i,
                1,
                row,
                y,
                c,
                points,
                nothing,
                0,
                x,
                i * points + c,
                points,
                outputs,
            )


@compiled
def outer(
    y: Array, turned: Array, weights: Array, at: int, row: int, outputs: int, inputs: int
) -> None:
    """``W += y x^T`` of an x that was turned, like :func:`multiply`."""
    points = y.shape[1]
    step = VECTORS * VECTOR_BYTES // y.itemsize
    for o in range(0, outputs, ROWS):
        for i in range(0, inputs, step):
            _add(
                y,
                o * points,
                points,
                1,
                turned,
                i,
                turned.shape[1],
                y,
                0,
                weights,
                at + o * row + i,
                row,
                points,
            )


@compiled
def turn(x: Array, turned: Array, inputs: int) -> None:
    """Write the first rows of a panel as columns, and zeros into the rest of them."""
    for c in range(x.shape[1]):
        target = turned[c]
        for i in range(inputs):
            target[i] = x[i, c]
        for i in range(inputs, turned.shape[1]):
            target[i] = 0
