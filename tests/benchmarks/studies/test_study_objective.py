"""The study of objectives on curves whose crossing is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from study_records import records_of, store_of

from benchmarks.cell import Cell
from benchmarks.report import write_report
from benchmarks.report.figures import Scene
from benchmarks.report.table import DASH
from benchmarks.studies.objective import (
    Crossing,
    crossing,
    crossover_table,
    crossovers,
    curves,
    ends,
    finding,
    progress,
)

T_2 = 4.302652729911275
AT = (1e3, 2e3, 4e3)
"""Where flow matching is overtaken, by seed."""


def kind(cell: Cell) -> str:
    if cell.flow != "ffjord":
        return cell.flow
    return "rnode" if cell.flow_options["kinetic_energy"] else "ffjord"


def curve(cell: Cell) -> list[dict[str, float]]:
    """Against the logarithm of evaluations: likelihood falls with slope 2, flow matching with 1.

    They are equal at AT; the regularised flow is always half a nat above likelihood.
    """
    mine = kind(cell)
    slope, above = (1.0, 0.0) if "fm" in mine else (2.0, 0.5 * (mine == "rnode"))
    each = (1.0, 0.0) if "fm" in mine else (30.0, 20.0)
    step_seconds = 0.001 * sum(each)
    rows = []
    for power in range(15):
        step = round(200 * 1.5**power / sum(each))
        spent = step * sum(each)
        nll = 5 + above - slope * math.log10(spent / AT[cell.seed % 3])
        rows.append(
            {
                "step": step,
                "seconds": step * step_seconds,
                "validation_nll_nats": nll,
                "nfe_forward": each[0],
                "nfe_backward": each[1],
            }
        )
    return rows


def measured(cell: Cell) -> dict[str, Any]:
    nfe = 20.0 if "fm" in kind(cell) else 40.0
    return {"nll_nats": 2.5, "nfe_log_prob": nfe, "gaussian_nll_nats": 4.0}


def frame(*rows: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["evaluations", "nll"])


def test_a_crossing_lies_where_the_lines_meet() -> None:
    one, other = frame((1, 0), (100, 2)), frame((1, 1), (100, 1))
    found = crossing(one, other, "evaluations")
    assert found is not None
    assert found.at == pytest.approx(10)
    assert not found.below_at_end
    swapped = crossing(other, one, "evaluations")
    assert swapped == Crossing(found.at, True)


def test_the_last_of_several_crossings_counts() -> None:
    one, other = frame((1, 0), (10, 2), (100, 0)), frame((1, 1), (100, 1))
    found = crossing(one, other, "evaluations")
    assert found is not None
    assert found.at == pytest.approx(10**1.5)
    assert found.below_at_end


def test_curves_that_share_no_budget_are_not_compared() -> None:
    assert crossing(frame((1, 0), (2, 0)), frame((3, 0), (4, 0)), "evaluations") is None
    assert crossing(frame(), frame((3, 0), (4, 0)), "evaluations") is None
    above = crossing(frame((1, 3), (9, 3)), frame((1, 2), (9, 2)), "evaluations")
    assert above is not None
    assert math.isnan(above.at)
    assert not above.below_at_end


def test_the_best_so_far_counts_and_evaluations_add_up(tmp_path: Path) -> None:
    def bumpy(cell: Cell) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [*curve(cell)[:3]]
        # As a validation without a finite density is written.
        rows[1]["validation_nll_nats"] = None
        rows[2] |= {"validation_nll_nats": 99.0, "nfe_forward": 100.0}
        return rows

    records = records_of(tmp_path, "objective", measured, curve=bumpy, seeds=[0])
    whole = progress(records)
    mine = whole[(whole["contestant"] == "ffjord-fm") & (whole["dataset"] == "checkerboard")]
    assert len(mine) == 2
    assert mine["nll"].nunique() == 1
    assert mine["evaluations"].tolist() == [200, 300 + 150 * 100]


def test_crossovers_are_found_with_their_interval(tmp_path: Path) -> None:
    data = crossovers(records_of(tmp_path, "objective", measured, curve=curve))
    rows: dict[Any, dict[Any, Any]] = data.set_index(["dataset", "contestant", "axis"]).to_dict(
        "index"
    )
    half = T_2 * math.log(2) / math.sqrt(3)
    names = {name for _, name, _ in rows}
    matching = {name for name in names if "fm" in name}
    assert len(matching) == 2
    for name in matching:
        row = rows["8gaussians", name, "evaluations"]
        assert (row["seeds"], row["crossed"], row["below_at_end"]) == (3, 3, 0)
        # Steps of likelihood are rounded to whole ones.
        assert row["at"] == pytest.approx(2e3, rel=0.02)
        assert row["low"] == pytest.approx(2e3 * math.exp(-half), rel=0.02)
        assert row["high"] == pytest.approx(2e3 * math.exp(half), rel=0.02)
        assert rows["8gaussians", name, "seconds"]["at"] == pytest.approx(2.0, rel=0.02)
    (other,) = names - matching
    row = rows["8gaussians", other, "seconds"]
    assert (row["crossed"], row["below_at_end"]) == (0, 0)


def test_the_finding_is_that_of_the_records(tmp_path: Path) -> None:
    said = finding(records_of(tmp_path, "objective", measured, curve=curve))
    assert said is not None
    assert "ffjord-fm on 8gaussians is overtaken at" in said
    assert "ffjord-fm 0.50 (0.50 to 0.50, 3 seeds) on 8gaussians" in said


def test_one_seed_says_nothing_of_others(tmp_path: Path) -> None:
    records = records_of(tmp_path, "objective", measured, curve=curve, seeds=[0])
    assert finding(records) is None
    (table,) = crossover_table(records)
    assert {row[-1].text for section in table.sections for row in section.rows} == {DASH}


@pytest.mark.parametrize("failed", ["all", "likelihood", "matching", "curves"])
def test_what_is_missing_is_missing(tmp_path: Path, failed: str) -> None:
    def known(cell: Cell) -> dict[str, Any] | None:
        lost = {"all": True, "likelihood": kind(cell) == "ffjord", "matching": "fm" in cell.flow}
        return None if lost.get(failed) else measured(cell)

    given: dict[str, Any] = {} if failed == "curves" else {"curve": curve}
    records = records_of(tmp_path / "again", "objective", known, **given)
    said = finding(records)
    assert said is None
    assert len(list(curves(Scene.of(records)))) == (failed in ("likelihood", "matching"))
    assert len(ends(records)) == (failed != "all")
    write_report([store_of(tmp_path / "run", "objective", known, **given)], tmp_path / "out")
