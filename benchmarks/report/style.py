"""How figures look: the colour, marker and line of each contestant, and matplotlib's settings.

The hue says which system a contestant is, its shade and the marker which library's it is or which
preset. Options that differ within a report show in whether the marker is filled, and in the line.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from flows import ENTRIES

__all__ = [
    "SYSTEM_COLOURS",
    "Look",
    "Marker",
    "dashes",
    "flow_order",
    "looks",
    "new_figure",
    "rc",
    "system",
    "told_apart",
    "variant_looks",
]

Marker = str | tuple[int, int, int]
"""A marker of matplotlib: a letter, or points, 1 for a star, and degrees."""

# Okabe and Ito's palette (Color Universal Design, 2008), without its yellow, which a white page
# swallows, and five more colours that stay apart from these and each other for every kind of
# colour vision (tests/benchmarks/report/test_report_style.py measures it).
SYSTEM_COLOURS: Mapping[str, str] = {
    "ffjord": "#D55E00",
    "ffjord-fm": "#A800F0",
    "realnvp": "#0072B2",
    "glow": "#009E73",
    "maf": "#CC79A7",
    "nice": "#56B4E9",
    "iaf": "#E69F00",
    "rqnsf-c": "#000000",
    "rqnsf-ar": "#661100",
    "planar": "#4B0092",
    "radial": "#A0522D",
    "sylvester": "#00394D",
}
"""One colour a system, with all presets of it; other libraries' versions are shades of it."""

_UNKNOWN = "#7F7F7F"
# A system's own flow has a marker of its own too, so that these are told apart without colour.
_SYSTEM_MARKERS: Mapping[str, Marker] = {
    "ffjord": "o",
    "ffjord-fm": (4, 1, 0),
    "realnvp": "s",
    "glow": "^",
    "maf": "D",
    "nice": "<",
    "iaf": ">",
    "rqnsf-c": "p",
    "rqnsf-ar": "d",
    "planar": "h",
    "radial": "8",
    "sylvester": "H",
}
_LIBRARY_MARKERS: Mapping[str, Marker] = {
    "nflows": "v",
    "zuko": "P",
    "normflows": "X",
    "torchflows": "*",
}
# Part of black (below 0) or white (above) in a library's shade of a system's colour; a dark colour
# has white alone.
_LIBRARY_SHADES = {"nflows": 0.3, "zuko": -0.3, "normflows": 0.5, "torchflows": -0.55}
_DARK_SHADES = {"nflows": 0.3, "zuko": 0.42, "normflows": 0.54, "torchflows": 0.66}
# Drawn smaller than others of the same size, by matplotlib's design.
_SMALL: Mapping[Marker, float] = {"*": 1.5, "P": 1.15, "X": 1.15}
# What presets and variants take, the most distinct first; the libraries' come last.
_MARKERS: tuple[Marker, ...] = (
    *("o", "s", "^", "D", "<", ">", "p", "d", "h"),
    *((4, 1, 0), (6, 1, 0), "H", "8", (3, 1, 0), (8, 1, 0), (4, 1, 45), (3, 1, 180), (5, 1, 180)),
    *_LIBRARY_MARKERS.values(),
)
# Entries whose name does not begin with that of their system.
_ALIASES = {"cnf": "ffjord", "made": "maf"}
# The systems in the order of every legend and table.
_ORDER = (
    *(
        "ffjord",
        "cnf",
        "ffjord-fm",
        "ffjord-fm-ot",
        "realnvp",
        "glow",
        "maf",
        "nice",
        "maf-mog",
        "iaf",
    ),
    *("rqnsf-c", "rqnsf-ar", "planar", "radial", "sylvester"),
)


@dataclass(frozen=True)
class Look:
    """How one contestant is drawn.

    Attributes:
        colour: of its system.
        marker: of its entry.
        filled: whether the marker is full or white inside.
        dashes: lengths of ink and gap in turn, in line widths; empty for a solid line.
    """

    colour: str
    marker: Marker
    filled: bool = True
    dashes: tuple[float, ...] = ()

    @property
    def face(self) -> str:
        """Colour inside the marker."""
        return self.colour if self.filled else "white"

    @property
    def size(self) -> float:
        """Factor on the marker's size, so that all look equally large."""
        return 1.35 if isinstance(self.marker, tuple) else _SMALL.get(self.marker, 1.0)

    @property
    def line(self) -> Any:
        """The line as matplotlib takes it."""
        return (0, self.dashes) if self.dashes else "-"


def flow_order(name: str) -> tuple[int, str]:
    """Sorts flows: the suite's own in their usual order, then the others by name."""
    return (_ORDER.index(name), "") if name in _ORDER else (len(_ORDER), name)


def system(name: str) -> str:
    """The system of an entry, by its name; empty if it is none of the suite's.

    ``zuko/rqnsf-ar`` and ``rqnsf-ar-power`` are the system ``rqnsf-ar``.
    """
    own = name.rpartition("/")[2]
    found = ""
    for begin, known in (*((name, name) for name in SYSTEM_COLOURS), *_ALIASES.items()):
        # Of ``ffjord`` and ``ffjord-fm`` the longer.
        if (own == begin or own.startswith(f"{begin}-")) and len(known) > len(found):
            found = known
    return found


def _colour(name: str) -> str:
    """The colour of an entry: its system's, in its library's shade."""
    base = SYSTEM_COLOURS.get(system(name), _UNKNOWN)
    rgb = to_rgb(base)
    library = name.rpartition("/")[0]
    part = (_DARK_SHADES if sum(rgb) < 0.6 else _LIBRARY_SHADES).get(library, 0.0)
    towards = 1.0 if part > 0 else 0.0
    red, green, blue = (value + abs(part) * (towards - value) for value in rgb)
    return to_hex((red, green, blue)).upper()


def _legend_order(name: str) -> tuple[int, bool, tuple[int, str]]:
    """Systems together, each with the suite's own before the libraries'."""
    systems = list(SYSTEM_COLOURS)
    own = system(name)
    return (
        systems.index(own) if own in systems else len(systems),
        "/" in name,
        flow_order(name),
    )


def _preferred(name: str) -> Marker | None:
    library, _, own = name.rpartition("/")
    return _LIBRARY_MARKERS.get(library) if library else _SYSTEM_MARKERS.get(own)


def _first_free(taken: set[tuple[str, Marker]], colour: str, start: int = 0) -> Marker:
    rotated = (*_MARKERS[start:], *_MARKERS[:start])
    for marker in rotated:
        if (colour, marker) not in taken:
            return marker
    # Stars of ever more points: hard to tell apart, but never the same.
    points = next(n for n in itertools.count(9) if (colour, (n, 1, 0)) not in taken)
    return (points, 1, 0)


@cache
def _catalog() -> dict[str, Look]:
    """The look of every entry, whatever a report shows."""
    found: dict[str, Look] = {}
    taken: set[tuple[str, Marker]] = set()

    def give(name: str, marker: Marker) -> None:
        found[name] = Look(_colour(name), marker)
        taken.add((_colour(name), marker))

    later = []
    for name in ENTRIES:
        preferred = _preferred(name)
        if preferred is None or (_colour(name), preferred) in taken:
            later.append(name)
        else:
            give(name, preferred)
    for name in later:
        give(name, _first_free(taken, _colour(name)))
    return found


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Colour and marker of each flow, no two alike, the flows in the order of every legend.

    A name outside the catalog gets its look from its system, if it names one, and a hash of the
    name, so that it keeps it from report to report unless another one in the same report already
    has it.

    Example:
        >>> looks(["maf", "ffjord"]) == {**looks(["maf"]), **looks(["ffjord"])}
        True
    """
    catalog = _catalog()
    wanted = sorted(set(names))
    found = {name: catalog[name] for name in wanted if name in catalog}
    taken = {(look.colour, look.marker) for look in catalog.values()}
    for name in wanted:
        if name not in found:
            colour = _colour(name)
            start = hashlib.sha256(name.encode()).digest()[0] % len(_MARKERS)
            found[name] = Look(colour, _first_free(taken, colour, start))
            taken.add((colour, found[name].marker))
    return {name: found[name] for name in sorted(found, key=_legend_order)}


def variant_looks(variants: Mapping[str, Sequence[str]]) -> dict[str, Look]:
    """The look of each contestant of a report, no two with the same colour, marker and filling.

    Args:
        variants: the contestants of each flow, in order. The first of a flow looks as the flow
            itself, the second has a white marker and a broken line, and so on in pairs, each pair
            with a marker that no other flow of that colour has here.

    Returns:
        By contestant, in the order of every legend. No line repeats among the variants of a flow.

    Example:
        >>> found = variant_looks({"maf": ["maf", "maf[layers=2]"], "glow": ["glow"]})
        >>> [(name, look.marker, look.filled) for name, look in found.items()]
        [('glow', '^', True), ('maf', 'D', True), ('maf[layers=2]', 'D', False)]
    """
    base = looks(variants)
    taken = {(look.colour, look.marker) for look in base.values()}
    found = {}
    for name, look in base.items():
        marker = look.marker
        for position, contestant in enumerate(variants[name]):
            if position and position % 2 == 0:
                marker = _first_free(taken, look.colour)
                taken.add((look.colour, marker))
            found[contestant] = Look(look.colour, marker, position % 2 == 0, dashes(position))
    return found


def told_apart(looks: Mapping[str, Look]) -> dict[str, Look]:
    """Looks with a colour each where they have a single one, as variants of one system have.

    Example:
        >>> found = told_apart({"maf": Look("#CC79A7", "D"), "maf[layers=2]": Look("#CC79A7", "D")})
        >>> [look.colour for look in found.values()]
        ['#CC79A7', '#D55E00']
    """
    colours = {look.colour for look in looks.values()}
    if len(colours) > 1:
        return dict(looks)
    ordered = itertools.cycle(
        [*colours, *(each for each in SYSTEM_COLOURS.values() if each not in colours)]
    )
    return {name: replace(look, colour=next(ordered)) for name, look in looks.items()}


def dashes(position: int) -> tuple[float, ...]:
    """The line of the variant at a position: solid, dashed, dotted, dash-dotted, ...; none repeats.

    Example:
        >>> dashes(0), dashes(1), dashes(2)
        ((), (4.0, 1.5), (1.0, 1.5))
    """
    return next(itertools.islice(_dash_patterns(), position, None))


def _dash_patterns() -> Iterator[tuple[float, ...]]:
    long, short, gap = 4.0, 1.0, 1.5
    yield ()
    yield (long, gap)
    yield (short, gap)
    for length in itertools.count(2):
        # All dashes, then all dots: a period of two dashes and two dots is not that of one and one.
        for dots in range(1, length):
            marks = [long] * (length - dots) + [short] * dots
            yield tuple(part for mark in marks for part in (mark, gap))


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
        # Text as text: to be searched and read aloud, and a fifth of the bytes of outlines.
        "svg.fonttype": "none",
        "image.cmap": "viridis",
    }


def new_figure(width: float, height: float) -> Figure:
    """A figure of that size in inches, bound to no window and to no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


# Agg alone: no display is needed, and none is looked for.
mpl.use("agg")
