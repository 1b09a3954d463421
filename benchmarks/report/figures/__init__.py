"""The figures of the report, from records alone.

One look a contestant in all of them (:mod:`benchmarks.report.style`). Means and intervals are over
seeds, or over splits where there are several: on a logarithmic axis they are those of the
logarithms. What can be drawn with seaborn is; where matplotlib draws alone, a comment says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import matplotlib as mpl

from benchmarks.report.figures.common import Drawn, Picture, Scene
from benchmarks.report.figures.curves import learning, nfe_growth
from benchmarks.report.figures.densities import densities
from benchmarks.report.figures.sweeps import (
    deviation_by_bottleneck,
    deviation_by_dimension,
    dimension,
)
from benchmarks.report.figures.trade_offs import trade_offs
from benchmarks.report.records import Records
from benchmarks.report.style import rc, save

__all__ = ["Picture", "draw_all"]

_MAKERS: Sequence[tuple[str, Callable[[Scene], Iterable[Drawn]]]] = (
    ("NLL against wall time", learning),
    ("density panels", densities),
    ("quality against cost", trade_offs),
    ("cost against dimension", dimension),
    ("estimator deviation against dimension", deviation_by_dimension),
    ("estimator deviation against bottleneck width", deviation_by_bottleneck),
    ("NFE over training", nfe_growth),
)


def draw_all(records: Records, folder: Path) -> tuple[list[Picture], list[str]]:
    """Draw every figure that the records have something for.

    Returns:
        The figures, and a note for each kind that could not be drawn and why.
    """
    scene = Scene.of(records)
    pictures, notes = [], []
    with mpl.rc_context(rc()):
        for what, make in _MAKERS:
            found = False
            for drawn in make(scene):
                png, svg = save(drawn.figure, folder, drawn.name)
                pictures.append(Picture(drawn.name, drawn.title, drawn.caption, (png, svg)))
                found = True
            if not found:
                notes.append(f"no figure of {what}: no record has what it takes")
    return pictures, notes
