"""Optical recognition of handwritten digits: small images that ship with the project."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datasets.base import Array, DataCorrupt, Entry
from datasets.files.sources import CC_BY, EMBEDDED, Source
from datasets.files.untrusted import npz
from datasets.stored import Alpha, ImageConfig

__all__ = ["OptdigitsConfig"]

FILE = EMBEDDED / "optdigits.npz"
SOURCE = Source((), CC_BY, "UCI 80, Alpaydin and Kaynak 1998", embedded=FILE)
LEVELS = 17


class OptdigitsConfig(ImageConfig):
    """8 x 8 digits with 17 grey levels, shape ``(n, 1, 8, 8)``: 3,441 / 382 / 1,797 images.

    The test split is UCI's own (the images that scikit-learn ships), written by other people than
    the rest; of UCI's 3,823 training images a tenth, drawn at random, is the validation split. The
    logit's alpha is that of Dinh et al. 2016 (arXiv:1605.08803, section 4.1).
    """

    levels = LEVELS
    stored_as = "optdigits"
    origin = SOURCE
    split_sizes = (3_441, 382, 1_797)
    test_is_published = True
    # Small, and read at once from what ships with the project.
    kept = False

    alpha: Alpha = 0.05

    def prepare(self) -> Sequence[Array]:
        try:
            with npz(FILE) as stored:
                images = stored["x"].read()[:, None]
        except DataCorrupt as error:
            raise DataCorrupt(f"{FILE} is damaged: install the project again") from error
        validation, test = self.split_sizes[1:]
        order = self._random("validation").permutation(len(images) - test)
        return [
            images[np.sort(order[validation:])],
            images[np.sort(order[:validation])],
            images[len(order) :],
        ]


ENTRIES = [
    Entry(
        "optdigits",
        OptdigitsConfig,
        "8 x 8 digits with 17 grey levels",
        "UCI 80, CC BY 4.0, Alpaydin and Kaynak",
        hashes={
            "train": "8582ec4b6aba0030d46f8a97e0a872e3a12c85841525e426b7e050c06fff7ea1",
            "validation": "3e5523e0798afcc83191813f560883135a601f562f979c88f34340938ae19799",
            "test": "04b7e6d8b23b1f79a558a09914acb541c801bca13df2df5ffb618f39937485d6",
        },
    )
]
