"""Rows of a batch to panels and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["aligned", "from_panels", "to_panels"]

Array = NDArray[Any]

_LINE = 64


def aligned(shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Zeros that begin where a line of the cache does, so that no vector lies across two."""
    size = math.prod(shape) * dtype.itemsize
    room = np.zeros(size + _LINE, np.uint8)
    first = -room.ctypes.data % _LINE
    return room[first : first + size].view(dtype).reshape(shape)


def to_panels(rows: Array, points: int) -> Array:
    """Panels of a batch.

    Args:
        rows: shape ``(n, ...)``, with any strides; n at least 1.
        points: how many rows make a panel.

    Returns:
        Fresh, shape ``(ceil(n / points), ..., points)``; the last row fills the last panel.
    """
    size, rest = len(rows), rows.shape[1:]
    whole, left = divmod(size, points)
    panels = aligned((whole + bool(left), *rest, points), rows.dtype)
    split = rows[: whole * points].reshape(whole, points, *rest)
    panels[:whole] = np.moveaxis(split, 1, -1)
    if left:
        panels[whole, ..., :left] = np.moveaxis(rows[whole * points :], 0, -1)
        panels[whole, ..., left:] = rows[-1][..., None]
    return panels


def from_panels(panels: Array, size: int) -> Array:
    """The first ``size`` rows that panels were made of, fresh, shape ``(size, ...)``."""
    rows = np.moveaxis(panels, -1, 1)
    return rows.reshape(len(panels) * panels.shape[-1], *rows.shape[2:])[:size]
