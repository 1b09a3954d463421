"""Densities and samples of flows on data of two dimensions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from benchmarks.report.figures.panels import file_name
from benchmarks.report.figures.scene import Drawn, Scene, short_titles
from benchmarks.report.groups import grouped
from benchmarks.report.style import new_figure

__all__ = ["densities", "dots", "extent_of", "folded", "picture_frame"]

_ACROSS = 5
# Places of a histogram's bar along a side.
_HISTOGRAM = 4
_ARRAYS = ("density", "samples", "square", "top")


Panel = tuple[str, "pd.Series[Any]", dict[str, np.ndarray[Any, Any]]]
"""A contestant, its cell and what was drawn of it."""


def densities(scene: Scene) -> Iterable[Drawn]:
    """Densities and samples of the trained flows, a figure a data set of two dimensions."""
    cells = scene.named(scene.records.cells)
    cells = cells[(cells["dimension"] == 2) & cells["trained"]]
    for (dataset,), group in grouped(cells, ["dataset"]):
        shown: list[Panel] = []
        reference = None
        for (name,), alike in grouped(group, ["contestant"]):
            # One seed is shown, the lowest that has pictures: a mean of densities is no density.
            found = scene.records.arrays_of(alike, _ARRAYS)
            if found is not None:
                shown.append((name, *found))
                if reference is None or "truth" in found[1]:
                    reference = found[1]
        if reference is not None:
            yield _figure(str(dataset), shown, reference, scene)


# Plain matplotlib: seaborn draws no images, and its scatter plot of thousands of points without
# any of its semantics is matplotlib's.
def _figure(
    dataset: str,
    panels: Sequence[Panel],
    reference: dict[str, np.ndarray[Any, Any]],
    scene: Scene,
) -> Drawn:
    across = min(len(panels) + 1, _ACROSS)
    blocks = math.ceil((len(panels) + 1) / across)
    size = 1.55
    figure = new_figure(size * across + 0.25, (2 * size + 0.45) * blocks)
    grid = figure.subplots(2 * blocks, across, squeeze=False)
    truth = reference.get("truth")
    tops = [reference] if truth is not None else [arrays for _, _, arrays in panels]
    top = max(float(arrays["top"]) for arrays in tops)
    extent = extent_of(reference["square"])

    def density(ax: Axes, field: np.ndarray[Any, Any], its_top: float) -> None:
        ax.imshow(
            field * (its_top / 255),
            origin="lower",
            extent=extent,
            vmin=0,
            vmax=top,
            # Unsampled: whoever shows the file scales it.
            interpolation="none",
            aspect="equal",
        )

    first = grid[0][0], grid[1][0]
    if truth is not None:
        density(first[0], truth, float(reference["top"]))
    elif "data" in reference:
        coarse = blocks_of(reference["data"], _HISTOGRAM)
        density(first[0], coarse, 255 * top / max(1.0, float(np.quantile(coarse, 0.998))))
    if "data" in reference:
        dots(first[1], reference["data"], "#333333", extent)
    first[0].set_title("truth" if truth is not None else "data")
    first[1].text(
        0.02,
        0.98,
        "test data",
        transform=first[1].transAxes,
        va="top",
        fontsize=8,
        color="#333333",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
    )
    titles, in_full = short_titles(label for label, _, _ in panels)
    for position, (label, cell, arrays) in enumerate(panels, start=1):
        block, column = divmod(position, across)
        upper, lower = grid[2 * block][column], grid[2 * block + 1][column]
        density(upper, arrays["density"], float(arrays["top"]))
        dots(lower, arrays["samples"], scene.looks[label].colour, extent)
        nll = cell["nll_nats"]
        title = folded(titles[label]) + (f"\n{nll:.3f} nats" if math.isfinite(nll) else "")
        upper.set_title(title.replace("-", "\u2212") if nll < 0 else title)
    for row in range(2 * blocks):
        grid[row][0].set_ylabel("density" if row % 2 == 0 else "samples")
        for column in range(across):
            if row // 2 * across + column > len(panels):
                grid[row][column].set_axis_off()
            else:
                picture_frame(grid[row][column], extent)
    square = f"{extent[0]:.1f} to {extent[1]:.1f} by {extent[2]:.1f} to {extent[3]:.1f}"
    return Drawn(
        figure,
        f"density-{file_name(dataset)}",
        f"Densities and samples: {dataset}",
        f"Above: density, one linear colour scale for all, from 0 to {top:.3g} per unit area "
        "(brighter is denser); "
        + ("the truth first. " if truth is not None else "a histogram of the data first. ")
        + f"Below: test data, and samples of each flow. Square: {square}, in the data's units. "
        f"One seed of each flow, the lowest; the number is its test NLL.{in_full}",
    )


def folded(label: str) -> str:
    """A long label over several lines, cut at spaces, commas, brackets and hyphens."""
    words = label.replace("[", " [").replace(",", ", ").replace("/", "/ ")
    return "\n".join(line.replace("/ ", "/") for line in textwrap.wrap(words, 20))


def picture_frame(ax: Axes, extent: tuple[float, float, float, float]) -> None:
    """A panel that shows a part of the plane: left, right, bottom and top, without ticks."""
    ax.set_xlim(extent[:2])
    ax.set_ylim(extent[2:])
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_color("#999999")
        spine.set_linewidth(0.6)


def extent_of(square: np.ndarray[Any, Any]) -> tuple[float, float, float, float]:
    """Left, right, bottom and top, as matplotlib takes them."""
    left, right, bottom, top = square.tolist()
    return left, right, bottom, top


def blocks_of(counts: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """Counts of squares of ``size`` by ``size`` places."""
    places = len(counts) // size
    found: np.ndarray[Any, Any] = counts.reshape(places, size, places, size).sum((1, 3), dtype=int)
    return found


def dots(
    ax: Axes,
    counts: np.ndarray[Any, Any],
    colour: str,
    extent: tuple[float, float, float, float],
) -> Any:
    """Points as an image: as marks of their own they would take a hundred times the room.

    Args:
        ax: the panel.
        counts: how many lie in each place, from the bottom left.
        colour: of the points.
        extent: left, right, bottom and top.
    """
    image = np.ones((*counts.shape, 4))
    image[..., :3] = to_rgb(colour)
    image[..., 3] = 0.75 * (counts > 0)
    return ax.imshow(image, origin="lower", extent=extent, interpolation="none", aspect="equal")
