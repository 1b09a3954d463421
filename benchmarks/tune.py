"""A cell's training: a fresh flow at each learning rate of its grid, and the one that is tested.

The rates differ in nothing else: same weights at the start, same batches, same noise. The choice is
made by the validation that also chose each run's checkpoint; the test split takes no part. What the
whole grid cost stands beside, since that is the price of the choice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

import flows
from benchmarks.cell import Cell
from benchmarks.measures.subject import Subject
from benchmarks.train import CurveRow, Diverged, TrainingResult, train
from datasets import Dataset
from datasets.base import named_seed

__all__ = ["NotApplicable", "Trained", "fresh_flow", "train_cell", "tune"]

Value = float | int | str | bool | None
Attempt = Callable[[float, Callable[[CurveRow], None]], tuple[flows.Flow, TrainingResult]]


class NotApplicable(Exception):
    """The flow does not apply to the data set, or a library that it needs is missing."""


@dataclass(frozen=True)
class Trained:
    """The flow that is tested.

    Attributes:
        flow: with the weights of its best validation.
        learning_rate: of its training.
        columns: of the record, as :data:`benchmarks.measures.ALWAYS` explains them.
    """

    flow: flows.Flow
    learning_rate: float
    columns: dict[str, Value]


def fresh_flow(cell: Cell, dataset: Dataset) -> flows.Flow:
    """The cell's flow before training, initialised on rows of the training split.

    Raises:
        NotApplicable: if the flow does not take these data, or cannot be trained on data and is to
            be; the message says why.
    """
    torch.manual_seed(named_seed("weights", cell.seed))
    try:
        flow = cell.contestant.config().build(dataset.event_shape)
    except flows.FlowError as error:
        raise NotApplicable(str(error)) from error
    if cell.budget.steps != 0 and not flow.traits.trains_on_data:
        raise NotApplicable(f"{cell.flow} cannot be trained on data: it has no density of data")
    flow = flow.to(cell.device, torch.float64 if cell.dtype == "float64" else torch.float32)
    flow.initialize(Subject(cell, flow, dataset).initialisation_rows())
    return flow


def train_cell(cell: Cell, dataset: Dataset, on_row: Callable[[float, CurveRow], None]) -> Trained:
    """Train a cell's flow, at every rate of its grid if it has one.

    Args:
        cell: what to train.
        dataset: its data.
        on_row: called with the learning rate and each row of its training curve.

    Raises:
        NotApplicable: if the flow cannot be trained on these data.
        Diverged: if training produced no usable model, at any rate.
    """

    def attempt(
        rate: float, on_row: Callable[[CurveRow], None]
    ) -> tuple[flows.Flow, TrainingResult]:
        flow = fresh_flow(cell, dataset)
        budget = cell.at_rate(rate).budget
        return flow, train(flow, dataset, budget, seed=cell.seed, on_row=on_row)

    return tune(cell.learning_rates or (cell.budget.learning_rate,), attempt, on_row)


def tune(
    rates: Sequence[float], attempt: Attempt, on_row: Callable[[float, CurveRow], None]
) -> Trained:
    """Train once per learning rate and keep the training with the best validation.

    Args:
        rates: rising. A single one is trained, and nothing is said of tuning.
        attempt: trains a fresh flow at a rate and reports the rows of its curve.
        on_row: called with the rate and each such row.

    Returns:
        The best; of equals that with the lower rate.

    Raises:
        Diverged: if every rate diverged. A rate that does so beside others only loses.
    """
    best: tuple[float, flows.Flow, TrainingResult] | None = None
    failures: list[Diverged] = []
    seconds, steps, nfe = 0.0, 0, 0.0
    for rate in rates:
        rows: list[CurveRow] = []

        def keep(row: CurveRow, rate: float = rate, rows: list[CurveRow] = rows) -> None:
            rows.append(row)
            on_row(rate, row)

        try:
            flow, result = attempt(rate, keep)
        except Diverged as error:
            failures.append(error)
        else:
            if best is None or result.validation_nll_nats < best[2].validation_nll_nats:
                best = rate, flow, result
        # From the curve, since a training that diverged has no result.
        if rows:
            seconds += rows[-1].seconds
            steps += rows[-1].step
            nfe += _evaluations(rows)
    if best is None:
        if len(rates) == 1:
            raise failures[0]
        reasons = (f"{rate:g}: {error}" for rate, error in zip(rates, failures, strict=True))
        raise Diverged(f"at every learning rate of the grid; {'; '.join(reasons)}")
    rate, flow, result = best
    columns: dict[str, Value] = dataclasses.asdict(result)
    columns["train_nfe"] = columns.pop("nfe")
    if result.steps > 0:
        columns["learning_rate"] = rate
    if len(rates) > 1:
        columns["learning_rate_at_edge"] = rate in (rates[0], rates[-1])
        columns["tuning_seconds"] = seconds
        columns["tuning_steps"] = steps
        columns["tuning_nfe"] = round(nfe)
    return Trained(flow, rate, columns)


def _evaluations(rows: Sequence[CurveRow]) -> float:
    """Network evaluations behind a curve, whose rows give means per step; 0 where not counted."""
    total, before = 0.0, 0
    for row in rows:
        each = row.nfe_forward + row.nfe_backward
        if each == each:
            total += each * (row.step - before)
        before = row.step
    return total
