"""Every data set by its name: name -> typed config -> data set.

A data set is one file: it holds a list ``ENTRIES`` of :class:`datasets.base.Entry`. The project's
own are found by looking into the packages ``sampled``, ``tables`` and ``images``; those of others
come in by :func:`add`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from datasets.base import KINDS, DataError, Dataset, DatasetConfig, Entry
from datasets.stored import StoredConfig

__all__ = ["ENTRIES", "BadEntry", "UnknownDataset", "add", "configure", "entry", "load"]

_PACKAGES = ("datasets.sampled", "datasets.tables", "datasets.images")

ENTRIES: dict[str, Entry] = {}
"""Every entry by name, in the order in which ``list datasets`` shows them: by kind, then by file;
those from outside last."""


class UnknownDataset(DataError, KeyError):
    """No data set of that name; the message gives the nearest one, where one is near."""

    def __str__(self) -> str:
        return str(self.args[0])


class BadEntry(DataError, TypeError):
    """An entry that cannot be taken; the message says where it is from and what is wrong."""


def add(entries: Iterable[Entry], origin: str) -> None:
    """Take data sets from outside the project, as :func:`flows.registry.add` takes flows.

    Raises:
        BadEntry: if an attribute of an entry is wrong, or its name is taken.
    """
    where = origin or "datasets"
    if isinstance(entries, Entry | str) or not isinstance(entries, Iterable):
        raise BadEntry(f"{where}: ENTRIES must be a list of datasets.Entry, not {entries!r}")
    new: dict[str, Entry] = {}
    for found in entries:
        _check(found, where)
        if (other := new.get(found.name) or ENTRIES.get(found.name)) is not None:
            raise BadEntry(
                f"{where}: the name {found.name!r} is taken by {other.config_class.__qualname__} "
                f"of {other.origin or other.config_class.__module__}; choose another"
            )
        new[found.name] = dataclasses.replace(found, origin=origin)
    ENTRIES.update(new)


def _check(found: object, where: str) -> None:
    """Refuse what would fail later, in a place that does not say why."""
    if not isinstance(found, Entry):
        raise BadEntry(f"{where}: ENTRIES holds {found!r}, which is no datasets.Entry")

    def refuse(attribute: str, why: str) -> BadEntry:
        return BadEntry(f"{where}: entry {found.name!r}, attribute {attribute}: {why}")

    if not (isinstance(found.name, str) and re.fullmatch(r"[a-z0-9][a-z0-9.-]*", found.name)):
        raise refuse("name", "must be of small letters, digits, hyphens and dots")
    cls = found.config_class
    if not (isinstance(cls, type) and issubclass(cls, DatasetConfig)):
        raise refuse("config_class", f"must be a class derived from DatasetConfig, not {cls!r}")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise refuse("config_class", f"{cls.__qualname__} does not define {missing}")
    if getattr(cls, "kind", None) not in KINDS:
        kinds = ", ".join(map(repr, KINDS))
        raise refuse("config_class", f"{cls.__qualname__}.kind must be one of {kinds}")
    for attribute in ("summary", "source"):
        text = getattr(found, attribute)
        if not (isinstance(text, str) and text.strip()):
            raise refuse(attribute, f"must be a text, not {text!r}")
    try:
        config = found.config
        if isinstance(config, StoredConfig):
            config.source()
    except AttributeError as error:
        raise refuse("config_class", str(error)) from error
    except (ValidationError, TypeError, ValueError) as error:
        raise refuse("options", str(error)) from error


def entry(name: str) -> Entry:
    """The entry of a name.

    Raises:
        UnknownDataset: with the nearest name, where one is near.
    """
    if name in ENTRIES:
        return ENTRIES[name]
    near = difflib.get_close_matches(name, ENTRIES, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else "`ffjord-bench list datasets` shows all"
    raise UnknownDataset(f"no data set is called {name!r}; {hint}")


def configure(name: str, options: Mapping[str, Any] | None = None) -> DatasetConfig:
    """The typed options of a named data set.

    Raises:
        UnknownDataset: if there is no such name.
        pydantic.ValidationError: if an option is unknown or its value has the wrong type.
    """
    found = entry(name)
    return found.config_class.model_validate({**found.options, **(options or {})})


def load(name: str, **options: Any) -> Dataset:
    """Make a data set by name, with changes to the entry's own options.

    Raises:
        UnknownDataset, pydantic.ValidationError: as :func:`configure`.
        DataMissing: if a file is not there.
        DataCorrupt: if a file is not what it should be.

    Example:
        >>> load("gaussian", dimension=3).event_shape
        (3,)
    """
    return configure(name, options).load(name)


def _find() -> None:
    """Look into the project's packages."""
    found: list[Entry] = []
    for package in _PACKAGES:
        paths = importlib.import_module(package).__path__
        for name in sorted(module.name for module in pkgutil.iter_modules(paths)):
            found += getattr(importlib.import_module(f"{package}.{name}"), "ENTRIES", [])
    add(sorted(found, key=lambda item: KINDS.index(item.kind)), origin="")


_find()
