"""Published numbers beside ours, with the gap between them."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd

from benchmarks.report.groups import grouped, summarise
from benchmarks.report.literature import literature
from benchmarks.report.notes import Remarks, replication_notes
from benchmarks.report.records import Records
from benchmarks.report.table import Entry, Section, Table, number
from benchmarks.report.tables.comparison import quality_entry
from benchmarks.report.tables.published import how_ours_differs, published_entry

__all__ = ["gaps"]

_UNITS = {"nll_nats": "nats", "bits_per_dim": "bits/dim"}


def gaps(records: Records) -> list[Table]:
    """Each contestant beside what was published of its system on the same data set."""
    sections: dict[str, list[list[Entry]]] = {}
    notes: dict[str, None] = {}
    data = []
    remarks = Remarks(records)
    trained = records.cells[records.cells["trained"]]
    groups = grouped(trained, ["dataset", "dataset_name", "flow", "flow_name", "setting"])
    for (dataset, name, flow, flow_name, _), group in groups:
        for measure, unit in _UNITS.items():
            row = summarise(group, ["flow"], [measure]).iloc[0]
            ours, half_width = float(row[measure]), float(row[f"{measure}_half_width"])
            if not math.isfinite(ours):
                continue
            if f"{measure}_stderr" not in group:
                group = group.assign(**{f"{measure}_stderr": math.nan})
            for item in literature().of(name, measure):
                if not item.is_of({flow_name}):
                    continue
                gap = ours - item.value
                label = str(group["setting_label"].iloc[0])
                sections.setdefault(f"{dataset}, {unit}", []).append(
                    [
                        remarks.entry(flow, label),
                        quality_entry(group, measure, 3, best=False),
                        Entry(item.model),
                        published_entry(item),
                        replace(
                            number(gap, half_width, decimals=3),
                            over="our seeds" if math.isfinite(half_width) else "",
                        ),
                        Entry(item.recipe),
                    ]
                )
                notes[how_ours_differs(trained[trained["dataset"] == dataset], dataset)] = None
                data.append(
                    {
                        "dataset": dataset,
                        "flow": flow,
                        "setting": label,
                        "measure": measure,
                        "ours": ours,
                        "ours_half_width_over_seeds": half_width,
                        "seeds": row["seeds"],
                        "model": item.model,
                        "published": item.value,
                        "published_error": item.error,
                        "published_error_over": item.error_over,
                        "gap": gap,
                        "recipe": item.recipe,
                        "source": item.source.short,
                    }
                )
    if not data:
        return []
    return [
        Table(
            name="gaps",
            title="Ours beside published numbers of the same systems (lower is better)",
            columns=["flow", "ours", "published as", "published", "gap", "recipe"],
            sections=[Section(title, rows) for title, rows in sections.items()],
            notes=[
                "Gap: ours less the published number, above zero where ours is worse.",
                "± (seeds): half-width of a 95 % Student t interval over our seeds, the gap's too; "
                "± (points): 1.96 standard errors over the test points of one trained flow. "
                "Published errors say in brackets what they are over, and enter no gap.",
                *replication_notes(trained),
                *notes,
                *remarks.notes,
            ],
            data=pd.DataFrame(data),
        )
    ]
