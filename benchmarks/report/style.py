"""How figures look: one colour and one marker a flow throughout, and how a figure is saved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["DPI", "Look", "flow_order", "looks", "new_figure", "rc", "save"]

# Okabe and Ito's palette (Color Universal Design, 2008), without its yellow, which a white page
# swallows, and with a grey.
_VERMILLION, _BLUE, _GREEN, _PURPLE = "#D55E00", "#0072B2", "#009E73", "#CC79A7"
_ORANGE, _SKY, _BLACK, _GREY = "#E69F00", "#56B4E9", "#000000", "#7F7F7F"
_COLOURS = (_VERMILLION, _BLUE, _GREEN, _PURPLE, _ORANGE, _SKY, _BLACK, _GREY)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")

DPI = 170
"""Resolution of the PNG files."""

Look = tuple[str, str]
"""A flow's colour and marker."""

# The systems of the suite keep theirs whatever else a report shows.
_KNOWN: dict[str, Look] = {
    "ffjord": (_VERMILLION, "o"),
    "cnf": (_VERMILLION, "v"),
    "realnvp": (_BLUE, "s"),
    "glow": (_GREEN, "^"),
    "maf": (_PURPLE, "D"),
    "nice": (_SKY, "v"),
    "maf-mog": (_PURPLE, "p"),
    "iaf": (_ORANGE, "P"),
    "rqnsf-c": (_BLACK, "*"),
    "rqnsf-ar": (_BLACK, "h"),
    "planar": (_GREY, "X"),
    "radial": (_GREY, "o"),
    "sylvester": (_GREY, "s"),
}


def flow_order(name: str) -> tuple[int, str]:
    """Sorts flows: the suite's own in their usual order, then the others by name."""
    known = list(_KNOWN)
    return (known.index(name), "") if name in _KNOWN else (len(known), name)


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Colour and marker of each flow, no two alike, the flows in the order of every legend.

    A name outside the suite gets its look from a hash of the name, so that it keeps it from
    report to report unless another one in the same report already has it.

    Example:
        >>> looks(["maf", "ffjord"]) == {**looks(["maf"]), **looks(["ffjord"])}
        True
    """
    every = [(colour, marker) for marker in _MARKERS for colour in _COLOURS]
    free = [look for look in every if look not in _KNOWN.values()]
    found: dict[str, Look] = {}
    for name in sorted(set(names)):
        if name in _KNOWN:
            found[name] = _KNOWN[name]
            continue
        start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % len(free)
        rotated = [*free[start:], *free[:start]]
        # More flows than looks is more than a figure can show; they then share.
        found[name] = next((look for look in rotated if look not in found.values()), rotated[0])
    return {name: found[name] for name in sorted(found, key=flow_order)}


def rc() -> Any:
    """Settings of matplotlib for every figure, for ``matplotlib.rc_context``."""
    return {
        **sns.axes_style("ticks"),
        **sns.plotting_context("paper"),
        "font.family": "sans-serif",
        # Ships with matplotlib, so that a figure is the same on every machine.
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 8.5,
        "axes.titlesize": 9,
        "axes.labelsize": 8.5,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "axes.grid": True,
        "grid.color": "#E4E4E4",
        "grid.linewidth": 0.6,
        "axes.linewidth": 0.8,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.linewidth": 1.5,
        "lines.markersize": 4.5,
        "xtick.major.width": 0.8,
        "ytick.major.width": 0.8,
        "xtick.minor.width": 0.5,
        "ytick.minor.width": 0.5,
        "xtick.major.size": 3.5,
        "ytick.major.size": 3.5,
        "xtick.minor.size": 2,
        "ytick.minor.size": 2,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "svg.hashsalt": "ffjord-bench",
        # Text as outlines: the same everywhere, whatever fonts the reader has.
        "svg.fonttype": "path",
        "image.cmap": "viridis",
    }


def new_figure(width: float, height: float) -> Figure:
    """A figure of that size in inches, bound to no window and to no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG; the same figure gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    # Once laid out it need not be laid out again for the second format.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    figure.savefig(png, dpi=DPI, metadata={"Software": None})
    figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return [png, svg]


# Agg alone: no display is needed, and none is looked for.
mpl.use("agg")
