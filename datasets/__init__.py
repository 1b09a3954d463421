"""Data sets of the literature and families with a known truth: see :mod:`datasets.base`."""

from datasets.base import (
    DataCorrupt,
    DataError,
    DataMissing,
    Dataset,
    DatasetConfig,
    Entry,
    Preprocessing,
    Split,
    Truth,
)
from datasets.registry import ENTRIES, BadEntry, UnknownDataset, configure, entry, load
from datasets.sampling import SampledConfig
from datasets.standardisation import Standardisation
from datasets.stored import ImageConfig, StoredConfig

__all__ = [
    "ENTRIES",
    "BadEntry",
    "DataCorrupt",
    "DataError",
    "DataMissing",
    "Dataset",
    "DatasetConfig",
    "Entry",
    "ImageConfig",
    "Preprocessing",
    "SampledConfig",
    "Split",
    "Standardisation",
    "StoredConfig",
    "Truth",
    "UnknownDataset",
    "configure",
    "entry",
    "load",
]
