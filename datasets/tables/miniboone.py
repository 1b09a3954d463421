"""MINIBOONE: a neutrino experiment, as the MAF paper prepares it.

Papamakarios et al. 2017 (arXiv:1705.07057, appendix) publish the prepared array; from UCI's
text it comes by keeping the signal (the first rows, as many as the first line says), dropping
eleven outliers and seven columns with values that recur.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.base import Array, DataCorrupt, Entry, Published
from datasets.files.recognise import content, npy_array
from datasets.files.sources import CC_BY, UCI, File, Form, Source
from datasets.files.untrusted import npy, open_plain, reading
from datasets.stored import StoredConfig
from datasets.tables.maf import MAF, MAF_ARCHIVE
from datasets.tables.steps import check_finite, standardised_splits

__all__ = ["MinibooneConfig", "read_particle_text"]

SOURCE = Source(
    (
        Form(
            "npy",
            (
                File(
                    "miniboone.npy",
                    npy_array((36_488, 43)),
                    patterns=("*miniboone*.npy", "data.npy"),
                ),
            ),
        ),
        Form(
            "text",
            (
                File(
                    "MiniBooNE_PID.txt",
                    content(
                        "577ab8bcb612199a0386cef1725058295df9a18b778a003a6a4349bbd51abd48",
                        b" 36499",
                    ),
                    (f"{UCI}/00199/MiniBooNE_PID.txt",),
                    size=91_000_000,
                    patterns=("*MiniBooNE*.txt*",),
                ),
            ),
        ),
        Form("archive", (MAF_ARCHIVE,)),
    ),
    CC_BY,
    f"UCI 199, Roe 2010; {MAF}",
)

DIMENSION = 43
LARGEST = 10**6
"""Rows of the text, where UCI's has 130,064."""
_RECURRING = (5, 13, 22, 26, 34, 44, 45)


def read_particle_text(path: Path) -> Array:
    """UCI's text: counts of signal and background, then a line of 50 numbers for each event.

    Returns:
        The signal, without outliers and recurring columns, float64, shape ``(n, 43)``.

    Raises:
        DataCorrupt: if it is no such text.
    """
    import pandas as pd

    with reading(path, "text of counts and numbers"), open_plain(path) as stream:
        signal, _ = map(int, stream.readline(100).split())
        rows = pd.read_csv(stream, sep=r"\s+", header=None, nrows=min(signal, LARGEST))
        values = rows.to_numpy(dtype=np.float64)
    if values.shape != (signal, DIMENSION + len(_RECURRING)):
        raise DataCorrupt(
            f"{path} should hold {signal} rows of {DIMENSION + len(_RECURRING)} numbers for the "
            f"signal; it holds {values.shape[0]} of {values.shape[1]}: truncated?"
        )
    check_finite(values, path, first_line=2)
    return np.delete(values[values[:, 0] >= -100], _RECURRING, axis=1)


class MinibooneConfig(StoredConfig):
    """MINIBOONE: 29,556 / 3,284 / 3,648 rows of 43 columns.

    Split 0 takes the rows in the order of the file, as the paper does; another one shuffles them.
    """

    kind = "tabular"
    stored_as = "miniboone"
    origin = SOURCE
    split_sizes = (29_556, 3_284, 3_648)
    columns = DIMENSION

    def prepare(self) -> Sequence[Array]:
        found = self.located()
        with found.opened("miniboone/data.npy") as (path,):
            if found.form == "text":
                rows = read_particle_text(path)
            else:
                rows = check_finite(npy(path).read().astype(np.float64), path)
        return standardised_splits(rows)


ENTRIES = [
    Entry(
        "miniboone",
        MinibooneConfig,
        "neutrino events, 43 columns, as the MAF paper prepares it",
        "UCI 199; Papamakarios et al. 2017, arXiv:1705.07057",
        published=Published(-37.24, 1.07, 1.07, "MINIBOONE"),
    )
]
