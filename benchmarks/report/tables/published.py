"""What the literature reports on the data sets at hand."""

from __future__ import annotations

import math

import pandas as pd

from benchmarks.report.literature import literature
from benchmarks.report.records import Records
from benchmarks.report.table import Entry, Section, Table, number

__all__ = ["published"]


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
