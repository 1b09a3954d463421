"""Rows of a batch to panels and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["from_panels", "to_panels"]

Array = NDArray[Any]


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
    panels = np.empty((whole + bool(left), *rest, points), rows.dtype)
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
