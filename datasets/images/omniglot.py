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
from PIL.Image import Resampling

from datasets.base import Array, DataCorrupt, Entry, array_hash
from datasets.files.recognise import zip_members
from datasets.files.sources import File, Form, Source, array_form
from datasets.files.untrusted import npz, read_at_most, read_image, reading
from datasets.stored import ImageConfig

__all__ = ["OmniglotConfig", "read_characters"]

# Of all images, white 255 and ink 0, in the order of alphabet, character and drawer.
HASH = "c25fdd2c354394c169897fae7bdb65babf2c4040e08de743100f4a1258de3901"
SOURCE = Source(
    (
        Form(
            "zip",
            tuple(
                File(
                    f"{part}.zip",
                    zip_members(f"{part}/", count),
                    (f"https://github.com/brendenlake/omniglot/raw/master/python/{part}.zip",),
                    f"md5:{md5}",
                    size,
                )
                for part, count, size, md5 in (
                    ("images_background", 19_280, 9_500_000, "68d2efa1b9178cc56df9314c21c6e718"),
                    ("images_evaluation", 13_180, 6_500_000, "6b91aef0f799c5bb55b94e3f2daec811"),
                )
            ),
        ),
        array_form("omniglot28.npz", {"x": ((32_460, 28, 28), HASH)}, "*omniglot*.npz"),
    ),
    "MIT",
    "Lake, Salakhutdinov and Tenenbaum 2015, doi:10.1126/science.aab3050",
)

LEVELS = 2
LARGEST = (105, 105)
"""Pixels of an image as published."""
LARGEST_IMAGE = 100_000
"""Bytes of one, encoded: without compression 105 x 105 pixels of RGB have 33,000."""


def read_characters(paths: Sequence[Path]) -> Array:
    """The images of the two original archives, reduced to 28 x 28.

    The nearest of the 105 x 105 pixels is taken, so an image stays black and white.

    Returns:
        uint8, white 255 and ink 0, shape ``(n, 28, 28)``, in the order of alphabet, character and
        drawer, whichever archive they come from.

    Raises:
        DataCorrupt: if an archive or an image is damaged.
    """
    images: dict[tuple[str, ...], Array] = {}
    for path in paths:
        with reading(path, "archive of images"), zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.filename.endswith(".png"):
                    continue
                _, alphabet, character, file = member.filename.split("/")
                with archive.open(member) as stream:
                    encoded = io.BytesIO(read_at_most(stream, LARGEST_IMAGE))
                small = read_image(encoded, "1", LARGEST).resize((28, 28), Resampling.NEAREST)
                drawer = file.removesuffix(".png").split("_")[1]
                images[alphabet, character, drawer] = np.asarray(small, np.uint8) * 255
    if not images:
        raise DataCorrupt(f"{' and '.join(map(str, paths))} hold no image")
    return np.stack([images[key] for key in sorted(images)])


class OmniglotConfig(ImageConfig):
    """28 x 28 characters, ink 1, shape ``(n, 1, 28, 28)``: 26,293 / 2,921 / 3,246, shuffled."""

    levels = LEVELS
    stored_as = "omniglot"
    origin = SOURCE
    split_sizes = (26_293, 2_921, 3_246)
    in_random_order = True

    def prepare(self) -> Sequence[Array]:
        found = self.located()
        if found.form == "zip":
            images = read_characters(found.paths)
        else:
            with npz(found.paths[0]) as arrays:
                images = arrays["x"].read()
        if array_hash(images) != HASH:
            raise DataCorrupt(f"{found.paths[0]} holds other images than those of Omniglot")
        return self.shuffled((images == 0).astype(np.uint8))


ENTRIES = [
    Entry(
        "omniglot",
        OmniglotConfig,
        "28 x 28 characters of 50 alphabets, black and white",
        "Lake, Salakhutdinov and Tenenbaum 2015, doi:10.1126/science.aab3050",
        hashes={
            "train": "fe1f49a3e6f16f9a74760b08890eb1c5bd6236be293382c99f9129cfa63c9b50",
            "validation": "cc04bebedc55657957b2b8093d9402ec52125b0136bb3bbd0f61ab64bc3ffcab",
            "test": "fa36e8a04a1c5c8c761c6a1f28fecbd9f979b0b57fa6a590c1da083126e0490d",
        },
    )
]
