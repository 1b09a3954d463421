"""The right-hand side with dense dynamics, whole solves of it by compiled kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors

from flows.continuous.errors import StepUnderflow, TooManyEvaluations
from flows.continuous.kernels import layers, network, steps
from flows.continuous.kernels.activations import ACTIVATIONS
from flows.continuous.kernels.blocks import PANEL_BYTES
from flows.continuous.kernels.threads import share_out
from flows.continuous.ode.control import fitting_step
from flows.continuous.ode.dense import DenseEvaluator
from flows.continuous.ode.dynamics import DenseDynamics
from flows.continuous.ode.evaluator import Problem
from flows.continuous.ode.forward import Tape
from flows.continuous.ode.tableaus import TABLEAUS
from flows.meter import step, tick

__all__ = ["KernelEvaluator"]

Array = NDArray[Any]

MOST_BYTES = 1 << 20
"""Of a network's weights, and of what a panel leaves in a pass: what is larger leaves the cache,
and a library's products, which block for that, are the faster."""

LEAST_PANELS = 4
"""So many a thread has to have to be worth its waking."""

PIECE = 16
"""Steps on the first piece of a tape; each further one has as many as there are."""


@dataclass
class _Whole:
    """What a way leaves for its gradient."""

    net: network.Network
    batch: steps.Batch
    pieces: list[tuple[steps.Tape, int]]


class KernelEvaluator(DenseEvaluator):
    """Goes whole ways by compiled kernels, where these can; see the package's docstring.

    What it inherits, which takes single steps by torch, serves in all other cases.
    """

    def covered(self, z: Tensor) -> layers.Layers | None:
        """The network's layers, if kernels can, and should, go a way from an initial state on.

        Where someone watches torch's operations, or has them done in another way (autocast,
        dispatch modes, torch.compile, subclasses of tensors), they are left to torch.
        """
        dynamics, dtype = self.held.module, z.dtype
        if type(dynamics) is not DenseDynamics or dtype not in (torch.float32, torch.float64):
            return None
        if not len(z):
            return None
        for x in (z, *self.tensors):
            if type(x) not in (Tensor, nn.Parameter) or x.dtype != dtype or not x.is_cpu:
                return None
        if (
            torch.compiler.is_compiling()
            or torch.is_autocast_enabled("cpu")
            or torch._C._len_torch_dispatch_stack()
        ):
            return None
        size = z.element_size()
        found = self._layers(size)
        products = 0 if self.probes is None else len(self.probes.vectors)
        fits = (
            found is not None
            and found.weights * size <= MOST_BYTES
            and (1 + products) * found.widest * PANEL_BYTES <= MOST_BYTES
        )
        return found if fits else None

    def solve(
        self,
        problem: Problem,
        z: Tensor,
        start: float,
        end: float,
        first_step: float | None,
        tape: Tape | None,
    ) -> Tensor | None:
        found = self.covered(z)
        if found is None:
            return None
        settings, method = problem.settings, _method(problem.settings.solver)
        net, batch = self._network(found), self._batch(z)
        workers = _workers(batch.panels)
        room, memory = _memory(z, net, found, batch, method, workers, record=False)
        way = steps.Way(
            start,
            end,
            first_step or 0.0,
            settings.steps,
            settings.atol,
            settings.rtol,
            torch.finfo(z.dtype).eps,
            settings.max_evaluations,
        )
        y = z.new_zeros(problem.size)
        y[: problem.z_size] = z.reshape(-1)
        flat = y.numpy()
        pieces: list[tuple[steps.Tape, int]] = []
        outcome, left = steps.FULL, 0 if tape is None else tape.room
        while outcome == steps.FULL:
            capacity = 0 if tape is None else max(PIECE, sum(count for _, count in pieces))
            piece = _piece(z, net, batch, method, capacity, left)
            left -= len(piece.velocities) * _kept(net, batch, method)
            arguments = net, room, method, batch, way, memory, piece, tape is not None, flat

            def call(meeting: Array, worker: int, arguments: Any = arguments) -> None:
                solve: Any = steps.solve
                solve(*arguments, meeting, worker, workers)

            share_out(workers, call)
            outcome, evaluations, accepted, rejected, taped = memory.counts[0].tolist()
            pieces.append((piece, taped))
        known = memory.control[0].tolist()
        tick(evaluations, part=settings.part)
        step(True, settings.part, accepted)
        step(False, settings.part, rejected)
        if outcome == steps.TOO_MANY:
            raise TooManyEvaluations.at(settings.max_evaluations, settings.atol, settings.rtol)
        if outcome == steps.NOT_FINITE:
            raise StepUnderflow.at(settings.solver, "the dynamics are not finite at the start")
        if outcome == steps.UNDERFLOW:
            size, t = known[steps.STEP], known[steps.AT]
            raise StepUnderflow.at(settings.solver, f"step size {size:.1e} at t = {t:.6g}")
        if not method.adaptive and not torch.isfinite(y).all():
            raise StepUnderflow.at(settings.solver, "the state is not finite")
        if tape is not None:
            tape.whole = _Whole(net, batch, pieces)
            if method.adaptive:
                size, ratio = known[steps.FIRST_SIZE], known[steps.FIRST_RATIO]
                tape.fitting_step = fitting_step(size, ratio, method.order)
        return y

    def pull_solve(
        self, problem: Problem, tape: Tape, z_bar: Tensor, q_bar: Tensor | None
    ) -> tuple[Tensor, list[Tensor | None]]:
        method, whole = _method(problem.settings.solver), cast(_Whole, tape.whole)
        net, batch = whole.net, whole.batch
        found = self._layers(z_bar.element_size())
        assert found is not None
        workers = _workers(batch.panels)
        room, memory = _memory(z_bar, net, found, batch, method, workers, record=True)
        bar = z_bar.clone(memory_format=torch.contiguous_format)
        context_bar = None if self.context is None else torch.zeros_like(self.context)
        q_bar = z_bar.new_zeros(0) if q_bar is None else q_bar.contiguous()
        bars = z_bar.new_zeros(workers, len(batch.parameters))
        gradients = (
            bar.view(-1).numpy(),
            q_bar.view(-1).numpy(),
            (z_bar.new_zeros(0) if context_bar is None else context_bar.view(-1)).numpy(),
            np.empty_like(memory.weights),
            np.empty_like(memory.shifts),
            bars.numpy(),
        )
        evaluations = 0
        for piece, taped in reversed(whole.pieces):
            kept = min(taped, len(piece.velocities))
            evaluations += taped * method.used + (taped - kept) * (method.used - 1)
            arguments = net, room, method, batch, memory, piece, taped, *gradients

            def call(meeting: Array, worker: int, arguments: Any = arguments) -> None:
                pull: Any = steps.pull_solve
                pull(*arguments, worker, workers)

            share_out(workers, call)
        tick(evaluations, part=problem.settings.part)
        pieces = (bars[0] if workers == 1 else bars.sum(0)).split(
            [tensor.numel() for tensor in self.held.tensors]
        )
        totals: list[Tensor | None] = [
            piece.view(tensor.shape) if tensor.requires_grad else None
            for piece, tensor in zip(pieces, self.held.tensors, strict=True)
        ]
        return bar, totals if context_bar is None else [*totals, context_bar]

    def _layers(self, itemsize: int) -> layers.Layers | None:
        return layers.layers_of(cast(DenseDynamics, self.held.module), self.held.named, itemsize)

    def _network(self, found: layers.Layers) -> network.Network:
        dynamics, probes = cast(DenseDynamics, self.held.module), self.probes
        place = {name: 1 + index for index, name in enumerate(self.regularizers)}
        return network.Network(
            table=found.table,
            widest=found.widest,
            dimension=self.dimension,
            integrals=self.integrals,
            probes=0 if probes is None else len(probes.vectors),
            width=0 if probes is None else probes.vectors.shape[2],
            first=self.tangent_order[0],
            activation=ACTIVATIONS.index(dynamics.activation),
            residual=self.residual,
            weight=1.0 if probes is None else float(probes.weight),
            kinetic=place.get("kinetic_energy", -1),
            jacobian=place.get("jacobian_norm", -1),
        )

    def _batch(self, z: Tensor) -> steps.Batch:
        # One number after the other, as the kernels know them.
        with torch.no_grad():
            parameters = _flatten_dense_tensors(self.held.tensors)
        nothing = parameters.new_empty(0)
        context = nothing if self.context is None else self.context.detach().contiguous().view(-1)
        # Those of an exact trace are one matrix for all rows, which are 0 numbers apart.
        vectors = nothing.view(0, 0, 0) if self.probes is None else self.probes.vectors.detach()
        ends = ((size - 1) * one for size, one in zip(vectors.shape, vectors.stride(), strict=True))
        span = 1 + sum(ends) if vectors.numel() else 0
        flat = vectors.as_strided((span,), (1,))
        return steps.Batch(
            len(z),
            -(-len(z) * z.element_size() // PANEL_BYTES),
            flat.numpy(),
            vectors.stride(),
            context.numpy(),
            parameters.numpy(),
        )


def _memory(
    like: Tensor,
    net: network.Network,
    found: layers.Layers,
    batch: steps.Batch,
    method: steps.Method,
    workers: int,
    *,
    record: bool,
) -> tuple[network.Room, steps.Memory]:
    """How panels are numbered forward or, with a record, back; and what the workers write to."""
    stages = method.used if record else len(method.solution)
    room = network.room_of(net, like.element_size(), stages, record=record)
    taken = steps.BARS if record else steps.RATES + stages
    # Of torch's memory, which is measured, what is large.
    number = batch.parameters.dtype
    return room, steps.Memory(
        like.new_empty(workers, room.total).numpy(),
        np.empty((workers, stages), number),
        np.empty((workers, stages, found.shifts), number),
        like.new_empty(workers, stages, found.weights).numpy(),
        np.empty((workers, stages, found.shifts), number),
        np.zeros((workers, steps.CONTROL)),
        np.zeros((workers, steps.COUNTS), np.int64),
        like.new_zeros(batch.panels, taken * room.thin_size).numpy(),
        np.empty((2, batch.panels, 2)),
    )


def _piece(
    like: Tensor,
    net: network.Network,
    batch: steps.Batch,
    method: steps.Method,
    capacity: int,
    left: int,
) -> steps.Tape:
    """A piece of tape for so many steps, with velocities as far as so many numbers allow."""
    size = net.dimension * PANEL_BYTES // like.element_size()
    one = _kept(net, batch, method)
    velocities = min(capacity, left // one) if one else capacity
    return steps.Tape(
        np.empty(capacity),
        np.empty(capacity),
        like.new_empty(capacity, batch.panels, size).numpy(),
        like.new_empty(velocities, batch.panels, method.used - 1, size).numpy(),
    )


def _kept(net: network.Network, batch: steps.Batch, method: steps.Method) -> int:
    """Numbers of a step's velocities."""
    return (method.used - 1) * net.dimension * batch.size


@cache
def _method(solver: str) -> steps.Method:
    tableau = TABLEAUS[solver]
    size = len(tableau.times)
    stages = np.zeros((size, size))
    for stage, row in enumerate(tableau.stages):
        stages[stage, : len(row)] = row
    return steps.Method(
        np.array(tableau.times, float),
        stages,
        np.array(tableau.solution, float),
        np.array(tableau.error or [0.0] * size, float),
        np.array(tableau.counts),
        tableau.adaptive,
        tableau.used,
        tableau.order,
    )


def _workers(panels: int) -> int:
    return max(1, min(torch.get_num_threads(), panels // LEAST_PANELS))
