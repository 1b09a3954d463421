"""What the machine can do: the rate of one large dense matrix product."""

from __future__ import annotations

import statistics

import torch

from benchmarks.measures.base import Column, Family
from benchmarks.measures.subject import Subject
from benchmarks.measures.time import clock
from flows.products import by_onednn, onednn_is_there

COLUMNS = (
    # No seconds, but as little worth as they where others used the device.
    Column(
        "matmul_flops_per_second",
        "what a large dense matrix product reaches here in the cell's dtype and threads, "
        "floating-point operations a second, by the faster of torch's libraries, median of "
        "repeats; in every cell whose cost is measured",
        sort="time",
        unit="GFLOP/s",
        heading="matrix product",
        factor=1e-9,
    ),
)

REPEATS = 5
SIZE = {"cpu": 1024, "cuda": 8192}


def measure(subject: Subject) -> dict[str, float]:
    """The rate, with the device and the threads of the cell."""
    return {"matmul_flops_per_second": matmul_flops_per_second(subject)}


def matmul_flops_per_second(subject: Subject) -> float:
    """Rate of a large product by the faster of the libraries that torch has for it."""
    device, size = subject.device, SIZE[subject.device.type]
    left = torch.ones(size, size, dtype=subject.flow.dtype, device=device)
    right = torch.ones_like(left)
    result = torch.empty_like(left)

    def plain() -> None:
        torch.mm(left, right, out=result)

    def onednn() -> None:
        by_onednn(left, right.t(), None)

    actions = [plain]
    if device.type == "cpu" and left.dtype == torch.float32 and onednn_is_there():
        actions.append(onednn)
    for action in actions:
        clock(action, device)
    repeats = [[clock(action, device) for action in actions] for _ in range(REPEATS)]
    medians = [statistics.median(seconds) for seconds in zip(*repeats, strict=True)]
    return 2.0 * size**3 / float(min(medians))


ENTRIES = [
    Family(
        "machine",
        "what a large matrix product reaches here; in every cell whose cost is measured",
        stage="cost",
        version=1,
        columns=COLUMNS,
        measure=measure,
        # Last: the first training step of a process and its peak memory are not to see it.
        place=100,
        by_default=True,
    )
]
