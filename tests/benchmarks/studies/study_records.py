"""Records of a study's own cells with measures, curves and arrays that are made up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from made_up import made_up_record

from benchmarks.cell import Cell
from benchmarks.matrix import load_matrix
from benchmarks.report.records import Records, gather
from benchmarks.report.sections import sections_of
from benchmarks.store import Store


def store_of(
    folder: Path,
    study: str,
    measured: Callable[[Cell], Mapping[str, Any] | str | None],
    *,
    seeds: Sequence[int] | None = None,
    curve: Callable[[Cell], Iterable[dict[str, float]]] | None = None,
    arrays: Callable[[Cell], Mapping[str, Any]] | None = None,
) -> Store:
    """A folder of records of a study, small.

    Args:
        folder: of the store.
        study: its name.
        measured: the measures of a cell, or how it failed, as :func:`made_up_record` takes them.
        seeds: instead of the study's.
        curve: rows of a cell's training curve.
        arrays: what lies beside a cell's record.
    """
    matrix = load_matrix(study, seeds=seeds)
    store = Store(folder)
    store.write_plan(matrix)
    for cell in matrix.cells:
        store.write(made_up_record(cell, measured(cell)))
        if curve is not None:
            rows = "\n".join(json.dumps(row) for row in curve(cell))
            store.path(cell, ".curve.jsonl").write_text(rows)
        if arrays is not None:
            store.write_arrays(cell, arrays(cell))
    return store


def records_of(folder: Path, study: str, *given: Any, **options: Any) -> Records:
    """The same as a report sees them."""
    ((found, records),) = sections_of(gather([store_of(folder, study, *given, **options)]))
    assert found.name == study
    return records
