"""A cell's training on several devices: its processes, which torchrun starts, and how they end.

The cell's process starts them and waits. All train (:class:`benchmarks.team.Team`); the first keeps
the checkpoint, the curve and the word of how far it is, as a process that trains alone does, and
leaves the trained weights, with which the cell's process goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
import torch.distributed as dist

from benchmarks.cell import Cell
from benchmarks.environment import OthersWork
from benchmarks.plugins import Plugin, loaded, restore
from benchmarks.store import Store, write_atomically
from benchmarks.team import Team
from benchmarks.train import Diverged
from benchmarks.tune import NotApplicable, Trained, fresh_flow
from datasets import Dataset

if TYPE_CHECKING:
    from benchmarks.run.checkpoint import Keeper

__all__ = ["main", "train_together"]

STOP = signal.SIGUSR2
"""Asks the first process to end; torchrun's own SIGTERM would reach all in the midst of a step."""

LONGEST_WAIT = timedelta(days=1)
"""For one another, as for the first while it validates. A process that ends is noticed at once."""


def train_together(keeper: Keeper, dataset: Dataset) -> Trained:
    """Train a cell on its devices.

    Args:
        keeper: of the cell's process.
        dataset: the cell's data.

    Raises:
        NotApplicable: if the flow cannot be trained on several, or there are too few.
        Stopped: when the process was asked to end.
        Diverged: if training produced no usable model.
        MemoryError: if a device has too little memory.
        RuntimeError: if a process ended otherwise; its words are in the log.
    """
    cell, store = keeper.cell, keeper.store
    flow = fresh_flow(cell, dataset)
    if flow.indivisible:
        raise NotApplicable(f"devices = {cell.devices}: {flow.indivisible}; train it on one")
    if len(dataset.train) < cell.devices:
        raise NotApplicable(f"devices = {cell.devices} cannot divide {len(dataset.train)} rows")
    there = torch.cuda.device_count() if cell.device == "cuda" else cell.devices
    if there < cell.devices:
        raise NotApplicable(f"devices = {cell.devices}, but the process sees {there}")
    task, outcome = store.pending(cell.key, ".team"), store.pending(cell.key, ".trained")
    outcome.unlink(missing_ok=True)
    document = {
        "cell": cell.model_dump(mode="json"),
        "directory": str(store.directory.absolute()),
        "plugins": [dataclasses.asdict(plugin) for plugin in loaded()],
    }
    write_atomically(task, json.dumps(document).encode())
    try:
        with OthersWork(torch.device(cell.device), cell.threads * cell.devices) as others:
            _run(cell.devices, task)
        found = _read(outcome)
    finally:
        for path in (task, outcome):
            path.unlink(missing_ok=True)
    keeper.earlier_seconds, keeper.shared = found["earlier_seconds"], others.shared
    flow.load_state_dict(found["weights"])
    return Trained(flow, found["learning_rate"], found["columns"])


def _run(devices: int, task: Path) -> None:
    module = ["-m", "benchmarks.run.together", str(task)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    process = subprocess.Popen([*torchrun, "--nproc-per-node", str(devices), *module])
    try:
        process.wait()
    except BaseException:
        # Asked to end: the first process keeps the state, and torchrun ends the others after it.
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if child.environ().get("RANK") == "0":
                    child.send_signal(STOP)
        process.wait()
        raise


def _read(outcome: Path) -> dict[str, Any]:
    """What the processes left.

    Raises:
        Diverged, MemoryError, RuntimeError: as :func:`train_together`.
    """
    if not outcome.is_file():
        raise RuntimeError("a process of the training ended without a result; see the log")
    found: dict[str, Any] = torch.load(outcome, map_location="cpu", weights_only=True)
    if failure := found.get("failure"):
        status, reason = failure
        kind = {"diverged": Diverged, "oom": MemoryError}.get(status, RuntimeError)
        raise kind(reason)
    return found


def main(path: Path) -> None:
    """One of the processes, as torchrun starts it.

    Args:
        path: of what :func:`train_together` wrote.
    """
    from benchmarks.run.checkpoint import Keeper, Stopped
    from benchmarks.run.process import STOPPED, diagnose

    task = json.loads(path.read_text())
    restore(Plugin(**plugin) for plugin in task["plugins"])
    cell = Cell.model_validate_json(json.dumps(task["cell"]))
    team = Team(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    store = Store(Path(task["directory"]))
    keeper = Keeper(store, cell, "quality", team)
    signal.signal(STOP, keeper.stop if team.rank == 0 else signal.SIG_IGN)
    torch.set_num_threads(cell.threads)
    if cell.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    outcome = store.pending(cell.key, ".trained")
    try:
        # Numbers that processes tell each other go by the host.
        backend = "cpu:gloo,cuda:nccl" if cell.device == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=LONGEST_WAIT)
        dataset = cell.dataset_config().load(cell.dataset)
        trained = keeper.train(dataset, store.path(cell, ".curve.jsonl"))
        if team.rank == 0:
            found = {
                "weights": trained.flow.state_dict(),
                "learning_rate": trained.learning_rate,
                "columns": trained.columns,
                "earlier_seconds": keeper.earlier_seconds,
            }
            _write(outcome, found)
        dist.barrier()
        dist.destroy_process_group()
    except Stopped:
        sys.exit(STOPPED)
    except Exception as error:
        failure = diagnose(error)
        # The others fail after it, by its silence.
        if not outcome.is_file():
            _write(outcome, {"failure": failure})
        raise


def _write(path: Path, found: dict[str, Any]) -> None:
    file = io.BytesIO()
    torch.save(found, file)
    write_atomically(path, file.getvalue())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
