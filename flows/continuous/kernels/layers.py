"""How the weights of each kind of layer depend on time, in one form that fits all kinds.

With k terms of time phi_k(t), each t itself or the hyperbolic tangent of a line, a gate for each
output and a drift, every kind of :mod:`flows.continuous.ode.dynamics` is ::

    W(t) = gate(t) (W_0 + sum of phi_k(t) W_k),
    b(t) = gate(t) (b_0 + sum of phi_k(t) b_k) + drift t,      gate(t) = sigmoid(a t + c)

so that a solve which chooses its times on its way need not go back to torch for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flows.continuous.ode.dynamics import (
    Blend,
    Concat,
    ConcatSquash,
    ConcatV2,
    DenseDynamics,
    Hyper,
    Ignore,
    Squash,
)
from flows.continuous.kernels.activations import sigmoid, tanh
from flows.continuous.kernels.blocks import PADDING, PANEL_BYTES
from flows.continuous.kernels.compiled import compiled
from flows.continuous.kernels.network import Network

__all__ = ["Terms", "at_times", "packed", "places", "terms", "unpacked"]

Array = NDArray[Any]


class Terms(NamedTuple):
    """The layers of a network as functions of time; flat arrays as in ``Network``.

    Attributes:
        weights: ``(1 + k, ...)``, W_0, W_1, ...
        shifts: ``(1 + k, ...)``, b_0, b_1, ...
        lines: ``(layers, k, 2)``, slope and offset of the lines under a hyperbolic tangent.
        by_tanh: whether the terms are such, or t itself.
        gated: whether there are gates.
        gates: ``(2, ...)``, a and c.
        drift: flat, like a row of ``shifts``.
    """

    weights: Array
    shifts: Array
    lines: Array
    by_tanh: bool
    gated: bool
    gates: Array
    drift: Array


@compiled
def at_times(net: Network, terms: Terms, times: Array, weights: Array, shifts: Array) -> None:
    """The effective weights and shifts at each time, ``(s, ...)``."""
    count = len(terms.weights) - 1
    one = terms.drift.dtype.type(1)
    for place in range(len(times)):
        t = times[place]
        for layer in range(len(net.rows)):
            row, outputs, inputs = net.rows[layer], net.widths[layer + 1], net.widths[layer]
            for o in range(outputs):
                at, shift_at = net.weights_at[layer] + o * row, net.shifts_at[layer] + o
                gate = one
                if terms.gated:
                    gate = sigmoid(terms.gates[0, shift_at] * t + terms.gates[1, shift_at])
                target, source = (
                    weights[place, at : at + inputs],
                    terms.weights[0, at : at + inputs],
                )
                for i in range(inputs):
                    target[i] = gate * source[i]
                shift = gate * terms.shifts[0, shift_at] + terms.drift[shift_at] * t
                for k in range(count):
                    phi = gate * t
                    if terms.by_tanh:
                        line = terms.lines[layer, k]
                        phi = gate * tanh(line[0] * t + line[1])
                    term = terms.weights[1 + k, at : at + inputs]
                    for i in range(inputs):
                        target[i] += phi * term[i]
                    shift += phi * terms.shifts[1 + k, shift_at]
                shifts[place, shift_at] = shift


class _Parts(NamedTuple):
    """The same of one layer, as torch's tensors."""

    terms: list[tuple[Tensor, Tensor]]
    lines: Tensor | None = None
    gate: tuple[Tensor, Tensor] | None = None
    drift: Tensor | None = None


def _hyper(layer: Hyper) -> _Parts:
    def split(made: Tensor) -> tuple[Tensor, Tensor]:
        return made[layer.outputs :].reshape(layer.outputs, layer.inputs), made[: layer.outputs]

    columns = [layer.made.bias, *layer.made.weight.t()]
    return _Parts(
        [split(column) for column in columns],
        lines=torch.stack(_line(layer.hidden), 1),
    )


def _line(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    return linear.weight[:, 0], linear.bias


_PARTS: dict[type[nn.Module], Callable[[Any], _Parts]] = {
    Ignore: lambda layer: _Parts([(layer.linear.weight, layer.linear.bias)]),
    Concat: lambda layer: _Parts(
        [(layer.linear.weight[:, 1:], layer.linear.bias)], drift=layer.linear.weight[:, 0]
    ),
    ConcatV2: lambda layer: _Parts(
        [(layer.linear.weight, layer.linear.bias + layer.shift.bias)],
        drift=layer.shift.weight[:, 0],
    ),
    Squash: lambda layer: _Parts(
        [(layer.linear.weight, layer.linear.bias)], gate=_line(layer.gate)
    ),
    ConcatSquash: lambda layer: _Parts(
        [(layer.linear.weight, layer.linear.bias)],
        gate=_line(layer.gate),
        drift=layer.shift.weight[:, 0],
    ),
    Blend: lambda layer: _Parts(
        [
            (layer.start.weight, layer.start.bias),
            (layer.end.weight - layer.start.weight, layer.end.bias - layer.start.bias),
        ]
    ),
    Hyper: _hyper,
}


def _array(tensor: Tensor) -> Array:
    """A view of a tensor's memory."""
    return tensor.detach().numpy()


def _ceiling(count: int, step: int) -> int:
    return -(-count // step) * step


def places(block: DenseDynamics, itemsize: int) -> dict[str, Array]:
    """Where the layers' weights lie: the attributes of ``Network`` of these names."""
    layers = [cast(Any, layer) for layer in block.stack]
    inputs, outputs = [one.inputs for one in layers], [one.outputs for one in layers]
    rows = [_ceiling(width, PANEL_BYTES // itemsize) for width in inputs]
    tall = [_ceiling(width, PADDING) for width in outputs]
    sizes = [height * row for height, row in zip(tall, rows, strict=True)]
    return {
        "widths": np.array([inputs[0], *outputs]),
        "weights_at": np.cumsum([0, *sizes]),
        "shifts_at": np.cumsum([0, *tall]),
        "rows": np.array(rows),
    }


def unpacked(net: Network, weights: Array, shifts: Array) -> list[tuple[Array, Array]]:
    """Views of flat arrays ``(s, ...)``: each layer's (s, outputs, inputs) and (s, outputs)."""
    views = []
    for layer, row in enumerate(net.rows):
        inputs, outputs = net.widths[layer], net.widths[layer + 1]
        at, shift_at = net.weights_at[layer], net.shifts_at[layer]
        matrix = weights[:, at : at + outputs * row].reshape(len(weights), outputs, row)
        views.append((matrix[:, :, :inputs], shifts[:, shift_at : shift_at + outputs]))
    return views


def packed(net: Network, affine: list[Tensor]) -> tuple[Array, Array]:
    """A network's flat arrays from a block's ``affine`` at several times, ``(s, ...)``."""
    like = _array(affine[0])
    weights = np.zeros((len(like), net.weights_at[-1]), like.dtype)
    shifts = np.zeros((len(like), net.shifts_at[-1]), like.dtype)
    tensors = iter(affine)
    for weight, shift in unpacked(net, weights, shifts):
        weight[:] = _array(next(tensors))
        shift[:] = _array(next(tensors))
    return weights, shifts


def terms(net: Network, block: DenseDynamics) -> Terms:
    """The block's layers as functions of time."""
    with torch.no_grad():
        made = [_PARTS[type(layer)](layer) for layer in block.stack]
    count, first = len(made[0].terms), made[0]
    dtype = _array(first.terms[0][0]).dtype
    weights = np.zeros((count, net.weights_at[-1]), dtype)
    shifts = np.zeros((count, net.shifts_at[-1]), dtype)
    # Two more flat rows a layer: a gate's line; and a third, the drift.
    lines = np.zeros((3, net.shifts_at[-1]), dtype)
    by_time = np.zeros((len(made), count - 1, 2), dtype)
    for layer, (parts, views) in enumerate(zip(made, unpacked(net, weights, shifts), strict=True)):
        for place, (weight, shift) in enumerate(parts.terms):
            views[0][place], views[1][place] = _array(weight), _array(shift)
        at = net.shifts_at[layer]
        of_layer = lines[:, at : at + net.widths[layer + 1]]
        if parts.gate is not None:
            of_layer[0], of_layer[1] = _array(parts.gate[0]), _array(parts.gate[1])
        if parts.drift is not None:
            of_layer[2] = _array(parts.drift)
        if parts.lines is not None:
            by_time[layer] = _array(parts.lines)
    return Terms(
        weights,
        shifts,
        by_time,
        first.lines is not None,
        first.gate is not None,
        lines[:2],
        lines[2],
    )
