"""From stores to what the tables and figures are made of: cells, settings, means over seeds.

A *setting* is everything about a cell but its flow, its data set and its seed: the budget, the
device, the threads, the number type, the machine and torch's version. Cells of different settings
are never averaged together; where the settings of one data set differ, its rows say in what.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.report.statistics import t_interval
from benchmarks.report.style import flow_order
from benchmarks.store import Store

__all__ = [
    "MEASURES",
    "TIMES",
    "Records",
    "describe_setting",
    "gather",
    "grouped",
    "label_order",
    "plain",
    "series_of",
    "summarise",
    "values_by_seed",
]

TIMES = (
    "train_step_seconds",
    "train_step_seconds_q25",
    "train_step_seconds_q75",
    "log_prob_seconds",
    "log_prob_seconds_q25",
    "log_prob_seconds_q75",
    "sample_seconds",
    "sample_seconds_q25",
    "sample_seconds_q75",
    "first_step_seconds",
)
"""Measures that mean nothing when another process used the device at the same time."""

MEASURES = (
    "nll_nats",
    "nll_nats_stderr",
    "validation_nll_nats",
    "bits_per_dim",
    "bits_per_dim_stderr",
    "kl_to_truth_nats",
    "kl_to_truth_nats_stderr",
    "truth_entropy_nats",
    "gaussian_nll_nats",
    "parameters",
    "steps",
    "best_step",
    "skipped_steps",
    "train_seconds",
    "nfe_train_forward",
    "nfe_train_backward",
    "nfe_log_prob",
    "nfe_sample",
    "trace_std",
    "log_prob_std",
    *TIMES,
    "peak_memory_bytes",
    "process_peak_bytes",
    "peak_memory_reserved_bytes",
    "round_trip_error",
)
"""Every measure that the report reads; one that no record has counts as missing everywhere."""

_TEXT = ("key", "status", "reason", "flow", "flow_name", "dataset", "dataset_name", "dataset_kind")
_KINDS = ("toy", "tabular", "image", "gaussian")
_MACHINE = ("device", "threads", "dtype", "environment.torch", "environment.cpu", "environment.gpu")
# Part of the setting too: results on data that have drifted are not compared.
_DATA = "data"


@dataclass(frozen=True)
class Records:
    """All cells of all stores, ready to be grouped.

    Attributes:
        cells: a row a cell, ordered by kind, data set, flow and seed, with every column of
            :data:`MEASURES`, and ``setting`` (the whole of it) and ``setting_label`` (what of it
            differs among the cells of one data set; empty where nothing does).
        setting_columns: the columns that make the setting.
        differing: those of them that differ within some data set.
        short: each flow's label without the options that all cells of that system share.
        store_of: the store of each key.
        notes: what a reader must know of how the records were taken in.
    """

    cells: pd.DataFrame
    setting_columns: tuple[str, ...]
    differing: tuple[str, ...]
    short: dict[str, str]
    store_of: dict[str, Store]
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> pd.DataFrame:
        """The cells that ended well."""
        return self.cells[self.cells["status"] == "ok"]


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


def gather(stores: Sequence[Store]) -> Records:
    """Take the records of several stores together.

    A key that lies in several stores counts once, a cell that ended well before one that did not.
    """
    frames: list[pd.DataFrame] = []
    notes: list[str] = []
    for number, store in enumerate(stores):
        _, foreign = store.records()
        for item in foreign:
            place = item.path.relative_to(store.directory).as_posix()
            notes.append(f"{place} was left out: {item.why}")
        frame = store.frame()
        if frame.empty:
            notes.append(f"the folder {store.directory.name} holds no records")
            continue
        frames.append(frame.assign(_store=number))
    if not frames:
        empty = pd.DataFrame(columns=[*_TEXT, "seed", "setting", "setting_label", *MEASURES])
        return Records(empty, (), (), {}, {}, notes)
    cells = pd.concat(frames, ignore_index=True)
    whole = len(cells)
    cells = cells.sort_values("status", key=lambda status: status != "ok", kind="stable")
    cells = cells.drop_duplicates("key")
    store_of = {
        key: stores[number] for key, number in zip(cells["key"], cells["_store"], strict=True)
    }
    if whole > len(cells):
        notes.append(f"{_count(whole - len(cells), 'record')} of a cell already there left out")
    return _prepare(cells.drop(columns="_store"), store_of, notes)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _prepare(cells: pd.DataFrame, store_of: dict[str, Store], notes: list[str]) -> Records:
    extra = ("seed", "dimension", "bottleneck", "noise", "cost_shared", *_MACHINE)
    missing = [name for name in (*_TEXT, *extra, *MEASURES) if name not in cells.columns]
    cells = cells.assign(**dict.fromkeys(missing, np.nan)) if missing else cells.copy()
    for name in (*MEASURES, "dimension", "bottleneck"):
        cells[name] = pd.to_numeric(cells[name], errors="coerce").astype(float)
    for name in _TEXT:
        cells[name] = cells[name].map(lambda value: "" if plain(value) == "none" else str(value))
    cells["noise"] = cells["noise"].map(plain)
    shared = cells["cost_shared"].map(lambda value: value is True or value is np.True_)
    cells["cost_shared"] = shared.astype(bool)
    timed = cells["cost_shared"] & cells[list(TIMES)].notna().any(axis=1)
    if timed.any():
        notes.append(
            f"the times of {_count(int(timed.sum()), 'cell')} were taken while others used the "
            "device, and are in no time table or figure"
        )
    cells.loc[cells["cost_shared"], list(TIMES)] = np.nan

    cells[_DATA] = _data_versions(cells)
    budgets = sorted(name for name in cells.columns if name.startswith("budget."))
    # The commit is none of it: a run that is resumed after a commit goes on with its seeds.
    columns = tuple(name for name in (*budgets, *_MACHINE) if cells[name].notna().any())
    # Data differ between data sets anyhow; what counts is that they differ within one.
    if (cells.groupby("dataset")[_DATA].nunique() > 1).any():
        columns += (_DATA,)
        notes.append("some data have changed between runs: their results are kept apart")
    words = pd.DataFrame({name: cells[name].map(plain) for name in columns}, index=cells.index)
    per_dataset = words.groupby(cells["dataset"]).nunique()
    differing = tuple(name for name in columns if (per_dataset[name] > 1).any())
    cells["setting"] = _join(words, columns)
    cells["setting_label"] = _join(words, differing)
    for (flow, dataset, _), group in cells.groupby(["flow", "dataset", "setting"], sort=True):
        if "environment.git_commit" in group and group["environment.git_commit"].nunique() > 1:
            notes.append(f"the seeds of {flow} on {dataset} come from several commits")

    short = _short_labels(cells)
    order = [
        (
            _KINDS.index(kind) if kind in _KINDS else len(_KINDS),
            label_order(dataset),
            flow_order(name),
            label_order(short[flow]),
            setting,
            seed,
            key,
        )
        for kind, dataset, name, flow, setting, seed, key in zip(
            cells["dataset_kind"],
            cells["dataset"],
            cells["flow_name"],
            cells["flow"],
            cells["setting"],
            cells["seed"],
            cells["key"],
            strict=True,
        )
    ]
    ranked = sorted(range(len(cells)), key=lambda row: order[row])
    return Records(
        cells=cells.iloc[ranked].reset_index(drop=True),
        setting_columns=columns,
        differing=differing,
        short=short,
        store_of=store_of,
        notes=notes,
    )


def _data_versions(cells: pd.DataFrame) -> pd.Series[Any]:
    """Eight digits that stand for the splits' hashes.

    A cell that failed before it had data stands with the others of its data set.
    """
    hashes = sorted(name for name in cells.columns if name.startswith("data_hash."))
    if not hashes:
        return pd.Series(np.nan, index=cells.index, dtype=object)
    found: pd.Series[Any] = pd.Series(
        [
            hashlib.sha256("".join(values).encode()).hexdigest()[:8]
            if all(isinstance(value, str) for value in values)
            else np.nan
            for values in cells[hashes].itertuples(index=False)
        ],
        index=cells.index,
        dtype=object,
    )
    return found.fillna(found.groupby(cells["dataset"]).transform("first"))


def _short_labels(cells: pd.DataFrame) -> dict[str, str]:
    """Each flow's label without the options that every cell of that system has."""
    short = {}
    for name, labels in cells.groupby("flow_name")["flow"]:
        options = {
            label: label.removeprefix(str(name)).removeprefix("[").removesuffix("]").split(",")
            for label in sorted(set(labels))
        }
        shared = set.intersection(*(set(found) for found in options.values()))
        for label, found in options.items():
            own = [option for option in found if option not in shared]
            short[label] = f"{name}[{','.join(own)}]" if any(own) else str(name)
    return short


def _join(words: pd.DataFrame, columns: Sequence[str]) -> pd.Series[str]:
    joined = [
        ", ".join(
            describe_setting(name, value)
            for name, value in zip(columns, row, strict=True)
            # The device says it already.
            if (name, value) != ("environment.gpu", "none")
        )
        for row in words[list(columns)].itertuples(index=False)
    ]
    return pd.Series(joined, index=words.index, dtype=object)


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


def series_of(cells: pd.DataFrame, apart: Sequence[str]) -> list[str]:
    """A text for each cell that cells share which differ in the seed and some options alone.

    Args:
        cells: some of :attr:`Records.cells`.
        apart: columns of the flow's options that may differ.
    """
    options = [n for n in cells.columns if n.startswith("flow.") and n not in apart]
    names = ["flow_name", "dataset", "setting", *options]
    return ["|".join(map(str, row)) for row in cells[names].astype(object).itertuples(index=False)]


def values_by_seed(cells: pd.DataFrame, measure: str) -> pd.Series[float]:
    """A measure by seed, over the cells that ended well.

    Two cells of one seed (the same run under two lists of measures) count as one.
    """
    good = cells[(cells["status"] == "ok") & cells[measure].notna()]
    found: pd.Series[float] = good.groupby("seed")[measure].mean()
    return found


def summarise(cells: pd.DataFrame, by: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
    """Means over seeds with their t intervals, a row a group, in the order of the cells.

    Args:
        cells: some of :attr:`Records.cells`.
        by: the columns that make a group.
        measures: what to average.

    Returns:
        The columns ``by``, ``seeds`` (those that ended well), ``failed`` (those that did not),
        and for each measure its mean under its own name and ``<measure>_half_width``, the
        half-width of the 95 % t interval over seeds, NaN for a single seed.
    """
    rows = []
    for names, group in grouped(cells, by):
        row: dict[str, Any] = dict(zip(by, names, strict=True))
        good = group[group["status"] == "ok"]
        row["seeds"] = good["seed"].nunique()
        row["failed"] = len(set(group["seed"]) - set(good["seed"]))
        for measure in measures:
            interval = t_interval(values_by_seed(group, measure).to_list())
            row[measure] = interval.mean
            row[f"{measure}_half_width"] = interval.half_width
        rows.append(row)
    columns = [*by, "seeds", "failed"]
    for measure in measures:
        columns += [measure, f"{measure}_half_width"]
    return pd.DataFrame(rows, columns=columns)
