"""The way from noise to data, in frames of time: a strip, and an animation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from benchmarks.report.figures.densities import dots, extent_of, picture_frame
from benchmarks.report.figures.panels import file_name
from benchmarks.report.figures.scene import Drawn, Scene
from benchmarks.report.groups import grouped
from benchmarks.report.style import new_figure
from benchmarks.report.svg import frame_id

__all__ = ["animation", "way"]

_FRAMES = 7
_SIZE = 1.15
_ARRAYS = ("path_times", "path_square", "path_density", "path_samples")

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class _Path:
    """One cell's way: of which data set, contestant and seed, and what was drawn of it."""

    dataset: str
    contestant: str
    seed: int
    distance: float
    arrays: Arrays


def _paths(scene: Scene) -> list[_Path]:
    """One cell of each contestant on each data set: that of the lowest seed that has a way."""
    cells = scene.named(scene.records.cells)
    cells = cells[cells["trained"] & (cells["dimension"] == 2)]
    found: list[_Path] = []
    for (dataset, name), group in grouped(cells, ["dataset", "contestant"]):
        if (drawn := scene.records.arrays_of(group, _ARRAYS)) is not None:
            cell, arrays = drawn
            distance = float(cell["kl_to_truth_nats"])
            found.append(_Path(dataset, name, int(cell["seed"]), distance, arrays))
    return found


def _density(ax: Axes, arrays: Arrays, frame: int) -> Any:
    # Unsampled: whoever shows the file scales it, and the file stays small.
    return ax.imshow(
        arrays["path_density"][frame],
        origin="lower",
        extent=extent_of(arrays["path_square"]),
        vmin=0,
        vmax=255,
        interpolation="none",
        aspect="equal",
    )


def _seeds(paths: list[_Path]) -> str:
    seeds = sorted({path.seed for path in paths})
    return f"Seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}."


# Plain matplotlib: seaborn draws no images.
def way(scene: Scene) -> Iterable[Drawn]:
    """The density of a continuous flow on its way from noise to data, a row a data set."""
    paths = _paths(scene)
    if not paths:
        return
    several = len({path.contestant for path in paths}) > 1
    figure = new_figure(_SIZE * _FRAMES + 0.35, (_SIZE + 0.06) * len(paths) + 0.3)
    grid = figure.subplots(len(paths), _FRAMES, squeeze=False)
    for row, path in zip(grid, paths, strict=True):
        arrays = path.arrays
        times = arrays["path_times"]
        chosen = np.linspace(0, len(times) - 1, _FRAMES).round().astype(int)
        for ax, frame in zip(row, chosen, strict=True):
            _density(ax, arrays, int(frame))
            picture_frame(ax, extent_of(arrays["path_square"]))
            if ax.get_subplotspec().is_first_row():
                words = {0: "noise", len(times) - 1: "data"}.get(int(frame))
                ax.set_title(words or f"{float(times[frame]):.2f}")
        label = f"{path.dataset}\n{path.contestant}" if several else path.dataset
        row[0].set_ylabel(label, fontsize=7.5)
    whose = "" if several else f" of {paths[0].contestant}"
    yield Drawn(
        figure,
        "way",
        f"From noise to data: the density{whose} in frames of time",
        "The density that the flow makes of the base's by the time written above, as a part of its "
        "whole time. One linear colour scale a row, whose top is that of its last frame; what is "
        f"above is drawn as the top. {_seeds(paths)}",
    )


def animation(scene: Scene) -> Iterable[Drawn]:
    """The way from noise to data, moving, of the flow that ends nearest to the truth."""
    paths = _paths(scene)
    if not paths:
        return
    path = min(paths, key=lambda each: np.nan_to_num(each.distance, nan=np.inf))
    arrays = path.arrays
    figure = new_figure(4.4, 2.35)
    left, right = figure.subplots(1, 2)
    for frame in range(len(arrays["path_times"])):
        _density(left, arrays, frame).set_gid(frame_id(frame))
        counts, colour = arrays["path_samples"][frame], scene.looks[path.contestant].colour
        moved = dots(right, counts, colour, extent_of(arrays["path_square"]))
        moved.set_gid(frame_id(frame))
    for ax, title in ((left, "density"), (right, "samples")):
        picture_frame(ax, extent_of(arrays["path_square"]))
        ax.set_title(title)
    yield Drawn(
        figure,
        f"way-{file_name(path.dataset)}",
        f"From noise to data, moving: {path.contestant} on {path.dataset}",
        "Density and samples in equal steps of the flow's time, from the base's to the data's, and "
        "again; still, and at its end, for a reader who wants no motion or whose program shows "
        "none. Of the flows with such a way the one that ends nearest to the truth by its KL "
        f"divergence, where that is known. Seed {path.seed}.",
    )
