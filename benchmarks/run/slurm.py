"""Runs cells on a cluster: an array of tasks, each of which takes cells from the shared folder.

A task is the local engine with one GPU. Which cells there are it reads from a file, and which are
free it learns from the folder alone (:mod:`benchmarks.run.claims`); so there are as many tasks as
are to work at once, however many cells. Before its time is up Slurm sends SIGUSR2: its cells keep
their state, and it is queued again. The queue is asked for nothing but how many tasks there are;
accounting is not asked at all.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import TypeAdapter

from benchmarks.cell import Cell
from benchmarks.errors import RunStopped
from benchmarks.plugins import Plugin, loaded, restore
from benchmarks.run.claims import LEASE_SECONDS
from benchmarks.run.local import Outcome, Running, run_cells, visible_gpus
from benchmarks.run.server import STOP_SIGNALS
from benchmarks.store import Store, write_atomically
from benchmarks.text import printable

__all__ = ["Resources", "Work", "queue", "submit", "work_of"]

MOST_TASKS = 1001
"""Of an array, where Slurm does not say; its default."""
NOTICE_SECONDS = 90
"""Before the time limit, in which cells keep their state."""
FOLDER = "slurm"
"""In that of a run: the list of its cells, and what its tasks print."""
_CELLS = TypeAdapter(list[Cell])


@dataclass(frozen=True)
class Resources:
    """What is asked of Slurm.

    Attributes:
        tasks: how many at most.
        hours: the time limit of a task.
        partition: None for the cluster's default.
        more: further options of ``sbatch``, without dashes; True for one without a value.
    """

    tasks: int = 100
    hours: float = 4.0
    partition: str | None = None
    more: Mapping[str, str | bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What a task does.

    Attributes:
        directory: the store's folder.
        cells: the file of the cells.
        jobs: how many train at once; None for one a GPU.
        timeout, keep_weights: as :func:`benchmarks.run.local.run_cells` has them.
        plugins: what has been loaded where the tasks were submitted.
    """

    directory: Path
    cells: Path
    jobs: int | None = None
    timeout: float | None = None
    keep_weights: bool = False
    plugins: tuple[Plugin, ...] = field(default_factory=loaded)

    def __call__(self) -> None:
        """Take cells and run them, until none is free or the time is up."""
        restore(self.plugins)
        store = Store(self.directory)
        cells = _begun_first(store, _CELLS.validate_json(self.cells.read_bytes()))
        gpus = visible_gpus() if cells[0].device == "cuda" else []
        ended = 0
        touched: set[str] = set()
        before = _kept(store)

        def on_outcome(outcome: Outcome) -> None:
            nonlocal ended
            if not outcome.elsewhere:
                ended += 1
                how = outcome.record.status if outcome.record else "left out"
                print(printable(f"{outcome.cell}: {how}"), flush=True)

        def on_tick(running: Sequence[Running]) -> None:
            touched.update(item.task.cell.key for item in running)

        with _interruptible() as received:
            try:
                run_cells(
                    cells,
                    self.directory,
                    jobs=self.jobs or max(1, len(gpus)),
                    timeout=self.timeout,
                    on_outcome=on_outcome,
                    on_tick=on_tick,
                    gpus=gpus,
                    keep_weights=self.keep_weights,
                    # A runner that was lost a moment ago leaves its cells when its lease ends.
                    patience=1.5 * LEASE_SECONDS,
                )
            except KeyboardInterrupt:
                print(f"stopped by {signal.Signals(received[0]).name}", flush=True)
            if received[:1] == [signal.SIGUSR2]:
                after = _kept(store)
                if ended or any(before.get(key) != after.get(key) for key in touched):
                    _queue_again()
                else:
                    print("not queued again: nothing was got done until the time was up")


def submit(cells: Sequence[Cell], store: Store, work: Work, resources: Resources) -> str:
    """Have cells run by tasks of Slurm, and return.

    Args:
        cells: all of one device.
        store: their folder, which every machine of the cluster sees under the same path.
        work: what a task does.
        resources: that a task gets.

    Returns:
        What was submitted, in words.

    Raises:
        RunStopped: if Slurm or submitit is missing, or Slurm refuses.
    """
    try:
        from submitit.core.utils import FailedJobError, FailedSubmissionError
        from submitit.slurm.slurm import SlurmExecutor
    except ImportError as error:
        raise RunStopped("--engine slurm needs `pip install 'ffjord-bench[slurm]'`") from error
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise RunStopped("--engine slurm: there is no sbatch here; run it where jobs are submitted")
    there = sum((queue(store) or Counter()).values())
    jobs = work.jobs or 1
    most = min(resources.tasks - there, _largest_array(), math.ceil(len(cells) / jobs))
    if there and work.cells.is_file():
        # Tasks of an earlier call serve the cells of both.
        earlier = _CELLS.validate_json(work.cells.read_bytes())
        cells = [*{cell.key: cell for cell in (*earlier, *cells)}.values()]
    write_atomically(work.cells, _CELLS.dump_json(list(cells)))
    if most <= 0:
        return f"{there} tasks are in the queue already: they run these cells too when they start"
    devices = max(cell.devices for cell in cells)
    cores = cells[0].threads * max(jobs, devices)
    options: dict[str, Any] = {
        "job_name": f"ffjord-bench {store.directory.name}",
        "time": math.ceil(60 * resources.hours),
        "partition": resources.partition,
        "cpus_per_task": cores,
        "gpus_per_node": devices if cells[0].device == "cuda" else None,
        "array_parallelism": most,
        "signal_delay_s": NOTICE_SECONDS,
        "stderr_to_stdout": True,
        # Not handed on to steps since Slurm 22.05.
        "srun_args": [f"--cpus-per-task={cores}"],
        "additional_parameters": {
            "requeue": True,
            **{name.replace("-", "_"): value for name, value in resources.more.items()},
        },
    }
    executor = SlurmExecutor(folder=work.cells.parent)
    executor.update_parameters(**options)
    try:
        submitted = executor.map_array(Work.__call__, [work] * most)
    except (FailedJobError, FailedSubmissionError) as error:
        raise RunStopped(f"Slurm refused the tasks: {error}") from error
    number = submitted[0].job_id.partition("_")[0]
    return f"submitted job {number}: {most} tasks for {len(cells)} cells"


def work_of(store: Store, **options: Any) -> Work:
    """What the tasks of a folder do; options as :class:`Work` has them."""
    directory = store.directory.resolve()
    return Work(directory, directory / FOLDER / "cells.json", **options)


def queue(store: Store) -> Counter[str] | None:
    """The tasks of a folder that Slurm still has, by state and, of those that wait, the reason.

    None if it cannot be asked.
    """
    names = [path.name for path in (store.directory / FOLDER).glob("*_submission.sh")]
    jobs = [name.partition("_")[0] for name in names]
    if not jobs:
        return Counter()
    words = ["squeue", "--noheader", "--array", "--format=%T %r", f"--jobs={','.join(jobs)}"]
    try:
        found = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if found.returncode and "Invalid job id" not in found.stderr:
        return None
    lines = (line.partition(" ") for line in found.stdout.splitlines())
    return Counter(
        state.lower() + (f", {reason}" if reason not in ("None", "") else "")
        for state, _, reason in lines
    )


def _largest_array() -> int:
    """How many tasks an array may have."""
    words = ["scontrol", "show", "config"]
    found = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", found, re.MULTILINE)
    return int(match[1]) if match else MOST_TASKS


def _queue_again() -> None:
    """Have Slurm put this task back into its queue; it ends it meanwhile."""
    words = ["scontrol", "requeue", os.environ["SLURM_JOB_ID"]]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    said = found.stderr.strip()
    print(f"not queued again: {said}" if found.returncode else "queued again", flush=True)


def _begun_first(store: Store, cells: Sequence[Cell]) -> list[Cell]:
    begun = _kept(store)
    return sorted(cells, key=lambda cell: cell.key not in begun)


def _kept(store: Store) -> dict[str, float]:
    """The cells that are begun, and when something of their work was last kept."""
    found: dict[str, float] = {}
    for pattern in ("*.checkpoint", "*.json"):
        for path in (store.directory / "pending").glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                found[path.stem] = max(found.get(path.stem, 0.0), path.stat().st_mtime)
    return found


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """The first of the signals that end a task raises KeyboardInterrupt; gives what has come."""
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt

    # submitit has its own handlers here.
    before = {number: signal.signal(number, interrupt) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
