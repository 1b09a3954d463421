"""What the report does with several seeds: t intervals, paired differences, the choice of the best.

A percentile bootstrap of three seeds covers 74 % where it says 95 %, a t interval 94 %, so means
over seeds carry a t interval. Only scores that several data sets are pooled in have a bootstrap,
which is nearer to what it says: 87 % at three seeds of ten sets. Errors over test points describe
another thing, the size of the test set, and never enter here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special, stats

__all__ = [
    "CONFIDENCE",
    "Interval",
    "Line",
    "best_of",
    "difference",
    "interquartile_mean",
    "line_through",
    "mean_over_strata",
    "paired_difference",
    "stratified_bootstrap",
    "t_interval",
    "welch_difference",
]

Floats = np.ndarray[Any, np.dtype[np.float64]]

CONFIDENCE = 0.95
"""Nominal coverage of every interval of the report."""

_RESAMPLED = 2**19


@dataclass(frozen=True)
class Interval:
    """A mean and the half-width of its confidence interval.

    Attributes:
        mean: NaN where there is no value.
        half_width: NaN where there are fewer than two values: one value has no spread.
        n: how many values.
    """

    mean: float
    half_width: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is there and does not hold zero."""
        return math.isfinite(self.half_width) and abs(self.mean) > self.half_width


def t_interval(values: Sequence[float]) -> Interval:
    """Student's t interval of the mean; values that are not finite are left out.

    Half-width ``t_{(1 + c) / 2, n - 1} s / sqrt(n)``, ``c`` being :data:`CONFIDENCE`, with
    ``s`` the standard deviation of ``n - 1`` degrees of freedom.

    Example:
        >>> interval = t_interval([1.0, 2.0, 3.0])
        >>> interval.mean, round(interval.half_width, 4), interval.n
        (2.0, 2.4841, 3)
        >>> t_interval([1.0]).half_width
        nan
    """
    array = np.asarray(values, dtype=np.float64)
    array = array[np.isfinite(array)]
    n = len(array)
    if n == 0:
        return Interval(math.nan, math.nan, 0)
    mean = float(array.mean())
    if n == 1:
        return Interval(mean, math.nan, 1)
    scale = float(array.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * scale, n)


def paired_difference(first: pd.Series[float], second: pd.Series[float]) -> Interval:
    """The t interval of ``first - second``, paired by seed.

    Args:
        first: values by seed, the index.
        second: likewise; seeds that only one of the two has are left out.

    Example:
        >>> a = pd.Series({0: 1.0, 1: 2.0, 2: 3.0})
        >>> b = pd.Series({0: 0.5, 1: 1.5, 3: 9.0})
        >>> paired_difference(a, b)
        Interval(mean=0.5, half_width=0.0, n=2)
    """
    return t_interval((first - second).dropna().to_list())


def mean_over_strata(strata: Sequence[Sequence[float]]) -> Interval:
    """The interval of the mean of several means, each with a spread of its own, equally weighted.

    Degrees of freedom by Welch and Satterthwaite, as in :func:`welch_difference`.

    Args:
        strata: the values of each, such as differences by seed on each data set.

    Returns:
        Without a half-width where a stratum has fewer than two values; ``n`` of the smallest.

    Example:
        >>> round(mean_over_strata([[1.0, 2.0, 3.0]]).half_width, 4)
        2.4841
        >>> found = mean_over_strata([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]])
        >>> found.mean, round(found.half_width, 4)  # t of 4 degrees of freedom, sqrt(2 / 3) / 2
        (4.0, 1.1335)
    """
    found = [t_interval(values) for values in strata]
    n = min((each.n for each in found), default=0)
    if n == 0:
        return Interval(math.nan, math.nan, 0)
    mean = float(np.mean([each.mean for each in found]))
    if n == 1:
        return Interval(mean, math.nan, 1)
    squares = [
        (each.half_width / float(stats.t.ppf((1 + CONFIDENCE) / 2, each.n - 1))) ** 2
        for each in found
    ]
    total = sum(squares)
    if total == 0:
        return Interval(mean, 0.0, n)
    freedom = total**2 / sum(s**2 / (each.n - 1) for s, each in zip(squares, found, strict=True))
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
    return Interval(mean, quantile * math.sqrt(total) / len(found), n)


def welch_difference(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Welch's t interval of the difference of two means, samples of any size and variance.

    Degrees of freedom by Welch and Satterthwaite (Welch 1947, The generalization of Student's
    problem when several different population variances are involved).

    Example:
        >>> interval = welch_difference([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
        >>> interval.mean, round(interval.half_width, 4)  # t of 4 degrees of freedom, sqrt(2 / 3)
        (0.0, 2.267)
    """
    one, other = t_interval(first), t_interval(second)
    mean, n = one.mean - other.mean, min(one.n, other.n)
    if n < 2:
        return Interval(mean, math.nan, n)
    squares, freedoms = [], []
    for values in (first, second):
        array = np.asarray(values, dtype=np.float64)
        array = array[np.isfinite(array)]
        squares.append(float(array.var(ddof=1)) / len(array))
        freedoms.append(len(array) - 1)
    total = sum(squares)
    if total == 0:
        return Interval(mean, 0.0, n)
    freedom = total**2 / sum(s**2 / f for s, f in zip(squares, freedoms, strict=True))
    quantile = float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2))
    return Interval(mean, quantile * math.sqrt(total), n)


def difference(first: pd.Series[float], second: pd.Series[float]) -> Interval:
    """The 95 % interval of the difference of two means, by which the report tells flows apart.

    Args:
        first: values by seed (or by split), the index.
        second: likewise.

    Returns:
        The paired one where both have the same seeds, Welch's otherwise.
    """
    first, second = first.dropna(), second.dropna()
    if set(first.index) == set(second.index):
        return paired_difference(first, second)
    return welch_difference(first.to_list(), second.to_list())


def interquartile_mean(scores: Floats) -> Floats:
    """The mean of the middle half of the values on the last two axes together.

    That of Agarwal et al. 2021 (arXiv:2108.13264, section 4.3), over seeds and data sets.

    Example:
        >>> float(interquartile_mean(np.array([[0.0, 1.0], [2.0, 90.0]])))
        1.5
    """
    flat = scores.reshape(*scores.shape[:-2], -1)
    return np.asarray(stats.trim_mean(flat, 0.25, axis=-1))


def stratified_bootstrap(
    scores: Floats, statistic: Callable[[Floats], Floats], draws: int = 2000
) -> tuple[Floats, Floats]:
    """Percentile intervals of pooled scores, the seeds of each data set drawn anew by themselves.

    That of rliable (Agarwal et al. 2021, arXiv:2108.13264, section 4.2), but with the same seeds
    for all contestants, so that what a seed does to all of them is no difference between them.
    Resamples of n seeds vary by sqrt(1 - 1/n) of what new seeds would: the intervals are a fifth
    too narrow at three, a tenth at five.

    Args:
        scores: shape ``(contestants, seeds, data sets)``.
        statistic: from that shape to ``(contestants,)``; likewise with axes before these.
        draws: how many resamples; they come from a seed of their own.

    Returns:
        The ends of the 95 % intervals, shape ``(contestants,)`` each; NaN for a single seed.
    """
    contestants, seeds, sets = scores.shape
    if seeds < 2:
        nothing = np.full(len(scores), math.nan)
        return nothing, nothing
    random = np.random.default_rng(0)
    drawn = []
    # Many at once, of a few megabytes.
    at_once = max(1, _RESAMPLED // scores.size)
    for first in range(0, draws, at_once):
        count = min(at_once, draws - first)
        chosen = random.integers(seeds, size=(count, 1, seeds, sets))
        every = np.broadcast_to(scores, (count, contestants, seeds, sets))
        drawn.append(statistic(np.take_along_axis(every, chosen, axis=2)))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.concatenate(drawn), [tail, 100 - tail], axis=0)
    return low, high


@dataclass(frozen=True)
class Line:
    """``y = intercept + slope x``, fitted with errors in proportion to ``y``.

    Attributes:
        intercept: at ``x = 0``.
        slope: of the line.
        covariance: of the two.
        spread: standard deviation of the residuals over ``y``.
        freedom: how many points there are beyond two.
    """

    intercept: float
    slope: float
    covariance: tuple[tuple[float, float], tuple[float, float]]
    spread: float
    freedom: int

    @property
    def slope_interval(self) -> Interval:
        """The slope with its 95 % interval; no half-width for two points."""
        half_width = self._quantile * math.sqrt(self.covariance[1][1])
        return Interval(self.slope, half_width, self.freedom + 2)

    @property
    def _quantile(self) -> float:
        if self.freedom < 1:
            return math.nan
        return float(special.stdtrit(self.freedom, (1 + CONFIDENCE) / 2))

    def where(self, y: float) -> Interval:
        """The ``x`` at which a new observation would be ``y``, by the delta method."""
        x = (y - self.intercept) / self.slope
        (aa, ab), (_, bb) = self.covariance
        variance = (self.spread * y) ** 2 + aa + 2 * x * ab + x * x * bb
        half_width = self._quantile * math.sqrt(max(0.0, variance)) / abs(self.slope)
        return Interval(x, half_width, self.freedom + 2)


def line_through(x: Sequence[float], y: Sequence[float]) -> Line | None:
    """The line of least squares of ``residual / y``.

    Args:
        x: with two different values or more; else there is no line.
        y: above 0.

    Example:
        >>> line = line_through([1, 2, 4], [5.0, 7.0, 11.0])
        >>> round(line.intercept, 9), round(line.slope, 9), round(line.where(9.0).mean, 9)
        (3.0, 2.0, 3.0)
    """
    points = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(np.unique(points[0])) < 2:
        return None
    design = np.stack([np.ones_like(points[0]), points[0]], axis=1) / points[1][:, None]
    (intercept, slope), *_ = np.linalg.lstsq(design, np.ones_like(points[1]), rcond=None)
    freedom = len(points[0]) - 2
    residual = 1 - design @ np.array([intercept, slope])
    # Rounding is no spread.
    residual[np.abs(residual) < 1e-12] = 0
    variance = float(residual @ residual) / freedom if freedom else math.nan
    (aa, ab), (_, bb) = variance * np.linalg.inv(design.T @ design)
    covariance = ((float(aa), float(ab)), (float(ab), float(bb)))
    return Line(float(intercept), float(slope), covariance, math.sqrt(variance), freedom)


def best_of(
    by_contestant: Mapping[Any, pd.Series[float]], lost: Collection[Any] = ()
) -> frozenset[Any]:
    """Those of the lowest mean that the seeds cannot tell apart, where they tell some from others.

    Compared are contestants of two seeds or more that lost none: a mean over the seeds that
    survived flatters. The best are the lowest mean and all whose difference from it
    (:func:`difference`) may be zero.

    Args:
        by_contestant: for each one its values by seed, lower is better.
        lost: those of which some seed gave no result.

    Returns:
        The best; empty where no contestant is told from the lowest mean, or where one that is not
        compared (a single seed, a lost one) lies lower still.
    """
    finite = {name: values.dropna() for name, values in by_contestant.items()}
    finite = {name: values for name, values in finite.items() if len(values)}
    compared = {n: values for n, values in finite.items() if len(values) > 1 and n not in lost}
    if len(compared) < 2:
        return frozenset()
    means = {name: float(values.mean()) for name, values in finite.items()}
    best = min(compared, key=lambda name: (means[name], str(name)))
    if any(mean < means[best] for name, mean in means.items() if name not in compared):
        return frozenset()
    tied = {
        name
        for name, values in compared.items()
        if not difference(values, compared[best]).excludes_zero
    }
    return frozenset(tied) if len(tied) < len(compared) else frozenset()
