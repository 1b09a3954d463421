"""Groups of cells: what names them, what repeats them, and means over that."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.report.statistics import t_interval

__all__ = [
    "contestant",
    "describe_setting",
    "grouped",
    "label_order",
    "plain",
    "replicate_of",
    "replicates",
    "runs",
    "summarise",
    "values_by_seed",
    "without_options",
]


def label_order(label: str) -> tuple[tuple[int, float, str], ...]:
    """Sorts labels by their words, and the numbers in them by value.

    Example:
        >>> sorted(["f[width=32]", "f[width=8]", "f"], key=label_order)
        ['f', 'f[width=8]', 'f[width=32]']
    """
    parts = re.findall(r"\d+(?:\.\d+)?|[^\d]+", label)
    return tuple(
        (0, float(part), "") if part[0].isdigit() else (1, 0.0, part.strip("[],")) for part in parts
    )


def plain(value: Any) -> str:
    """A setting's value as text: ``400`` whether pandas keeps it as an integer or a float."""
    if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA:
        return "none"
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def contestant(flow: str, setting_label: str) -> str:
    """How a row or a line is named: the flow, and what of its setting differs from others."""
    return f"{flow} · {setting_label}" if setting_label else flow


def without_options(label: str, names: Collection[str]) -> str:
    """A label without some of the options in its brackets.

    Example:
        >>> without_options("power[rows=20000,split=2]", ["split"])
        'power[rows=20000]'
        >>> without_options("power[split=2]", ["split"])
        'power'
    """
    name, bracket, options = label.partition("[")
    parts = options.removesuffix("]").split(",")
    kept = [part for part in parts if part.partition("=")[0] not in names]
    return f"{name}[{','.join(kept)}]" if bracket and any(kept) else name


def describe_setting(column: str, value: str) -> str:
    """One item of a setting in a few words.

    Example:
        >>> describe_setting("budget.steps", "400")
        'steps 400'
    """
    return f"{column.rpartition('.')[2].replace('_', ' ')} {value}"


def grouped(frame: pd.DataFrame, by: Sequence[str]) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The groups of a frame in the order of their first rows, missing values a value too."""
    return list(frame.groupby(list(by), sort=False, dropna=False))


def values_by_seed(cells: pd.DataFrame, measure: str) -> pd.Series[float]:
    """A measure by seed, or by split where there are several, over the cells that ended well.

    Two cells of one seed (the same run under two lists of measures) count as one. Seeds of one
    split are no repetitions of the split: where splits differ, what repeats is the mean over a
    split's seeds.

    Returns:
        Values by seed, the index; or by ``"split <number>"``.
    """
    values = cells[measure].to_numpy(dtype=float)
    counts = (cells["status"] == "ok").to_numpy() & ~np.isnan(values)
    seeds, splits = (cells[name].to_numpy()[counts] for name in ("seed", "split"))
    # Tables ask this thousands of times, of a few values each: pandas' groups take ten times as
    # long.
    by_run = _means(zip(splits, seeds, strict=True), values[counts])
    if len({split for split, _ in by_run}) < 2:
        by_seed = {seed: mean for (_, seed), mean in by_run.items()}
        return _series(by_seed, "seed", measure)
    by_split = _means((split for split, _ in by_run), by_run.values())
    named = {f"split {split}": mean for split, mean in by_split.items()}
    return _series(named, "split", measure)


def _means(names: Iterable[Any], values: Iterable[float]) -> dict[Any, float]:
    """The mean of the values of each name, by name in order."""
    found: dict[Any, list[float]] = {}
    for name, value in zip(names, values, strict=True):
        found.setdefault(name, []).append(float(value))
    return {name: sum(found[name]) / len(found[name]) for name in sorted(found)}


def _series(values: dict[Any, float], by: str, name: str) -> pd.Series[float]:
    index = pd.Index(list(values), name=by)
    return pd.Series(list(values.values()), index, dtype=float, name=name)


def runs(cells: pd.DataFrame) -> set[tuple[str, int]]:
    """The pairs of split and seed of some cells."""
    return set(zip(cells["split"], cells["seed"], strict=True))


def summarise(cells: pd.DataFrame, by: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
    """Means over seeds with their t intervals, a row a group, in the order of the cells.

    Args:
        cells: some of :attr:`Records.cells`.
        by: the columns that make a group.
        measures: what to average.

    Returns:
        The columns ``by``, ``seeds`` and ``splits`` (of the cells that ended well), ``failed`` (how
        many runs did not), and for each measure its mean under its own name and
        ``<measure>_half_width``, the half-width of the 95 % t interval over seeds (over the splits'
        means where there are several), NaN for a single one.
    """
    rows = []
    cells = cells[list(dict.fromkeys([*by, "status", "split", "seed", *measures]))]
    for names, group in grouped(cells, by):
        row: dict[str, Any] = dict(zip(by, names, strict=True))
        good = group[group["status"] == "ok"]
        row["seeds"] = good["seed"].nunique()
        row["splits"] = good["split"].nunique()
        row["failed"] = len(runs(group) - runs(good))
        for measure in measures:
            # One may be there in one split alone, and then repeats over seeds.
            interval = t_interval(values_by_seed(good, measure).to_list())
            row[measure] = interval.mean
            row[f"{measure}_half_width"] = interval.half_width
        rows.append(row)
    columns = [*by, "seeds", "splits", "failed"]
    for measure in measures:
        columns += [measure, f"{measure}_half_width"]
    return pd.DataFrame(rows, columns=columns)


def replicate_of(cells: pd.DataFrame) -> pd.Series[Any]:
    """What each cell of one contestant on one data set repeats: its seed, or its split.

    Seeds share a split: where there are several splits, the seeds of one count as one value.
    """
    return cells["split"] if cells["split"].nunique() > 1 else cells["seed"]


def replicates(cells: pd.DataFrame, by: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
    """One row a replicate of each group, in the order of the cells: ``by``, and ``measures``.

    Two cells of one replicate (the same run under two lists of measures) count as one, their mean.
    """
    columns = [*by, *measures]
    rows = []
    for names, group in grouped(cells, by):
        means = group.groupby(replicate_of(group))[list(measures)].mean()
        rows.append(means.assign(**dict(zip(by, names, strict=True))))
    if not rows:
        return pd.DataFrame(columns=columns)
    return pd.concat(rows, ignore_index=True)[columns]
