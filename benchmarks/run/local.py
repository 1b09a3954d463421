"""Runs cells on this machine: several at once while they train, one alone while it is timed.

Each stage of a cell is a fresh process, forked from a server that has torch loaded and nothing
else done (no CUDA context, no threads), so that a cell costs no seconds of imports.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from benchmarks import measures
from benchmarks.allocator import ALLOCATOR
from benchmarks.cell import Cell
from benchmarks.environment import matrix_products
from benchmarks.run import process as cell_module
from benchmarks.run.process import Stage, Task
from benchmarks.store import LeftOut, Record, Store
from flows.products import VARIABLE as PRODUCTS

__all__ = ["Outcome", "run_cells"]

# What every cell needs and takes its time to import. torch's optimisers import its compiler's
# front end at their first step; compiled kernels are compiled, once, before anything is measured.
PRELOAD = [
    "benchmarks.run.process",
    "torch._dynamo",
    "flows.continuous.kernels.warmed",
    *(f"benchmarks.measures.{name}" for name in measures.FAMILIES),
]
# Between a polite end and a forced one, seconds.
GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Outcome:
    """What became of a cell in this run: its record, or the file that stands in its place."""

    cell: Cell
    record: Record | None
    left_out: LeftOut | None = None


@dataclass
class _Running:
    task: Task
    process: BaseProcess
    started: float = field(default_factory=time.monotonic)


def run_cells(
    cells: Sequence[Cell],
    directory: Path,
    *,
    jobs: int,
    timeout: float | None,
    on_outcome: Callable[[Outcome], None],
    on_stage: Callable[[Cell, Stage], None] = lambda cell, stage: None,
) -> None:
    """Run cells that have no record, and write one for each.

    Args:
        cells: in the order in which they are to run.
        directory: the store's folder.
        jobs: how many train at once.
        timeout: seconds for a stage of a cell; None for no bound.
        on_outcome: called when a cell has ended, in the parent.
        on_stage: called when a stage begins.

    Raises:
        KeyboardInterrupt: after Ctrl-C; the running cells have been ended, what they had
            finished stays.
    """
    store = Store(directory)
    # Nobody writes into it. This process alone holds ``mine``: when it ends, cells notice.
    runner, mine = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    _start_server()
    waiting: dict[Stage, deque[Cell]] = {"quality": deque(), "cost": deque()}
    for cell in cells:
        waiting[cell_module.pending_stage(store, cell)].append(cell)
    running: list[_Running] = []

    def start(stage: Stage) -> None:
        cell = waiting[stage].popleft()
        task = Task(cell, stage, directory, runner)
        on_stage(cell, stage)
        process = context.Process(target=cell_module.run, args=(task,), name=str(cell))
        process.start()
        running.append(_Running(task, process))

    def trained(item: _Running) -> bool:
        """Whether a process has ended well and left what the cost stage needs."""
        return (
            item.task.stage == "quality"
            and item.process.exitcode == 0
            and cell_module.pending_stage(store, item.task.cell) == "cost"
        )

    def finish(item: _Running, why: str | None) -> None:
        running.remove(item)
        cell = item.task.cell
        found = store.read(cell)
        if isinstance(found, Record):
            cell_module.clear_pending(store, cell)
        elif not why and trained(item):
            # Its cost is measured when the machine is quiet.
            waiting["cost"].append(cell)
            return
        elif found is None:
            status, reason = ("timeout", why) if why else ("crashed", _death(item))
            pending = cell_module.read_pending(store, cell)
            found = cell_module.record_of(cell, status, reason, pending=pending)  # type: ignore[arg-type]
            store.write(found)
            cell_module.clear_pending(store, cell)
        on_outcome(
            Outcome(cell, None, found) if isinstance(found, LeftOut) else Outcome(cell, found)
        )

    try:
        while running or waiting["quality"] or waiting["cost"]:
            while waiting["quality"] and len(running) < jobs:
                start("quality")
            if not running and waiting["cost"]:
                start("cost")
            multiprocessing.connection.wait([item.process.sentinel for item in running], 0.5)
            for item in list(running):
                if not item.process.is_alive():
                    item.process.join()
                    finish(item, None)
                elif timeout is not None and time.monotonic() - item.started > timeout:
                    _end([item])
                    finish(item, f"the {item.task.stage} stage took more than {timeout:g} s")
    finally:
        _end(running)
        runner.close()
        mine.close()


def _start_server() -> None:
    """Start what cells are forked from, unless it runs; only its environment is changed."""
    # Every cell multiplies by the same library, so that the same cell gives the same result.
    environment = {**ALLOCATOR, PRODUCTS: matrix_products().setting}
    added = environment.keys() - os.environ.keys()
    try:
        os.environ.update({name: environment[name] for name in added})
        multiprocessing.forkserver.ensure_running()
    finally:
        for name in added:
            os.environ.pop(name)


def _death(item: _Running) -> str:
    code = item.process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (often the kernel, out of memory)" if name == "SIGKILL" else ""
        return f"the process was ended by {name}{hint}"
    stage = item.task.stage
    return f"the {stage} stage ended with exit code {code} and left nothing to go on with"


def _end(items: Sequence[_Running]) -> None:
    for item in items:
        item.process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for item in items:
        item.process.join(max(0.0, deadline - time.monotonic()))
        if item.process.is_alive():
            item.process.kill()
            item.process.join()
