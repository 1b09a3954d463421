"""Samples of flows of images beside data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.report.figures.densities import folded
from benchmarks.report.figures.panels import file_name
from benchmarks.report.figures.scene import Drawn, Scene, short_titles
from benchmarks.report.groups import grouped
from benchmarks.report.style import new_figure
from benchmarks.report.svg import PIXELS

__all__ = ["image_grids", "tiled"]

_ACROSS = 4
_ARRAYS = ("image_samples", "image_data", "image_levels")
_SIDE = 6


def tiled(images: np.ndarray[Any, Any], levels: int, side: int = _SIDE) -> np.ndarray[Any, Any]:
    """Images in a square of ``side`` by ``side``, a pixel of white between them.

    Args:
        images: integers, ``(n, channels, height, width)``, channels 1 or 3.
        levels: how many grey levels there are.
        side: of the square; what is missing of its images is white.

    Returns:
        From 0 to 1, ``(rows, columns, 3)``.
    """
    _, _, height, width = images.shape
    canvas = np.ones((side * (height + 1) - 1, side * (width + 1) - 1, 3))
    for place, image in enumerate(images[: side * side]):
        row, column = divmod(place, side)
        top, left = row * (height + 1), column * (width + 1)
        # One channel is spread over three.
        tile = np.moveaxis(image, 0, 2) / (levels - 1)
        canvas[top : top + height, left : left + width] = tile
    return canvas


def image_grids(scene: Scene) -> Iterable[Drawn]:
    """Test images and samples of the trained flows, a figure a data set."""
    cells = scene.named(scene.records.cells)
    cells = cells[(cells["dataset_kind"] == "image") & cells["trained"]]
    for (dataset,), group in grouped(cells, ["dataset"]):
        shown = []
        names = scene.present(group["contestant"])
        titles, in_full = short_titles(names)
        for name in names:
            # One seed is shown, the lowest that has samples.
            found = scene.records.arrays_of(group[group["contestant"] == name], _ARRAYS)
            if found is not None:
                cell, arrays = found
                bits = float(cell["bits_per_dim"])
                title = folded(titles[name]) + (
                    f"\n{bits:.3f} bits/dim" if math.isfinite(bits) else ""
                )
                shown.append((title, arrays["image_samples"], arrays))
        if not shown:
            continue
        first = shown[0][2]
        squares = [("test images", first["image_data"], first), *shown]
        across = 3 if len(squares) in (5, 6) else min(len(squares), _ACROSS)
        rows = math.ceil(len(squares) / across)
        lines = max(title.count("\n") for title, _, _ in squares) + 1
        figure = new_figure(2.1 * across, (2.15 + 0.2 * lines) * rows)
        # Plain matplotlib: seaborn draws no images.
        for place, (title, images, arrays) in enumerate(squares, start=1):
            ax = figure.add_subplot(rows, across, place)
            shown_as = tiled(images, int(arrays["image_levels"]))
            ax.imshow(shown_as, interpolation="none").set_gid(PIXELS)
            ax.set_title(title)
            ax.set_axis_off()
        yield Drawn(
            figure,
            f"samples-{file_name(str(dataset))}",
            f"Samples beside data: {dataset}",
            "The first test images, and as many samples of each flow, none chosen, at the base's "
            "full temperature. One seed of each flow, the lowest; the number is its test bits/dim."
            f"{in_full}",
        )
