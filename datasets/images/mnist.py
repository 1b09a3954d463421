"""MNIST and Fashion-MNIST, from the idx files that both are published in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from datasets.base import Array, DataCorrupt, Entry
from datasets.files.recognise import content
from datasets.files.sources import File, Form, Source, array_form
from datasets.files.untrusted import npz, open_plain, reading
from datasets.stored import ImageConfig

__all__ = ["MnistConfig", "read_idx"]


def _idx(
    prefix: str, sha256: tuple[str, str], mirrors: tuple[str, ...], size: tuple[int, int]
) -> Form:
    parts = ("train", 60_000), ("t10k", 10_000)
    return Form(
        "idx",
        tuple(
            File(
                f"{prefix}-{part}-images-idx3-ubyte.gz",
                content(digest, bytes([0, 0, 8, 3]) + count.to_bytes(4, "big")),
                tuple(f"{mirror}/{part}-images-idx3-ubyte.gz" for mirror in mirrors),
                size=length,
                patterns=(f"*{part}-images*idx3-ubyte*",),
            )
            for (part, count), digest, length in zip(parts, sha256, size, strict=True)
        ),
    )


SOURCES = {
    "mnist": Source(
        (
            _idx(
                "mnist",
                (
                    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                ),
                (
                    "https://ossci-datasets.s3.amazonaws.com/mnist",
                    "https://storage.googleapis.com/cvdf-datasets/mnist",
                ),
                (9_900_000, 1_600_000),
            ),
            array_form(
                "mnist.npz",
                {
                    "x_train": (
                        (60_000, 28, 28),
                        "157fe16da1dbced4a1376f4be5df2d665d51d11177dcaf7aa4848b1ff033343f",
                    ),
                    "x_test": (
                        (10_000, 28, 28),
                        "fbf9701b11f5659e6366884b0bbf01ea129fb049e3239251eddb226ada72239e",
                    ),
                },
                "*mnist*.npz",
            ),
        ),
        "CC BY-SA 3.0, as usually given",
        "LeCun, Cortes and Burges 1998",
    ),
    "fashion-mnist": Source(
        (
            _idx(
                "fashion",
                (
                    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                ),
                (
                    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
                    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
                ),
                (26_421_880, 4_422_102),
            ),
        ),
        "MIT",
        "Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747",
    ),
}

LEVELS = 256


def read_idx(path: Path) -> Array:
    """The array in an idx file of bytes, compressed by gzip or not.

    The format: two zero bytes, the type (8 for unsigned bytes), the number of dimensions, their
    sizes as big-endian 32-bit integers, the values.

    Returns:
        uint8, of the shape that the file gives.

    Raises:
        DataCorrupt: if it is no such file, or does not end where it should.
    """
    with reading(path, "idx file: truncated?"), open_plain(path) as stream:
        head = stream.read(4)
        if head[:3] != b"\x00\x00\x08" or len(head) < 4:
            raise DataCorrupt(f"{path} is no idx file of bytes: it starts with {head!r}")
        shape = tuple(int(size) for size in np.frombuffer(stream.read(4 * head[3]), ">u4"))
        due = math.prod(shape)
        values = stream.read(due + 1)
        # Of what is too long, as many as can be told without keeping them.
        more = sum(len(piece) for piece in iter(lambda: stream.read(1 << 20), b""))
    if len(values) + more != due:
        raise DataCorrupt(f"{path} has {len(values) + more} values where its head says {shape}")
    return np.frombuffer(values, np.uint8).reshape(shape)


class MnistConfig(ImageConfig):
    """28 x 28 images with 256 grey levels, shape ``(n, 1, 28, 28)``: 50,000 / 10,000 / 10,000.

    The test split is the published one; the last 10,000 training images are the validation
    split, as in Papamakarios et al. 2017 (arXiv:1705.07057, appendix). The first half of MNIST's
    test images was written by other people than the second: a part of them is drawn from all.
    The logit's alpha is that of the same paper, and of Grathwohl et al. 2018 (arXiv:1810.01367).
    """

    levels = LEVELS
    split_sizes = (50_000, 10_000, 10_000)
    test_is_published = True

    variant: Literal["mnist", "fashion-mnist"] = Field("mnist", description="digits or clothes")

    def files(self) -> Source:
        return SOURCES[self.variant]

    def source(self) -> str:
        return self.variant

    def prepare(self) -> Sequence[Array]:
        found = self.located()
        if found.form == "npz":
            with npz(found.paths[0]) as arrays:
                train, test = arrays["x_train"].read(), arrays["x_test"].read()
        else:
            train, test = (read_idx(path) for path in found.paths)
        # What is known of the content was checked where the files were found.
        return [
            train[: self.split_sizes[0], None],
            train[self.split_sizes[0] :, None],
            test[:, None],
        ]


ENTRIES = [
    Entry(
        "mnist",
        MnistConfig,
        "28 x 28 digits",
        "LeCun, Cortes and Burges 1998",
        hashes={
            "train": "a96d5dfa77d4a11f97dbd5d548ee1b95728732e390f945c595d13b3430fafaeb",
            "validation": "1e66e8b6216e8bb86f1f8f69194040a678b984536287a188f8bcef704612933e",
            "test": "c1e336d807fdbb055f2b8cdb0943491b44a0d25b838ad0851128cdda2c6164c0",
        },
    ),
    Entry(
        "fashion-mnist",
        MnistConfig,
        "28 x 28 pictures of clothes",
        "Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747",
        {"variant": "fashion-mnist"},
        hashes={
            "train": "9fbb805c31c86ec96e35b332442c63f6916a0c0740aec54527cf4a612ec13ca6",
            "validation": "ea375969ddff2e3b72f3726e7d6dfe883f9480b91b0177b5549261d7853f7659",
            "test": "3e6c70d3ce80310e581f2acdb60800b8f1e7922edc0f659150d05cf69ff2a394",
        },
    ),
]
