"""How the weights of each kind of layer depend on time, in one form that fits all kinds.

With k terms of time phi_k(t), a gate for each output and a drift, every kind of
:mod:`flows.continuous.ode.dynamics` is ::

    W(t) = gate(t) (sum of phi_k(t) W_k),
    b(t) = gate(t) (sum of phi_k(t) b_k) + drift t,      gate(t) = sigmoid(a t + c)

where phi_0 is 1; with two terms they are 1 - t and t (blend), with more, tanh of a line (hyper). All
are parts of one flat array, the block's parameters one after the other, and so are their gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flows.continuous.kernels.activations import sigmoid, tanh
from flows.continuous.kernels.blocks import PADDING, PANEL_BYTES, part
from flows.continuous.kernels.compiled import compiled
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

__all__ = ["Layers", "layers_of", "make", "pull_back"]

Array = NDArray[Any]
Named = dict[str, Tensor]

_ABSENT = -1


class Layers(NamedTuple):
    """Where what lies: weights as kernels take them, and the parameters that they are made of.

    At one time all weights are one flat array, shifts another. A layer's rows come in multiples of
    ``PADDING``, its columns of a panel's row.

    Attributes:
        widths: of the input (state and context), of the hidden layers, of the output D.
        weights_at: where a layer's weights begin, and where all end.
        shifts_at: where its shifts begin, likewise.
        rows: numbers from one row of its weights to the next.
        terms: ``(layers, k, 5)``, of each term where W_k lies, from one of its rows to the next,
            from one column to the next, where b_k lies, from one of its numbers to the next. Where
            something is not there, -1.
        lines: ``(layers, 2)``, where slopes and offsets under the tanh of terms 1, 2, ... lie.
        gates: ``(layers, 2)``, where a and c lie.
        drifts: ``(layers, 2)``, where the drift lies, and from one of its numbers to the next.
    """

    widths: Array
    weights_at: Array
    shifts_at: Array
    rows: Array
    terms: Array
    lines: Array
    gates: Array
    drifts: Array


@compiled
def _phi(layers: Layers, layer: int, k: int, parameters: Array, t: Any) -> Any:
    """The term of time."""
    one = type(t)(1)
    if layers.lines[layer, 0] >= 0:
        if k == 0:
            return one
        slope = parameters[layers.lines[layer, 0] + k - 1]
        return tanh(slope * t + parameters[layers.lines[layer, 1] + k - 1])
    if layers.terms.shape[1] == 2 and layers.terms[layer, 1, 0] >= 0:
        return t if k == 1 else one - t
    return one


@compiled
def _gate(layers: Layers, layer: int, o: int, parameters: Array, t: Any) -> Any:
    a, c = layers.gates[layer]
    return sigmoid(parameters[a + o] * t + parameters[c + o]) if a >= 0 else type(t)(1)


@compiled
def _add_scaled(factor: Any, source: Array, down: int, target: Array, up: int, count: int) -> None:
    """``target += factor source``, of numbers so far apart from one another."""
    if down == 1 and up == 1:
        for i in range(count):
            target[i] += factor * source[i]
    else:
        for i in range(count):
            target[i * up] += factor * source[i * down]


@compiled
def _dot(left: Array, right: Array, down: int, count: int) -> Any:
    total = left.dtype.type(0)
    if down == 1:
        for i in range(count):
            total += left[i] * right[i]
    else:
        for i in range(count):
            total += left[i] * right[i * down]
    return total


@compiled
def make(layers: Layers, parameters: Array, times: Array, weights: Array, shifts: Array) -> None:
    """Add the weights and shifts at each time to ``(s, ...)`` zeros."""
    for place in range(len(times)):
        t = times[place]
        for layer in range(len(layers.rows)):
            inputs, row = layers.widths[layer], layers.rows[layer]
            drift, drift_down = layers.drifts[layer]
            for o in range(layers.widths[layer + 1]):
                gate = _gate(layers, layer, o, parameters, t)
                target = part(weights[place], layers.weights_at[layer] + o * row)
                shift = layers.shifts_at[layer] + o
                for k in range(layers.terms.shape[1]):
                    at, down, along, shift_at, shift_down = layers.terms[layer, k]
                    factor = gate * _phi(layers, layer, k, parameters, t)
                    shifts[place, shift] += factor * parameters[shift_at + o * shift_down]
                    if at >= 0:
                        source = part(parameters, at + o * down)
                        _add_scaled(factor, source, along, target, 1, inputs)
                if drift >= 0:
                    shifts[place, shift] += parameters[drift + o * drift_down] * t


@compiled
def pull_back(
    layers: Layers,
    parameters: Array,
    times: Array,
    weight_bars: Array,
    shift_bars: Array,
    bars: Array,
) -> None:
    """Add to the gradients by the parameters from those by weights and shifts at each time."""
    for place in range(len(times)):
        t = times[place]
        for layer in range(len(layers.rows)):
            inputs, row = layers.widths[layer], layers.rows[layer]
            a, c = layers.gates[layer]
            drift, drift_down = layers.drifts[layer]
            for k in range(layers.terms.shape[1]):
                phi = _phi(layers, layer, k, parameters, t)
                at, down, along, shift_at, shift_down = layers.terms[layer, k]
                phi_bar = type(t)(0)
                for o in range(layers.widths[layer + 1]):
                    gate = _gate(layers, layer, o, parameters, t)
                    shift_bar = shift_bars[place, layers.shifts_at[layer] + o]
                    # The sum over what the term has in this row, times the gradient by it.
                    total = shift_bar * parameters[shift_at + o * shift_down]
                    bars[shift_at + o * shift_down] += gate * phi * shift_bar
                    if at >= 0:
                        bar = part(weight_bars[place], layers.weights_at[layer] + o * row)
                        source, target = part(parameters, at + o * down), part(bars, at + o * down)
                        total += _dot(bar, source, along, inputs)
                        _add_scaled(gate * phi, bar, 1, target, along, inputs)
                    phi_bar += gate * total
                    if a >= 0:
                        by_gate = phi * total * gate * (1 - gate)
                        bars[a + o] += by_gate * t
                        bars[c + o] += by_gate
                    if drift >= 0 and k == 0:
                        bars[drift + o * drift_down] += shift_bar * t
                if k > 0 and layers.lines[layer, 0] >= 0:
                    by_line = phi_bar * (1 - phi * phi)
                    bars[layers.lines[layer, 0] + k - 1] += by_line * t
                    bars[layers.lines[layer, 1] + k - 1] += by_line


# -- which parameters are what ------------------------------------------------------------------


@dataclass(frozen=True)
class _Parts:
    """Of one layer, as views of its parameters: terms (W_k, b_k), and lines, gate and drift."""

    terms: Sequence[tuple[Tensor | None, Tensor]]
    lines: tuple[Tensor, Tensor] | None = None
    gate: tuple[Tensor, Tensor] | None = None
    drift: Tensor | None = None


def _line(p: Named, name: str) -> tuple[Tensor, Tensor]:
    return p[f"{name}.weight"][:, 0], p[f"{name}.bias"]


def _linear(p: Named, name: str = "linear") -> tuple[Tensor, Tensor]:
    return p[f"{name}.weight"], p[f"{name}.bias"]


def _hyper(p: Named) -> _Parts:
    columns = [p["made.bias"], *p["made.weight"].t()]
    # As many shifts as there are outputs, and as many weights for each of the inputs.
    outputs = len(columns[0]) // (p["inputs"].numel() + 1)
    terms = [(one[outputs:].view(outputs, -1), one[:outputs]) for one in columns]
    return _Parts(terms, lines=_line(p, "hidden"))


_PARTS: dict[type, Callable[[Named], _Parts]] = {
    Ignore: lambda p: _Parts([_linear(p)]),
    Concat: lambda p: _Parts(
        [(p["linear.weight"][:, 1:], p["linear.bias"])], drift=p["linear.weight"][:, 0]
    ),
    ConcatV2: lambda p: _Parts(
        [_linear(p), (None, p["shift.bias"])], drift=p["shift.weight"][:, 0]
    ),
    Squash: lambda p: _Parts([_linear(p)], gate=_line(p, "gate")),
    ConcatSquash: lambda p: _Parts(
        [_linear(p)], gate=_line(p, "gate"), drift=p["shift.weight"][:, 0]
    ),
    Blend: lambda p: _Parts([_linear(p, "start"), _linear(p, "end")]),
    Hyper: _hyper,
}


def layers_of(block: DenseDynamics, named: Named, itemsize: int) -> Layers | None:
    """The layers of a block with parameters by name; None where these are not the known ones."""
    return _layers(
        tuple((type(layer), layer.inputs, layer.outputs) for layer in block.stack),
        tuple((name, tensor.shape) for name, tensor in named.items()),
        itemsize,
    )


@lru_cache(64)
def _layers(
    kinds: tuple[tuple[type, int, int], ...],
    shapes: tuple[tuple[str, torch.Size], ...],
    itemsize: int,
) -> Layers | None:
    # Views of nothing tell where in the flat array the parts of the real parameters lie.
    sizes = [shape.numel() for _, shape in shapes]
    flat = torch.empty(sum(sizes), device="meta")
    named = {
        name: piece.view(shape)
        for (name, shape), piece in zip(shapes, flat.split(sizes), strict=True)
    }
    first, *_ = kinds
    if any(kind not in _PARTS or kind != first[0] for kind, _, _ in kinds):
        return None
    found = []
    for index, (kind, inputs, outputs) in enumerate(kinds):
        own = f"stack.{index}."
        mine = {name.removeprefix(own): p for name, p in named.items() if name.startswith(own)}
        expected = {
            name: p.shape for name, p in _fresh(kind, inputs, outputs).named_parameters()
        }
        if {name: p.shape for name, p in mine.items()} != expected:
            return None
        found.append(_PARTS[kind]({**mine, "inputs": torch.empty(inputs, device="meta")}))
    inputs, outputs = [one for _, one, _ in kinds], [one for *_, one in kinds]
    rows = [_ceiling(width, PANEL_BYTES // itemsize) for width in inputs]
    tall = [_ceiling(width, PADDING) for width in outputs]

    def ends(sizes: Sequence[int]) -> Array:
        return np.cumsum([0, *sizes])

    return Layers(
        widths=np.array([inputs[0], *outputs]),
        weights_at=ends([height * row for height, row in zip(tall, rows, strict=True)]),
        shifts_at=ends(tall),
        rows=np.array(rows),
        terms=np.array([[_term(*term) for term in one.terms] for one in found]),
        lines=np.array([_places(one.lines) for one in found]),
        gates=np.array([_places(one.gate) for one in found]),
        drifts=np.array([_place_and_stride(one.drift) for one in found]),
    )


def _fresh(kind: type, inputs: int, outputs: int) -> torch.nn.Module:
    with torch.device("meta"):
        made: torch.nn.Module = kind(inputs, outputs)
    return made


def _ceiling(count: int, step: int) -> int:
    return -(-count // step) * step


def _term(weight: Tensor | None, shift: Tensor) -> tuple[int, ...]:
    of_weight = (_ABSENT, 0, 0)
    if weight is not None:
        of_weight = (int(weight.storage_offset()), *weight.stride())
    return *of_weight, *_place_and_stride(shift)


def _places(pair: tuple[Tensor, Tensor] | None) -> tuple[int, int]:
    if pair is None:
        return _ABSENT, _ABSENT
    # Of a matrix of one column its numbers lie side by side.
    return int(pair[0].storage_offset()), int(pair[1].storage_offset())


def _place_and_stride(vector: Tensor | None) -> tuple[int, int]:
    return (_ABSENT, 0) if vector is None else (int(vector.storage_offset()), *vector.stride())
