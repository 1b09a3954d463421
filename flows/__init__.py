"""Normalizing flows behind one contract: see :mod:`flows.base`."""

from flows.base import (
    Base,
    Flow,
    FlowError,
    InputError,
    NotInvertible,
    StandardNormal,
    Traits,
    VectorFlow,
)
from flows.catalog import ENTRIES, Entry, UnknownFlow, build, configure, entry
from flows.config import FlowConfig
from flows.meter import Meter, tick

__all__ = [
    "ENTRIES",
    "Base",
    "Entry",
    "Flow",
    "FlowConfig",
    "FlowError",
    "InputError",
    "Meter",
    "NotInvertible",
    "StandardNormal",
    "Traits",
    "UnknownFlow",
    "VectorFlow",
    "build",
    "configure",
    "entry",
    "tick",
]
