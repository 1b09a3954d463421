"""Records on disk, and their way into pandas.

A folder of a run holds::

    plan.json                                   the cells of the last run, and their studies
    cells/<flow>/<dataset>/<key>.json           the record of a cell: final, whatever its status
    cells/<flow>/<dataset>/<key>.curve.jsonl    its training curve, a row a validation
    cells/<flow>/<dataset>/<key>.npz            arrays for the density panels
    cells/<flow>/<dataset>/<key>.pt             the tested weights, where they were to be kept
    cells/<flow>/<dataset>/<key>.log            what the cell's processes printed
    pending/<key>.checkpoint                    the state of a training that is not done
    pending/<key>.json, .pt                     what a trained cell that awaits its timing needs
    pending/<key>.progress                      how far a cell is
    claims/, runners/                           who is at work on what (benchmarks.run.claims)

Files are written to a temporary name, synced and renamed, so that they are whole or absent, also on
a network file system. (Curves and logs are appended to, so that they can be followed; a curve is
written anew from the checkpoint when a training goes on.) A file that is not a record is named and
left alone. A record that ended well is not overwritten: who wants it anew discards it first.

A record of another schema, or of code with other versions (:mod:`benchmarks.versions`), is *stale*:
it counts nowhere, and is removed when its cell has been measured anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import stat
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

import datasets
from benchmarks.cell import SCHEMA, Cell
from benchmarks.errors import StoreError
from benchmarks.matrix import Matrix
from benchmarks.text import bounded
from benchmarks.versions import ORIGIN, explain_difference, is_known, versions_of
from flows import FlowError

__all__ = [
    "FAILED",
    "LARGEST",
    "Foreign",
    "LeftOut",
    "Record",
    "Stale",
    "Status",
    "Store",
    "frame_of",
    "labels_of",
    "read_together",
    "write_atomically",
]

Status = Literal["ok", "skipped", "diverged", "oom", "timeout", "crashed", "error"]
FAILED: tuple[Status, ...] = ("diverged", "oom", "timeout", "crashed", "error")
"""Statuses that count as failures. ``skipped``: the flow does not apply to the data set, or a
library that it needs is not installed."""

Value = float | int | str | bool | None

LARGEST = 1e100
"""No number that was measured is as large: what is past it breaks the arithmetic of reports."""
MOST_BYTES = 2**22
"""No record is larger."""
LONGEST_LABEL = 1000
"""Characters; a path may stand in one."""
PLAIN_LABEL = re.compile(r"[\w./,=+:@\[\] -]*")


class Record(BaseModel):
    """What is known of one cell when it has ended, well or badly.

    Attributes:
        schema_version: of cell and record.
        versions: of the code that measured it; those of now unless given.
        key: the cell's.
        cell: the cell, complete.
        flow_label, dataset_label: as shown in tables.
        dataset_kind: ``toy``, ``family``, ``tabular`` or ``image``.
        dimension: number of scalars in one datum; None if the data could not be loaded.
        status: how it ended.
        reason: why it ended so; empty for ``ok``.
        measures: what was measured, the unit in the name.
        data_hashes: of each split, so that runs on drifted data are noticed.
        environment: versions, machine, commit.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA
    versions: dict[str, int | str] = {}
    key: str
    cell: Cell
    flow_label: str
    dataset_label: str
    dataset_kind: str
    dimension: int | None = None
    status: Status
    reason: str = ""
    measures: dict[str, Value] = {}
    data_hashes: dict[str, str] = {}
    environment: dict[str, Value] = {}

    @model_validator(mode="after")
    def _of_now(self) -> Record:
        if not self.versions:
            self.versions = versions_of(self.cell)
        return self

    @property
    def failed(self) -> bool:
        """Whether the status counts as a failure."""
        return self.status in FAILED

    @property
    def form(self) -> str:
        """What computed a training step; empty if it did not end well.

        A record from before there was JAX does not say it itself.
        """
        if self.status != "ok":
            return ""
        asked = "compiled" if self.cell.budget.compile else "eager"
        return str(self.measures.get("form", asked))


@dataclass(frozen=True)
class LeftOut:
    """A file where a record should be that does not count, and why."""

    path: Path
    why: str


@dataclass(frozen=True)
class Foreign(LeftOut):
    """A file that is no record of this program's; left alone."""


@dataclass(frozen=True)
class Stale(LeftOut):
    """A record whose numbers no longer compare with those of now.

    Attributes:
        record: as it was read.
    """

    record: Record

    @property
    def cell(self) -> Cell:
        """What was measured."""
        return self.record.cell


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is whole or absent, also after a crash of the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _storable(value: Any) -> Any:
    """JSON knows no NaN and no infinity: what is not a number is null. Text is bounded."""
    if isinstance(value, float) and not abs(value) < LARGEST:
        return None
    return bounded(value) if isinstance(value, str) else value


class Store:
    """The folder of a run.

    Args:
        directory: made when something is first written.

    Raises:
        StoreError: if the path exists and is no folder.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        # Where the records lie that were read: what is beside one is then not looked for.
        self._folder_of: dict[str, Path] = {}
        if self.directory.exists() and not self.directory.is_dir():
            raise StoreError(f"{self.directory} is a file; a folder of records was expected")

    # -- paths --------------------------------------------------------------------------------

    def path(self, cell: Cell, suffix: str = ".json") -> Path:
        """Where a file of a cell lies."""
        return self._folder(cell.flow, cell.dataset) / f"{cell.key}{suffix}"

    def pending(self, key: str, suffix: str) -> Path:
        """Where what a trained cell still needs lies until its record is final."""
        return self.directory / "pending" / f"{key}{suffix}"

    def _folder(self, flow: str, dataset: str) -> Path:
        # Names of peers hold a slash (``nflows/maf``), which must not make another level.
        return self.directory / "cells" / flow.replace("/", "--") / dataset.replace("/", "--")

    # -- writing ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one run.

        Raises:
            StoreError: if another run holds it, or it cannot be written.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            file = (self.directory / ".lock").open("w")
        except OSError as error:
            raise StoreError(f"cannot write into {self.directory}: {error.strerror}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError(
                    f"another run is writing into {self.directory}; wait for it, stop it, or "
                    "give another --out"
                ) from error
            yield

    def write_plan(self, matrix: Matrix) -> None:
        """Keep the cells of a run, for ``status``."""
        write_atomically(self.directory / "plan.json", matrix.model_dump_json(indent=1).encode())

    def write(self, record: Record) -> None:
        """Write a cell's record, unless it has one that ended well.

        Raises:
            StoreError: if a file that is no record lies in its place.
        """
        path = self.path(record.cell)
        if path.exists():
            there = self._read(path)
            if not isinstance(there, Record):
                raise StoreError(f"{path} is not a record and was left as it is: move it away")
            if there.status == "ok":
                return
        document = record.model_dump(mode="json")
        document["measures"] = {k: _storable(v) for k, v in document["measures"].items()}
        document["reason"] = bounded(record.reason)
        text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False)
        write_atomically(path, text.encode() + b"\n")

    def discard(self, cell: Cell) -> None:
        """Make room for a cell that is to be measured again; what it had trained stays."""
        for suffix in (".json", ".npz", ".pt"):
            self.path(cell, suffix).unlink(missing_ok=True)

    def remove(self, stale: Stale) -> None:
        """Remove a stale record and what lies beside it."""
        for suffix in (".curve.jsonl", ".npz", ".pt", ".log", ".json"):
            stale.path.with_suffix(suffix).unlink(missing_ok=True)

    def write_arrays(self, cell: Cell, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Keep arrays beside a cell's record."""
        file = io.BytesIO()
        np.savez_compressed(file, allow_pickle=False, **dict(arrays))
        write_atomically(self.path(cell, ".npz"), file.getvalue())

    def write_progress(self, key: str, found: Mapping[str, Value]) -> None:
        """Say how far a cell is. What cannot be written is not: nothing depends on it."""
        path = self.pending(key, ".progress")
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(found))
            temporary.replace(path)

    def clean(self) -> None:
        """Remove what writers that were killed have left; to be called under :meth:`lock`."""
        for path in (*self.directory.glob("pending/.*.tmp*"), *self.directory.glob("**/.*.tmp")):
            # A cell that outlives its run by seconds may be writing.
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > 60:
                    path.unlink()

    # -- reading ------------------------------------------------------------------------------

    def plan(self) -> Matrix | None:
        """The cells of the last run; None if there was none.

        Raises:
            StoreError: if the plan cannot be read.
        """
        path = self.directory / "plan.json"
        if not path.is_file():
            return None
        try:
            found = Matrix.model_validate_json(path.read_bytes())
            for cell in found.cells:
                str(cell)
            return found
        except (ValueError, KeyError, OSError, FlowError, datasets.DataError) as error:
            raise StoreError(
                f"{path} is damaged or of another version: move it away and run again"
            ) from error

    def read(self, cell: Cell) -> Record | LeftOut | None:
        """The record of a cell; None if it has none."""
        path = self.path(cell)
        return self._read(path) if path.exists() else None

    def records(self, *, stale: bool = False) -> tuple[list[Record], list[LeftOut]]:
        """Every record that counts, ordered by path, and the files that do not.

        Args:
            stale: whether those of other versions of the code count too.
        """
        records: list[Record] = []
        left_out: list[LeftOut] = []
        paths = self.directory.glob("cells/*/*/*.json")
        for path in sorted(paths, key=lambda path: path.parts):
            found = self._read(path)
            self._folder_of[path.stem] = path.parent
            if stale and isinstance(found, Stale):
                found = found.record
            if isinstance(found, Record):
                records.append(found)
            else:
                left_out.append(found)
        return records, left_out

    def _read(self, path: Path) -> Record | LeftOut:
        try:
            found = path.stat()
            # A pipe would be waited for.
            if not stat.S_ISREG(found.st_mode):
                return Foreign(path, "not a record: no file")
            if found.st_size > MOST_BYTES:
                return Foreign(path, f"not a record: {found.st_size} bytes are too many")
            record = Record.model_validate_json(path.read_bytes())
            _check_options(record.cell)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            return Foreign(path, f"not a record: {place + ': ' if place else ''}{first['msg']}")
        except OSError as error:
            return Foreign(path, f"unreadable: {error.strerror}")
        except ValueError as error:
            return Foreign(path, str(error))
        if record.key != path.stem:
            return Foreign(path, f"holds the record of {record.key}")
        if odd := _oddity(record):
            return Foreign(path, odd)
        if record.schema_version > SCHEMA:
            return Foreign(path, f"schema {record.schema_version}, this version reads {SCHEMA}")
        if record.schema_version < SCHEMA:
            why = f"measured under schema {record.schema_version} of records, now {SCHEMA}"
        else:
            why = explain_difference(record.cell, record.versions, versions_of(record.cell))
        if why:
            return Stale(path, why, record)
        if is_known(record.cell) and record.cell.key != record.key:
            return Foreign(path, f"its content is that of {record.cell.key}")
        return record

    def frame(self) -> pd.DataFrame:
        """A row a cell, columns as ARCHITECTURE.md lists them; empty if there are no records."""
        return frame_of(self.records()[0])

    def arrays(self, key: str) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays kept beside a record; empty if there are none."""
        for path in self._beside(key, ".npz"):
            # What is no such file is as good as none.
            with (
                contextlib.suppress(OSError, ValueError, EOFError, zipfile.BadZipFile),
                path.open("rb") as source,
                np.load(source, allow_pickle=False) as file,
            ):
                return {name: file[name] for name in file.files}
        return {}

    def _beside(self, key: str, suffix: str) -> Iterable[Path]:
        """The files of a key with a suffix: one, if it is there and nobody has copied it."""
        if folder := self._folder_of.get(key):
            return [folder / f"{key}{suffix}"]
        return self.directory.glob(f"cells/*/*/{key}{suffix}")

    def progress(self, key: str) -> dict[str, Any]:
        """How far a cell is that is running: what its process last said; empty if nothing.

        ``stage``, ``seconds`` of it, ``at`` what time that was said; of a training ``used``, the
        part of the budget, ``step``, ``steps``, ``validation_nll_nats``, ``learning_rate``.
        """
        try:
            found = json.loads(self.pending(key, ".progress").read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def curve(self, key: str) -> pd.DataFrame:
        """The training curve of a cell, a row a validation; empty if there is none.

        Of a tuned cell the curve of the weights that were tested; while it has no record, those of
        all rates so far, told apart by ``learning_rate``.
        """
        rows = []
        for path in self._beside(key, ".curve.jsonl"):
            if not path.is_file():
                continue
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                # The last line of a killed process may be cut off.
                with contextlib.suppress(ValueError):
                    row = json.loads(line)
                    if _is_curve_row(row):
                        rows.append(row)
            record = self._read(path.with_name(f"{key}.json"))
            if isinstance(record, Record) and record.cell.learning_rates:
                chosen = record.measures.get("learning_rate")
                rows = [row for row in rows if chosen in (None, row.get("learning_rate"))]
        return pd.DataFrame(rows)


def labels_of(cell: Cell) -> tuple[str, str]:
    """The labels of a cell's flow and data set; of what is not known here the bare names."""
    found = []
    for name, label in (
        (cell.flow, lambda: cell.flow_label),
        (cell.dataset, lambda: cell.dataset_label),
    ):
        try:
            found.append(label())
        except (FlowError, datasets.DataError, KeyError, ValueError):
            found.append(name)
    return found[0], found[1]


def _check_options(cell: Cell) -> None:
    """Refuse a cell whose options are of no kind that options are.

    Raises:
        ValueError: says which one.
    """
    several = [cell.flow_options, cell.dataset_options]
    if cell.reference is not None:
        several.append(cell.reference.flow_options)
    for option, value in (item for options in several for item in options.items()):
        for single in value if isinstance(value, list) else (value,):
            if single is None or isinstance(single, str):
                continue
            if not isinstance(single, int | float):
                raise ValueError(f"not a record: option {option} is {type(value).__name__}")
            if not abs(single) < LARGEST:
                raise ValueError(f"not a record: option {option} is no number")


def _oddity(record: Record) -> str:
    """What in a record's numbers and names cannot be, in words; empty if nothing."""
    for name, value in record.measures.items():
        if not name.isidentifier() or name in _RESERVED:
            return f"not a record: a measure is called {name[:80]!r}"
        if isinstance(value, int | float) and not abs(value) < LARGEST:
            return f"not a record: {name} is {value:.3g}" if value < LARGEST**3 else "not a record"
    cell = record.cell
    labels = (record.flow_label, record.dataset_label)
    for label, own in zip(labels, labels_of(cell), strict=True):
        # Figures read some characters as formulas. Those of a path stand in the cell as well.
        if label != own and (len(label) > LONGEST_LABEL or not PLAIN_LABEL.fullmatch(label)):
            return "not a record: its labels are not its cell's"
    return ""


def _is_curve_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and "step" in row
        and all(
            value is None or (isinstance(value, int | float) and abs(value) < LARGEST)
            for value in row.values()
        )
    )


def read_together(
    stores: Sequence[Store], *, stale: bool = False
) -> list[tuple[list[Record], list[LeftOut]]]:
    """The records of folders that are taken together, each as :meth:`Store.records` gives them.

    Raises:
        StoreError: if two of them hold different records of one cell, both ended well and measured
            on the same machine; both are named.
    """
    found = [store.records(stale=stale) for store in stores]
    seen: dict[tuple[str, Any], tuple[Path, Record]] = {}
    for store, (records, _) in zip(stores, found, strict=True):
        for record in records:
            if record.status != "ok":
                continue
            path = store.path(record.cell)
            place = record.key, record.environment.get("machine")
            other_path, other = seen.setdefault(place, (path, record))
            if other != record:
                raise StoreError(
                    f"{other_path} and {path} are different records of one cell: keep one of them"
                )
    return found


def frame_of(records: Sequence[Record]) -> pd.DataFrame:
    """As :meth:`Store.frame`, of records that have been read."""
    frame = pd.DataFrame([_row(record) for record in records])
    if frame.empty:
        return pd.DataFrame(columns=[*_IDENTITY])
    rest = sorted(
        (name for name in frame.columns if name not in _IDENTITY),
        key=lambda name: ("." in name, name),
    )
    order = ["flow", "dataset", "dimension", "bottleneck", "seed", "device", "key"]
    return frame[[*_IDENTITY, *rest]].sort_values(order, ignore_index=True, kind="stable")


_IDENTITY = (
    "flow",
    "dataset",
    "dimension",
    "bottleneck",
    "noise",
    "seed",
    "status",
    "reason",
    "device",
    "threads",
    "devices",
    "flow_name",
    "dataset_name",
    "dataset_kind",
    "key",
)
_RESERVED = frozenset(_IDENTITY)


def _row(record: Record) -> dict[str, Any]:
    cell = record.cell
    row: dict[str, Any] = {
        "flow": record.flow_label,
        "dataset": record.dataset_label,
        "dimension": record.dimension,
        "bottleneck": cell.flow_options.get("bottleneck"),
        "noise": cell.flow_options.get("noise"),
        "seed": cell.seed,
        "status": record.status,
        "reason": record.reason,
        "device": cell.device,
        "threads": cell.threads,
        "devices": cell.devices,
        "flow_name": cell.flow,
        "dataset_name": cell.dataset,
        "dataset_kind": record.dataset_kind,
        "key": record.key,
        "dtype": cell.dtype,
    }
    row |= {**record.measures, "form": record.form}
    row |= {f"flow.{name}": _flat(value) for name, value in cell.flow_options.items()}
    row |= {f"dataset.{name}": _flat(value) for name, value in cell.dataset_options.items()}
    row |= {f"budget.{name}": value for name, value in cell.budget.model_dump().items()}
    if cell.learning_rates:
        # The rate of the tested weights is a result, under ``learning_rate``.
        row["budget.learning_rate"] = None
        row["budget.learning_rates"] = _flat([f"{rate:g}" for rate in cell.learning_rates])
    for name, value in record.versions.items():
        row[name if name.startswith(ORIGIN) else f"version.{name}"] = value
    row |= {f"environment.{name}": value for name, value in record.environment.items()}
    row |= {f"data_hash.{name}": value for name, value in record.data_hashes.items()}
    return row


def _flat(value: Any) -> Any:
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else value


STATUSES: tuple[Status, ...] = get_args(Status)
"""Every status, in the order in which ``status`` counts them."""
