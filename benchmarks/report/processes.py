"""The same work on many things, on all cores."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from benchmarks.errors import StoreError

__all__ = ["cores", "on_all_cores"]

Item = TypeVar("Item")
Made = TypeVar("Made")

# What forked processes find there: nothing but a place and what was made goes through a pipe.
_work: tuple[Callable[[Any], Any], Sequence[Any]] | None = None


def cores() -> int:
    """How many this process may use; 1 where a process cannot safely be forked."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def on_all_cores(
    function: Callable[[Item], Made], items: Sequence[Item], processes: int
) -> list[Made]:
    """What a function gives for each item, in their order.

    Args:
        function: changes nothing but files, and gives what can be pickled.
        items: what takes longest first, so that no core waits for another.
        processes: forked from this one, with all that it holds; 1 for none.

    Raises:
        StoreError: if one of the processes is killed.
    """
    global _work
    if min(processes, len(items)) < 2:
        return [function(item) for item in items]
    _work = function, items
    try:
        with ProcessPoolExecutor(
            min(processes, len(items)),
            multiprocessing.get_context("fork"),
            initializer=_begin,
            initargs=(os.getpid(),),
        ) as pool:
            return list(pool.map(_make, range(len(items))))
    except BrokenProcessPool as error:
        raise StoreError(
            "a process that makes the report was killed (often by the kernel, out of memory)"
        ) from error
    finally:
        _work = None


def _begin(parent: int) -> None:
    """End with the process that wants the work, however that ends."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    # Ctrl-C goes to the parent, which then asks for no more.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _make(place: int) -> Any:
    assert _work is not None
    function, items = _work
    return function(items[place])
