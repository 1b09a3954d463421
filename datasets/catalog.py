"""Every data set by its name: name -> typed config -> data set.

A new data set is one new file and one entry here.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets.base import DataError, Dataset, DatasetConfig, Kind

__all__ = ["ENTRIES", "Entry", "UnknownDataset", "configure", "entry", "load"]


class UnknownDataset(DataError, KeyError):
    """No data set of that name; the message gives the nearest one."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Entry:
    """A named data set.

    Attributes:
        name: as given in a matrix file.
        where: ``module:ConfigClass`` of its config, imported when first needed.
        kind: ``toy``, ``gaussian``, ``tabular`` or ``image``.
        summary: one line for ``list datasets``.
        source: where it comes from: paper, repository or archive.
        options: what differs from the config's defaults.
    """

    name: str
    where: str
    kind: Kind
    summary: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config_class(self) -> type[DatasetConfig]:
        """The class of the typed options."""
        module, _, name = self.where.partition(":")
        found: type[DatasetConfig] = getattr(importlib.import_module(module), name)
        return found


_FFJORD_TOYS = "toy data of Grathwohl et al. 2018, arXiv:1810.01367, section 4.1"

_ALL = [
    *(
        Entry(name, "datasets.toy:ToyConfig", "toy", summary, _FFJORD_TOYS, {"shape": name})
        for name, summary in {
            "8gaussians": "eight Gaussians on a circle",
            "checkerboard": "uniform on the dark squares of a 4 x 4 board",
            "2spirals": "two noisy spirals",
            "pinwheel": "five twisted arms",
            "rings": "four concentric noisy circles",
            "moons": "two interleaved half circles",
            "swissroll": "one noisy spiral",
            "circles": "two concentric noisy circles",
        }.items()
    ),
    Entry(
        "gaussian",
        "datasets.gaussian:GaussianConfig",
        "gaussian",
        "correlated Gaussian of any dimension, entropy known",
        "closed form",
    ),
    Entry(
        "power",
        "datasets.power:PowerConfig",
        "tabular",
        "household electric power, 6 columns, as the MAF paper prepares it",
        "UCI 235, CC BY 4.0, Hebrail and Berard; Papamakarios et al. 2017, arXiv:1705.07057",
    ),
    Entry(
        "optdigits",
        "datasets.optdigits:OptdigitsConfig",
        "image",
        "8 x 8 digits with 17 grey levels",
        "UCI 80, CC BY 4.0, Alpaydin and Kaynak",
    ),
]

ENTRIES: dict[str, Entry] = {item.name: item for item in _ALL}
"""Every entry by name, in the order in which ``list datasets`` shows them."""


def entry(name: str) -> Entry:
    """The entry of a name.

    Raises:
        UnknownDataset: with the nearest name.
    """
    if name in ENTRIES:
        return ENTRIES[name]
    near = difflib.get_close_matches(name, ENTRIES, n=1, cutoff=0.0)[0]
    raise UnknownDataset(f"no data set is called {name!r}; did you mean {near!r}?")


def configure(name: str, options: Mapping[str, Any] | None = None) -> DatasetConfig:
    """The typed options of a named data set.

    Raises:
        UnknownDataset: if there is no such name.
        pydantic.ValidationError: if an option is unknown or its value has the wrong type.
    """
    found = entry(name)
    return found.config_class.model_validate({**found.options, **(options or {})})


def load(name: str, **options: Any) -> Dataset:
    """Make a data set by name.

    Args:
        name: an entry's name.
        **options: what to change of the entry's own options.

    Raises:
        UnknownDataset: if there is no such name.
        pydantic.ValidationError: if an option is unknown or its value has the wrong type.
        DataMissing: if a file is not there.
        DataCorrupt: if a file is not what it should be.

    Example:
        >>> load("gaussian", dimension=3).event_shape
        (3,)
    """
    return configure(name, options).load(name)
