"""What a flow costs in seconds, with the device to itself.

Warmed up, synchronised before each reading of the clock, median and quartiles of the repeats,
the first step apart. Work of other processes during the measurement marks it as shared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.environment import OthersWork
from benchmarks.measures.subject import Subject
from benchmarks.train import Trainer, evaluation_mode

STAGE = "cost"
COLUMNS = {
    "first_step_seconds": "the first training step of a fresh process, seconds",
    "train_step_seconds": "a training step at the cell's batch size, median, seconds",
    "train_step_seconds_q25": "its lower quartile, seconds",
    "train_step_seconds_q75": "its upper quartile, seconds",
    "log_prob_seconds": "log-density of a batch of that size, no gradient, median, seconds",
    "log_prob_seconds_q25": "its lower quartile, seconds",
    "log_prob_seconds_q75": "its upper quartile, seconds",
    "sample_seconds": "sampling a batch of that size, median, seconds",
    "sample_seconds_q25": "its lower quartile, seconds",
    "sample_seconds_q75": "its upper quartile, seconds",
    "cost_shared": "whether other processes used the device or a quarter of the cores meanwhile",
}

# Repeats until both are reached, and no more than MOST_REPEATS.
LEAST_REPEATS = 5
LEAST_SECONDS = 0.3
MOST_REPEATS = 50


def measure(subject: Subject) -> dict[str, float | bool]:
    """Times of a training step, a density and a sample of the trained flow."""
    flow, size = subject.flow, subject.cell.budget.batch_size
    batches = iter(subject.batches("time"))
    generator = subject.generator("time: estimator")
    points = subject.test_points(size)
    trainer = Trainer(flow, subject.cell.budget, generator)
    # So small that the weights stay where training left them, and with them the solver's steps.
    trainer.set_learning_rate(1e-12)

    def train_step() -> None:
        trainer.step(next(batches)[0])

    def log_prob() -> None:
        with torch.no_grad():
            flow.log_prob(points, generator=generator)

    def sample() -> None:
        with torch.no_grad():
            flow.sample(size, generator=generator)

    found: dict[str, float | bool] = {}
    with OthersWork(flow.device) as others:
        flow.train()
        found["first_step_seconds"] = _clock(train_step, flow.device)
        _record(found, "train_step_seconds", train_step, flow.device)
        with evaluation_mode(flow):
            _record(found, "log_prob_seconds", log_prob, flow.device)
            _record(found, "sample_seconds", sample, flow.device)
    found["cost_shared"] = others.shared
    return found


def _record(
    found: dict[str, float | bool], name: str, action: Callable[[], None], device: torch.device
) -> None:
    _clock(action, device)
    seconds: list[float] = []
    while len(seconds) < LEAST_REPEATS or (
        sum(seconds) < LEAST_SECONDS and len(seconds) < MOST_REPEATS
    ):
        seconds.append(_clock(action, device))
    found[name] = statistics.median(seconds)
    found[f"{name}_q25"], _, found[f"{name}_q75"] = statistics.quantiles(
        seconds, n=4, method="inclusive"
    )


def _clock(action: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
