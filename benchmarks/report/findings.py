"""Sentences that records say by themselves, with their uncertainty: what findings are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import measures
from benchmarks.report.groups import grouped, values_by_seed
from benchmarks.report.records import Records
from benchmarks.report.statistics import Interval, best_of, difference, t_interval
from benchmarks.report.table import number

__all__ = ["in_words", "lowest", "ratio_in_words", "times_the_reference"]


def in_words(interval: Interval, unit: str = "", digits: int = 3, over: str = "seeds") -> str:
    """A mean with its interval, or the word that there is none.

    Example:
        >>> in_words(Interval(0.12, 0.034, 3), "nats", digits=2)
        '0.12 ± 0.03 nats (3 seeds)'
        >>> in_words(Interval(12, float("nan"), 1), "%", digits=0)
        '12 % (one seed: no interval)'
    """
    mean = number(interval.mean, decimals=digits).text
    unit = f" {unit}" if unit else ""
    if not math.isfinite(interval.half_width):
        return f"{mean}{unit} ({_one(over)})"
    return f"{mean} ± {interval.half_width:,.{digits}f}{unit} ({interval.n} {over})"


def _one(over: str) -> str:
    return f"one {over.removesuffix('s')}: no interval"


def ratio_in_words(values: Iterable[float], over: str) -> str:
    """The geometric mean of ratios, with the t interval of their logarithms.

    Example:
        >>> ratio_in_words([2.0, 2.0, 2.0], "data sets")
        '2.00 (2.00 to 2.00, 3 data sets)'
    """
    logs = t_interval(list(np.log(list(values))))
    mean = f"{math.exp(logs.mean):.2f}"
    if not math.isfinite(logs.half_width):
        return f"{mean} ({_one(over)})"
    low, high = logs.mean - logs.half_width, logs.mean + logs.half_width
    return f"{mean} ({math.exp(low):.2f} to {math.exp(high):.2f}, {logs.n} {over})"


def lowest(records: Records, measure: str = "nll_nats") -> str | None:
    """Which contestant has the lowest mean of a measure on each data set, and by how much.

    Contestants are compared as the tables do: two seeds or more, none lost, under one rule.
    """
    cells = records.cells[records.cells["trained"]]
    cells = cells.assign(contestant=records.names(cells))
    column = measures.column(measure)
    won, tied, open_ = [], [], []
    for (dataset, _), within in grouped(cells, ["dataset", "rule"]):
        groups = {name: group for (name,), group in grouped(within, ["contestant"])}
        values = {name: values_by_seed(group, measure) for name, group in groups.items()}
        values = {name: found for name, found in values.items() if len(found)}
        if len(values) < 2:
            continue
        lost = {name for name, group in groups.items() if (group["status"] != "ok").any()}
        best = sorted(best_of(values, lost), key=lambda name: float(values[name].mean()))
        if not best:
            open_.append(dataset)
        elif len(best) > 1:
            tied.append(f"on {dataset} {', '.join(best[:-1])} and {best[-1]}")
        else:
            others = [name for name in values if name not in (*best, *lost)]
            second = min(others, key=lambda name: float(values[name].mean()))
            lead = difference(values[second], values[best[0]])
            by = in_words(lead, column.unit, column.digits if column.digits is not None else 3)
            won.append(f"{best[0]} on {dataset}, {by} below {second}")
    parts = []
    words = column.heading or measure
    if won:
        parts.append(f"Lowest {words}: {'; '.join(won)}")
    if tied:
        parts.append(f"not told apart as the lowest: {'; '.join(tied)}")
    if open_:
        parts.append(f"the seeds tell none from the lowest on {', '.join(open_)}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else None


def times_the_reference(records: Records, whose: Callable[[pd.Series[Any]], str]) -> str | None:
    """How many times the reference's time for a training step contestants take, over all cases.

    Args:
        records: of contestants with a reference.
        whose: the contestant that a cell counts for, from its row; empty for none.
    """
    measure = "train_step_ratio"
    cells = records.ok
    cells = cells[cells[measure].notna()]
    if cells.empty:
        return None
    cells = cells.assign(whose=[whose(row) for _, row in cells.iterrows()])
    cases: dict[str, list[float]] = {}
    for (name, *_), group in grouped(cells, ["whose", "dataset", "reference", "flow", "setting"]):
        if name:
            cases.setdefault(name, []).append(float(values_by_seed(group, measure).mean()))
    if not cases:
        return None
    found = [f"{name} {ratio_in_words(values, 'cases')}" for name, values in cases.items()]
    return (
        f"Times as long as the reference for a training step, geometric means: {', '.join(found)}."
    )
