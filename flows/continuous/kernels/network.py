"""One panel through a network at one time: value, Jacobian products and the gradients of both.

The mathematics is that of :mod:`flows.continuous.dense_products`: layer l has input x,
pre-activation p = W x + b, slope s = a'(p) and curve c = a''(p), and takes a tangent u to its image
q = W u and on to s q; with bars for gradients ::

    q_bar = s u_bar,    p_bar = s x_bar + c sum(q u_bar),    x_bar = W^T p_bar,
    W_bar = p_bar x^T + q_bar u^T

A tangent enters at layer ``first`` (behind the bottleneck, or 0), runs to the end, goes on at the
beginning and comes out before layer ``first``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

from flows.continuous.kernels.activations import activate
from flows.continuous.kernels.blocks import multiply, multiply_transposed, outer, turn
from flows.continuous.kernels.compiled import compiled

__all__ = ["Network", "Workspace", "copy", "forward", "pull"]

Array = NDArray[Any]


class Network(NamedTuple):
    """The shape of a network, and what is asked of it.

    Weights at one time are one flat array, shifts another; a layer's rows come in multiples of
    ``PADDING``, its columns of a panel's row, and what is not the layer's is zero.

    Attributes:
        widths: int64, of the input (state and context), of the hidden layers, of the output D.
        weights_at: int64, where a layer's weights begin.
        shifts_at: int64, where its shifts begin.
        rows: int64, numbers from one row of its weights to the next.
        dimension: D.
        first: the layer where tangents enter.
        activation: place in :data:`flows.continuous.kernels.activations.ACTIVATIONS`.
        residual: whether the state is subtracted from the value.
        weight: what the sum of the products is multiplied with.
        kinetic: which integral is that of ||f||^2, or -1.
        jacobian: which is that of the sum of ||J v||^2 times ``weight``, or -1.
    """

    widths: Array
    weights_at: Array
    shifts_at: Array
    rows: Array
    dimension: int
    first: int
    activation: int
    residual: bool
    weight: float
    kinetic: int
    jacobian: int


class Workspace(NamedTuple):
    """Room for one panel's way through a network; F features at most, P tangents.

    An evaluation that nobody differentiates needs the last of anything only: there is room for
    ``kept`` layers of what goes from layer to layer, and a layer's place is its number modulo that.

    Attributes:
        values: ``(kept, F, points)``, the input of each layer but the first.
        slopes: ``(depth, F, points)``.
        curves: ``(depth or 1, F, points)``.
        tangents: ``(kept, P, F, points)``, the tangents that enter a layer.
        images: ``(depth or 1, P, F, points)``, and what its weights make of them.
        curved: ``(depth or 1, F, points)``, what comes by way of a slope.
        bars: ``(2, P, F, points)``.
        turned: ``(points, row of the weights)``.
        zeros: as many as a layer has rows.
    """

    values: Array
    slopes: Array
    curves: Array
    tangents: Array
    images: Array
    curved: Array
    bars: Array
    turned: Array
    zeros: Array


@compiled
def forward(
    net: Network,
    weights: Array,
    shifts: Array,
    z: Array,
    v: Array,
    work: Workspace,
    f: Array,
    q: Array,
    integrals: bool,
    record: bool,
) -> None:
    """The velocity of a panel and its integrands.

    Args:
        net: the network.
        weights: flat, at one time.
        shifts: likewise.
        z: state and context, ``(D + context, points)``.
        v: the vectors of the products, ``(P, width, points)``.
        work: room.
        f: gets the velocity, ``(D, points)``.
        q: gets the integrands, ``(m, points)``: the trace and the regularisers.
        integrals: whether they are asked for.
        record: whether all that :func:`pull` needs is to be left in ``work``.
    """
    depth, kept = len(net.rows), len(work.values)
    points = f.shape[1]
    x = z
    for layer in range(depth):
        y = work.values[(layer + 1) % kept]
        outputs = net.widths[layer + 1]
        multiply(
            weights,
            net.weights_at[layer],
            net.rows[layer],
            shifts,
            net.shifts_at[layer],
            x,
            y,
            outputs,
            net.widths[layer],
        )
        if layer < depth - 1:
            activate(
                net.activation,
                y.ravel(),
                work.slopes[layer].ravel(),
                work.curves[layer if record else 0].ravel(),
                outputs * points,
                record,
            )
        if integrals and layer >= net.first:
            _tangents(net, layer, weights, v, work)
        x = y
    for d in range(net.dimension):
        for c in range(points):
            f[d, c] = x[d, c] - (z[d, c] if net.residual else 0)
    if not integrals:
        return
    for layer in range(net.first):
        _tangents(net, layer, weights, v, work)
    images = work.images[(depth - 1) % len(work.images)]
    ends = images if net.first == 0 else work.tangents[net.first % kept]
    for integral in range(len(q)):
        for c in range(points):
            q[integral, c] = 0
    for probe in range(len(v)):
        for d in range(v.shape[1] if net.first else net.dimension):
            for c in range(points):
                q[0, c] += ends[probe, d, c] * v[probe, d, c]
    for c in range(points):
        q[0, c] *= net.weight
        if net.residual:
            q[0, c] -= net.dimension
    if net.kinetic >= 0:
        for d in range(net.dimension):
            for c in range(points):
                q[net.kinetic, c] += f[d, c] * f[d, c]
    if net.jacobian >= 0:
        for probe in range(len(v)):
            for d in range(net.dimension):
                for c in range(points):
                    image = images[probe, d, c] - (v[probe, d, c] if net.residual else 0)
                    q[net.jacobian, c] += net.weight * image * image


@compiled
def _tangents(net: Network, layer: int, weights: Array, v: Array, work: Workspace) -> None:
    """Take the tangents through a layer."""
    kept, last = len(work.tangents), len(net.rows) - 1
    images = work.images[layer % len(work.images)]
    following = work.tangents[(layer + 1) % kept if layer < last else 0]
    inputs = net.dimension if layer == 0 else net.widths[layer]
    outputs = net.widths[layer + 1]
    for probe in range(len(v)):
        source = v[probe] if layer == net.first else work.tangents[layer % kept, probe]
        image, made = images[probe], following[probe]
        multiply(
            weights,
            net.weights_at[layer],
            net.rows[layer],
            work.zeros,
            0,
            source,
            image,
            outputs,
            inputs,
        )
        count = outputs * image.shape[1]
        if layer < last:
            _product(work.slopes[layer].ravel(), image.ravel(), made.ravel(), count)
        elif net.first > 0:
            copy(image.ravel(), made.ravel(), count)


@compiled
def copy(source: Array, target: Array, count: int) -> None:
    """Copy the first numbers of a flat array."""
    for i in range(count):
        target[i] = source[i]


@compiled
def _product(left: Array, right: Array, result: Array, count: int) -> None:
    for i in range(count):
        result[i] = left[i] * right[i]


@compiled
def pull(
    net: Network,
    weights: Array,
    z: Array,
    v: Array,
    work: Workspace,
    f: Array,
    f_bar: Array,
    q_bar: Array,
    integrals: bool,
    weight_bars: Array,
    shift_bars: Array,
    z_bar: Array,
) -> None:
    """Gradients of what :func:`forward` has just recorded.

    Args:
        net: the network.
        weights: flat, at one time.
        z: state and context, as they were.
        v: the vectors of the products, as they were.
        work: with the record, which is used up.
        f: the velocity.
        f_bar: the gradient by it, ``(D, points)``; overwritten.
        q_bar: the gradient by the integrands, ``(m, points)``.
        integrals: whether they were asked for.
        weight_bars: flat; the gradient by the weights is added.
        shift_bars: flat; likewise.
        z_bar: gets the gradient by state and context, ``(F, points)``.
    """
    depth, points = len(net.rows), f.shape[1]
    if integrals:
        _pull_tangents(net, weights, v, work, f, f_bar, q_bar, weight_bars)
    # In turn in two places: what comes from behind a layer, and what goes on to the one before.
    p_bar, other = work.bars[0, 0], work.bars[1, 0]
    copy(f_bar.ravel(), p_bar.ravel(), net.dimension * points)
    for layer in range(depth - 1, -1, -1):
        inputs, outputs = net.widths[layer], net.widths[layer + 1]
        if layer < depth - 1:
            count = outputs * points
            _product(work.slopes[layer].ravel(), p_bar.ravel(), p_bar.ravel(), count)
            if integrals:
                curves, curved, bar = work.curves[layer], work.curved[layer], p_bar
                _add_product(curves.ravel(), curved.ravel(), bar.ravel(), count)
        turn(z if layer == 0 else work.values[layer], work.turned, inputs)
        outer(
            p_bar,
            work.turned,
            weight_bars,
            net.weights_at[layer],
            net.rows[layer],
            outputs,
            inputs,
        )
        at = net.shifts_at[layer]
        for o in range(outputs):
            total = p_bar[o, 0]
            for c in range(1, points):
                total += p_bar[o, c]
            shift_bars[at + o] += total
        x_bar = z_bar if layer == 0 else other
        multiply_transposed(
            weights,
            net.weights_at[layer],
            net.rows[layer],
            work.zeros,
            p_bar,
            x_bar,
            outputs,
            inputs,
        )
        p_bar, other = x_bar, p_bar
    if net.residual:
        for d in range(net.dimension):
            for c in range(points):
                z_bar[d, c] -= f_bar[d, c]


@compiled
def _add_product(left: Array, right: Array, result: Array, count: int) -> None:
    for i in range(count):
        result[i] += left[i] * right[i]


@compiled
def _pull_tangents(
    net: Network,
    weights: Array,
    v: Array,
    work: Workspace,
    f: Array,
    f_bar: Array,
    q_bar: Array,
    weight_bars: Array,
) -> None:
    """From the gradient by the integrands to ``curved``, and to those by weights and velocity."""
    depth, points = len(net.rows), f.shape[1]
    last = depth - 1
    u_bars, others = work.bars[0], work.bars[1]
    for probe in range(len(v)):
        u_bar, vector, image = u_bars[probe], v[probe], work.images[last, probe]
        for d in range(vector.shape[0] if net.first else net.dimension):
            for c in range(points):
                u_bar[d, c] = net.weight * q_bar[0, c] * vector[d, c]
        if net.jacobian >= 0:
            for d in range(net.dimension):
                for c in range(points):
                    slip = image[d, c] - (vector[d, c] if net.residual else 0)
                    u_bar[d, c] += 2 * net.weight * q_bar[net.jacobian, c] * slip
    if net.kinetic >= 0:
        for d in range(net.dimension):
            for c in range(points):
                f_bar[d, c] += 2 * f[d, c] * q_bar[net.kinetic, c]
    for place in range(depth - 1, -1, -1):
        layer = (net.first + place) % depth
        inputs = net.dimension if layer == 0 else net.widths[layer]
        outputs = net.widths[layer + 1]
        count = outputs * points
        for probe in range(len(v)):
            u_bar = u_bars[probe]
            if layer < last:
                image, curved = work.images[layer, probe].ravel(), work.curved[layer].ravel()
                if probe == 0:
                    _product(image, u_bar.ravel(), curved, count)
                else:
                    _add_product(image, u_bar.ravel(), curved, count)
                _product(work.slopes[layer].ravel(), u_bar.ravel(), u_bar.ravel(), count)
            turn(v[probe] if place == 0 else work.tangents[layer, probe], work.turned, inputs)
            outer(
                u_bar,
                work.turned,
                weight_bars,
                net.weights_at[layer],
                net.rows[layer],
                outputs,
                inputs,
            )
            if place > 0:
                multiply_transposed(
                    weights,
                    net.weights_at[layer],
                    net.rows[layer],
                    work.zeros,
                    u_bar,
                    others[probe],
                    outputs,
                    inputs,
                )
        u_bars, others = others, u_bars
