"""The way from noise to data, in frames of time: a strip, and an animation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from benchmarks.report.figures.densities import brightest, density_of, picture_frame
from benchmarks.report.figures.panels import file_name
from benchmarks.report.figures.scene import Drawn, Scene
from benchmarks.report.groups import grouped
from benchmarks.report.style import new_figure
from benchmarks.report.svg import frame_id

__all__ = ["animation", "way"]

_FRAMES = 7
_SIZE = 1.15
# Places for a sample's dot along a side.
_DOTS = 160
_ARRAYS = ("path_times", "path_x", "path_y", "path_log_density", "path_samples")

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


def _extent(arrays: Arrays) -> tuple[float, float, float, float]:
    x, y = arrays["path_x"], arrays["path_y"]
    return float(x[0]), float(x[-1]), float(y[0]), float(y[-1])


def _density(ax: Axes, arrays: Arrays, frame: int, top: float) -> Any:
    # Unsampled: whoever shows the file scales it, and the file stays small.
    return ax.imshow(
        density_of(arrays["path_log_density"][frame]),
        origin="lower",
        extent=_extent(arrays),
        vmin=0,
        vmax=top,
        interpolation="none",
        aspect="equal",
    )


def _dots(ax: Axes, arrays: Arrays, frame: int, colour: str) -> Any:
    """Samples as an image: as marks of their own they would take a hundred times the room."""
    left, right, bottom, top = _extent(arrays)
    samples = arrays["path_samples"][frame].astype(np.float64)
    places = (_DOTS, _DOTS)
    counts, _, _ = np.histogram2d(
        samples[:, 1], samples[:, 0], bins=places, range=((bottom, top), (left, right))
    )
    image = np.ones((*places, 4))
    image[..., :3] = to_rgb(colour)
    image[..., 3] = counts > 0
    return ax.imshow(
        image,
        origin="lower",
        extent=_extent(arrays),
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
        top = brightest([arrays["path_log_density"][-1]])
        times = arrays["path_times"]
        chosen = np.linspace(0, len(times) - 1, _FRAMES).round().astype(int)
        for ax, frame in zip(row, chosen, strict=True):
            _density(ax, arrays, int(frame), top)
            picture_frame(ax, _extent(arrays))
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
    top = brightest([arrays["path_log_density"][-1]])
    figure = new_figure(4.4, 2.35)
    left, right = figure.subplots(1, 2)
    for frame in range(len(arrays["path_times"])):
        _density(left, arrays, frame, top).set_gid(frame_id(frame))
        _dots(right, arrays, frame, scene.looks[path.contestant].colour).set_gid(frame_id(frame))
    for ax, title in ((left, "density"), (right, "samples")):
        picture_frame(ax, _extent(arrays))
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
