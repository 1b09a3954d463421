"""The solver's right-hand side made of the kernels: torch's tensors in and out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, cast, overload

import torch
import triton
from torch import Tensor

from flows.continuous.kernels.on_cuda.network import ACTIVATIONS
from flows.continuous.kernels.on_cuda.pull import pull_kernel
from flows.continuous.kernels.on_cuda.step import step_kernel
from flows.continuous.ode.dense import DenseEvaluator, Moment
from flows.continuous.ode.dynamics import DenseDynamics, TimeAffine
from flows.continuous.ode.evaluator import Problem, Shares, Step
from flows.continuous.ode.settings import Settings

__all__ = ["ROWS", "TritonEvaluator", "padded"]

ROWS = 16
"""Points of a program, the fewest that a product takes; more leave most of a device without work
at batches of a thousand."""


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
    """What :class:`DenseEvaluator` gives, each attempted step and its gradient by one kernel."""

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
        step_kernel[(programs,)](
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
            INPUTS=padded(shapes[0][1]),
            HIDDEN=padded(max(outputs for outputs, _ in shapes[:-1])),
            OUTPUTS=padded(self.dimension),
            BLOCK=ROWS,
        )
        if not tableau.adaptive:
            return Step(y1, y.new_zeros(()), rates)
        sums = squares.sum(0)
        square = sums[0] / (n * self.dimension)
        if problem.integrals:
            square = torch.maximum(square, sums[1] / n)
        return Step(y1, square, rates)

    def pull_step(
        self,
        problem: Problem,
        moments: Sequence[Moment],
        dt: Tensor,
        z: Tensor,
        velocities: Tensor | None,
        z_bar: Tensor,
        q_bar: Tensor | None,
    ) -> tuple[Tensor, list[Shares]]:
        probes = self.probes
        if (
            velocities is None
            or self.regularizers
            or (probes is not None and len(probes.vectors) > 1)
        ):
            return super().pull_step(problem, moments, dt, z, velocities, z_bar, q_bar)
        tableau, weights, n = problem.settings.tableau, problem.coefficients, problem.shape[0]
        rows, shapes, used = cast(_Moments, moments).rows, self._shapes, tableau.used
        programs, hidden = triton.cdiv(n, ROWS), padded(max(out for out, _ in shapes[:-1]))
        tangent = q_bar is not None and probes is not None
        vectors = z if probes is None else probes.vectors
        point_bars = z.new_empty(used, problem.z_size)
        context = None if self.context is None else self.context.contiguous()
        context_bar = z.new_zeros(1) if context is None else torch.zeros_like(context)
        bars = z.new_empty(programs, used, rows.shape[1])
        pull_kernel[(programs,)](
            z,
            velocities,
            z_bar.contiguous(),
            z if q_bar is None else q_bar.contiguous(),
            dt,
            rows,
            rows.shape[1],
            _table(shapes, z.device),
            weights.stages,
            weights.solution,
            vectors,
            *((0, 0) if probes is None else vectors.stride()[1:]),
            1.0 if probes is None else float(probes.weight),
            z if context is None else context,
            point_bars,
            context_bar,
            bars,
            z.new_empty(programs, self.depth - 1, 4, ROWS, hidden),
            n,
            self.dimension,
            problem.z_size,
            shapes[0][1],
            used,
            DEPTH=self.depth,
            STAGES=len(tableau.times),
            TANGENT=tangent,
            ACTIVATION=ACTIVATIONS.index(cast(DenseDynamics, self.held.module).activation),
            RESIDUAL=self.residual,
            INPUTS=padded(shapes[0][1]),
            HIDDEN=hidden,
            OUTPUTS=padded(self.dimension),
            BLOCK=ROWS,
        )
        by_stage = _Moments(bars.sum(0), shapes)
        shares: list[Shares] = []
        for one in by_stage:
            parts = zip(one.weights, one.shifts, strict=True)
            shares.append([*(part for pair in parts for part in pair), None])
        if context is not None:
            shares[0][-1] = context_bar
        return z_bar + point_bars.sum(0), shares


def padded(width: int) -> int:
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
