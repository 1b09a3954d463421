"""Two runs of the same cells side by side: what became worse, beyond the noise.

Cells are paired by everything that makes a result: contestant, data set, split, seed, budget,
device, threads, number type. The code may differ between the two, which is what the comparison is
for, so that records of other versions count here. Differences are those of seeds, pair by pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks import measures
from benchmarks.errors import StoreError
from benchmarks.measures.base import Column
from benchmarks.report.groups import contestant, grouped, plain, values_by_seed
from benchmarks.report.page import section_of, write_page
from benchmarks.report.records import Records, gather
from benchmarks.report.statistics import CONFIDENCE, Interval, t_interval
from benchmarks.report.table import DASH, Entry, Section, Table, number, write
from benchmarks.report.tables import failures
from benchmarks.store import Store
from benchmarks.studies.base import Study

__all__ = ["Comparison", "compare", "write_comparison"]

FALSE_DISCOVERIES = 1 - CONFIDENCE
"""Bound on the expected part of false ones among the changes that are called such."""
LEAST_NATS = 1e-3
LEAST_PERCENT = 1.0
"""Changes smaller than these are called none, however sure: rounding moves a deterministic run."""

_SCORES = ("nll_nats", "kl_to_truth_nats")
# Known beforehand, or a sum of what stands beside.
_NO_COST = ("parameters", "train_seconds")
_OWN = ("dataset", "flow", "device", "threads", "dtype")


@dataclass(frozen=True)
class Comparison:
    """What two runs differ in.

    Attributes:
        table: a row a contestant and measure, a section a data set.
        worse: a sentence for each that became worse.
        better: likewise.
        unsure: how many pairs of one seed there are, of which nothing can be said.
        records: those of the second run.
    """

    table: Table
    worse: tuple[str, ...]
    better: tuple[str, ...]
    unsure: int
    records: Records

    @property
    def finding(self) -> str:
        """One sentence."""
        judged = len(self.table.data) - self.unsure
        unsure = f"; {self.unsure} of one seed are not judged" if self.unsure else ""
        if not judged:
            return f"Nothing can be compared{unsure}."
        return (
            f"{len(self.worse)} became worse and {len(self.better)} better of {judged} compared "
            f"measures{unsure}."
        )


def compare(first: Store, second: Store) -> Comparison:
    """Pair the cells of two runs.

    Args:
        first: the run that is compared with.
        second: the run whose changes are wanted.

    Raises:
        StoreError: if a folder holds no records, or no cell is in both.
    """
    before, after = (_cells(store) for store in (first, second))
    names = [str(name) for name in before.cells if name in after.cells]
    budgets = [name for name in names if name.startswith("budget.")]
    by = [*_OWN, *budgets]
    sides = [dict(grouped(_by_text(records.cells, by), by)) for records in (before, after)]
    shared = [key for key in sides[0] if key in sides[1]]
    if not shared:
        raise StoreError(
            f"{first.directory} and {second.directory} have no cell in common: compare runs of the "
            "same study or matrix"
        )
    columns = [
        column
        for column in measures.columns()
        if column.name in _SCORES or (column.table == "cost" and column.name not in _NO_COST)
    ]
    rows, notes = [], []
    lost = []
    for key in shared:
        one, other = sides[0][key], sides[1][key]
        name = _name(key, by, shared)
        failed = (one["status"] == "ok").sum() - (other["status"] == "ok").sum()
        if failed > 0 and (other["status"] != "ok").any():
            bad = other[other["status"] != "ok"].iloc[0]
            lost.append(
                f"{name} on {key[0]}: {failed} more cells without a result ({bad['status']})"
            )
        if _hashes(one) != _hashes(other):
            notes.append(f"{name} on {key[0]} is not compared: the data differ between the runs.")
            continue
        other_machine = set(one["machine"].map(plain)) != set(other["machine"].map(plain))
        for column in columns:
            if column.sort == "time" and other_machine:
                continue
            row = _row(column, one, other)
            if row is not None:
                rows.append({"dataset": key[0], "contestant": name, **row})
        if other_machine:
            notes.append("Times are not compared where the machines differ.")
    data = pd.DataFrame(rows)
    if len(data):
        data["change"] = _verdicts(data)
    only = [len(a.keys() - b.keys()) for a, b in (sides, sides[::-1])]
    for count, store in zip(only, (first, second), strict=True):
        if count:
            notes.append(f"{count} contestants with their settings are in {store.directory} alone.")
    notes += _versions(before, after)
    return Comparison(
        table=_table(data, columns, list(dict.fromkeys(notes))),
        worse=(*lost, *_sentences(data, "worse")),
        better=_sentences(data, "better"),
        unsure=int(data["p"].isna().sum()) if len(data) else 0,
        records=after,
    )


def write_comparison(comparison: Comparison, out: Path) -> Path:
    """Write the table and a page, and give the page's path.

    Raises:
        StoreError: if ``out`` cannot be written.
    """
    study = Study(
        name="compare",
        title="Two runs side by side",
        answers="what became worse, and what better, beyond the noise of the seeds",
    )
    finding = " ".join([comparison.finding, *(f"Worse: {text}." for text in comparison.worse)])
    records = comparison.records
    (missing,) = failures(records)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for table in (comparison.table, missing):
            write(table, out / "tables")
        section = section_of(study, finding, tables=[comparison.table], figures=[])
        return write_page(records, (), None, [section], missing, records.notes, out)
    except OSError as error:
        raise StoreError(f"cannot write the comparison into {out}: {error}") from error


# -- pairs --------------------------------------------------------------------------------------


def _cells(store: Store) -> Records:
    records = gather([store], stale=True)
    if records.cells.empty:
        raise StoreError(f"no records to compare in {store.directory}")
    return records


def _by_text(cells: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Cells whose columns of names are text, so that 400 is 400 in both runs."""
    return cells.assign(**{name: cells[name].map(plain) for name in by})


def _hashes(cells: pd.DataFrame) -> set[tuple[str, ...]]:
    names = sorted(str(name) for name in cells if str(name).startswith("data_hash."))
    rows = cells[["split", *names]].map(plain).itertuples(index=False, name=None)
    return {row for row in rows if "none" not in row[1:]}


def _name(key: Sequence[str], by: Sequence[str], shared: Sequence[Any]) -> str:
    """The flow, and what else tells it apart among those of its data set."""
    same = [other for other in shared if other[:2] == tuple(key)[:2]]
    words = [
        f"{name.rpartition('.')[2].replace('_', ' ')} {value}"
        for place, (name, value) in enumerate(zip(by, key, strict=True))
        if place > 1 and len({other[place] for other in same}) > 1
    ]
    return contestant(str(key[1]), ", ".join(words))


def _row(column: Column, one: pd.DataFrame, other: pd.DataFrame) -> dict[str, Any] | None:
    """A measure's means and their paired difference; None where a run has it for no cell."""
    before, after = (values_by_seed(cells, column.name) for cells in (one, other))
    before, after = before.align(after, join="inner")
    if before.empty:
        return None
    score = column.sort == "quality"
    if score:
        changes = after - before
    else:
        positive = (before > 0) & (after > 0)
        changes = 100 * (after[positive] / before[positive]).map(math.log)
    interval = t_interval(changes.to_list())
    return {
        "measure": column.name,
        "before": float(before.mean()),
        "after": float(after.mean()),
        "difference": interval.mean if score else 100 * math.expm1(interval.mean / 100),
        "difference_half_width": interval.half_width,
        "in": "nats" if score else "%",
        "pairs": interval.n,
        "p": _p_value(interval, changes.to_list()),
    }


def _p_value(interval: Interval, changes: Sequence[float]) -> float:
    """Of no change, by the t test of the pairs; NaN for fewer than two."""
    if interval.n < 2:
        return math.nan
    if interval.half_width == 0:
        return 1.0 if interval.mean == 0 else 0.0
    return float(stats.ttest_1samp([c for c in changes if math.isfinite(c)], 0.0).pvalue)


def _verdicts(data: pd.DataFrame) -> list[str]:
    """Whether each row is ``worse``, ``better``, the ``same`` as far as can be told, or not judged.

    The rate of false discoveries is bounded (Benjamini and Hochberg 1995, Controlling the false
    discovery rate): of two equal runs with a hundred measures some interval always excludes zero.
    """
    judged = data["p"].notna()
    sure = pd.Series(False, index=data.index)
    if judged.any():
        sure[judged] = stats.false_discovery_control(data.loc[judged, "p"]) < FALSE_DISCOVERIES
    least = np.where(data["in"] == "%", LEAST_PERCENT, LEAST_NATS)
    large = data["difference"].abs() >= least
    found = np.where(sure & large, np.where(data["difference"] > 0, "worse", "better"), "same")
    return list(np.where(judged, found, "one seed"))


def _versions(before: Records, after: Records) -> list[str]:
    """What of code, libraries and machines differs between the runs."""
    notes = []
    names = sorted(
        name
        for name in {*before.cells} & {*after.cells}
        if name.startswith(("version.", "environment.")) and "memory" not in name
    )
    for name in names:
        sides = [
            sorted({plain(value) for value in records.cells[name]} - {"none"})
            for records in (before, after)
        ]
        if sides[0] and sides[1] and sides[0] != sides[1]:
            words = name.partition(".")[2].replace("_", " ")
            kind = "version of " if name.startswith("version.") else ""
            notes.append(f"{kind}{words}: {', '.join(sides[0])}; then {', '.join(sides[1])}.")
    return [f"{note[0].upper()}{note[1:]}" for note in notes]


# -- words --------------------------------------------------------------------------------------


def _sentences(data: pd.DataFrame, change: str) -> tuple[str, ...]:
    if data.empty:
        return ()
    return tuple(
        f"{row['contestant']} on {row['dataset']}: {row['measure']} by {row['difference']:+.3g} "
        f"{row['in']} (± {row['difference_half_width']:.2g}, {row['pairs']} pairs)"
        for _, row in data[data["change"] == change].iterrows()
    )


def _table(data: pd.DataFrame, columns: Sequence[Column], notes: Sequence[str]) -> Table:
    by_name = {column.name: column for column in columns}
    sections = []
    for (dataset,), group in grouped(data, ["dataset"]) if len(data) else []:
        rows = []
        for _, row in group.iterrows():
            column = by_name[row["measure"]]
            means = [
                number(row[side] * column.factor, decimals=column.digits)
                for side in ("before", "after")
            ]
            change = number(row["difference"], row["difference_half_width"])
            change = replace(change, text=f"{change.text} {row['in']}")
            verdict = row["change"]
            rows.append(
                [
                    Entry(row["contestant"]),
                    Entry(column.title),
                    *means,
                    change,
                    Entry(DASH if verdict == "same" else verdict, bold=verdict == "worse"),
                ]
            )
        sections.append(Section(dataset, rows))
    return Table(
        name="compare",
        title="The second run over the first",
        columns=["contestant", "measure", "first", "second", "difference", "change"],
        sections=sections,
        notes=[
            "Lower is better in every row. Differences are those of pairs of one seed, in nats of "
            "scores and by logarithms in per cent of costs, with the 95 % t interval over pairs.",
            f"Called worse or better: changes of at least {LEAST_NATS:g} nats or "
            f"{LEAST_PERCENT:g} % among which {FALSE_DISCOVERIES:.0%} false ones are expected at "
            "most (Benjamini and Hochberg). One seed gives no interval, and is not judged.",
            *notes,
        ],
        data=data,
    )
