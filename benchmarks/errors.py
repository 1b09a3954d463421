"""Errors of the harness that a user can cause, and the exit code that each one means."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BadEntry",
    "BenchError",
    "DataUnavailable",
    "Interrupted",
    "MatrixError",
    "RunStopped",
    "StoreError",
    "hint",
]


class BenchError(Exception):
    """Base of the harness's own errors; printed as one line, without a traceback."""

    exit_code = 2


class MatrixError(BenchError):
    """A matrix file, a filter or a name is wrong; the message says where and what was expected."""


class BadEntry(BenchError, TypeError):
    """A measure or a study cannot be taken; the message says where it is from and what is wrong."""


class StoreError(BenchError):
    """A folder of records cannot be used as asked."""


class DataUnavailable(BenchError):
    """Data that a run needs are missing or corrupt."""

    exit_code = 3


class RunStopped(BenchError):
    """A run could not go on, for a full disk or the like; what was finished stays."""

    exit_code = 1


class Interrupted(BenchError):
    """The run was interrupted; what was finished stays."""

    exit_code = 130


def hint(name: str, known: Iterable[str]) -> str:
    """What to append to a message about an unknown name: the nearest one, where one is near.

    Example:
        >>> hint("realnpv", ["ffjord", "realnvp"])
        "; did you mean 'realnvp'?"
        >>> hint("maf", ["ffjord", "realnvp"])
        ''
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
