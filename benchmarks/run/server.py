"""The process that cells are forked from: it has loaded what they all need, and done nothing else.

Loading takes seconds. :func:`ahead` has it done beside the imports of the process that will ask for
cells, which therefore starts it before it imports torch itself: this module imports no other of
the project's but what is as light.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext

from benchmarks.allocator import ALLOCATOR

__all__ = ["MARK", "PRELOAD", "STOP_SIGNALS", "ahead", "context", "pid", "start"]

PRELOAD = "benchmarks.run.loaded"
"""Imported by the server before it forks anything."""
MARK = "FFJORD_BENCH_RUNNER"
"""Environment variable by which a runner knows what its cells have started."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
"""Those that ask a cell to keep its state and end."""

_wanted = False


def context() -> ForkServerContext:
    """By which a process is asked for, once the server is there."""
    return multiprocessing.get_context("forkserver")


def start() -> None:
    """Start the server, unless it runs; only its environment is changed."""
    global _wanted
    _wanted = True
    _start()


@contextlib.contextmanager
def ahead() -> Iterator[None]:
    """Start the server now; at the end of the block it ends if nobody has asked for it."""
    before = pid()
    _start()
    try:
        yield
    finally:
        own = pid()
        if not _wanted and own is not None and own != before:
            # It may still be loading, and would hold the streams of this process until then.
            with contextlib.suppress(ProcessLookupError):
                os.kill(own, signal.SIGKILL)


def pid() -> int | None:
    """The server's; None if none was started."""
    found: int | None = multiprocessing.forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    return found


def _start() -> None:
    context().set_forkserver_preload([PRELOAD])
    environment = {**ALLOCATOR, MARK: str(os.getpid())}
    # It is no cell's, and is not to be taken for one.
    multiprocessing.resource_tracker.ensure_running()
    added = environment.keys() - os.environ.keys()
    # Who sends them to all of a job's processes means the cells, which would end with their server:
    # it never takes them, and they take them when they have a handler. Ctrl-C is the runner's.
    blocked = {*STOP_SIGNALS, signal.SIGINT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        os.environ.update({name: environment[name] for name in added})
        multiprocessing.forkserver.ensure_running()
    finally:
        for name in added:
            os.environ.pop(name)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
