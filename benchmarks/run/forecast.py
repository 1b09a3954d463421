"""How far a run is and how long it will take, by what it or others before it have measured."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.cell import Cell
from benchmarks.run.local import Running
from benchmarks.run.process import Stage, pending_stage, stages
from benchmarks.store import Record, Store

__all__ = ["Course", "Needs", "needs_of", "seconds_left"]


class Course:
    """How far a run is. All cells and stages count; of a training, the part of its budget used.

    Args:
        store: the folder of the run.
        cells: all that it runs.
        jobs: how many train at once.

    Attributes:
        total: stages to be done.
    """

    def __init__(self, store: Store, cells: Sequence[Cell], jobs: int) -> None:
        self._store, self._jobs = store, jobs
        self._left: dict[str, list[Stage]] = {}
        self._flows = {cell.key: cell.flow_label for cell in cells}
        for cell in cells:
            trained = pending_stage(store, cell) == "cost"
            self._left[cell.key] = ["cost"] if trained else stages(cell)
        self.total = sum(map(len, self._left.values()))
        self._running: dict[tuple[str, Stage], Running] = {}
        self._durations: dict[tuple[Stage, str], list[float]] = defaultdict(list)

    def ended(self, cell: Cell, *, well: bool) -> None:
        """A cell has its record."""
        for (key, stage), item in list(self._running.items()):
            if key == cell.key:
                del self._running[key, stage]
                if well:
                    self._durations[stage, cell.flow_label].append(_age(item))
        self._left.pop(cell.key, None)

    def look(self, running: Sequence[Running]) -> tuple[float, float | None]:
        """What is under way.

        Returns:
            The stages done, with parts; seconds left, None while there is nothing to tell it by.
        """
        found: dict[tuple[str, Stage], Running] = {
            (item.task.cell.key, item.task.stage): item for item in running
        }
        for (key, stage), item in self._running.items():
            cell = item.task.cell
            gone = (key, stage) not in found and stage == "quality" and key in self._left
            if gone and pending_stage(self._store, cell) == "cost":
                self._left[key] = ["cost"]
                self._durations[stage, cell.flow_label].append(_age(item))
        self._running = found
        used = {place: self._used(item) for place, item in found.items()}
        done = self.total - sum(map(len, self._left.values())) + sum(used.values())
        return done, self._seconds_left(used)

    def _used(self, item: Running) -> float:
        used = self._store.progress(item.task.cell.key).get("used", 0.0)
        # What is measured after training is on no budget.
        return 0.95 * used if isinstance(used, float) and item.task.stage == "quality" else 0.0

    def _seconds_left(self, used: dict[tuple[str, Stage], float]) -> float | None:
        known = {place: list(values) for place, values in self._durations.items()}
        for (key, stage), part in used.items():
            if part > 0.02:
                whole = _age(self._running[key, stage]) / part
                known.setdefault((stage, self._flows[key]), []).append(whole)
        means = {place: sum(values) / len(values) for place, values in known.items()}
        parts: dict[Stage, float] = {"quality": 0.0, "cost": 0.0}
        for key, left in self._left.items():
            for stage in left:
                of_stage = [mean for (other, _), mean in means.items() if other == stage]
                if not of_stage and stage == "quality":
                    return None
                usual = sum(of_stage) / len(of_stage) if of_stage else 0.0
                mean = means.get((stage, self._flows[key]), usual)
                parts[stage] += mean * (1 - used.get((key, stage), 0.0))
        return parts["quality"] / max(1, min(self._jobs, len(self._left))) + parts["cost"]


def _age(item: Running) -> float:
    return time.monotonic() - item.started


def seconds_left(used: float, seconds: float) -> float | None:
    """What is left of what took so many seconds for a part; None if that says too little."""
    return seconds * (1 - used) / used if used > 0.02 else None


@dataclass(frozen=True)
class Needs:
    """What cells are expected to take, by earlier records of the same flow and data.

    Attributes:
        seconds: of all together, one after the other.
        memory_bytes: the most that a process of them holds.
        disk_bytes: what stays of them.
        known: of how many cells there was such a record.
    """

    seconds: float
    memory_bytes: int
    disk_bytes: int
    known: int


def needs_of(cells: Iterable[Cell], earlier: Iterable[tuple[Store, Iterable[Record]]]) -> Needs:
    """What cells are expected to take.

    Args:
        cells: to be run.
        earlier: folders with their records, in which there may be some of the like: the same flow
            with the same options, on the same data set or on one of equal dimension, on the same
            device.
    """
    by_data: dict[tuple[str, str, str], tuple[Store, Record]] = {}
    dimensions: dict[str, int | None] = {}
    for store, records in earlier:
        for record in records:
            if record.status == "ok":
                cell = record.cell
                by_data[record.flow_label, record.dataset_label, cell.device] = store, record
                dimensions[record.dataset_label] = record.dimension
    by_size = {
        (flow, dimensions[dataset], device): found
        for (flow, dataset, device), found in by_data.items()
    }
    disk: dict[str, int] = {}
    total: Counter[str] = Counter()
    seconds, memory = 0.0, 0
    for cell in cells:
        found = by_data.get((cell.flow_label, cell.dataset_label, cell.device))
        if found is None:
            size = dimensions.get(cell.dataset_label)
            found = by_size.get((cell.flow_label, size, cell.device)) if size else None
        if found is None:
            continue
        store, record = found
        seconds += _seconds(cell, record)
        peak = record.measures.get("process_peak_bytes")
        memory = max(memory, int(peak) if isinstance(peak, int | float) else 0)
        if record.key not in disk:
            beside = store.path(record.cell).parent.glob(f"{record.key}.*")
            disk[record.key] = sum(path.stat().st_size for path in beside)
        total["disk"] += disk[record.key]
        total["known"] += 1
    return Needs(seconds, memory, total["disk"], total["known"])


def _seconds(cell: Cell, record: Record) -> float:
    """Seconds of a cell by the record of one like it, a step of which takes as long."""

    def measured(name: str) -> float:
        value = record.measures.get(name)
        return float(value) if isinstance(value, int | float) else 0.0

    budget = cell.budget
    training = measured("train_seconds")
    bounds = [
        bound * (training / unit)
        for bound, unit in (
            (budget.steps, measured("steps")),
            (budget.nfe, measured("train_nfe")),
        )
        if bound is not None and unit
    ]
    if budget.seconds is not None:
        bounds.append(budget.seconds)
    of_all = measured("tuning_seconds") or training
    rest = measured("quality_stage_seconds") + measured("cost_stage_seconds") - of_all
    return min(bounds, default=0.0) * max(1, len(cell.learning_rates)) + max(0.0, rest)
