"""The right-hand side with small dense dynamics on CUDA, a step's attempt in one kernel.

A program takes :data:`ROWS` points through all stages of an attempted step: value and tangent
together through each layer, in registers, so that a weight is loaded once for both. What the stages
leave it writes, and reads again where a later one wants it; the sums of squares of the error leave
each program, and torch adds them up. The weights at the stages' times come from torch, one row of
numbers a time, whatever the kind of the layers.

The gradient of a step, and all that :func:`covers` says no to, is torch's
(:class:`flows.continuous.ode.dense.DenseEvaluator`), with which the kernel agrees to rounding. It
is held to that in Triton's interpreter by the tests, and on each device before it is used there.
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
from flows.continuous.ode.evaluator import Problem, Step
from flows.continuous.ode.settings import Settings
from flows.continuous.ode.tableaus import coefficients

__all__ = ["TritonEvaluator", "covers", "refused"]

ROWS = 16
"""Points of a program, the fewest that a product takes; more leave most of a device without work
at batches of a thousand."""

WIDEST = 128
"""Of a layer, in numbers, padded to a power of two: its weights are to fit the shared memory."""

MOST_PROBES = 8
"""The value goes through the network once more with each of the probes' tangents."""

ACTIVATIONS = ("tanh", "softplus", "elu", "swish", "square")


@triton.jit
def _activated(p, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    """a(p) and a'(p)."""
    if ACTIVATION == 0:
        a = 2 * tl.sigmoid(2 * p) - 1
        s = 1 - a * a
    elif ACTIVATION == 1:
        # Beyond 20 the value is taken for p, as torch does.
        a = tl.where(p > 20, p, tl.maximum(p, 0.0) + tl.log(1 + tl.exp(-tl.abs(p))))
        s = tl.sigmoid(p)
    elif ACTIVATION == 2:
        e = tl.exp(tl.minimum(p, 0.0))
        a = tl.where(p > 0, p, e - 1)
        s = tl.where(p > 0, 1.0, e)
    elif ACTIVATION == 3:
        gate = tl.sigmoid(p)
        a = p * gate
        s = gate + a * (1 - gate)
    else:
        a = p * p
        s = 2 * p
    return a, s


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
            h, slope = _activated(p, ACTIVATION)
            u = h
            if INTEGRALS > 0:
                v = tl.load(base + column * vectors_column, mask=is_state, other=0.0)
                u = tl.dot(v, w_first, input_precision="ieee") * slope
            for layer in range(1, DEPTH - 1):
                w, b = _layer(layers, table, layer, HIDDEN, HIDDEN)
                h, slope = _activated(tl.dot(h, w, input_precision="ieee") + b, ACTIVATION)
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
    """What :class:`DenseEvaluator` gives, each attempted step by one kernel."""

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
    found, truth = (one.step(problem, one.moments(times), y, rate, dt) for one in (kernel, dense))
    for name, mine, true in zip(Step._fields, found, truth, strict=True):
        finite = true.isfinite().all()
        off = (mine - true).abs().max() / true.abs().max().clamp(min=1e-30)
        # The error is a difference of near numbers.
        wrong = off > AGREEMENT * (100 if name == "square" else 1)
        if any(on_device.read((finite & (wrong | off.isnan()))[None])):
            return f"{name} is off by {off.item():.1e}"
    return None
