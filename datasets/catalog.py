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
        "isotropic",
        "datasets.gaussian:GaussianConfig",
        "gaussian",
        "standard Gaussian of any dimension: what a flow must not spoil",
        "closed form",
        {"condition_number": 1.0},
    ),
    Entry(
        "mixture",
        "datasets.mixture:MixtureConfig",
        "gaussian",
        "Gaussians on a circle in a random plane, entropy by quadrature",
        "closed form",
    ),
    Entry(
        "funnel",
        "datasets.funnel:FunnelConfig",
        "gaussian",
        "a coordinate sets the scale of all others, entropy known",
        "Neal 2003, Slice sampling, doi:10.1214/aos/1056562461, section 8",
    ),
    Entry(
        "student-t",
        "datasets.student_t:StudentTConfig",
        "gaussian",
        "correlated Student t with heavy tails, entropy known",
        "closed form",
    ),
    Entry(
        "banana",
        "datasets.banana:BananaConfig",
        "gaussian",
        "a Gaussian bent along a parabola, entropy known",
        "Haario, Saksman and Tamminen 1999, doi:10.1007/s001800050022",
    ),
    Entry(
        "power",
        "datasets.power:PowerConfig",
        "tabular",
        "household electric power, 6 columns, as the MAF paper prepares it",
        "UCI 235, CC BY 4.0, Hebrail and Berard; Papamakarios et al. 2017, arXiv:1705.07057",
    ),
    Entry(
        "gas",
        "datasets.gas:GasConfig",
        "tabular",
        "chemical sensors, 8 columns, as the MAF paper prepares it",
        "UCI 322; Papamakarios et al. 2017, arXiv:1705.07057",
    ),
    Entry(
        "hepmass",
        "datasets.hepmass:HepmassConfig",
        "tabular",
        "particle collisions, 21 columns, as the MAF paper prepares it",
        "UCI 347; Papamakarios et al. 2017, arXiv:1705.07057",
    ),
    Entry(
        "miniboone",
        "datasets.miniboone:MinibooneConfig",
        "tabular",
        "neutrino events, 43 columns, as the MAF paper prepares it",
        "UCI 199; Papamakarios et al. 2017, arXiv:1705.07057",
    ),
    Entry(
        "bsds300",
        "datasets.bsds300:Bsds300Config",
        "tabular",
        "patches of natural images, 63 columns, the MAF paper's sample",
        "Martin et al. 2001; Papamakarios et al. 2017, arXiv:1705.07057",
    ),
    Entry(
        "bsds300-style",
        "datasets.bsds300_style:Bsds300StyleConfig",
        "tabular",
        "patches of natural images, 63 columns, another sample",
        "Martin et al. 2001, doi:10.1109/ICCV.2001.937655",
    ),
    *(
        Entry(name, "datasets.uci:UciConfig", "tabular", summary, source, {"table": name})
        for name, summary, source in (
            ("magic", "showers in a gamma telescope, 10 columns", "UCI 159, Bock 2004"),
            ("protein", "properties of protein structures, 8 columns", "UCI 265, Rana 2013"),
            (
                "keggundirected",
                "metabolic networks, 10 columns",
                "UCI 221, Naeem and Asghar 2011",
            ),
            (
                "parkinsons",
                "recordings of patients' voices, 14 columns",
                "UCI 189, Tsanas and Little 2009",
            ),
        )
    ),
    Entry(
        "optdigits",
        "datasets.optdigits:OptdigitsConfig",
        "image",
        "8 x 8 digits with 17 grey levels",
        "UCI 80, CC BY 4.0, Alpaydin and Kaynak",
    ),
    Entry(
        "mnist",
        "datasets.mnist:MnistConfig",
        "image",
        "28 x 28 digits",
        "LeCun, Cortes and Burges 1998",
    ),
    Entry(
        "fashion-mnist",
        "datasets.mnist:MnistConfig",
        "image",
        "28 x 28 pictures of clothes",
        "Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747",
        {"variant": "fashion-mnist"},
    ),
    Entry(
        "cifar10",
        "datasets.cifar10:Cifar10Config",
        "image",
        "32 x 32 colour photographs",
        "Krizhevsky 2009, Learning multiple layers of features from tiny images",
    ),
    Entry(
        "omniglot",
        "datasets.omniglot:OmniglotConfig",
        "image",
        "28 x 28 characters of 50 alphabets, black and white",
        "Lake, Salakhutdinov and Tenenbaum 2015, doi:10.1126/science.aab3050",
    ),
    Entry(
        "freyfaces",
        "datasets.freyfaces:FreyfacesConfig",
        "image",
        "28 x 20 frames of one face",
        "Roweis, with images of Brendan Frey",
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
