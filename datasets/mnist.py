"""MNIST and Fashion-MNIST, from the idx files that both are published in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datasets.base import Array, DataCorrupt
from datasets.preprocessing import Dequantize
from datasets.recognise import DAMAGE, open_plain
from datasets.sources import locate
from datasets.stored import StoredConfig

__all__ = ["MnistConfig", "read_idx"]

LEVELS = 256
SIZES = (50_000, 10_000, 10_000)


def read_idx(path: Path) -> Array:
    """The array in an idx file of bytes, compressed by gzip or not.

    The format: two zero bytes, the type (8 for unsigned bytes), the number of dimensions, their
    sizes as big-endian 32-bit integers, the values.

    Returns:
        uint8, of the shape that the file gives.

    Raises:
        DataCorrupt: if it is no such file, or does not end where it should.
    """
    try:
        with open_plain(path) as stream:
            head = stream.read(4)
            if head[:3] != b"\x00\x00\x08" or len(head) < 4:
                raise DataCorrupt(f"{path} is no idx file of bytes: it starts with {head!r}")
            shape = tuple(int(size) for size in np.frombuffer(stream.read(4 * head[3]), ">u4"))
            values = stream.read()
    except DAMAGE as error:
        if isinstance(error, DataCorrupt):
            raise
        raise DataCorrupt(f"{path} cannot be read to its end ({error}): truncated?") from error
    if len(values) != int(np.prod(shape)):
        raise DataCorrupt(f"{path} has {len(values)} values where its head says {shape}")
    return np.frombuffer(values, np.uint8).reshape(shape)


class MnistConfig(StoredConfig):
    """28 x 28 images with 256 grey levels, shape ``(n, 1, 28, 28)``: 50,000 / 10,000 / 10,000.

    The test split is the published one; the last 10,000 training images are the validation
    split, as in Papamakarios et al. 2017 (arXiv:1705.07057, appendix). The first half of MNIST's
    test images was written by other people than the second: a part of them is drawn from all.

    Attributes:
        variant: digits or clothes.
        alpha: of the logit; None for none. The default is that of the same paper, and of
            Grathwohl et al. 2018 (arXiv:1810.01367).
    """

    kind = "image"
    test_is_published = True

    variant: Literal["mnist", "fashion-mnist"] = "mnist"
    alpha: float | None = 1e-6

    def sizes(self) -> tuple[int, int, int]:
        return SIZES

    def source(self) -> str:
        return self.variant

    def prepare(self) -> Sequence[Array]:
        found = locate(self.variant)
        if found.form == "npz":
            with np.load(found.paths[0]) as arrays:
                train, test = arrays["x_train"], arrays["x_test"]
        else:
            train, test = (read_idx(path) for path in found.paths)
        # What is known of the content was checked where the files were found.
        return [train[: SIZES[0], None], train[SIZES[0] :, None], test[:, None]]

    def attributes(self) -> dict[str, Any]:
        return {"preprocessing": Dequantize(LEVELS, self.alpha), "levels": LEVELS}
