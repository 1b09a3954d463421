"""How fast a flow is beside another, and beside what the machine could do.

Two contestants are timed in turn in one process, A B A B, and compared pair by pair: what slows the
machine down slows both. Both are as training left the cell's flow: the reference has the same
weights where it has the same parameters, and fresh ones otherwise.

What the machine could do is the rate of one large dense matrix product. The time that an action
takes is set against the time that its matrix products would take at that rate. Where a solver
reports its steps, those that it rejected count as time and not as work: they bring nothing forward.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.measures.base import Column, Family, with_quartile_columns
from benchmarks.measures.machine import matmul_flops_per_second
from benchmarks.measures.memory import training_step_peak
from benchmarks.measures.subject import Subject
from benchmarks.measures.time import actions, clock, with_quartiles
from datasets.base import named_seed
from flows import Meter


def _ratio(name: str, heading: str, words: str) -> tuple[Column, ...]:
    return with_quartile_columns(
        Column(
            f"{name}_ratio",
            f"{words}, median of interleaved pairs; above 1: the reference is faster",
            sort="ratio",
            heading=heading,
            digits=2,
        ),
        f"{words}, lower quartile of the pairs",
        f"{words}, upper quartile of the pairs",
    )


COLUMNS = (
    *_ratio("train_step", "train step", "seconds of a training step over the reference's"),
    *_ratio("log_prob", "log_prob", "seconds of a log-density over the reference's"),
    *_ratio("sample", "sample", "seconds of sampling over the reference's"),
    Column(
        "peak_memory_ratio",
        "peak memory of a training step over the reference's",
        heading="peak memory",
        digits=2,
    ),
    Column("reference", "label of the reference", sort="text"),
    Column(
        "train_step_flops",
        "floating-point operations of the matrix products of a training step",
    ),
    Column("log_prob_flops", "the same of a log-density"),
    Column(
        "train_step_rejected_flops",
        "those of them that went into steps which the solver rejected, as far as it reports its "
        "steps",
    ),
    Column("log_prob_rejected_flops", "the same of a log-density"),
    Column(
        "train_step_over_matmul",
        "seconds of a training step, median, over those that its matrix products, rejected steps "
        "apart, need at the rate of a large one, measured between the pairs",
        sort="ratio",
        heading="train step over matmul",
        digits=2,
    ),
    Column(
        "log_prob_over_matmul",
        "the same of a log-density",
        sort="ratio",
        heading="log_prob over matmul",
        digits=2,
    ),
)

# Pairs until both are reached, and no more than MOST_PAIRS. Slow pairs vary less, relatively:
# past SLOW_SECONDS altogether FEWEST_PAIRS do, whose quartiles still mean something.
LEAST_PAIRS = 7
LEAST_SECONDS = 1.0
MOST_PAIRS = 60
FEWEST_PAIRS = 5
SLOW_SECONDS = 30.0


def measure(subject: Subject) -> dict[str, float | str]:
    """Ratios to the reference; nothing for a cell without one."""
    other = opponent(subject)
    if other is None:
        return {}
    ours, theirs = actions(subject), actions(other)
    assert subject.cell.reference is not None
    found: dict[str, float | str] = {"reference": subject.cell.reference.label}
    seconds: dict[str, float] = {}
    rates = [matmul_flops_per_second(subject)]
    for name, action in ours.items():
        pairs = _pairs(action, theirs[name], subject.device)
        # Near each action in time, so that a machine that is slowed down is so for both.
        rates.append(matmul_flops_per_second(subject))
        found |= with_quartiles(f"{name}_ratio", [a / b for a, b in pairs])
        seconds[name] = statistics.median(a for a, _ in pairs)
    rate = statistics.median(rates)
    if not subject.flow.in_torch:
        return found
    # A compiled step multiplies what it does call by call, where it can be counted.
    budget = subject.cell.budget.model_copy(update={"compile": False})
    cell = subject.cell.model_copy(update={"budget": budget})
    counted = actions(dataclasses.replace(subject, cell=cell))
    for name in ("train_step", "log_prob"):
        with MatmulFlops() as counter:
            counted[name]()
        found[f"{name}_flops"] = counter.total
        found[f"{name}_rejected_flops"] = counter.rejected
        useful = counter.total - counter.rejected
        if useful:
            found[f"{name}_over_matmul"] = seconds[name] * rate / useful
    if other.flow.in_torch:
        found["peak_memory_ratio"] = training_step_peak(subject) / training_step_peak(other)
    return found


def opponent(subject: Subject) -> Subject | None:
    """The reference under the same measurement; None for a cell without one.

    It has the weights of the subject where it has the same parameters under the same names.
    """
    reference = subject.cell.reference
    if reference is None:
        return None
    torch.manual_seed(named_seed("weights", subject.cell.seed))
    flow = reference.config().build(subject.dataset.event_shape)
    flow = flow.to(subject.device, subject.flow.dtype)
    flow.initialize(subject.initialisation_rows())
    own, other = subject.flow.state_dict(), flow.state_dict()
    if {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in other.items()}:
        flow.load_state_dict(own)
    return dataclasses.replace(subject, flow=flow)


class MatmulFlops(TorchDispatchMode):
    """Floating-point operations of the matrix products and convolutions in a block.

    torch's own FlopCounterMode also keeps track of modules by hooks, which fail where a backward
    pass asks autograd for gradients itself, as the adjoint method does.

    Attributes:
        total: all of them.
        rejected: those of steps that a solver rejected, as far as it reports its steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.rejected = 0
        # What was computed since the last step was accepted or rejected.
        self._undecided = 0
        self._meter = Meter()
        self._steps = (0, 0)

    def __enter__(self) -> MatmulFlops:
        self._meter.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._meter.__exit__(*error)
        self._decide()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self._decide()
            flops = count(*args, **(kwargs or {}), out_val=result)
            self.total += flops
            self._undecided += flops
        return result

    def _decide(self) -> None:
        steps = (self._meter.accepted, self._meter.rejected)
        if steps != self._steps:
            if steps[1] > self._steps[1]:
                self.rejected += self._undecided
            self._undecided = 0
            self._steps = steps


def _pairs(
    first: Callable[[], None], second: Callable[[], None], device: torch.device
) -> list[tuple[float, float]]:
    warm_up = 0.0
    for _ in range(2):
        warm_up += clock(first, device) + clock(second, device)
        if warm_up > SLOW_SECONDS / 2:
            break
    pairs: list[tuple[float, float]] = []
    while True:
        pairs.append((clock(first, device), clock(second, device)))
        spent = sum(map(sum, pairs))
        if len(pairs) >= (FEWEST_PAIRS if spent > SLOW_SECONDS else LEAST_PAIRS) and (
            spent >= LEAST_SECONDS or len(pairs) >= MOST_PAIRS
        ):
            return pairs


ENTRIES = [
    Family(
        "ratio",
        "times over those of a reference, in interleaved pairs, and over those of the "
        "matrix products alone",
        stage="cost",
        version=1,
        columns=COLUMNS,
        measure=measure,
        place=30,
        by_default=True,
    )
]
