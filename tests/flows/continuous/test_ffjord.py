"""FFJORD against what is known of it: closed forms, autograd, counters inside the dynamics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import flows
from flows.continuous.ffjord import FFJORD, FFJORDConfig
from flows.continuous.ode.dynamics import LAYERS, DenseDynamics, LayerKind


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


TIGHT = {"atol": 1e-10, "rtol": 1e-10}


def linear_flow(matrix: Tensor, **options: object) -> FFJORD:
    """Dynamics dz/dt = A z: a single layer without nonlinearity, time or shift."""
    config = FFJORDConfig.model_validate({"hidden": (), "layers": "ignore", **TIGHT, **options})
    flow = FFJORD((len(matrix),), config=config)
    (layer,) = flow.blocks[0].dynamics.stack
    with torch.no_grad():
        layer.linear.weight.copy_(matrix)
        layer.linear.bias.zero_()
    return flow


A = torch.tensor([[0.3, -1.2, 0.1], [0.8, -0.4, 0.5], [-0.2, 0.6, 0.2]], dtype=torch.float64)


METHODS = [
    *((gradient, solver) for gradient in ("adjoint", "backprop") for solver in ("dopri5", "rk4")),
    ("adjoint", "dopri8"),
    ("seminorm", "dopri5"),
    ("checkpoint", "bosh3"),
    ("checkpoint", "dopri5"),
    ("checkpoint", "rk4"),
]


@pytest.mark.parametrize(("gradient", "solver"), METHODS)
@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_linear_dynamics_have_their_closed_form(gradient: str, solver: str, trace: str) -> None:
    """z(T) = exp(A T) x, log-determinant T tr A (or T e^T A e), and the gradients of both."""
    end = 0.7
    flow = linear_flow(
        A,
        gradient=gradient,
        solver=solver,
        steps=100,
        trace=trace,
        end_time=end,
        noise="gaussian",
    )
    x = torch.randn(5, 3, generator=generator(1), requires_grad=True)
    log_prob = flow.log_prob(x, generator=generator(2))
    log_prob.sum().backward()

    a = A.clone().requires_grad_(True)
    y = x.detach().clone().requires_grad_(True)
    z = y @ torch.linalg.matrix_exp(end * a).T
    if trace == "exact":
        change = end * a.trace().expand(5)
    else:
        noise = torch.randn(1, 5, 3, generator=generator(2))[0]
        change = end * torch.einsum("ni,ij,nj->n", noise, a, noise)
    truth = -0.5 * z.square().sum(1) - 1.5 * math.log(2 * math.pi) + change
    truth.sum().backward()

    weight = flow.blocks[0].dynamics.stack[0].linear.weight
    torch.testing.assert_close(log_prob, truth, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(x.grad, y.grad, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(weight.grad, a.grad, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("layers", list(LAYERS))
@pytest.mark.parametrize("bottleneck", [None, 2])
def test_log_determinant_is_that_of_autograd(layers: LayerKind, bottleneck: int | None) -> None:
    config = FFJORDConfig(hidden=(8,), layers=layers, bottleneck=bottleneck, blocks=2, **TIGHT)
    flow = FFJORD((3,), 2, config)
    x, context = torch.randn(4, 3), torch.randn(4, 2)
    z, log_abs_det = flow.encode(x, context, exact=True)
    for row in range(4):
        jacobian = torch.autograd.functional.jacobian(
            lambda y, row=row: flow.encode(y[None], context[row : row + 1], exact=True)[0][0],
            x[row],
        )
        torch.testing.assert_close(
            jacobian.slogdet().logabsdet, log_abs_det[row], atol=1e-7, rtol=1e-7
        )
    back, reverse = flow.decode(z, context, exact=True)
    torch.testing.assert_close(back, x, atol=1e-8, rtol=0)
    torch.testing.assert_close(reverse, -log_abs_det, atol=1e-8, rtol=0)


def test_round_trip_is_within_a_hundred_tolerances() -> None:
    torch.manual_seed(3)
    for tolerance in (1e-4, 1e-6, 1e-8):
        flow = FFJORD((2,), config=FFJORDConfig(atol=tolerance, rtol=tolerance, end_time=2.0))
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter *= 1.5
            x = torch.randn(64, 2)
            back, _ = flow.decode(flow.encode(x, generator=generator())[0], generator=generator())
        assert (back - x).abs().max() < 100 * tolerance


def test_density_integrates_to_one() -> None:
    torch.manual_seed(1)
    flow = FFJORD((2,), config=FFJORDConfig(hidden=(16, 16), atol=1e-7, rtol=1e-7, end_time=1.0))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter *= 2
        axis = torch.linspace(-12, 12, 241)
        grid = torch.cartesian_prod(axis, axis)
        mass = flow.log_prob(grid, exact=True).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(mass - 1) < 1e-4


def test_a_sample_is_what_decoding_its_latent_gives() -> None:
    flow = FFJORD((2,), config=FFJORDConfig(blocks=2, **TIGHT))
    with torch.no_grad():
        sample = flow.sample(6, generator=generator(4))
        z = flow.base.sample(6, generator=generator(4))
        torch.testing.assert_close(sample, flow.decode(z, exact=True)[0], atol=1e-8, rtol=0)


@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
@pytest.mark.parametrize("bottleneck", [None, 2, 6])
@pytest.mark.filterwarnings("ignore::flows.continuous.errors.CostWarning")
def test_trace_estimates_have_mean_and_variance_of_the_closed_form(
    noise: str, bottleneck: int | None
) -> None:
    """Variance 2 ||S||_F^2, for Rademacher noise less the diagonal; S from autograd."""
    torch.manual_seed(5)
    config = FFJORDConfig.model_validate(
        {"hidden": (7,), "bottleneck": bottleneck, "noise": noise, "activation": "softplus"}
    )
    flow = FFJORD((4,), config=config)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter *= 2
    x = torch.randn(3, 4)
    draws = 8_000
    estimates = flow.trace_estimates(x, draws=draws, generator=generator(6))
    assert estimates.shape == (draws, 3)

    block = flow.blocks[0].dynamics
    assert isinstance(block, DenseDynamics)
    zero = torch.zeros(())
    for row in range(3):
        point = x[row : row + 1]
        if bottleneck is None:
            matrix = torch.autograd.functional.jacobian(lambda y: block(zero, y)[0], point)[:, 0]
        else:
            h = block.narrow(zero, point)
            dh = torch.autograd.functional.jacobian(lambda y: block.narrow(zero, y)[0], point)
            dg = torch.autograd.functional.jacobian(lambda h: block.widen(zero, h)[0], h)
            matrix = dh[:, 0] @ dg[:, 0]
        symmetric = (matrix + matrix.T) / 2
        variance = 2 * symmetric.square().sum()
        if noise == "rademacher":
            variance = variance - 2 * symmetric.diagonal().square().sum()
        seen = estimates[:, row]
        standard_error = (variance / draws).sqrt()
        assert abs(seen.mean() - matrix.trace()) < 4.5 * standard_error
        # The kurtosis of a quadratic form is at most 15: the variance is known to 4 sigma.
        assert abs(seen.var() / variance - 1) < 4.5 * math.sqrt(14 / draws)


def test_noise_is_drawn_once_per_sample_and_solve() -> None:
    """The same generator gives the same density, another one another, whatever the tolerance."""
    flow = FFJORD((3,), config=FFJORDConfig(**TIGHT))
    x = torch.randn(5, 3)
    with torch.no_grad():
        one = flow.log_prob(x, generator=generator(0))
        again = flow.log_prob(x, generator=generator(0))
        other = flow.log_prob(x, generator=generator(1))
    assert torch.equal(one, again)
    assert (one - other).abs().min() > 0


def test_log_prob_is_an_unbiased_estimate() -> None:
    """Noise fixed within a solve leaves the integral of the trace unbiased."""
    torch.manual_seed(2)
    flow = FFJORD((3,), config=FFJORDConfig(hidden=(8,), end_time=1.0, **TIGHT))
    x = torch.randn(1, 3)
    with torch.no_grad():
        exact = flow.log_prob(x, exact=True)
        seen = flow.log_prob(x.expand(20_000, 3), generator=generator())
    assert abs(seen.mean() - exact) < 4 * seen.std() / math.sqrt(20_000)


class CountTanh(TorchDispatchMode):
    """Counts the activations that are really computed, below everything that could miscount."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func is torch.ops.aten.tanh.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("gradient", ["adjoint", "backprop", "checkpoint"])
def test_the_meter_agrees_with_a_counter_inside_the_dynamics(gradient: str) -> None:
    config = FFJORDConfig.model_validate({"gradient": gradient, "solver": "rk4", "steps": 3})
    flow = FFJORD((2,), config=config)
    with CountTanh() as counter, flows.Meter() as meter:
        loss = flow.log_prob(torch.randn(4, 2)).sum()
        # Three hidden layers, three activations an evaluation.
        assert (meter.forward, meter.backward) == (counter.calls // 3, 0) == (12, 0)
        loss.backward()
    assert 3 * (meter.forward + meter.backward) == counter.calls
    assert meter.backward == (0 if gradient == "backprop" else 12)


def test_functional_call_trains_the_weights_that_it_was_given() -> None:
    """The adjoint runs after the call has put the old weights back, and must not use those."""
    flow = FFJORD((2,), config=FFJORDConfig(hidden=(8,), **TIGHT))
    other = FFJORD((2,), config=FFJORDConfig(hidden=(8,), **TIGHT))
    x = torch.randn(4, 2)
    swapped = {k: v.detach().clone().requires_grad_(True) for k, v in other.named_parameters()}
    torch.func.functional_call(flow, swapped, (x,), {"exact": True}).sum().backward()
    other.log_prob(x, exact=True).sum().backward()
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(swapped[name].grad, parameter.grad, atol=1e-8, rtol=1e-6)
    assert all(parameter.grad is None for parameter in flow.parameters())


def test_the_context_gets_its_gradient() -> None:
    flow = FFJORD((2,), 3, FFJORDConfig(hidden=(8,), **TIGHT))
    x, context = torch.randn(4, 2), torch.randn(4, 3, requires_grad=True)
    flow.log_prob(x, context, exact=True).sum().backward()
    assert context.grad is not None
    step = 1e-5
    bump = torch.zeros(4, 3)
    bump[:, 1] = step
    with torch.no_grad():
        up = flow.log_prob(x, context + bump, exact=True)
        down = flow.log_prob(x, context - bump, exact=True)
    torch.testing.assert_close(context.grad[:, 1], (up - down) / (2 * step), atol=1e-6, rtol=1e-5)


def test_memory_that_was_never_written_is_never_read() -> None:
    """A stage without weight in the trace is left out; what lies in its place must not matter."""
    flow = FFJORD((2,), config=FFJORDConfig(hidden=(8,)))
    x = torch.randn(4, 2)
    # In this mode torch fills fresh memory with NaN.
    torch.use_deterministic_algorithms(True)
    try:
        # The second solve has a first step from the first, and looks for none.
        flow.log_prob(x, generator=generator()).sum().backward()
        loss = flow.log_prob(x, generator=generator()).sum()
        loss.backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())
