"""Records of a study's own cells with measures, curves and arrays that are made up."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from benchmarks.cell import Cell
from benchmarks.matrix import load_matrix
from benchmarks.report.records import Records, gather
from benchmarks.report.sections import sections_of
from benchmarks.store import Record, Store

DIMENSIONS = {"power": 6, "line": 1}


def store_of(
    folder: Path,
    study: str,
    measured: Callable[[Cell], dict[str, Any] | None],
    *,
    seeds: Sequence[int] | None = None,
    curve: Callable[[Cell], Sequence[dict[str, float]]] | None = None,
    arrays: Callable[[Cell], Mapping[str, Any]] | None = None,
) -> Store:
    """A folder of records of a study, small.

    Args:
        folder: of the store.
        study: its name.
        measured: the measures of a cell; None where it diverged.
        seeds: instead of the study's.
        curve: rows of a cell's training curve.
        arrays: what lies beside a cell's record.
    """
    matrix = load_matrix(study, seeds=seeds)
    store = Store(folder)
    store.write_plan(matrix)
    for cell in matrix.cells:
        values = measured(cell)
        store.write(
            Record(
                key=cell.key,
                cell=cell,
                flow_label=cell.flow_label,
                dataset_label=cell.dataset_label,
                dataset_kind=datasets.configure(cell.dataset, cell.dataset_options).kind,
                dimension=cell.dataset_options.get("dimension", DIMENSIONS.get(cell.dataset, 2)),
                status="diverged" if values is None else "ok",
                reason="loss is not finite" if values is None else "",
                measures={} if values is None else {"steps": cell.budget.steps, **values},
            )
        )
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
