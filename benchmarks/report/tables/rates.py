"""Which learning rates contestants ran at, and what choosing them cost."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import pandas as pd

from benchmarks.report.groups import contestant, grouped, plain
from benchmarks.report.records import Records
from benchmarks.report.table import DASH, Entry

__all__ = ["rate_entry", "rate_notes"]


def rate_entry(groups: Sequence[pd.DataFrame]) -> Entry:
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


def rate_notes(
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
