"""One panel through a network at one time: value, Jacobian products and the gradients of both.

The mathematics is that of :mod:`flows.continuous.ode.dense`: layer l has input x, pre-activation
p = W x + b, slope s = a'(p) and curve c = a''(p), and takes a tangent u to its image q = W u and on
to s q; with bars for gradients ::

    q_bar = s u_bar,    p_bar = s x_bar + c sum(q u_bar),    x_bar = W^T p_bar,
    W_bar = p_bar x^T + q_bar u^T

A tangent enters at layer ``first`` (behind the bottleneck, or 0), runs to the end, goes on at the
beginning and comes out before layer ``first``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from numpy.typing import NDArray

from flows.continuous.kernels.activations import activate
from flows.continuous.kernels.blocks import (
    PADDING,
    PANEL_BYTES,
    multiply,
    multiply_transposed,
    outer,
    part,
    turn,
)
from flows.continuous.kernels.compiled import compiled
from flows.continuous.kernels.layers import INPUTS, OUTPUTS, ROW, SHIFTS, WEIGHTS

__all__ = ["Network", "Room", "forward", "low_panel", "panel", "pull", "room_of"]

Array = NDArray[Any]


class Network(NamedTuple):
    """What is asked of a network.

    Attributes:
        table: of its layers, see :mod:`flows.continuous.kernels.layers`.
        widest: features of the widest panel that goes through.
        dimension: D, of the state.
        integrals: how many there are: the trace and the regularisers.
        probes: P, the number of products.
        width: of their vectors.
        first: the layer where tangents enter.
        activation: place in :data:`flows.continuous.kernels.activations.ACTIVATIONS`.
        residual: whether the state is subtracted from the value.
        weight: what the sum of the products is multiplied with.
        kinetic: which integral is that of ||f||^2, or -1.
        jacobian: which is that of the sum of ||J v||^2 times ``weight``, or -1.
    """

    table: Array
    widest: int
    dimension: int
    integrals: int
    probes: int
    width: int
    first: int
    activation: int
    residual: bool
    weight: float
    kinetic: int
    jacobian: int


class Room(NamedTuple):
    """How panels are numbered in the flat array in which one thread works.

    An evaluation that nobody differentiates needs the last of anything only: there is room for
    ``kept`` layers of what goes from layer to layer, and a layer's place is its number modulo that.

    Attributes:
        size: numbers of a panel; see :func:`room_of`.
        record: whether an evaluation leaves all that its gradient needs.
        kept: see above.
        point: state and context.
        vectors: P, those of the products.
        values: ``kept``, the inputs of the layers but the first.
        tangents: ``kept`` times P, the tangents that enter a layer.
        images: ``kept`` times P, and what its weights make of them.
        slopes: one for each layer, as the following.
        curves: of the nonlinearities, with a record.
        curved: what comes by way of a slope, with a record.
        bars: twice P, with a record.
        turned: a panel as a matrix of columns, with a record.
        nothing: zeros.
        thin: where low panels begin, whose numbers these are:
        rates: one for each stage, its velocity, with a record.
        stages: one for each stage, the gradient by its point, with a record.
        spare: three.
        thin_size: numbers of a low panel, as high as state, context and integrals.
        total: numbers in all.
    """

    size: int
    record: bool
    kept: int
    point: int
    vectors: int
    values: int
    tangents: int
    images: int
    slopes: int
    curves: int
    curved: int
    bars: int
    turned: int
    nothing: int
    thin: int
    rates: int
    stages: int
    spare: int
    thin_size: int
    total: int


def room_of(net: Network, itemsize: int, stages: int, *, record: bool) -> Room:
    """The room for a step of so many stages, or with a record for its gradient."""
    low = max(int(net.table[0, INPUTS]), net.dimension + net.integrals)
    highest = max(net.widest, net.width, low)
    return _room(len(net.table), net.probes, highest, low, itemsize, stages, record)


@lru_cache(256)
def _room(
    depth: int,
    probes: int,
    highest: int,
    low: int,
    itemsize: int,
    stages: int,
    record: bool,
) -> Room:
    points = PANEL_BYTES // itemsize
    # One row more than are needed: were panels a multiple of 4 kB apart, the processor would take a
    # load from one for a load of what was just stored to another.
    size, thin = ((-(-rows // PADDING) * PADDING + 1) * points for rows in (highest, low))
    kept, one = (depth, depth) if record else (2, 0)
    counts = (
        1,
        probes,
        kept,
        kept * probes,
        kept * probes,
        depth,
        one,
        one,
        2 * max(1, probes) if record else 0,
        int(record),
        1,
    )
    at = [sum(counts[:place]) for place in range(len(counts) + 1)]
    at[-1] *= size
    kept_stages = stages if record else 0
    low_panels = 0, kept_stages, 2 * kept_stages
    total = at[-1] + (2 * kept_stages + 3) * thin
    return Room(size, record, kept, *(*at, *low_panels, thin, total))


@compiled
def panel(room: Room, work: Array, number: int) -> Array:
    """The panel of a number."""
    made: Array = part(work, number * room.size)
    return made


@compiled
def low_panel(room: Room, low: Array, number: int) -> Array:
    """The low panel of a number, of an array of such."""
    made: Array = part(low, number * room.thin_size)
    return made


@compiled
def forward(
    net: Network, room: Room, weights: Array, shifts: Array, work: Array, rate: Array, traced: bool
) -> None:
    """The velocity of a panel and its integrands.

    Args:
        net: the network.
        room: where ``point`` and ``vectors`` are given.
        weights: flat, at one time.
        shifts: likewise.
        work: the panels.
        rate: a low panel, gets the velocity and below it the integrands.
        traced: whether the integrands are asked for.
    """
    table, depth = net.table, len(net.table)
    points = PANEL_BYTES // work.itemsize
    x = panel(room, work, room.point)
    for layer in range(depth):
        outputs = table[layer, OUTPUTS]
        y = panel(room, work, room.values + (layer + 1) % room.kept)
        if layer == depth - 1:
            y = rate
        multiply(
            part(weights, table[layer, WEIGHTS]),
            table[layer, ROW],
            part(shifts, table[layer, SHIFTS]),
            x,
            y,
            outputs,
            table[layer, INPUTS],
        )
        if layer < depth - 1:
            slopes = panel(room, work, room.slopes + layer)
            curves = panel(room, work, room.curves + layer)
            activate(net.activation, y, slopes, curves, outputs * points, room.record)
        if traced and layer >= net.first:
            _tangents(net, room, layer, weights, work)
        x = y
    if net.residual:
        z = panel(room, work, room.point)
        for i in range(net.dimension * points):
            x[i] -= z[i]
    if not traced:
        return
    for layer in range(net.first):
        _tangents(net, room, layer, weights, work)
    _integrands(net, room, x, part(x, net.dimension * points), work)


@compiled
def _integrands(net: Network, room: Room, f: Array, q: Array, work: Array) -> None:
    """The integrands, from the velocity and from what became of the tangents."""
    points = PANEL_BYTES // work.itemsize
    weight, nought = work.dtype.type(net.weight), work.dtype.type(0)
    last = room.images + (len(net.table) - 1) % room.kept * net.probes
    ends = room.tangents + net.first % room.kept * net.probes if net.first > 0 else last
    for i in range(net.integrals * points):
        q[i] = nought
    for probe in range(net.probes):
        end = panel(room, work, ends + probe)
        v = panel(room, work, room.vectors + probe)
        for d in range(net.width):
            for c in range(points):
                q[c] += end[d * points + c] * v[d * points + c]
    gone = work.dtype.type(net.dimension if net.residual else 0)
    for c in range(points):
        q[c] = weight * q[c] - gone
    if net.kinetic >= 0:
        energy = part(q, net.kinetic * points)
        for d in range(net.dimension):
            for c in range(points):
                energy[c] += f[d * points + c] * f[d * points + c]
    if net.jacobian >= 0:
        norm = part(q, net.jacobian * points)
        for probe in range(net.probes):
            image = panel(room, work, last + probe)
            v = panel(room, work, room.vectors + probe)
            for d in range(net.dimension):
                for c in range(points):
                    slip = image[d * points + c] - (v[d * points + c] if net.residual else nought)
                    norm[c] += weight * slip * slip


@compiled
def _tangents(net: Network, room: Room, layer: int, weights: Array, work: Array) -> None:
    """Take the tangents through a layer."""
    table, last = net.table, len(net.table) - 1
    points = PANEL_BYTES // work.itemsize
    inputs = net.dimension if layer == 0 else table[layer, INPUTS]
    outputs = table[layer, OUTPUTS]
    entered = room.tangents + layer % room.kept * net.probes
    if layer == net.first:
        entered = room.vectors
    images = room.images + layer % room.kept * net.probes
    following = room.tangents + (layer + 1 if layer < last else 0) % room.kept * net.probes
    for probe in range(net.probes):
        image = panel(room, work, images + probe)
        multiply(
            part(weights, table[layer, WEIGHTS]),
            table[layer, ROW],
            panel(room, work, room.nothing),
            panel(room, work, entered + probe),
            image,
            outputs,
            inputs,
        )
        made = panel(room, work, following + probe)
        if layer < last:
            slopes = panel(room, work, room.slopes + layer)
            for i in range(outputs * points):
                made[i] = slopes[i] * image[i]
        elif net.first > 0:
            for i in range(outputs * points):
                made[i] = image[i]


@compiled
def pull(
    net: Network,
    room: Room,
    weights: Array,
    work: Array,
    f: Array,
    f_bar: Array,
    q_bar: Array,
    traced: bool,
    z_bar: Array,
    weight_bars: Array,
    shift_bars: Array,
) -> None:
    """Gradients of what :func:`forward` has just recorded.

    Args:
        net: the network.
        room: how the panels are numbered.
        weights: flat, at one time.
        work: the panels, with the record, which is used up.
        f: the velocity that it gave.
        f_bar: the gradient by the velocity; overwritten.
        q_bar: the gradient by the integrands.
        traced: whether they were asked for.
        z_bar: a low panel, gets the gradient by state and context.
        weight_bars: flat; the gradient by the weights is added.
        shift_bars: flat; likewise.
    """
    table, depth = net.table, len(net.table)
    points = PANEL_BYTES // work.itemsize
    turned = panel(room, work, room.turned)
    if traced:
        _pull_integrands(net, room, f, work, f_bar, q_bar)
        _pull_tangents(net, room, weights, work, weight_bars)
    p_bar = panel(room, work, room.bars)
    for i in range(net.dimension * points):
        p_bar[i] = f_bar[i]
    for layer in range(depth - 1, -1, -1):
        inputs, outputs, row = table[layer, INPUTS], table[layer, OUTPUTS], table[layer, ROW]
        if layer < depth - 1:
            slopes = panel(room, work, room.slopes + layer)
            curves = panel(room, work, room.curves + layer)
            curved = panel(room, work, room.curved + layer)
            if traced:
                for i in range(outputs * points):
                    p_bar[i] = slopes[i] * p_bar[i] + curves[i] * curved[i]
            else:
                for i in range(outputs * points):
                    p_bar[i] *= slopes[i]
        turn(
            panel(room, work, room.point if layer == 0 else room.values + layer),
            turned,
            row,
            inputs,
        )
        weights_at = table[layer, WEIGHTS]
        outer(p_bar, turned, part(weight_bars, weights_at), row, outputs, inputs)
        shift_bar = part(shift_bars, table[layer, SHIFTS])
        for o in range(outputs):
            bar = part(p_bar, o * points)
            total = bar[0]
            for c in range(1, points):
                total += bar[c]
            shift_bar[o] += total
        # In turn in two places: what comes from behind a layer, and what goes to the one before.
        x_bar = panel(room, work, room.bars + (depth - layer) % 2 * max(1, net.probes))
        if layer == 0:
            x_bar = z_bar
        nothing = panel(room, work, room.nothing)
        multiply_transposed(part(weights, weights_at), row, nothing, p_bar, x_bar, outputs, inputs)
        p_bar = x_bar
    if net.residual:
        for i in range(net.dimension * points):
            p_bar[i] -= f_bar[i]


@compiled
def _pull_integrands(
    net: Network, room: Room, f: Array, work: Array, f_bar: Array, q_bar: Array
) -> None:
    """From the gradient by the integrands to those by the velocity and by the tangents' ends."""
    points = PANEL_BYTES // work.itemsize
    weight, two, nought = work.dtype.type(net.weight), work.dtype.type(2), work.dtype.type(0)
    last = len(net.table) - 1
    for probe in range(net.probes):
        u_bar = panel(room, work, room.bars + probe)
        v = panel(room, work, room.vectors + probe)
        image = panel(room, work, room.images + last * net.probes + probe)
        for d in range(net.width):
            for c in range(points):
                u_bar[d * points + c] = weight * q_bar[c] * v[d * points + c]
        if net.jacobian >= 0:
            bar = part(q_bar, net.jacobian * points)
            for d in range(net.dimension):
                for c in range(points):
                    slip = image[d * points + c] - (v[d * points + c] if net.residual else nought)
                    u_bar[d * points + c] += two * weight * bar[c] * slip
    if net.kinetic >= 0:
        bar = part(q_bar, net.kinetic * points)
        for d in range(net.dimension):
            for c in range(points):
                f_bar[d * points + c] += two * bar[c] * f[d * points + c]


@compiled
def _pull_tangents(
    net: Network, room: Room, weights: Array, work: Array, weight_bars: Array
) -> None:
    """From the gradient by the tangents' ends to ``curved``, and to that by the weights."""
    table, depth = net.table, len(net.table)
    points = PANEL_BYTES // work.itemsize
    turned = panel(room, work, room.turned)
    for place in range(depth - 1, -1, -1):
        layer = (net.first + place) % depth
        inputs = net.dimension if layer == 0 else table[layer, INPUTS]
        outputs, row = table[layer, OUTPUTS], table[layer, ROW]
        before, after = (depth - 1 - place) % 2 * net.probes, (depth - place) % 2 * net.probes
        entered = room.vectors if place == 0 else room.tangents + layer * net.probes
        for probe in range(net.probes):
            u_bar = panel(room, work, room.bars + before + probe)
            if layer < depth - 1:
                image = panel(room, work, room.images + layer * net.probes + probe)
                slopes = panel(room, work, room.slopes + layer)
                curved = panel(room, work, room.curved + layer)
                if probe == 0:
                    for i in range(outputs * points):
                        curved[i] = image[i] * u_bar[i]
                        u_bar[i] *= slopes[i]
                else:
                    for i in range(outputs * points):
                        curved[i] += image[i] * u_bar[i]
                        u_bar[i] *= slopes[i]
            turn(panel(room, work, entered + probe), turned, row, inputs)
            weights_at = table[layer, WEIGHTS]
            outer(u_bar, turned, part(weight_bars, weights_at), row, outputs, inputs)
            if place > 0:
                other = panel(room, work, room.bars + after + probe)
                nothing = panel(room, work, room.nothing)
                multiply_transposed(
                    part(weights, weights_at), row, nothing, u_bar, other, outputs, inputs
                )
