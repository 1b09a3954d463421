"""Figures as SVG: small, their points named, their contestants told apart by the page's script.

A mark has a ``<title>``, which browsers show when it is pointed at, without any script: whose it
is, in which panel, and its values. What is drawn of a contestant, and its entry in the legend,
share the number in ``data-series``. Whose an artist is follows from what looks promise: no two
contestants of a figure have the same colour, marker and filling.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter
from PIL import Image

__all__ = ["DPI", "frame_id", "save"]

DPI = 100
"""Resolution of what a figure holds as an image: densities, clouds of points."""


Floats = np.ndarray[Any, np.dtype[np.float64]]


def save(figure: Figure, folder: Path, name: str) -> Path:
    """Write a figure as SVG; the same figure gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    # Laid out as on a screen: the SVG's own resolution leaves too little room between panels.
    figure.draw_without_rendering()
    # Not "none", which stands for an engine, and for another drawing before the figure is written.
    figure.set_layout_engine(None)
    marks = _marks(figure)
    out = io.StringIO()
    figure.savefig(out, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
    svg = _small(out.getvalue(), marks, name)
    if f' id="{_FRAME}' in svg:
        svg = _in_turn(svg, name)
    path.write_text(svg, encoding="utf-8")
    return path


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
        titles: a text for each.
    """

    series: int | None
    entry: bool = False
    points: Floats = field(default_factory=lambda: np.empty((0, 2)))
    titles: Sequence[str] = ()


def _marks(figure: Figure) -> dict[str, _Mark]:
    """What is known of the artists of a figure, by the gid that each is given here."""
    marks: dict[str, _Mark] = {}

    def note(artist: Artist, mark: _Mark) -> None:
        # One that has a gid is a frame.
        if artist.get_gid() is None:
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
        drawn = [(line, _number(line, series)) for line in ax.lines]
        for line, own in drawn:
            if line.get_marker() in _CAPS:
                continue
            mark = _Mark(own)
            if _is_marked(line):
                whose = names[own] if own is not None else ""
                mark.points, mark.titles = _points(ax, line, whose)
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


def _points(ax: Axes, line: Line2D, name: str) -> tuple[Floats, list[str]]:
    points = np.asarray(line.get_xydata(), dtype=float)
    if len(points) > _MOST_POINTS:
        return np.empty((0, 2)), []
    figure = ax.figure.bbox
    places = line.get_transform().transform(points) / (figure.width, figure.height)
    places[:, 1] = 1 - places[:, 1]
    title = " ".join(ax.get_title().split())
    first = ": ".join(part for part in (name, title) if part)
    titles = []
    for point in points:
        values = [
            f"{label} = {value}" if label else value
            for label, value in (
                (_one_line(axis.get_label_text()), _value(axis, at))
                for axis, at in zip((ax.xaxis, ax.yaxis), point, strict=True)
            )
        ]
        titles.append("\n".join(part for part in (first, *values) if part))
    return places, titles


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _value(axis: object, value: float) -> str:
    """A value as a reader reads it: to four digits, a row by its name."""
    formatter = axis.get_major_formatter()  # type: ignore[attr-defined]
    if isinstance(formatter, FixedFormatter):
        ticks = list(axis.get_ticklocs())  # type: ignore[attr-defined]
        return str(formatter.seq[ticks.index(value)]) if value in ticks else ""
    if not math.isfinite(value):
        return "none"
    text = f"{value:,.4g}" if 1e-3 <= abs(value) < 1e6 or value == 0 else f"{value:.3g}"
    return text.replace("-", "\u2212")


# -- small --------------------------------------------------------------------------------------

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
# What has DejaVu's widths, where that is missing.
_FONT = re.compile(r"'DejaVu Sans'")
_REFERENCE = re.compile(r"url\(#([^)]*)\)")
_NEAR = 0.05


def _small(svg: str, marks: Mapping[str, _Mark], name: str) -> str:
    """An SVG with what is known of its artists, and without what no reader needs."""
    root = ElementTree.fromstring(svg)
    _, _, width, height = (float(part) for part in root.attrib["viewBox"].split())
    for group in list(root.iter(f"{{{_SVG}}}g")):
        mark = marks.get(group.get("id", ""))
        if mark is None:
            continue
        if mark.series is not None:
            group.set("class", "entry" if mark.entry else "series")
            group.set("data-series", str(mark.series))
        if len(mark.points):
            _name(group, mark.points * (width, height), mark.titles)
    _strip(root)
    _rename(root, hashlib.sha256(name.encode()).hexdigest()[:6])
    text = ElementTree.tostring(root, encoding="unicode")
    return text.replace(" />", "/>")


def _name(group: ElementTree.Element, points: Floats, titles: Sequence[str]) -> None:
    """Give each mark its title, by its place: those outside of the panel are not drawn."""
    for use in group.iter(f"{{{_SVG}}}use"):
        place = np.array([float(use.get("x", 0)), float(use.get("y", 0))])
        far = np.abs(points - place).max(1)
        nearest = int(np.nanargmin(far)) if np.isfinite(far).any() else -1
        if nearest >= 0 and far[nearest] < _NEAR:
            use.set("class", "named")
            ElementTree.SubElement(use, f"{{{_SVG}}}title").text = titles[nearest]


def _rounded(found: re.Match[str]) -> str:
    text = f"{float(found[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _strip(element: ElementTree.Element) -> None:
    """Fewer digits and spaces, no groups that say nothing, images with a palette."""
    for child in list(element):
        _strip(child)
    if not (element.text or "").strip():
        element.text = None
    for child in element:
        child.tail = None
    for key, value in list(element.attrib.items()):
        if key in ("d", "x", "y", "width", "height", "transform"):
            value = _NUMBER.sub(_rounded, value)
            element.set(key, " ".join(value.split()))
        elif key == "style":
            value = "".join(re.split(r"(?<=[;:]) ", value.strip().rstrip(";")))
            # What is drawn unsampled is to be scaled smoothly by whoever shows it.
            value = value.replace("image-rendering:crisp-edges;image-rendering:pixelated", "")
            element.set(key, _FONT.sub("'DejaVu Sans',Verdana", value))
        elif key == _LINK:
            element.set(key, _PICTURE.sub(_with_palette, value))
    kept: list[ElementTree.Element] = []
    for child in element:
        name = child.tag.removeprefix(f"{{{_SVG}}}")
        if child.tag.endswith("}metadata") or (name in ("g", "defs") and not len(child)):
            continue
        # Names that only matplotlib knows say nothing.
        if name == "g" and not set(child.attrib) - {"id"} and _FRAME not in child.get("id", ""):
            kept += list(child)
        else:
            kept.append(child)
    element[:] = kept
    # What all marks of a line share is said once.
    styles = {child.get("style") for child in element}
    if len(styles) == 1 and {child.tag for child in element} == {f"{{{_SVG}}}use"}:
        element.attrib.setdefault("style", str(styles.pop()))
        for child in element:
            child.attrib.pop("style", None)


def _rename(root: ElementTree.Element, prefix: str) -> None:
    """Names only for what is referred to, short, and one figure's own on a whole page."""
    meant = {
        found
        for element in root.iter()
        for key, value in element.attrib.items()
        for found in ([value[1:]] if key == _LINK else _REFERENCE.findall(value))
    }
    names: dict[str, str] = {}
    for element in root.iter():
        own = element.get("id", "")
        if own in meant:
            names[own] = f"{prefix}-{len(names)}"
            element.set("id", names[own])
        elif not own.startswith(_FRAME):
            element.attrib.pop("id", None)
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == _LINK and value[1:] in names:
                element.set(key, f"#{names[value[1:]]}")
            elif (found := _REFERENCE.search(value)) is not None:
                element.set(key, value.replace(found[1], names[found[1]]))


_COLOURS = 64
# Of what is transparent: marks in one colour, and their edges.
_SHADES = 16
_PICTURE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")


def _with_palette(found: re.Match[str]) -> str:
    """An image with a palette: half of the size, and no difference to the eye."""
    image = Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGBA")
    # The finer method knows no transparency.
    if image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB").quantize(_COLOURS, Image.Quantize.MEDIANCUT)
    else:
        image = image.quantize(_SHADES, Image.Quantize.FASTOCTREE)
    out = io.BytesIO()
    image.save(out, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


# -- frames -------------------------------------------------------------------------------------

_FRAMES_A_SECOND = 8
# The last frame, which is what it is about, stays for as long as so many.
_LAST = 8
_FRAME = "frame-"


def frame_id(number: int) -> str:
    """What ``set_gid`` takes for an artist that is shown in one frame of an animation, from 0.

    :func:`save` has a figure's frames take turns, by CSS alone. Where that does not run, on paper
    and for readers who want no motion, the last is shown, or all over each other with the last on
    top.
    """
    return f"{_FRAME}{number}"


def _in_turn(svg: str, name: str) -> str:
    """An SVG whose frames take turns.

    Args:
        svg: as matplotlib writes it.
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
    return svg.replace("<defs>", f"<style>{style}</style><defs>", 1)
