"""Figures as SVG: small, their points named, their contestants told apart by the page's script.

Marks have a ``<title>``, which browsers show when one is pointed at, without any script: whose they
are, in which panel. Their values stand in ``data-at``, x and y of each in turn, and what the
panel's axes are called in its ``data-x`` and ``data-y``; the page's script shows these too. What is
drawn of a contestant, and its entry in the legend, share the number in ``data-series``. Whose an
artist is follows from what looks promise: no two contestants of a figure have the same colour,
marker and filling.
"""

from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter

from benchmarks.report.compact_svg import PIXELS, SVG, compacted
from benchmarks.report.style import rc

__all__ = ["DPI", "PIXELS", "as_svg", "frame_id"]

DPI = 100
"""Resolution of what a figure holds as an image: densities, clouds of points."""


Floats = np.ndarray[Any, np.dtype[np.float64]]


def as_svg(figure: Figure, name: str) -> str:
    """A figure as SVG that stands alone; the same figure gives the same text.

    Args:
        figure: made under :func:`benchmarks.report.style.rc`.
        name: by which what has an id is told from that of other figures.
    """
    with mpl.rc_context(rc()):
        # Laid out as on a screen: the SVG's own resolution leaves too little room between panels.
        figure.draw_without_rendering()
        # Not "none", which stands for an engine, and for another drawing before it is written.
        figure.set_layout_engine(None)
        marks = _marks(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(out.getvalue())
    _note(root, marks)
    svg = compacted(root, name, _FRAME)
    return _in_turn(svg, name) if f' id="{_FRAME}' in svg else svg


# -- whose is what ------------------------------------------------------------------------------

_MARK = "mark-"
# What is a cloud is no row of points to be named.
_MOST_POINTS = 200
_CAPS = (*range(12), "|", "_")


@dataclass
class _Mark:
    """What is known of an artist.

    Attributes:
        series: the number of its contestant, if it is of one.
        entry: whether it stands in a legend.
        points: where its points are, in parts of the figure from the upper left, shape ``(n, 2)``.
        values: x and y of each, as they are read.
        title: whose the points are, and in which panel.
        labels: of a panel, what its axes are called.
    """

    series: int | None
    entry: bool = False
    points: Floats = field(default_factory=lambda: np.empty((0, 2)))
    values: Sequence[tuple[str, str]] = ()
    title: str = ""
    labels: tuple[str, str] | None = None


def _marks(figure: Figure) -> dict[str, _Mark]:
    """What is known of the artists of a figure, by the gid that each is given here."""
    marks: dict[str, _Mark] = {}

    def note(artist: Artist, mark: _Mark) -> None:
        # One that has another gid is a frame.
        if str(artist.get_gid() or _MARK).startswith(_MARK):
            artist.set_gid(f"{_MARK}{len(marks)}")
            marks[str(artist.get_gid())] = mark

    series: dict[tuple[str, ...], int] = {}
    names: list[str] = []
    inside = [found for ax in figure.axes if (found := ax.get_legend()) is not None]
    for legend in (*figure.legends, *inside):
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
            if not isinstance(handle, Line2D):
                continue
            number = series.setdefault(_look(handle), len(names))
            if number == len(names):
                names.append(text.get_text())
            note(handle, _Mark(number, entry=True))
            note(text, _Mark(number, entry=True))
    for ax in figure.axes:
        labels = (_one_line(ax.get_xlabel()), _one_line(ax.get_ylabel()))
        if ax.lines:
            note(ax, _Mark(None, labels=labels))
        drawn = [(line, _number(line, series)) for line in ax.lines]
        for line, own in drawn:
            if line.get_marker() in _CAPS:
                continue
            mark = _Mark(own)
            # What stands at a border has no values there.
            if _is_marked(line) and line.get_transform() == ax.transData:
                whose = names[own] if own is not None else ""
                mark.points, mark.values = _points(ax, line)
                mark.title = ": ".join(filter(None, (whose, _one_line(ax.get_title()))))
            note(line, mark)
        owned = [(line, own) for line, own in drawn if own is not None]
        for line in ax.lines:
            if line.get_marker() in _CAPS:
                caps = list(np.asarray(line.get_xydata(), dtype=float)[:, None])
                note(line, _Mark(_owner(caps, _hex(line.get_color()), owned)))
        for artist in ax.collections:
            if isinstance(artist, LineCollection):
                colours = artist.get_edgecolor()
                pieces = [np.asarray(piece) for piece in artist.get_segments()]
            elif isinstance(artist, PolyCollection):
                colours = artist.get_facecolor()
                pieces = [np.asarray(piece.vertices) for piece in artist.get_paths()]
            else:
                continue
            # Of a single seed there is none.
            pieces = [piece for piece in pieces if len(piece)]
            if len(colours) and pieces:
                note(artist, _Mark(_owner(pieces, _hex(colours[0]), owned)))
    return marks


def _is_marked(line: Line2D) -> bool:
    return line.get_marker() not in ("None", "none", "", " ", None, *_CAPS)


def _hex(colour: Any) -> str:
    """A colour in whichever form matplotlib hands it out."""
    return to_hex(colour)


def _look(line: Line2D) -> tuple[str, ...]:
    """What tells contestants apart: colour, marker and filling; without a marker the dashes."""
    colour = _hex(line.get_color())
    if _is_marked(line):
        return colour, repr(line.get_marker()), _hex(line.get_markerfacecolor())
    return colour, str(line.get_linestyle())


def _number(line: Line2D, series: Mapping[tuple[str, ...], int]) -> int | None:
    look = _look(line)
    if look in series:
        return series[look]
    # A line through another's marks, and the only one of its colour.
    alike = {number for key, number in series.items() if key[0] == look[0]}
    return alike.pop() if len(alike) == 1 and not _is_marked(line) else None


def _owner(
    pieces: Sequence[Floats], colour: str, owned: Sequence[tuple[Line2D, int]]
) -> int | None:
    """Whose intervals these are: of that colour's lines the one with the most points in them.

    A point is in an interval or a band that goes around it, and in a cap that lies straight beside
    or above it.
    """
    counts: dict[int, int] = {}
    for line, number in owned:
        if _hex(line.get_color()) != colour:
            continue
        points = np.asarray(line.get_xydata(), dtype=float)
        counts.setdefault(number, 0)
        for piece in pieces:
            if len(piece) == 1:
                held = np.isclose(points, piece, rtol=1e-9, atol=0).any()
            else:
                low, high = piece.min(0) - 1e-9, piece.max(0) + 1e-9
                held = ((points >= low) & (points <= high)).all(1).any()
            counts[number] += bool(held)
    return max(counts, key=lambda number: counts[number]) if counts else None


def _points(ax: Axes, line: Line2D) -> tuple[Floats, list[tuple[str, str]]]:
    points = np.asarray(line.get_xydata(), dtype=float)
    if len(points) > _MOST_POINTS:
        return np.empty((0, 2)), []
    figure = ax.figure.bbox
    places = line.get_transform().transform(points) / (figure.width, figure.height)
    places[:, 1] = 1 - places[:, 1]
    return places, [(_value(ax.xaxis, x), _value(ax.yaxis, y)) for x, y in points]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _value(axis: object, value: float) -> str:
    """A value as a reader reads it: to four digits, a row by its name."""
    formatter = axis.get_major_formatter()  # type: ignore[attr-defined]
    if isinstance(formatter, FixedFormatter):
        ticks = list(axis.get_ticklocs())  # type: ignore[attr-defined]
        name = str(formatter.seq[ticks.index(value)]) if value in ticks else ""
        return _one_line(name).replace("|", "/")
    if not math.isfinite(value):
        return "none"
    text = f"{value:,.4g}" if 1e-3 <= abs(value) < 1e6 or value == 0 else f"{value:.3g}"
    return text.replace("-", "\u2212")


# -- what is noted --------------------------------------------------------------------------------

_NEAR = 0.05


def _note(root: ElementTree.Element, marks: Mapping[str, _Mark]) -> None:
    """Write what is known of the artists to their groups."""
    _, _, width, height = (float(part) for part in root.attrib["viewBox"].split())
    for group in list(root.iter(f"{SVG}g")):
        mark = marks.get(group.get("id", ""))
        if mark is None:
            continue
        kinds = []
        if mark.series is not None:
            kinds.append("entry" if mark.entry else "series")
            group.set("data-series", str(mark.series))
        if mark.labels is not None:
            kinds.append("panel")
            for key, label in zip(("data-x", "data-y"), mark.labels, strict=True):
                group.set(key, label)
        for held in group.iter(f"{SVG}g"):
            if len(mark.points) and held.find(f"{SVG}use") is not None:
                _name(held, mark, mark.points * (width, height))
        if kinds:
            group.set("class", " ".join(kinds))


def _name(group: ElementTree.Element, mark: _Mark, points: Floats) -> None:
    """Give each mark its values, by its place: those outside of the panel are not drawn."""
    found: list[str] = []
    for use in group.findall(f"{SVG}use"):
        place = np.array([float(use.get("x", 0)), float(use.get("y", 0))])
        far = np.abs(points - place).max(1)
        nearest = int(np.nanargmin(far)) if np.isfinite(far).any() else -1
        near = nearest >= 0 and far[nearest] < _NEAR
        found += mark.values[nearest] if near else ("", "")
    group.set("class", "named")
    group.set("data-at", "|".join(found))
    title = ElementTree.Element(f"{SVG}title")
    title.text = mark.title
    group.insert(0, title)


# -- frames -------------------------------------------------------------------------------------

_FRAMES_A_SECOND = 8
# The last frame, which is what it is about, stays for as long as so many.
_LAST = 8
_FRAME = "frame-"


def frame_id(number: int) -> str:
    """What ``set_gid`` takes for an artist that is shown in one frame of an animation, from 0.

    :func:`as_svg` has a figure's frames take turns, by CSS alone. Where that does not run, on paper
    and for readers who want no motion, the last is shown, or all over each other with the last on
    top.
    """
    return f"{_FRAME}{number}"


def _in_turn(svg: str, name: str) -> str:
    """An SVG whose frames take turns.

    Args:
        svg: as :func:`compacted` writes it.
        name: of the figure, part of the names in the style, which hold for a whole page.
    """
    count = max(int(number) for number in re.findall(rf' id="{_FRAME}(\d+)"', svg)) + 1
    whole = count - 1 + _LAST
    seconds = whole / _FRAMES_A_SECOND
    turn = f"turn-{name}"

    def styled(found: re.Match[str]) -> str:
        number = int(found[1])
        kind = "last" if number == count - 1 else "other"
        delay = f"animation-delay:{number / _FRAMES_A_SECOND:g}s"
        tag = found[0].replace(f' id="{_FRAME}{number}"', f' class="{turn} {kind}"')
        # Images have a style already.
        if ' style="' in tag:
            return tag.replace(' style="', f' style="{delay};')
        return re.sub(r"\s*/?>$", lambda end: f' style="{delay}"{end[0].strip()}', tag)

    svg = re.sub(rf'<[^<>]* id="{_FRAME}(\d+)"[^<>]*>', styled, svg)
    share = 100 / whole
    style = (
        f"@keyframes {turn}{{0%{{visibility:visible}}{share:.4f}%{{visibility:hidden}}}}"
        f"@keyframes {turn}-last{{0%{{visibility:visible}}{_LAST * share:.4f}%"
        "{visibility:hidden}}"
        f".{turn}{{visibility:hidden}}.{turn}.last{{visibility:visible}}"
        "@media screen and (prefers-reduced-motion:no-preference){"
        f".{turn}{{visibility:hidden;animation:{turn} {seconds:g}s step-end infinite}}"
        f".{turn}.last{{visibility:hidden;animation-name:{turn}-last}}}}"
    )
    head, end, rest = svg.partition(">")
    return f"{head}{end}<style>{style}</style>{rest}"
