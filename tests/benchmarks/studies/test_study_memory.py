"""The study of memory on records that lie on a line, and near one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from study_records import records_of, store_of

from benchmarks.cell import Cell
from benchmarks.report import write_report
from benchmarks.report.figures import Scene
from benchmarks.report.statistics import line_through
from benchmarks.studies.memory import budgets, figure, finding, growth, largest_batch

# Bytes that a row takes for each evaluation.
EACH = {"checkpoint": 64, "adjoint": 0, "backprop": 1024}
FIXED = 2**20


def measured(cell: Cell) -> dict[str, Any]:
    """A mebibyte, and for each row 2048 bytes a block or layer and what its evaluations keep."""
    options, rows = cell.flow_options, cell.budget.batch_size
    if cell.flow == "ffjord":
        nfe, depth = 4 * options["steps"], options["blocks"]
        kept = EACH[options["gradient"]] * nfe
    else:
        nfe = depth = options.get("layers", options.get("steps"))
        kept = 0
    memory = FIXED + rows * (2048 * depth + kept)
    return {"nfe_train_forward": nfe, "peak_memory_bytes": memory}


def test_growth_is_found(tmp_path: Path) -> None:
    (table,) = growth(records_of(tmp_path, "memory", measured))
    data: dict[Any, dict[Any, Any]] = table.data.set_index(["against", "contestant"]).to_dict(
        "index"
    )
    for gradient, bytes_each in EACH.items():
        row = data["evaluations", f"ffjord[gradient={gradient}]"]
        assert row["bytes_each"] == pytest.approx(256 * bytes_each, abs=1e-3)
        assert row["bytes_each_half_width"] == pytest.approx(0, abs=1e-3)
        assert (row["from"], row["to"], row["points"]) == (8, 128, 5)
        # At eight steps, 32 evaluations, whatever is one block deep.
        batch = data["batch", f"ffjord[gradient={gradient}]"]
        assert batch["bytes_each"] == pytest.approx(2048 + 32 * bytes_each, rel=1e-6)
        assert batch["bytes_at_zero"] == pytest.approx(FIXED, rel=1e-6)
    assert data["evaluations", "ffjord[gradient=adjoint]"]["exponent"] == pytest.approx(0)
    assert data["depth", "maf"]["bytes_each"] == pytest.approx(256 * 2048, rel=1e-6)
    # The evaluations of discrete flows are their depth.
    swept = {name for against, name in data if against == "evaluations"}
    assert swept == {f"ffjord[gradient={each}]" for each in EACH}


def test_the_largest_batch_is_that_of_the_line(tmp_path: Path) -> None:
    records = records_of(tmp_path, "memory", measured)
    (table,) = largest_batch(records)
    size = budgets(records)[-1]
    column = f"rows_in_{size / 2**20:g}_mib"
    of = table.data.set_index("contestant")[column]
    for gradient, bytes_each in EACH.items():
        expected = (size - FIXED) / (2048 + 32 * bytes_each)
        row = of[f"ffjord[gradient={gradient}]"]
        assert math.isnan(row) or row == pytest.approx(expected, rel=1e-6)
    assert of.notna().any()
    texts = [entry.text for row in table.sections[0].rows for entry in row]
    # What was not measured is not made up.
    assert any(text.startswith("more than 4,096") for text in texts)


def test_the_finding_is_that_of_the_records(tmp_path: Path) -> None:
    said = finding(records_of(tmp_path, "memory", measured))
    assert said is not None
    assert "0.06 ± 0.00 KiB (5 sizes) with ffjord[gradient=checkpoint]" in said
    assert "1.00 ± 0.00 KiB (5 sizes) with ffjord[gradient=backprop]" in said


def test_a_line_through_noise_has_the_interval_of_least_squares() -> None:
    """With equal sizes of y the weights are equal, and it is the ordinary regression."""
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), 1e6 + np.array([3.0, 5.0, 4.0, 8.0])
    line, ordinary = line_through(x.tolist(), y.tolist()), stats.linregress(x, y)
    assert line is not None
    half_width = stats.t.ppf(0.975, 2) * ordinary.stderr
    assert line.slope_interval.mean == pytest.approx(ordinary.slope, rel=1e-4)
    assert line.slope_interval.half_width == pytest.approx(half_width, rel=1e-4)
    assert line.where(float(line.intercept + 2.5 * line.slope)).mean == pytest.approx(2.5, rel=1e-6)


def test_two_points_have_no_interval_and_one_no_line() -> None:
    line = line_through([1, 2], [3.0, 4.0])
    assert line is not None
    assert math.isnan(line.slope_interval.half_width)
    assert math.isnan(line.where(3.5).half_width)
    assert line_through([2, 2], [3.0, 4.0]) is None
    assert line_through([], []) is None


@pytest.mark.parametrize("failed", ["all", "backprop", "holes", "one size"])
def test_what_is_missing_is_missing(tmp_path: Path, failed: str) -> None:
    def known(cell: Cell) -> dict[str, Any] | None:
        gone = {
            "all": True,
            "backprop": cell.flow_options.get("gradient") == "backprop",
            "holes": cell.budget.batch_size == 1024 or cell.flow_options.get("steps") == 4,
            "one size": cell.budget.batch_size != 256 or cell.flow_options.get("steps") == 4,
        }
        return None if gone[failed] else measured(cell)

    records = records_of(tmp_path / "again", "memory", known)
    said = finding(records)
    assert (said is None) == (failed == "all")
    assert said is None or ("backprop" in said) == (failed != "backprop")
    assert len(list(figure(Scene.of(records)))) == (failed != "all")
    if failed == "one size":
        assert largest_batch(records) == []
    write_report([store_of(tmp_path / "run", "memory", known)], tmp_path / "out")
