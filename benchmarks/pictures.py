"""Pictures of the plane as they are kept and drawn: a byte a place.

A measure leaves log-densities on a grid and points, in the precision that it computed them in. A
picture shows 256 levels on a few thousand places, and no number is computed from one: measures
are, before. So figures draw, and collections keep, what :func:`compact` makes of them, at a tenth
of the room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["PICTURES", "brightest", "compact", "density_of"]

Array = np.ndarray[Any, Any]

PLACES = 128
"""Along each side of the square in which points are counted."""

_OF_A_FIELD = ("square", "density", "truth", "top", "samples", "data")
_OF_A_WAY = ("path_square", "path_times", "path_density", "path_samples")
PICTURES = frozenset((*_OF_A_FIELD, *_OF_A_WAY, "image_samples", "image_data", "image_levels"))
"""What of a cell's compact arrays is shown of one seed alone, and of no use beyond that."""


def compact(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays of a cell with its pictures of the plane as bytes; what is so already stays.

    ``square``
        left, right, bottom and top.
    ``density``, ``truth``
        ``(rows, columns)`` from the bottom left, from 0 to 255, which is a density of ``top`` and
        what is above it: of the truth the brightest, where it is not known the model's.
    ``samples``, ``data``
        how many points lie in each of ``PLACES`` by ``PLACES`` parts, up to 255; none outside.
    ``path_square``, ``path_density``, ``path_samples``
        the same in frames, to the brightest of the last one; ``path_times`` as they were.
    """
    found = dict(arrays)
    if {"log_density", "grid_x", "grid_y", "samples"} <= found.keys():
        square = _square(found.pop("grid_x"), found.pop("grid_y"))
        field, truth = found.pop("log_density"), found.pop("truth_log_density", None)
        top = brightest([field if truth is None else truth])
        found |= {
            "square": square,
            "top": np.array(top),
            "density": _levels(field, top),
        }
        found["samples"] = _counts(found["samples"], square)
        if truth is not None:
            found["truth"] = _levels(truth, top)
        if "data" in found:
            found["data"] = _counts(found["data"], square)
    if {"path_log_density", "path_x", "path_y", "path_samples"} <= found.keys():
        square = _square(found.pop("path_x"), found.pop("path_y"))
        fields = found.pop("path_log_density")
        found["path_square"] = square
        found["path_density"] = _levels(fields, brightest([fields[-1]]))
        found["path_samples"] = np.stack([_counts(at, square) for at in found["path_samples"]])
    return found


def density_of(log_density: Array) -> Array:
    """The density of a log-density; nothing where a flow has none, finite where it explodes."""
    finite = np.nan_to_num(
        log_density.astype(np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf
    )
    density: Array = np.exp(np.minimum(finite, 500.0))
    return density


def brightest(fields: Sequence[Array]) -> float:
    """Top of the colour scale: nearly the largest density, whatever single points do."""
    values = np.concatenate([density_of(field).ravel() for field in fields])
    top = float(np.quantile(values, 0.998))
    return top if top > 0 else 1.0


def _square(x: Array, y: Array) -> Array:
    return np.array([x[0], x[-1], y[0], y[-1]], dtype=np.float32)


def _levels(log_density: Array, top: float) -> Array:
    levels: Array = np.rint(255 * np.minimum(density_of(log_density) / top, 1)).astype(np.uint8)
    return levels


def _counts(points: Array, square: Array) -> Array:
    left, right, bottom, top = square.tolist()
    points = points.astype(np.float64)
    points = points[np.isfinite(points).all(1)]
    counts, _, _ = np.histogram2d(
        points[:, 1], points[:, 0], bins=PLACES, range=((bottom, top), (left, right))
    )
    return np.minimum(counts, 255).astype(np.uint8)
