"""The steps of a solve: where they start, where they end, and what their error is."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import flows
from flows.continuous.errors import StepUnderflow
from flows.continuous.ffjord import FFJORD, FFJORDConfig
from flows.continuous.ode.control import FIRST, adaptive_steps, equal_steps, initial_step
from flows.continuous.ode.evaluator import Problem
from flows.continuous.ode.settings import Settings
from flows.continuous.ode.tableaus import coefficients


def first(rate: Tensor, z: Tensor, end: float = -1.0, **settings: Any) -> float:
    """The first step of two rows in two dimensions, the rest of the rate being integrals'."""
    made = Settings(**settings)
    weights = coefficients(made.solver, z.dtype, z.device)
    problem = Problem(made, weights, (2, 2), (rate.numel() - 4) // 2)
    y = torch.cat([z, z.new_zeros(rate.numel() - 4)])
    return initial_step(problem, 0.0, end, y, rate)


Z = torch.tensor([1.0, -1.0, 3.0, -3.0], dtype=torch.float64)


@pytest.mark.parametrize(("solver", "order"), [("dopri5", 5), ("bosh3", 3)])
def test_the_first_step_has_its_closed_form(solver: str, order: int) -> None:
    """Each number's rate over its tolerance is 7e4."""
    rate = 7e4 * (1e-4 + 1e-3 * Z.abs())
    found = first(rate, Z, solver=solver, atol=1e-4, rtol=1e-3)
    assert found == pytest.approx(FIRST * 7e4 ** (-1 / order))


def test_the_trace_may_shorten_the_first_step_but_by_its_tolerance_at_the_end() -> None:
    settings: dict[str, Any] = {"atol": 1e-9, "rtol": 1e-5}
    rate = 1e4 * (1e-9 + 1e-5 * Z.abs())
    alone = first(rate, Z, **settings)
    slow, fast = (torch.full((2,), value, dtype=torch.float64) for value in (1e-6, -50.0))
    # By `atol` alone, the tolerance at the start, the fast one would ask for a tenth.
    assert first(torch.cat([rate, slow]), Z, **settings) == alone
    short = first(torch.cat([rate, fast]), Z, **settings)
    assert short == pytest.approx(FIRST * (50 / (1e-9 + 1e-5 * 50 * alone)) ** (-1 / 5))
    assert 0.2 * alone < FIRST * (50 / 1e-9) ** (-1 / 5) * 5 < short < alone
    # What error control does not look at, a regulariser, does not matter.
    assert first(torch.cat([rate, slow, 1e6 * fast]), Z, **settings) == alone


def test_the_first_step_is_at_most_the_whole_way() -> None:
    assert first(1e-9 * Z, Z, end=-0.3) == 0.3
    assert first(0 * Z, Z, end=-0.3) == 0.3


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 5])
def test_a_rate_that_is_not_finite_is_a_step_underflow(value: float, place: int) -> None:
    rate = torch.ones(6, dtype=torch.float64)
    rate[place] = value
    with pytest.raises(StepUnderflow, match="not finite at the start"):
        first(rate, Z)


def test_steps_land_on_the_end_whatever_the_errors() -> None:
    assert [t for t, _ in equal_steps(1.0, 0.0, 4)] == [1.0, 0.75, 0.5, 0.25]
    settings = Settings()
    errors = itertools.cycle([0.3, 2.0, 1e-12, 1e-12, float("nan"), 1e-12, 1e-12, 0.9])
    steps = adaptive_steps(settings, 2.0, -1.0, 0.2, resolution=1e-7)
    reached, (t, dt) = 2.0, next(steps)
    try:
        while True:
            assert t == pytest.approx(reached)
            assert dt < 0
            error = next(errors)
            if error <= 1:
                reached += dt
            t, dt = steps.send(error)
    except StopIteration:
        assert reached == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("size", "sizes"), [(0.97, [1.0]), (0.94, [0.5, 0.5]), (0.48, [0.5, 0.5]), (0.34, [0.34])]
)
def test_the_last_steps_are_not_a_long_and_a_short_one(size: float, sizes: list[float]) -> None:
    # At an error of 0.9 ** 5 the next size is this one.
    steps = adaptive_steps(Settings(), 0.0, 1.0, size, resolution=1e-7)
    found = [next(steps)]
    for _ in sizes[1:]:
        found.append(steps.send(0.9**5))
    assert [dt for _, dt in found] == sizes


# -- the error of a solve -----------------------------------------------------------------------

# Event size, options, what the weights are multiplied with: from a flow that does next to nothing
# to one that takes ten steps a block at a tolerance of 1e-5.
FLOWS: list[tuple[int, dict[str, Any], float]] = [
    (2, {"hidden": (8, 8)}, 1.0),
    (2, {"hidden": (16, 16), "end_time": 0.5}, 2.5),
    (3, {"hidden": (12,), "blocks": 2, "activation": "softplus"}, 2.0),
    (4, {"hidden": (8, 8), "layers": "concat"}, 1.5),
    (2, {"hidden": (16,), "trace": "exact"}, 3.0),
    (6, {"hidden": (16, 16)}, 1.5),
    (5, {"hidden": (8,), "residual": True}, 2.0),
    (3, {"hidden": (10, 10), "activation": "swish"}, 2.5),
]
WHAT = ("log-densities", "samples", "gradients", "gradients of a later step")


def solved(index: int, tolerance: float, backend: str) -> tuple[list[Tensor], list[int]]:
    """What is in ``WHAT``, and the evaluations that each took on the way forward."""
    dimension, options, scale = FLOWS[index]
    gradient = {"gradient": "backprop"} if backend == "torchdiffeq" else {}
    config = FFJORDConfig.model_validate(
        {"atol": tolerance, "rtol": tolerance, "backend": backend, **gradient, **options}
    )
    torch.manual_seed(index)
    flow = FFJORD((dimension,), config=config).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter *= scale
    x = torch.randn(12, dimension, dtype=torch.float64)
    found, evaluations = [], []
    for what in WHAT:
        noise = torch.Generator().manual_seed(100 + index)
        with flows.Meter() as meter:
            if what == "samples":
                found.append(flow.sample(12, generator=noise))
            elif what == "log-densities":
                with torch.no_grad():
                    found.append(flow.log_prob(x, generator=noise))
            else:
                flow.zero_grad()
                flow.loss(x, generator=noise).backward()
                grads = [parameter.grad for parameter in flow.parameters()]
                found.append(torch.cat([grad.reshape(-1) for grad in grads if grad is not None]))
        evaluations.append(meter.forward)
    return found, evaluations


@pytest.fixture(scope="module")
def truths() -> list[list[Tensor]]:
    return [solved(index, 1e-11, "native")[0] for index in range(len(FLOWS))]


@pytest.mark.parametrize("tolerance", [1e-3, 1e-4, 1e-5, 1e-6, 1e-7])
def test_errors_and_evaluations_are_on_average_below_those_of_torchdiffeq(
    truths: list[list[Tensor]], tolerance: float
) -> None:
    """Its dopri5, with backpropagation through it, at the same tolerance; geometric means."""
    errors, evaluations = [], []
    for index, truth in enumerate(truths):
        ours, theirs = (solved(index, tolerance, name) for name in ("native", "torchdiffeq"))
        errors.append(
            [
                math.log((mine - true).norm() / (other - true).norm())
                for mine, other, true in zip(ours[0], theirs[0], truth, strict=True)
            ]
        )
        evaluations.append(
            [math.log(mine / other) for mine, other in zip(ours[1], theirs[1], strict=True)]
        )
    for what, error, evaluation in zip(
        WHAT, torch.tensor(errors).mean(0), torch.tensor(evaluations).mean(0), strict=True
    ):
        assert error.exp() < 1, what
        assert evaluation.exp() < 1, what
