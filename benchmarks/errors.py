"""Errors of the harness that a user can cause, and the exit code that each one means."""

from __future__ import annotations

__all__ = ["BenchError", "DataUnavailable", "Interrupted", "MatrixError", "StoreError"]


class BenchError(Exception):
    """Base of the harness's own errors; printed as one line, without a traceback."""

    exit_code = 2


class MatrixError(BenchError):
    """A matrix file, a filter or a name is wrong; the message says where and what was expected."""


class StoreError(BenchError):
    """A folder of records cannot be used as asked."""


class DataUnavailable(BenchError):
    """Data that a run needs are missing or corrupt."""

    exit_code = 3


class Interrupted(BenchError):
    """The run was interrupted; what was finished stays."""

    exit_code = 130
