"""POWER: household electric power consumption, as the density-estimation literature prepares it.

The recipe is that of Papamakarios et al. 2017 (arXiv:1705.07057, appendix) in the form that
their published code gives it, with one mended fault: that code adds no noise to the time of day,
though the paper says that it does. Without noise the column is discrete, and the likelihood of a
flow has no bound.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datasets.base import Array, DataCorrupt, Entry, Published, named_generator
from datasets.files.sources import CC_BY, EMBEDDED, Source
from datasets.files.untrusted import npz
from datasets.stored import StoredConfig
from datasets.tables.steps import standardised_splits

__all__ = ["PowerConfig", "prepare_power"]

FILE = EMBEDDED / "power.npz"
SOURCE = Source((), CC_BY, "UCI 235, Hebrail and Berard 2012", embedded=FILE)
COLUMNS = ("gap", "volt", "sm1", "sm2", "sm3", "minute")


def prepare_power(columns: dict[str, Array]) -> list[Array]:
    """Shuffle, add noise, split and standardise.

    Args:
        columns: the integers of the complete rows, in the order of the source: ``gap`` in W,
            ``volt`` in 0.01 V, ``sm1`` to ``sm3`` in Wh, ``minute`` of the day.

    Returns:
        Train, validation and test, float32, columns in the order of :data:`COLUMNS`.
    """
    n = len(columns["gap"])
    # The published code's generator, as frozen as its results.
    random = np.random.RandomState(42)
    order = np.arange(n)
    random.shuffle(order)
    # The order of the draws is not the order of the columns. Each unit of noise is the
    # resolution of its column: 0.01 V, 1 W, 1 Wh.
    volt_noise = random.rand(n)
    gap_noise = random.rand(n)
    meter_noise = random.rand(n, 3)
    # A stream of its own, so that the published draws above are as they were.
    minute_noise = named_generator("power", "minute noise").random(n)

    rows = np.empty((n, len(COLUMNS)))
    rows[:, 0] = columns["gap"][order] / 1000 + 0.001 * gap_noise
    rows[:, 1] = columns["volt"][order] / 100 + 0.01 * volt_noise
    for i in range(3):
        rows[:, 2 + i] = columns[f"sm{i + 1}"][order] + meter_noise[:, i]
    rows[:, 5] = columns["minute"][order] + minute_noise

    return standardised_splits(rows)


class PowerConfig(StoredConfig):
    """POWER: 1,659,917 / 184,435 / 204,928 rows of 6 columns, which ship with the project."""

    kind = "tabular"
    stored_as = "power"
    origin = SOURCE
    split_sizes = (1_659_917, 184_435, 204_928)
    columns = len(COLUMNS)
    in_random_order = True

    def prepare(self) -> Sequence[Array]:
        try:
            with npz(FILE) as stored:
                columns = {column: stored[column].read() for column in COLUMNS}
        except DataCorrupt as error:
            raise DataCorrupt(f"{FILE} is damaged: install the project again") from error
        return prepare_power(columns)


ENTRIES = [
    Entry(
        "power",
        PowerConfig,
        "household electric power, 6 columns, as the MAF paper prepares it",
        "UCI 235, CC BY 4.0, Hebrail and Berard; Papamakarios et al. 2017, arXiv:1705.07057",
        hashes={
            "train": "111551332901fa82383fc8dcf23272ed9041d4093038d072590cd968c3eea4d7",
            "validation": "1ec39d40a7f065d7b73a4a3429ed97d1568499cbc87a34a04a48dc5ba2bb8130",
            "test": "757abf86254a34c5c26f58882c0113d2f37392e304bdc5880bdf693f90a25178",
        },
        published=Published(-7.74, 0.02, 0.02, "POWER"),
    )
]
