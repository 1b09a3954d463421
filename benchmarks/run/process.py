"""One cell from start to end, in processes of its own.

A cell has two stages, each a fresh process. ``quality`` trains the flow (at each learning rate, if
the cell is tuned) and measures what may be measured while other cells run. ``cost`` measures times
and memory with the machine to itself. Between them the weights lie in ``pending/``; the record is
written when the last stage ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from pydantic import BaseModel

import datasets
import flows
from benchmarks import measures
from benchmarks.cell import Cell
from benchmarks.environment import OthersWork, describe_environment, matrix_products
from benchmarks.measures.subject import Subject
from benchmarks.plugins import Plugin, loaded, restore
from benchmarks.run import claims
from benchmarks.run.checkpoint import Keeper, Stopped
from benchmarks.run.server import STOP_SIGNALS
from benchmarks.store import LARGEST, Record, Status, Store, write_atomically
from benchmarks.text import bounded
from benchmarks.train import Diverged
from benchmarks.tune import NotApplicable, fresh_flow
from flows import NotInvertible
from flows.products import VARIABLE as PRODUCTS

__all__ = [
    "NO_DISK",
    "STOPPED",
    "Stage",
    "Task",
    "bound_log",
    "diagnose",
    "end_descendants",
    "pending_stage",
    "record_of",
    "run",
]

STOPPED = os.EX_TEMPFAIL
"""Exit code of a process that was asked to end and has kept its state."""
NO_DISK = os.EX_IOERR
"""Exit code of a process that could not write into the folder of the run."""
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}
GRACE_SECONDS = 10.0
"""Between a polite end of a process and a forced one."""
LOG_BYTES = 2**19
"""What is kept of the beginning of a log, and of its end."""


Stage = Literal["quality", "cost"]


@dataclass(frozen=True)
class Task:
    """What a process is to do.

    Attributes:
        cell: which cell.
        stage: which of its stages.
        directory: the store's folder.
        runner: an end of a pipe whose other end the runner alone holds open; None for no runner.
        gpu: the only CUDA device that the process sees, or several with commas; None for all.
        keep_weights: whether the tested weights are kept beside the record.
        taken_by: the name of the runner, which has taken the cell; empty for none.
        plugins: what the runner has loaded from outside the project.
        products: by which library the runner multiplies matrices: every cell by the same, so that
            the same cell gives the same result.
    """

    cell: Cell
    stage: Stage
    directory: Path
    runner: Connection | None = None
    gpu: str | None = None
    keep_weights: bool = False
    taken_by: str = ""
    plugins: tuple[Plugin, ...] = field(default_factory=loaded)
    products: str = field(default_factory=lambda: matrix_products().setting)


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
        # A plugin that holds the data set may not be loaded.
        dataset_kind=entry.kind if (entry := datasets.ENTRIES.get(cell.dataset)) else "",
        dimension=pending.dimension if pending else None,
        status=status,
        reason=bounded(reason),
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
    for suffix in (".json", ".pt", ".checkpoint", ".progress", ".team", ".trained"):
        store.pending(cell.key, suffix).unlink(missing_ok=True)


# -- a process --------------------------------------------------------------------------------


def run(task: Task) -> None:
    """Entry point of a cell's process: do one stage, leave a record or a pending file.

    Never raises for what goes wrong in the cell: that is the record's to say. A cell that has a
    record which ended well, once it is this process's, is left as it is. Asked to end by SIGTERM or
    SIGUSR2, or left alone by its runner, it keeps the state of its training and exits with
    :data:`STOPPED`. What it has started itself ends with it.
    """
    _lead_group()
    store = Store(task.directory)
    keeper = Keeper(store, task.cell, task.stage)
    code = 0
    try:
        for number in STOP_SIGNALS:
            signal.signal(number, keeper.stop)
        # What came before there was a handler waits until now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        # Ctrl-C goes to the runner, which ends its cells itself.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if task.runner is not None:
            _leave_with_runner(task.runner)
        os.environ[PRODUCTS] = task.products
        if task.gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = task.gpu
        with claims.with_runner(store, task.taken_by):
            # Another process may have been at work on it until this one was started.
            found = store.read(task.cell)
            if not isinstance(found, Record) or found.status != "ok":
                log = store.path(task.cell, ".log")
                fresh = task.stage == "quality" and not keeper.path.exists()
                with _logged(log, fresh=fresh):
                    _run_logged(task, store, keeper)
    except Stopped:
        code = STOPPED
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        code = NO_DISK
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        psutil.wait_procs(end_descendants(psutil.Process()), timeout=1)
    sys.exit(code)


def _run_logged(task: Task, store: Store, keeper: Keeper | None = None) -> None:
    cell = task.cell
    keeper = keeper or Keeper(store, cell, task.stage)
    pending = read_pending(store, cell) if task.stage == "cost" else None
    status: Status = "ok"
    reason = ""
    more: dict[str, Any] = {}
    keeper.report()
    try:
        restore(task.plugins)
        torch.set_num_threads(cell.threads)
        os.environ["OMP_NUM_THREADS"] = str(cell.threads)
        if task.stage == "quality":
            pending = _quality(cell, store, keeper, task.keep_weights)
            if "cost" in stages(cell):
                store.pending(cell.key, ".checkpoint").unlink(missing_ok=True)
                return
        else:
            if pending is None:
                raise FileNotFoundError("what the training left is gone: run the cell again")
            more = _cost(cell, store, pending)
            more["cost_stage_seconds"] = keeper.seconds
    except (NotApplicable, NotInvertible) as error:
        status, reason = "skipped", str(error)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            # No result of the cell: it is to be run again when there is a place for it.
            print(f"cannot write: {error}")
            raise
        traceback.print_exc()
        status, reason = diagnose(error)
    store.write(record_of(cell, status, reason, pending=pending, more=more))
    clear_pending(store, cell)


def diagnose(error: Exception) -> tuple[Status, str]:
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


def _quality(cell: Cell, store: Store, keeper: Keeper, keep_weights: bool) -> Pending:
    dataset = cell.dataset_config().load(cell.dataset)
    trained = keeper.train(dataset, store.path(cell, ".curve.jsonl"))
    keeper.report()
    if keep_weights:
        write_atomically(store.path(cell, ".pt"), _weights(trained.flow))
    subject = Subject(cell.at_rate(trained.learning_rate), trained.flow, dataset)
    found: dict[str, Any] = {
        **trained.columns,
        "parameters": trained.flow.parameter_count,
        "form": subject.form,
    }
    if found["steps"] > 0:
        found["training_shared"] = keeper.shared
    if dataset.remarks:
        found["data_remarks"] = "; ".join(dataset.remarks)
    always = {column.name for column in measures.ALWAYS}
    assert found.keys() <= always, "an undeclared column was filled"
    found |= _measure(subject, "quality")
    nll = found.get("nll_nats")
    if nll is not None and not abs(nll) < LARGEST:
        raise Diverged(f"the test log-density is {-nll}, although the best validation was finite")
    if subject.arrays:
        store.write_arrays(cell, subject.arrays)
    found["quality_stage_seconds"] = keeper.seconds
    hashes = {str(split): digest for split, digest in dataset.hashes.items()}
    pending = Pending(
        dimension=dataset.dimension,
        learning_rate=trained.learning_rate,
        measures=found,
        data_hashes=hashes,
    )
    if "cost" in stages(cell):
        write_atomically(store.pending(cell.key, ".pt"), _weights(trained.flow))
        # Last: its presence says that the weights are whole.
        write_atomically(store.pending(cell.key, ".json"), pending.model_dump_json().encode())
    return pending


def _weights(flow: flows.Flow) -> bytes:
    file = io.BytesIO()
    flows.save(flow, file)
    return file.getvalue()


def _cost(cell: Cell, store: Store, pending: Pending) -> dict[str, Any]:
    dataset = cell.dataset_config().load(cell.dataset)
    # Initialised as for training, which fills what that marks as done; the weights come from it.
    flow = fresh_flow(cell, dataset)
    kept = torch.load(store.pending(cell.key, ".pt"), map_location="cpu", weights_only=True)
    flow.load_state_dict(kept["state"])
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


def _lead_group() -> None:
    """Be a group of processes of its own, and what they leave behind be this process's child.

    The kernel ends this process with its parent, the server that it was forked from.
    """
    with contextlib.suppress(PermissionError):
        os.setsid()
    if sys.platform == "linux":
        pr_set_pdeathsig, pr_set_child_subreaper = 1, 36
        kernel = ctypes.CDLL(None)
        kernel.prctl(pr_set_pdeathsig, signal.SIGKILL)
        kernel.prctl(pr_set_child_subreaper, 1)


def _leave_with_runner(runner: Connection) -> None:
    """End this process when its runner ends, however that comes about.

    The server outlives the runner for as long as a cell runs. The runner writes nothing into the
    pipe: reading returns when the system closes the other end.
    """

    def watch() -> None:
        runner.poll(None)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        end_descendants(psutil.Process())
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="runner", daemon=True).start()


def end_descendants(process: psutil.Process) -> set[psutil.Process]:
    """Kill everything that a process has started, and what that has started.

    Each is stopped before its children are looked for, so that none can be born meanwhile.

    Returns:
        What was killed.
    """
    seen: set[psutil.Process] = set()
    while True:
        found = set(_living_descendants(process)) - seen
        if not found:
            break
        for child in found:
            with contextlib.suppress(psutil.Error):
                child.suspend()
        seen |= found
    for child in seen:
        with contextlib.suppress(psutil.Error):
            child.kill()
    return seen


def _living_descendants(process: psutil.Process) -> Iterator[psutil.Process]:
    try:
        found = process.children(recursive=True)
    except psutil.Error:
        return
    for child in found:
        with contextlib.suppress(psutil.Error):
            if child.status() != psutil.STATUS_ZOMBIE:
                yield child


@contextmanager
def _logged(path: Path, *, fresh: bool) -> Iterator[None]:
    """All that the process prints, its C libraries included, goes to a file of bounded size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    if fresh:
        path.unlink(missing_ok=True)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            bound_log(path)

    watcher = threading.Thread(target=watch, name="log", daemon=True)
    # Appending: what is printed after the file was shortened stands at its new end.
    with path.open("a") as file:
        saved = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        watcher.start()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            done.set()
            watcher.join()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            os.close(saved[0])
            os.close(saved[1])
            bound_log(path)


def bound_log(path: Path) -> None:
    """Leave out the middle of a long log, in place: a process may be appending to it."""
    with contextlib.suppress(OSError):
        size = path.stat().st_size
        if size <= 4 * LOG_BYTES:
            return
        with path.open("r+b") as file:
            file.seek(-LOG_BYTES, os.SEEK_END)
            end = file.read(LOG_BYTES)
            file.truncate(LOG_BYTES)
            file.seek(0, os.SEEK_END)
            left_out = size - 2 * LOG_BYTES
            file.write(f"\n[{left_out} bytes left out]\n".encode() + end)
