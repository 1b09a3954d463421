"""Contestants by measures: what the tables of cost, of sweeps and of studies share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd

from benchmarks import measures
from benchmarks.measures import Column
from benchmarks.report.groups import describe_setting, grouped, plain, summarise
from benchmarks.report.notes import (
    ESTIMATED,
    INTERVAL,
    Remarks,
    conditions,
    form_notes,
    machine_notes,
    option_notes,
    replication_notes,
    shared_notes,
    training_words,
)
from benchmarks.report.records import Records
from benchmarks.report.table import Entry, Section, Table, number

__all__ = [
    "contestants_by_seed",
    "entries",
    "first_entry",
    "how_measured",
    "how_spread",
    "kept",
    "measure_table",
]

IN_COMPANY = "§"


def measure_table(
    records: Records,
    cells: pd.DataFrame,
    columns: Sequence[str | Column],
    *,
    name: str,
    title: str,
    by: Sequence[str] = ("dataset",),
    heading: Callable[..., str] | None = None,
    beside: Sequence[str] = (),
    needs: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> list[Table]:
    """A table of contestants by measures, means over seeds, in sections.

    Args:
        records: name the contestants.
        cells: some of their cells.
        columns: measures, by name or as columns; those that no cell has are left out.
        name: of the table's files.
        title: its caption, without a final stop.
        by: columns of ``cells``; each combination of their values is a section.
        heading: the title of a section from these values; by default, each in a few words.
        beside: measures that stand in the CSV alone, as means.
        needs: measures of which a contestant must have one to have a row; by default any may lack.
        notes: what is to be said before how the measures were taken.

    Returns:
        The table; nothing where no cell has any of the measures.
    """
    shown = [measures.column(each) if isinstance(each, str) else each for each in columns]
    groups = [*by, "flow", "setting", "setting_label"]
    data = contestants_by_seed(cells, groups, [*(column.name for column in shown), *beside])
    shown = kept(data, shown)
    if needs:
        data = data[data[list(needs)].notna().any(axis=1)]
    if data.empty or not shown:
        return []
    heading = heading or (lambda *values: ", ".join(map(_in_words, by, values)))
    remarks = Remarks(records)
    sections = [
        Section(
            heading(*values),
            [[first_entry(remarks, row), *entries(row, shown)] for _, row in group.iterrows()],
        )
        for values, group in grouped(data, by)
    ]
    dropped = [f"{measure}_half_width" for measure in beside]
    return [
        Table(
            name=name,
            title=title,
            columns=["flow", *(column.title for column in shown)],
            sections=sections,
            notes=[
                *notes,
                *how_measured(cells, shown),
                *how_spread(cells, shown),
                *option_notes(records, cells),
                *remarks.notes,
            ],
            data=data.drop(columns=[*dropped, "setting_label", "condition"]),
        )
    ]


def _in_words(column: str, value: object) -> str:
    return str(value) if column == "dataset" else describe_setting(column, plain(value))


# -- rows ---------------------------------------------------------------------------------------


def contestants_by_seed(
    cells: pd.DataFrame, by: Sequence[str], measured: Sequence[str]
) -> pd.DataFrame:
    """As :func:`summarise`, with what a row says of its cells beside the numbers.

    Adds ``form``, ``trained``, ``estimated``, ``training_shared``, and ``condition``
    (:func:`benchmarks.report.notes.conditions`).
    """
    data = summarise(cells, by, measured)
    groups = [group[group["status"] == "ok"] for _, group in grouped(cells, by)]
    # A form is the flow's and the setting's, so that a group has one.
    data["form"] = ["".join(group["form"].unique()) for group in groups]
    data["trained"] = [bool(group["trained"].all()) for group in groups]
    data["condition"] = conditions(data)
    data["estimated"] = [bool(_estimated(group).any()) for group in groups]
    data["training_shared"] = [bool(group["training_shared"].any()) for group in groups]
    return data


def _estimated(cells: pd.DataFrame) -> pd.Series[bool]:
    """Whether ``log_prob`` is an estimate unless asked for exactly: of cells."""
    found = cells["density_estimated"] | cells["log_prob_exact_seconds"].notna()
    found |= cells["nfe_log_prob_exact"].notna() | cells["log_prob_std"].notna()
    if "flow.trace" in cells:
        found |= cells["flow.trace"] == "hutchinson"
    return found


def kept(data: pd.DataFrame, columns: Sequence[Column]) -> list[Column]:
    """The columns that some row has a value for."""
    return [column for column in columns if data[column.name].notna().any()]


def first_entry(remarks: Remarks, row: pd.Series[float]) -> Entry:
    """A row's contestant, with its condition."""
    flow, label = str(row["flow"]), str(row["setting_label"])
    return remarks.entry(flow, label, remark=str(row["condition"]))


def entries(row: pd.Series[float], columns: Sequence[Column]) -> list[Entry]:
    """A row's numbers, as its columns want them."""
    found = []
    for column in columns:
        value = float(row[column.name])
        half_width = row[f"{column.name}_half_width"] if column.interval else math.nan
        whole = column.sort == "count" and value.is_integer()
        entry = number(
            value * column.factor,
            half_width * column.factor,
            decimals=0 if whole else column.digits,
        )
        if math.isfinite(value):
            entry = replace(entry, mark=_mark(row, column.name))
        found.append(entry)
    return found


def _mark(row: pd.Series[float], measure: str) -> str:
    if measure in ("log_prob_seconds", "nfe_log_prob") and row["estimated"]:
        return ESTIMATED
    return IN_COMPANY if measure == "train_seconds" and row["training_shared"] else ""


# -- notes --------------------------------------------------------------------------------------


def how_measured(cells: pd.DataFrame, columns: Sequence[Column]) -> list[str]:
    """How times and counts of a table were taken, where, and which are missing."""
    ok = cells[cells["status"] == "ok"]
    shown = {column.name for column in columns}
    timed = any(column.sort == "time" for column in columns)
    notes = []
    if timed:
        notes.append(
            "Times: medians of repeated calls with the device to themselves, then the mean over "
            f"seeds; {_batches(ok)}; {training_words(ok)}."
        )
        notes += form_notes(ok)
    if "compile_seconds" in shown:
        notes.append("Compilation: what first calls took longer than later ones, together.")
    notes.append(INTERVAL)
    if any(name.startswith("nfe_") for name in shown):
        notes.append(
            "NFE: network evaluations, of the dynamics for a continuous flow, of the conditioners "
            f"for a discrete one; {training_words(ok)}."
        )
    if "peak_memory_bytes" in shown:
        notes.append("Peak memory: of the tensors alive in a training step.")
    if shown & {"log_prob_seconds", "nfe_log_prob"} and _estimated(ok).any():
        exact = shown & {"log_prob_exact_seconds", "nfe_log_prob_exact"}
        notes.append(
            f"{ESTIMATED}: of the density's estimate, from one probe unless the flow's options say "
            "otherwise. The tested NLL is exact up to 64 dimensions and costs "
            + ("what stands under exact." if exact else "more: these records do not say how much.")
        )
    if "train_seconds" in shown:
        note = "Training: seconds of all steps, evaluation apart."
        if ok["training_shared"].any():
            note += (
                f" {IN_COMPANY}: in {int(ok['training_shared'].sum())} of {len(ok)} cells others "
                "used the machine meanwhile: as a time of its own it says little."
            )
        notes.append(note)
    # Not of the project's own families: what nothing above explains says what it is.
    notes += [
        f"{column.heading or column.name}: {column.meaning}."
        for column in columns
        if _from_outside(column)
    ]
    notes += shared_notes(ok)
    if timed:
        notes += machine_notes(ok)
    return notes


def _from_outside(column: Column) -> bool:
    return any(column in found.columns and found.origin for found in measures.FAMILIES.values())


def _batches(cells: pd.DataFrame) -> str:
    sizes = sorted(set(cells["budget.batch_size"].dropna())) if "budget.batch_size" in cells else []
    if not sizes:
        return "a call is one batch"
    return f"a call is one batch of {' or '.join(f'{size:g}' for size in sizes)}"


def how_spread(cells: pd.DataFrame, columns: Sequence[Column]) -> list[str]:
    """What deviations of estimators and distances to the truth are over."""
    shown = {column.name for column in columns}
    notes = []
    if shown & {"trace_std", "log_prob_std"}:
        notes.append(
            "Trace std and log p std: over draws of the estimator's noise at fixed test points, "
            "the root of the mean variance; the first at the start of the flow, per unit of its "
            "time."
        )
    ok = cells[cells["status"] == "ok"]
    if "kl_to_truth_nats" in shown:
        known = ok[ok["kl_to_truth_nats"].notna()]
        way = (
            "by quadrature in two dimensions, elsewhere the mean over the test split"
            if known["kl_by_quadrature"].any()
            else "the mean of log truth - log model over the test split"
        )
        notes.append(f"KL to the truth: {way}; of trained flows alone.")
        ok = known
    if any(column.sort == "quality" for column in columns):
        notes += replication_notes(ok)
    return notes
