"""From stores to what the tables and figures are made of: cells, settings, means over seeds.

A *setting* is everything about a cell but its flow, its data set, its split and its seed: the
budget, the device, the threads, the number type, the machine and torch's version. Cells of
different settings are never averaged together; where the settings of one data set differ, its rows
say in what. The learning rate is the contestant's own affair, and part of the setting only where
one contestant ran at several; contestants are compared where the rest of the setting, the *rule*,
agrees.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.report.statistics import t_interval
from benchmarks.report.style import flow_order
from benchmarks.store import LeftOut, Store, frame_of

__all__ = [
    "FLAGS",
    "MEASURES",
    "PAIRED_RATIOS",
    "QUALITY",
    "RATIOS",
    "TIMES",
    "Records",
    "describe_setting",
    "gather",
    "grouped",
    "label_order",
    "plain",
    "runs",
    "series_of",
    "summarise",
    "values_by_seed",
]

_EXACT_TIME = tuple(f"log_prob_exact_seconds{quartile}" for quartile in ("", "_q25", "_q75"))

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
    *_EXACT_TIME,
    "matmul_flops_per_second",
)
"""Measures that mean nothing when another process used the device at the same time."""

PAIRED_RATIOS = ("train_step_ratio", "log_prob_ratio", "sample_ratio")
"""Ratios of times to a reference, each with quartiles over the pairs."""

RATIOS = (
    *(f"{name}{quartile}" for name in PAIRED_RATIOS for quartile in ("", "_q25", "_q75")),
    "train_step_over_matmul",
    "log_prob_over_matmul",
)
"""Ratios of times, which mean as little as the times where others used the device."""

QUALITY = (
    "nll_nats",
    "nll_nats_stderr",
    "nll_median_nats",
    "nll_largest_share",
    "validation_nll_nats",
    "bits_per_dim",
    "bits_per_dim_stderr",
    "kl_to_truth_nats",
    "kl_to_truth_nats_stderr",
    "kl_to_truth_test_nats",
    "kl_to_truth_test_nats_stderr",
    "outside_fraction",
)
"""What training is for: of a flow that was not trained they say nothing."""

MEASURES = (
    *QUALITY,
    "truth_entropy_nats",
    "gaussian_nll_nats",
    "parameters",
    "steps",
    "best_step",
    "skipped_steps",
    "train_seconds",
    "learning_rate",
    "tuning_seconds",
    "tuning_steps",
    "tuning_nfe",
    "nfe_train_forward",
    "nfe_train_backward",
    "nfe_log_prob",
    "nfe_log_prob_exact",
    "nfe_sample",
    "trace_std",
    "log_prob_std",
    *TIMES,
    *RATIOS,
    "peak_memory_ratio",
    "peak_memory_bytes",
    "process_peak_bytes",
    "peak_memory_reserved_bytes",
    "round_trip_error",
)
"""Every measure that the report reads; one that no record has counts as missing everywhere."""

FLAGS = (
    "cost_shared",
    "training_shared",
    "density_estimated",
    "kl_by_quadrature",
    "learning_rate_at_edge",
)
"""What is so or not; where no record says it, it is not."""

_TEXT = ("key", "status", "reason", "flow", "flow_name", "dataset", "dataset_name", "dataset_kind")
_KINDS = ("toy", "tabular", "image", "gaussian")
_MACHINE = ("device", "threads", "dtype", "environment.torch", "machine", "environment.gpu")
# A contestant's learning rate, where it ran at several.
_RATE = "contestant.learning_rate"
# What a column says where it says nothing that a label should repeat.
_SILENT = {("environment.gpu", "none"), (_RATE, "none")}
# Part of the setting too: results on data that have drifted are not compared.
_DATA = "data"


@dataclass(frozen=True)
class Records:
    """All cells of all stores, ready to be grouped.

    Attributes:
        cells: a row a cell, ordered by kind, data set, flow and seed, with every column of
            :data:`MEASURES` (those of :data:`QUALITY` empty where nothing was trained, times empty
            where others used the device) and :data:`FLAGS`, and ``setting`` (the whole of it),
            ``setting_label`` (what of it differs among the cells of one data set; empty where
            nothing does), ``rule`` (the setting without the learning rate), ``trained``, ``tuned``
            (whether its learning rate was chosen from a grid), ``split`` (of the data set) and
            ``machine`` (the processor).
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
    def system_of(self) -> dict[str, str]:
        """The catalog name of each flow's label."""
        return dict(zip(self.cells["flow"], self.cells["flow_name"], strict=True))

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

    A key that lies in several stores counts once a machine, a cell that ended well before one that
    did not.
    """
    frames: list[pd.DataFrame] = []
    notes: list[str] = []
    for number, store in enumerate(stores):
        records, left_out = store.records()
        notes += _left_out(store, left_out)
        frame = frame_of(records)
        if frame.empty:
            notes.append(f"the folder {store.directory.name} holds no records")
            continue
        frames.append(frame.assign(_store=number))
    if not frames:
        names = ("seed", "setting", "setting_label", "rule", "trained", "tuned", "split", "machine")
        empty = pd.DataFrame(columns=[*_TEXT, *names, *MEASURES, *FLAGS])
        return Records(empty, (), (), {}, {}, notes)
    cells = pd.concat(frames, ignore_index=True)
    whole = len(cells)
    cells = cells.sort_values("status", key=lambda status: status != "ok", kind="stable")
    cells = cells.assign(machine=_machines(cells)).drop_duplicates(["key", "machine"])
    # One cell measured on two machines is two results: the second gets a key of its own.
    place = cells.groupby("key").cumcount()
    own = cells["key"].where(place == 0, cells["key"] + "@" + (place + 1).astype(str))
    store_of = {
        name: stores[store] if name == key else _Renamed(stores[store], key)
        for name, key, store in zip(own, cells["key"], cells["_store"], strict=True)
    }
    cells["key"] = own
    if whole > len(cells):
        notes.append(f"{_count(whole - len(cells), 'record')} of a cell already there left out")
    return _prepare(cells.drop(columns="_store"), store_of, notes)


class _Renamed(Store):
    """A store in which one record goes by another key."""

    def __init__(self, store: Store, key: str) -> None:
        super().__init__(store.directory)
        self._key = key

    def curve(self, key: str) -> pd.DataFrame:
        return super().curve(self._key)

    def arrays(self, key: str) -> dict[str, np.ndarray[Any, Any]]:
        return super().arrays(self._key)


def _machines(cells: pd.DataFrame) -> pd.Series[Any]:
    """Each cell's processor; records from before processors were told apart have its name alone."""
    unknown = pd.Series(np.nan, index=cells.index, dtype=object)
    found = cells.get("environment.machine", unknown)
    names = cells.get("environment.cpu", unknown)
    return found.astype(object).where(found.notna(), names)


def _left_out(store: Store, found: Sequence[LeftOut]) -> list[str]:
    """What was found beside the records in use, counted by its reason and named by its folder."""
    by_reason: dict[str, list[str]] = {}
    for item in found:
        by_reason.setdefault(item.why, []).append(item.path.relative_to(store.directory).as_posix())
    notes = []
    for why, places in by_reason.items():
        if len(places) == 1:
            notes.append(f"{places[0]} was left out: {why}")
            continue
        folders = Counter(place.rpartition("/")[0] for place in places)
        named = ", ".join(f"{folder} ({count})" for folder, count in folders.items())
        notes.append(f"{_count(len(places), 'record')} were left out, {why}: {named}")
    return notes


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _prepare(cells: pd.DataFrame, store_of: dict[str, Store], notes: list[str]) -> Records:
    extra = ["seed", "dimension", "bottleneck", "noise", "dataset.split", *FLAGS, *_MACHINE]
    extra += ["budget.steps", "budget.learning_rate", "budget.learning_rates"]
    missing = [name for name in (*_TEXT, *extra, *MEASURES) if name not in cells.columns]
    # At once: column by column pandas would keep each apart from the others, and say so.
    absent = pd.DataFrame(np.nan, index=cells.index, columns=missing, dtype=object)
    cells = pd.concat([cells, absent], axis=1)
    for name in (*MEASURES, "dimension", "bottleneck"):
        cells[name] = pd.to_numeric(cells[name], errors="coerce").astype(float)
    for name in _TEXT:
        cells[name] = cells[name].map(lambda value: "" if plain(value) == "none" else str(value))
    cells["noise"] = cells["noise"].map(plain)
    for name in FLAGS:
        cells[name] = cells[name].map(lambda value: value is True or value is np.True_).astype(bool)
    cells = cells.copy()
    cells["split"] = cells["dataset.split"].map(lambda value: plain(value).replace("none", "0"))
    cells["dataset"] = cells["dataset"].map(_without_split)
    cells["tuned"] = _tuned(cells)
    rate = pd.to_numeric(cells["budget.learning_rate"], errors="coerce").astype(float)
    untuned = cells["learning_rate"].isna() & ~cells["tuned"]
    cells["learning_rate"] = cells["learning_rate"].mask(untuned, rate)

    steps = cells["steps"].fillna(pd.to_numeric(cells["budget.steps"], errors="coerce"))
    cells["trained"] = ~(steps == 0)
    cells.loc[~cells["trained"], [*QUALITY, "learning_rate", "train_seconds"]] = np.nan
    untrained = int((~cells["trained"]).sum())
    if untrained:
        notes.append(
            f"{_count(untrained, 'cell')} of untrained flows (steps = 0): they stand in tables and "
            "figures of cost alone"
        )
    timed = cells["cost_shared"] & cells[[*TIMES, *RATIOS]].notna().any(axis=1)
    if timed.any():
        notes.append(
            f"the times of {_count(int(timed.sum()), 'cell')} were taken while others used the "
            "device, and are in no time table or figure"
        )
    cells.loc[cells["cost_shared"], [*TIMES, *RATIOS]] = np.nan

    cells[_DATA] = _data_versions(cells)
    budgets = sorted(
        name
        for name in cells.columns
        if name.startswith("budget.") and not name.startswith("budget.learning_rate")
    )
    # The commit is none of it: a run that is resumed after a commit goes on with its seeds.
    columns = tuple(name for name in (*budgets, *_MACHINE) if cells[name].notna().any())
    # Data differ between data sets anyhow; what counts is that they differ within one.
    if (cells.groupby("dataset")[_DATA].nunique() > 1).any():
        columns += (_DATA,)
        notes.append("some data have changed between runs: their results are kept apart")
    words = pd.DataFrame({name: cells[name].map(plain) for name in columns}, index=cells.index)
    cells["rule"] = _join(words, columns)
    words[_RATE] = np.where(cells["tuned"], "tuned", rate.map("{:g}".format))
    several = words[_RATE].groupby([cells["flow"], cells["dataset"], cells["rule"]])
    words[_RATE] = words[_RATE].where(cells["trained"] & (several.transform("nunique") > 1), "none")
    if (words[_RATE] != "none").any():
        columns += (_RATE,)
    cells[_RATE] = words[_RATE]
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
            label_order(split),
            seed,
            key,
        )
        for kind, dataset, name, flow, setting, split, seed, key in zip(
            cells["dataset_kind"],
            cells["dataset"],
            cells["flow_name"],
            cells["flow"],
            cells["setting"],
            cells["split"],
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


def _without_split(label: str) -> str:
    """A data set's label without the number of its split: splits are repetitions of one thing.

    Example:
        >>> _without_split("power[rows=20000,split=2]"), _without_split("power[split=2]")
        ('power[rows=20000]', 'power')
    """
    name, bracket, options = label.partition("[")
    kept = [o for o in options.removesuffix("]").split(",") if not re.fullmatch(r"split=\d+", o)]
    return f"{name}[{','.join(kept)}]" if bracket and any(kept) else name


def _tuned(cells: pd.DataFrame) -> pd.Series[bool]:
    """Whether a cell's learning rate was chosen from a grid, which then has a price."""
    priced = cells[["tuning_seconds", "tuning_steps", "tuning_nfe"]].gt(0).any(axis=1)
    return priced | cells["budget.learning_rates"].notna()


def _data_versions(cells: pd.DataFrame) -> pd.Series[Any]:
    """Eight digits that stand for the splits' hashes; nothing where each split has its own.

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
    one = [cells["dataset"], cells["split"]]
    found = found.fillna(found.groupby(one).transform("first"))
    changed = found.groupby(one).transform("nunique") > 1
    whole = cells.groupby("dataset")["split"].transform("nunique") == 1
    return found.where(changed | whole)


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
            if (name, value) not in _SILENT
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
    """A measure by seed, or by split where there are several, over the cells that ended well.

    Two cells of one seed (the same run under two lists of measures) count as one. Seeds of one
    split are no repetitions of the split: where splits differ, what repeats is the mean over a
    split's seeds.

    Returns:
        Values by seed, the index; or by ``"split <number>"``.
    """
    good = cells[(cells["status"] == "ok") & cells[measure].notna()]
    if good["split"].nunique() < 2:
        found: pd.Series[float] = good.groupby("seed")[measure].mean()
        return found
    by_split = good.groupby(["split", "seed"])[measure].mean().groupby("split").mean()
    return by_split.rename(lambda number: f"split {number}")


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
    for names, group in grouped(cells, by):
        row: dict[str, Any] = dict(zip(by, names, strict=True))
        good = group[group["status"] == "ok"]
        row["seeds"] = good["seed"].nunique()
        row["splits"] = good["split"].nunique()
        row["failed"] = len(runs(group) - runs(good))
        for measure in measures:
            interval = t_interval(values_by_seed(group, measure).to_list())
            row[measure] = interval.mean
            row[f"{measure}_half_width"] = interval.half_width
        rows.append(row)
    columns = [*by, "seeds", "splits", "failed"]
    for measure in measures:
        columns += [measure, f"{measure}_half_width"]
    return pd.DataFrame(rows, columns=columns)
