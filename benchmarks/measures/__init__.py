"""What is measured of a trained flow, one family a file.

A file holds ``measure(subject)`` and ``ENTRIES = [Family(...)]``, whose columns say what they
mean and how a report shows them (:mod:`benchmarks.measures.base`). It is found here; nothing else
is to be edited. A family from elsewhere comes in by :func:`add`.
"""

from benchmarks.measures.always import ALWAYS
from benchmarks.measures.base import Column, Family, with_quartile_columns
from benchmarks.measures.registry import (
    FAMILIES,
    add,
    by_default,
    column,
    columns,
    complete,
    family,
    of_stage,
)

__all__ = [
    "ALWAYS",
    "FAMILIES",
    "Column",
    "Family",
    "add",
    "by_default",
    "column",
    "columns",
    "complete",
    "family",
    "of_stage",
    "with_quartile_columns",
]
