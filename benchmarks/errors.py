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
    "PluginError",
    "RunStopped",
    "StoreError",
    "brief",
    "hint",
]


class BenchError(Exception):
    """Base of the harness's own errors; printed as one line, without a traceback."""

    exit_code = 2


class MatrixError(BenchError):
    """A matrix file, a filter or a name is wrong; the message says where and what was expected."""


class BadEntry(BenchError, TypeError):
    """A measure or a study cannot be taken; the message says where it is from and what is wrong."""


class PluginError(BenchError):
    """What comes from outside the project cannot be loaded; the message says where and why."""


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


def brief(value: object) -> str:
    """What to show of a value that may be of any size.

    Example:
        >>> brief([1, 2])
        '[1, 2]'
        >>> brief("x" * 1000)
        "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...' (1,002 characters)"
    """
    try:
        text = repr(value)
    # An integer of thousands of digits has no decimal form.
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:50]}...{text[-1]} ({len(text):,} characters)"


def hint(name: str, known: Iterable[str]) -> str:
    """What to append to a message about an unknown name: the nearest one, where one is near.

    Example:
        >>> hint("realnpv", ["ffjord", "realnvp"])
        "; did you mean 'realnvp'?"
        >>> hint("maf", ["ffjord", "realnvp"])
        ''
    """
    # Longer names than any there is are near to none, and take difflib long.
    near = difflib.get_close_matches(name[:200], list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
