"""How well the flows model the data, and what the literature reports of the same data."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from benchmarks import measures
from benchmarks.measures import Column
from benchmarks.report.groups import (
    contestant,
    describe_setting,
    grouped,
    label_order,
    plain,
    runs,
    summarise,
    values_by_seed,
)
from benchmarks.report.literature import Published, literature
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
from datasets.base import KINDS

__all__ = ["comparison"]

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
            row.append(_rate([groups[dataset] for dataset in datasets if dataset in groups]))
        for dataset in datasets:
            mine = groups.get(dataset)
            row.append(
                Entry(DASH, numeric=True)
                if mine is None
                else _quality(mine, measure, decimals[dataset], _group_of(mine) in best)
            )
        rows.append(row)

    head = ["flow", *(["learning rate"] if with_rate else [])]
    blank = [Entry("")] * (len(head) - 1)
    sections = [Section("", rows)]
    if measure in ("nll_nats", "bits_per_dim"):
        sections += _tails(records, datasets, rows_of, decimals, blank)
        sections += _references(cells, datasets, measure, decimals, blank)
        published, said = _published_rows(cells, datasets, measure, blank)
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
            *(_rate_notes(records, cells, rows_of) if with_rate else []),
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


def _quality(group: pd.DataFrame, measure: str, decimals: int, best: bool) -> Entry:
    """A mean over seeds, with its error over seeds and its error over test points."""
    values = values_by_seed(group, measure)
    if values.empty:
        statuses = list(dict.fromkeys(group.loc[group["status"] != "ok", "status"]))
        return Entry(", ".join(statuses) if statuses else DASH, numeric=True)
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
    )


# -- learning rates -----------------------------------------------------------------------------


def _rate(groups: Sequence[pd.DataFrame]) -> Entry:
    """The learning rates of a row: one where all its data sets agree, else one for each."""
    words = [_rates(group) for group in groups]
    text = words[0] if len(set(words)) == 1 else " / ".join(words)
    cells = pd.concat(groups)
    remark = ""
    if cells["tuned"].any():
        remark = "tuned, at the edge of the grid" if _at_edge(cells).any() else "tuned"
    return Entry(text, remark=remark)


def _rates(group: pd.DataFrame) -> str:
    rates = sorted(set(group["learning_rate"].dropna()))
    if not rates:
        return DASH
    return f"{rates[0]:g}" if len(rates) == 1 else f"{rates[0]:g} to {rates[-1]:g}"


def _at_edge(cells: pd.DataFrame) -> pd.Series[bool]:
    return cells["tuned"] & cells["learning_rate_at_edge"]


def _rate_notes(
    records: Records,
    cells: pd.DataFrame,
    rows_of: Mapping[tuple[str, str], Mapping[str, pd.DataFrame]],
) -> list[str]:
    notes = ["Learning rate: that of the tested weights"]
    if any(len({_rates(group) for group in groups.values()}) > 1 for groups in rows_of.values()):
        notes[0] += "; between strokes, one for each data set of the row, in the columns' order"
    if any(" to " in _rates(group) for groups in rows_of.values() for group in groups.values()):
        notes[0] += "; seeds may differ where each chose its own"
    notes[0] += "."
    tuned = cells[cells["tuned"]]
    if tuned.empty:
        return notes
    prices = []
    for (flow, label), group in grouped(tuned, ["flow", "setting_label"]):
        price = [
            f"{amount:,.0f} {unit}"
            for measure, unit in (
                ("tuning_steps", "steps"),
                ("tuning_nfe", "NFE"),
                ("tuning_seconds", "s"),
            )
            if math.isfinite(amount := float(group[measure].mean()))
        ]
        prices.append(f"{contestant(records.short[flow], label)} {', '.join(price)}")
    grids = _grids(tuned)
    notes.append(
        "Tuned: chosen by validation NLL, for each cell among the same grid"
        + (f" ({' or '.join(grids)})" if grids else "")
        + f"; price of the whole grid, mean over cells: {'; '.join(prices)}."
    )
    edge = tuned[_at_edge(tuned)]
    if len(edge):
        where = ", ".join(
            f"{records.short[flow]} on {dataset}"
            for (flow, dataset), _ in grouped(edge, ["flow", "dataset"])
        )
        notes.append(
            f"At the edge of the grid, beyond which a better rate may lie: {where}, "
            f"{len(edge)} of {len(tuned)} tuned cells."
        )
    return notes


def _grids(tuned: pd.DataFrame) -> list[str]:
    """The grids that rates were chosen from, where records hold them."""
    found = dict.fromkeys(map(plain, tuned["budget.learning_rates"]))
    # Written with hyphens between, one of which may also belong to a rate's exponent.
    return [", ".join(re.split(r"(?<!e)-", grid)) for grid in found if grid != "none"]


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


def _published_entry(found: Published) -> Entry:
    entry = number(found.value, math.nan if found.error is None else found.error, decimals=2)
    return replace(entry, over="" if found.error_over == "none" else found.error_over)


def _published_rows(
    cells: pd.DataFrame, datasets: Sequence[str], measure: str, blank: Sequence[Entry]
) -> tuple[list[Section], list[str]]:
    """Published numbers of the contestants at hand, and how ours differ from them."""
    name_of = dict(zip(cells["dataset"], cells["dataset_name"], strict=True))
    contestants = set(cells["flow_name"])
    found = [
        item
        for name in dict.fromkeys(name_of[dataset] for dataset in datasets)
        for item in literature().of(name, measure)
        if item.is_of(contestants) or item.model == "Gaussian"
    ]
    rows = []
    for model in dict.fromkeys((item.model, item.source) for item in literature().published):
        mine = {i.dataset: i for i in found if (i.model, i.source) == model}
        if not mine:
            continue
        row = [Entry(f"{model[0]} ({model[1].short})"), *blank]
        for dataset in datasets:
            item = mine.get(name_of[dataset])
            row.append(_published_entry(item) if item else Entry(DASH, numeric=True))
        rows.append(row)
    if not rows:
        return [], []
    notes = [
        "Published errors are another thing than ours, and say in brackets what they are over: "
        "test points (twice the standard error of one trained model) or runs. By which recipe each "
        "number came about, how it was read, and all others, stand in the table of published "
        "numbers."
    ]
    for dataset in datasets:
        if any(item.dataset == name_of[dataset] for item in found):
            notes.append(_difference(cells[cells["dataset"] == dataset], dataset))
    return [Section("Published (other budgets: see the notes)", rows)], notes


def _difference(cells: pd.DataFrame, dataset: str) -> str:
    """How our column of a data set differs from the published numbers of that name."""
    name = cells["dataset_name"].iloc[0]
    budget = []
    for column in ("budget.steps", "budget.seconds", "budget.nfe", "budget.batch_size"):
        if column in cells and cells[column].notna().any():
            values = sorted(set(cells[column].dropna()))
            budget.append(describe_setting(column, " or ".join(f"{value:g}" for value in values)))
    ours = f"Ours: {dataset}" + (f", {', '.join(budget)}" if budget else "") + "."
    published = "Published: the whole training set, and the budget of each paper."
    note = literature().dataset_notes.get(name, "")
    return f"{name}: {published} {ours} {note}".rstrip()


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
