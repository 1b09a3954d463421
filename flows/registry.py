"""Every flow by its name: name -> typed config -> flow.

A system is one file: beside the system and its config it holds a list ``ENTRIES`` of
:class:`flows.config.Entry`. The project's own are found by looking into the packages
``continuous``, ``discrete`` and ``peers``; those of others come in by :func:`add`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from flows.base import Flow, FlowError, Recipe
from flows.config import Entry, FlowConfig

__all__ = ["ENTRIES", "BadEntry", "UnknownFlow", "add", "build", "configure", "entry"]

_PACKAGES = ("flows.continuous", "flows.discrete", "flows.peers")

ENTRIES: dict[str, Entry] = {}
"""Every entry by name, in the order in which ``list flows`` shows them: by package, then by file;
those from outside last."""


class UnknownFlow(FlowError, KeyError):
    """No flow of that name; the message gives the nearest one, where one is near."""

    def __str__(self) -> str:
        return str(self.args[0])


class BadEntry(FlowError, TypeError):
    """An entry that cannot be taken; the message says where it is from and what is wrong."""


def add(entries: Iterable[Entry], origin: str) -> None:
    """Take flows from outside the project: all of them, or none.

    Args:
        entries: the list ``ENTRIES`` of a file or module.
        origin: what the entries come from and which version of it, as the record names it:
            ``"my.py, sha256 1234..."``. Kept in :attr:`flows.config.Entry.origin`.

    Raises:
        BadEntry: if an attribute of an entry is wrong, or its name is taken.
    """
    where = origin or "flows"
    if isinstance(entries, Entry | str) or not isinstance(entries, Iterable):
        raise BadEntry(f"{where}: ENTRIES must be a list of flows.Entry, not {entries!r}")
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
        raise BadEntry(f"{where}: ENTRIES holds {found!r}, which is no flows.Entry")

    def refuse(attribute: str, why: str) -> BadEntry:
        return BadEntry(f"{where}: entry {found.name!r}, attribute {attribute}: {why}")

    # A slash stands between a library and its flow.
    if not (
        isinstance(found.name, str)
        and re.fullmatch(r"[a-z0-9][a-z0-9.-]*(/[a-z0-9.-]+)?", found.name)
    ):
        raise refuse("name", "must be of small letters, digits, hyphens, dots and one slash")
    cls = found.config_class
    if not (isinstance(cls, type) and issubclass(cls, FlowConfig)):
        raise refuse("config_class", f"must be a class derived from FlowConfig, not {cls!r}")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise refuse("config_class", f"{cls.__qualname__} does not define {missing}")
    for attribute in ("summary", "source"):
        text = getattr(found, attribute)
        if not (isinstance(text, str) and text.strip()):
            raise refuse(attribute, f"must be a text, not {text!r}")
    if not isinstance(found.remark, str):
        raise refuse("remark", f"must be a text, not {found.remark!r}")
    try:
        _ = found.config
    except (ValidationError, TypeError, ValueError) as error:
        raise refuse("options", str(error)) from error


def entry(name: str) -> Entry:
    """The entry of a name.

    Raises:
        UnknownFlow: with the nearest name, where one is near.
    """
    if name in ENTRIES:
        return ENTRIES[name]
    near = difflib.get_close_matches(name, ENTRIES, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else "`ffjord-bench list flows` shows all"
    raise UnknownFlow(f"no flow is called {name!r}; {hint}")


def configure(name: str, options: Mapping[str, Any] | None = None) -> FlowConfig:
    """The typed options of a named flow, complete, with changes to the entry's own.

    Raises:
        UnknownFlow: if there is no such name.
        pydantic.ValidationError: if an option is unknown or its value has the wrong type.
    """
    found = entry(name)
    return found.config_class.model_validate({**found.options, **(options or {})})


def build(name: str, event_shape: Sequence[int], context_features: int = 0, **options: Any) -> Flow:
    """Make a flow by name.

    Args:
        name: an entry's name.
        event_shape: shape of one datum.
        context_features: width of the context; 0 for none.
        **options: changes to the entry's own.

    Returns:
        An untrained flow, whose ``recipe`` says what it was built from.

    Raises:
        UnknownFlow, pydantic.ValidationError: as :func:`configure`.
        FlowError: if the system cannot model events of that shape.

    Example:
        >>> import torch
        >>> flow = build("maf", event_shape=(6,), layers=5)
        >>> flow.log_prob(torch.zeros(3, 6)).shape
        torch.Size([3])
    """
    config = configure(name, options)
    flow = config.build(event_shape, context_features)
    flow.recipe = Recipe(name, config.model_dump(mode="json"), context_features)
    return flow


def _find() -> None:
    """Look into the project's packages."""
    for package in _PACKAGES:
        paths = importlib.import_module(package).__path__
        for name in sorted(module.name for module in pkgutil.iter_modules(paths)):
            add(getattr(importlib.import_module(f"{package}.{name}"), "ENTRIES", []), origin="")


_find()
