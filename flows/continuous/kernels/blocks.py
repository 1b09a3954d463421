"""Matrix products of panels, which stay in the first-level cache.

A panel is some features of a few points of the batch: features are rows, points lie along them,
and :data:`PANEL_BYTES` of numbers make a row, 32 in single precision. A layer of 64 inputs and as
many outputs is then 16 kB of weights that turn 8 kB into 8 kB, however large the batch.

All products are made of one block: ``ROWS`` rows of the result by ``VECTORS`` vectors along them
are summed up in registers, and each turn of the innermost loop loads ``VECTORS`` vectors of one
matrix and multiplies them with ``ROWS`` numbers of the other::

    result[r, c] = start[r] or result[r, c], + sum over i of  factors[r, i] * panel[i, c]

The sum may go along the rows or the columns of the factors, so that the same block makes ``W x``,
``W^T y`` and, of a panel turned around, ``y x^T``. It is written for LLVM, which plain loops do not
bring to hold results in registers: they reach half of its speed.

Arrays are flat. Rows of weights and of panels come in multiples of :data:`PADDING`; what is beyond
a layer's own is written and multiplied, and never read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array
from numpy.typing import NDArray

from flows.continuous.kernels.compiled import compiled

__all__ = ["PADDING", "PANEL_BYTES", "multiply", "multiply_transposed", "outer", "part", "turn"]

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


@intrinsic
def part(typing, array, at):  # type: ignore[no-untyped-def]
    """A flat array from a place on; unlike a slice it is no counted reference, and is free."""
    assert array.layout == "C", "kernels take arrays without gaps"
    view = types.Array(array.dtype, 1, "C")

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        source = context.make_array(array)(context, builder, arguments[0])
        made = context.make_array(view)(context, builder)
        place = arguments[1]
        size = context.get_constant(types.intp, array.dtype.bitwidth // 8)
        populate_array(
            made,
            data=builder.gep(source.data, [place]),
            shape=[builder.sub(builder.extract_value(source.shape, 0), place)],
            strides=[size],
            itemsize=size,
            meminfo=None,
        )
        return made._getvalue()

    return view(array, types.intp), generate


def _block(*, accumulate: bool) -> Callable[..., Any]:
    """The block that starts from a number for each row, or from what the result holds."""

    @intrinsic
    def block(  # type: ignore[no-untyped-def]
        typing,
        factors,
        along_rows,  # from one row's factor to the next one's
        along_sum,  # from one summand's factor to the next one's
        panel,
        panel_row,  # from one row of the panel to the next
        start,
        result,
        result_row,
        length,  # of the sum, 1 at the least
    ):
        index, array, number = types.intp, panel, panel.dtype
        signature = types.void(array, index, index, array, index, array, array, index, index)

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            values = [
                context.make_array(kind)(context, builder, value).data if kind == array else value
                for kind, value in zip(signature.args, arguments, strict=True)
            ]
            factors, along_rows, along_sum, panel, panel_row, start, result, result_row, length = (
                values
            )
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

            def vector_at(pointer, row, row_size, column):  # type: ignore[no-untyped-def]
                offset = builder.add(builder.mul(row, row_size), integer(column * lanes))
                return builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer())

            cells = [(row, column) for row in range(ROWS) for column in range(VECTORS)]
            places = [vector_at(result, integer(row), result_row, column) for row, column in cells]
            if accumulate:
                begin = [builder.load(place, align=size) for place in places]
            else:
                shifts = [spread(builder.gep(start, [integer(row)])) for row in range(ROWS)]
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
            loaded = [
                builder.load(vector_at(panel, i, panel_row, column), align=size)
                for column in range(VECTORS)
            ]
            column_at = builder.mul(i, along_sum)
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
            for place, new in zip(places, news, strict=True):
                builder.store(new, place, align=size)
            return context.get_dummy_value()

        return signature, generate

    made: Callable[..., Any] = block
    return made


_set = _block(accumulate=False)
_add = _block(accumulate=True)


@compiled
def multiply(
    weights: Array, row: int, shift: Array, x: Array, y: Array, outputs: int, inputs: int
) -> None:
    """``y = W x + b``.

    Args:
        weights: W, with ``row`` numbers from one of its rows to the next.
        row: see there.
        shift: b.
        x: panel of ``inputs`` rows.
        y: panel; gets ``outputs`` rows.
        outputs: rows of W.
        inputs: columns of W.
    """
    points = PANEL_BYTES // x.itemsize
    step = VECTORS * VECTOR_BYTES // x.itemsize
    for o in range(0, outputs, ROWS):
        factors, start = part(weights, o * row), part(shift, o)
        for c in range(0, points, step):
            result = part(y, o * points + c)
            _set(factors, row, 1, part(x, c), points, start, result, points, inputs)


@compiled
def multiply_transposed(
    weights: Array, row: int, nothing: Array, y: Array, x: Array, outputs: int, inputs: int
) -> None:
    """``x = W^T y``, like :func:`multiply`; ``nothing`` is ``PADDING`` zeros."""
    points = PANEL_BYTES // x.itemsize
    step = VECTORS * VECTOR_BYTES // x.itemsize
    for i in range(0, inputs, ROWS):
        factors = part(weights, i)
        for c in range(0, points, step):
            result = part(x, i * points + c)
            _set(factors, 1, row, part(y, c), points, nothing, result, points, outputs)


@compiled
def outer(y: Array, turned: Array, weights: Array, row: int, outputs: int, inputs: int) -> None:
    """``W += y x^T`` of an x that was turned, like :func:`multiply`."""
    points = PANEL_BYTES // y.itemsize
    step = VECTORS * VECTOR_BYTES // y.itemsize
    for o in range(0, outputs, ROWS):
        factors = part(y, o * points)
        for i in range(0, inputs, step):
            _add(
                factors, points, 1, part(turned, i), row, y, part(weights, o * row + i), row, points
            )


@compiled
def turn(x: Array, turned: Array, row: int, inputs: int) -> None:
    """Write a panel's first rows as columns of a matrix of rows of ``row`` numbers, the rest 0."""
    points = PANEL_BYTES // x.itemsize
    for c in range(points):
        source, target = part(x, c), part(turned, c * row)
        for i in range(inputs):
            target[i] = source[i * points]
        for i in range(inputs, row):
            target[i] = 0
