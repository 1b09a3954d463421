"""The study toy: its data, its figures and its finding on records made up."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from made_up import made_up_record

import datasets
from benchmarks.cell import Cell
from benchmarks.matrix import load_matrix
from benchmarks.report import figures, write_report
from benchmarks.report.figures import Scene
from benchmarks.report.records import gather
from benchmarks.report.style import rc
from benchmarks.report.svg import as_svg
from benchmarks.store import Status, Store
from benchmarks.studies.toy import between_modes, finding

# What a contestant leaves where the true density is low, in percent.
LEFT = {"ffjord": 1.0, "ffjord-toy": 1.0, "glow": 3.0, "realnvp": 2.0, "nice": 8.0, "maf": 4.0}


def store_of(
    folder: Path,
    *,
    seeds: list[int] | None = None,
    left: Callable[[Cell], float | None] = lambda cell: LEFT.get(cell.flow),
    status: Callable[[Cell], Status] = lambda cell: "ok",
    pictures: bool = False,
    profile: Any = "small",
) -> Store:
    store = Store(folder)
    matrix = load_matrix("toy", seeds=seeds, profile=profile)
    store.write_plan(matrix)
    for cell in matrix.cells:
        if cell.flow not in LEFT:
            continue
        measured = {
            "nll_nats": 3.0,
            "kl_to_truth_nats": 0.1 if cell.dataset == "moons" else 0.2,
            "low_density_mass_percent": left(cell),
            "low_density_true_mass_percent": 5.0,
        }
        ended = status(cell)
        store.write(made_up_record(cell, measured if ended == "ok" else ended))
        if pictures and cell.flow == "ffjord":
            store.write_arrays(cell, way())
    return store


def way(times: int = 9, grid: int = 20) -> dict[str, Any]:
    axis = np.linspace(-4, 4, grid, dtype=np.float32)
    density = np.linspace(-3, 0, times * grid * grid, dtype=np.float16)
    samples = np.random.default_rng(0).standard_normal((times, 50, 2))
    return {
        "path_times": np.linspace(0, 1, times, dtype=np.float32),
        "path_x": axis,
        "path_y": axis,
        "path_log_density": density.reshape(times, grid, grid),
        "path_samples": samples.astype(np.float16),
    }


@pytest.mark.parametrize("profile", ["small", "full"])
def test_it_has_every_toy_and_glow_of_a_hundred_layers(profile: Any) -> None:
    cells = load_matrix("toy", profile=profile).cells
    # All but those on a line.
    toys = {
        name
        for name, entry in datasets.ENTRIES.items()
        if entry.kind == "toy" and datasets.load(name, rows=10).event_shape == (2,)
    }
    of: dict[str, set[str]] = {}
    for cell in cells:
        of.setdefault(cell.flow_label, set()).add(cell.dataset)
    assert all(names == toys for names in of.values())
    assert any(label.startswith("glow[steps=100") for label in of)
    assert len(of) == 7


def test_the_ratio_of_what_is_left_is_found(tmp_path: Path) -> None:
    said = finding(gather([store_of(tmp_path)]))
    assert said is not None
    assert said.startswith("Of their mass, what flows leave where the true density is low beyond ")
    assert "what ffjord does: nice 7.0 ± 0.0 % (8 data sets), maf 3.0 ± 0.0 % (8 data sets)" in said
    assert "glow 2.0 ± 0.0 % (8 data sets)" in said
    assert said.endswith("one seed: the intervals say how data sets differ, not what chance does.")


def test_the_interval_is_over_data_sets_of_means_over_seeds(tmp_path: Path) -> None:
    masses = {"moons": 3.0, "rings": 9.0}

    def left(cell: Cell) -> float | None:
        if cell.dataset not in masses or cell.flow not in ("ffjord", "glow"):
            return None
        # The means over seeds are 1 and the mass.
        return (0.5 + cell.seed) * (masses[cell.dataset] if cell.flow == "glow" else 1.0)

    said = finding(gather([store_of(tmp_path, seeds=[0, 1], left=left)]))
    # Differences of 2 and 8: deviation 6 / sqrt 2, t of one degree of freedom.
    width = 12.706204736432095 * 6 / math.sqrt(2) / math.sqrt(2)
    assert said is not None
    assert f"glow 5.0 ± {width:.1f} % (2 data sets); means over 2 seeds." in said


def test_a_data_set_on_which_one_failed_does_not_count_for_it(tmp_path: Path) -> None:
    def status(cell: Cell) -> Status:
        lost = cell.flow == "glow" and cell.dataset in ("moons", "rings")
        return "diverged" if lost or cell.flow == "nice" else "ok"

    said = finding(gather([store_of(tmp_path, status=status)]))
    assert said is not None
    assert "glow 2.0 ± 0.0 % (6 data sets)" in said
    assert "nice" not in said


def test_without_ffjord_nothing_is_said(tmp_path: Path) -> None:
    def status(cell: Cell) -> Status:
        return "oom" if cell.flow == "ffjord" else "ok"

    assert finding(gather([store_of(tmp_path, status=status)])) is None


def test_rules_that_are_each_flows_own_are_in_no_name(tmp_path: Path) -> None:
    """As in the profile full, where FFJORD has ten thousand steps and the others more."""
    said = finding(gather([store_of(tmp_path, seeds=[0], profile="full")]))
    assert said is not None
    assert "what ffjord-toy does: nice 7.0 ± 0.0 % (8 data sets)," in said
    assert "steps" not in said


@pytest.mark.parametrize("value", [None, math.nan, 0.0, -0.01])
def test_what_has_no_logarithm_counts_for_nothing(tmp_path: Path, value: float | None) -> None:
    def left(cell: Cell) -> float | None:
        return value if cell.flow == "glow" else LEFT.get(cell.flow)

    records = gather([store_of(tmp_path, left=left)])
    said = finding(records)
    assert said is not None
    assert ("glow" in said) == (value is not None and math.isfinite(value))
    with mpl.rc_context(rc()):
        (drawn,) = between_modes(Scene.of(records))
    legend = [text.get_text() for text in drawn.figure.legends[0].get_texts()]
    assert legend == ["ffjord", "realnvp", "maf", "nice"]


def test_marks_stand_at_geometric_means(tmp_path: Path) -> None:
    def left(cell: Cell) -> float | None:
        return LEFT[cell.flow] * 4.0**cell.seed

    scene = Scene.of(gather([store_of(tmp_path, seeds=[0, 1], left=left)]))
    with mpl.rc_context(rc()):
        (drawn,) = between_modes(scene)
    first, second = drawn.figure.axes
    rows = [label.get_text() for label in first.get_yticklabels()]
    assert len(rows) == 8
    assert not any(label.get_text() for label in second.get_yticklabels())
    found = {
        round(float(x), 6)
        for line in first.lines
        if line.get_marker() not in ("None", "|", "_") and len(line.get_xdata()) == len(rows)
        for x in line.get_xdata()
    }
    assert {round(2 * value, 6) for value in LEFT.values()} <= found


def test_a_way_is_a_strip_and_frames_that_take_turns(tmp_path: Path) -> None:
    scene = Scene.of(gather([store_of(tmp_path / "run", pictures=True)]))
    with mpl.rc_context(rc()):
        (strip,) = figures.way(scene)
        (moving,) = figures.animation(scene)
        still, text = (as_svg(drawn.figure, drawn.name) for drawn in (strip, moving))
    assert len(strip.figure.axes) == 8 * 7
    titles = [ax.get_title() for ax in strip.figure.axes[:7]]
    assert (titles[0], titles[-1]) == ("noise", "data")
    assert "@keyframes" not in still
    # The nearest to the truth is shown.
    assert moving.name == "way-moons"
    tree = ElementTree.fromstring(text)
    frames = [node for node in tree.iter() if "turn-way-moons" in node.get("class", "")]
    # Nine times, density and samples; each has its turn, and none a name that could be there twice.
    delays = [float(re.findall(r"([\d.]+)s", node.get("style", ""))[0]) for node in frames]
    assert sorted(delays) == sorted([place / 8 for place in range(9)] * 2)
    assert sum(node.get("class", "").endswith("last") for node in frames) == 2
    assert not any(node.get("id") for node in frames)
    assert text.count("@keyframes turn-way-moons{") == 1
    assert "prefers-reduced-motion:no-preference" in text


@pytest.mark.slow
def test_a_report_of_it_is_whole_without_pictures_and_with_failures(tmp_path: Path) -> None:
    def status(cell: Cell) -> Status:
        return "timeout" if cell.flow == "maf" else "ok"

    store = store_of(tmp_path / "run", status=status)
    summary = write_report([store], tmp_path / "out")
    assert summary.without_result == 8
    names = {path.name for path in summary.paths}
    assert {"low_density_mass_percent.md", "kl.md"} <= names
    page = summary.paths[0].read_text()
    assert 'id="figure-between-modes"' in page
    assert 'id="figure-way"' not in page
