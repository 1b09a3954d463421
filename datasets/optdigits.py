"""Optical recognition of handwritten digits: small images that ship with the project."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets.base import DataCorrupt, Dataset, DatasetConfig, make_dataset, named_seed
from datasets.preprocessing import Dequantize

__all__ = ["OptdigitsConfig"]

EMBEDDED = Path(__file__).parent / "embedded" / "optdigits.npz"
LEVELS = 17
TRAINING = 3823
VALIDATION = 382


class OptdigitsConfig(DatasetConfig):
    """8 x 8 digits with 17 grey levels: 3,441 / 382 / 1,797 images.

    The test split is UCI's own (the images that scikit-learn ships), written by other people than
    the rest; of UCI's 3,823 training images a tenth, drawn at random, is the validation split.

    Attributes:
        alpha: of the logit; None for none. The default is that of Dinh et al. 2016
            (arXiv:1605.08803, section 4.1).
    """

    alpha: float | None = 0.05

    def load(self, name: str) -> Dataset:
        """Read the images that ship with the project.

        Args:
            name: the catalog's name.

        Returns:
            Splits of shape ``(n, 1, 8, 8)``, uint8.

        Raises:
            DataCorrupt: if the embedded file is damaged.
            DataError: if ``alpha`` is not in (0, 0.5).
        """
        preprocessing = Dequantize(LEVELS, self.alpha)
        try:
            with np.load(EMBEDDED) as stored:
                images = stored["x"][:, None]
        except (OSError, ValueError, KeyError) as error:
            raise DataCorrupt(f"{EMBEDDED} is damaged: install the project again") from error
        random = np.random.Generator(np.random.PCG64(named_seed("optdigits", "validation")))
        order = random.permutation(TRAINING)
        return make_dataset(
            name,
            "image",
            [
                images[np.sort(order[VALIDATION:])],
                images[np.sort(order[:VALIDATION])],
                images[TRAINING:],
            ],
            preprocessing=preprocessing,
            levels=LEVELS,
        )
