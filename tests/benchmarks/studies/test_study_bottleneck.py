"""The study of the bottleneck trick on records whose answer is known."""

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
from benchmarks.studies.bottleneck import arms, deviations, finding, table, training


def width_of(cell: Cell) -> tuple[float, str]:
    """The narrow layer, and whether the trick is used."""
    hidden, bottleneck = cell.flow_options["hidden"], cell.flow_options["bottleneck"]
    if bottleneck is not None:
        return bottleneck, "with"
    return (hidden[1], "without") if len(hidden) == 3 else (math.nan, "full")


def measured(cell: Cell) -> dict[str, Any]:
    """The trick halves deviations and takes 0.1 nats; a layer of H costs 8 / H nats."""
    width, trick = width_of(cell)
    deviation = 0.5 if trick == "with" else 1.0
    price = 0.0 if trick == "full" else 8 / width - 0.1 * (trick == "with")
    return {
        "trace_std": deviation * 1.1,
        "trace_std_closed_form": deviation,
        "log_prob_std": deviation * 1.1,
        "log_prob_std_closed_form": deviation,
        "gradient_std": deviation,
        "gradient_std_batches": 3.0,
        "nll_nats": 100.0 + cell.seed + price,
    }


def curve(cell: Cell) -> list[dict[str, float]]:
    end = 100.0 + width_of(cell)[1].count("out")
    return [
        {"step": step, "seconds": 0.1 * step, "train_nll_nats": end + 50 / step}
        for step in range(15, 151, 15)
    ]


def test_the_finding_is_that_of_the_records(tmp_path: Path) -> None:
    said = finding(records_of(tmp_path, "bottleneck", measured))
    half = (
        "0.50 (0.50 to 0.50, 3 seeds) times the trace's standard deviation and "
        "-0.100 ± 0.000 nats (3 seeds) of test NLL"
    )
    assert said == (
        f"On optdigits, in a layer of 2, the trick gives with gaussian noise {half}, with "
        f"rademacher noise {half}; the layer itself costs 3.900 ± 0.000 nats (3 seeds) against "
        "none."
    )


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    said = finding(records_of(tmp_path, "bottleneck", measured, seeds=[0]))
    assert said is not None
    assert said.count("one seed: no interval") == 5
    assert "±" not in said


def test_arms_are_told_by_the_layers(tmp_path: Path) -> None:
    cells = arms(records_of(tmp_path, "bottleneck", measured))
    assert len(cells) == 90
    assert cells["kin"].nunique() == 1
    counts = cells.groupby("trick")["layer"].agg(lambda widths: sorted(set(widths.dropna())))
    widths = [1, 2, 4, 8, 16, 32, 64]
    assert counts.to_dict() == {"full": [], "with": widths, "without": widths}


def test_the_table_pairs_each_network_with_the_one_without_a_layer(tmp_path: Path) -> None:
    (found,) = table(records_of(tmp_path, "bottleneck", measured))
    data = found.data.set_index(["layer", "noise", "trick"])["nll_nats_over_full"]
    assert data[8, "gaussian", "with"] == pytest.approx(0.9)
    assert data[8, "rademacher", "without"] == pytest.approx(1.0)
    assert [section.title for section in found.sections][-1] == "optdigits, no narrow layer"


def test_closed_forms_are_drawn_through_the_points(tmp_path: Path) -> None:
    records = records_of(tmp_path, "bottleneck", measured, curve=curve)
    (drawn,) = deviations(Scene.of(records))
    for ax in drawn.figure.axes[:2]:
        lines = [line for line in ax.lines if len(line.get_xdata()) == 7]  # type: ignore[arg-type]
        formulas = [line for line in lines if line.get_marker() == "None"]
        means = [
            float(np.mean(line.get_ydata())) for line in formulas if line.get_linestyle() != "None"
        ]
        assert sorted(means) == pytest.approx([0.5, 0.5, 1.0, 1.0])
    (learned,) = training(Scene.of(records))
    assert [ax.get_title() for ax in learned.figure.axes] == ["H = 1", "H = 4", "H = 16", "H = 64"]


def test_failed_arms_and_missing_measures_are_shown_and_stop_nothing(tmp_path: Path) -> None:
    def holes(cell: Cell) -> dict[str, Any] | None:
        width, trick = width_of(cell)
        if (cell.flow_options["noise"], trick) == ("rademacher", "with"):
            return None
        values = measured(cell)
        if width == 1:
            # Rademacher noise of one dimension is exact; and nothing says that all was measured.
            values |= {"trace_std": 0.0, "trace_std_closed_form": 0.0, "nll_nats": math.nan}
        if width == 8:
            del values["gradient_std"]
        return values

    store = store_of(tmp_path / "run", "bottleneck", holes, curve=curve)
    summary = write_report([store], tmp_path / "out")
    assert summary.without_result == 21
    text = (tmp_path / "out/tables/bottleneck-trick.md").read_text()
    assert "3 failed" in text
    page = summary.paths[0].read_text()
    assert "with gaussian noise" in page
    assert "with rademacher noise" not in page
    assert '<figure id="figure-bottleneck-trick">' in page


def test_where_nothing_was_measured_nothing_is_said(tmp_path: Path) -> None:
    for number, empty in enumerate((lambda cell: None, lambda cell: {})):
        records = records_of(tmp_path / str(number), "bottleneck", empty)
        assert finding(records) is None
        assert not list(table(records))
        assert not list(deviations(Scene.of(records)))
        assert not list(training(Scene.of(records)))
