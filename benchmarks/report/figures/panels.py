"""What figures are put together from: panels, lines with intervals, axes, legends."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, cast

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from benchmarks.report.statistics import t_interval
from benchmarks.report.style import Look, new_figure

__all__ = [
    "LOG_INTERVAL",
    "PANEL_HEIGHT",
    "among_others",
    "centre_and_bounds",
    "draw_line",
    "draw_marks",
    "draw_point",
    "file_name",
    "handles",
    "legend",
    "log_axis",
    "log_centre_and_bounds",
    "mark_above",
    "out_of_sight",
    "panels",
    "spread",
    "whole_number_axis",
    "within_reach",
]

_PANEL_WIDTH = 2.55
PANEL_HEIGHT = 2.15
"""Inches, where a figure does not ask for another."""
_COLUMNS = 3
_WIDEST = 9.0

LOG_INTERVAL = (
    "On logarithmic axes means and intervals are those of the logarithms: geometric means."
)
"""Said under every figure with a logarithmic axis of measured values."""


# -- intervals ----------------------------------------------------------------------------------

Bounds = tuple[float, float, float]


def centre_and_bounds(values: Iterable[float]) -> Bounds:
    """The mean, and the ends of its t interval; NaN for the ends of a single value."""
    found = t_interval(list(values))
    return found.mean, found.mean - found.half_width, found.mean + found.half_width


def log_centre_and_bounds(values: Iterable[float]) -> Bounds:
    """The geometric mean, and the ends of the t interval of the logarithms; of values above 0."""
    centre, low, high = centre_and_bounds([math.log(value) for value in values if value > 0])
    return math.exp(centre), math.exp(low), math.exp(high)


# -- panels -------------------------------------------------------------------------------------

# seaborn's FacetGrid and relplot make their figures through pyplot, whose global state a library
# should not touch, and lay them out without room for a legend below. So panels are made here, and
# filled by seaborn's functions for one panel.


def panels(
    count: int, *, columns: int | None = None, height: float = PANEL_HEIGHT
) -> tuple[Figure, list[Axes]]:
    """Panels so many inches high, in rows, by default of what leaves fewest places empty."""
    if columns is None:
        columns = {4: 2, 7: 4, 8: 4}.get(count, min(count, _COLUMNS))
    rows = math.ceil(count / columns)
    width = {1: 4.2, 2: 3.2, 3: _PANEL_WIDTH}.get(columns, 1.95)
    figure = new_figure(width * columns, height * rows + 0.35)
    return figure, [figure.add_subplot(rows, columns, 1 + i) for i in range(count)]


def spread(values: Iterable[float], most: int) -> list[float]:
    """So many of some values: the smallest, the largest, and what lies evenly between.

    Example:
        >>> spread([5, 1, 2, 3, 4], most=3)
        [1, 3, 5]
    """
    found = sorted(set(values))
    most = min(most, len(found))
    places = {round(i * (len(found) - 1) / max(1, most - 1)) for i in range(most)}
    return [found[place] for place in sorted(places)]


def legend(figure: Figure, entries: Sequence[Line2D]) -> None:
    """One legend for the whole figure, below it, in as many columns as fit."""
    if not entries:
        return
    # Long enough for a whole period of any line.
    mark = 1.0 if all(handle.get_linestyle() == "None" for handle in entries) else 3.4
    longest = max(len(str(handle.get_label())) for handle in entries)
    inches = 0.06 * longest + 0.11 * mark + 0.3
    if len(entries) > 4:
        # Room for two columns, unless that would make the figure's text small on a page.
        wanted = 2 * inches if 2 * inches <= _WIDEST else inches
        figure.set_figwidth(max(figure.get_figwidth(), wanted))
    columns = max(1, min(len(entries), int(figure.get_figwidth() / inches)))
    # Each row after the first one makes the figure taller, so that no panel pays for it.
    figure.set_figheight(figure.get_figheight() + 0.19 * (math.ceil(len(entries) / columns) - 1))
    figure.legend(
        handles=list(entries),
        loc="outside lower center",
        ncols=columns,
        columnspacing=1.4,
        handlelength=mark,
    )


def handles(looks: dict[str, Look], *, line: bool) -> list[Line2D]:
    """What stands in the legend for each contestant: exactly what is drawn."""
    return [
        Line2D([], [], linestyle=look.line if line else "none", label=name, **_marked(look, 4.5))
        for name, look in looks.items()
    ]


def _marked(look: Look, size: float) -> dict[str, Any]:
    return {
        "color": look.colour,
        "marker": look.marker,
        "markerfacecolor": look.face,
        "markeredgecolor": look.colour,
        "markeredgewidth": 1.0,
        "markersize": size * look.size,
    }


def draw_line(
    ax: Axes,
    points: pd.DataFrame,
    x: str,
    y: str,
    look: Look,
    *,
    band: bool = False,
    joined: bool = True,
) -> None:
    """A contestant's line through the means of its replicates, with their t intervals.

    seaborn takes the mean and the interval on the axis's scale: on a logarithmic axis, which must
    be so before, they are those of the logarithms.

    Args:
        ax: the panel.
        points: a row a replicate and ``x``.
        x: column of what the replicates share.
        y: column of what they differ in.
        look: of the contestant.
        band: whether the interval is a band rather than bars, as suits a line of many points, which
            then has a marker at some of them.
        joined: whether a line joins the means.
    """
    # Where there is none, seaborn makes all ticks to see whether they are shown.
    ax.set(xlabel=ax.get_xlabel() or x, ylabel=ax.get_ylabel() or y)
    sns.lineplot(
        data=points,
        x=x,
        y=y,
        ax=ax,
        estimator="mean",
        # seaborn's own interval is a percentile bootstrap, which covers 74 % for three seeds.
        errorbar=cast(Any, lambda values: centre_and_bounds(values)[1:]),
        err_style="band" if band else "bars",
        err_kws={"alpha": 0.18, "lw": 0} if band else {"capsize": 2, "elinewidth": 0.9},
        legend=False,
        linestyle=look.line if joined else "none",
        markevery=max(1, points[x].nunique() // 6) if band else 1,
        **_marked(look, 3.6 if band else 4.5),
    )


def draw_marks(ax: Axes, points: pd.DataFrame, x: str, y: str, look: Look) -> None:
    """A contestant's marks at the means of its replicates, with their t intervals along x.

    On a logarithmic axis, which must be so before, they are those of the logarithms.

    Args:
        ax: the panel.
        points: a row a replicate and ``y``.
        x: column of what they differ in.
        y: column of what the replicates share.
        look: of the contestant.
    """
    if points.empty:
        return
    sns.lineplot(
        data=points,
        x=x,
        y=y,
        ax=ax,
        orient="y",
        estimator="mean",
        errorbar=cast(Any, lambda values: centre_and_bounds(values)[1:]),
        err_style="bars",
        err_kws={"capsize": 2, "elinewidth": 0.9},
        legend=False,
        linestyle="none",
        **_marked(look, 4.5),
    )


def draw_point(ax: Axes, x: Bounds, y: Bounds, look: Look, size: float = 4.5) -> None:
    """A contestant's mark with its intervals in both directions, which seaborn has not.

    Args:
        ax: the panel.
        x: centre and ends; NaN for no interval.
        y: likewise.
        look: of the contestant.
        size: of the mark, in points.
    """
    ax.errorbar(
        x[0],
        y[0],
        xerr=[[x[0] - x[1]], [x[2] - x[0]]],
        yerr=[[y[0] - y[1]], [y[2] - y[0]]],
        elinewidth=0.9,
        capsize=2,
        linestyle="none",
        zorder=3,
        **_marked(look, size),
    )


def within_reach(bounds: Sequence[Bounds]) -> list[float]:
    """What a logarithmic axis must show: all means, and intervals as far as three times beyond."""
    means = [mean for mean, _, _ in bounds]
    ends = [end for _, *both in bounds for end in both if math.isfinite(end)]
    low, high = min(means, default=0.0) / 3, max(means, default=0.0) * 3
    return [*means, *(min(max(end, low), high) for end in ends)]


def among_others(ax: Axes, points: Sequence[tuple[Bounds, Bounds, Look, str]]) -> list[str]:
    """Points whose y axis is that of most of them: what lies far above is marked at the border.

    Args:
        ax: the panel, its x axis as it is to be.
        points: of each its bounds across and up, its look and its name.

    Returns:
        What lies above the panel, with its value. An interval is cut at the border.
    """
    means = sorted(y[0] for _, y, _, _ in points if math.isfinite(y[0]))
    top = len(means)
    # Few are far above where a gap is several times as wide as what most lie in.
    for place in range(max(3, len(means) // 2 + 1), len(means)):
        if means[place] - means[place - 1] > 4 * (means[place - 1] - means[0]) > 0:
            top = place
            break
    if not means:
        return []
    inside = [y for _, y, _, _ in points if y[0] <= means[top - 1]]
    height = means[top - 1] - means[0] or abs(means[0]) or 1.0
    ends = [end for _, *both in inside for end in both if math.isfinite(end)]
    # A few long intervals take no more room than the means, or than most intervals.
    widths = [half for _, low, high in inside if math.isfinite(half := (high - low) / 2)]
    reach = max([height, *([1.5 * statistics.median(widths)] if widths else [])])
    low = max(min([*ends, means[0]]), means[0] - reach)
    high = min(max([*ends, means[top - 1]]), means[top - 1] + reach)
    room = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
    ax.set_ylim(low - room, high + room)
    above = []
    for x, y, look, name in points:
        if y[0] <= means[top - 1]:
            draw_point(ax, x, y, look, 5.5)
        elif math.isfinite(y[0]):
            mark_above(ax, x[0], look)
            above.append(f"{name} ({y[0]:.4g})")
    return above


def out_of_sight(above: Sequence[str]) -> str:
    """What a caption says of marks with an arrow."""
    return f" Arrows: above the panel lie {'; '.join(above)}." if above else ""


def mark_above(ax: Axes, x: float, look: Look) -> None:
    """A contestant's mark at the upper border, with an arrow: it lies above."""
    place = ax.get_xaxis_transform()
    style = _marked(look, 5.5)
    ax.plot([x], [0.955], linestyle="none", transform=place, clip_on=False, zorder=4, **style)
    ax.annotate(
        "",
        (x, 1.08),
        (x, 0.95),
        xycoords=place,
        arrowprops={
            "arrowstyle": "-|>",
            "color": look.colour,
            "lw": 0.9,
            "shrinkA": 0,
            "shrinkB": 0,
        },
        annotation_clip=False,
    )


# -- axes ---------------------------------------------------------------------------------------


def _short(value: float) -> str:
    """A tick's number: 0.01, 1, 30, 1,000; powers of ten where these would be long."""
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.10g}"


def log_axis(axis: Any, values: Iterable[float]) -> None:
    """A logarithmic axis around some values, its ticks written as plain numbers."""
    finite = [value for value in values if math.isfinite(value) and value > 0]
    if not finite:
        return
    low, high = min(finite), max(finite)
    decades = math.log10(high / low)
    # Room at both ends, so that no marker is cut and two equal values make no empty range.
    room = max(0.06 * decades, 0.12)
    limits = (low * 10**-room, high * 10**room)
    # Limits before the scale, which would look for limits of its own.
    if axis.axis_name == "x":
        axis.axes.set_xlim(limits)
        axis.axes.set_xscale("log")
    else:
        axis.axes.set_ylim(limits)
        axis.axes.set_yscale("log")
    axis.set_major_locator(FixedLocator(_log_ticks(*limits)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axis.set_minor_formatter(NullFormatter())
    if decades + 2 * room < 1:
        axis.set_minor_locator(NullLocator())


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two bounds: three or more of them, and no more than are needed."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = range(first, last + 1)
    for every in (4, 3, 2):
        ticks = [10.0**power for power in decades if power % every == 0]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            return ticks
    ticks = []
    for parts in ("1", "1 3", "1 2 5", "1 1.5 2 3 5 7", "1 1.2 1.4 1.6 1.8 2 2.5 3 3.5 4 5 6 7 8"):
        # From text, so that 0.3 is 0.3 and not 0.30000000000000004.
        ticks = [float(f"{part}e{power}") for power in decades for part in parts.split()]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return ticks


def whole_number_axis(ax: Axes, values: Iterable[float]) -> None:
    """A logarithmic x axis of small whole numbers with a tick at each that was measured."""
    ticks = sorted(set(values))
    ax.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def file_name(label: str) -> str:
    """A label as a file's name: letters, digits and hyphens."""
    words = "".join(char if char.isalnum() or char in ".=" else " " for char in label).split()
    return "-".join(words).replace("=", "-")
