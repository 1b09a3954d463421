"""The study of known truths on distances that are made up."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from study_records import records_of, store_of

import datasets
import flows
from benchmarks.cell import Cell
from benchmarks.matrix import load_matrix
from benchmarks.report import write_report
from benchmarks.report.figures import Scene
from benchmarks.report.style import rc
from benchmarks.studies.truth import FAR, distances, far, finding, heat_map

T_2 = 4.302652729911275  # Student's t, two-sided 95 %, 2 degrees of freedom.
# Around a mean of 0.
SPREAD = (-0.01, 0.0, 0.01)
MEANS = {"made": 1.0, "maf": 0.11, "iaf": 0.09}


def measured(cell: Cell) -> dict[str, Any]:
    """MADE a nat away, MAF and IAF on either side of a tenth; all others near the truth."""
    mean = MEANS.get(cell.flow, 0.02) if cell.dataset == "8gaussians" else 0.02
    return {
        "kl_to_truth_nats": mean + SPREAD[cell.seed % 3],
        "kl_rare_nats": 0.001,
        "kl_by_quadrature": True,
        "nll_nats": 2.0 + mean,
        "truth_entropy_nats": 2.0,
        "gaussian_nll_nats": 3.5,
        "best_step": 350.0,
        "steps": 400.0,
    }


def test_it_has_every_flow_of_vectors_that_can_be_trained_on_data() -> None:
    """Each system once, by its own name: presets are the same with other options."""
    cells = load_matrix("truth", profile="full").cells
    trained = {
        name
        for name, entry in flows.ENTRIES.items()
        if entry.config_class(**entry.options).traits.trains_on_data
        and "/" not in name
        and "-image" not in name
    }
    own = {
        name
        for name in trained
        if not set(name.split("-")) & _PRESETS and not any(p.isdigit() for p in name.split("-"))
    }
    assert {cell.flow for cell in cells} == own


_PRESETS = {"toy", "power", "gas", "hepmass", "miniboone", "bsds300", "mnist", "cifar10"}


def test_it_has_every_plane_whose_density_is_known_and_the_gaussians_in_more() -> None:
    cells = load_matrix("truth", profile="full").cells
    planes = set()
    for name, entry in datasets.ENTRIES.items():
        if entry.kind not in ("toy", "family"):
            continue
        options = {} if entry.kind == "toy" else {"dimension": 2}
        if datasets.load(name, rows=10, **options).event_shape == (2,):
            planes.add(name)
    found = {(cell.dataset, cell.dataset_options.get("dimension")) for cell in cells}
    assert {name for name, dimension in found if dimension in (None, 2)} == planes
    for family in ("gaussian", "isotropic"):
        assert {(family, 8), (family, 32)} <= found
    assert {cell.seed for cell in cells} == {0, 1, 2, 3, 4}
    assert {cell.budget.steps for cell in cells} == {20_000}
    assert {cell.budget.patience for cell in cells} == {None}


def test_all_train_equally_long() -> None:
    """So that no label says how long, and flows are compared."""
    for profile in ("small", "full"):
        cells = load_matrix("truth", profile=profile).cells  # type: ignore[arg-type]
        assert len({(cell.budget.steps, cell.budget.batch_size) for cell in cells}) == 1


def test_the_finding_names_who_is_far_beyond_chance(tmp_path: Path) -> None:
    said = finding(records_of(tmp_path, "truth", measured))
    width = T_2 * 0.01 / math.sqrt(3)
    assert said == (
        f"After 400 steps, further than {FAR:g} nats from the truth: 1 of 66 pairs of flow "
        "and data set (t intervals over 3 seeds): made on 8gaussians 1.00 "
        f"± {width:.2f} nats; of 2 more the interval holds {FAR:g}."
    )


def test_one_seed_counts_by_its_value(tmp_path: Path) -> None:
    said = finding(records_of(tmp_path, "truth", measured, seeds=[1]))
    assert said is not None
    assert "from the truth: 2 of 66 pairs of flow and data set (one seed each: no inter" in said
    assert said.endswith(": maf on 8gaussians 0.11 nats; made on 8gaussians 1.00 nats.")


def test_a_lost_seed_is_said(tmp_path: Path) -> None:
    def lost(cell: Cell) -> dict[str, Any] | None:
        return None if (cell.flow, cell.seed) == ("glow", 0) else measured(cell)

    records = records_of(tmp_path, "truth", lost)
    said = finding(records)
    assert said is not None
    assert said.endswith("; 6 lost a seed or more.")
    assert "over 2 or 3 seeds" in said


def test_nothing_trained_says_nothing(tmp_path: Path) -> None:
    records = records_of(tmp_path, "truth", lambda cell: None)
    assert finding(records) is None
    assert far(records) == []
    with mpl.rc_context(rc()):
        assert list(heat_map(Scene.of(records))) == []


def test_the_tables_are_distances_and_who_is_far(tmp_path: Path) -> None:
    records = records_of(tmp_path, "truth", measured)
    (table,) = distances(records)
    assert table.name == "kl"
    (away,) = far(records)
    # On the mean alone: whoever may be far is worth a look.
    assert set(away.data["flow"]) == {"made", "maf"}
    row = away.data.set_index("flow").loc["made"]
    assert row["kl_to_truth_nats"] == pytest.approx(1.0)
    assert row["gaussian_kl_nats"] == pytest.approx(1.5)


def test_the_figure_has_a_number_for_each_pair(tmp_path: Path) -> None:
    scene = Scene.of(records_of(tmp_path, "truth", measured))
    with mpl.rc_context(rc()):
        (drawn,) = heat_map(scene)
    (ax,) = drawn.figure.axes
    assert len(ax.texts) == 66
    bold = sorted(text.get_text() for text in ax.texts if text.get_fontweight() == "bold")
    assert bold == ["0.11", "1.00"]


@pytest.mark.slow
def test_a_report_of_it_is_whole(tmp_path: Path) -> None:
    store = store_of(tmp_path / "run", "truth", measured)
    names = {path.name for path in write_report([store], tmp_path / "out").paths}
    assert {"kl.md", "far.md"} <= names
    assert 'id="figure-distance"' in (tmp_path / "out" / "index.html").read_text()
