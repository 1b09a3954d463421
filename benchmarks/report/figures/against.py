"""Measures against what a sweep is over: lines on logarithmic axes, a panel a measure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import measures
from benchmarks.measures import Column
from benchmarks.report.figures.panels import (
    LOG_INTERVAL,
    PANEL_HEIGHT,
    draw_line,
    handles,
    legend,
    log_axis,
    log_centre_and_bounds,
    panels,
    whole_number_axis,
    within_reach,
)
from benchmarks.report.figures.scene import Scene
from benchmarks.report.groups import grouped, replicates
from benchmarks.report.style import Look

__all__ = ["against", "bars", "lines", "whose"]

_WRAP = 30


def against(
    scene: Scene,
    cells: pd.DataFrame,
    x: str,
    wanted: Sequence[str],
    *,
    x_label: str,
    height: float = PANEL_HEIGHT,
) -> tuple[Figure, list[str]] | None:
    """A line a contestant, a panel a measure.

    Args:
        scene: for a sweep over options that of :meth:`Scene.sweep`.
        cells: made by :meth:`Scene.named`, of one data set or one family of them.
        x: column of what is swept, above 0: ``dimension``, ``flow.rtol``, ``budget.batch_size``.
        wanted: names of measures; those that no cell has are left out.
        x_label: of the axis, with the unit.
        height: of a panel, inches.

    Returns:
        The figure, and which measures it shows; None if there is none.
    """
    cells = cells.assign(**{x: pd.to_numeric(cells[x], errors="coerce").astype(float)})
    cells = cells[cells[x] > 0]
    # A line joins cells of one setting only.
    data = replicates(cells, ["contestant", "line", x], wanted)
    columns = [measures.column(name) for name in wanted]
    present = [column for column in columns if _shown(data[column.name], column).any()]
    if not present:
        return None
    found = [
        (name, points.sort_values(x, kind="stable"))
        for name in scene.present(data["contestant"])
        for _, points in grouped(data[data["contestant"] == name], ["line"])
        if any(_shown(points[column.name], column).any() for column in present)
    ]
    # Side by side, and all within a tenth of their place.
    apart = min(1.045, 1.2 ** (1 / max(1, len(found) - 1)))
    places = [apart ** (place - (len(found) - 1) / 2) for place in range(len(found))]
    figure, axes = panels(len(present), height=height)
    for ax, column in zip(axes, present, strict=True):
        whole_number_axis(ax, data[x])
        moved = [
            (points.assign(**{x: points[x] * place}), scene.looks[name])
            for (name, points), place in zip(found, places, strict=True)
        ]
        lines(ax, moved, x, column, x_label)
    names = scene.present(name for name, _ in found)
    legend(figure, handles({name: scene.looks[name] for name in names}, line=True))
    return figure, [column.name for column in present]


def _signed(column: Column) -> bool:
    """Whether a measure's zero means nothing: likelihoods, but no distance."""
    return column.sort == "quality" and not column.name.startswith("kl_")


def _shown(values: pd.Series[float], column: Column) -> pd.Series[bool]:
    return values.notna() if _signed(column) else values.fillna(0) > 0


def lines(
    ax: Axes,
    found: Sequence[tuple[pd.DataFrame, Look]],
    x: str,
    column: Column,
    x_label: str,
    also: Iterable[float] = (),
) -> None:
    """Lines of one measure on logarithmic axes.

    The axis of a likelihood is linear, and that of a distance where one is zero or below by chance.

    Args:
        ax: the panel.
        found: for each line a row a replicate and ``x``, and its look.
        x: column of what is swept.
        column: the measure.
        x_label: of the axis.
        also: what else must be within the panel.
    """
    y = column.name
    found = [
        (points.assign(**{y: points[y] * column.factor}).dropna(subset=y), look)
        for points, look in found
    ]
    linear = _signed(column) or (
        column.sort == "quality" and any((points[y] <= 0).any() for points, _ in found)
    )
    # Scales and limits come first: seaborn takes means on the scale that it finds.
    if not linear:
        found = [(points[points[y] > 0], look) for points, look in found]
        bounds = [
            log_centre_and_bounds(group) for points, _ in found for _, group in points.groupby(x)[y]
        ]
        log_axis(ax.yaxis, [*also, *within_reach(bounds)])
    for points, look in found:
        if not points.empty:
            draw_line(ax, points, x, y, look)
    ax.set_xlabel(x_label)
    ax.set_ylabel(textwrap.fill(column.label, _WRAP))


def bars(scene: Scene) -> str:
    """What the error bars are, for a caption."""
    return (
        f"Error bars: {scene.interval}; one that would leave its panel is cut there. {LOG_INTERVAL}"
    )


def whose(cells: pd.DataFrame) -> str:
    """Whether the flows were trained, for a caption."""
    trained = cells["trained"]
    if trained.all():
        return "of trained flows"
    if not trained.any():
        return "of untrained flows"
    untrained = ", ".join(dict.fromkeys(cells.loc[~trained, "contestant"]))
    return f"of trained flows, but of untrained ones for {untrained}"
