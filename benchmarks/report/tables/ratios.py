"""How fast contestants are beside a reference, and beside the machine's matrix products."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks import measures
from benchmarks.report.groups import grouped, plain
from benchmarks.report.notes import (
    Remarks,
    form_notes,
    machine_notes,
    option_notes,
    shared_notes,
    training_words,
)
from benchmarks.report.records import Records
from benchmarks.report.table import Entry, Section, Table, number
from benchmarks.report.tables.columns import contestants_by_seed, first_entry

__all__ = ["ratios"]

# Each with quartiles over the interleaved pairs of one process.
_PAIRED = ("train_step_ratio", "log_prob_ratio", "sample_ratio")
_SINGLE = ("peak_memory_ratio", "train_step_over_matmul", "log_prob_over_matmul")


def ratios(records: Records) -> list[Table]:
    """Contestants over their references, a section a data set and reference."""
    cells = records.ok
    if "reference" not in cells or not cells["reference"].notna().any():
        return []
    cells = cells[cells["reference"].notna()]
    quartiles = [f"{name}_{quartile}" for name in _PAIRED for quartile in ("q25", "q75")]
    measured = [*_PAIRED, *_SINGLE, *quartiles, "matmul_flops_per_second"]
    by = ["dataset", "reference", "flow", "setting", "setting_label"]
    data = contestants_by_seed(cells, by, measured)
    remarks = Remarks(records)
    sections = [
        Section(
            f"{dataset}, over {reference}",
            [
                [
                    first_entry(remarks, row),
                    *(_paired(row, name) for name in _PAIRED),
                    *(number(row[name], row[f"{name}_half_width"], decimals=2) for name in _SINGLE),
                ]
                for _, row in group.iterrows()
            ],
        )
        for (dataset, reference), group in grouped(data, ["dataset", "reference"])
    ]
    notes = [
        f"Time and peak memory {training_words(cells)} over those of the reference: above 1, the "
        "reference is faster or smaller. The two ran in turn in one process, from the same weights "
        "where they have the same parameters, the reference untrained where not; median of the "
        "pairs' ratios"
        + (", their quartiles in brackets." if data["seeds"].max() == 1 else ", mean over seeds."),
        "Over matmul: the contestant's own time over that of its matrix products at the rate of "
        "one large product in the same process. Steps that a solver rejected count as time and "
        "not as work, where it reports its steps.",
        *form_notes(cells),
        *_compiled_too(cells),
        *machine_notes(cells),
        *shared_notes(cells),
        *option_notes(records, cells),
        *remarks.notes,
    ]
    unused = [f"{name}_half_width" for name in (*quartiles, "matmul_flops_per_second")]
    unused += ["setting_label", "condition"]
    table = Table(
        name="ratios",
        title="Time and memory over those of a reference",
        columns=["flow", *(measures.column(name).title for name in (*_PAIRED, *_SINGLE))],
        sections=sections,
        notes=notes,
        data=data.drop(columns=unused),
    )
    return [table]


def _paired(row: pd.Series[float], name: str) -> Entry:
    """A ratio with its interval over seeds, or the quartiles of its pairs if there is one seed."""
    entry = number(row[name], row[f"{name}_half_width"], decimals=2)
    low, high = row[f"{name}_q25"], row[f"{name}_q75"]
    if entry.plus_minus or not np.isfinite([low, high]).all():
        return entry
    return Entry(entry.text, remark=f"{low:.2f} to {high:.2f}", numeric=True)


def _compiled_too(cells: pd.DataFrame) -> list[str]:
    """What the reference of a row whose cell asks for compilation is."""
    asked = cells["budget.compile"].map(plain) if "budget.compile" in cells else pd.Series()
    if not asked.eq("True").any():
        return []
    return ["Compile True: the reference's training step is by torch.compile too."]
