"""The right-hand side with dense dynamics, each step one call of a compiled kernel."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flows.continuous.kernels import layers, network, steps
from flows.continuous.kernels.activations import ACTIVATIONS
from flows.continuous.kernels.blocks import PANEL_BYTES
from flows.continuous.ode.dense import DenseEvaluator
from flows.continuous.ode.dynamics import DenseDynamics
from flows.continuous.ode.evaluator import Problem, Shares, Step
from flows.continuous.ode.field import Held, Probes, added
from flows.continuous.ode.tableaus import TABLEAUS

__all__ = ["KernelEvaluator", "covers"]

Array = NDArray[Any]

MOST_BYTES = 1 << 20
"""Of a network's weights, and of what a panel leaves in a pass: what is larger leaves the cache,
and a library's products, which block for that, are the faster."""

LEAST_PANELS = 4
"""So many a thread has to have to be worth its waking."""


def covers(
    dynamics: DenseDynamics, z: Tensor, context: Tensor | None, probes: Probes | None
) -> bool:
    """Whether the kernels can, and should, solve a problem; arguments as of ``KernelEvaluator``.

    Where someone watches torch's operations, or has them done in another way (autocast, dispatch
    modes, torch.compile, subclasses of tensors), they are left to torch.
    """
    if type(dynamics) is not DenseDynamics or z.dtype not in (torch.float32, torch.float64):
        return False
    named = dict(dynamics.named_parameters())
    given = (z, *named.values(), *(() if context is None else (context,)))
    if not all(
        type(x) in (Tensor, nn.Parameter) and x.device.type == "cpu" and x.dtype == z.dtype
        for x in given
    ):
        return False
    if (
        not len(z)
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
        or torch._C._len_torch_dispatch_stack()
    ):
        return False
    size = z.element_size()
    found = layers.layers_of(dynamics, named, size)
    products = 0 if probes is None else len(probes.vectors)
    return (
        found is not None
        and int(found.weights_at[-1]) * size <= MOST_BYTES
        and (1 + products) * int(found.widths.max()) * PANEL_BYTES <= MOST_BYTES
    )


class KernelEvaluator(DenseEvaluator):
    """The same right-hand side as its base, by compiled kernels; see the package's docstring.

    Of a moment they take the time alone, and make the weights themselves. The share of a step's
    pull is the gradients by its weights and shifts, ``(used, ...)``, and that by the context.
    """

    compiles = False

    def __init__(
        self,
        dynamics: DenseDynamics,
        context: Tensor | None,
        probes: Probes | None,
        regularizers: Sequence[str] = (),
    ) -> None:
        super().__init__(dynamics, context, probes, regularizers)
        size = self.held.tensors[0].element_size()
        found = layers.layers_of(dynamics, self.held.named, size)
        assert found is not None, "covers(...) says whether there are kernels"
        narrow = probes is not None and probes.narrow
        place = {name: 1 + index for index, name in enumerate(self.regularizers)}
        self.network = network.Network(
            layers=found,
            dimension=self.dimension,
            integrals=self.integrals,
            probes=0 if probes is None else len(probes.vectors),
            width=0 if probes is None else probes.vectors.shape[2],
            first=dynamics.narrow_depth if narrow else 0,
            activation=ACTIVATIONS.index(dynamics.activation),
            residual=self.residual,
            weight=1.0 if probes is None else float(probes.weight),
            kinetic=place.get("kinetic_energy", -1),
            jacobian=place.get("jacobian_norm", -1),
        )
        self.parameters = _flat(self.held)
        # Vectors of an exact trace are one matrix for all rows, of strides of zero.
        self.vectors = self.parameters.new_empty(0) if probes is None else probes.vectors
        self.given = self.parameters.new_empty(0)
        if context is not None:
            self.given = context.detach().contiguous().view(-1)

    def moments(self, times: Tensor) -> Tensor:
        return times

    def gradients(self) -> _Sums:
        return _Sums(self)

    def rates(self, moment: Tensor, z: Tensor, *, integrands: bool) -> tuple[Tensor, Tensor | None]:
        # A step of Euler's method has evaluated its stage.
        _, _, rate = self._step("euler", (0.0, 0.0), moment.view(1), z, None, 1.0)
        f, q = rate[0, : z.numel()], rate[0, z.numel() :]
        return f.view(z.shape), q.view(self.integrals, len(z)) if integrands else None

    def pull(
        self, moment: Tensor, z: Tensor, f_bar: Tensor, q_bar: Tensor | None
    ) -> tuple[Tensor, Shares]:
        bar, share = self._pull_step("euler", moment.view(1), z, None, f_bar, q_bar, 1.0)
        return bar.view(z.shape), share

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
        z = y[: problem.z_size].view(problem.shape)
        y1, squares, rate = self._step(
            settings.solver, tolerances, moments, z, first_rate, dt.item(), y
        )
        state, integrals = squares.sum(0)
        state /= problem.z_size
        integrals /= problem.shape[0]
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
        z = z.view(problem.shape)
        bar, share = self._pull_step(
            problem.settings.solver, moments, z, velocities, z_bar, q_bar, dt.item()
        )
        return z_bar + bar, [share]

    # -- torch's tensors in and out -----------------------------------------------------------

    def _step(self, solver, tolerances, times, z, first_rate, dt, y=None):
        method = _method(solver)
        stages, first = len(method.solution), int(method.adaptive)
        net, n = self.network, len(z)
        size = z.numel() + self.integrals * n
        if y is None:
            y = z.new_zeros(size)
            y[: z.numel()] = z.reshape(-1)
        room = network.room_of(net, z.element_size(), stages, record=False)
        workers = _workers(n, z.element_size())
        weights, shifts = self._made(times, stages, first)
        rate = z.new_empty(stages, size)
        if first_rate is not None:
            rate[0] = first_rate
        y1 = torch.empty_like(y)
        squares = z.new_zeros(workers, 2).numpy()
        work = z.new_empty(workers, room.total * room.size).numpy()
        arguments = (weights, shifts, _array(y), dt, rate.numpy(), y1.numpy(), squares)
        batch = self._batch(n, *tolerances)
        _share_out(
            workers,
            lambda worker: steps.step(net, room, method, batch, work, worker, *arguments),
        )
        return y1, squares, rate

    def _pull_step(self, solver, times, z, velocities, z_bar, q_bar, dt):
        method = _method(solver)
        net, n, used = self.network, len(z), method.used
        room = network.room_of(net, z.element_size(), used, record=True)
        workers = _workers(n, z.element_size())
        weights, shifts = self._made(times, used, 0)
        bars = z.new_empty(workers, used, weights.shape[1])
        shift_bars = z.new_empty(workers, used, shifts.shape[1])
        bar, context_bar = z.new_empty(z.numel()), torch.empty_like(self.given)
        if velocities is None:
            velocities = z.new_empty(0, z.numel())
        if q_bar is None:
            # What nobody asks for has no gradient.
            q_bar = z.new_zeros(self.integrals, n)
        work = z.new_empty(workers, room.total * room.size).numpy()
        arguments = (
            weights,
            shifts,
            _array(z),
            _array(velocities),
            dt,
            _array(z_bar),
            _array(q_bar),
            bar.numpy(),
            context_bar.numpy(),
            bars.numpy(),
            shift_bars.numpy(),
        )
        batch = self._batch(n, 0.0, 0.0)
        _share_out(
            workers,
            lambda worker: steps.pull_step(net, room, method, batch, work, worker, *arguments),
        )
        made = [one[0] if workers == 1 else one.sum(0) for one in (bars, shift_bars)]
        context = None if self.context is None else context_bar.view(self.context.shape)
        return bar, [*made, context]

    def _made(self, times: Tensor, stages: int, first: int) -> tuple[Array, Array]:
        net = self.network.layers
        weights = self.parameters.new_empty(stages, int(net.weights_at[-1])).numpy()
        shifts = self.parameters.new_empty(stages, int(net.shifts_at[-1])).numpy()
        layers.make(net, self.parameters.numpy(), _array(times), weights[first:], shifts[first:])
        return weights, shifts

    def _batch(self, n: int, atol: float, rtol: float) -> steps.Batch:
        vectors = self.vectors
        strides = vectors.stride() if vectors.dim() == 3 else (0, 0, 0)
        span = 1 + sum((size - 1) * one for size, one in zip(vectors.shape, strides))
        flat = vectors.as_strided((span,), (1,)) if vectors.dim() == 3 else vectors
        return steps.Batch(n, flat.numpy(), strides, self.given.numpy(), atol, rtol)


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
        layers.pull_back(
            evaluator.network.layers,
            evaluator.parameters.numpy(),
            _array(times),
            weights.numpy(),
            shifts.numpy(),
            self.bars.numpy(),
        )
        self.context_bar = added(self.context_bar, context_bar)

    def totals(self) -> list[Tensor | None]:
        tensors = self.evaluator.held.tensors
        pieces = self.bars.split([tensor.numel() for tensor in tensors])
        sums: list[Tensor | None] = [
            piece.view(tensor.shape) if tensor.requires_grad else None
            for piece, tensor in zip(pieces, tensors, strict=True)
        ]
        return sums if self.evaluator.context is None else [*sums, self.context_bar]


def _array(tensor: Tensor) -> Array:
    """A tensor's numbers, without gaps."""
    return tensor.detach().contiguous().numpy()


def _flat(held: Held) -> Tensor:
    with torch.no_grad():
        return torch.cat([tensor.reshape(-1) for tensor in held.tensors])


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
        return call(0)
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
