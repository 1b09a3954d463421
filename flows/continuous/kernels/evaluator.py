"""The right-hand side with dense dynamics, each step one call of a compiled kernel."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors

from flows.continuous.kernels import layers, network, steps
from flows.continuous.kernels.activations import ACTIVATIONS
from flows.continuous.kernels.blocks import PANEL_BYTES
from flows.continuous.ode.dense import DenseEvaluator
from flows.continuous.ode.dynamics import DenseDynamics
from flows.continuous.ode.evaluator import Evaluator, Problem, Shares, Step
from flows.continuous.ode.field import added
from flows.continuous.ode.tableaus import TABLEAUS

__all__ = ["KernelEvaluator", "covers"]

Array = NDArray[Any]

MOST_BYTES = 1 << 20
"""Of a network's weights, and of what a panel leaves in a pass: what is larger leaves the cache,
and a library's products, which block for that, are the faster."""

LEAST_PANELS = 4
"""So many a thread has to have to be worth its waking."""


def covers(dense: DenseEvaluator, z: Tensor) -> bool:
    """Whether kernels can, and should, stand for an evaluator from an initial state on.

    Where someone watches torch's operations, or has them done in another way (autocast, dispatch
    modes, torch.compile, subclasses of tensors), they are left to torch.
    """
    dynamics = dense.held.module
    if type(dynamics) is not DenseDynamics or z.dtype not in (torch.float32, torch.float64):
        return False
    if not len(z) or not all(
        type(x) in (Tensor, nn.Parameter) and x.is_cpu and x.dtype == z.dtype
        for x in (z, *dense.tensors)
    ):
        return False
    if (
        torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
        or torch._C._len_torch_dispatch_stack()
    ):
        return False
    size = z.element_size()
    found = layers.layers_of(dynamics, dense.held.named, size)
    products = 0 if dense.probes is None else len(dense.probes.vectors)
    return (
        found is not None
        and found.weights * size <= MOST_BYTES
        and (1 + products) * found.widest * PANEL_BYTES <= MOST_BYTES
    )


class KernelEvaluator(Evaluator):
    """What another evaluator gives, by compiled kernels; see the package's docstring.

    Of a moment they take the time alone, and make the weights themselves. The share of a step's
    pull is the gradients by its weights and shifts, ``(used, ...)``, and that by the context.

    Args:
        dense: of which :func:`covers` says yes.
    """

    def __init__(self, dense: DenseEvaluator) -> None:
        self.dense = dense
        self.tensors, self.integrals = dense.tensors, dense.integrals
        dynamics, probes, context = (
            cast(DenseDynamics, dense.held.module),
            dense.probes,
            dense.context,
        )
        # One number after the other, as the kernels know them.
        self.parameters = _flatten_dense_tensors([tensor.detach() for tensor in dense.held.tensors])
        found = layers.layers_of(dynamics, dense.held.named, self.parameters.element_size())
        assert found is not None
        self.layers = found
        place = {name: 1 + index for index, name in enumerate(dense.regularizers)}
        self.network = network.Network(
            table=found.table,
            widest=found.widest,
            dimension=dense.dimension,
            integrals=dense.integrals,
            probes=0 if probes is None else len(probes.vectors),
            width=0 if probes is None else probes.vectors.shape[2],
            first=dense.tangent_order[0],
            activation=ACTIVATIONS.index(dynamics.activation),
            residual=dense.residual,
            weight=1.0 if probes is None else float(probes.weight),
            kinetic=place.get("kinetic_energy", -1),
            jacobian=place.get("jacobian_norm", -1),
        )
        nothing = self.parameters.new_empty(0)
        self.context = nothing if context is None else context.detach().contiguous()
        # Those of an exact trace are one matrix for all rows, which are 0 numbers apart.
        vectors = nothing.view(0, 0, 0) if probes is None else probes.vectors
        ends = ((size - 1) * one for size, one in zip(vectors.shape, vectors.stride(), strict=True))
        span = 1 + sum(ends) if vectors.numel() else 0
        self.strides = vectors.stride()
        self.vectors = vectors.as_strided((span,), (1,))

    def room(self, z: Tensor) -> int:
        return self.dense.room(z)

    def moments(self, times: Tensor) -> Sequence[Tensor]:
        return cast(Sequence[Tensor], times)

    def gradients(self) -> _Sums:
        return _Sums(self)

    # A step of Euler's method evaluates once, at its beginning.

    def rates(self, moment: Tensor, z: Tensor, *, integrands: bool) -> tuple[Tensor, Tensor | None]:
        y = z.new_zeros(z.numel() + self.integrals * len(z))
        y[: z.numel()] = z.reshape(-1)
        rate = self._step("euler", moment.view(1), len(z), y, None, 1.0, (0.0, 0.0)).rate[0]
        f, q = rate[: z.numel()].view(z.shape), rate[z.numel() :].view(self.integrals, len(z))
        return f, q if integrands else None

    def pull(
        self, moment: Tensor, z: Tensor, f_bar: Tensor, q_bar: Tensor | None
    ) -> tuple[Tensor, Shares]:
        bar, share = self._pull("euler", moment.view(1), 1.0, z, None, f_bar, q_bar)
        return bar.view(z.shape), share

    # -- steps, torch's tensors in and out --------------------------------------------------------

    def step(
        self,
        problem: Problem,
        moments: Sequence[Tensor],
        y: Tensor,
        first_rate: Tensor | None,
        dt: Tensor,
    ) -> Step:
        settings = problem.settings
        tolerances = settings.atol, settings.rtol
        times = cast(Tensor, moments)
        return self._step(
            settings.solver, times, problem.shape[0], y, first_rate, dt.item(), tolerances
        )

    def _step(
        self,
        solver: str,
        times: Tensor,
        n: int,
        y: Tensor,
        first_rate: Tensor | None,
        dt: float,
        tolerances: tuple[float, float],
    ) -> Step:
        method, net = _method(solver), self.network
        stages = len(method.solution)
        workers = _workers(n, y.element_size())
        room, work = self._work(workers, stages, record=False)
        weights, shifts = self._made(times, stages)
        rate = y.new_empty(stages, len(y))
        if first_rate is not None:
            rate[0] = first_rate
        y1, squares = torch.empty_like(y), y.new_empty(workers, 2)
        batch = self._batch(n, *tolerances)
        arrays = _arrays(weights, shifts, y, rate, y1, squares)

        def call(worker: int) -> None:
            steps.step(net, room, method, batch, work, worker, dt, *arrays)

        _share_out(workers, call)
        state, integrals = (squares if workers == 1 else squares.sum(0)).view(2).tolist()
        state, integrals = state / (n * net.dimension or 1), integrals / (n or 1)
        # The comparison as it stands lets NaN of either through.
        square = state if state >= integrals or state != state else integrals
        return Step(y1, torch.tensor(square), rate)

    def pull_step(
        self,
        problem: Problem,
        moments: Sequence[Tensor],
        dt: Tensor,
        z: Tensor,
        velocities: Tensor | None,
        z_bar: Tensor,
        q_bar: Tensor | None,
    ) -> tuple[Tensor, list[Shares]]:
        solver, times = problem.settings.solver, cast(Tensor, moments)
        z = z.view(problem.shape)
        bar, share = self._pull(solver, times, dt.item(), z, velocities, z_bar, q_bar)
        return z_bar + bar, [share]

    def _pull(
        self,
        solver: str,
        times: Tensor,
        dt: float,
        z: Tensor,
        velocities: Tensor | None,
        z_bar: Tensor,
        q_bar: Tensor | None,
    ) -> tuple[Tensor, Shares]:
        method, net, n = _method(solver), self.network, len(z)
        workers = _workers(n, z.element_size())
        room, work = self._work(workers, method.used, record=True)
        weights, shifts = self._made(times, method.used)
        if velocities is None:
            velocities = z.new_empty(0, z.numel())
        if q_bar is None:
            q_bar = z.new_zeros(self.integrals, n)
        made = (
            z.new_empty(z.numel()),
            self.context.new_empty(self.context.numel()),
            weights.new_empty(workers, *weights.shape),
            shifts.new_empty(workers, *shifts.shape),
        )
        batch = self._batch(n, 0.0, 0.0)
        flat = z.reshape(-1), velocities, z_bar.reshape(-1), q_bar
        arrays = _arrays(weights, shifts, *flat, *made)

        def call(worker: int) -> None:
            steps.pull_step(net, room, method, batch, work, worker, dt, *arrays)

        _share_out(workers, call)
        bar, context_bar, *sums = made
        total = [one[0] if workers == 1 else one.sum(0) for one in sums]
        context = None if self.dense.context is None else context_bar.view(self.context.shape)
        return bar, [*total, context]

    def _made(self, times: Tensor, stages: int) -> tuple[Tensor, Tensor]:
        """Weights and shifts at the times of the last of so many stages."""
        found = self.layers
        # What is beyond a layer's own is multiplied too, and slow where it happens to be tiny.
        weights = self.parameters.new_zeros(stages, found.weights)
        shifts = self.parameters.new_zeros(stages, found.shifts)
        first = stages - len(times)
        layers.make(found.table, *_arrays(self.parameters, times, weights[first:], shifts[first:]))
        return weights, shifts

    def _work(self, workers: int, stages: int, *, record: bool) -> tuple[network.Room, Array]:
        itemsize = self.parameters.element_size()
        room = network.room_of(self.network, itemsize, stages, record=record)
        return room, self.parameters.new_empty(workers, room.total).numpy()

    def _batch(self, n: int, atol: float, rtol: float) -> steps.Batch:
        vectors, context = _arrays(self.vectors, self.context.view(-1))
        return steps.Batch(n, vectors, self.strides, context, atol, rtol)


class _Sums:
    """Gradients by the parameters, from those by the weights that they make at single times."""

    def __init__(self, evaluator: KernelEvaluator) -> None:
        self.evaluator = evaluator
        self.bars = torch.zeros_like(evaluator.parameters)
        self.context_bar: Tensor | None = None

    def add(self, times: Tensor, shares: Sequence[Shares]) -> None:
        ((weights, shifts, context_bar),) = shares
        assert weights is not None
        assert shifts is not None
        evaluator = self.evaluator
        arrays = _arrays(evaluator.parameters, times, weights, shifts, self.bars)
        layers.pull_back(evaluator.layers.table, *arrays)
        self.context_bar = added(self.context_bar, context_bar)

    def totals(self) -> list[Tensor | None]:
        tensors = self.evaluator.dense.held.tensors
        pieces = self.bars.split([tensor.numel() for tensor in tensors])
        sums: list[Tensor | None] = [
            piece.view(tensor.shape) if tensor.requires_grad else None
            for piece, tensor in zip(pieces, tensors, strict=True)
        ]
        return sums if self.evaluator.dense.context is None else [*sums, self.context_bar]


def _arrays(*tensors: Tensor) -> list[Array]:
    """The tensors' memory; a copy of what has gaps."""
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


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
        tableau.adaptive,
        tableau.used,
    )


# -- threads --------------------------------------------------------------------------------------


def _workers(n: int, itemsize: int) -> int:
    panels = -(-n * itemsize // PANEL_BYTES)
    return max(1, min(torch.get_num_threads(), panels // LEAST_PANELS))


_pool: ThreadPoolExecutor | None = None


def _share_out(workers: int, call: Callable[[int], None]) -> None:
    """Call for each worker, the first one in this thread. Kernels let the others run."""
    global _pool
    if workers == 1:
        call(0)
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), "kernels")
    waiting = [_pool.submit(call, worker) for worker in range(1, workers)]
    call(0)
    for one in waiting:
        one.result()


def _forget() -> None:
    global _pool
    _pool = None


# Threads do not live on in a forked process.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
