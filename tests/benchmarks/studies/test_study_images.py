"""Study images: samples as integers, grids, and findings of records made by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from made_up import made_up_record

import datasets
import flows
from benchmarks.cell import Budget, Cell
from benchmarks.cli.show import describe
from benchmarks.matrix import load_matrix
from benchmarks.measures.image_samples import SAMPLES, measure
from benchmarks.measures.subject import Subject
from benchmarks.report import write_report
from benchmarks.report.figures import Scene, image_grids, nfe_against_loss
from benchmarks.report.figures.image_grids import tiled
from benchmarks.report.records import Records, gather
from benchmarks.store import Store
from benchmarks.studies.images import architectures, finding


def records(folder: Path, measured: Callable[[Cell], dict[str, Any] | str]) -> Records:
    """Of the study's cells: what is measured of each, or how it failed."""
    store, matrix = Store(folder), load_matrix("images")
    store.write_plan(matrix)
    for cell in matrix.cells:
        found = measured(cell)
        store.write(made_up_record(cell, found))
        if isinstance(found, str):
            continue
        grey = np.full((SAMPLES, 1, 8, 8), cell.seed, np.uint8)
        pictures = {"image_samples": grey, "image_data": grey, "image_levels": np.asarray(17)}
        store.write_arrays(cell, pictures)
        lines = [
            f'{{"step": {step}, "seconds": {step}.0, "validation_nll_nats": {100 - step / 2}, '
            f'"nfe_forward": {20 + step}, "nfe_backward": {10 + step}}}'
            for step in (20, 40, 80)
        ]
        store.path(cell, ".curve.jsonl").write_text("\n".join(lines) + "\n")
    return gather([store])


def is_single(cell: Cell) -> bool:
    return cell.flow == "ffjord-mnist"


def measured(cell: Cell) -> dict[str, Any]:
    """One scale a tenth of a bit above several; a fiftieth of Glow's parameters."""
    found: dict[str, Any] = {
        "bits_per_dim": 2.0 + 0.01 * cell.seed + (0.1 if is_single(cell) else 0.0),
        "nll_nats": 90.0,
        "parameters": {"glow-image": 100_000, "realnvp-image": 5000}.get(cell.flow, 2000),
        "nfe_train_forward": 20.0,
        "nfe_train_backward": 12.0,
    }
    if cell.flow.startswith("ffjord"):
        found["log_prob_std"] = 0.5
        if len(cell.flow_options["hidden"]) == 7 and 2 in cell.flow_options["hidden"]:
            # The trick's control, a smaller network of one scale, is not what is compared.
            found |= {"parameters": 1000, "bits_per_dim": 9.0}
    return found


def test_the_finding_is_the_paired_difference_and_the_noise(tmp_path: Path) -> None:
    said = finding(records(tmp_path, measured))
    # An image's deviation over the root of 300 images and 64 log 2 nats a bit.
    variance = (0.5 / (64 * math.log(2))) ** 2 / 300
    assert said == (
        "Bits/dim of FFJORD: on optdigits[test_rows=500] one scale less several 0.100 ± 0.000 "
        "bits/dim (3 seeds), several have 2 % of Glow's parameters. The variance of the mean "
        "validation bits/dim over the estimator's noise stays "
        f"below 0.0001: {variance:.2g} at most."
    )


def test_the_table_has_all_nfe_and_the_part_of_glow(tmp_path: Path) -> None:
    (table,) = architectures(records(tmp_path, measured))
    ours = table.data[table.data["flow"].str.startswith("ffjord")]
    assert set(ours["nfe_train"]) == {32.0}
    assert set(ours["glow_percent"]) == {1.0, 2.0}
    assert ours["validation_std"].to_list() == pytest.approx([0.5 / 300**0.5] * len(ours))
    others = table.data[~table.data["flow"].str.startswith("ffjord")]
    assert others["glow_percent"].isna().all()


def test_great_noise_is_said_to_be_great(tmp_path: Path) -> None:
    found = records(
        tmp_path,
        lambda cell: {
            **measured(cell),
            **({"log_prob_std": 64 * math.log(2) * 300**0.5} if is_single(cell) else {}),
        },
    )
    assert "noise is not below 0.0001: 1 at most" in (finding(found) or "")


def test_one_seed_says_so(tmp_path: Path) -> None:
    found = records(tmp_path, lambda cell: measured(cell) if cell.seed == 0 else "diverged")
    assert "one scale less several 0.100 bits/dim (one seed: no interval)" in (finding(found) or "")


def test_without_several_scales_nothing_is_compared(tmp_path: Path) -> None:
    def lost(cell: Cell) -> dict[str, Any] | str:
        return "oom" if cell.flow == "ffjord-mnist-multiscale" else measured(cell)

    assert finding(records(tmp_path / "run", lost)) is None
    write_report([Store(tmp_path / "run")], tmp_path / "report")
    assert "oom" in (tmp_path / "report" / "index.html").read_text()


def test_figures_of_made_up_records(tmp_path: Path) -> None:
    scene = Scene.of(records(tmp_path, measured))
    (grid,) = image_grids(scene)
    # Test images and one square a contestant.
    assert len(grid.figure.axes) == 1 + len(scene.looks)
    (ways,) = nfe_against_loss(scene)
    (ax,) = ways.figure.axes
    xs, ys = ax.lines[0].get_data()
    # Both passes together, in the order of training, in bits/dim.
    assert list(xs) == [70, 110, 190]
    assert list(ys) == pytest.approx([v / 64 / math.log(2) for v in (90, 80, 60)])


def test_no_pictures_no_figure(tmp_path: Path) -> None:
    assert list(image_grids(Scene.of(records(tmp_path, lambda _: "error")))) == []
    assert list(nfe_against_loss(Scene.of(records(tmp_path / "b", lambda _: "error")))) == []


def test_tiles_lie_in_rows_with_a_pixel_between() -> None:
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1) * np.ones((1, 1, 2, 3), np.uint8)
    found = tiled(images, 4, side=2)
    assert found.shape == (5, 7, 3)
    assert (found[2] == 1).all()
    assert (found[:, 3] == 1).all()
    corners = [found[row, column, 0] for row in (0, 4) for column in (0, 6)]
    assert corners == pytest.approx([0, 1 / 3, 2 / 3, 1])
    colour = np.array([0, 1, 2], np.uint8).reshape(1, 3, 1, 1)
    assert tiled(colour, 3, side=1).ravel().tolist() == [0, 0.5, 1]


def test_samples_are_the_integers_whose_model_values_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = datasets.load("optdigits")
    raw = torch.as_tensor(dataset.test[:SAMPLES])
    x, _ = dataset.preprocessing.forward(raw, torch.Generator().manual_seed(0))
    x = x.double()
    x[0, 0, 0, 0] = math.nan
    x[1, 0, 0, 0] = math.inf
    flow = flows.build("realnvp-image", dataset.event_shape, blocks=1, channels=4)
    monkeypatch.setattr(flow, "sample", lambda n, generator: x[:n])
    budget = Budget(steps=0)  # type: ignore[call-arg]
    cell = Cell(
        flow="realnvp-image",
        flow_options={},
        dataset="optdigits",
        dataset_options={},
        seed=0,
        budget=budget,
        measures=("image-samples",),
        device="cpu",
        threads=1,
    )
    subject = Subject(cell, flow, dataset)
    found = measure(subject)
    assert found == {"samples_finite_fraction": 1 - 2 / x.numel()}
    expected = raw.clone()
    expected[0, 0, 0, 0] = expected[1, 0, 0, 0] = 0
    assert np.array_equal(subject.arrays["image_samples"], expected.numpy())
    assert np.array_equal(subject.arrays["image_data"], raw.numpy())


def test_the_full_matrix_is_the_papers() -> None:
    cells = load_matrix("images", profile="full").cells
    for dataset in ("mnist", "fashion-mnist", "cifar10"):
        here = [cell for cell in cells if cell.dataset == dataset]
        ours = [cell for cell in here if cell.flow.startswith("ffjord")]
        assert {cell.flow_options["multiscale"] for cell in ours} == {True, False}
        assert {cell.budget.batch_size for cell in ours} == {900}
        assert {cell.dataset_options["alpha"] for cell in here} == {1e-6}
        (glow,) = {cell.flow_options["channels"] for cell in here if cell.flow[:4] == "glow"}
        assert glow == 512


def test_a_name_of_data_and_of_a_study_is_described_as_both() -> None:
    result = CliRunner().invoke(describe, ["images"])
    assert result.exit_code == 0
    assert "your own images" in result.output
    assert "answers: Table 2 (images) and Figures 3, 6 and 7" in result.output
