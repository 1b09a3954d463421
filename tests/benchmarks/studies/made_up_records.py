"""Records of a study's own cells with measures that are made up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
from benchmarks.cell import Cell
from benchmarks.matrix import load_matrix
from benchmarks.report.records import Records, gather
from benchmarks.report.sections import sections_of
from benchmarks.store import Record, Store

Measured = Callable[[Cell], dict[str, Any] | None]
Curve = Callable[[Cell], Iterable[dict[str, float]]]


def store_of(
    folder: Path,
    study: str,
    measured: Measured,
    *,
    seeds: Sequence[int] | None = None,
    curve: Curve | None = None,
) -> Store:
    """A folder of records of a study, small.

    Args:
        folder: of the store.
        study: its name.
        measured: the measures of a cell; None where it diverged.
        seeds: instead of the study's.
        curve: rows of a cell's training curve.
    """
    matrix = load_matrix(study, seeds=seeds)
    store = Store(folder)
    store.write_plan(matrix)
    for cell in matrix.cells:
        values = measured(cell)
        config = datasets.configure(cell.dataset, cell.dataset_options)
        dimension = {"optdigits": 64, "power": 6}.get(cell.dataset)
        store.write(
            Record(
                key=cell.key,
                cell=cell,
                flow_label=cell.flow_label,
                dataset_label=cell.dataset_label,
                dataset_kind=config.kind,
                dimension=dimension or cell.dataset_options["dimension"],
                status="diverged" if values is None else "ok",
                reason="loss is not finite" if values is None else "",
                measures={} if values is None else {"steps": 100, **values},
            )
        )
        if curve is not None:
            path = store.path(cell, ".curve.jsonl")
            path.write_text("\n".join(json.dumps(row) for row in curve(cell)))
    return store


def records_of(folder: Path, study: str, measured: Measured, **options: Any) -> Records:
    """The same as a report sees them."""
    ((found, records),) = sections_of(gather([store_of(folder, study, measured, **options)]))
    assert found.name == study
    return records
