"""Omniglot: handwritten characters of fifty alphabets, reduced to 28 x 28 black and white.

These are not the 24,345 + 8,070 grey images with which variational autoencoders are often
compared (Burda et al. 2015, arXiv:1509.00519): figures of the two do not compare.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from datasets.base import Array, DataCorrupt, Dataset, DatasetConfig, array_hash, named_seed
from datasets.cache import cached_dataset
from datasets.preprocessing import Dequantize
from datasets.recognise import DAMAGE
from datasets.sources import locate

__all__ = ["OmniglotConfig", "read_characters"]

LEVELS = 2
SIZES = (26_293, 2_921, 3_246)
# Of all images, white 255 and ink 0, in the order of alphabet, character and drawer.
HASH = "c25fdd2c354394c169897fae7bdb65babf2c4040e08de743100f4a1258de3901"


def read_characters(paths: Sequence[Path]) -> Array:
    """The images of the two original archives, reduced to 28 x 28.

    The nearest of the 105 x 105 pixels is taken, so an image stays black and white.

    Args:
        paths: of the zip files.

    Returns:
        uint8, white 255 and ink 0, shape ``(n, 28, 28)``, in the order of alphabet, character and
        drawer, whichever archive they come from.

    Raises:
        DataCorrupt: if an archive or an image is damaged.
    """
    images: dict[tuple[str, ...], Array] = {}
    for path in paths:
        try:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if not name.endswith(".png"):
                        continue
                    _, alphabet, character, file = name.split("/")
                    with Image.open(io.BytesIO(archive.read(name))) as image:
                        small = image.convert("1").resize((28, 28), Image.Resampling.NEAREST)
                    drawer = file.removesuffix(".png").split("_")[1]
                    images[alphabet, character, drawer] = np.asarray(small, np.uint8) * 255
        except (*DAMAGE, IndexError) as error:
            raise DataCorrupt(f"{path} is no complete archive of images ({error})") from error
    return np.stack([images[key] for key in sorted(images)])


def _prepare() -> Sequence[Array]:
    found = locate("omniglot")
    if found.form == "zip":
        images = read_characters(found.paths)
    else:
        with np.load(found.paths[0]) as arrays:
            images = arrays["x"]
    if array_hash(images) != HASH:
        raise DataCorrupt(f"{found.paths[0]} holds other images than those of Omniglot")
    ink = (images == 0).astype(np.uint8)[:, None]
    seed = named_seed("omniglot", "shuffle")
    ink = ink[np.random.Generator(np.random.PCG64(seed)).permutation(len(ink))]
    start, stop = SIZES[0], SIZES[0] + SIZES[1]
    return [ink[:start], ink[start:stop], ink[stop:]]


class OmniglotConfig(DatasetConfig):
    """28 x 28 characters in black and white: 26,293 / 2,921 / 3,246, shuffled.

    Attributes:
        alpha: of the logit; None for none.
        rows: how many training images; None for all. Of validation and test the same proportion.
    """

    alpha: float | None = 1e-6
    rows: int | None = Field(default=None, ge=10, le=SIZES[0])

    def load(self, name: str) -> Dataset:
        """Read the images, or open them from the cache.

        Args:
            name: the catalog's name.

        Returns:
            Splits of shape ``(n, 1, 28, 28)``, uint8, ink 1.

        Raises:
            DataMissing: if the files are not there.
            DataCorrupt: if a file is not what it should be.
            DataError: if ``alpha`` is not in (0, 0.5).
        """
        return cached_dataset(
            name,
            "image",
            {"set": "omniglot", "version": 1},
            _prepare,
            self.rows,
            preprocessing=Dequantize(LEVELS, self.alpha),
            levels=LEVELS,
        )
