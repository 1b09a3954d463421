"""What no other beats in both of two things: fronts of cost and loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

__all__ = ["draw_front", "on_front"]

_GREY = "#999999"
Booleans = np.ndarray[Any, np.dtype[np.bool_]]


def on_front(costs: Sequence[float], losses: Sequence[float]) -> Booleans:
    """Which points no other point beats: at most as dear and as bad, and better in one of the two.

    Args:
        costs: lower is better; a point with one that is not finite is on no front.
        losses: likewise.

    Example:
        >>> on_front([1, 2, 3, 2], [3.0, 2.0, 2.5, 2.0]).tolist()
        [True, True, False, True]
    """
    points = np.stack([np.asarray(costs, float), np.asarray(losses, float)], axis=-1)
    finite: Booleans = np.isfinite(points).all(1)
    found: Booleans = finite.copy()
    for index in np.flatnonzero(finite):
        others = points[finite]
        beats = (others <= points[index]).all(1) & (others < points[index]).any(1)
        found[index] = not beats.any()
    return found


def draw_front(ax: Axes, costs: Sequence[float], losses: Sequence[float]) -> None:
    """The front as a grey staircase: the least loss that was had at a cost.

    Plain matplotlib: seaborn draws means of replicates, and these are no replicates.
    """
    front = on_front(costs, losses)
    points = sorted({(x, y) for x, y, kept in zip(costs, losses, front, strict=True) if kept})
    if len(points) > 1:
        x, y = zip(*points, strict=True)
        ax.step(x, y, where="post", color=_GREY, lw=1, zorder=1)
