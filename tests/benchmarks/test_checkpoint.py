"""A cell that is interrupted leaves the record and the curve of one that was not."""

import dataclasses
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.cell import Cell
from benchmarks.run import checkpoint
from benchmarks.run import process as cell_module
from benchmarks.run.checkpoint import Keeper, Stopped
from benchmarks.run.process import Task
from benchmarks.store import Record, Store
from benchmarks.train import Trainer
from benchmarks.tune import CellTraining


@pytest.fixture
def grid(cell: Cell) -> Cell:
    """Two rates of twenty steps, a row each ten."""
    document = cell.model_dump()
    document["budget"] |= {"learning_rate": 1e-3}
    rates = (1e-3, 1e-2)
    return Cell.model_validate({**document, "learning_rates": rates, "measures": ("quality",)})


def result(store: Store, cell: Cell) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What was measured and the curve, times apart."""
    record = store.read(cell)
    assert isinstance(record, Record)
    assert record.status == "ok", record.reason
    lines = store.path(cell, ".curve.jsonl").read_text().splitlines()
    untimed = {
        name: value
        for name, value in record.measures.items()
        if "seconds" not in name and "shared" not in name
    }
    return untimed, [{**json.loads(line), "seconds": 0} for line in lines]


@pytest.fixture
def undisturbed(tmp_path: Path, grid: Cell) -> Any:
    store = Store(tmp_path / "undisturbed")
    cell_module._run_logged(Task(grid, "quality", store.directory), store)
    return result(store, grid)


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Have something happen in the middle of the so many-th training step from now."""

    def arrange(number: int, happens: Callable[[], None]) -> None:
        step, taken = Trainer.step, 0

        def counted(self: Trainer, x: torch.Tensor) -> torch.Tensor:
            nonlocal taken
            taken += 1
            if taken == number:
                happens()
            return step(self, x)

        monkeypatch.setattr(Trainer, "step", counted)

    return arrange


@pytest.fixture
def keeper(tmp_path: Path, grid: Cell) -> Iterator[Keeper]:
    """Of a process that hears signals."""
    found = Keeper(Store(tmp_path / "run"), grid, "quality")
    before = {number: signal.signal(number, found.stop) for number in cell_module.STOP_SIGNALS}
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


def stop_it(grid: Cell, store: Store, keeper: Keeper) -> None:
    store.pending(grid.key, "").parent.mkdir(parents=True, exist_ok=True)
    with pytest.raises(Stopped):
        cell_module._run_logged(Task(grid, "quality", store.directory), store, keeper)
    assert store.read(grid) is None
    assert keeper.path.exists()


@pytest.mark.parametrize("sent", cell_module.STOP_SIGNALS)
@pytest.mark.parametrize("step", [7, 33])
def test_a_signal_puts_a_cell_down_and_the_next_process_takes_it_up(
    grid: Cell, undisturbed: Any, keeper: Keeper, at_step: Any, sent: signal.Signals, step: int
) -> None:
    at_step(step, lambda: signal.raise_signal(sent))
    store = keeper.store
    stop_it(grid, store, keeper)
    found = torch.load(keeper.path, weights_only=True)["training"]
    assert found["training"]["progress"]["step"] == (step if step <= 20 else step - 20)
    # What a killed process had written after its checkpoint is cut off.
    with store.path(grid, ".curve.jsonl").open("a") as file:
        file.write('{"step": 20, "learning_rate": 0.001}\n{"ste')
    cell_module._run_logged(Task(grid, "quality", store.directory), store)
    assert result(store, grid) == undisturbed
    assert [path.name for path in (store.directory / "pending").iterdir()] == []


def test_a_signal_ends_a_validation_at_once(
    grid: Cell, undisturbed: Any, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import train

    evaluate = train.evaluate

    def interrupted(*words: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("it went on")

    monkeypatch.setattr(train, "evaluate", interrupted)
    stop_it(grid, keeper.store, keeper)
    monkeypatch.setattr(train, "evaluate", evaluate)
    cell_module._run_logged(Task(grid, "quality", keeper.store.directory), keeper.store)
    assert result(keeper.store, grid) == undisturbed


def test_a_killed_process_loses_what_came_after_its_checkpoint(
    grid: Cell, undisturbed: Any, keeper: Keeper, at_step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    monkeypatch.setattr(checkpoint, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(Keeper, "_cost", lambda self: 0.0)
    at_step(29, kill)
    store = keeper.store
    store.pending(grid.key, "").parent.mkdir(parents=True)
    with pytest.raises(Killed):
        cell_module._run_logged(Task(grid, "quality", store.directory), store, keeper)
    taken: list[int] = []
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, x: (taken.append(1), step(self, x))[1])
    cell_module._run_logged(Task(grid, "quality", store.directory), store)
    assert len(taken) == 40 - 28
    assert result(store, grid) == undisturbed


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_checkpoint_that_does_not_fit_is_said_and_left(
    grid: Cell, undisturbed: Any, keeper: Keeper, at_step: Any, damage: str, capsys: Any
) -> None:
    at_step(7, lambda: signal.raise_signal(signal.SIGTERM))
    store = keeper.store
    stop_it(grid, store, keeper)
    if damage == "cut":
        keeper.path.write_bytes(keeper.path.read_bytes()[:1000])
    else:
        document = torch.load(keeper.path, weights_only=True)
        weights = document["training"]["training"]["flow"]
        weights[next(iter(weights))] = torch.zeros(1, 2, 3)
        torch.save(document, keeper.path)
    cell_module._run_logged(Task(grid, "quality", store.directory), store)
    assert "starting anew" in capsys.readouterr().out
    assert result(store, grid) == undisturbed


def test_a_checkpoint_of_other_versions_is_dropped(
    grid: Cell, undisturbed: Any, keeper: Keeper, at_step: Any, capsys: Any
) -> None:
    at_step(7, lambda: signal.raise_signal(signal.SIGTERM))
    store = keeper.store
    stop_it(grid, store, keeper)
    stale = keeper.path.with_name("0123456789abcdef.checkpoint")
    keeper.path.rename(stale)
    cell_module._run_logged(Task(grid, "quality", store.directory), store)
    assert "of other versions of the code" in capsys.readouterr().out
    assert not stale.exists()
    assert result(store, grid) == undisturbed


def test_checkpoints_take_no_more_than_their_share(
    tmp_path: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    clock = SimpleNamespace(monotonic=lambda: now, time=lambda: now)
    monkeypatch.setattr(checkpoint, "time", clock)
    keeper = Keeper(Store(tmp_path), cell, "quality")
    saving = 0.0

    def save(state: Any) -> None:
        nonlocal now, saving
        now += 3.0
        saving += 3.0

    monkeypatch.setattr(keeper, "_write", save)
    monkeypatch.setattr(keeper, "report", lambda: None)
    training = CellTraining(cell, cell.dataset_config().load(cell.dataset))
    keeper._training = training
    for _ in range(40_000):
        now += 0.1
        keeper._after_step()
    assert 30 < saving <= checkpoint.SHARE * now + 3.0


def test_a_checkpoint_that_cannot_be_written_ends_nothing(
    grid: Cell, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(Keeper, "_cost", lambda self: 0.0)
    monkeypatch.setattr(checkpoint, "write_atomically", full)
    store = Store(tmp_path / "run")
    cell_module._run_logged(Task(grid, "quality", store.directory), store)
    assert "could not be written" in capsys.readouterr().out
    assert result(store, grid) == undisturbed


def test_the_weights_are_kept_where_they_are_asked_for(tmp_path: Path, grid: Cell) -> None:
    store = Store(tmp_path)
    cell_module._run_logged(Task(grid, "quality", tmp_path, keep_weights=True), store)
    kept = torch.load(store.path(grid, ".pt"), weights_only=True)
    assert (kept["name"], kept["event_shape"], kept["dtype"]) == ("realnvp", [2], "float32")
    dataset = grid.dataset_config().load(grid.dataset)
    trained = CellTraining(grid, dataset).run().flow.state_dict()
    assert all(torch.equal(trained[name], kept["state"][name]) for name in trained)
    document = dataclasses.replace(Task(grid, "quality", tmp_path))
    assert not document.keep_weights


def test_how_far_a_cell_is_can_be_read(grid: Cell, keeper: Keeper, at_step: Any) -> None:
    store = keeper.store
    store.pending(grid.key, "").parent.mkdir(parents=True)
    seen: dict[str, Any] = {}

    def look() -> None:
        keeper.report()
        seen.update(store.progress(grid.key))

    at_step(26, look)
    cell_module._run_logged(Task(grid, "quality", store.directory), store, keeper)
    assert (seen["step"], seen["steps"], seen["learning_rate"]) == (5, 20, 1e-2)
    assert seen["used"] == pytest.approx((1 + 5 / 20) / 2)
    assert store.progress(grid.key) == {}
