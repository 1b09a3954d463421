"""Solves controlled by tensors are those controlled by the host; recorded, they are the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import flows
from flows import Meter
from flows.continuous import kernels
from flows.continuous.errors import StepUnderflow, TooManyEvaluations
from flows.continuous.ode import on_device, recorded
from flows.continuous.ode.control import adaptive_steps
from flows.continuous.ode.settings import Settings
from flows.continuous.ode.tensor_control import (
    ACCEPTED,
    DT,
    MASKED,
    ROW,
    STATUS,
    UNDERFLOW,
    T,
    begun,
    due,
    judged,
)

# Name, event shape, options, what the weights are multiplied with.
FLOWS: dict[str, tuple[str, tuple[int, ...], dict[str, Any], float]] = {
    "plain": ("ffjord", (2,), {"hidden": (8, 8), "blocks": 2}, 2.0),
    "many steps": ("ffjord", (3,), {"hidden": (12,), "activation": "softplus"}, 4.0),
    "exact": ("ffjord", (2,), {"hidden": (16,), "trace": "exact", "layers": "concat"}, 3.0),
    "narrow": ("ffjord", (5,), {"hidden": (8,), "bottleneck": 2, "residual": True}, 2.0),
    "learned end": ("ffjord", (2,), {"hidden": (8,), "learned_end_time": True}, 2.0),
    "own norms": ("ffjord", (2,), {"hidden": (8,), "kinetic_energy": 0.1}, 2.0),
    "by autograd": ("ffjord", (3,), {"hidden": (8,), "directional_derivative": 0.1}, 2.0),
    "other method": ("ffjord", (2,), {"hidden": (8,), "solver": "bosh3", "probes": 3}, 2.0),
    "equal steps": ("ffjord", (2,), {"hidden": (8,), "solver": "rk4", "steps": 5}, 2.0),
    "images": ("ffjord-image", (1, 4, 4), {}, 1.0),
}


@pytest.fixture(autouse=True)
def _by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.VARIABLE, "off")


def made(name: str, **more: Any) -> flows.Flow:
    system, event_shape, options, scale = FLOWS[name]
    torch.manual_seed(3)
    flow = flows.build(system, event_shape, **{**options, **more}).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(scale)
    return flow


def results(flow: flows.Flow, rounds: int = 1) -> list[list[Any]]:
    """Of rounds of training, density and sample: losses, gradients, values, and the meters."""
    found = []
    for turn in range(rounds):
        noise = torch.Generator(flow.device).manual_seed(turn)
        shape = 6, *flow.event_shape
        x = torch.randn(*shape, generator=noise, dtype=torch.float64, device=flow.device)
        flow.zero_grad()
        meters = [Meter() for _ in range(3)]
        with meters[0]:
            loss = flow.train().loss(x, generator=noise)
            loss.backward()
        grads = [p.grad.clone() for p in flow.parameters() if p.grad is not None]
        with torch.no_grad():
            with meters[1]:
                density = flow.eval().log_prob(x, generator=noise)
            with meters[2]:
                sample = flow.sample(6, generator=noise)
        counts = [(repr(meter), meter.parts) for meter in meters]
        found.append([loss.detach(), grads, density, sample, counts])
    return found


def assert_same(found: list[list[Any]], truth: list[list[Any]]) -> None:
    for mine, true in zip(found, truth, strict=True):
        torch.testing.assert_close(mine[:-1], true[:-1], atol=1e-11, rtol=1e-9)
        assert mine[-1] == true[-1]


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_tensors_take_the_steps_of_the_host(name: str, tolerance: float) -> None:
    """Values, gradients, and NFE and steps in either pass and each block."""
    truth = results(made(name, atol=tolerance, rtol=tolerance))
    with on_device.chosen(True):
        assert_same(results(made(name, atol=tolerance, rtol=tolerance)), truth)


@pytest.mark.parametrize("name", FLOWS)
def test_over_buffers_a_solve_is_the_same(name: str) -> None:
    """As it is recorded on a device: inputs are copied in, and results out, each time."""
    runs: list[str] = []

    def recorder(function: Callable[[], None]) -> Callable[[], None]:
        # As a graph is captured: after the function has run over whatever is in the buffers.
        function()

        def replay() -> None:
            runs.append(function.__name__)
            function()

        return replay

    truth = results(made(name), rounds=3)
    with on_device.chosen(True), recorded.using(recorder):
        assert_same(results(made(name), rounds=3), truth)
    assert {"_begin", "_attempt", "_pull"} <= set(runs) or name == "equal steps"
    assert {"_attempt", "_pull"} <= set(runs)
    assert not recorded.refused


def test_one_record_serves_the_blocks_of_a_flow_and_no_other_shape() -> None:
    count = 0

    def recorder(function: Callable[[], None]) -> Callable[[], None]:
        nonlocal count
        count += 1
        return function

    flow = made("plain", blocks=4).eval()
    x = torch.randn(6, 2, dtype=torch.float64)
    with on_device.chosen(True), recorded.using(recorder), torch.no_grad():
        flow.log_prob(x)
        assert count == 2
        flow.log_prob(x)
        assert count == 2
        flow.log_prob(x[:5])
        assert count == 4


def test_what_cannot_be_recorded_is_solved_without() -> None:
    def recorder(function: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    truth = results(made("plain"), rounds=2)
    try:
        with on_device.chosen(True), recorded.using(recorder):
            assert_same(results(made("plain"), rounds=2), truth)
        assert set(recorded.refused.values()) == {
            "operation not permitted when stream is capturing"
        }
    finally:
        recorded.refused.clear()


def test_the_room_of_a_tape_is_spent_as_by_the_host() -> None:
    """Wide states on a narrow network: velocities of the first steps alone are kept."""
    options = {"hidden": (2,), "atol": 1e-8, "rtol": 1e-8}
    truth = results(made("many steps", **options))
    assert truth[0][-1][0][0].count("backward=0") == 0
    with on_device.chosen(True):
        assert_same(results(made("many steps", **options)), truth)
        with recorded.using(lambda function: function):
            assert_same(results(made("many steps", **options), rounds=2)[:1], truth)


@pytest.mark.parametrize("name", FLOWS if torch.cuda.is_available() else [])
def test_on_cuda_a_replayed_solve_is_that_of_the_host(name: str) -> None:
    with on_device.chosen(False):
        truth = results(made(name).cuda(), rounds=4)
    found = results(made(name).cuda(), rounds=4)
    assert_same(found, truth)
    assert not recorded.refused


# -- the control alone --------------------------------------------------------------------------

ERRORS = [0.3, 2.0, 1e-12, 1e-12, math.nan, 1e-12, 0.4, math.inf, 1e-5, 1e-12, 40.0, 0.9]


@pytest.mark.parametrize(("start", "end", "first"), [(2.0, -1.0, 0.2), (0.0, 0.5, 0.01)])
@pytest.mark.parametrize("order", [5, 3])
def test_the_control_gives_the_attempts_of_the_generator(
    start: float, end: float, first: float, order: int
) -> None:
    settings = Settings(solver={5: "dopri5", 3: "bosh3"}[order])
    steps = adaptive_steps(settings, start, end, first, resolution=1e-7)
    vector = torch.tensor(begun(start, end, first), dtype=torch.float64)
    attempt: tuple[float, float] | None = next(steps)
    turn = 0
    while attempt is not None:
        error = ERRORS[turn] if turn < len(ERRORS) else 0.1
        of = due(vector, 1e-7)
        square = torch.tensor(error, dtype=torch.float64).square()
        vector, accepted, row = judged(vector, of, square, order)
        assert row.shape == (ROW,)
        assert (row[T].item(), row[DT].item()) == pytest.approx(attempt, rel=1e-12, abs=1e-15)
        assert bool(accepted) == (error <= 1)
        try:
            attempt = steps.send(error)
        except StopIteration:
            attempt = None
        turn += 1
    # Past the end nothing changes.
    _, accepted, row = judged(vector, of := due(vector, 1e-7), torch.zeros(()), order)
    assert (of.dt.item(), bool(accepted), row[STATUS].item()) == (0.0, False, MASKED)
    assert turn > 3


def test_a_step_that_is_too_short_is_told() -> None:
    vector = torch.tensor(begun(0.0, 1.0, 1e-9), dtype=torch.float64)
    after, accepted, row = judged(vector, due(vector, 1e-7), torch.zeros(()), 5)
    assert row[STATUS] == UNDERFLOW != ACCEPTED
    assert not accepted
    *_, again = judged(after, due(after, 1e-7), torch.zeros(()), 5)
    assert again[STATUS] == MASKED


def failure(work: Callable[[], Any], kind: type[Exception]) -> tuple[str, str]:
    with Meter() as meter, pytest.raises(kind) as caught:
        work()
    return str(caught.value), repr(meter)


@pytest.mark.parametrize("grad", [False, True])
def test_failures_are_those_of_the_host(grad: bool) -> None:
    cases: list[tuple[dict[str, Any], float, type[Exception]]] = [
        ({"max_evaluations": 12, "atol": 1e-9, "rtol": 1e-9}, 1.0, TooManyEvaluations),
        ({}, math.nan, StepUnderflow),
        ({"activation": "square", "end_time": 1e3}, 50.0, StepUnderflow),
        ({"solver": "euler", "activation": "square"}, math.inf, StepUnderflow),
    ]
    for options, scale, kind in cases:
        flow = made("plain", **options)
        x = scale * torch.ones(4, 2, dtype=torch.float64)

        def work(flow: flows.Flow = flow, x: Tensor = x) -> None:
            flow.blocks[0](x, generator=torch.Generator().manual_seed(0))  # type: ignore[operator, index]

        with torch.set_grad_enabled(grad):
            truth = failure(work, kind)
            with on_device.chosen(True):
                assert failure(work, kind) == truth
