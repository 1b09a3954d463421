"""What the literature reports on the data sets at hand, by itself and beside our numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from benchmarks.report.groups import describe_setting
from benchmarks.report.literature import Published, literature
from benchmarks.report.records import Records
from benchmarks.report.table import DASH, Entry, Section, Table, number

__all__ = ["how_ours_differs", "published", "published_entry", "published_rows"]


def published(records: Records) -> list[Table]:
    """Every published number on the data sets at hand, with recipe, source and kind of error."""
    rows, data = [], []
    here = dict.fromkeys(records.cells["dataset_name"])
    for name in here:
        for measure, unit in (("nll_nats", "nats"), ("bits_per_dim", "bits/dim")):
            for item in literature().of(name, measure):
                error = number(item.value, item.error or math.nan, decimals=2)
                address = item.source.address.removeprefix("https://")
                rows.append(
                    [
                        Entry(name),
                        Entry(item.model),
                        error,
                        Entry(unit),
                        Entry(item.error_over),
                        Entry(item.recipe),
                        Entry(f"{item.source.short}, {address}"),
                        Entry(item.read),
                    ]
                )
                data.append(
                    {
                        "dataset": name,
                        "model": item.model,
                        "measure": measure,
                        "value": item.value,
                        "error": item.error,
                        "error_over": item.error_over,
                        "recipe": item.recipe,
                        "source": item.source.text,
                        "address": item.source.address,
                        "read": item.read,
                    }
                )
    if not rows:
        return []
    table = Table(
        name="published",
        title="Published numbers on these data sets (lower is better)",
        columns=["data set", "model", "value", "unit", "error over", "recipe", "source", "read in"],
        sections=[Section("", rows)],
        notes=[
            "Log-likelihoods are printed as NLL, their negative. An error over test points is "
            "twice the standard error over the test set of one trained model, one over runs the "
            "spread of repeated training: the two do not compare.",
        ],
        data=pd.DataFrame(data),
    )
    return [table]


def published_entry(found: Published) -> Entry:
    entry = number(found.value, math.nan if found.error is None else found.error, decimals=2)
    return replace(entry, over="" if found.error_over == "none" else found.error_over)


def published_rows(
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
            row.append(published_entry(item) if item else Entry(DASH, numeric=True))
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
            notes.append(how_ours_differs(cells[cells["dataset"] == dataset], dataset))
    return [Section("Published (other budgets: see the notes)", rows)], notes


def how_ours_differs(cells: pd.DataFrame, dataset: str) -> str:
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
