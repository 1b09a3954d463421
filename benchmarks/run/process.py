"""One cell from start to end, in processes of its own.

A cell has two stages, each a fresh process. ``quality`` trains the flow (at each learning rate, if
the cell is tuned) and measures what may be measured while other cells run. ``cost`` measures times
and memory with the machine to itself. Between them the weights lie in ``pending/``; the record is
written when the last stage ends.
"""

from __future__ import annotations

import ctypes
import dataclasses
import io
import json
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel

import datasets
from benchmarks import measures
from benchmarks.cell import Cell
from benchmarks.environment import OthersWork, describe_environment
from benchmarks.measures.subject import Subject
from benchmarks.store import Record, Status, Store, write_atomically
from benchmarks.train import CurveRow, Diverged
from benchmarks.tune import NotApplicable, fresh_flow, train_cell

__all__ = ["Stage", "Task", "pending_stage", "record_of", "run"]

Stage = Literal["quality", "cost"]


@dataclass(frozen=True)
class Task:
    """What a process is to do.

    Attributes:
        cell: which cell.
        stage: which of its stages.
        directory: the store's folder.
        runner: an end of a pipe whose other end the runner alone holds open; None for no runner.
    """

    cell: Cell
    stage: Stage
    directory: Path
    runner: Connection | None = None


class Pending(BaseModel):
    """What is known of a trained cell whose cost is still to be measured."""

    dimension: int
    learning_rate: float
    measures: dict[str, float | int | str | bool | None]
    data_hashes: dict[str, str]


def stages(cell: Cell) -> list[Stage]:
    """The stages that a cell's measures need, in order."""
    costs = measures.of_stage(cell.measures, "cost")
    return ["quality", "cost"] if costs else ["quality"]


def pending_stage(store: Store, cell: Cell) -> Stage:
    """The stage with which a cell without a record has to go on."""
    whole = store.pending(cell.key, ".json").exists() and store.pending(cell.key, ".pt").exists()
    return "cost" if whole else "quality"


def record_of(
    cell: Cell,
    status: Status,
    reason: str = "",
    *,
    pending: Pending | None = None,
    more: Mapping[str, Any] | None = None,
) -> Record:
    """A cell's record, whatever became of it."""
    return Record(
        key=cell.key,
        cell=cell,
        flow_label=cell.flow_label,
        dataset_label=cell.dataset_label,
        dataset_kind=datasets.entry(cell.dataset).kind,
        dimension=pending.dimension if pending else None,
        status=status,
        reason=reason,
        measures={**(pending.measures if pending else {}), **(more or {})},
        data_hashes=pending.data_hashes if pending else {},
        environment=describe_environment(torch.device(cell.device)),
    )


def read_pending(store: Store, cell: Cell) -> Pending | None:
    """What a finished quality stage left; None if there is nothing whole."""
    path = store.pending(cell.key, ".json")
    return Pending.model_validate_json(path.read_bytes()) if path.exists() else None


def clear_pending(store: Store, cell: Cell) -> None:
    """Remove what only an unfinished cell needs."""
    for suffix in (".json", ".pt", ".lock"):
        store.pending(cell.key, suffix).unlink(missing_ok=True)


# -- a process --------------------------------------------------------------------------------


def run(task: Task) -> None:
    """Entry point of a cell's process: do one stage, leave a record or a pending file.

    Never raises for what goes wrong in the cell: that is the record's to say. A cell that has a
    record which ended well, once it is this process's, is left as it is.
    """
    _leave_with_server()
    if task.runner is not None:
        _leave_with_runner(task.runner)
    # Ctrl-C goes to the whole process group; the engine ends its cells itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    store = Store(task.directory)
    log = store.path(task.cell, ".log")
    with store.claim(task.cell.key):
        # Another process may have been at work on it while this one waited.
        found = store.read(task.cell)
        if isinstance(found, Record) and found.status == "ok":
            return
        with _logged(log, fresh=task.stage == "quality"):
            _run_logged(task, store)


def _run_logged(task: Task, store: Store) -> None:
    cell = task.cell
    torch.set_num_threads(cell.threads)
    pending = read_pending(store, cell) if task.stage == "cost" else None
    status: Status = "ok"
    reason = ""
    more: dict[str, Any] = {}
    try:
        if task.stage == "quality":
            pending = _quality(cell, store)
            if "cost" in stages(cell):
                return
        else:
            if pending is None:
                raise FileNotFoundError("what the training left is gone: run the cell again")
            more = _cost(cell, store, pending)
    except NotApplicable as error:
        status, reason = "skipped", str(error)
    except Exception as error:
        traceback.print_exc()
        status, reason = _diagnose(error)
    store.write(record_of(cell, status, reason, pending=pending, more=more))
    clear_pending(store, cell)


def _diagnose(error: Exception) -> tuple[Status, str]:
    """The status that stands for an error, and its reason in words."""
    if isinstance(error, Diverged):
        return "diverged", str(error)
    # torch's CPU allocator reports the end of memory as a plain RuntimeError.
    out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
    if out_of_memory:
        return "oom", str(error) or "out of memory"
    return "error", f"{type(error).__name__}: {error}"


def _quality(cell: Cell, store: Store) -> Pending:
    dataset = cell.dataset_config().load(cell.dataset)
    device = torch.device(cell.device)
    with (
        _curve(store.path(cell, ".curve.jsonl")) as on_row,
        OthersWork(device, cell.threads) as others,
    ):
        trained = train_cell(cell, dataset, on_row)
    found: dict[str, Any] = {**trained.columns, "parameters": trained.flow.parameter_count}
    if found["steps"] > 0:
        found["training_shared"] = others.shared
    if dataset.remarks:
        found["data_remarks"] = "; ".join(dataset.remarks)
    always = {column.name for column in measures.ALWAYS}
    assert found.keys() <= always, "an undeclared column was filled"
    subject = Subject(cell.at_rate(trained.learning_rate), trained.flow, dataset)
    found |= _measure(subject, "quality")
    nll = found.get("nll_nats")
    if nll is not None and not math.isfinite(nll):
        raise Diverged(f"the test log-density is {-nll}, although the best validation was finite")
    if subject.arrays:
        store.write_arrays(cell, subject.arrays)
    hashes = {str(split): digest for split, digest in dataset.hashes.items()}
    pending = Pending(
        dimension=dataset.dimension,
        learning_rate=trained.learning_rate,
        measures=found,
        data_hashes=hashes,
    )
    if "cost" in stages(cell):
        weights = io.BytesIO()
        state = trained.flow.state_dict()
        torch.save({name: value.cpu() for name, value in state.items()}, weights)
        write_atomically(store.pending(cell.key, ".pt"), weights.getvalue())
        # Last: its presence says that the weights are whole.
        write_atomically(store.pending(cell.key, ".json"), pending.model_dump_json().encode())
    return pending


def _cost(cell: Cell, store: Store, pending: Pending) -> dict[str, Any]:
    dataset = cell.dataset_config().load(cell.dataset)
    # Initialised as for training, which fills what that marks as done; the weights come from it.
    flow = fresh_flow(cell, dataset)
    flow.load_state_dict(torch.load(store.pending(cell.key, ".pt"), weights_only=True))
    subject = Subject(cell.at_rate(pending.learning_rate), flow, dataset)
    with OthersWork(subject.device, cell.threads) as others:
        found = _measure(subject, "cost")
    if subject.arrays:
        store.write_arrays(cell, {**store.arrays(cell.key), **subject.arrays})
    return {**found, "cost_shared": others.shared}


def _measure(subject: Subject, stage: Stage) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in measures.of_stage(subject.cell.measures, stage):
        family = measures.family(name)
        values = family.measure(subject)
        declared = {column.name for column in family.columns}
        assert values.keys() <= declared, f"{name} filled an undeclared column"
        found |= values
    return found


# -- its surroundings -------------------------------------------------------------------------


def _leave_with_server() -> None:
    """Have the kernel end this process with its parent, the server that it was forked from."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _leave_with_runner(runner: Connection) -> None:
    """End this process when its runner ends, however that comes about.

    The server outlives the runner for as long as a cell runs. The runner writes nothing into the
    pipe: reading returns when the system closes the other end.
    """

    def watch() -> None:
        runner.poll(None)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="runner", daemon=True).start()


@contextmanager
def _logged(path: Path, *, fresh: bool) -> Iterator[None]:
    """Everything that the process prints, its C libraries included, goes to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("w" if fresh else "a") as file:
        saved = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            os.close(saved[0])
            os.close(saved[1])


@contextmanager
def _curve(path: Path) -> Iterator[Callable[[float, CurveRow], None]]:
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
