"""What a flow costs in memory: the peak of a training step, in a pass of its own.

On CUDA the allocator knows. On the CPU no counter sees a tensor's memory while it lives, except
the profiler, whose allocation events are summed up here; the process's own peak stands beside.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.environment import process_peak_bytes
from benchmarks.measures.base import Column, Family
from benchmarks.measures.subject import Subject
from benchmarks.train import Trainer
from flows.continuous.ode import recorded

_memory = functools.partial(Column, unit="MiB", factor=2.0**-20, interval=False)
COLUMNS = (
    _memory(
        "peak_memory_bytes",
        "peak of the tensors alive in a training step: weights, gradients, optimiser, batch and "
        "all intermediate values; the data set apart; bytes",
        heading="peak memory",
        axis="peak tensor memory",
        table="cost",
    ),
    _memory(
        "peak_memory_reserved_bytes",
        "peak that the CUDA allocator reserved for it, bytes",
        heading="reserved memory",
    ),
    _memory(
        "process_peak_bytes",
        "peak resident memory of the process that measured cost, which holds Python, torch and the "
        "data set too, bytes",
        heading="memory of the process",
    ),
)


def measure(subject: Subject) -> dict[str, float]:
    """Peak memory of a training step of the trained flow."""
    found: dict[str, float] = {}
    # Other libraries' memory is seen by the process alone.
    if subject.flow.in_torch:
        found["peak_memory_bytes"] = training_step_peak(subject)
    if subject.flow.in_torch and subject.device.type == "cuda":
        found["peak_memory_reserved_bytes"] = torch.cuda.max_memory_reserved(subject.device)
    peak = process_peak_bytes()
    if peak is not None:
        found["process_peak_bytes"] = peak
    return found


def training_step_peak(subject: Subject) -> int:
    """Peak of the tensors alive in a training step of a flow, the data set apart, in bytes."""
    flow = subject.flow
    batch, _ = next(iter(subject.batches("memory")))
    batch = batch.clone()
    trainer = Trainer(flow, subject.cell.budget, subject.generator("memory: estimator"))
    trainer.set_learning_rate(1e-12)
    flow.train()
    # The first step allocates the optimiser's state, which stays. Its gradients do not: the next
    # step, which begins by freeing them, would be credited with what the profiler never saw.
    trainer.step(batch)
    trainer.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    resident = _bytes(_resident(trainer, batch))
    return resident + peak_above_start(lambda: trainer.step(batch), flow.device)


def _resident(trainer: Trainer, batch: Tensor) -> list[Tensor]:
    """What is alive between two steps, gradients apart."""
    state = [
        value
        for slots in trainer.optimizer.state.values()
        for value in slots.values()
        if isinstance(value, Tensor)
    ]
    return [*trainer.flow.parameters(), *trainer.flow.buffers(), *state, batch]


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Size of the memory behind tensors, each piece once however many of them are views of it."""
    pieces = (tensor.untyped_storage() for tensor in tensors)
    return sum({piece.data_ptr(): piece.nbytes() for piece in pieces}.values())


_CPU = torch.device("cpu")


def peak_above_start(action: Callable[[], object], device: torch.device = _CPU) -> int:
    """Peak of a device's memory that tensors hold while an action runs, above its start, in bytes.

    Example:
        >>> peak_above_start(lambda: torch.zeros(1000, dtype=torch.float64).add(1)) >= 16000
        True
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        # What a replayed graph uses is its own, and in no allocation.
        with recorded.using(None):
            action()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        action()
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


ENTRIES = [
    Family(
        "memory",
        "peak memory of a training step",
        stage="cost",
        version=1,
        columns=COLUMNS,
        measure=measure,
        place=20,
        by_default=True,
    )
]
