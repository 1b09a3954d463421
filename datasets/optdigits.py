"""Optical recognition of handwritten digits: small images that ship with the project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.base import Array, DataCorrupt
from datasets.preprocessing import Dequantize
from datasets.stored import StoredConfig

__all__ = ["OptdigitsConfig"]

EMBEDDED = Path(__file__).parent / "embedded" / "optdigits.npz"
LEVELS = 17
SIZES = (3_441, 382, 1_797)
TRAINING = SIZES[0] + SIZES[1]


class OptdigitsConfig(StoredConfig):
    """8 x 8 digits with 17 grey levels, shape ``(n, 1, 8, 8)``: 3,441 / 382 / 1,797 images.

    The test split is UCI's own (the images that scikit-learn ships), written by other people than
    the rest; of UCI's 3,823 training images a tenth, drawn at random, is the validation split.

    Attributes:
        alpha: of the logit; None for none. The default is that of Dinh et al. 2016
            (arXiv:1605.08803, section 4.1).
    """

    kind = "image"
    test_is_published = True
    # Small, and read at once from what ships with the project.
    kept = False

    alpha: float | None = 0.05

    def sizes(self) -> tuple[int, int, int]:
        return SIZES

    def source(self) -> str:
        return "optdigits"

    def prepare(self) -> Sequence[Array]:
        try:
            with np.load(EMBEDDED) as stored:
                images = stored["x"][:, None]
        except (OSError, ValueError, KeyError) as error:
            raise DataCorrupt(f"{EMBEDDED} is damaged: install the project again") from error
        order = self._random("validation").permutation(TRAINING)
        return [
            images[np.sort(order[SIZES[1] :])],
            images[np.sort(order[: SIZES[1]])],
            images[TRAINING:],
        ]

    def attributes(self) -> dict[str, Any]:
        return {"preprocessing": Dequantize(LEVELS, self.alpha), "levels": LEVELS}
