"""Every family of measures by its name.

A family is one file with a list ``ENTRIES`` of :class:`benchmarks.measures.base.Family`. The
project's own are found by looking into this package; those of others come in by :func:`add`.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Iterable
from typing import get_args

from benchmarks.errors import BadEntry, MatrixError, hint
from benchmarks.measures.always import ALWAYS
from benchmarks.measures.base import Column, Family, Sort, Stage

__all__ = ["FAMILIES", "add", "by_default", "column", "columns", "complete", "family", "of_stage"]

FAMILIES: dict[str, Family] = {}
"""Every family in the order in which they run."""


def add(entries: Iterable[Family], origin: str) -> None:
    """Take families from outside the project, as :func:`flows.registry.add` takes flows.

    Raises:
        BadEntry: if an attribute is wrong, or a name of a family or a column is taken.
    """
    where = origin or "benchmarks.measures"
    if isinstance(entries, Family | str) or not isinstance(entries, Iterable):
        raise BadEntry(f"{where}: ENTRIES must be a list of measures.Family, not {entries!r}")
    new = dict(FAMILIES)
    whose = {column.name: "every record" for column in ALWAYS}
    whose |= {column.name: each.name for each in new.values() for column in each.columns}
    for found in entries:
        _check(found, where)
        if found.name in new:
            raise BadEntry(
                f"{where}: the name {found.name!r} is taken by the measure of "
                f"{new[found.name].origin or new[found.name].measure.__module__}; choose another"
            )
        for one in found.columns:
            if one.name in whose:
                raise BadEntry(
                    f"{where}: measure {found.name!r}: the column {one.name!r} is taken by "
                    f"{whose[one.name]}; choose another"
                )
            whose[one.name] = found.name
        new[found.name] = dataclasses.replace(found, origin=origin)
    order = {name: rank for rank, name in enumerate(get_args(Stage))}
    ranked = sorted(new.values(), key=lambda item: (order[item.stage], item.place, item.name))
    FAMILIES.clear()
    FAMILIES.update({item.name: item for item in ranked})


def _check(found: object, where: str) -> None:
    """Refuse what would fail later, in a place that does not say why."""
    if not isinstance(found, Family):
        raise BadEntry(f"{where}: ENTRIES holds {found!r}, which is no measures.Family")

    def refuse(attribute: str, why: str) -> BadEntry:
        return BadEntry(f"{where}: measure {found.name!r}, attribute {attribute}: {why}")

    if not (isinstance(found.name, str) and re.fullmatch(r"[a-z0-9][a-z0-9.-]*", found.name)):
        raise refuse("name", "must be of small letters, digits, hyphens and dots")
    if not (isinstance(found.summary, str) and found.summary.strip()):
        raise refuse("summary", f"must be a text, not {found.summary!r}")
    if found.stage not in get_args(Stage):
        raise refuse("stage", f"must be 'quality' or 'cost', not {found.stage!r}")
    if isinstance(found.version, bool) or not isinstance(found.version, int):
        raise refuse("version", f"must be a whole number, not {found.version!r}")
    if not callable(found.measure):
        raise refuse("measure", f"must be a function of a Subject, not {found.measure!r}")
    if not isinstance(found.columns, tuple) or not found.columns:
        raise refuse("columns", "must be a tuple of measures.Column with one or more")
    for number, one in enumerate(found.columns, start=1):
        if not isinstance(one, Column):
            raise refuse("columns", f"number {number} is {one!r}, which is no measures.Column")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", one.name):
            raise refuse("columns", f"the name {one.name!r} must be of small letters and '_'")
        if one.name in [other.name for other in found.columns[: number - 1]]:
            raise refuse("columns", f"{one.name!r} is there twice")
        if not one.meaning.strip():
            raise refuse("columns", f"{one.name!r} needs a meaning, with its unit")
        if one.sort not in get_args(Sort):
            raise refuse("columns", f"{one.name!r}: sort must be one of {get_args(Sort)}")
        if one.table and one.sort in ("flag", "text"):
            raise refuse("columns", f"{one.name!r}: a {one.sort} is no column of a table")


def family(name: str) -> Family:
    """The family of a name.

    Raises:
        MatrixError: with the nearest name, where one is near.
    """
    if name not in FAMILIES:
        raise MatrixError(f"no measure is called {name!r}{hint(name, FAMILIES)}")
    return FAMILIES[name]


def by_default() -> list[str]:
    """The families of a matrix that names none, in order."""
    return [found.name for found in FAMILIES.values() if found.by_default]


def complete(chosen: Iterable[str]) -> tuple[str, ...]:
    """All families that are measured where these are chosen, in order.

    Example:
        >>> complete(["time", "quality"])
        ('quality', 'time', 'machine')
    """
    names = _with_machine({family(name).name for name in chosen})
    return tuple(name for name in FAMILIES if name in names)


def of_stage(chosen: Iterable[str], stage: str) -> list[str]:
    """The families to be measured in a stage, in order.

    Args:
        chosen: a cell's families. What the machine can do is measured with the cost of any.
        stage: ``quality`` or ``cost``.

    Example:
        >>> of_stage(("quality", "time"), "cost")
        ['time', 'machine']
    """
    names = _with_machine({name for name in chosen if stage == family(name).stage})
    return [name for name in FAMILIES if name in names]


def _with_machine(names: set[str]) -> set[str]:
    """What the machine can do is measured with the cost of anything."""
    timed = any(FAMILIES[name].stage == "cost" for name in names)
    return {*names, "machine"} if timed else names


def columns(*sorts: Sort, table: str = "") -> list[Column]:
    """The columns of these sorts, or of all, in order: what every record has, then by family.

    Of a ``table`` those alone that are columns of it.

    Example:
        >>> [column.name for column in columns("time", table="cost")][:2]
        ['train_step_seconds', 'log_prob_seconds']
    """
    known = [*ALWAYS, *(column for found in FAMILIES.values() for column in found.columns)]
    return [
        column
        for column in known
        if (not sorts or column.sort in sorts) and (not table or column.table == table)
    ]


def column(name: str) -> Column:
    """The column of a name.

    Example:
        >>> column("train_step_seconds").title
        'train step [ms]'
    """
    return next(found for found in columns() if found.name == name)


def _find() -> None:
    """Look into this package."""
    package = __name__.rpartition(".")[0]
    found: list[Family] = []
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        # Not through this module, which is still being made.
        if module.name != "registry":
            found += getattr(importlib.import_module(f"{package}.{module.name}"), "ENTRIES", [])
    add(found, origin="")


_find()
