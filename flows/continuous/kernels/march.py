"""A solve of dense dynamics by compiled kernels: torch's tensors in, each attempt one call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flows.continuous.ode.dynamics import LAYERS, DenseDynamics
from flows.continuous.kernels import steps
from flows.continuous.kernels.activations import ACTIVATIONS
from flows.continuous.kernels.blocks import PADDING, PANEL_BYTES
from flows.continuous.kernels.layers import at_times, packed, places, terms, unpacked
from flows.continuous.kernels.network import Network, Workspace
from flows.continuous.kernels.panels import aligned, from_panels, to_panels
from flows.continuous.ode.tableaus import TABLEAUS

__all__ = ["DenseMarch", "Path", "covers"]

Array = NDArray[Any]

REGULARIZERS = ("kinetic_energy", "jacobian_norm")

MOST_BYTES = 1 << 20
"""Of a network's weights, and of what a panel leaves in a pass: what is larger leaves the cache,
and a library's products, which block for that, are the faster."""

_GROUPS = 16
"""Parts in which the weights' gradients are summed, however many threads there are."""


def covers(
    block: torch.nn.Module,
    z: Tensor,
    context: Tensor | None,
    vectors: Tensor | None,
    regularizers: Sequence[str],
) -> bool:
    """Whether the kernels can, and should, solve a problem; arguments as of ``DenseMarch``."""
    if not isinstance(block, DenseDynamics) or block.activation not in ACTIVATIONS:
        return False
    tensors = [z, *block.parameters(), *(x for x in (context, vectors) if x is not None)]
    if z.dtype not in (torch.float32, torch.float64) or not all(
        type(x) in (Tensor, torch.nn.Parameter) and x.device.type == "cpu" and x.dtype == z.dtype
        for x in tensors
    ):
        return False
    if not len(z) or not all(type(layer) in LAYERS.values() for layer in block.stack):
        return False
    if not set(regularizers) <= set(REGULARIZERS) or torch.compiler.is_compiling():
        return False
    where = places(block, z.element_size())
    probes = 0 if vectors is None else len(vectors)
    a_pass = (1 + probes) * int(where["widths"].max()) * PANEL_BYTES
    return int(where["weights_at"][-1]) * z.element_size() <= MOST_BYTES and a_pass <= MOST_BYTES


@cache
def _method(solver: str) -> steps.Method:
    tableau = TABLEAUS[solver]
    size = len(tableau.times)
    stages = np.zeros((size, size))
    for stage, row in enumerate(tableau.stages):
        stages[stage, : len(row)] = row
    return steps.Method(
        stages,
        np.array(tableau.solution, float),
        np.array(tableau.error or [0.0] * size, float),
        np.array(tableau.counts),
        tableau.error is not None,
        tableau.used,
    )


class _Rooms(threading.local):
    """Arrays that a call writes and the next one may overwrite.

    Made anew they cost what a short solve does. Each thread has its own, of the networks that it
    met last.
    """

    MOST = 8

    def __init__(self) -> None:
        self.made: dict[Any, Any] = {}

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """What was made under a key, or is made now."""
        if key in self.made:
            return self.made[key]
        while len(self.made) >= self.MOST:
            del self.made[next(iter(self.made))]
        self.made[key] = make()
        return self.made[key]


_rooms = _Rooms()


@dataclass
class Path:
    """The accepted steps: of each the time, the size, the starting point and the stages' rates."""

    steps: list[tuple[float, float, Array, Array]] = field(default_factory=list)


class DenseMarch:
    """One solve with dense dynamics, step by step; the gradient afterwards.

    Args:
        block: the dynamics.
        z: initial state, shape ``(n, D)``, n at least 1.
        context: shape ``(n, context_features)``, or None.
        vectors: the v of the trace's products, shape ``(m, n, width)``; None for no trace.
        narrow: whether they are those of the bottleneck.
        weight: what the sum of the products is multiplied with.
        regularizers: some of ``"kinetic_energy"`` and ``"jacobian_norm"``.
        solver: a key of :data:`flows.continuous.ode.tableaus.TABLEAUS`.
        atol: absolute tolerance.
        rtol: relative tolerance.
        path: gets the accepted steps, for :meth:`pull`.
    """

    def __init__(
        self,
        block: DenseDynamics,
        z: Tensor,
        context: Tensor | None,
        vectors: Tensor | None,
        *,
        narrow: bool,
        weight: float,
        regularizers: Sequence[str],
        solver: str,
        atol: float,
        rtol: float,
        path: Path | None = None,
    ) -> None:
        rows = z.detach().numpy()
        self.dtype, self.size, self.path = rows.dtype, len(rows), path
        self.points = PANEL_BYTES // rows.itemsize
        integrals = 0 if vectors is None else 1 + len(regularizers)
        found = {name: 1 + place for place, name in enumerate(regularizers)}
        self.net = Network(
            **places(block, rows.itemsize),
            dimension=block.dimension,
            first=block.narrow_depth if narrow else 0,
            activation=ACTIVATIONS.index(block.activation),
            residual=block.residual,
            weight=rows.dtype.type(weight),
            kinetic=found.get("kinetic_energy", -1),
            jacobian=found.get("jacobian_norm", -1),
        )
        self.terms = terms(self.net, block)
        self.solver, self.tableau, self.method = solver, TABLEAUS[solver], _method(solver)
        width = 0 if vectors is None else vectors.shape[2]
        products = np.empty((self.size, 0, 0), rows.dtype)
        if vectors is not None:
            products = np.moveaxis(vectors.detach().numpy(), 0, 1)
        given = np.empty((self.size, 0), rows.dtype)
        if context is not None:
            given = context.detach().numpy()
        self.batch = steps.Batch(
            self.size,
            to_panels(products, self.points),
            to_panels(given, self.points),
            0 if vectors is None else 1,
            atol,
            rtol,
        )
        panels = len(self.batch.vectors)
        self.workers = min(torch.get_num_threads(), panels, numba.config.NUMBA_NUM_THREADS)
        start = to_panels(rows, self.points)
        self.y = aligned((panels, block.dimension + integrals, self.points), rows.dtype)
        self.y[:, : block.dimension] = start
        self.y1 = aligned(self.y.shape, rows.dtype)
        stages = len(self.tableau.times)
        self.rates = aligned((stages, *self.y.shape), rows.dtype)
        self.weights = np.zeros((stages, self.net.weights_at[-1]), rows.dtype)
        self.shifts = np.zeros((stages, self.net.shifts_at[-1]), rows.dtype)
        self.squares = np.zeros((panels, 2), rows.dtype)
        # One row more than are needed: were panels a multiple of 4 kB apart, the processor would
        # take a load from one for a load of what was just stored to another.
        self.highest = int(-(-max(self.net.widths.max(), width) // PADDING) * PADDING) + 1
        self.work, self.place = self._workspace(record=False)

    def _workspace(self, *, record: bool) -> tuple[Workspace, Array]:
        """Room for an evaluation, with or without its gradient, and for a stage's point."""
        depth, probes = len(self.net.rows), max(1, self.batch.vectors.shape[1])
        workers, panel = self.workers, (self.highest, self.points)
        kept, all_kept = (depth, depth) if record else (2, 1)
        row = int(self.net.rows.max())

        def room(*shape: int) -> Array:
            return aligned((workers, *shape), self.dtype)

        def make() -> tuple[Workspace, Array]:
            work = Workspace(
                values=room(kept, *panel),
                slopes=room(depth, *panel),
                curves=room(all_kept, *panel),
                tangents=room(kept, probes, *panel),
                images=room(all_kept, probes, *panel),
                curved=room(all_kept, *panel),
                bars=room(2, probes, *panel),
                turned=room(self.points, row),
                zeros=np.zeros(self.highest, self.dtype),
            )
            return work, room(*panel)

        key = ("work", self.dtype, workers, depth, probes, self.highest, row, record)
        made: tuple[Workspace, Array] = _rooms.get(key, make)
        return made

    # -- the way forward --------------------------------------------------------------------------

    def rates_at(self, t: float, y: Array, rates: Array) -> None:
        """Velocities and integrands at any time and point, into an array like ``y``."""
        times = np.array([t], self.dtype)
        at_times(self.net, self.terms, times, self.weights[:1], self.shifts[:1])
        steps.evaluate(
            self.net,
            self.batch,
            self.work,
            self.place,
            self.weights[0],
            self.shifts[0],
            y,
            rates,
            self.batch.vectors.shape[1] > 0,
        )

    def attempt(self, t: float, dt: float) -> float:
        """Try a step.

        Returns:
            The mean square of the error over its tolerance, the larger of the state's and the
            integrals'; 0 for a fixed-step method.
        """
        first = int(self.method.adaptive)
        times = np.array([t + c * dt for c in self.tableau.times[first:]], self.dtype)
        at_times(self.net, self.terms, times, self.weights[first:], self.shifts[first:])
        kernel = steps.attempt
        if self.workers > 1:
            numba.set_num_threads(self.workers)
            kernel = steps.attempt_in_parallel
        kernel(
            self.net,
            self.method,
            self.batch,
            self.work,
            self.place,
            self.weights,
            self.shifts,
            self.y,
            self.rates,
            self.y1,
            dt,
            self.squares,
        )
        if not first:
            return 0.0
        state, integrals = self.squares.sum(0, dtype=np.float64).tolist()
        state /= self.size * self.net.dimension
        integrals /= self.size * max(1, self.batch.controlled)
        # The comparison as it stands lets NaN of either through.
        return float(state if state >= integrals or state != state else integrals)

    def accept(self, t: float, dt: float) -> None:
        """Go on from what the last attempt arrived at."""
        if self.path is None:
            self.y, self.y1 = self.y1, self.y
            if self.method.adaptive:
                self.rates[0] = self.rates[-1]
            return
        self.path.steps.append((t, dt, self.y, self.rates))
        self.y, self.y1 = self.y1, aligned(self.y.shape, self.dtype)
        before, self.rates = self.rates, aligned(self.rates.shape, self.dtype)
        if self.method.adaptive:
            self.rates[0] = before[-1]

    def state(self) -> tuple[Tensor, Tensor]:
        """State, shape ``(n, D)``, and integrals, ``(m, n)``, at present."""
        rows = from_panels(self.y, self.size)
        z, q = np.split(rows, [self.net.dimension], 1)
        return torch.from_numpy(z.copy()), torch.from_numpy(np.ascontiguousarray(q.T))

    # -- the way back -----------------------------------------------------------------------------

    def pull(
        self, block: DenseDynamics, z_bar: Tensor, q_bar: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Gradients of a solve whose steps were kept.

        Args:
            block: the dynamics.
            z_bar: the gradient by the final state, shape ``(n, D)``.
            q_bar: that by the integrals, ``(m, n)``.

        Returns:
            The gradients by the initial state, ``(n, D)``, by the context,
            ``(n, context_features)``, and by each of the block's parameters.
        """
        assert self.path is not None
        net, method, used = self.net, self.method, self.method.used
        taken = self.path.steps
        fractions = np.array(self.tableau.times[:used])
        times = np.concatenate([t + fractions * dt for t, dt, _, _ in taken]).astype(self.dtype)
        with torch.enable_grad():
            affine = block.affine(torch.from_numpy(times))
        weights, shifts = packed(net, affine)
        weight_bars, shift_bars = np.empty_like(weights), np.empty_like(shifts)
        bar = self._bars(z_bar.numpy())
        integral_bar = self._bars(q_bar.numpy().T)
        context_bar = np.zeros_like(self.batch.context)
        work, place = self._workspace(record=True)
        bars, parts, shift_parts = self._sums(weights.shape[1], shifts.shape[1])
        kernel = steps.pull_step
        if self.workers > 1:
            numba.set_num_threads(self.workers)
            kernel = steps.pull_step_in_parallel
        for index in reversed(range(len(taken))):
            _, dt, y, rates = taken[index]
            at = slice(index * used, (index + 1) * used)
            kernel(
                net,
                method,
                self.batch,
                work,
                place,
                bars,
                weights[at],
                shifts[at],
                y,
                rates,
                dt,
                bar,
                integral_bar,
                context_bar,
                parts,
                shift_parts,
                weight_bars[at],
                shift_bars[at],
            )
        found = [
            torch.from_numpy(array)
            for pair in unpacked(net, weight_bars, shift_bars)
            for array in pair
        ]
        gradients = torch.autograd.grad(affine, list(block.parameters()), found, allow_unused=True)
        return (
            torch.from_numpy(from_panels(bar, self.size)),
            torch.from_numpy(from_panels(context_bar, self.size)),
            list(gradients),
        )

    def _sums(self, weights: int, shifts: int) -> tuple[Array, Array, Array]:
        """Room for the gradients at the stages, and for parts of the weights' sums."""
        groups, used = min(_GROUPS, len(self.y)), self.method.used

        def make() -> tuple[Array, Array, Array]:
            return (
                aligned((self.workers, used + 4, self.highest, self.points), self.dtype),
                aligned((groups, used, weights), self.dtype),
                aligned((groups, used, shifts), self.dtype),
            )

        key = ("sums", self.dtype, self.workers, self.highest, used, groups, weights, shifts)
        made: tuple[Array, Array, Array] = _rooms.get(key, make)
        return made

    def _bars(self, rows: Array) -> Array:
        """Panels of gradients: nothing comes by the points that fill the last one."""
        panels = to_panels(rows, self.points)
        left = self.size % self.points
        if left:
            panels[-1, :, left:] = 0
        return panels
