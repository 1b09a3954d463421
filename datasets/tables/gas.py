"""GAS: eight chemical sensors in a mixture of gases, as the MAF paper prepares it.

Papamakarios et al. 2017 (arXiv:1705.07057, appendix), in the form of their published code:
the time and the two concentrations are dropped, and sensors that are near copies of others; all
rows serve to standardise; they are not shuffled, for the published file is a random quarter of
UCI's rows in random order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.base import Array, DataCorrupt, Entry, Published
from datasets.files.recognise import starting_with
from datasets.files.sources import CC_BY, File, Form, Source
from datasets.files.unpickle import load_frame
from datasets.stored import StoredConfig
from datasets.tables.maf import MAF, MAF_ARCHIVE
from datasets.tables.steps import check_finite, split_off, standardise, uncorrelated

__all__ = ["GasConfig", "prepare_gas"]

SOURCE = Source(
    (
        Form(
            "pickle",
            (
                File(
                    "ethylene_CO.pickle",
                    starting_with(b"", "ethylene_CO.pickle"),
                    patterns=("*ethylene_CO*.pickle*",),
                ),
            ),
        ),
        Form("archive", (MAF_ARCHIVE,)),
    ),
    CC_BY,
    f"UCI 322, Fonollosa et al. 2015; {MAF}",
    "the published file holds a quarter of UCI's rows, drawn at random without a seed that "
    "is known, so that UCI's own files do not serve",
)

_DROPPED = ("Time", "Meth", "Eth")


def prepare_gas(columns: Mapping[str, Array]) -> list[Array]:
    """Drop columns, standardise, split.

    Args:
        columns: of the published table, by name, shape ``(n,)`` each.

    Returns:
        Train, validation and test, float32.

    Raises:
        DataCorrupt: if a column that is to be dropped is not there.
    """
    if missing := [name for name in _DROPPED if name not in columns]:
        raise DataCorrupt(
            f"gas: no column {' and no '.join(missing)}; the columns are {', '.join(columns)}"
        )
    sensors = np.stack(
        [
            np.asarray(column, dtype=np.float64)
            for name, column in columns.items()
            if name not in _DROPPED
        ],
        axis=1,
    )
    sensors = sensors[:, uncorrelated(sensors)]
    return standardise(split_off(sensors), sensors, ddof=1)


def _read(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as stream:
            columns = load_frame(stream)
    except DataCorrupt as error:
        raise DataCorrupt(f"{path}: {error}") from error
    check_finite(np.stack([np.asarray(c, np.float64) for c in columns.values()], axis=1), path)
    return columns


class GasConfig(StoredConfig):
    """GAS: 852,174 / 94,685 / 105,206 rows of 8 columns."""

    kind = "tabular"
    stored_as = "gas"
    origin = SOURCE
    split_sizes = (852_174, 94_685, 105_206)
    columns = 8
    in_random_order = True

    def prepare(self) -> Sequence[Array]:
        with self.located().opened("ethylene_CO.pickle") as (path,):
            return prepare_gas(_read(path))


ENTRIES = [
    Entry(
        "gas",
        GasConfig,
        "chemical sensors, 8 columns, as the MAF paper prepares it",
        "UCI 322; Papamakarios et al. 2017, arXiv:1705.07057",
        published=Published(-3.58, 0.75, 0.75, "GAS"),
    )
]
