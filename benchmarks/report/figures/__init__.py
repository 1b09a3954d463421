"""The figures that studies choose from, each a function of a scene that yields drawings.

One look a contestant in all of them (:mod:`benchmarks.report.style`). Means and intervals are over
seeds, or over splits where there are several: on a logarithmic axis they are those of the
logarithms. What can be drawn with seaborn is; where matplotlib draws alone, a comment says why. A
study's own figure of measures against what it sweeps is :func:`against`.
"""

from benchmarks.report.figures.against import against
from benchmarks.report.figures.curves import learning, nfe_against_loss, nfe_growth
from benchmarks.report.figures.densities import densities
from benchmarks.report.figures.image_grids import image_grids
from benchmarks.report.figures.scene import Drawn, Scene
from benchmarks.report.figures.sweeps import (
    deviation_by_bottleneck,
    deviation_by_dimension,
    dimension,
)
from benchmarks.report.figures.trade_offs import trade_offs
from benchmarks.report.figures.way import animation, way

__all__ = [
    "Drawn",
    "Scene",
    "against",
    "animation",
    "densities",
    "deviation_by_bottleneck",
    "deviation_by_dimension",
    "dimension",
    "image_grids",
    "learning",
    "nfe_against_loss",
    "nfe_growth",
    "trade_offs",
    "way",
]
