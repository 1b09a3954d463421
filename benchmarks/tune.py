"""A cell's training: a fresh flow at each learning rate of its grid, and the one that is tested.

The rates differ in nothing else: same weights at the start, same batches, same noise. The choice is
made by the validation that also chose each run's checkpoint; the test split takes no part. What the
whole grid cost stands beside, since that is the price of the choice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import flows
from benchmarks.cell import Cell
from benchmarks.team import ALONE, Team
from benchmarks.train import CurveRow, Diverged, Training, TrainingResult, initialisation_rows
from datasets import Dataset
from datasets.base import named_seed

__all__ = [
    "CellTraining",
    "NotApplicable",
    "Trained",
    "Trial",
    "WrongState",
    "choose",
    "fresh_flow",
]

Value = float | int | str | bool | None


class NotApplicable(Exception):
    """The flow does not apply to the data set, or a library that it needs is missing."""


class WrongState(Exception):
    """A state is not of this cell's training, or not of this code's."""


@dataclass(frozen=True)
class Trial:
    """The training at one learning rate, when it has ended.

    Attributes:
        rate: the learning rate.
        rows: of its curve.
        result: how it went; None if it diverged.
        failure: why it did.
    """

    rate: float
    rows: tuple[CurveRow, ...]
    result: TrainingResult | None
    failure: str = ""


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
        flow = flows.build(cell.flow, dataset.event_shape, **cell.flow_options)
        flow = flow.to(cell.device, torch.float64 if cell.dtype == "float64" else torch.float32)
    except flows.FlowError as error:
        raise NotApplicable(str(error)) from error
    if cell.budget.steps != 0 and not flow.traits.trains_on_data:
        raise NotApplicable(f"{cell.flow} cannot be trained on data: it has no density of data")
    flow.initialize(initialisation_rows(flow, dataset, cell.budget.batch_size, cell.seed))
    return flow


class CellTraining:
    """A cell's training, at every rate of its grid if it has one.

    Like :class:`benchmarks.train.Training`, it can be put down after any step and taken up again.

    Args:
        cell: what to train.
        dataset: its data.
        team: of the processes that train it together.

    Attributes:
        rates: at which the cell is trained, rising.
        trials: of the rates that are done.
        training: that of the rate at hand; None between two rates.
    """

    def __init__(self, cell: Cell, dataset: Dataset, team: Team = ALONE) -> None:
        self.cell, self.dataset, self.team = cell, dataset, team
        self.rates = cell.learning_rates or (cell.budget.learning_rate,)
        self.trials: list[Trial] = []
        self.training: Training | None = None
        self._rows: list[CurveRow] = []
        self._best: Mapping[str, Any] | None = None
        self._kept: Mapping[str, Any] | None = None

    @property
    def used(self) -> float:
        """The part of the whole grid's budget that is used, from 0 to 1."""
        used = min(1.0, self.training.used) if self.training else 0.0
        return (len(self.trials) + used) / len(self.rates)

    def run(
        self,
        on_row: Callable[[float, CurveRow], None] = lambda rate, row: None,
        after_step: Callable[[], None] = lambda: None,
    ) -> Trained:
        """Train to the end.

        Args:
            on_row: called with the learning rate and each row of its training curve; of a training
                that was taken up, with the rows from before too.
            after_step: called after each step, and when a rate is done.

        Raises:
            NotApplicable: if the flow cannot be trained on these data.
            Diverged: if training produced no usable model, at any rate.
            WrongState: if the state that was loaded does not fit the flow.
        """
        flow = None
        for trial in self.trials:
            for row in trial.rows:
                on_row(trial.rate, row)
        while len(self.trials) < len(self.rates):
            rate = self.rates[len(self.trials)]
            flow = fresh_flow(self.cell, self.dataset)
            budget = self.cell.at_rate(rate).budget
            training = Training(flow, self.dataset, budget, seed=self.cell.seed, team=self.team)
            if self._kept is not None:
                with _right_state():
                    training.load_state_dict(self._kept)
                self._kept = None
            for row in self._rows:
                on_row(rate, row)

            def keep(row: CurveRow, rate: float = rate) -> None:
                self._rows.append(row)
                on_row(rate, row)

            self.training = training
            try:
                result, failure = training.run(keep, after_step), ""
            except Diverged as error:
                result, failure = None, str(error)
            self.training = None
            self.trials.append(Trial(rate, tuple(self._rows), result, failure))
            self._rows = []
            if _best(self.trials) is self.trials[-1]:
                self._best = flow.state_dict()
            after_step()
        trial, columns = choose(self.trials)
        assert self._best is not None
        flow = flow or fresh_flow(self.cell, self.dataset)
        with _right_state():
            flow.load_state_dict(self._best)
        return Trained(flow, trial.rate, columns)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest depends on; see :meth:`benchmarks.train.Training.state_dict`."""
        return {
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
            "rows": [dataclasses.asdict(row) for row in self._rows],
            "best": self._best,
            "training": self.training.state_dict() if self.training else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was asked.

        Raises:
            WrongState: if it is no such state.
        """
        with _right_state():
            self.trials = [
                Trial(
                    trial["rate"],
                    tuple(CurveRow(**row) for row in trial["rows"]),
                    TrainingResult(**trial["result"]) if trial["result"] else None,
                    trial["failure"],
                )
                for trial in state["trials"]
            ]
            self._rows = [CurveRow(**row) for row in state["rows"]]
            self._best, self._kept = state["best"], state["training"]


@contextlib.contextmanager
def _right_state() -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WrongState(str(error)) from error


def _best(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the best validation, of equals the first; None if all diverged."""
    done = [trial for trial in trials if trial.result is not None]
    return min(done, key=lambda trial: trial.result.validation_nll_nats, default=None)  # type: ignore[union-attr]


def choose(trials: Sequence[Trial]) -> tuple[Trial, dict[str, Value]]:
    """The trial with the best validation, and the columns of the record.

    Args:
        trials: of each rate, rising. Of a single one nothing is said of tuning.

    Returns:
        The best, of equals that with the lower rate; the columns as
        :data:`benchmarks.measures.ALWAYS` explains them.

    Raises:
        Diverged: if every rate diverged. A rate that does so beside others only loses.
    """
    best = _best(trials)
    if best is None:
        if len(trials) == 1:
            raise Diverged(trials[0].failure)
        reasons = (f"{trial.rate:g}: {trial.failure}" for trial in trials)
        raise Diverged(f"at every learning rate of the grid; {'; '.join(reasons)}")
    assert best.result is not None
    columns: dict[str, Value] = dataclasses.asdict(best.result)
    columns["train_nfe"] = columns.pop("nfe")
    if best.result.steps > 0:
        columns["learning_rate"] = best.rate
    if len(trials) > 1:
        columns["learning_rate_at_edge"] = best in (trials[0], trials[-1])
        # From the curves, since a training that diverged has no result.
        last = [trial.rows[-1] for trial in trials if trial.rows]
        columns["tuning_seconds"] = sum(row.seconds for row in last)
        columns["tuning_steps"] = sum(row.step for row in last)
        columns["tuning_nfe"] = round(sum(_evaluations(trial.rows) for trial in trials))
    return best, columns


def _evaluations(rows: Sequence[CurveRow]) -> float:
    """Network evaluations behind a curve, whose rows give means per step; 0 where not counted."""
    ends = [0, *(row.step for row in rows)]
    each = (row.nfe_forward + row.nfe_backward for row in rows)
    steps = (end - start for start, end in itertools.pairwise(ends))
    return sum(mean * number for mean, number in zip(each, steps, strict=True) if mean == mean)
