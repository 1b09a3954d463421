"""What a flow costs in seconds, with the device to itself.

Warmed up, synchronised before each reading of the clock, median and quartiles of the repeats,
the first step apart.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.measures.base import Column, Family, with_quartile_columns
from benchmarks.measures.subject import EXACT_UP_TO_DIMENSION, Subject
from benchmarks.train import Trainer


def _seconds(name: str, meaning: str, heading: str, axis: str) -> tuple[Column, ...]:
    return with_quartile_columns(
        Column(
            name,
            meaning,
            sort="time",
            unit="ms",
            heading=heading,
            axis=axis,
            factor=1e3,
            table="cost",
        ),
        "its lower quartile, seconds",
        "its upper quartile, seconds",
    )


COLUMNS = (
    Column(
        "first_step_seconds",
        "the first training step of a fresh process, seconds",
        sort="time",
        unit="ms",
        heading="first step",
        factor=1e3,
    ),
    *_seconds(
        "train_step_seconds",
        "a training step at the cell's batch size, median, seconds",
        "train step",
        "training step",
    ),
    *_seconds(
        "log_prob_seconds",
        "log-density of a batch of that size, no gradient, median, seconds",
        "log_prob",
        "density of a batch",
    ),
    *_seconds(
        "log_prob_exact_seconds",
        "the same with the exact trace, as the test density has it, where the plain log-density is "
        "an estimate and the dimension is 64 at most, median, seconds",
        "log_prob, exact",
        "exact density of a batch",
    ),
    *_seconds(
        "sample_seconds",
        "sampling a batch of that size, median, seconds",
        "sample",
        "sampling a batch",
    ),
    Column(
        "compile_seconds",
        "what the first training step, density and sample of a fresh process took above their "
        "medians, together, seconds, where any of them is compiled",
        sort="time",
        unit="s",
        heading="compilation",
        table="cost",
    ),
)

# Repeats until both are reached, and no more than MOST_REPEATS.
LEAST_REPEATS = 5
LEAST_SECONDS = 0.15
MOST_REPEATS = 50
# Slow repeats vary less, relatively: past SLOW_SECONDS altogether FEWEST_REPEATS do.
FEWEST_REPEATS = 3
SLOW_SECONDS = 1.0


def actions(subject: Subject) -> dict[str, Callable[[], None]]:
    """What is timed: a training step, a density and a sample, at the cell's batch size.

    Args:
        subject: its weights stay where they are, but for rounding.

    Returns:
        Name of the column's stem to what is to be run; each sets the flow's mode itself.
    """
    flow, size = subject.flow, subject.cell.budget.batch_size
    batches = iter(subject.batches("time"))
    generator = subject.generator("time: estimator")
    points = subject.test_points(size)
    trainer = Trainer(flow, subject.cell.budget, generator)
    # So small that the weights stay where training left them, and with them the solver's steps.
    trainer.set_learning_rate(1e-12)

    def train_step() -> None:
        flow.train()
        trainer.step(next(batches)[0])

    def log_prob() -> None:
        flow.eval()
        with torch.no_grad():
            flow.log_prob(points, generator=generator)

    def sample() -> None:
        flow.eval()
        with torch.no_grad():
            flow.sample(size, generator=generator)

    return {"train_step": train_step, "log_prob": log_prob, "sample": sample}


def exact_actions(subject: Subject) -> dict[str, Callable[[], None]]:
    """The exact density likewise, where the plain one is an estimate and this one is affordable."""
    flow = subject.flow
    if flow.traits.density == "exact" or subject.dataset.dimension > EXACT_UP_TO_DIMENSION:
        return {}
    points = subject.test_points(subject.cell.budget.batch_size)

    def log_prob_exact() -> None:
        flow.eval()
        with torch.no_grad():
            flow.log_prob(points, exact=True)

    return {"log_prob_exact": log_prob_exact}


def measure(subject: Subject) -> dict[str, float]:
    """Times of a training step, a density and a sample of the trained flow."""
    device = subject.device
    found: dict[str, float] = {}
    compilation = 0.0
    for name, action in {**actions(subject), **exact_actions(subject)}.items():
        seconds: list[float] = []
        first = clock(action, device)
        if name == "train_step":
            found["first_step_seconds"] = first
        elif first > SLOW_SECONDS:
            # By now the process is warm, and a slow repeat is worth keeping; not what compiled.
            seconds.append(clock(action, device))
            if first < 2 * seconds[0]:
                seconds.append(first)
        if first < SLOW_SECONDS / 2:
            clock(action, device)
        while len(seconds) < (FEWEST_REPEATS if sum(seconds) > SLOW_SECONDS else LEAST_REPEATS) or (
            sum(seconds) < LEAST_SECONDS and len(seconds) < MOST_REPEATS
        ):
            seconds.append(clock(action, device))
        found |= with_quartiles(f"{name}_seconds", seconds)
        compilation += max(0.0, first - statistics.median(seconds))
    if subject.form != "eager":
        found["compile_seconds"] = compilation
    return found


def with_quartiles(name: str, values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of repeats, as columns."""
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return {name: statistics.median(values), f"{name}_q25": lower, f"{name}_q75": upper}


def clock(action: Callable[[], object], device: torch.device) -> float:
    """Seconds that an action takes, its work on the device included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def median_seconds(action: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median of so many calls, which are to be warmed up."""
    return statistics.median(clock(action, device) for _ in range(repeats))


ENTRIES = [
    Family(
        "time",
        "seconds of a training step, a density, a sample",
        stage="cost",
        version=1,
        columns=COLUMNS,
        measure=measure,
        place=10,
        by_default=True,
    )
]
