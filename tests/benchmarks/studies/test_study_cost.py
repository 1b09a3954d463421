"""The study of cost on scores whose ranking is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_records import records_of, store_of

from benchmarks.cell import Cell
from benchmarks.report import write_report
from benchmarks.report.figures import Scene
from benchmarks.report.fronts import on_front
from benchmarks.report.statistics import interquartile_mean, stratified_bootstrap
from benchmarks.report.table import DASH
from benchmarks.studies.cost import finding, front_table, fronts, ranking_table, rankings, ranks

FLOWS = ("ffjord", "realnvp", "glow", "nice", "maf", "rqnsf-c", "rqnsf-ar")


def measured(cell: Cell) -> dict[str, Any]:
    """At equal time a tenth of a nat a flow in the order above, at equal work the other way round.

    The last two change places with the seed, and the dearest flow is the first.
    """
    place = FLOWS.index(cell.flow)
    if place > 4 and cell.seed == 1:
        place = 11 - place
    timed = cell.budget.seconds is not None
    return {
        "nll_nats": 2 + 0.1 * (place if timed else 6 - place) + 0.01 * cell.seed,
        "gaussian_nll_nats": 4.0,
        "train_seconds": 10.0 if timed else 8.0 - place,
        "train_nfe": 5000.0,
        "parameters": 1000.0 * (7 - place),
        "steps": 100.0,
    }


def test_rankings_are_those_of_the_scores(tmp_path: Path) -> None:
    timed, worked = rankings(records_of(tmp_path, "cost", measured))
    assert timed.bound == "equal time, 7 s"
    assert worked.bound == "equal work, 5,000 evaluations"
    assert timed.names[:5] == FLOWS[:5]
    assert worked.names[-1] == "ffjord"
    assert timed.nll.shape == (7, 3, 3)
    np.testing.assert_allclose(timed.ranks, [1, 2, 3, 4, 5, 19 / 3, 20 / 3])
    # In six and seven the seeds differ, on every data set alike: none, all or some of them drawn.
    low, high = timed.rank_bounds
    np.testing.assert_allclose(low[:5], timed.ranks[:5])
    np.testing.assert_allclose(high[:5], timed.ranks[:5])
    assert 6 <= low[5] < 19 / 3 < high[5] <= 7
    behind = timed.behind(1)
    assert behind.mean == pytest.approx(0.1)
    assert behind.half_width == pytest.approx(0, abs=1e-12)


def test_the_finding_is_that_of_the_records(tmp_path: Path) -> None:
    said = finding(records_of(tmp_path, "cost", measured))
    assert said is not None
    assert "over 3 data sets and 3 seeds" in said
    assert "at equal time, 7 s: ffjord 1.0 (1.0 to 1.0), realnvp 2.0 (2.0 to 2.0) of 7" in said
    assert said.endswith("ffjord 7.0 (7.0 to 7.0) of 7.")


def test_one_seed_ranks_without_intervals(tmp_path: Path) -> None:
    records = records_of(tmp_path, "cost", measured, seeds=[0])
    assert finding(records) is None
    (table,) = ranking_table(records)
    assert table.data["mean_rank"].notna().all()
    assert table.data["mean_rank_low"].isna().all()
    assert {row[2].text for section in table.sections for row in section.rows} == {DASH}


def test_the_front_of_a_data_set(tmp_path: Path) -> None:
    (table,) = front_table(records_of(tmp_path, "cost", measured))
    data = table.data[table.data["dataset"] == "8gaussians"].set_index(["bound", "contestant"])
    # The lowest NLL of all is on every front, whatever it costs.
    assert data.loc[("equal time, 7 s", "ffjord"), "on_front_train_seconds"]
    assert not data.loc[("equal time, 7 s", "maf"), "on_front_train_seconds"]
    # At equal work the cheapest is the best.
    assert data["on_front_train_seconds"].sum() <= 3


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(1, 3), (2, 2), (3, 1)], [True, True, True]),
        ([(1, 1), (2, 2)], [True, False]),
        ([(1, 1), (1, 1)], [True, True]),
        ([(1, 2), (1, 1), (math.nan, 0), (0, math.inf)], [False, True, False, False]),
        ([], []),
    ],
)
def test_fronts(points: list[tuple[float, float]], front: list[bool]) -> None:
    costs, losses = [p[0] for p in points], [p[1] for p in points]
    assert on_front(costs, losses).tolist() == front


def test_the_bootstrap_of_a_mean_has_its_deviation() -> None:
    """Of a mean over strata: the root of the sum of s^2 / n over their number, s of n."""
    scores = np.random.default_rng(1).standard_normal((2, 5, 4)) * np.array([1.0, 2, 3, 4])
    low, high = stratified_bootstrap(scores, lambda each: each.mean(axis=(-2, -1)), draws=20_000)
    deviation = np.sqrt((scores.var(axis=1) / 5).sum(axis=1)) / 4
    np.testing.assert_allclose(high - low, 2 * 1.96 * deviation, rtol=0.05)


def test_the_bootstrap_covers_what_it_says_of_three_seeds() -> None:
    """87 % where it says 95, over ten data sets."""
    random = np.random.default_rng(0)
    scores = random.standard_normal((2000, 3, 10))
    low, high = stratified_bootstrap(scores, lambda each: each.mean(axis=(-2, -1)), draws=500)
    assert ((low < 0) & (high > 0)).mean() == pytest.approx(0.87, abs=0.02)


def test_an_interquartile_mean_leaves_out_what_ran_away() -> None:
    scores = np.array([[[1.0, 2.0], [3.0, 1e6]], [[0.0, 0.0], [4.0, 4.0]]])
    assert interquartile_mean(scores).tolist() == [2.5, 2.0]


@pytest.mark.parametrize("failed", ["all", "one run", "but one flow", "work"])
def test_what_is_missing_is_missing(tmp_path: Path, failed: str) -> None:
    def known(cell: Cell) -> dict[str, Any] | None:
        gone = {
            "all": True,
            "one run": (cell.flow, cell.seed, cell.dataset) == ("glow", 1, "power"),
            "but one flow": cell.flow != "maf",
            "work": cell.budget.nfe is not None,
        }
        return None if gone[failed] else measured(cell)

    records = records_of(tmp_path / "again", "cost", known)
    found = rankings(records)
    assert len(found) == {"all": 0, "one run": 2, "but one flow": 0, "work": 1}[failed]
    if failed == "one run":
        assert all(each.left_out == ("glow",) for each in found)
        (table,) = ranking_table(records)
        assert any("for want of a result: glow" in note for note in table.notes)
    assert len(list(ranks(Scene.of(records)))) == bool(found)
    assert len(list(fronts(Scene.of(records)))) == (0 if failed == "all" else 3)
    assert (finding(records) is None) == (not found)
    write_report([store_of(tmp_path / "run", "cost", known)], tmp_path / "out")
