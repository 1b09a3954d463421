"""What a cell's process keeps while it trains: a checkpoint to go on from, and how far it is.

The checkpoint lies in ``pending/`` and is written at intervals, such that writing takes no more
than :data:`SHARE` of the time, and when the process is asked to end. It holds the whole state of
the training and of its place in the grid of learning rates (:class:`benchmarks.tune.CellTraining`),
so that the next process, of whichever runner, ends with the record that this one would have
written. It goes when the record is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from benchmarks.cell import Cell
from benchmarks.environment import OthersWork
from benchmarks.run.claims import is_running
from benchmarks.run.together import train_together
from benchmarks.store import Store, write_atomically
from benchmarks.team import ALONE, Team
from benchmarks.train import CurveRow
from benchmarks.tune import CellTraining, Trained, WrongState
from datasets import Dataset

__all__ = ["Keeper", "Stopped"]

SHARE = 0.01
"""The part of the time that checkpoints may take."""
LEAST_SECONDS = 10.0
"""Between two checkpoints: who loses less has not lost much."""
REPORT_SECONDS = 2.0
"""Between two reports of how far the cell is."""
WRITTEN_PER_SECOND = 2e8
"""Bytes; a guess, used for the first checkpoint alone."""


class Stopped(BaseException):
    """The process was asked to end, and what it had trained is kept."""


class Keeper:
    """Keeps a cell's state, and ends its process when it is asked to.

    Args:
        store: the folder of the run.
        cell: at work.
        stage: of the cell.
        team: of the processes that train it; the first keeps, and is asked to end.
    """

    def __init__(self, store: Store, cell: Cell, stage: str, team: Team = ALONE) -> None:
        self.store, self.cell, self.stage, self.team = store, cell, stage, team
        self.path = store.pending(cell.key, ".checkpoint")
        self.earlier_seconds = 0.0
        self.shared = False
        self._stopping = False
        self._training: CellTraining | None = None
        self._others: OthersWork | None = None
        self._started = self._saved = time.monotonic()
        self._saving: float | None = None
        self._reported = -math.inf

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Handler of signals: end now, or when the step that is under way is done.

        Raises:
            Stopped: where nothing is lost by it.
        """
        self._stopping = True
        at_work = self._training.training if self._training else None
        if self._training is None or (at_work is not None and at_work.interruptible):
            raise Stopped

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of this stage, in earlier processes too."""
        return self.earlier_seconds + time.monotonic() - self._started

    def train(self, dataset: Dataset, curve: Path) -> Trained:
        """Train the cell's flow, from its checkpoint if it has one.

        Args:
            dataset: its data.
            curve: the file of its curve, begun anew with the rows that the checkpoint knows.

        Raises:
            Stopped: when the process was asked to end.
            NotApplicable, Diverged: as :meth:`benchmarks.tune.CellTraining.run` does.
        """
        if self.cell.devices > self.team.size and self.cell.budget.steps != 0:
            return train_together(self, dataset)
        state = self._take_up()
        try:
            return self._train(dataset, curve, state)
        except WrongState as error:
            print(f"the checkpoint does not fit the code of now, starting anew: {error}")
            return self._train(dataset, curve, None)

    def _train(self, dataset: Dataset, curve: Path, state: Mapping[str, Any] | None) -> Trained:
        training = CellTraining(self.cell, dataset, self.team)
        if state is not None:
            training.load_state_dict(state)
        device = torch.device(self.cell.device)
        with contextlib.ExitStack() as stack:
            on_row = stack.enter_context(_writing(curve) if self.team.rank == 0 else _nowhere())
            # Of several processes, the one that waits for them looks.
            alone = self.team.size == 1
            others = stack.enter_context(OthersWork(device, self.cell.threads)) if alone else None
            self._training, self._others = training, others
            self._saved = time.monotonic()
            try:
                found = training.run(on_row, self._after_step)
            except Stopped:
                if self.team.rank == 0:
                    self._save(training)
                raise
            finally:
                self._training = self._others = None
        self.shared |= others is not None and others.shared
        return found

    def _after_step(self) -> None:
        training = self._training
        assert training is not None
        now = time.monotonic()
        if self.team.told([self._stopping])[0]:
            raise Stopped
        if self.team.rank > 0:
            return
        if now - self._saved >= LEAST_SECONDS and now - self._saved >= self._cost() / SHARE:
            self._save(training)
        if now - self._reported >= REPORT_SECONDS:
            self.report()

    def _cost(self) -> float:
        """Seconds that a checkpoint takes: the last one did, or the first may."""
        if self._saving is None:
            training = self._training.training if self._training else None
            if training is None:
                return 0.0
            numbers = sum(value.numel() for value in training.flow.state_dict().values())
            # Weights, the best ones, and two moments; eight bytes at most.
            self._saving = 4 * 8 * numbers / WRITTEN_PER_SECOND
        return self._saving

    def _save(self, training: CellTraining) -> None:
        start = time.monotonic()
        at_work = training.training
        with at_work.paused() if at_work else contextlib.nullcontext():
            self._write(training.state_dict())
        self._saved = time.monotonic()
        self._saving = self._saved - start

    def _write(self, state: Mapping[str, Any]) -> None:
        if self._others is not None:
            # What it has seen so far; it goes on watching.
            self._others.__exit__(None, None, None)
            self.shared |= self._others.shared
        document = {
            "identity": self.cell.identity,
            "seconds": self.seconds,
            "shared": self.shared,
            "training": state,
        }
        file = io.BytesIO()
        torch.save(document, file)
        try:
            write_atomically(self.path, file.getvalue())
        except OSError as error:
            # Without it more would be lost in a break, and no more than that.
            print(f"the checkpoint could not be written: {error}")

    def _take_up(self) -> Mapping[str, Any] | None:
        """What a process before this one has left."""
        found = _read(self.path)
        if found is None:
            if self.team.rank == 0:
                self._drop_stale()
            return None
        self.earlier_seconds, self.shared = found["seconds"], found["shared"]
        state: Mapping[str, Any] = found["training"]
        part = state["training"]
        where = f", step {part['progress']['step']}" if part else ""
        if self.team.rank == 0:
            print(f"goes on from its checkpoint: learning rate {len(state['trials']) + 1}{where}")
        return state

    def _drop_stale(self) -> None:
        """Remove what the same cell left under other versions of the code, hence another key."""
        for path in self.path.parent.glob("*.checkpoint"):
            if is_running(self.store, path.stem):
                continue
            found = _read(path)
            if found is not None and found["identity"] == self.cell.identity:
                print(f"starts anew: {path.name} is of other versions of the code")
                path.unlink(missing_ok=True)

    def report(self) -> None:
        """Leave word of how far the cell is, for whoever asks."""
        self._reported = time.monotonic()
        found: dict[str, Any] = {"stage": self.stage, "seconds": self.seconds, "at": time.time()}
        training = self._training
        if training is not None:
            found["used"] = training.used
            part = training.training
            if part is not None:
                nll = part.progress.validation_nll_nats
                found["step"] = part.progress.step
                found["steps"] = part.budget.steps
                found["validation_nll_nats"] = nll if math.isfinite(nll) else None
                if len(training.rates) > 1:
                    found["learning_rate"] = part.budget.learning_rate
        self.store.write_progress(self.cell.key, found)


def _read(path: Path) -> dict[str, Any] | None:
    """A checkpoint; None where there is none that can be read."""
    if not path.is_file():
        return None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        parts = ("identity", "seconds", "shared", "training")
        return {name: found[name] for name in parts}
    except Exception as error:
        print(f"{path.name} cannot be read, starting anew: {error}")
        return None


@contextlib.contextmanager
def _nowhere() -> Iterator[Callable[[float, CurveRow], None]]:
    yield lambda learning_rate, row: None


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Callable[[float, CurveRow], None]]:
    """Appends rows to a curve, each at the disk before training goes on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:

        def on_row(learning_rate: float, row: CurveRow) -> None:
            document = {
                name: value if not isinstance(value, float) or math.isfinite(value) else None
                for name, value in dataclasses.asdict(row).items()
            }
            document["learning_rate"] = learning_rate
            file.write(json.dumps(document) + "\n")
            file.flush()

        yield on_row
