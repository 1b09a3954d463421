"""The study of the dimension on records whose exponents are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from study_records import records_of, store_of

from benchmarks.cell import Cell
from benchmarks.report import write_report
from benchmarks.report.figures import Scene
from benchmarks.report.sweeps import dimension_cells
from benchmarks.studies.dimension import evaluations, exponent, finding, table

T_2 = 4.302652729911275  # Student's t, two-sided 95 %, 2 degrees of freedom.


def size(cell: Cell) -> int:
    return int(cell.dataset_options["dimension"])


def measured(cell: Cell) -> dict[str, Any]:
    """NFE the same on Gaussians, as sqrt(D) on mixtures; time as D, memory as D^0.5."""
    continuous = cell.flow == "ffjord"
    grows = continuous and cell.dataset == "mixture"
    return {
        "nfe_train_forward": 20.0 * (math.sqrt(size(cell)) if grows else 1.0),
        "nfe_train_backward": 12.0 if continuous else 0.0,
        "train_step_seconds": 1e-3 * size(cell),
        "peak_memory_bytes": 1e6 * size(cell) ** 0.5,
        "nll_nats": 1.4 * size(cell),
        "kl_to_truth_nats": 0.01,
    }


def test_exponents_are_those_of_the_records(tmp_path: Path) -> None:
    (found,) = table(records_of(tmp_path, "dimension", measured))
    data = found.data
    assert data["train_step_seconds_exponent"].to_list() == pytest.approx([1.0] * len(data))
    assert data["peak_memory_bytes_exponent"].to_list() == pytest.approx([0.5] * len(data))
    mixture = data["family"] == "mixture"
    assert data.loc[mixture, "nfe_train_forward_exponent"].to_list() == pytest.approx([0.5, 0.5])
    assert (data.loc[~mixture, "nfe_train_forward_exponent"] == 0).all()
    # A discrete flow evaluates nothing on the way back: no power of D.
    assert data.loc[data["flow"] == "maf", "nfe_train_backward_exponent"].isna().all()
    titles = [section.title for section in found.sections]
    assert titles == [
        f"{family}, D = {span}"
        for family in ("gaussian", "mixture")
        for span in ("2 to 128", "32 to 128")
    ]


def test_intervals_are_over_the_seeds_slopes(tmp_path: Path) -> None:
    def steeper(cell: Cell) -> dict[str, Any]:
        return {"train_step_seconds": size(cell) ** (1 + 0.1 * cell.seed)}

    cells = dimension_cells(records_of(tmp_path, "dimension", steeper))
    found = exponent(cells[cells["flow_name"] == "glow"], "train_step_seconds")
    assert found.mean == pytest.approx(1.1)
    assert found.half_width == pytest.approx(T_2 * 0.1 / math.sqrt(3))


def test_the_claim_is_judged_by_its_interval(tmp_path: Path) -> None:
    said = finding(records_of(tmp_path, "dimension", measured))
    assert said is not None
    assert (
        "on the gaussian family is not seen to depend on D: its factor from D = 2 to 128 is "
        in (said)
    )
    assert "1.00 (1.00 to 1.00, 3 seeds)" in said
    assert "on the mixture family grows with D, by a factor of 8.00 (8.00 to 8.00, 3 seeds)" in said
    assert "maf 1.00 ± 0.00 (3 seeds)" in said


def test_seeds_that_disagree_are_no_growth(tmp_path: Path) -> None:
    def either_way(cell: Cell) -> dict[str, Any]:
        return {"nfe_train_forward": 20.0 * size(cell) ** (cell.seed - 1)}

    said = finding(records_of(tmp_path, "dimension", either_way))
    assert said is not None
    assert "grows" not in said
    assert said.count("is not seen to depend on D") == 2


def test_holes_failures_and_one_seed(tmp_path: Path) -> None:
    def holes(cell: Cell) -> dict[str, Any] | None:
        if cell.flow == "glow" or (cell.flow == "maf" and cell.seed == 1 and size(cell) == 32):
            return None
        if cell.flow == "realnvp" and size(cell) == 128:
            return None
        values = measured(cell)
        if cell.flow == "maf":
            values["train_step_seconds"] *= 5.0**cell.seed
        if cell.dataset == "mixture":
            values["nfe_train_forward"] = math.nan
        return values

    store = store_of(tmp_path / "run", "dimension", holes, curve=lambda cell: [])
    summary = write_report([store], tmp_path / "out")
    assert summary.without_result == 12 + 1 + 3
    text = (tmp_path / "out/tables/growth.md").read_text()
    assert "| glow" not in text
    assert "realnvp (D to 32, 3 failed) | 0.00 ± 0.00" in text
    # The seed without D = 32 is left out, not given a slope of its own.
    assert "maf (1 failed)" in text
    said = finding(records_of(tmp_path / "one", "dimension", measured, seeds=[0]))
    assert said is not None
    assert "by a factor of 8.00 from D = 2 to 128 (one seed: no interval)" in said.replace(
        "changes ", ""
    )


def test_evaluations_over_training_have_a_line_a_dimension(tmp_path: Path) -> None:
    def curve(cell: Cell) -> list[dict[str, float]]:
        return [{"step": s, "seconds": s, "nfe_forward": 14.0 + s / 10} for s in (10, 20, 30)]

    records = records_of(tmp_path, "dimension", measured, curve=curve)
    (drawn,) = evaluations(Scene.of(records))
    counts = [len(ax.lines) for ax in drawn.figure.axes]
    assert sorted(counts) == [3, 4, 4]  # The exact trace stops at D = 32.


def test_where_nothing_was_measured_nothing_is_said(tmp_path: Path) -> None:
    for number, empty in enumerate((lambda cell: None, lambda cell: {})):
        records = records_of(tmp_path / str(number), "dimension", empty)
        assert finding(records) is None
        assert not list(table(records))
        assert not list(evaluations(Scene.of(records)))
