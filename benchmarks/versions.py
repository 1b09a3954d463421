"""Versions of what makes a number, raised by hand.

A record counts as long as the code behind it would measure the same again. Who changes what a
system computes or costs, what a family of measures measures, or how everything is trained, raises
the version of that: the cells concerned then have other keys, their records are *stale*
(:class:`benchmarks.store.Stale`), and ``run`` measures them anew.

The versions are

* ``version`` of a system's :class:`flows.FlowConfig`,
* ``version`` of a data set's :class:`datasets.DatasetConfig`,
* ``version`` of a family in :mod:`benchmarks.measures`,
* :data:`COMMON`, of what all cells share,
* of what comes from outside the project (:mod:`benchmarks.plugins`) its origin too, which names the
  distribution's version or the hash of the file: an edited file makes its records stale.

Keys leave out options that have their defaults. Whoever changes the *value* of a default therefore
raises the version of its class; of the budget's defaults, that of the training rule. A new option
whose default changes nothing needs no raise.

``tests/benchmarks/test_versions.py`` remembers a hash of the code behind each, and of the defaults,
and asks when it changes. The code of data sets needs no version: a hash of each split stands in the
record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import datasets
import flows

if TYPE_CHECKING:
    from benchmarks.cell import Cell

__all__ = ["COMMON", "ORIGIN", "explain_difference", "is_known", "versions_of"]

ORIGIN = "origin."
"""What the names of origins begin with, among versions and as columns of a record."""

COMMON: dict[str, int] = {
    "training rule": 1,
    "basis of flows": 1,
    "basis of measures": 1,
}
"""Versions of what every cell goes through."""


def versions_of(cell: Cell) -> dict[str, int | str]:
    """The present version of everything that a cell's record depends on.

    ``flow``, ``dataset`` and ``reference`` stand for the cell's own, and ``origin.flow`` and so on,
    with a measure's name likewise, for where they come from if not from the project. What is no
    longer there (a flow or a family that was removed) has no version.
    """
    # What measures needs a cell, and a cell's key these versions.
    from benchmarks import measures

    found: dict[str, int | str] = dict(COMMON)
    for role, entry in _entries(cell).items():
        if entry is not None:
            found[role] = entry.config_class.version
            if origin := getattr(entry, "origin", ""):
                found[f"{ORIGIN}{role}"] = origin
    known = [name for name in cell.measures if name in measures.FAMILIES]
    for name in measures.complete(known):
        family = measures.family(name)
        found[name] = family.version
        if origin := getattr(family, "origin", ""):
            found[f"{ORIGIN}{name}"] = origin
    return found


def explain_difference(
    cell: Cell, then: Mapping[str, int | str], now: Mapping[str, int | str]
) -> str:
    """What has changed since a cell was measured, in words; empty if nothing has.

    Of what came from outside the project and is not loaded now nothing is known, so that a record
    can be read where its plugin is not.
    """
    names = _names(cell)
    absent = {
        part
        for part in then
        if f"{ORIGIN}{part}" in then and part not in now and f"{ORIGIN}{part}" not in now
    }
    # A contestant against itself is said once.
    changes: dict[str, None] = {}
    for part in {**then, **now}:
        role = part.removeprefix(ORIGIN)
        if role in absent or then.get(part) == now.get(part):
            continue
        before, after = then.get(part, "none"), now.get(part, "none")
        if part == role:
            changes[f"{names.get(part, part)} version {before}, now {after}"] = None
        else:
            changes[f"{names.get(role, role)} of {before}, now {after}"] = None
    return f"measured by {'; '.join(changes)}" if changes else ""


def is_known(cell: Cell) -> bool:
    """Whether everything that a cell names is loaded here, so that its key can be computed."""
    from benchmarks import measures

    return None not in _entries(cell).values() and measures.FAMILIES.keys() >= set(cell.measures)


def _names(cell: Cell) -> dict[str, str]:
    """The names of the entries of a cell, by their role."""
    names = {"flow": cell.flow, "dataset": cell.dataset}
    if cell.reference is not None:
        names["reference"] = cell.reference.flow
    return names


def _entries(cell: Cell) -> dict[str, flows.Entry | datasets.Entry | None]:
    return {
        role: (datasets if role == "dataset" else flows).ENTRIES.get(name)
        for role, name in _names(cell).items()
    }
