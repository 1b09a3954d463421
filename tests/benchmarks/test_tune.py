"""Tuned cells: the rate of the best validation is tested, and what the grid cost is said."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import datasets
from benchmarks import measures
from benchmarks.cell import Cell
from benchmarks.run import process as cell_module
from benchmarks.run.process import Task
from benchmarks.store import Record, Store
from benchmarks.train import CurveRow, Diverged, TrainingResult
from benchmarks.tune import CellTraining, Trial, choose


def row(step: int, seconds: float, nfe: float) -> CurveRow:
    return CurveRow(
        step=step,
        seconds=seconds,
        train_nll_nats=0.0,
        validation_nll_nats=0.0,
        nfe_forward=nfe,
        nfe_backward=1.0,
        skipped_steps=0,
    )


def tuned(validation: dict[float, float | None]) -> dict[str, Any]:
    """Trainings that end with the given validations; None diverges. Each takes 10 steps, 2 s."""
    rows = (row(5, 1.0, 3.0), row(10, 2.0, 4.0))
    trials = [
        Trial(rate, rows, None, "all steps were skipped")
        if nll is None
        else Trial(rate, rows, TrainingResult(10, 10, nll, 2.0, 45, 0, "budget"))
        for rate, nll in sorted(validation.items())
    ]
    chosen, columns = choose(trials)
    assert chosen.rate == columns["learning_rate"]
    return columns


def test_the_best_validation_is_chosen_and_the_price_is_of_all() -> None:
    found = tuned({1e-3: 2.0, 1e-2: 1.0, 1e-1: 3.0})
    assert found["learning_rate"] == 1e-2
    assert found["learning_rate_at_edge"] is False
    assert found["validation_nll_nats"] == 1.0
    assert found["steps"] == 10
    assert found["train_nfe"] == 45
    assert found["tuning_steps"] == 30
    assert found["tuning_seconds"] == pytest.approx(6.0)
    # 5 steps of 3 + 1 and 5 of 4 + 1, three times.
    assert found["tuning_nfe"] == 3 * 45


@pytest.mark.parametrize("best", [1e-3, 1e-1])
def test_a_choice_at_an_edge_of_the_grid_is_said(best: float) -> None:
    found = tuned({1e-3: 2.0, 1e-2: 2.0, 1e-1: 2.0, best: 1.0})
    assert found["learning_rate"] == best
    assert found["learning_rate_at_edge"] is True


def test_of_equals_the_lower_rate_is_chosen() -> None:
    assert tuned({1e-3: 2.0, 1e-2: 1.0, 3e-2: 1.0, 1e-1: 2.0})["learning_rate"] == 1e-2


def test_a_rate_that_diverges_loses_and_costs() -> None:
    found = tuned({1e-3: 2.0, 1e-2: 1.0, 1e-1: None})
    assert found["learning_rate"] == 1e-2
    assert found["tuning_steps"] == 30
    with pytest.raises(Diverged, match=r"at every .* 0\.001: all steps .*; 0\.01: all steps"):
        tuned({1e-3: None, 1e-2: None})


def test_a_single_rate_is_not_tuned() -> None:
    found = tuned({1e-2: 1.0})
    assert found["learning_rate"] == 1e-2
    assert not any("tuning" in name or "edge" in name for name in found)
    with pytest.raises(Diverged, match=r"^all steps were skipped$"):
        tuned({1e-2: None})


RATES = (1e-6, 1e-2, 1e30)


@pytest.fixture
def grid(cell: Cell) -> Cell:
    """A cell with a rate at which nothing is learned, a good one, and one that diverges."""
    document = cell.model_dump()
    document["budget"] |= {"learning_rate": RATES[0], "schedule": "constant", "clip_norm": None}
    return Cell.model_validate({**document, "learning_rates": RATES, "measures": ("quality",)})


def test_a_tuned_cell_is_the_cell_of_the_chosen_rate(grid: Cell) -> None:
    """The rates share weights, batches and noise: alone, the chosen one trains the same."""
    dataset = grid.dataset_config().load(grid.dataset)
    found = CellTraining(grid, dataset).run()
    alone = CellTraining(grid.at_rate(1e-2), dataset).run()
    assert found.learning_rate == 1e-2
    for name, weights in alone.flow.state_dict().items():
        assert torch.equal(weights, found.flow.state_dict()[name])


def test_the_record_and_the_curve_of_a_tuned_cell(tmp_path: Path, grid: Cell) -> None:
    store = Store(tmp_path)
    cell_module._run_logged(Task(grid, "quality", tmp_path), store)
    record = store.read(grid)
    assert isinstance(record, Record)
    assert record.status == "ok"
    assert record.measures["learning_rate"] == 1e-2
    assert record.measures["learning_rate_at_edge"] is False
    assert record.measures["steps"] == 20
    assert record.measures["tuning_steps"] == 60
    assert isinstance(record.measures["training_shared"], bool)
    assert record.cell == grid
    lines = store.path(grid, ".curve.jsonl").read_text().splitlines()
    assert [json.loads(line)["learning_rate"] for line in lines] == [
        rate for rate in RATES for _ in range(2)
    ]
    curve = store.curve(grid.key)
    assert curve["learning_rate"].tolist() == [1e-2, 1e-2]
    assert curve["validation_nll_nats"].min() == record.measures["validation_nll_nats"]
    (line,) = store.frame().to_dict("records")
    assert line["learning_rate"] == 1e-2
    assert line["budget.learning_rate"] is None
    assert line["budget.learning_rates"] == "1e-06-0.01-1e+30"


def test_cost_is_measured_at_the_chosen_rate(
    tmp_path: Path, grid: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell.model_validate({**grid.model_dump(), "measures": ("quality", "time")})
    store = Store(tmp_path)
    seen = []
    measure = cell_module._measure

    def watched(subject: Any, stage: Any) -> dict[str, Any]:
        seen.append((stage, subject.cell.budget.learning_rate))
        return measure(subject, stage)

    monkeypatch.setattr(cell_module, "_measure", watched)
    cell_module._run_logged(Task(cell, "quality", tmp_path), store)
    assert store.read(cell) is None
    cell_module._run_logged(Task(cell, "cost", tmp_path), store)
    record = store.read(cell)
    assert isinstance(record, Record)
    assert record.status == "ok"
    assert seen == [("quality", 1e-2), ("cost", 1e-2)]
    assert record.measures["train_step_seconds"]
    assert isinstance(record.measures["cost_shared"], bool)


def test_a_tuned_cell_diverges_if_all_its_rates_do(tmp_path: Path, grid: Cell) -> None:
    document = grid.model_dump()
    document["budget"]["learning_rate"] = 1e29
    hopeless = Cell.model_validate({**document, "learning_rates": (1e29, 1e30)})
    store = Store(tmp_path)
    cell_module._run_logged(Task(hopeless, "quality", tmp_path), store)
    record = store.read(hopeless)
    assert isinstance(record, Record)
    assert record.status == "diverged"
    assert "at every learning rate of the grid; 1e+29: " in record.reason


def test_what_a_cell_fills_itself_is_explained(tmp_path: Path, grid: Cell) -> None:
    untrained = Cell.model_validate(
        {**grid.at_rate(1e-3).model_dump(), "budget": {**grid.budget.model_dump(), "steps": 0}}
    )
    store = Store(tmp_path)
    for cell in (grid, untrained):
        cell_module._run_logged(Task(cell, "quality", tmp_path), store)
    first, second = (store.read(cell) for cell in (grid, untrained))
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    always = {column.name for column in measures.ALWAYS}
    of_quality = {column.name for column in measures.family("quality").columns}
    own = first.measures.keys() - of_quality
    # Of these data there is nothing that a reader has to know.
    assert own == always - {"cost_shared", "cost_stage_seconds", "data_remarks"}
    # Nothing was trained, so there is no rate, and no training to be disturbed.
    absent = {
        "learning_rate", "training_shared", "cost_shared", "cost_stage_seconds", "data_remarks"
    }  # fmt: skip
    assert second.measures.keys() - of_quality == {
        name
        for name in always
        if name not in absent and "tuning" not in name and "edge" not in name
    }


def test_what_was_done_to_the_data_stands_in_the_record(tmp_path: Path, grid: Cell) -> None:
    # Whole numbers: their density has no bound, so that noise is added, which is to be said.
    rows = np.random.default_rng(0).integers(0, 50, (200, 2))
    path = tmp_path / "counts.csv"
    np.savetxt(path, rows, fmt="%d", delimiter=",", header="a,b", comments="")
    options = datasets.configure("table", {"path": str(path)}).model_dump(mode="json")
    cell = Cell.model_validate(
        {
            **grid.at_rate(1e-3).model_dump(),
            "dataset": "table",
            "dataset_options": options,
            "budget": {**grid.budget.model_dump(), "steps": 0},
        }
    )
    store = Store(tmp_path / "run")
    cell_module._run_logged(Task(cell, "quality", store.directory), store)
    record = store.read(cell)
    assert isinstance(record, Record)
    assert "noise" in str(record.measures["data_remarks"])
    assert record.data_hashes["train_file"]
