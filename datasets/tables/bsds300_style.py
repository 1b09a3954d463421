"""BSDS300-style: patches made from the images of BSDS300, as those of the literature were.

The sample of patches that the literature uses is one file (:mod:`datasets.bsds300`). This is
another sample, by the same steps, from the images themselves: figures are close to those of the
literature and must not be mixed with them, so the name says "style". Patches of one image never
fall into two splits: 180 of the 200 training images give the training split, the other 20 the
validation split, the 100 test images the test split.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from datasets.base import SPLITS, Array, DataCorrupt, Entry, Published, named_generator
from datasets.files.archive import members
from datasets.files.recognise import tar_members
from datasets.files.sources import File, Form, Source
from datasets.files.untrusted import read_image, reading
from datasets.stored import StoredConfig

__all__ = ["Bsds300StyleConfig", "patches_of", "read_images"]

SOURCE = Source(
    (
        Form(
            "jpg",
            (
                File(
                    "BSDS300-images.tgz",
                    tar_members("/100075.jpg", "/101085.jpg", largest=100_000_000),
                    (
                        "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds/"
                        "BSDS300-images.tgz",
                        "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/"
                        "segbench/BSDS300-images.tgz",
                    ),
                    size=22_000_000,
                    patterns=("*BSDS300*", "*bsds300*"),
                ),
            ),
        ),
    ),
    "non-commercial research",
    "Martin et al. 2001, doi:10.1109/ICCV.2001.937655",
)

SIDE = 8
LARGEST = (481, 481)
"""Pixels of an image, of which the one side has 481 and the other 321."""
LARGEST_IMAGE = 1_000_000
"""Bytes of one encoded: less than its pixels in RGB have."""
_TRAINING_IMAGES = 180


def read_images(path: Path) -> tuple[list[Array], list[Array]]:
    """The grey images of an archive, those for training and those for testing.

    Args:
        path: of a tar archive with the images in a folder ``train`` and another.

    Returns:
        Images in the order of their names, uint8, shape ``(height, width)`` each; grey is the
        luma of ITU-R 601.

    Raises:
        DataCorrupt: if the archive or an image is damaged.
    """
    train: dict[str, Array] = {}
    test: dict[str, Array] = {}
    with reading(path, "archive of images"):
        for member, source in members(path, lambda name: name.endswith(".jpg"), LARGEST_IMAGE):
            name = PurePosixPath(member)
            pixels = np.asarray(read_image(io.BytesIO(source.read()), "L", LARGEST))
            (train if name.parent.name == "train" else test)[name.name] = pixels
    return [train[name] for name in sorted(train)], [test[name] for name in sorted(test)]


def patches_of(images: Sequence[Array], count: int, random: np.random.Generator) -> Array:
    """Patches from random places, prepared as the literature does.

    Uniform noise is added to the grey levels, which are then divided by 256; the patch's mean is
    subtracted and its last pixel, now determined by the others, dropped.

    Args:
        images: uint8, shape ``(height, width)`` each.
        count: how many patches; the images take turns.
        random: source of places and noise.

    Returns:
        Float32, shape ``(count, 63)``, in random order.
    """
    parts = []
    for i, image in enumerate(images):
        share = count // len(images) + (i < count % len(images))
        top = random.integers(image.shape[0] - SIDE + 1, size=share)
        left = random.integers(image.shape[1] - SIDE + 1, size=share)
        windows = np.lib.stride_tricks.sliding_window_view(image, (SIDE, SIDE))
        levels = windows[top, left].reshape(share, SIDE * SIDE)
        values = (levels + random.random(levels.shape)) / 256
        values -= values.mean(axis=1, keepdims=True)
        parts.append(values[:, :-1].astype(np.float32))
    together: Array = np.concatenate(parts)
    return together[random.permutation(count)]


class Bsds300StyleConfig(StoredConfig):
    """Patches in the style of BSDS300: 1,000,000 / 50,000 / 250,000 of 63 columns.

    Another ``split`` is another choice of the images for training, and other patches of all; the
    test images stay the published ones.
    """

    kind = "tabular"
    stored_as = "bsds300-style"
    origin = SOURCE
    split_sizes = (1_000_000, 50_000, 250_000)
    columns = 63
    in_random_order = True

    def prepare(self) -> Sequence[Array]:
        return self._patches()

    def prepare_split(self) -> Sequence[Array]:
        return self._patches("split", self.split)

    def _patches(self, *split: object) -> Sequence[Array]:
        train, test = read_images(self.located().paths[0])
        if (len(train), len(test)) != (200, 100):
            raise DataCorrupt(
                f"bsds300-style: 200 training and 100 test images are due, not {len(train)} and "
                f"{len(test)}"
            )

        def random(purpose: str) -> np.random.Generator:
            return named_generator("bsds300-style", purpose, *split)

        order = random("images").permutation(len(train))
        groups = (
            [train[i] for i in order[:_TRAINING_IMAGES]],
            [train[i] for i in order[_TRAINING_IMAGES:]],
            test,
        )
        return [
            patches_of(images, size, random(name))
            for images, size, name in zip(groups, self.split_sizes, SPLITS, strict=True)
        ]


# No hashes: the images come out of a JPEG decoder, which may round differently elsewhere.
ENTRIES = [
    Entry(
        "bsds300-style",
        Bsds300StyleConfig,
        "patches of natural images, 63 columns, another sample",
        "Martin et al. 2001, doi:10.1109/ICCV.2001.937655",
        published=Published(96.67, 0.25, 1.0, "BSDS300, another sample"),
    )
]
