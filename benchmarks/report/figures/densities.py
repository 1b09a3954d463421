"""Densities and samples of flows on data of two dimensions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from benchmarks.report.figures.panels import file_name
from benchmarks.report.figures.scene import Drawn, Scene
from benchmarks.report.groups import grouped
from benchmarks.report.style import new_figure

__all__ = ["brightest", "densities", "density_of", "folded", "picture_frame"]

_ACROSS = 5
_ARRAYS = ("log_density", "samples", "grid_x", "grid_y")


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
                if reference is None or "truth_log_density" in found[1]:
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
    truth = reference.get("truth_log_density")
    fields = [arrays["log_density"] for _, _, arrays in panels]
    top = brightest([truth] if truth is not None else fields)
    x, y = reference["grid_x"], reference["grid_y"]
    extent = (float(x[0]), float(x[-1]), float(y[0]), float(y[-1]))

    def density(ax: Axes, field: np.ndarray[Any, Any]) -> None:
        ax.imshow(
            density_of(field),
            origin="lower",
            extent=extent,
            vmin=0,
            vmax=top,
            # Unsampled: whoever shows the file scales it.
            interpolation="none",
            aspect="equal",
        )

    def points(ax: Axes, values: np.ndarray[Any, Any], colour: str) -> None:
        ax.scatter(
            values[:, 0],
            values[:, 1],
            s=0.9,
            color=colour,
            linewidths=0,
            alpha=0.55,
            rasterized=True,
        )

    first = grid[0][0], grid[1][0]
    if truth is not None:
        density(first[0], truth)
    elif "data" in reference:
        data = reference["data"]
        counts, _, _ = np.histogram2d(
            data[:, 1], data[:, 0], bins=60, range=(extent[2:], extent[:2]), density=True
        )
        with np.errstate(divide="ignore"):
            density(first[0], np.log(counts))
    if "data" in reference:
        points(first[1], reference["data"], "#333333")
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
    for position, (label, cell, arrays) in enumerate(panels, start=1):
        block, column = divmod(position, across)
        upper, lower = grid[2 * block][column], grid[2 * block + 1][column]
        density(upper, arrays["log_density"])
        points(lower, arrays["samples"], scene.looks[label].colour)
        nll = cell["nll_nats"]
        title = folded(label) + (f"\n{nll:.3f} nats" if math.isfinite(nll) else "")
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
        "One seed of each flow, the lowest; the number is its test NLL.",
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


def density_of(log_density: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The density of a log-density; nothing where a flow has none, finite where it explodes."""
    finite = np.nan_to_num(
        log_density.astype(np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf
    )
    density: np.ndarray[Any, Any] = np.exp(np.minimum(finite, 500.0))
    return density


def brightest(fields: Sequence[np.ndarray[Any, Any]]) -> float:
    """Top of the colour scale: nearly the largest density, whatever single points do."""
    values = np.concatenate([density_of(field).ravel() for field in fields])
    top = float(np.quantile(values, 0.998))
    return top if top > 0 else 1.0
