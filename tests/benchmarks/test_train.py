"""The training loop: it learns, keeps the best, ends where the budget says, and never lies."""

import copy
import itertools
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import datasets
import flows
from benchmarks.cell import Budget
from benchmarks.train import Batches, CurveRow, Diverged, Trainer, evaluate, train
from flows.base import Traits, VectorFlow


def budget(**options: Any) -> Budget:
    return Budget.model_validate({"steps": 60, "batch_size": 64, "validate_every": 20, **options})


class Scale(VectorFlow):
    """z = exp(log_scale) x: one parameter, whose best value is known."""

    traits = Traits("exact", "none", "none", "triangular")

    def __init__(self, event_shape: Sequence[int], fail_from: int | None = None) -> None:
        super().__init__(event_shape)
        self.log_scale = torch.nn.Parameter(torch.zeros(()))
        self.calls = 0
        self.fail_from = fail_from

    def _encode_vector(self, x: Tensor, context: Any, **_: Any) -> tuple[Tensor, Tensor]:
        flows.tick()
        if self.training:
            self.calls += 1
            if self.fail_from is not None and self.calls > self.fail_from:
                raise flows.FlowError("step size underflow")
        log_abs_det = self.log_scale * self.dimension
        return x * self.log_scale.exp(), log_abs_det.expand(len(x))

    def _decode_vector(self, z: Tensor, context: Any, **_: Any) -> tuple[Tensor, Tensor]:
        raise flows.NotInvertible("not needed here")


@pytest.fixture(scope="module")
def gaussian() -> datasets.Dataset:
    return datasets.load("gaussian", dimension=4, rows=4000)


def test_it_finds_the_maximum_of_the_likelihood(gaussian: datasets.Dataset) -> None:
    flow = Scale((4,))
    rows: list[CurveRow] = []
    result = train(
        flow, gaussian, budget(steps=400, learning_rate=0.05), seed=0, on_row=rows.append
    )
    # d/ds of (s - exp(2 s) m / 2) is 0 at exp(-2 s) = m, m the mean square.
    best = -0.5 * math.log(float(torch.as_tensor(gaussian.train).square().mean()))
    assert float(flow.log_scale.detach()) == pytest.approx(best, abs=0.03)
    assert rows[-1].step == result.steps == 400
    assert result.stopped_by == "budget"
    assert result.nfe == 400
    assert [row.nfe_forward for row in rows] == [1.0] * 20


def test_the_best_validation_is_what_is_kept(gaussian: datasets.Dataset) -> None:
    flow = Scale((4,))
    rows: list[CurveRow] = []
    options = budget(steps=100, validate_every=10, learning_rate=3.0, schedule="constant")
    result = train(flow, gaussian, options, seed=0, on_row=rows.append)
    best = min(rows, key=lambda row: row.validation_nll_nats)
    assert result.best_step == best.step
    _, log_prob = evaluate(flow, gaussian, "validation", rows=options.validation_rows)
    assert -float(log_prob.mean()) == pytest.approx(best.validation_nll_nats, rel=1e-6)


@pytest.mark.parametrize(
    ("bound", "expected"), [({"steps": None, "nfe": 35}, 35), ({"steps": 33}, 33)]
)
def test_it_ends_where_the_budget_says(
    gaussian: datasets.Dataset, bound: dict[str, Any], expected: int
) -> None:
    result = train(Scale((4,)), gaussian, budget(**bound), seed=0, on_row=lambda row: None)
    assert result.steps == expected


def test_an_untrained_flow_is_a_contestant(gaussian: datasets.Dataset) -> None:
    flow = Scale((4,))
    result = train(flow, gaussian, budget(steps=0), seed=0, on_row=lambda row: None)
    assert result.steps == 0
    assert float(flow.log_scale.detach()) == 0
    assert math.isfinite(result.validation_nll_nats)


DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_a_compiled_step_gives_the_same_weights(gaussian: datasets.Dataset, device: str) -> None:
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        flow = flows.build("realnvp", (4,), layers=2, hidden=(8,)).to(device)
        rows: list[CurveRow] = []
        train(flow, gaussian, budget(compile=compiled), seed=0, on_row=rows.append)
        assert math.isnan(rows[-1].nfe_forward) is compiled
        found.append(torch.cat([p.detach().flatten() for p in flow.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


SYSTEMS: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("nice", (5,), {}),
    ("realnvp", (5,), {"batch_norm": True}),
    ("glow", (5,), {}),
    ("maf", (5,), {}),
    ("maf-mog", (5,), {}),
    ("iaf", (5,), {"layers": 2}),
    ("rqnsf-c", (5,), {}),
    ("rqnsf-ar", (5,), {}),
    ("glow-image", (1, 8, 8), {"steps": 1, "channels": 8}),
    ("realnvp-image", (1, 8, 8), {"blocks": 1, "channels": 8}),
]


# Each system with one optimiser, and the last system with all.
OPTIMIZERS = ["adam", "adamw", "adamax"]


@pytest.mark.parametrize(
    ("optimizer", "name", "event_shape", "options"),
    [
        *zip(itertools.cycle(OPTIMIZERS), *zip(*SYSTEMS[:-1], strict=True), strict=False),
        *((optimizer, *SYSTEMS[-1]) for optimizer in OPTIMIZERS),
    ],
)
def test_a_step_asks_the_device_for_no_value(
    name: str,
    event_shape: tuple[int, ...],
    options: dict[str, Any],
    optimizer: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fake tensors have no values: whatever needs one on the host raises."""
    with FakeTensorMode():
        flow = flows.build(name, event_shape, **options)
        trainer = Trainer(flow, budget(optimizer=optimizer), torch.Generator())
        if not trainer.fused:
            # Off CUDA torch keeps Adamax's count of steps on the host, and reads it there.
            monkeypatch.setattr(trainer.optimizer, "step", lambda: None)
        for _ in range(2):
            loss = trainer.step(torch.empty(8, *event_shape))
        with pytest.raises(DataDependentOutputException):
            float(loss)


@pytest.mark.parametrize("optimizer", ["adam", "adamax"])
@pytest.mark.parametrize(
    ("name", "event_shape", "options"), SYSTEMS if torch.cuda.is_available() else []
)
def test_a_step_does_not_synchronise(
    name: str, event_shape: tuple[int, ...], options: dict[str, Any], optimizer: str
) -> None:
    flow = flows.build(name, event_shape, **options).cuda()
    trainer = Trainer(flow, budget(optimizer=optimizer), torch.Generator("cuda"))
    x = torch.randn(8, *event_shape, device="cuda")
    # The first step makes what later ones have: handles, workspaces, the optimiser's state.
    trainer.step(x)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step(x)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert int(trainer.skipped) == 0


def test_a_budget_of_seconds_ends(
    gaussian: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A hundredth of a second passes between two looks at the clock.
    looks = (0.01 * look for look in itertools.count())
    clock = SimpleNamespace(perf_counter=lambda: next(looks))
    monkeypatch.setattr("benchmarks.train.time", clock)
    options = budget(steps=None, seconds=0.2)
    result = train(Scale((4,)), gaussian, options, seed=0, on_row=lambda row: None)
    assert result.stopped_by == "budget"
    assert 0.2 <= result.train_seconds < 0.3


def test_patience_ends_it(gaussian: datasets.Dataset) -> None:
    options = budget(steps=10_000, learning_rate=3.0, schedule="constant", patience=2)
    result = train(Scale((4,)), gaussian, options, seed=0, on_row=lambda row: None)
    assert result.stopped_by == "patience"
    assert result.steps < 10_000


def test_the_same_seed_gives_the_same_weights(gaussian: datasets.Dataset) -> None:
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        flow = flows.build("maf", (4,), layers=2, hidden=(8,))
        train(flow, gaussian, budget(), seed=seed, on_row=lambda row: None)
        found.append(torch.cat([p.detach().flatten() for p in flow.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adamax"])
def test_a_step_without_finite_loss_changes_nothing(optimizer: str) -> None:
    torch.manual_seed(0)
    start = flows.build("maf", (4,), layers=2, hidden=(8,))
    good, bad = torch.randn(8, 4), torch.full((8, 4), math.nan)
    results = []
    for batches in ([good, good], [bad, good, bad, good, bad]):
        flow = copy.deepcopy(start)
        trainer = Trainer(flow, budget(optimizer=optimizer), torch.Generator())
        for batch in batches:
            trainer.step(batch)
        assert int(trainer.skipped) == sum(batch is bad for batch in batches)
        results.append([p.detach() for p in flow.parameters()])
    # To the last bit: nothing of the optimiser's state remembers a skipped step either.
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(start.parameters(), results[0], strict=True))


def test_a_loss_that_goes_nan_is_called_diverged(gaussian: datasets.Dataset) -> None:
    flow = Scale((4,))
    options = budget(learning_rate=1e30, schedule="constant", clip_norm=1e30)
    with pytest.raises(Diverged, match="of 20 steps had no finite loss"):
        train(flow, gaussian, options, seed=0, on_row=lambda row: None)


def test_refused_solves_are_skipped_counted_and_past_a_bound_diverged(
    gaussian: datasets.Dataset,
) -> None:
    rows: list[CurveRow] = []
    result = train(Scale((4,), fail_from=55), gaussian, budget(), seed=0, on_row=rows.append)
    assert result.skipped_steps == 5
    assert rows[-1].skipped_steps == 5
    assert math.isfinite(rows[-1].train_nll_nats)
    with pytest.raises(Diverged, match="the last: step size underflow"):
        train(Scale((4,), fail_from=20), gaussian, budget(), seed=0, on_row=lambda row: None)


def test_batch_norm_is_evaluated_with_the_statistics_of_the_training_set() -> None:
    """MAF, arXiv:1705.07057, appendix B: no other statistics may be left at the end."""
    data = datasets.load("gaussian", dimension=4, rows=4000)
    flow = flows.build("maf", (4,), layers=2, hidden=(8,), batch_norm=True)
    assert flow.keeps_statistics
    train(flow, data, budget(learning_rate=1e-2), seed=0, on_row=lambda row: None)
    kept = {name: value.clone() for name, value in flow.named_buffers()}
    flow.refresh_statistics(torch.as_tensor(data.train))
    for name, value in flow.named_buffers():
        torch.testing.assert_close(value, kept[name], rtol=1e-4, atol=1e-5)


class Clock:
    """A clock that stands still unless something says that it takes time."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Normed(Scale):
    """Keeps a mean as batch norm would; a step takes a second, a row of statistics a hundredth."""

    keeps_statistics = True

    def __init__(self, event_shape: Sequence[int], clock: Clock) -> None:
        super().__init__(event_shape)
        self.clock = clock
        self.seen: list[Tensor] = []
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(event_shape))

    def loss(self, x: Tensor, context: Any = None, **more: Any) -> Tensor:
        self.clock.now += 1
        return super().loss(x, context, **more)

    def refresh_statistics(self, data: Tensor, context: Any = None) -> None:
        self.clock.now += len(data) / 100
        self.seen.append(data)
        self.mean.copy_(data.mean(0))


@pytest.fixture
def normed(monkeypatch: pytest.MonkeyPatch) -> Normed:
    clock = Clock()
    monkeypatch.setattr("benchmarks.train.time", clock)
    monkeypatch.setattr("benchmarks.train.STATISTICS_ROWS", 1000)
    return Normed((4,), clock)


def test_statistics_are_of_a_fixed_part_in_training_and_of_the_whole_at_the_end(
    gaussian: datasets.Dataset, normed: Normed
) -> None:
    train(normed, gaussian, budget(), seed=0, on_row=lambda row: None)
    assert [len(data) for data in normed.seen] == [1000, 1000, 1000, 4000]
    rows = torch.as_tensor(gaussian.train)
    part = normed.seen[0]
    assert all(torch.equal(part, data) for data in normed.seen[1:3])
    # A part of the rows, none twice, and not the first ones.
    assert len({tuple(row) for row in [*part.tolist(), *rows.tolist()]}) == len(rows)
    assert len({tuple(row) for row in part.tolist()}) == len(part)
    assert not torch.equal(part, rows[:1000])
    torch.testing.assert_close(normed.mean, rows.mean(0))


def test_a_small_training_set_is_not_passed_twice(
    gaussian: datasets.Dataset, normed: Normed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best weights come with the statistics of the whole set already."""
    monkeypatch.setattr("benchmarks.train.STATISTICS_ROWS", 4000)
    train(normed, gaussian, budget(), seed=0, on_row=lambda row: None)
    assert [len(data) for data in normed.seen] == [4000, 4000, 4000]
    torch.testing.assert_close(normed.mean, torch.as_tensor(gaussian.train).mean(0))


def test_an_untrained_flow_has_the_statistics_of_the_whole_set(
    gaussian: datasets.Dataset, normed: Normed
) -> None:
    result = train(normed, gaussian, budget(steps=0), seed=0, on_row=lambda row: None)
    assert [len(data) for data in normed.seen] == [4000]
    torch.testing.assert_close(normed.mean, torch.as_tensor(gaussian.train).mean(0))
    assert result.train_seconds == 40


def test_statistics_are_on_the_clock_of_the_budget(
    gaussian: datasets.Dataset, normed: Normed
) -> None:
    rows: list[CurveRow] = []
    options = budget(steps=None, seconds=48, validate_every=5)
    result = train(normed, gaussian, options, seed=0, on_row=rows.append)
    # 5 steps of a second and 10 seconds of statistics a row; in the fourth three steps were left.
    assert [row.seconds for row in rows] == [15, 30, 45, 58]
    assert result.steps == 18
    assert result.train_seconds == 58 + 40
    # The statistics themselves can end it.
    rows.clear()
    options = budget(steps=None, seconds=14, validate_every=5)
    result = train(normed, gaussian, options, seed=0, on_row=rows.append)
    assert result.steps == 5
    assert [row.seconds for row in rows] == [15]
    assert result.stopped_by == "budget"


def test_regularisers_take_part_in_training() -> None:
    torch.manual_seed(0)
    plain = flows.build("ffjord", (3,), hidden=(8,))
    held = flows.build("ffjord", (3,), hidden=(8,), kinetic_energy=10.0)
    held.load_state_dict(plain.state_dict())
    x = torch.randn(16, 3)
    losses = [
        float(flow.loss(x, generator=torch.Generator().manual_seed(0)).detach())
        for flow in (plain, held)
    ]
    assert losses[1] > losses[0]


def test_an_epoch_is_a_permutation(gaussian: datasets.Dataset) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = iter(Batches(gaussian, 1000, torch.device("cpu"), torch.float32, generator))
    epoch = torch.cat([next(batches)[0] for _ in range(4)])
    assert torch.equal(epoch.sort(dim=0).values, torch.as_tensor(gaussian.train).sort(dim=0).values)
    assert not torch.equal(epoch, torch.as_tensor(gaussian.train))


def test_evaluation_is_the_log_density_of_the_stored_values() -> None:
    """For images: that of the integers plus uniform noise, preprocessing included."""
    digits = datasets.load("optdigits")
    flow = Scale(digits.event_shape)
    x, log_prob = evaluate(flow, digits, "test", rows=50)
    assert x.shape == (50, *digits.event_shape)
    again = evaluate(flow, digits, "test", rows=50)[1]
    assert torch.equal(log_prob, again)
    raw = digits.preprocessing.inverse(x)
    assert torch.equal(raw.floor().long(), torch.as_tensor(digits.test[:50]).long())
    # log p(raw) = log N(x) + log |dx/draw|, the last by automatic differentiation of the inverse.
    model = x.double().requires_grad_()
    raw = digits.preprocessing.inverse(model)
    assert torch.equal(raw.floor().long(), torch.as_tensor(digits.test[:50]).long())
    (slope,) = torch.autograd.grad(raw.sum(), model)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(model.detach())
    expected = (normal - slope.log()).flatten(1).sum(1)
    torch.testing.assert_close(log_prob, expected, rtol=1e-5, atol=1e-4)


def test_rows_of_ones_own_are_trained_on() -> None:
    """The flow is initialised, a tenth of the rows validates, and it is left ready for use."""
    torch.manual_seed(0)
    flow = flows.build("glow", (3,), steps=2, hidden=(8,))
    rows = torch.randn(200, 3) * 5
    seen: list[CurveRow] = []
    result = train(flow, rows, budget(), on_row=seen.append)
    assert result.steps == 60
    assert not flow.training
    # Not initialised, actnorms at a scale of 5 would start far off.
    assert seen[0].validation_nll_nats < 11
    again = train(flow, rows, budget(steps=1), initialize=False)
    assert again.validation_nll_nats < 11
    with pytest.raises(flows.InputError, match=r"rows of shape \(n, 3\), ten or more"):
        train(flow, torch.zeros(50, 2))
