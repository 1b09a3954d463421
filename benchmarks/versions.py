"""Versions of what makes a number, raised by hand.

A record counts as long as the code behind it would measure the same again. Who changes what a
system computes or costs, what a family of measures measures, or how everything is trained, raises
the version of that: the cells concerned then have other keys, their records are *stale*
(:class:`benchmarks.store.Stale`), and ``run`` measures them anew.

The versions are

* ``version`` of a system's :class:`flows.FlowConfig`,
* ``version`` of a family in :mod:`benchmarks.measures`,
* :data:`COMMON`, of what all cells share.

``tests/benchmarks/test_versions.py`` remembers a hash of the code behind each and asks when it
changes. Data need no version: a hash of each split stands in the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import flows

if TYPE_CHECKING:
    from benchmarks.cell import Cell

__all__ = ["COMMON", "explain_difference", "versions_of"]

COMMON: dict[str, int] = {
    "training rule": 1,
    "basis of flows": 1,
    "basis of measures": 1,
}
"""Versions of what every cell goes through."""


def versions_of(cell: Cell) -> dict[str, int]:
    """The present version of everything that a cell's record depends on.

    ``flow`` and ``reference`` stand for the systems of the two contestants. What is no longer
    there (a flow or a family that was removed) has no version.
    """
    # What measures needs a cell, and a cell's key these versions.
    from benchmarks import measures

    found = dict(COMMON)
    contestants = {"flow": cell.flow}
    if cell.reference is not None:
        contestants["reference"] = cell.reference.flow
    for role, name in contestants.items():
        if name in flows.ENTRIES:
            found[role] = flows.entry(name).config_class.version
    known = [name for name in cell.measures if name in measures.FAMILIES]
    for name in measures.complete(known):
        found[name] = measures.family(name).version
    return found


def explain_difference(cell: Cell, then: Mapping[str, int], now: Mapping[str, int]) -> str:
    """What has changed since a cell was measured, in words; empty if nothing has."""
    names = {"flow": cell.flow}
    if cell.reference is not None:
        names["reference"] = cell.reference.flow
    # A contestant against itself is said once.
    changes = {
        f"{names.get(part, part)} version {then.get(part, 'none')}, now {now.get(part, 'none')}": 0
        for part in {**then, **now}
        if then.get(part) != now.get(part)
    }
    return f"measured by {'; '.join(changes)}" if changes else ""
