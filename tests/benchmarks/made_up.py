"""A record of a cell with measures that are made up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import datasets
from benchmarks.cell import Cell
from benchmarks.store import Record, Status

DIMENSIONS = {"power": 6, "optdigits": 64, "line": 1}


def made_up_record(cell: Cell, found: Mapping[str, Any] | str | None) -> Record:
    """A cell's record.

    Args:
        cell: of which.
        found: what was measured; how it failed instead, by the status; None where it diverged.
    """
    status = "diverged" if found is None else found if isinstance(found, str) else "ok"
    steps = 100 if cell.budget.steps is None else cell.budget.steps
    return Record(
        key=cell.key,
        cell=cell,
        flow_label=cell.flow_label,
        dataset_label=cell.dataset_label,
        dataset_kind=datasets.configure(cell.dataset, cell.dataset_options).kind,
        dimension=cell.dataset_options.get("dimension", DIMENSIONS.get(cell.dataset, 2)),
        status=cast(Status, status),
        reason="" if status == "ok" else "made up",
        measures={"steps": steps, **found} if isinstance(found, Mapping) else {},
    )
