"""A training that is put down and taken up again ends as if nothing had been."""

import dataclasses
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import datasets
import flows
from benchmarks.cell import Budget, Cell
from benchmarks.check.small_flows import shrunk
from benchmarks.train import CurveRow, Training, TrainingResult
from benchmarks.tune import CellTraining

SMALLER: dict[str, Any] = {
    "layers": 2,
    "steps": 1,
    "blocks": 1,
    "rank": 2,
    "channels": 4,
    "levels": 2,
    "atol": 1e-3,
    "rtol": 1e-3,
}


def smaller(name: str) -> dict[str, Any]:
    """Options of a small system that draws from every generator that it can."""
    config = flows.configure(name)
    options = shrunk(name, SMALLER, width=8)
    if hasattr(config, "dropout"):
        options |= {"dropout": 0.2, "residual_blocks": 1, "hidden": (8,)}
    # Flow matching refuses it.
    if hasattr(config, "batch_norm") and not hasattr(config, "pairs"):
        options["batch_norm"] = True
    return options


def families() -> list[str]:
    """The first entry of each system."""
    found: dict[type, str] = {}
    for name in flows.ENTRIES:
        found.setdefault(flows.entry(name).config_class, name)
    return list(found.values())


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """As a later process finds it: nothing but numbers, text and tensors."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


class Enough(Exception):
    """Raised in the middle of a training."""


def train_in_parts(
    make: Callable[[], Training], stops: tuple[int, ...]
) -> tuple[flows.Flow, list[CurveRow], TrainingResult]:
    """Train, put down after the steps given, each part with objects of its own."""
    state: dict[str, Any] | None = None
    rows: list[CurveRow] = []
    for stop in (*stops, None):
        # What another process would not have: the position of the global generator.
        torch.manual_seed(99)
        training = make()
        if state is not None:
            training.load_state_dict(state)

        def after_step(training: Training = training, stop: int | None = stop) -> None:
            nonlocal state
            if training.progress.step == stop:
                with training.paused():
                    state = through_a_file(training.state_dict())
                raise Enough

        try:
            result = training.run(rows.append, after_step)
        except Enough:
            continue
        return training.flow, rows, result
    raise AssertionError("the last part has no end")


def timeless(rows: list[CurveRow]) -> list[str]:
    """Rows as text, in which NaN equals NaN, without the seconds."""
    return [str({**dataclasses.asdict(row), "seconds": 0}) for row in rows]


def assert_same(whole: Any, parts: Any) -> None:
    assert timeless(whole[1]) == timeless(parts[1])
    ours, theirs = whole[0].state_dict(), parts[0].state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    seconds = {"train_seconds": 0}
    assert dataclasses.replace(whole[2], **seconds) == dataclasses.replace(parts[2], **seconds)


# What the libraries of peers do on their own.
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", families())
def test_every_system_goes_on_to_the_last_bit(name: str) -> None:
    options = smaller(name)
    vectors = datasets.load("gaussian", dimension=4, rows=300)
    digits = datasets.load("optdigits", rows=300)
    dataset = vectors
    try:
        try:
            flow = flows.build(name, vectors.event_shape, **options)
        except flows.InputError:
            dataset = digits
            flow = flows.build(name, digits.event_shape, **options)
    except flows.FlowError as refusal:
        pytest.skip(str(refusal))
    if not flow.traits.trains_on_data:
        pytest.skip("cannot be trained on data")
    budget = Budget(steps=11, batch_size=40, validate_every=4, validation_rows=50, warmup_steps=3)  # type: ignore[call-arg]

    def make() -> Training:
        state = torch.get_rng_state()
        torch.manual_seed(0)
        flow = flows.build(name, dataset.event_shape, **options)
        flow.initialize(dataset.preprocessing.forward(torch.as_tensor(dataset.train[:64]))[0])
        training = Training(flow, dataset, budget, seed=1)
        # Whoever goes on has drawn other things than who began.
        torch.set_rng_state(state)
        return training

    # In the middle of an epoch and of a row, at the end of a row, and at the end of all.
    assert_same(train_in_parts(make, ()), train_in_parts(make, (3, 8, 11)))


@pytest.fixture(scope="module")
def gaussian() -> datasets.Dataset:
    return datasets.load("gaussian", dimension=3, rows=500)


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("realnvp", {"optimizer": "adamw", "weight_decay": 0.1}),
        ("realnvp", {"optimizer": "adamax"}),
        ("realnvp", {"steps": 400, "learning_rate": 0.3, "schedule": "constant", "patience": 2}),
        ("realnvp", {"steps": None, "nfe": 60}),
        ("ffjord", {"steps": None, "nfe": 400}),
    ],
)
def test_every_rule_goes_on_to_the_last_bit(
    gaussian: datasets.Dataset, name: str, rules: dict[str, Any]
) -> None:
    usual = {"steps": 20, "batch_size": 64, "validate_every": 5, "learning_rate": 1e-2}
    budget = Budget.model_validate({**usual, **rules})

    def make() -> Training:
        torch.manual_seed(0)
        return Training(flows.build(name, (3,), **smaller(name)), gaussian, budget, seed=1)

    whole = train_in_parts(make, ())
    assert_same(whole, train_in_parts(make, (2, 5, 7)))
    assert whole[2].stopped_by == ("patience" if "patience" in rules else "budget")


class Clock:
    """Shows what it is told."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_the_clock_of_a_budget_in_seconds_goes_on_and_the_break_is_on_none(
    gaussian: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("benchmarks.train.time", clock)
    budget = Budget(steps=None, seconds=20, batch_size=64, validate_every=6)  # type: ignore[call-arg]

    def make() -> Training:
        # The time between two parts.
        clock.now += 1000
        torch.manual_seed(0)
        training = Training(flows.build("maf", (3,), layers=1), gaussian, budget, seed=1)
        step = training.trainer.step

        def timed(x: torch.Tensor) -> torch.Tensor:
            clock.now += 1
            return step(x)

        monkeypatch.setattr(training.trainer, "step", timed)
        saved = training.state_dict

        def slowly() -> dict[str, Any]:
            clock.now += 50
            return saved()

        monkeypatch.setattr(training, "state_dict", slowly)
        return training

    whole, parts = train_in_parts(make, ()), train_in_parts(make, (4, 13))
    assert_same(whole, parts)
    assert [row.seconds for row in parts[1]] == [6, 12, 18, 20]
    assert parts[2].train_seconds == 20


def test_a_validation_that_is_broken_off_is_done_again(
    gaussian: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(steps=10, batch_size=64, validate_every=5)  # type: ignore[call-arg]

    def make() -> Training:
        torch.manual_seed(0)
        flow = flows.build("maf", (3,), layers=2, batch_norm=True)
        return Training(flow, gaussian, budget, seed=1)

    whole = train_in_parts(make, ())
    from benchmarks import train as module

    evaluate = module.evaluate

    def broken(*words: Any, **options: Any) -> Any:
        evaluate(*words, **options)
        raise Enough

    training, rows = make(), []
    monkeypatch.setattr(module, "evaluate", broken)
    with pytest.raises(Enough):
        training.run(rows.append)
    assert training.interruptible
    assert rows == []
    state = through_a_file(training.state_dict())
    monkeypatch.setattr(module, "evaluate", evaluate)
    again = make()
    again.load_state_dict(state)
    result = again.run(rows.append)
    assert_same(whole, (again.flow, rows, result))


def test_a_grid_goes_on_where_it_was(cell: Cell) -> None:
    document = cell.model_dump()
    document["budget"] |= {"learning_rate": 1e-3, "clip_norm": None}
    grid = Cell.model_validate({**document, "learning_rates": (1e-3, 1e-2, 1e30)})
    dataset = grid.dataset_config().load(grid.dataset)
    curve: list[tuple[float, CurveRow]] = []
    whole = CellTraining(grid, dataset).run(lambda *row: curve.append(row))
    state: dict[str, Any] | None = None
    # In the first rate, between two, in the one that diverges, and when all is done.
    for place in ((0, 7), (1, 0), (1, 13), (2, 3), (3, 0), None):
        training = CellTraining(grid, dataset)
        if state is not None:
            training.load_state_dict(state)
        rows: list[tuple[float, CurveRow]] = []

        def after_step(training: CellTraining = training, place: Any = place) -> None:
            nonlocal state
            part = training.training
            if (len(training.trials), part.progress.step if part else 0) == place:
                if part is None:
                    state = through_a_file(training.state_dict())
                else:
                    with part.paused():
                        state = through_a_file(training.state_dict())
                raise Enough

        try:
            found = training.run(lambda *row, rows=rows: rows.append(row), after_step)
        except Enough:
            continue
    assert [rate for rate, _ in rows] == [rate for rate, _ in curve]
    assert timeless([row for _, row in rows]) == timeless([row for _, row in curve])
    assert found.learning_rate == whole.learning_rate
    assert math.isclose(training.used, 1)
    ours, theirs = whole.flow.state_dict(), found.flow.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
