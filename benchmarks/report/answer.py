"""The first screen: who wins at which cost, in three sentences and one picture.

Of all sections those data sets are taken together that the most systems ran on, each under one rule
or study and on one machine. A system stands there once a data set, with that of its variants that
validates best. Who is lowest is told by differences paired by seed, with their interval; where there
is none, nobody wins, and the sentences say what is missing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from benchmarks import measures
from benchmarks.report.figures import Drawn
from benchmarks.report.figures.panels import handles, legend, log_axis, panels
from benchmarks.report.figures.trade_offs import with_exact_densities
from benchmarks.report.findings import in_words
from benchmarks.report.fronts import draw_front
from benchmarks.report.groups import grouped, values_by_seed
from benchmarks.report.records import Records
from benchmarks.report.statistics import Interval, mean_over_strata, t_interval
from benchmarks.report.style import looks, rc, system
from benchmarks.studies.base import Study

__all__ = ["answer"]


def answer(sections: Sequence[tuple[Study, Records]]) -> tuple[tuple[str, ...], Drawn | None]:
    """Who wins at which cost.

    Args:
        sections: of :func:`benchmarks.report.sections.sections_of`.

    Returns:
        One to three sentences, and the picture that they are about, to be written by
        :func:`benchmarks.report.style.save`; None where no two contestants have anything in common.
    """
    raise NotImplementedError
