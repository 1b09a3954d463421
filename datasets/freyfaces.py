"""Frey faces: 1,965 frames of one face on video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from datasets.base import Array, DataCorrupt, array_hash, named_seed
from datasets.preprocessing import Dequantize
from datasets.sources import locate
from datasets.stored import StoredConfig

__all__ = ["FreyfacesConfig", "read_mat"]

LEVELS = 256
SIZES = (1_565, 200, 200)
HASH = "b7fb6085f5ce7b09b14cd0136165a2993a9b98bd3adb24cbc2fa62267b0c3886"


def read_mat(path: Path) -> Array:
    """The frames in the published MATLAB file, where each is a column.

    Returns:
        uint8, shape ``(n, 28, 20)``.

    Raises:
        DataCorrupt: if the file is damaged, or holds something else.
    """
    try:
        columns = np.asarray(scipy.io.loadmat(path)["ff"], dtype=np.uint8)
        return np.ascontiguousarray(columns.T).reshape(-1, 28, 20)
    except Exception as error:  # scipy raises what the damaged bytes happen to mean.
        raise DataCorrupt(f"{path} holds no table 'ff' of 560 rows ({error})") from error


def _prepare() -> Sequence[Array]:
    found = locate("freyfaces")
    if found.form == "mat":
        frames = read_mat(found.paths[0])
    else:
        with np.load(found.paths[0]) as arrays:
            frames = arrays["x"]
    if array_hash(frames) != HASH:
        raise DataCorrupt(f"{found.paths[0]} holds other frames than the Frey faces")
    seed = named_seed("freyfaces", "shuffle")
    frames = frames[np.random.Generator(np.random.PCG64(seed)).permutation(len(frames)), None]
    start, stop = SIZES[0], SIZES[0] + SIZES[1]
    return [frames[:start], frames[start:stop], frames[stop:]]


class FreyfacesConfig(StoredConfig):
    """Frames with 256 grey levels, shape ``(n, 1, 28, 20)``: 1,565 / 200 / 200, shuffled.

    The literature's split of 1,565 / 200 / 200 is of another shuffle. Frames that follow one
    another are alike, so every test frame has near copies in the training split, here as there.

    Attributes:
        alpha: of the logit; None for none.
    """

    kind = "image"
    in_random_order = True

    alpha: float | None = 1e-6

    def sizes(self) -> tuple[int, int, int]:
        return SIZES

    def source(self) -> str:
        return "freyfaces"

    def prepare(self) -> Sequence[Array]:
        return _prepare()

    def attributes(self) -> dict[str, Any]:
        return {"preprocessing": Dequantize(LEVELS, self.alpha), "levels": LEVELS}
