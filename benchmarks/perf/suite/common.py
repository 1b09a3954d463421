"""What the benchmarks share: the clock, and what the measures are given."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

import datasets
import flows

if TYPE_CHECKING:
    from benchmarks.matrix import Matrix
    from benchmarks.measures.subject import Subject

DEVICES = ["cpu", "cuda"]


def timer() -> float:
    """Seconds on the clock that asv takes all times by.

    On CUDA the wall clock, after the device has finished. On the CPU the processor time of this
    process: everything runs on one thread and computes, so that it equals the wall time of a quiet
    machine, and on a busy one leaves out the time in which others had the core.
    """
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


class Timed:
    """Settings of every ``time_``; set-up runs before each sample, so a sample is one call."""

    version = "3"
    timer: ClassVar[Any] = staticmethod(timer)
    # Rounds alternate between the commits compared, so that both meet the machine's moods.
    rounds = 3
    repeat = (5, 30, 0.35)
    min_run_count = 3
    warmup_time = 0.05
    timeout = 60.0


class Tracked:
    """Settings of every ``track_``."""

    version = "2"
    timeout = 60.0


def matrix(text: str) -> Matrix:
    """A matrix file of that text, read; NotImplementedError if the commit has no matrices yet."""
    try:
        from benchmarks.matrix import load_matrix
    except ImportError as error:
        raise NotImplementedError("this commit has no matrices") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "perf.toml")
        path.write_text(text)
        return load_matrix(str(path))


@functools.lru_cache
def subject(
    name: str, event_shape: tuple[int, ...], rows: int, device: str = "cpu", **options: Any
) -> Subject:
    """A flow with the same weights and data in each process, initialised, for the measures.

    Args:
        name: in the catalog.
        event_shape: of one datum; the data are normal.
        rows: of a batch.
        device: where the flow is to lie.
        **options: of the flow.

    Raises:
        NotImplementedError: by which asv skips the benchmark: if the commit has no such flow or no
            measures, or the device is not here.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise NotImplementedError("there is no CUDA device")
    try:
        from benchmarks.measures.subject import Subject

        flows.entry(name)
    except (ImportError, flows.UnknownFlow) as error:
        raise NotImplementedError(f"this commit does not have it: {error}") from error
    generator = torch.Generator().manual_seed(1)
    train = torch.randn(4 * rows, *event_shape, generator=generator)
    test = torch.randn(rows, *event_shape, generator=generator)
    splits = (train.numpy(), train.numpy(), test.numpy())
    torch.manual_seed(0)
    flow = flows.build(name, event_shape, **options)
    flow.initialize(train)
    if flow.traits.density_passes == "solver" and len(event_shape) == 1:
        # Fresh dynamics are so tame that every solver takes two steps. These take about five.
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.mul_(3)
    (cell,) = matrix(
        f'name = "perf"\nseeds = [0]\nbudget = {{ batch_size = {rows} }}\n'
        f'[[study]]\nflows = ["{name}"]\ndatasets = ["8gaussians"]\n'
    ).cells
    data = datasets.Dataset("normal", "toy", event_shape, *splits)
    return Subject(cell, flow.to(device), data)


@functools.lru_cache
def _actions(*words: Any, **options: Any) -> dict[str, Callable[[], None]]:
    from benchmarks.measures import time as measure

    found = subject(*words, **options)
    if not found.flow.traits.trains_on_data:
        return {"sample": measure.actions(found)["sample"]}
    if not hasattr(measure, "exact_actions"):
        return measure.actions(found)
    return {**measure.actions(found), **measure.exact_actions(found)}


def action(stem: str, *words: Any, **options: Any) -> Callable[[], None]:
    """What the measure of time calls a step, a density or a sample of a :func:`subject`.

    Raises:
        NotImplementedError: if the commit or the flow has none.
    """
    actions = _actions(*words, **options)
    if stem not in actions:
        raise NotImplementedError(f"there is no {stem} here")
    return actions[stem]
