"""Intervals, paired differences and the choice of the best, against hand computation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.report.statistics import (
    best_of,
    difference,
    paired_difference,
    t_interval,
    welch_difference,
)


def test_t_interval_by_hand() -> None:
    # Table of Student's t, two-sided 95 %: 4.302653 for 2 degrees of freedom.
    interval = t_interval([1.0, 2.0, 4.0])
    mean = 7 / 3
    deviation = math.sqrt(((1 - mean) ** 2 + (2 - mean) ** 2 + (4 - mean) ** 2) / 2)
    assert interval.n == 3
    assert interval.mean == pytest.approx(mean)
    assert interval.half_width == pytest.approx(4.302653 * deviation / math.sqrt(3), rel=1e-6)


def test_t_interval_agrees_with_scipy_and_leaves_nan_out() -> None:
    values = np.random.default_rng(0).normal(3, 2, size=7)
    low, high = stats.t.interval(0.95, 6, loc=values.mean(), scale=stats.sem(values))
    interval = t_interval([*values, math.nan, math.inf])
    assert interval.n == 7
    assert interval.mean - interval.half_width == pytest.approx(low)
    assert interval.mean + interval.half_width == pytest.approx(high)


def test_t_interval_covers_what_it_says() -> None:
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(2000):
        interval = t_interval(random.normal(size=3).tolist())
        hits += abs(interval.mean) <= interval.half_width
    assert hits / 2000 == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("values", [[], [math.nan]])
def test_no_values_no_mean(values: list[float]) -> None:
    interval = t_interval(values)
    assert interval.n == 0
    assert math.isnan(interval.mean)


def test_one_value_has_no_interval() -> None:
    assert math.isnan(t_interval([2.0]).half_width)
    assert not t_interval([2.0]).excludes_zero


def test_pairing_removes_what_seeds_share() -> None:
    # Seeds differ by whole nats, the methods by 0.1 in each: unpaired nothing could be said.
    shared = np.array([1.0, 5.0, 9.0])
    first = pd.Series(shared + np.array([0.1, 0.11, 0.09]), index=[0, 1, 2])
    second = pd.Series(shared, index=[0, 1, 2])
    difference = paired_difference(first, second)
    assert difference.mean == pytest.approx(0.1)
    assert difference.half_width == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-5)
    assert difference.excludes_zero


def by_seed(*values: float) -> pd.Series[float]:
    return pd.Series(values, index=range(len(values)))


def test_welch_agrees_with_scipy() -> None:
    random = np.random.default_rng(2)
    first, second = random.normal(1, 1, size=3), random.normal(0, 4, size=5)
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    interval = welch_difference(first.tolist(), second.tolist())
    assert interval.mean - interval.half_width == pytest.approx(expected.low)
    assert interval.mean + interval.half_width == pytest.approx(expected.high)


def test_welch_where_nothing_spreads_or_too_little_is_there() -> None:
    assert welch_difference([1.0, 1.0], [2.0, 2.0, 2.0]).excludes_zero
    assert math.isnan(welch_difference([1.0], [2.0, 3.0]).half_width)


def test_pairs_where_seeds_pair_and_welch_elsewhere() -> None:
    first = by_seed(1.0, 5.0, 9.0)
    assert difference(first + 0.1, first).half_width == pytest.approx(0, abs=1e-12)
    other = pd.Series([1.0, 5.0, 9.0], index=[3, 4, 5])
    assert difference(first, other) == welch_difference([1.0, 5.0, 9.0], [1.0, 5.0, 9.0])
    assert not difference(first + 0.1, other).excludes_zero


def test_all_that_cannot_be_told_from_the_lowest_are_the_best() -> None:
    by_contestant = {
        "lowest": by_seed(1.0, 2.0, 3.0),
        "tied": by_seed(1.3, 1.8, 3.2),
        "worse": by_seed(1.5, 2.51, 3.49),
    }
    assert best_of(by_contestant) == {"lowest", "tied"}
    # Without the one that is told from it, the seeds tell nothing: a tie of all is no win.
    del by_contestant["worse"]
    assert best_of(by_contestant) == frozenset()


def test_the_best_may_stand_alone() -> None:
    assert best_of({"a": by_seed(1.0, 1.1, 1.2), "b": by_seed(2.0, 2.11, 2.19)}) == {"a"}


def test_who_lost_a_seed_is_not_chosen_and_nobody_below_its_number() -> None:
    compared = {"a": by_seed(0.5, 0.6, 0.7), "b": by_seed(1.5, 1.61, 1.69)}
    assert best_of({**compared, "lost": by_seed(0.9, 0.95)}, lost={"lost"}) == {"a"}
    # The mean over the seeds that survived is the lowest, and flatters: no other beats it either.
    assert best_of({**compared, "lost": by_seed(0.1, 0.2)}, lost={"lost"}) == frozenset()


def test_one_seed_wins_nothing() -> None:
    assert best_of({"a": by_seed(1.0), "b": by_seed(2.0)}) == frozenset()
    compared = {"a": by_seed(0.5, 0.6, 0.7), "b": by_seed(1.5, 1.61, 1.69)}
    assert best_of({**compared, "one": by_seed(9.0)}) == {"a"}
    assert best_of({**compared, "one": by_seed(0.1)}) == frozenset()


def test_nothing_to_choose_from() -> None:
    assert best_of({}) == frozenset()
    assert best_of({"alone": by_seed(1.0, 2.0)}) == frozenset()
    assert best_of({"alone": by_seed(1.0, 2.0), "failed": by_seed(math.nan)}) == frozenset()
