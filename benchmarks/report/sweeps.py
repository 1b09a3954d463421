"""Which cells make a sweep: over the dimension, over the width of a bottleneck."""

from __future__ import annotations

import math

import pandas as pd

from benchmarks.report.groups import describe_setting, plain
from benchmarks.report.records import Records
from flows.continuous.ode.dynamics import hidden_widths

__all__ = ["bottleneck_cells", "dimension_cells"]


def dimension_cells(records: Records) -> pd.DataFrame:
    """The cells of a sweep over dimension: one flow, one family of data, several dimensions.

    Adds the column ``family``: the data set's name with those options that differ, its dimension
    and its split apart.
    """
    cells = records.cells
    cells = cells[cells["dimension"].notna() & (cells["dataset_kind"] == "family")]
    options = [
        name
        for name in cells.columns
        if name.startswith("dataset.")
        and name not in ("dataset.dimension", "dataset.split")
        and cells[name].nunique() > 1
    ]
    family = [
        ", ".join([name, *map(describe_setting, options, map(plain, row))])
        for name, row in zip(
            cells["dataset_name"], cells[options].itertuples(index=False), strict=True
        )
    ]
    cells = cells.assign(family=family)
    groups = cells.groupby(["flow", "family", "setting"])["dimension"]
    return cells[groups.transform("nunique") > 1] if len(cells) else cells


def bottleneck_cells(records: Records) -> pd.DataFrame:
    """The cells of a sweep over bottleneck width, and the full-width cells to compare them with.

    A bottleneck is a hidden layer more: the full-width network of a narrow one has the hidden
    layers that are left without it (64-64 for 64-k-64).

    Adds the column ``series``: the hidden layers without the bottleneck and all other options of
    the flow but the noise, with data set and setting. Full-width cells have NaN in ``bottleneck``.
    """
    cells = records.cells
    series = records.series(cells, ("flow.bottleneck", "flow.noise", "flow.hidden"))
    cells = cells.assign(
        series=[f"{a}|{b}" for a, b in zip(series, _wide_layers(cells), strict=True)]
    )
    narrow = set(cells.loc[cells["bottleneck"].notna(), "series"])
    cells = cells[cells["series"].isin(narrow)]
    return cells.sort_values(
        ["dataset", "flow_name", "noise", "bottleneck"], kind="stable", na_position="last"
    )


def _wide_layers(cells: pd.DataFrame) -> list[str]:
    """The widths of each flow's hidden layers but the bottleneck."""
    if "flow.hidden" not in cells:
        return [""] * len(cells)
    found = []
    for hidden, bottleneck in zip(cells["flow.hidden"], cells["bottleneck"], strict=True):
        widths = plain(hidden)
        if math.isfinite(bottleneck) and widths != "none":
            half = [int(width) for width in widths.split("-")]
            layers = list(hidden_widths(half, int(bottleneck)))
            del layers[len(half)]
            widths = "-".join(map(str, layers))
        found.append(widths)
    return found
