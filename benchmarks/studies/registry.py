"""Every study by its name.

A study is one file with a list ``ENTRIES`` of :class:`benchmarks.studies.base.Study`. The project's
own are found by looking into this package; those of others come in by :func:`add`.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
import tomllib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from benchmarks.errors import BadEntry, MatrixError, hint
from benchmarks.studies.base import Study

if TYPE_CHECKING:
    from benchmarks.matrix import Matrix

__all__ = ["STUDIES", "add", "keys_by_study", "parts", "study"]

STUDIES: dict[str, Study] = {}
"""Every study in the order of lists and reports."""


def add(entries: Iterable[Study], origin: str) -> None:
    """Take studies from outside the project, as :func:`flows.registry.add` takes flows.

    Raises:
        BadEntry: if an attribute is wrong, or a name is taken.
    """
    where = origin or "benchmarks.studies"
    if isinstance(entries, Study | str) or not isinstance(entries, Iterable):
        raise BadEntry(f"{where}: ENTRIES must be a list of studies.Study, not {entries!r}")
    new = dict(STUDIES)
    own: list[Study] = []
    for found in entries:
        _check(found, where)
        if found.name in new:
            taken = new[found.name].origin or "the project's own"
            raise BadEntry(
                f"{where}: the name {found.name!r} is taken by a study, {taken}; choose another"
            )
        new[found.name] = dataclasses.replace(found, origin=origin)
        own.append(found)
    for found in own:
        for name in found.includes:
            if name not in new or new[name].includes:
                what = "is a union itself" if name in new else f"is not there{hint(name, new)}"
                raise BadEntry(f"{where}: study {found.name!r} includes {name!r}, which {what}")
    ranked = sorted(new.values(), key=lambda item: (item.place, item.name))
    STUDIES.clear()
    STUDIES.update({item.name: item for item in ranked})


def _check(found: object, where: str) -> None:
    """Refuse what would fail later, in a place that does not say why."""
    if not isinstance(found, Study):
        raise BadEntry(f"{where}: ENTRIES holds {found!r}, which is no studies.Study")

    def refuse(attribute: str, why: str) -> BadEntry:
        return BadEntry(f"{where}: study {found.name!r}, attribute {attribute}: {why}")

    if not (isinstance(found.name, str) and re.fullmatch(r"[a-z0-9][a-z0-9-]*", found.name)):
        raise refuse("name", "must be of small letters, digits and hyphens")
    for attribute in ("title", "answers"):
        text = getattr(found, attribute)
        if not (isinstance(text, str) and text.strip()):
            raise refuse(attribute, f"must be a text, not {text!r}")
    for attribute in ("small", "full"):
        text = getattr(found, attribute)
        if not isinstance(text, str):
            raise refuse(attribute, f"must be the text of a matrix file, not {text!r}")
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise refuse(attribute, f"not valid TOML: {error}") from error
        if given := {"name", "description"} & document.keys():
            raise refuse(attribute, f"{' and '.join(sorted(given))}: the study has these itself")
    for attribute in ("tables", "figures", "includes"):
        if not isinstance(getattr(found, attribute), tuple):
            raise refuse(attribute, "must be a tuple")
    functions = {"tables": found.tables, "figures": found.figures}
    for attribute in ("finding", "usage"):
        if (made := getattr(found, attribute)) is not None:
            functions[attribute] = (made,)
    for attribute, several in functions.items():
        for made in several:
            if not callable(made):
                raise refuse(attribute, f"{made!r} is no function")
    if bool(found.small) == bool(found.includes):
        raise refuse("small", "a study has cells of its own, or includes others: one of the two")


def study(name: str) -> Study:
    """The study of a name.

    Raises:
        MatrixError: with the nearest name, where one is near.
    """
    if name not in STUDIES:
        raise MatrixError(
            f"no study is called {name!r}{hint(name, STUDIES)} (a matrix of your own is given as "
            "a file that ends in .toml)"
        )
    return STUDIES[name]


def parts(name: str) -> list[Study]:
    """The studies that have the cells of a name: those that it includes, or itself."""
    found = study(name)
    return [study(part) for part in found.includes] or [found]


def keys_by_study(plan: Matrix) -> dict[str, list[str]]:
    """The keys of a plan's cells by the name of the study that they are of.

    The blocks of a union are named ``study/block``; other plans are one study, the project's own
    or a user's, by their name.
    """
    found: dict[str, dict[str, None]] = {}
    for block, keys in plan.studies.items():
        name = block.partition("/")[0] if "/" in block else plan.name
        found.setdefault(name, {}).update(dict.fromkeys(keys))
    return {name: list(keys) for name, keys in found.items()}


def _find() -> None:
    """Look into this package."""
    package = __name__.rpartition(".")[0]
    found: list[Study] = []
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        # Not through this module, which is still being made.
        if module.name != "registry":
            found += getattr(importlib.import_module(f"{package}.{module.name}"), "ENTRIES", [])
    add(found, origin="")


_find()
