"""BSDS300: patches of natural images, as the MAF paper publishes them.

Papamakarios et al. 2017 (arXiv:1705.07057, appendix), after Uria et al. 2013
(arXiv:1306.0186): 8 x 8 grey patches with noise, less their mean, without the last pixel. The
sample of patches is that of the published file, in HDF5; reading it needs the package h5py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import field_validator

from datasets.base import SPLITS, Array, DataCorrupt, Entry, Published
from datasets.files.arrays import hdf5
from datasets.files.recognise import starting_with
from datasets.files.sources import File, Form, Source
from datasets.stored import StoredConfig
from datasets.tables.maf import MAF, MAF_ARCHIVE
from datasets.tables.steps import check_finite

__all__ = ["Bsds300Config", "read_patches"]

SOURCE = Source(
    (
        Form(
            "hdf5",
            (
                File(
                    "BSDS300.hdf5",
                    starting_with(b"\x89HDF\r\n\x1a\n", "BSDS300.hdf5"),
                    patterns=("*BSDS300*.hdf5",),
                ),
            ),
        ),
        Form("archive", (MAF_ARCHIVE,)),
    ),
    "non-commercial research",
    f"Martin et al. 2001, doi:10.1109/ICCV.2001.937655; {MAF}",
)


def read_patches(path: Path) -> list[Array]:
    """Train, validation and test of the published file, float32.

    Raises:
        DataError: if h5py is not installed.
        DataCorrupt: if a split is not there, or the file is damaged.
    """
    with hdf5(path) as stored:
        if missing := {*SPLITS} - {*stored}:
            raise DataCorrupt(f"{path} does not hold three splits: no {' and no '.join(missing)}")
        splits = [np.asarray(stored[split].read(), dtype=np.float32) for split in SPLITS]
    for split in splits:
        check_finite(split, path)
    return splits


class Bsds300Config(StoredConfig):
    """BSDS300: 1,000,000 / 50,000 / 250,000 patches of 63 columns.

    There is split 0 alone. The published file does not say from which image a patch comes, and
    patches of one image must not fall into two splits: ``bsds300-style`` has further splits.
    """

    kind = "tabular"
    stored_as = "bsds300"
    origin = SOURCE
    split_sizes = (1_000_000, 50_000, 250_000)
    columns = 63

    @field_validator("split")
    @classmethod
    def _published(cls, split: int) -> int:
        if split:
            raise ValueError(
                "bsds300 has its published split 0 alone; bsds300-style draws other ones"
            )
        return split

    def prepare(self) -> Sequence[Array]:
        with self.located().opened("BSDS300.hdf5") as (path,):
            return read_patches(path)


ENTRIES = [
    Entry(
        "bsds300",
        Bsds300Config,
        "patches of natural images, 63 columns, the MAF paper's sample",
        "Martin et al. 2001; Papamakarios et al. 2017, arXiv:1705.07057",
        published=Published(96.67, 0.25, 0.25, "BSDS300"),
    )
]
