"""How the weights of each kind of layer depend on time, in one form that fits all kinds.

With k terms of time phi_k(t), a gate for each output and a drift, every kind of
:mod:`flows.continuous.ode.dynamics` is ::

    W(t) = gate(t) (sum of phi_k(t) W_k),
    b(t) = gate(t) (sum of phi_k(t) b_k) + drift t,      gate(t) = sigmoid(a t + c)

where phi_0 is 1; with two terms they are 1 - t and t (blend), with more, tanh of a line (hyper).
All are parts of one flat array, the block's parameters one after the other, and so are their
gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flows.continuous.kernels.activations import sigmoid, tanh
from flows.continuous.kernels.blocks import PADDING, PANEL_BYTES, part
from flows.continuous.kernels.compiled import compiled, whole_vectors
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

__all__ = [
    "INPUTS",
    "OUTPUTS",
    "ROW",
    "SHIFTS",
    "WEIGHTS",
    "Layers",
    "layers_of",
    "make",
    "pull_back",
]

Array = NDArray[Any]
Named = dict[str, Tensor]


# What of a layer stands in which column of a table of integers, a row a layer. The weights at one
# time are one flat array, the shifts another, with a layer's from WEIGHTS and SHIFTS on. Rows of
# weights are ROW numbers apart. All that follows are places among the parameters, and steps from
# one number there to the next: of the gate's a and c, of the drift, of slopes and offsets under the
# tanh of terms 1, 2, ..., and of each term W_k with its steps down and along, and b_k.
INPUTS, OUTPUTS, WEIGHTS, SHIFTS, ROW = range(5)
_GATE_A, _GATE_C, _DRIFT, _DRIFT_STEP, _SLOPES, _OFFSETS, _TERMS = range(5, 12)
_WEIGHT, _DOWN, _ALONG, _SHIFT, _SHIFT_STEP, _OF_TERM = range(6)
# Where something is not there.
_ABSENT = -1


class Layers(NamedTuple):
    """The layers of a block, and where their parameters lie.

    Attributes:
        table: int64, a row a layer, see above.
        weights: numbers of all weights at one time.
        shifts: numbers of all shifts.
        widest: features of the widest panel that goes through, whichever way it is turned.
    """

    table: Array
    weights: int
    shifts: int
    widest: int


@compiled
def _phi(table: Array, layer: int, k: int, parameters: Array, t: Any) -> Any:
    """The term of time: 1, of two weights 1 - t and t, or tanh of a line."""
    one = type(t)(1)
    slopes = table[layer, _SLOPES]
    if slopes >= 0 and k > 0:
        offset = parameters[table[layer, _OFFSETS] + k - 1]
        return tanh(parameters[slopes + k - 1] * t + offset)
    if table.shape[1] == _TERMS + 2 * _OF_TERM and table[layer, _TERMS + _OF_TERM + _WEIGHT] >= 0:
        return t if k == 1 else one - t
    return one


@compiled
def _add_scaled(factor: Any, source: Array, step: int, target: Array, up: int, count: int) -> None:
    """``target += factor source``, of numbers so far apart from one another."""
    whole_vectors()
    if step == 1 and up == 1:
        for i in range(count):
            target[i] += factor * source[i]
    else:
        for i in range(count):
            target[i * up] += factor * source[i * step]


@compiled
def _dot(left: Array, right: Array, step: int, count: int) -> Any:
    whole_vectors()
    total = left.dtype.type(0)
    if step == 1:
        for i in range(count):
            total += left[i] * right[i]
    else:
        for i in range(count):
            total += left[i] * right[i * step]
    return total


@compiled
def make(
    table: Array, parameters: Array, times: Array, gates: Array, weights: Array, shifts: Array
) -> None:
    """Set the gates, the weights and the shifts at each time, ``(s, ...)``; gates lie as shifts do.

    What is beyond a layer's own is 0: it is multiplied too, and slow where it happens to be tiny.
    """
    for place in range(len(times)):
        t = times[place]
        weights[place] = 0
        shifts[place] = 0
        for layer in range(len(table)):
            drift = table[layer, _DRIFT]
            of_layer = part(weights[place], table[layer, WEIGHTS])
            shift = part(shifts[place], table[layer, SHIFTS])
            gate = part(gates[place], table[layer, SHIFTS])
            _set_gates(table, layer, parameters, t, gate)
            for term in range(_TERMS, table.shape[1], _OF_TERM):
                phi = _phi(table, layer, (term - _TERMS) // _OF_TERM, parameters, t)
                weight, bias = table[layer, term + _WEIGHT], table[layer, term + _SHIFT]
                for o in range(table[layer, OUTPUTS]):
                    factor = phi * gate[o]
                    shift[o] += factor * parameters[bias + o * table[layer, term + _SHIFT_STEP]]
                    if weight >= 0:
                        _add_scaled(
                            factor,
                            part(parameters, weight + o * table[layer, term + _DOWN]),
                            table[layer, term + _ALONG],
                            part(of_layer, o * table[layer, ROW]),
                            1,
                            table[layer, INPUTS],
                        )
            if drift >= 0:
                for o in range(table[layer, OUTPUTS]):
                    shift[o] += parameters[drift + o * table[layer, _DRIFT_STEP]] * t


@compiled
def _set_gates(table: Array, layer: int, parameters: Array, t: Any, gate: Array) -> None:
    a, c = table[layer, _GATE_A], table[layer, _GATE_C]
    if a < 0:
        gate[: table[layer, OUTPUTS]] = 1
        return
    slopes, offsets = part(parameters, a), part(parameters, c)
    for o in range(table[layer, OUTPUTS]):
        gate[o] = sigmoid(slopes[o] * t + offsets[o])


@compiled
def pull_back(
    table: Array,
    parameters: Array,
    times: Array,
    gates: Array,
    weight_bars: Array,
    shift_bars: Array,
    bars: Array,
) -> None:
    """Add to the gradients by the parameters from those by weights and shifts at each time."""
    for place in range(len(times)):
        t = times[place]
        for layer in range(len(table)):
            drift, slopes, a = table[layer, _DRIFT], table[layer, _SLOPES], table[layer, _GATE_A]
            of_layer = part(weight_bars[place], table[layer, WEIGHTS])
            shift_bar = part(shift_bars[place], table[layer, SHIFTS])
            gate_of = part(gates[place], table[layer, SHIFTS])
            for term in range(_TERMS, table.shape[1], _OF_TERM):
                k = (term - _TERMS) // _OF_TERM
                phi = _phi(table, layer, k, parameters, t)
                weight, bias = table[layer, term + _WEIGHT], table[layer, term + _SHIFT]
                along, inputs = table[layer, term + _ALONG], table[layer, INPUTS]
                phi_bar = type(t)(0)
                for o in range(table[layer, OUTPUTS]):
                    gate = gate_of[o]
                    # The sum over what the term has in this row, times the gradient by it.
                    b = bias + o * table[layer, term + _SHIFT_STEP]
                    total = shift_bar[o] * parameters[b]
                    bars[b] += gate * phi * shift_bar[o]
                    if weight >= 0:
                        at = weight + o * table[layer, term + _DOWN]
                        bar = part(of_layer, o * table[layer, ROW])
                        total += _dot(bar, part(parameters, at), along, inputs)
                        _add_scaled(gate * phi, bar, 1, part(bars, at), along, inputs)
                    phi_bar += gate * total
                    if a >= 0:
                        by_gate = phi * total * gate * (1 - gate)
                        bars[a + o] += by_gate * t
                        bars[table[layer, _GATE_C] + o] += by_gate
                if slopes >= 0 and k > 0:
                    by_line = phi_bar * (1 - phi * phi)
                    bars[slopes + k - 1] += by_line * t
                    bars[table[layer, _OFFSETS] + k - 1] += by_line
            if drift >= 0:
                for o in range(table[layer, OUTPUTS]):
                    bars[drift + o * table[layer, _DRIFT_STEP]] += shift_bar[o] * t


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


def layers_of(block: DenseDynamics, named: Mapping[str, Tensor], itemsize: int) -> Layers | None:
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
        expected = {name: p.shape for name, p in _fresh(kind, inputs, outputs).named_parameters()}
        if {name: p.shape for name, p in mine.items()} != expected:
            return None
        found.append(_PARTS[kind]({**mine, "inputs": torch.empty(inputs, device="meta")}))
    rows = []
    weights = shifts = 0
    for (_, inputs, outputs), parts in zip(kinds, found, strict=True):
        row = _ceiling(inputs, PANEL_BYTES // itemsize)
        places = *_places(parts.gate), *_place_and_step(parts.drift), *_places(parts.lines)
        terms = [number for term in parts.terms for number in _term(*term)]
        rows.append([inputs, outputs, weights, shifts, row, *places, *terms])
        weights += row * _ceiling(outputs, PADDING)
        shifts += _ceiling(outputs, PADDING)
    table = np.array(rows)
    return Layers(table, weights, shifts, int(table[:, [INPUTS, OUTPUTS, ROW]].max()))


def _fresh(kind: type, inputs: int, outputs: int) -> torch.nn.Module:
    with torch.device("meta"):
        made: torch.nn.Module = kind(inputs, outputs)
    return made


def _ceiling(count: int, step: int) -> int:
    return -(-count // step) * step


def _term(weight: Tensor | None, shift: Tensor) -> tuple[int, ...]:
    of_weight: tuple[int, ...] = (_ABSENT, 0, 0)
    if weight is not None:
        of_weight = (int(weight.storage_offset()), *weight.stride())
    return *of_weight, *_place_and_step(shift)


def _places(pair: tuple[Tensor, Tensor] | None) -> tuple[int, int]:
    if pair is None:
        return _ABSENT, _ABSENT
    # Of a matrix of one column its numbers lie side by side.
    return int(pair[0].storage_offset()), int(pair[1].storage_offset())


def _place_and_step(vector: Tensor | None) -> tuple[int, ...]:
    return (_ABSENT, 0) if vector is None else (int(vector.storage_offset()), *vector.stride())
