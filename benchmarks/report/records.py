"""From stores to what the tables and figures are made of: cells and their settings.

A *setting* is everything about a cell but its flow, its data set, its split and its seed: the
budget, the device, the threads, the number type, the machine and torch's version. Cells of
different settings are never averaged together; where the settings of one data set differ, its rows
say in what. The learning rate is the contestant's own affair, and part of the setting only where
one contestant ran at several, and so is the version of a library that takes part in some
contestants alone; contestants are compared where the rest of the setting, the *rule*,
agrees.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import measures
from benchmarks.environment import LIBRARIES
from benchmarks.measures.base import Sort
from benchmarks.pictures import compact
from benchmarks.report.groups import (
    contestant,
    describe_setting,
    label_order,
    plain,
    without_options,
)
from benchmarks.report.style import flow_order
from benchmarks.store import LeftOut, Store, frame_of, read_together

__all__ = ["Records", "gather"]

_TEXT = ("key", "status", "reason", "flow", "flow_name", "dataset", "dataset_name", "dataset_kind")
_KINDS = ("toy", "tabular", "image", "family")
# As records of before the families had a name of their own call them.
_FORMER_KINDS = {"gaussian": "family"}
_MACHINE = (
    *("device", "devices", "threads", "dtype", "environment.torch", "machine"),
    *("environment.gpu", "environment.kernels"),
)
# A contestant's learning rate, where it ran at several.
_RATE = "contestant.learning_rate"
# What a column says where it says nothing that a label should repeat.
_SILENT = {
    (name, "none")
    for name in (
        "environment.gpu",
        "environment.kernels",
        _RATE,
        *(f"environment.{library}" for library in LIBRARIES),
    )
} | {("budget.compile", "False"), ("devices", "1")}
# Part of the setting too: results on data that have drifted are not compared.
_DATA = "data"


@dataclass(frozen=True)
class Records:
    """All cells of all stores, ready to be grouped.

    Attributes:
        cells: a row a cell, ordered by kind, data set, flow and seed, with every column of
            :func:`benchmarks.measures.columns` that is no text (``quality`` is empty where nothing
            was trained, ``time`` and ``ratio`` where others used the device), and ``setting`` (the
            whole of it),
            ``setting_label`` (what of it differs among the cells of one data set; empty where
            nothing does), ``rule`` (the setting without the learning rate), ``trained``, ``form``
            (what computes a training step: ``eager``, ``compiled``, ``JAX``), ``tuned``
            (whether its learning rate was chosen from a grid), ``split`` (of the data set) and
            ``machine`` (the processor).
        setting_columns: the columns that make the setting.
        differing: those of them that differ within some data set.
        short: each flow's label without the options that all cells of that system share.
        store_of: the store of each key.
        raw: the cells as they were read.
        notes: what a reader must know of how the records were taken in.
    """

    cells: pd.DataFrame
    setting_columns: tuple[str, ...]
    differing: tuple[str, ...]
    short: dict[str, str]
    store_of: dict[str, Store]
    raw: pd.DataFrame = field(repr=False)
    notes: list[str] = field(default_factory=list)

    @property
    def system_of(self) -> dict[str, str]:
        """The catalog name of each flow's label."""
        return dict(zip(self.cells["flow"], self.cells["flow_name"], strict=True))

    @property
    def ok(self) -> pd.DataFrame:
        """The cells that ended well."""
        return self.cells[self.cells["status"] == "ok"]

    def arrays_of(
        self, cells: pd.DataFrame, names: Collection[str]
    ) -> tuple[pd.Series[Any], dict[str, np.ndarray[Any, Any]]] | None:
        """The cell of the lowest seed that left all arrays of these names, with its arrays.

        Pictures are as :func:`benchmarks.pictures.compact` makes them.
        """
        for _, cell in cells.sort_values("seed").iterrows():
            arrays = compact(self.store_of[cell["key"]].arrays(cell["key"]))
            if set(names) <= set(arrays):
                return cell, arrays
        return None

    def only(self, keys: Collection[str]) -> Records:
        """Some of the cells by themselves: what differs among others is in no label."""
        mine = self.raw["key"].map(lambda key: str(key).partition("@")[0]).isin(list(keys))
        return self if mine.all() else _prepare(self.raw[mine], self.store_of, [])

    def settings(self, cells: pd.DataFrame, apart: Collection[str] = ()) -> pd.Series[str]:
        """The setting of each of some cells, without the columns ``apart``."""
        columns = [name for name in self.setting_columns if name not in apart]
        return _join(cells[columns].map(plain), columns)

    def names(self, cells: pd.DataFrame, apart: Collection[str] = ()) -> pd.Series[str]:
        """What tables and figures call the contestant of each of some cells.

        Args:
            cells: some of :attr:`cells`.
            apart: columns that shall tell no contestants apart, since they are the axis of a sweep:
                ``flow.*`` or ``budget.*``.
        """
        options = [name.removeprefix("flow.") for name in apart if name.startswith("flow.")]
        columns = [name for name in self.differing if name not in apart]
        labels = _join(cells[columns].map(plain), columns)
        found = [
            contestant(without_options(flow, options), label)
            for flow, label in zip(cells["flow"].map(self.short), labels, strict=True)
        ]
        return pd.Series(found, index=cells.index, dtype=object)

    def series(self, cells: pd.DataFrame, apart: Collection[str] = ()) -> list[str]:
        """A text for each cell that cells share which differ in the seed and ``apart`` alone.

        Args:
            cells: some of :attr:`cells`.
            apart: columns that may differ: ``flow.*`` or ``budget.*``.
        """
        options = [n for n in cells.columns if n.startswith("flow.") and n not in apart]
        names = ["flow_name", "dataset", "setting", *options]
        cells = cells.assign(setting=self.settings(cells, apart))
        rows = cells[names].astype(object).itertuples(index=False)
        return ["|".join(map(str, row)) for row in rows]


def gather(stores: Sequence[Store], *, stale: bool = False) -> Records:
    """Take the records of several stores together.

    A key that lies in several stores counts once a machine, a cell that ended well before one that
    did not.

    Args:
        stores: folders of records.
        stale: whether records of other versions of the code count too.

    Raises:
        StoreError: if two stores hold different records of one cell of one machine.
    """
    frames: list[pd.DataFrame] = []
    notes: list[str] = []
    read = read_together(stores, stale=stale)
    for number, (store, (records, left_out)) in enumerate(zip(stores, read, strict=True)):
        notes += _left_out(store, left_out)
        frame = frame_of(records)
        if frame.empty:
            notes.append(f"the folder {store.directory.name} holds no records")
            continue
        frames.append(frame.assign(_store=number))
    if not frames:
        names = ("seed", "setting", "setting_label", "rule", "trained", "form", "tuned", "split")
        empty = pd.DataFrame(columns=[*_TEXT, *names, "machine", *_numbers(), *_flags()])
        return Records(empty, (), (), {}, {}, empty, notes)
    # In one piece before more columns come: pandas says so where it is in many.
    cells = pd.concat(frames, ignore_index=True).copy()
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


def _numbers(*sorts: Sort) -> list[str]:
    """The names of all measures that are numbers, or of those of some sorts."""
    wanted = sorts or ("quality", "number", "count", "time", "ratio")
    return [column.name for column in measures.columns(*wanted)]


def _flags() -> list[str]:
    return [column.name for column in measures.columns("flag")]


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
    raw, numbers, flags = cells, _numbers(), _flags()
    quality, times = _numbers("quality"), _numbers("time", "ratio")
    extra = ["seed", "dimension", "bottleneck", "noise", "dataset.split", *flags, *_MACHINE]
    extra += ["budget.steps", "budget.learning_rate", "budget.learning_rates"]
    missing = [name for name in (*_TEXT, *extra, *numbers) if name not in cells.columns]
    # At once: column by column pandas would keep each apart from the others, and say so.
    absent = pd.DataFrame(np.nan, index=cells.index, columns=missing, dtype=object)
    cells = pd.concat([cells, absent], axis=1)
    for name in (*numbers, "dimension", "bottleneck"):
        cells[name] = pd.to_numeric(cells[name], errors="coerce").astype(float)
    for name in _TEXT:
        cells[name] = cells[name].map(lambda value: "" if plain(value) == "none" else str(value))
    cells["noise"] = cells["noise"].map(plain)
    for name in flags:
        cells[name] = cells[name].map(lambda value: value is True or value is np.True_).astype(bool)
    cells = cells.copy()
    cells["dataset_kind"] = cells["dataset_kind"].replace(_FORMER_KINDS)
    cells["split"] = cells["dataset.split"].map(lambda value: plain(value).replace("none", "0"))
    cells["dataset"] = cells["dataset"].map(lambda label: without_options(label, ["split"]))
    cells["tuned"] = _tuned(cells)
    rate = pd.to_numeric(cells["budget.learning_rate"], errors="coerce").astype(float)
    untuned = cells["learning_rate"].isna() & ~cells["tuned"]
    cells["learning_rate"] = cells["learning_rate"].mask(untuned, rate)

    steps = cells["steps"].fillna(pd.to_numeric(cells["budget.steps"], errors="coerce"))
    cells["trained"] = ~(steps == 0)
    cells.loc[~cells["trained"], [*quality, "learning_rate", "train_seconds"]] = np.nan
    untrained = int((~cells["trained"]).sum())
    if untrained:
        notes.append(
            f"{_count(untrained, 'cell')} of untrained flows (steps = 0): no table or figure of "
            "quality has them"
        )
    timed = cells["cost_shared"] & cells[times].notna().any(axis=1)
    if timed.any():
        notes.append(
            f"the times of {_count(int(timed.sum()), 'cell')} were taken while others used the "
            "device, and are in no time table or figure"
        )
    cells.loc[cells["cost_shared"], times] = np.nan
    # In one piece again, before more columns come.
    cells = cells.copy()

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
    # A library is the affair of the contestants that it takes part in, as the learning rate is.
    for name in (f"environment.{library}" for library in LIBRARIES):
        if name not in cells:
            continue
        versions = cells[name].map(plain).replace("none", np.nan)
        several = versions.groupby([cells["flow"], cells["dataset"], cells["rule"]])
        words[name] = versions.where(several.transform("nunique") > 1).fillna("none")
        if (words[name] != "none").any():
            columns += (name,)
            cells[name] = words[name]
    per_dataset = words.groupby(cells["dataset"]).nunique()
    differing = tuple(name for name in columns if (per_dataset[name] > 1).any())
    cells["setting"] = _join(words, columns)
    cells["setting_label"] = _join(words, differing)
    if "environment.git_commit" in cells:
        commits = cells.groupby(["flow", "dataset", "setting"])["environment.git_commit"].nunique()
        for flow, dataset, _ in commits[commits > 1].index:
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
        # In one piece, which all that takes some of the rows is the faster for.
        cells=cells.iloc[ranked].reset_index(drop=True).copy(),
        setting_columns=columns,
        differing=differing,
        short=short,
        store_of=store_of,
        raw=raw,
        notes=notes,
    )


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
