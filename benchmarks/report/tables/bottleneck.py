"""Estimators, cost and quality against the width of a bottleneck."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd

from benchmarks import measures
from benchmarks.report.groups import grouped
from benchmarks.report.notes import Remarks, option_notes
from benchmarks.report.records import Records
from benchmarks.report.sweeps import bottleneck_cells
from benchmarks.report.table import Entry, Section, Table, number
from benchmarks.report.tables.columns import (
    contestants_by_seed,
    entries,
    how_measured,
    how_spread,
    kept,
)

__all__ = ["bottleneck"]

_COLUMNS = (
    "trace_std",
    "log_prob_std",
    "kl_to_truth_nats",
    "nll_nats",
    "nfe_train_forward",
    "nfe_train_backward",
    "train_step_seconds",
    "log_prob_seconds",
    "log_prob_exact_seconds",
    "sample_seconds",
    "peak_memory_bytes",
    "parameters",
)


def bottleneck(records: Records) -> list[Table]:
    """Estimator deviation, cost and quality against bottleneck width and noise."""
    cells = bottleneck_cells(records)
    columns = [measures.column(name) for name in _COLUMNS]
    by = ["dataset", "flow_name", "noise", "bottleneck", "dimension", "series", "setting"]
    by += ["setting_label"]
    data = contestants_by_seed(cells, by, [column.name for column in columns])
    data["flow"] = [group["flow"].iloc[0] for _, group in grouped(cells, by)]
    columns = kept(data, columns)
    if data["kl_to_truth_nats"].notna().all():
        # The NLL says no more than the distance to the truth; the CSV has both.
        columns = [column for column in columns if column.name != "nll_nats"]
    if data.empty or not columns:
        return []
    several = (
        data["flow_name"].nunique() > 1 or data.groupby("dataset")["series"].nunique().max() > 1
    )
    remarks = Remarks(records)
    # The options of the sweep stand in columns of their own.
    names = records.names(cells, apart=("flow.bottleneck", "flow.noise"))
    named = dict(zip(zip(cells["flow"], cells["setting"], strict=True), names, strict=True))

    def head(row: pd.Series[float]) -> list[Entry]:
        width = row["bottleneck"]
        wide = Entry("full", numeric=True)
        layer = number(width, decimals=0) if math.isfinite(width) else wide
        layer = replace(layer, remark=str(row["condition"]))
        first = replace(remarks.entry(str(row["flow"])), text=named[row["flow"], row["setting"]])
        return [*([first] if several else []), Entry(str(row["noise"])), layer]

    sections = [
        Section(
            f"{dataset} (D = {group['dimension'].iloc[0]:g})",
            [[*head(row), *entries(row, columns)] for _, row in group.iterrows()],
        )
        for (dataset,), group in grouped(data, ["dataset"])
    ]
    whose = "" if several else f" Flow: {', '.join(dict.fromkeys(names))}."
    table = Table(
        name="bottleneck",
        title="Estimator deviation and cost against bottleneck width",
        columns=[
            *(["flow"] if several else []),
            "noise",
            "bottleneck",
            *(column.title for column in columns),
        ],
        sections=sections,
        notes=[
            "Bottleneck: width of the layer in whose space the noise is drawn; full: none, the "
            f"noise has the data's dimension, and the other hidden layers are the same.{whose}",
            *how_measured(cells, columns),
            *how_spread(cells, columns),
            *option_notes(records, cells),
            *remarks.notes,
        ],
        data=data.drop(columns=["setting_label", "series", "condition"]),
    )
    return [table]
