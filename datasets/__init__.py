"""Data sets of the literature and families with a known truth: see :mod:`datasets.base`."""

from datasets.base import (
    DataCorrupt,
    DataError,
    DataMissing,
    Dataset,
    DatasetConfig,
    Preprocessing,
    Split,
    Truth,
)
from datasets.catalog import ENTRIES, Entry, UnknownDataset, configure, entry, load

__all__ = [
    "ENTRIES",
    "DataCorrupt",
    "DataError",
    "DataMissing",
    "Dataset",
    "DatasetConfig",
    "Entry",
    "Preprocessing",
    "Split",
    "Truth",
    "UnknownDataset",
    "configure",
    "entry",
    "load",
]
