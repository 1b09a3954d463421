"""Frey faces: 1,965 frames of one face on video."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.base import Array, DataCorrupt, Entry, array_hash
from datasets.files.recognise import starting_with
from datasets.files.sources import File, Form, Source, array_form
from datasets.files.untrusted import npz, reading
from datasets.stored import ImageConfig

__all__ = ["FreyfacesConfig", "read_mat"]

# Of all frames in their order, uint8, shape (1965, 28, 20).
HASH = "b7fb6085f5ce7b09b14cd0136165a2993a9b98bd3adb24cbc2fa62267b0c3886"
SOURCE = Source(
    (
        Form(
            "mat",
            (
                File(
                    "frey_rawface.mat",
                    starting_with(b"MATLAB 5.0 MAT-file", "frey_rawface.mat"),
                    (
                        "https://cs.nyu.edu/~roweis/data/frey_rawface.mat",
                        "http://www.cs.nyu.edu/~roweis/data/frey_rawface.mat",
                    ),
                    size=1_100_000,
                ),
            ),
        ),
        array_form("freyfaces.npz", {"x": ((1_965, 28, 20), HASH)}, "*frey*.npz"),
    ),
    "none stated",
    "Roweis, with images of Brendan Frey",
)

LEVELS = 256
LARGEST = 16_000_000
"""Bytes; the published file has 1.1 million."""
_MAT_HEADER, _MAT_MATRIX = 128, 14


def read_mat(path: Path) -> Array:
    """The frames in the published MATLAB file, where each is a column.

    Returns:
        uint8, shape ``(n, 28, 20)``.

    Raises:
        DataCorrupt: if the file is damaged, or holds something else.
    """
    import scipy.io

    with reading(path, "table 'ff' of 560 rows"):
        size = path.stat().st_size
        if size > LARGEST:
            raise ValueError(f"{size:,} bytes, at most {LARGEST:,}")
        # The header alone. The file of 1999 is not compressed, and states no more than it has.
        (shape,) = (shape for name, shape, _ in scipy.io.whosmat(path) if name == "ff")
        if len(shape) != 2 or shape[0] != 28 * 20 or math.prod(shape) > size:
            raise ValueError(f"its table has the shape {shape}")
        with path.open("rb") as stream:
            stream.seek(_MAT_HEADER)
            kind, length = np.frombuffer(stream.read(8), "<u4")
        if kind != _MAT_MATRIX or length > size:
            raise ValueError("it is compressed, or states more than it has")
        columns = np.asarray(scipy.io.loadmat(path, variable_names=["ff"])["ff"], dtype=np.uint8)
        return np.ascontiguousarray(columns.T).reshape(-1, 28, 20)


class FreyfacesConfig(ImageConfig):
    """Frames with 256 grey levels, shape ``(n, 1, 28, 20)``: 1,565 / 200 / 200, shuffled.

    The literature's split of 1,565 / 200 / 200 is of another shuffle. Frames that follow one
    another are alike, so every test frame has near copies in the training split, here as there.
    """

    levels = LEVELS
    stored_as = "freyfaces"
    origin = SOURCE
    split_sizes = (1_565, 200, 200)
    in_random_order = True

    def prepare(self) -> Sequence[Array]:
        found = self.located()
        if found.form == "mat":
            frames = read_mat(found.paths[0])
        else:
            with npz(found.paths[0]) as arrays:
                frames = arrays["x"].read()
        if array_hash(frames) != HASH:
            raise DataCorrupt(f"{found.paths[0]} holds other frames than the Frey faces")
        return self.shuffled(frames)


ENTRIES = [
    Entry(
        "freyfaces",
        FreyfacesConfig,
        "28 x 20 frames of one face",
        "Roweis, with images of Brendan Frey",
        hashes={
            "train": "66ad6e409c3b56f65cd537cda537fbf3f1b79576040639d8b2a4fd59ff673b89",
            "validation": "6cb15c323d169e7d81eca6c8e4825ab5f9755f2f52b9b7955954a04c27da9217",
            "test": "8f91695e3286d541f7dec6c6b96bdac15c2e1399d38c20f649c7d18b35ee0a2b",
        },
    )
]
