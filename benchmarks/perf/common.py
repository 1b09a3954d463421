"""What the benchmarks share: the clock, the device, and flows that are built once a process."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, ClassVar

import torch

import flows
from flows import Flow

if TYPE_CHECKING:
    from benchmarks.train import Trainer

DEVICES = ["cpu", "cuda"]


def timer() -> float:
    """Seconds on the clock that all times are taken by.

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

    version = "2"
    timer: ClassVar[Any] = staticmethod(timer)
    # Rounds alternate between the commits compared, so that both meet the machine's moods.
    rounds = 3
    repeat = (5, 30, 0.35)
    min_run_count = 3
    warmup_time = 0.05
    timeout = 60.0


class Tracked:
    """Settings of every ``track_``."""

    version = "1"
    timeout = 60.0


def require_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        NotImplementedError: if it is not here, by which asv skips the benchmark.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise NotImplementedError("there is no CUDA device")
    return torch.device(name)


@functools.lru_cache
def build(name: str, event_shape: int | tuple[int, ...], device: str, **options: Any) -> Flow:
    """A flow with the same weights in each process, initialised, in training mode.

    Args:
        name: in the catalog.
        event_shape: of one datum; a number for vectors of that dimension.
        device: where it is to lie.
        **options: of the flow.

    Raises:
        NotImplementedError: if the commit has no such flow, or the device is not here.
    """
    target = require_device(device)
    try:
        flows.entry(name)
    except flows.UnknownFlow as error:
        raise NotImplementedError(f"this commit has no flow {name!r}") from error
    torch.manual_seed(0)
    shape = (event_shape,) if isinstance(event_shape, int) else event_shape
    flow = flows.build(name, shape, **options)
    flow.initialize(points(1024 if len(shape) == 1 else 16, event_shape, "cpu"))
    if flow.traits.density_passes == "solver" and len(shape) == 1:
        # Fresh dynamics are so tame that every solver takes two steps. These take about five.
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.mul_(3)
    return flow.to(target)


@functools.lru_cache
def points(rows: int, event_shape: int | tuple[int, ...], device: str) -> torch.Tensor:
    """The same data in each process, shape ``(rows, *event_shape)``."""
    shape = (event_shape,) if isinstance(event_shape, int) else event_shape
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, *shape, generator=generator).to(device)


@functools.lru_cache
def generator(device: str) -> torch.Generator:
    """A generator on the device; set-up winds it back before each sample.

    Raises:
        NotImplementedError: if the device is not here.
    """
    return torch.Generator(require_device(device))


@functools.lru_cache
def trainer(flow: Flow, batch_size: int, source: torch.Generator) -> Trainer:
    """What takes training steps, at a rate that leaves the weights as they are.

    Raises:
        NotImplementedError: if the commit has no trainer, or the flow is not trained on data.
    """
    try:
        from benchmarks.cell import Budget
        from benchmarks.train import Trainer
    except ImportError as error:
        raise NotImplementedError("this commit has no trainer") from error
    require_density(flow)
    made = Trainer(flow, Budget(batch_size=batch_size), source)  # type: ignore[call-arg]
    # Trained weights would need more and more solver steps, from one sample to the next.
    made.set_learning_rate(1e-12)
    return made


def require_density(flow: Flow) -> None:
    """Skip a flow that has no density of given data.

    Raises:
        NotImplementedError: if it has none.
    """
    if not flow.traits.trains_on_data:
        raise NotImplementedError("the flow has no density of given data")
