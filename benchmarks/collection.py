"""A collection: what of runs is worth keeping, in a folder that reads as a run's does.

Records, curves, the plan, and such arrays as a report shows: numbers of every seed, and pictures
(:mod:`benchmarks.pictures`) of one seed of each contestant, a byte a place. Logs, weights and what
was pending stay behind.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import StoreError
from benchmarks.matrix import Matrix
from benchmarks.pictures import PICTURES, compact
from benchmarks.store import LeftOut, Record, Store, read_together, write_atomically

__all__ = ["Collected", "collect_into"]

_OURS = re.compile(r"plan\.json|cells(/[^/]+){0,2}|cells/[^/]+/[^/]+/\w+\.(json|curve\.jsonl|npz)")


@dataclass(frozen=True)
class Collected:
    """What a collection holds.

    Attributes:
        cells: how many have a record.
        without_record: how many the plan names beside these.
        size_bytes: of all files.
        left_out: what was found beside the records that count.
    """

    cells: int
    without_record: int
    size_bytes: int
    left_out: tuple[LeftOut, ...]


def collect_into(stores: Sequence[Store], target: Path) -> Collected:
    """Make a collection of the records of some folders, in the place of what was there.

    Args:
        stores: folders of runs of one study or matrix file. Of a cell that lies in several the
            record that ended well counts.
        target: folder of the collection; made if missing. An earlier collection is replaced, which
            may be one of ``stores``: it is then made anew by the rules of today.

    Raises:
        StoreError: if there are no records, ``target`` holds what no collection does, the folders
            are of several studies, or one cell was measured on several machines.
    """
    _check_target(target, stores)
    found: dict[str, tuple[Store, Record]] = {}
    left_out: list[LeftOut] = []
    for store, (records, odd) in zip(stores, read_together(stores), strict=True):
        left_out += odd
        for record in records:
            other = found.get(record.key)
            if other is None or (other[1].status != "ok" and record.status == "ok"):
                found[record.key] = store, record
            elif record.status == "ok" and record != other[1]:
                raise StoreError(
                    f"{store.path(record.cell)} and {other[0].path(record.cell)} are of two "
                    "machines: make a collection of each"
                )
    if not found:
        folders = ", ".join(str(store.directory) for store in stores)
        raise StoreError(f"no records to collect in {folders}: run a study into it first")
    plan = _joined([store.plan() for store in stores])
    try:
        if target.resolve() in {store.directory.resolve() for store in stores}:
            # In place, so that nothing is lost, records that are stale included.
            _fill(Store(target), found, plan)
        else:
            _replace(target, found, plan)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror}") from error
    planned = {cell.key for cell in plan.cells} if plan else set()
    return Collected(
        cells=len(found),
        without_record=len(planned - found.keys()),
        size_bytes=sum(path.stat().st_size for path in target.rglob("*") if path.is_file()),
        left_out=tuple(left_out),
    )


def _check_target(target: Path, stores: Sequence[Store]) -> None:
    """Refuse a folder that holds a run, or anything else that would be lost."""
    if target.exists() and not target.is_dir():
        raise StoreError(f"{target} is a file; a folder was expected")
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target).as_posix()
        if not _OURS.fullmatch(name):
            raise StoreError(
                f"{target} holds {name}, which is of no collection: name an empty folder, or one "
                "that `collect` has made"
            )


def _joined(plans: Sequence[Matrix | None]) -> Matrix | None:
    """The plans of runs of one study, each cell once."""
    known = [plan for plan in plans if plan is not None]
    if not known:
        return None
    names = dict.fromkeys(plan.name for plan in known)
    if len(names) > 1:
        raise StoreError(f"runs of {' and of '.join(names)}: make a collection of each")
    cells = {cell.key: cell for plan in known for cell in plan.cells}
    studies: dict[str, dict[str, None]] = {}
    for plan in known:
        for name, keys in plan.studies.items():
            studies.setdefault(name, {}).update(dict.fromkeys(keys))
    return known[0].model_copy(
        update={
            "cells": [*cells.values()],
            "studies": {name: list(keys) for name, keys in studies.items()},
        }
    )


def _replace(target: Path, found: dict[str, tuple[Store, Record]], plan: Matrix | None) -> None:
    new = target.with_name(f".{target.name}.new")
    try:
        shutil.rmtree(new, ignore_errors=True)
        _fill(Store(new), found, plan)
        shutil.rmtree(target, ignore_errors=True)
        new.replace(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _fill(target: Store, found: dict[str, tuple[Store, Record]], plan: Matrix | None) -> None:
    target.directory.mkdir(parents=True, exist_ok=True)
    if plan is not None:
        target.write_plan(plan)
    pictured: set[str] = set()
    for store, record in sorted(found.values(), key=lambda item: item[1].cell.seed):
        for suffix in (".json", ".curve.jsonl"):
            path = store.path(record.cell, suffix)
            if path.is_file():
                write_atomically(target.path(record.cell, suffix), path.read_bytes())
        arrays = compact(store.arrays(record.key))
        of_any_seed = record.cell.model_dump_json(exclude={"seed"})
        if of_any_seed in pictured:
            arrays = {name: found for name, found in arrays.items() if name not in PICTURES}
        if arrays:
            target.write_arrays(record.cell, arrays)
        else:
            target.path(record.cell, ".npz").unlink(missing_ok=True)
        if PICTURES & arrays.keys():
            pictured.add(of_any_seed)
