"""How well the flows model the data, and what the literature reports of the same data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from benchmarks import measures
from benchmarks.measures import Column
from benchmarks.report.groups import (
    contestant,
    grouped,
    label_order,
    runs,
    summarise,
    values_by_seed,
)
from benchmarks.report.notes import (
    ESTIMATED,
    Remarks,
    machine_notes,
    option_notes,
    replication_notes,
)
from benchmarks.report.records import Records
from benchmarks.report.statistics import best_of
from benchmarks.report.style import flow_order
from benchmarks.report.table import DASH, Entry, Section, Table, number
from benchmarks.report.tables.failures import shortened
from benchmarks.report.tables.published import published_rows
from benchmarks.report.tables.rates import rate_entry, rate_notes
from datasets.base import KINDS

__all__ = ["comparison", "quality_entry"]

# Two-sided 95 % of a normal distribution: the mean of thousands of test points is close to one.
_NORMAL_95 = 1.959964

# More data sets than this do not fit beside each other.
_DATASETS_A_TABLE = 6


@dataclass(frozen=True)
class _Block:
    """One question to the test split: which kinds of data, which measure, under which title."""

    name: str
    kinds: tuple[str, ...]
    measure: str
    title: str
    # Whether data sets on which nobody has the measure are left out, those of failures too.
    where_known: bool = False


_BLOCKS = (
    _Block("comparison", ("toy", "tabular"), "nll_nats", "Test NLL in nats (lower is better)"),
    _Block(
        "kl",
        ("toy", "family"),
        "kl_to_truth_nats",
        "KL divergence from the true density in nats (lower is better)",
        where_known=True,
    ),
    _Block("images", ("image",), "bits_per_dim", "Test bits/dim of images (lower is better)"),
    _Block(
        "families",
        ("family",),
        "nll_nats",
        "Test NLL in nats on parametric families of known entropy (lower is better)",
    ),
)


def _further_blocks() -> list[_Block]:
    return [
        _Block(
            column.name,
            KINDS,
            column.name,
            f"{_in_unit(column)} (lower is better)",
            where_known=True,
        )
        for column in measures.columns(table="comparison")
    ]


def _in_unit(column: Column) -> str:
    words = column.heading or column.name
    return f"{words} in {column.unit}" if column.unit else words


_BOLD = (
    "Bold: the lowest mean of its column, and every mean that cannot be told from it (the 95 % "
    "interval of the difference, paired by seed where both ran the same seeds, Welch's otherwise, "
    "not corrected for the number of flows, holds zero). Only flows of two seeds or more that lost "
    "none are compared; nothing is bold where none of them can be told from the lowest, or where "
    "a flow that is not compared lies lower."
)
_NO_BOLD = (
    "No flow is marked as the best: in no column can two seeds or more tell flows from the lowest "
    "mean (the 95 % interval of the difference, paired by seed or Welch's, holds zero or is not "
    "there)."
)


def comparison(records: Records) -> list[Table]:
    """Trained flows by data sets: toys and tables, distance to the truth, images, families.

    A table of its own for each further measure of quality whose column asks for one.
    """
    tables = []
    trained = records.cells[records.cells["trained"]]
    for block in (*_BLOCKS, *_further_blocks()):
        cells = trained[trained["dataset_kind"].isin(block.kinds)]
        # A study that leaves quality out has nothing to say here, unless it failed.
        measured = set(cells.loc[cells[block.measure].notna(), "dataset"])
        tried = cells[cells[block.measure].notna() | (cells["status"] != "ok")]
        if block.where_known:
            # Where the truth is not known there is nothing to fail at.
            tried = tried[tried["dataset"].isin(measured)]
        datasets = list(dict.fromkeys(tried["dataset"]))
        for first in range(0, len(datasets), _DATASETS_A_TABLE):
            part = datasets[first : first + _DATASETS_A_TABLE]
            suffix = f"-{first // _DATASETS_A_TABLE + 1}" if first else ""
            table = _comparison(
                records,
                tried[tried["dataset"].isin(part)],
                part,
                replace(block, name=block.name + suffix),
            )
            tables.append(table)
    return tables


_Group = tuple[str, str, str]
"""Data set, flow and setting: the cells that differ in the seed and the split alone."""


def _comparison(
    records: Records, cells: pd.DataFrame, datasets: Sequence[str], block: _Block
) -> Table:
    measure = block.measure
    if f"{measure}_stderr" not in cells:
        cells = cells.assign(**{f"{measure}_stderr": math.nan})
    best = _best(cells, measure)
    by_cell: dict[_Group, pd.DataFrame] = {
        (dataset, flow, setting): group
        for (dataset, flow, setting), group in grouped(cells, ["dataset", "flow", "setting"])
    }
    # What names a row leaves out what does not differ, so that one row spans data sets whose
    # budgets differ from each other but not within themselves.
    rows_of: dict[tuple[str, str], dict[str, pd.DataFrame]] = {}
    ranked = sorted(
        dict.fromkeys(zip(cells["flow_name"], cells["flow"], cells["setting_label"], strict=True)),
        key=lambda row: (flow_order(row[0]), label_order(records.short[row[1]]), row[2]),
    )
    for _, flow, label in ranked:
        rows_of[flow, label] = {}
    for (dataset, flow, _), group in by_cell.items():
        rows_of[flow, group["setting_label"].iloc[0]][dataset] = group

    decimals = {d: _decimals(cells.loc[cells["dataset"] == d, measure]) for d in datasets}
    with_rate = bool(cells["learning_rate"].notna().any())
    remarks = Remarks(records)
    rows = []
    for (flow, label), groups in rows_of.items():
        row = [remarks.entry(flow, label)]
        if with_rate:
            row.append(rate_entry([groups[dataset] for dataset in datasets if dataset in groups]))
        for dataset in datasets:
            mine = groups.get(dataset)
            row.append(
                Entry(DASH, numeric=True)
                if mine is None
                else quality_entry(mine, measure, decimals[dataset], _group_of(mine) in best)
            )
        rows.append(row)

    head = ["flow", *(["learning rate"] if with_rate else [])]
    blank = [Entry("")] * (len(head) - 1)
    sections = [Section("", rows)]
    if measure in ("nll_nats", "bits_per_dim"):
        sections += _tails(records, datasets, rows_of, decimals, blank)
        sections += _references(cells, datasets, measure, decimals, blank)
        published, said = published_rows(cells, datasets, measure, blank)
        sections += published
    else:
        said = []
    return Table(
        name=block.name,
        title=block.title,
        columns=[*head, *datasets],
        sections=sections,
        notes=[
            *_how(cells, datasets, measure, bool(best)),
            *(rate_notes(records, cells, rows_of) if with_rate else []),
            *replication_notes(cells),
            *_warnings(records, cells, measure),
            *option_notes(records, cells, rates_shown=with_rate),
            *remarks.notes,
            *(machine_notes(cells) if "machine" in records.differing else []),
            *said,
        ],
        data=_comparison_data(cells, measure, best),
    )


def _group_of(cells: pd.DataFrame) -> _Group:
    first = cells.iloc[0]
    return str(first["dataset"]), str(first["flow"]), str(first["setting"])


def _best(cells: pd.DataFrame, measure: str) -> set[_Group]:
    """Which numbers are the best of their column, among those of one rule of training."""
    found: set[_Group] = set()
    for (dataset, _), within in grouped(cells, ["dataset", "rule"]):
        groups = {(f, s): group for (f, s), group in grouped(within, ["flow", "setting"])}
        best = best_of(
            {name: values_by_seed(group, measure) for name, group in groups.items()},
            lost={name for name, group in groups.items() if (group["status"] != "ok").any()},
        )
        found |= {(dataset, flow, setting) for flow, setting in best}
    return found


def _decimals(values: pd.Series[float]) -> int:
    """Digits after the point of a column of NLLs, from how large they are."""
    size = values.abs().median()
    return 3 if not size >= 100 else 2 if size < 1000 else 1


_REASON = 70


def quality_entry(group: pd.DataFrame, measure: str, decimals: int, best: bool) -> Entry:
    """A mean over seeds, with its error over seeds and its error over test points."""
    values = values_by_seed(group, measure)
    failed = group[group["status"] != "ok"]
    reasons = dict.fromkeys(shortened(reason, _REASON) for reason in failed["reason"] if reason)
    why = next(iter(reasons), "") + (" and others" if len(reasons) > 1 else "")
    if values.empty:
        statuses = list(dict.fromkeys(failed["status"]))
        return Entry(", ".join(statuses) if statuses else DASH, why=why, numeric=True)
    measures = [measure, f"{measure}_stderr"]
    summary = summarise(group, ["flow"], measures).iloc[0]
    entry = number(summary[measure], summary[f"{measure}_half_width"], decimals=decimals)
    points = number(0.0, _NORMAL_95 * summary[f"{measure}_stderr"], decimals=decimals).plus_minus
    tried, ended = len(runs(group)), len(runs(group[group["status"] == "ok"]))
    several = summary["splits"] > 1
    return replace(
        entry,
        over=("splits" if several else "seeds") if entry.plus_minus else "",
        also=points,
        also_over="points" if points else "",
        bold=best,
        mark=ESTIMATED if group["density_estimated"].any() else "",
        remark=f"{ended}/{tried} {'runs' if several else 'seeds'}" if ended < tried else "",
        why=why,
    )


# -- notes --------------------------------------------------------------------------------------


def _how(cells: pd.DataFrame, datasets: Sequence[str], measure: str, best: bool) -> list[str]:
    """What a number is, what its errors are over, and what bold means."""
    ok = cells[(cells["status"] == "ok") & cells[measure].notna()]
    notes = []
    if measure == "kl_to_truth_nats":
        by_quadrature = set(ok.loc[ok["kl_by_quadrature"], "dataset"])
        ways = []
        if by_quadrature:
            ways.append(
                "by quadrature in two dimensions"
                + (
                    ""
                    if by_quadrature == set(datasets)
                    else f" ({', '.join(d for d in datasets if d in by_quadrature)})"
                )
                + ", without an error over test points"
            )
        if by_quadrature != set(datasets):
            ways.append("as the mean of log truth - log model over the test split")
        notes.append(f"Each number: mean over seeds of the divergence, {'; else '.join(ways)}.")
    elif measure in {column.name for column in measures.columns(table="comparison")}:
        notes.append(f"Each number: mean over seeds; {measures.column(measure).meaning}.")
    else:
        notes.append("Each number: mean over seeds of the mean over the test split.")
    errors = ["± (seeds): half-width of a 95 % Student t interval over seeds"]
    if ok[f"{measure}_stderr"].notna().any():
        errors.append(
            "± (points): 1.96 standard errors over the test points of one trained flow, the mean "
            "of the seeds'. Neither holds the other"
        )
    notes.append("; ".join(errors) + ".")
    notes.append(_BOLD if best else _NO_BOLD)
    if any(
        len(values_by_seed(group, measure)) == 1
        for _, group in grouped(ok, ["dataset", "flow", "setting"])
    ):
        notes.append(
            "Where only one seed ended well there is no interval over seeds, and nothing tells a "
            "difference from chance."
        )
    return notes


def _warnings(records: Records, cells: pd.DataFrame, measure: str) -> list[str]:
    """What of some numbers a reader might mistake."""
    ok = cells[cells["status"] == "ok"]
    notes = []
    if measure == "nll_nats" and ok["truth_entropy_nats"].notna().any():
        notes.append("The entropy is that of the true density; a finite test set may score below.")
    if ok["density_estimated"].any():
        notes.append(
            f"{ESTIMATED}: the test density is itself an unbiased estimate, one draw of the "
            "estimator's noise; the others are exact."
        )
    outside = [
        f"{records.short[flow]} on {dataset} {100 * share:.2g} %"
        for (flow, dataset), group in grouped(ok, ["flow", "dataset"])
        if (share := float(group["outside_fraction"].mean())) > 0
    ]
    if outside:
        notes.append(
            "Of the first 10,000 test rows, those that pass some layer outside the region in which "
            f"it is learned (a spline's box), mean over seeds: {', '.join(outside)}."
        )
    if (cells["status"] != "ok").any():
        notes.append(
            "In brackets after a number: the seeds that ended well, of those tried; see the "
            "failures."
        )
    return notes


# -- more rows ----------------------------------------------------------------------------------

# What a thousandth of the points carries of the terms' excess over the median: 0.008 where the
# terms are normal, a few times that with exponential tails. More than this is worth saying.
_NOTABLE_SHARE = 0.1


def _tails(
    records: Records,
    datasets: Sequence[str],
    rows_of: Mapping[tuple[str, str], Mapping[str, pd.DataFrame]],
    decimals: Mapping[str, int],
    blank: Sequence[Entry],
) -> list[Section]:
    """The median beside the mean, for the rows whose mean hangs on a few test points."""
    rows = []
    for (flow, label), groups in rows_of.items():
        row = [Entry(contestant(records.short[flow], label)), *blank]
        notable = False
        for dataset in datasets:
            group = groups.get(dataset)
            if group is None:
                row.append(Entry(DASH, numeric=True))
                continue
            measures = ["nll_median_nats", "nll_largest_share"]
            summary = summarise(group, ["flow"], measures).iloc[0]
            entry = number(summary["nll_median_nats"], decimals=decimals[dataset])
            share = float(group["nll_largest_share"].max())
            if share > _NOTABLE_SHARE:
                notable = True
                entry = replace(entry, remark=f"largest: {share:.0%}".replace("%", " %"))
            row.append(entry)
        if notable:
            rows.append(row)
    if not rows:
        return []
    title = (
        "Median NLL over test points in nats, where the largest of them weigh on the mean (in "
        "brackets: what the largest 1 in 1,000 carry of all that the terms above it add to it)"
    )
    return [Section(title, rows)]


def _references(
    cells: pd.DataFrame,
    datasets: Sequence[str],
    measure: str,
    decimals: Mapping[str, int],
    blank: Sequence[Entry],
) -> list[Section]:
    """The entropy of the data and a full-covariance Gaussian, where known."""
    rows = []
    for label, source in (
        ("entropy of the data (the optimum)", "truth_entropy_nats"),
        ("full-covariance Gaussian", "gaussian_nll_nats"),
    ):
        row = [Entry(label), *blank]
        for dataset in datasets:
            group = cells[(cells["dataset"] == dataset) & (cells["status"] == "ok")]
            value = float(group[source].mean())
            if measure == "bits_per_dim":
                value /= float(group["dimension"].mean()) * math.log(2)
            row.append(number(value, decimals=decimals[dataset]))
        if any(entry.numeric and entry.text != DASH for entry in row):
            rows.append(row)
    return [Section("References, computed on the same data", rows)] if rows else []


# -- numbers in full ----------------------------------------------------------------------------


def _comparison_data(cells: pd.DataFrame, measure: str, best: set[_Group]) -> pd.DataFrame:
    plain_means = [
        f"{measure}_stderr",
        *(["kl_to_truth_test_nats", "kl_to_truth_test_nats_stderr"] if "kl" in measure else []),
        "nll_median_nats",
        "nll_largest_share",
        "outside_fraction",
        "truth_entropy_nats",
        "gaussian_nll_nats",
        "learning_rate",
        "tuning_steps",
        "tuning_nfe",
        "tuning_seconds",
    ]
    by = ["dataset", "flow", "setting", "setting_label"]
    data = summarise(cells, by, [measure, *plain_means])
    groups = [group for _, group in grouped(cells, by)]
    data["best"] = [_group_of(group) in best for group in groups]
    for flag in ("density_estimated", "kl_by_quadrature", "tuned", "learning_rate_at_edge"):
        data[flag] = [bool(group[flag].any()) for group in groups]
    # What is no result of training gets no interval over seeds, and an error over test points is
    # another kind of error.
    unused = [f"{name}_half_width" for name in plain_means]
    renamed = {
        name: f"{name}_over_test_points_mean" for name in plain_means if name.endswith("_stderr")
    }
    return data.drop(columns=[*unused, "setting_label"]).rename(columns=renamed)
