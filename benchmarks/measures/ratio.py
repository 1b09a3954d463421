"""How fast a flow is beside another, and beside what the machine could do.

Two contestants are timed in turn in one process, A B A B, and compared pair by pair: what slows the
machine down slows both. Both are as training left the cell's flow: the reference has the same
weights where it has the same parameters, and fresh ones otherwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.measures.memory import training_step_peak
from benchmarks.measures.subject import Subject
from benchmarks.measures.time import actions, clock, with_quartiles
from datasets.base import named_seed

STAGE = "cost"
COLUMNS = {
    **{
        f"{name}_ratio{suffix}": text
        for name, words in {
            "train_step": "seconds of a training step over the reference's",
            "log_prob": "seconds of a log-density over the reference's",
            "sample": "seconds of sampling over the reference's",
        }.items()
        for suffix, text in {
            "": f"{words}, median of interleaved pairs; above 1: the reference is faster",
            "_q25": f"{words}, lower quartile of the pairs",
            "_q75": f"{words}, upper quartile of the pairs",
        }.items()
    },
    "peak_memory_ratio": "peak memory of a training step over the reference's",
    "reference": "label of the reference",
    "matmul_flops_per_second": "what a large dense matrix product reaches here in the cell's dtype "
    "and threads, floating-point operations a second, best of the repeats",
    "train_step_flops": "floating-point operations of the matrix products of a training step",
    "log_prob_flops": "the same of a log-density",
    "train_step_over_matmul": "seconds of a training step over those that its matrix products need "
    "at that rate, median",
    "log_prob_over_matmul": "the same of a log-density",
}

# Pairs until both are reached, and no more than MOST_PAIRS.
LEAST_PAIRS = 7
LEAST_SECONDS = 1.0
MOST_PAIRS = 60
MATMUL_SIZE = {"cpu": 1024, "cuda": 8192}


def measure(subject: Subject) -> dict[str, float | str]:
    """Ratios to the reference; nothing for a cell without one."""
    reference = subject.cell.reference
    if reference is None:
        return {}
    torch.manual_seed(named_seed("weights", subject.cell.seed))
    flow = reference.config().build(subject.dataset.event_shape)
    flow = flow.to(subject.device, subject.flow.dtype)
    flow.initialize(next(iter(subject.batches("initialisation")))[0])
    own, other = subject.flow.state_dict(), flow.state_dict()
    if {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in other.items()}:
        flow.load_state_dict(own)
    opponent = dataclasses.replace(subject, flow=flow)
    ours, theirs = actions(subject), actions(opponent)
    found: dict[str, float | str] = {"reference": reference.label}
    rate = _matmul_rate(subject)
    found["matmul_flops_per_second"] = rate
    for name, action in ours.items():
        pairs = _pairs(action, theirs[name], subject.device)
        found |= with_quartiles(f"{name}_ratio", [a / b for a, b in pairs])
        if name != "sample":
            with _MatmulFlops() as counter:
                action()
            flops = counter.total
            found[f"{name}_flops"] = flops
            if flops:
                seconds = with_quartiles("", [a for a, _ in pairs])[""]
                found[f"{name}_over_matmul"] = seconds * rate / flops
    found["peak_memory_ratio"] = training_step_peak(subject) / training_step_peak(opponent)
    return found


class _MatmulFlops(TorchDispatchMode):
    """Floating-point operations of the matrix products and convolutions in a block.

    torch's own FlopCounterMode also keeps track of modules by hooks, which fail where a backward
    pass asks autograd for gradients itself, as the adjoint method does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def _pairs(
    first: Callable[[], None], second: Callable[[], None], device: torch.device
) -> list[tuple[float, float]]:
    for _ in range(2):
        clock(first, device)
        clock(second, device)
    pairs: list[tuple[float, float]] = []
    while len(pairs) < LEAST_PAIRS or (
        sum(map(sum, pairs)) < LEAST_SECONDS and len(pairs) < MOST_PAIRS
    ):
        pairs.append((clock(first, device), clock(second, device)))
    return pairs


def _matmul_rate(subject: Subject) -> float:
    size = MATMUL_SIZE[subject.device.type]
    left = torch.ones(size, size, dtype=subject.flow.dtype, device=subject.device)
    right = torch.ones_like(left)
    result = torch.empty_like(left)

    def multiply() -> None:
        torch.mm(left, right, out=result)

    return 2 * size**3 / min(clock(multiply, subject.device) for _ in range(12))
