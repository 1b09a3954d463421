"""Normalizing flows behind one contract: see :mod:`flows.base`."""

from flows.base import (
    Base,
    Flow,
    FlowError,
    InputError,
    NotInvertible,
    Recipe,
    StandardNormal,
    Traits,
    VectorFlow,
)
from flows.config import Entry, FlowConfig
from flows.meter import Meter, tick
from flows.registry import ENTRIES, BadEntry, UnknownFlow, build, configure, entry
from flows.saving import NotLoadable, NotSaveable, load, save

__all__ = [
    "ENTRIES",
    "BadEntry",
    "Base",
    "Entry",
    "Flow",
    "FlowConfig",
    "FlowError",
    "InputError",
    "Meter",
    "NotInvertible",
    "NotLoadable",
    "NotSaveable",
    "Recipe",
    "StandardNormal",
    "Traits",
    "UnknownFlow",
    "VectorFlow",
    "build",
    "configure",
    "entry",
    "load",
    "save",
    "tick",
]
