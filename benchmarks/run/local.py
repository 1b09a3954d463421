"""Runs cells on this machine: several at once while they train, one alone while it is timed.

A cell is taken before a stage of it is started (:mod:`benchmarks.run.claims`), so that any number
of runners share a folder.

Each stage of a cell is a fresh process, forked from a server that has torch loaded and nothing
else done (no CUDA context, no threads), so that a cell costs no seconds of imports
(:mod:`benchmarks.run.server`).

How a process ends says what is done. A record is a result, whatever its status, and final. One
that was killed from outside, stopped, or lost with its server has no result: its cell goes on from
its checkpoint, :data:`RETRIES` times at most. A disk on which nothing can be written ends the run.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from benchmarks.cell import Cell
from benchmarks.errors import RunStopped
from benchmarks.run import claims, server
from benchmarks.run import process as cell_module
from benchmarks.run.process import GRACE_SECONDS, NO_DISK, STOPPED, Stage, Task
from benchmarks.store import LeftOut, Record, Status, Store

__all__ = ["Outcome", "Running", "run_cells", "visible_gpus"]

RETRIES = 2
"""How often a cell is started again whose process was ended from outside."""
SERVER_TRIES = 20
"""How often a process is asked for, twice a second, of servers that end."""
OUTSIDE = {signal.SIGKILL, *server.STOP_SIGNALS, signal.SIGHUP, signal.SIGINT}
"""Signals by which others end a process; those that a process brings on itself are its result."""
LOOK_SECONDS = 1.0
"""Between two looks at cells that others have."""
SERVER_LOST = 255
"""What multiprocessing says of a process whose end nobody has seen."""


@dataclass(frozen=True)
class Outcome:
    """What became of a cell in this run: its record, or the file that stands in its place.

    ``elsewhere``: another runner has brought it there.
    """

    cell: Cell
    record: Record | None
    left_out: LeftOut | None = None
    elsewhere: bool = False


@dataclass
class Running:
    """A stage of a cell that is under way."""

    task: Task
    process: BaseProcess
    started: float = field(default_factory=time.monotonic)
    oom_kills: int = field(default_factory=lambda: _oom_kills())


def visible_gpus() -> list[str]:
    """The CUDA devices that a process may be given, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]


def run_cells(
    cells: Sequence[Cell],
    directory: Path,
    *,
    jobs: int,
    timeout: float | None,
    on_outcome: Callable[[Outcome], None],
    on_tick: Callable[[Sequence[Running]], None] = lambda running: None,
    gpus: Sequence[str] = (),
    keep_weights: bool = False,
    patience: float | None = None,
) -> None:
    """Run cells that have no record and that no other runner has, until each has its record.

    Args:
        cells: in the order in which they are to run.
        directory: the store's folder.
        jobs: how many train at once. One at a time is timed as soon as it is trained, several are
            when all are.
        timeout: seconds for a stage of a cell; None for no bound.
        on_outcome: called when a cell has ended, in the parent.
        on_tick: called twice a second with what is under way.
        gpus: CUDA devices; each process sees as many as its cell has devices, those with the
            fewest processes. None given, each sees what this one does. (Processor cores are not
            dealt out: two runs would take the same ones.)
        keep_weights: whether the tested weights are kept beside the records.
        patience: seconds for which cells that others have are waited for while there is nothing
            else to do; None for as long as they take.

    Raises:
        RunStopped: if nothing can be written into the folder, or it is gone.
        KeyboardInterrupt: after Ctrl-C; the running cells have been asked to keep their state and
            have ended, what they had finished stays.
    """
    store = Store(directory)
    directory.mkdir(parents=True, exist_ok=True)
    folder = _identity(directory)
    # Nobody writes into it. This process alone holds ``mine``: when it ends, cells notice.
    pipe, mine = multiprocessing.Pipe(duplex=False)
    waiting: dict[Stage, dict[str, Cell]] = {"quality": {}, "cost": {}}
    running: list[Running] = []
    retried: Counter[str] = Counter()

    def settled(cell: Cell) -> bool:
        """Whether a cell that waits has its record, or a file in the place of one."""
        if (found := store.read(cell)) is None:
            return False
        for cells_of_stage in waiting.values():
            cells_of_stage.pop(cell.key, None)
        end(cell, found, elsewhere=True)
        return True

    def end(cell: Cell, found: Record | LeftOut, *, elsewhere: bool = False) -> None:
        cell_module.clear_pending(store, cell)
        runner.done(cell.key)
        record, left_out = (None, found) if isinstance(found, LeftOut) else (found, None)
        on_outcome(Outcome(cell, record, left_out, elsewhere))

    def take(stage: Stage) -> Cell | None:
        """The next cell that waits for a stage and that nobody else has."""
        for key, cell in list(waiting[stage].items()):
            if settled(cell) or not runner.take(key):
                continue
            # Another may have ended it meanwhile.
            _ask_anew(store.path(cell).parent)
            if settled(cell):
                continue
            del waiting[stage][key]
            if runner.losses(key) >= claims.MOST_LOSSES:
                why = f"its runner was lost {runner.losses(key)} times while it was at work"
                fail(cell, "crashed", why)
                continue
            now = cell_module.pending_stage(store, cell)
            if now == stage:
                return cell
            put_back(cell, now)
        return None

    def put_back(cell: Cell, stage: Stage, *, first: bool = False) -> None:
        runner.put_back(cell.key)
        others = dict(waiting[stage]) if first else {}
        for key in others:
            del waiting[stage][key]
        waiting[stage][cell.key] = cell
        waiting[stage].update(others)

    def start_next() -> bool:
        """Start a stage, if there is one to be started now."""
        stages: tuple[Stage, ...] = ("cost", "quality") if jobs == 1 else ("quality", "cost")
        for stage in stages:
            if may_start(stage) and (cell := take(stage)):
                start(cell, stage)
                return True
        return False

    def may_start(stage: Stage) -> bool:
        """Whether there is room: a cost stage has the machine to itself."""
        if not waiting[stage] or any(item.task.stage == "cost" for item in running):
            return False
        if stage == "cost" or not running:
            return not running
        # What takes more devices than there are jobs trains alone.
        taken = sum(item.task.cell.devices for item in running)
        return taken + next(iter(waiting[stage].values())).devices <= jobs

    def start(cell: Cell, stage: Stage) -> None:
        load = Counter(gpu for item in running for gpu in (item.task.gpu or "").split(","))
        gpu = ",".join(sorted(gpus, key=lambda gpu: load[gpu])[: cell.devices]) or None
        task = Task(cell, stage, directory, pipe, gpu, keep_weights, runner.name)
        for attempt in range(SERVER_TRIES):
            server.start()
            process = server.context().Process(target=cell_module.run, args=(task,), name=str(cell))
            try:
                process.start()
            except (EOFError, OSError) as error:
                # The server is about to be gone; then another is started.
                if attempt == SERVER_TRIES - 1:
                    raise RunStopped(
                        f"no process can be started ({str(error) or 'its server ended'})"
                    ) from error
                time.sleep(0.5)
            else:
                running.append(Running(task, process))
                return

    def trained(item: Running) -> bool:
        """Whether a process has ended well and left what the cost stage needs."""
        return (
            item.task.stage == "quality"
            and item.process.exitcode == 0
            and cell_module.pending_stage(store, item.task.cell) == "cost"
        )

    def finish(item: Running, why: str | None) -> None:
        running.remove(item)
        cell = item.task.cell
        found = store.read(cell)
        if found is None:
            if not why and trained(item):
                put_back(cell, "cost")
                return
            if not why and item.process.exitcode == NO_DISK:
                raise RunStopped(_no_disk(directory))
            if not why and _ended_from_outside(item) and retried[cell.key] < RETRIES:
                retried[cell.key] += 1
                put_back(cell, cell_module.pending_stage(store, cell), first=True)
                return
            fail(cell, *_death(item, why, retried[cell.key]))
        else:
            end(cell, found)

    def give_up(item: Running) -> None:
        """Leave a cell to another, who has taken it while this machine stood still."""
        running.remove(item)
        cell = item.task.cell
        runner.done(cell.key)
        waiting[item.task.stage][cell.key] = cell

    def fail(cell: Cell, status: Status, reason: str) -> None:
        """Write the record of a cell that cannot."""
        pending = cell_module.read_pending(store, cell)
        found = cell_module.record_of(cell, status, reason, pending=pending)
        store.write(found)
        end(cell, found)

    try:
        with claims.Runner(store) as runner, _adopting_strays() as end_strays:
            try:
                for cell in cells:
                    waiting[cell_module.pending_stage(store, cell)][cell.key] = cell
                busy = time.monotonic()
                looked = 0.0
                while running or any(waiting.values()):
                    if time.monotonic() - looked >= LOOK_SECONDS and any(map(may_start, waiting)):
                        runner.look()
                        while start_next():
                            pass
                        looked = time.monotonic()
                    if running:
                        busy = time.monotonic()
                    elif patience is not None and time.monotonic() - busy > patience:
                        break
                    on_tick(running)
                    multiprocessing.connection.wait(
                        [item.process.sentinel for item in running], 0.5
                    )
                    if _identity(directory) != folder:
                        raise RunStopped(
                            f"{directory} was removed or replaced while the run wrote there"
                        )
                    for item in list(running):
                        if not item.process.is_alive():
                            item.process.join()
                            end_strays()
                            finish(item, None)
                            looked = 0.0
                        elif timeout is not None and time.monotonic() - item.started > timeout:
                            why = _too_long(store, item, timeout)
                            end_strays(_kill(item))
                            finish(item, why)
                            looked = 0.0
                    if runner.beat():
                        for item in list(running):
                            if not runner.holds(item.task.cell.key):
                                end_strays(_kill(item))
                                give_up(item)
            finally:
                end_strays(_stop(running))
                pipe.close()
                mine.close()
    except OSError as error:
        raise RunStopped(f"{_no_disk(directory)} ({error})") from error


@contextmanager
def _adopting_strays() -> Iterator[Callable[..., None]]:
    """Gives a function that ends what cells have started and left behind.

    A process whose parent has died becomes the child of the nearest process above that asks for it:
    of the cell while it lives, else of this one. Known by its environment, whatever its session.
    """
    kernel = ctypes.CDLL(None) if sys.platform == "linux" else None
    pr_set_child_subreaper, pr_get_child_subreaper = 36, 37
    before = ctypes.c_int(0)
    if kernel is not None:
        kernel.prctl(pr_get_child_subreaper, ctypes.byref(before))
        kernel.prctl(pr_set_child_subreaper, 1)

    killed: set[psutil.Process] = set()

    def end_strays(more: Iterable[psutil.Process] = ()) -> None:
        killed.update(more)
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if child.pid != server.pid() and child.environ().get(server.MARK) == str(
                    os.getpid()
                ):
                    killed.update(cell_module.end_descendants(child))
                    child.kill()
                    killed.add(child)
        # They are this process's children now, and somebody has to take note of their end.
        ended, _ = psutil.wait_procs(killed, timeout=1)
        killed.difference_update(ended)

    try:
        yield end_strays
    finally:
        end_strays()
        if kernel is not None:
            kernel.prctl(pr_set_child_subreaper, before.value)


def _ask_anew(folder: Path) -> None:
    """Have a network file system forget which files were not in a folder: opening it does."""
    with contextlib.suppress(OSError):
        os.close(os.open(folder, os.O_RDONLY))


def _identity(directory: Path) -> tuple[int, int] | None:
    try:
        found = directory.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _no_disk(directory: Path) -> str:
    free = ""
    with contextlib.suppress(OSError):
        free = f", where {shutil.disk_usage(directory).free:,} bytes are free"
    return (
        f"cannot write into {directory}{free}: what was finished stays, and the same command goes "
        "on when there is room"
    )


def _ended_from_outside(item: Running) -> bool:
    code = item.process.exitcode
    if code == -signal.SIGKILL and _oom_kills() > item.oom_kills:
        return False
    return code in (STOPPED, SERVER_LOST) or code in {-number for number in OUTSIDE}


def _death(item: Running, why: str | None, retried: int) -> tuple[Status, str]:
    """Status and reason of a cell whose process ended without a result, or ``why`` it was ended."""
    if why:
        return "timeout", why
    code = item.process.exitcode
    stage = item.task.stage
    if code == -signal.SIGKILL and _oom_kills() > item.oom_kills:
        return "oom", f"the kernel ended the {stage} stage, out of memory"
    times = f", {retried + 1} times" if retried else ""
    if code == STOPPED:
        return "crashed", f"the {stage} stage was asked to end{times}"
    if code == SERVER_LOST:
        return "crashed", f"the {stage} stage was lost with the server of its process{times}"
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (often the kernel, out of memory)" if name == "SIGKILL" else ""
        return "crashed", f"the process was ended by {name}{hint}{times}"
    return (
        "crashed",
        f"the {stage} stage ended with exit code {code} and left nothing to go on with",
    )


def _too_long(store: Store, item: Running, timeout: float) -> str:
    """Why a stage is ended, and whether it was still at work."""
    found = store.progress(item.task.cell.key)
    step, at = found.get("step"), found.get("at")
    where = ""
    if isinstance(step, int) and isinstance(at, float):
        where = f"; it was at step {step}"
        silent = time.time() - at
        if silent > max(60.0, timeout / 2):
            where = f"; it hung: nothing was heard of it for {silent:.0f} s, after step {step}"
    return f"the {item.task.stage} stage took more than {timeout:g} s{where}"


def _oom_kills() -> int:
    """How many processes the kernel has ended for want of memory, here or in this container."""
    total = 0
    for path in (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")):
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                name, _, number = line.partition(" ")
                if name == "oom_kill":
                    total += int(number)
    return total


def _stop(items: Sequence[Running]) -> set[psutil.Process]:
    """Have processes keep their state and end; kill those that take too long, as :func:`_kill`."""
    killed: set[psutil.Process] = set()
    for item in items:
        item.process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for item in items:
        item.process.join(max(0.0, deadline - time.monotonic()))
        if item.process.is_alive():
            killed |= _kill(item)
    return killed


def _kill(item: Running) -> set[psutil.Process]:
    """End a process and all that it has started; gives the latter."""
    assert item.process.pid is not None
    killed: set[psutil.Process] = set()
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(item.process.pid)
        process.suspend()
        killed = cell_module.end_descendants(process)
    item.process.kill()
    item.process.join()
    return killed
