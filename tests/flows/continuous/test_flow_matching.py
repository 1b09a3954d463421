"""Flow matching: per-row times, the loss, pairs of least cost, what it learns."""

from __future__ import annotations

import itertools
import math
from typing import cast

import pytest
import torch
from pydantic import ValidationError

import datasets
import flows
from benchmarks.cell import Budget
from benchmarks.train import CurveRow, train
from flows.base import InputError
from flows.continuous.flow_matching import FlowMatching, FlowMatchingConfig
from flows.continuous.ode.dynamics import LAYERS, ConcatSquash, DenseDynamics, LayerKind


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("residual", [False, True])
def test_rows_at_their_own_times_are_rows_at_that_time(kind: LayerKind, residual: bool) -> None:
    torch.manual_seed(0)
    dynamics = DenseDynamics(3, (5, 4), layers=kind, context_features=2, residual=residual).double()
    z, context = torch.randn(7, 3).double(), torch.randn(7, 2).double()
    times = torch.rand(7).double()
    alone = torch.cat(
        [
            dynamics(t, z[i : i + 1], context[i : i + 1]) - residual * z[i : i + 1]
            for i, t in enumerate(times)
        ]
    )
    torch.testing.assert_close(dynamics.at_each(times, z, context), alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("end_time", [0.5, 2.0])
@pytest.mark.parametrize("blocks", [1, 3])
def test_the_loss_of_a_field_that_stands_still_is_the_mean_squared_way(
    blocks: int, end_time: float
) -> None:
    """With f = 0 the error is e - x, whose mean square is 1 + E x^2 in each dimension."""
    flow = FlowMatching(
        (2,), config=FlowMatchingConfig(hidden=(4,), blocks=blocks, end_time=end_time)
    )
    for parameter in flow.parameters():
        torch.nn.init.zeros_(parameter)
    x = 3 * torch.randn(60_000, 2, generator=generator(1))
    loss = flow.loss(x, generator=generator(2))
    assert loss.item() == pytest.approx(10.0, rel=0.02)


def test_blocks_share_the_way_and_their_own_times_run_from_start_to_end() -> None:
    """A field that is constant, e - x for one pair, is exact for any number of blocks and T."""
    flow = FlowMatching((1,), config=FlowMatchingConfig(hidden=(2,), blocks=4, end_time=0.5))
    noise = flow.base.sample(4, generator=generator(3))
    for index, block in enumerate(flow.blocks):
        dynamics = block.dynamics
        assert isinstance(dynamics, DenseDynamics)
        for parameter in dynamics.parameters():
            torch.nn.init.zeros_(parameter)
        # concatsquash: (W x + b) sigmoid(0) + 0.
        with torch.no_grad():
            last = cast(ConcatSquash, dynamics.stack[-1])
            last.linear.bias[:] = 2 * noise[index] / (4 * 0.5)
    assert flow.loss(torch.zeros(4, 1), generator=generator(3)).item() < 1e-12


def test_pairs_of_least_cost_are_the_best_of_all_permutations() -> None:
    config = FlowMatchingConfig(hidden=(4,), pairs="least_cost")
    flow = FlowMatching((2,), config=config)
    for parameter in flow.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(6, 2, generator=generator(4))
    noise = flow.base.sample(6, generator=generator(5))
    best = min(
        float((noise[list(order)] - x).square().mean())
        for order in itertools.permutations(range(6))
    )
    assert flow.loss(x, generator=generator(5)).item() == pytest.approx(best, rel=1e-5)


def test_one_evaluation_a_block_is_counted() -> None:
    flow = FlowMatching((2,), config=FlowMatchingConfig(hidden=(4,), blocks=2))
    with flows.Meter() as meter:
        flow.loss(torch.zeros(8, 2), generator=generator()).backward()
    assert (meter.forward, meter.backward) == (2, 0)
    assert all(parameter.grad is not None for parameter in flow.parameters())


@pytest.mark.parametrize(
    "options", [{"kinetic_energy": 0.1}, {"learned_end_time": True}, {"batch_norm": True}]
)
def test_what_needs_a_solution_in_training_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=f"{next(iter(options))}: flow matching solves"):
        flows.configure("ffjord-fm", options)


def test_fewer_rows_than_blocks_are_refused() -> None:
    flow = flows.build("ffjord-fm", (2,), blocks=5)
    with pytest.raises(InputError, match="5 blocks"):
        flow.loss(torch.zeros(4, 2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ffjord-fm", "ffjord-fm-ot"])
def test_it_learns_a_density(name: str) -> None:
    """The KL to a Gaussian falls from the 0.75 nats of a standard normal to a tenth of them."""
    dataset = datasets.load("gaussian", dimension=2)
    flow = flows.build(name, (2,), hidden=(32, 32))
    rows: list[CurveRow] = []
    budget = Budget(steps=600, batch_size=256, learning_rate=1e-2)  # type: ignore[call-arg]
    result = train(flow, dataset, budget, seed=0, on_row=rows.append)
    assert dataset.truth is not None
    assert result.validation_nll_nats - dataset.truth.entropy_nats < 0.07
    assert all(math.isnan(row.train_nll_nats) for row in rows), "the loss is no NLL"


def test_the_loss_of_a_regularised_flow_is_no_nll() -> None:
    assert flows.build("ffjord", (2,)).loss_is_nll
    assert not flows.build("ffjord", (2,), kinetic_energy=0.1).loss_is_nll
    assert not flows.build("ffjord-fm", (2,)).loss_is_nll
