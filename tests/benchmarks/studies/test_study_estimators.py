"""The study of estimators on records whose answer is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from study_records import records_of, store_of

from benchmarks.cell import Cell
from benchmarks.measures.estimators import PRODUCTS
from benchmarks.report import write_report
from benchmarks.report.figures import Scene
from benchmarks.studies.estimators import figure, finding, matters, table

FACTORS = {"gaussian": 1.0, "rademacher": 0.5, "hutch_plus_plus": 0.0, "control_variate": 2.0}


def measured(cell: Cell) -> dict[str, Any]:
    """Rademacher probes vary half as much and take twice the time; the exact trace gains 0.1."""
    if "estimators" not in cell.measures:
        exact = cell.flow_options["trace"] == "exact"
        values = {"nll_nats": 3.0 + cell.seed - 0.1 * exact, "gradient_std_batches": 2.0}
        return values if exact else {**values, "gradient_std": 1.0}
    found: dict[str, Any] = {"trace_exact_seconds": 0.1}
    for name, factor in FACTORS.items():
        for count in PRODUCTS:
            if count < cell.dataset_options["dimension"] and (count > 1 or factor in (0.5, 1)):
                found[f"trace_variance_{name}_{count}"] = (1 + cell.seed) * factor / count
                seconds = 1e-3 * count * (2 if name == "rademacher" else 1)
                found[f"trace_estimate_seconds_{name}_{count}"] = seconds
    return found


def test_ratios_are_those_of_the_records(tmp_path: Path) -> None:
    equal, timed = table(records_of(tmp_path, "estimators", measured))
    data = equal.data.set_index(["contestant", "family", "dimension", "estimator"])
    row = data.loc[("ffjord", "gaussian", 128, "rademacher")]
    assert [row[f"at_equal_products_{n}"] for n in PRODUCTS] == pytest.approx([0.5] * 4)
    assert row["at_equal_products_12_log_half_width"] == pytest.approx(0, abs=1e-12)
    assert row["seeds_12"] == 3
    assert row["variance_12"] == pytest.approx(0.5 * 2 / 12)
    assert data.loc[("ffjord", "gaussian", 8, "control_variate")].filter(
        regex="at_equal_products_[0-9]+$"
    ).dropna().to_list() == pytest.approx([2.0])
    data = timed.data.set_index(["contestant", "family", "dimension", "estimator"])
    row = data.loc[("ffjord", "gaussian", 128, "rademacher")]
    assert [row[f"per_second_{n}"] for n in PRODUCTS] == pytest.approx([1.0] * 4)


def test_the_finding_is_that_of_the_records(tmp_path: Path) -> None:
    said = finding(records_of(tmp_path, "estimators", measured))
    assert said is not None
    assert (
        "The least variance comes from Hutch++ for ffjord on gaussian (D = 128, 48 products), 0, "
        "exact to rounding, times that of as many Gaussian probes" in said
    )
    for equal in ("150 steps", "8 s"):
        assert f"0.100 ± 0.000 nats (3 seeds) on power after {equal}" in said


def test_whether_it_matters_is_paired_by_seed(tmp_path: Path) -> None:
    (found,) = matters(records_of(tmp_path, "estimators", measured))
    assert found.data["gain_of_exact_nats"].to_list() == pytest.approx([0.1] * 4)
    assert found.data["noise_share_of_gradient_variance_percent"].to_list() == pytest.approx(
        [25.0] * 4
    )
    assert sorted(set(found.data["dataset"])) == ["mixture[dimension=16]", "power"]


def test_times_in_company_failures_and_one_seed(tmp_path: Path) -> None:
    def holes(cell: Cell) -> dict[str, Any] | None:
        if cell.flow_options["trace"] == "exact" and cell.dataset == "power":
            return None
        values = measured(cell)
        if cell.dataset == "mixture" and "estimators" in cell.measures:
            values |= {"trace_variance_rademacher_3": math.nan}
        return {**values, "cost_shared": True}

    store = store_of(tmp_path / "run", "estimators", holes)
    summary = write_report([store], tmp_path / "out")
    assert (tmp_path / "out/tables/estimators-at-equal-products.md").is_file()
    assert not (tmp_path / "out/tables/estimators-per-second.md").exists()
    page = summary.paths[0].read_text()
    assert "least variance times seconds" not in page
    assert "on mixture[dimension=16] after 8 s" in page
    assert "on power after" not in page
    said = finding(records_of(tmp_path / "one", "estimators", measured, seeds=[0]))
    assert said is not None
    assert "0.100 nats (one seed: no interval) on power" in said


def test_a_column_of_panels_a_dimension_above_products_below_seconds(tmp_path: Path) -> None:
    records = records_of(tmp_path, "estimators", measured)
    drawn = {each.name: each.figure for each in figure(Scene.of(records))}
    axes = drawn["estimators-ffjord-gaussian"].axes
    assert [ax.get_title() for ax in axes] == ["D = 8", "D = 32", "D = 128", "", "", ""]
    assert "estimators-ffjord-hidden-64-bottleneck-8-mixture" in drawn


def test_where_nothing_was_measured_nothing_is_said(tmp_path: Path) -> None:
    for number, empty in enumerate((lambda cell: None, lambda cell: {})):
        records = records_of(tmp_path / str(number), "estimators", empty)
        assert finding(records) is None
        assert not list(table(records))
        assert not list(matters(records))
        assert not list(figure(Scene.of(records)))
