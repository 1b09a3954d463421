"""How fast contestants are beside a reference, and beside the machine's matrix products."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.report.records import Records, grouped, summarise
from benchmarks.report.table import Entry, Section, Table, number

__all__ = ["ratio_table"]

# Each with quartiles over the interleaved pairs of one process.
_PAIRED = {
    "train_step_ratio": "train step",
    "log_prob_ratio": "log_prob",
    "sample_ratio": "sample",
}
_SINGLE = {
    "peak_memory_ratio": "peak memory",
    "train_step_over_matmul": "train step over matmul",
    "log_prob_over_matmul": "log_prob over matmul",
}


def ratio_table(records: Records) -> Table | None:
    """Contestants over their references, a section a data set and reference."""
    cells = records.ok
    if "reference" not in cells or not cells["reference"].notna().any():
        return None
    cells = cells[cells["reference"].notna()].copy()
    quartiles = [f"{name}_{quartile}" for name in _PAIRED for quartile in ("q25", "q75")]
    measures = [*_PAIRED, *_SINGLE, *quartiles]
    for name in measures:
        values = cells[name] if name in cells else pd.Series(np.nan, index=cells.index)
        cells[name] = pd.to_numeric(values, errors="coerce").astype(float)
    by = ["dataset", "reference", "flow", "setting", "setting_label"]
    data = summarise(cells, by, measures)
    sections = [
        Section(
            f"{dataset}, over {reference}",
            [
                [
                    Entry(_name(records, row)),
                    *(_paired(row, name) for name in _PAIRED),
                    *(number(row[name], row[f"{name}_half_width"], decimals=2) for name in _SINGLE),
                ]
                for _, row in group.iterrows()
            ],
        )
        for (dataset, reference), group in grouped(data, ["dataset", "reference"])
    ]
    notes = [
        "Time and peak memory of a contestant over those of the reference: above 1, the reference "
        "is faster or smaller. The two ran in turn in one process, from the same weights where "
        "they have the same parameters; median of the pairs' ratios"
        + (", their quartiles in brackets." if data["seeds"].max() == 1 else ", mean over seeds."),
        "Over matmul: the contestant's own time over that of its matrix products at the rate of "
        "one large product in the same process. Steps that a solver rejected count as time and "
        "not as work, where it reports its steps.",
    ]
    shared = int(cells["cost_shared"].sum())
    if shared:
        notes.append(
            f"Others used the machine while {shared} of {len(cells)} cells were measured, which "
            "slows both of a pair, but not always equally."
        )
    return Table(
        name="ratios",
        title="Time and memory over those of a reference",
        columns=["flow", *_PAIRED.values(), *_SINGLE.values()],
        sections=sections,
        notes=notes,
        data=data.drop(columns=["setting_label", *(f"{name}_half_width" for name in quartiles)]),
    )


def _name(records: Records, row: pd.Series[float]) -> str:
    flow, setting = records.short[str(row["flow"])], str(row["setting_label"])
    return f"{flow} · {setting}" if setting else flow


def _paired(row: pd.Series[float], name: str) -> Entry:
    """A ratio with its interval over seeds, or the quartiles of its pairs if there is one seed."""
    entry = number(row[name], row[f"{name}_half_width"], decimals=2)
    low, high = row[f"{name}_q25"], row[f"{name}_q75"]
    if entry.plus_minus or not np.isfinite([low, high]).all():
        return entry
    return Entry(entry.text, remark=f"{low:.2f} to {high:.2f}", numeric=True)
