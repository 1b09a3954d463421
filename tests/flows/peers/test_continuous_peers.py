"""Other libraries' continuous flows behind the contract; a library not installed is skipped.

A solver is as exact as its tolerance, 1e-8 here. Zuko integrates log-determinants at a hundredth
of their size, so that theirs is a hundred times looser.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import flows
from flows import Flow, InputError, Meter
from flows.continuous.errors import StepUnderflow, TooManyEvaluations
from flows.continuous.ode.trace import products, unit_vectors
from flows.peers.continuous import ContinuousPeerConfig
from flows.registry import ENTRIES

PEERS = [
    name
    for name, entry in ENTRIES.items()
    if "/" in name and issubclass(entry.config_class, ContinuousPeerConfig)
]
TOLERANCE = {"atol": 1e-8, "rtol": 1e-8}
# What JAX compiles takes seconds each time.
every = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name.startswith("diffrax/") else [])
        for name in PEERS
    ],
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def peer(name: str, event_shape: tuple[int, ...], **options: Any) -> Flow:
    library = name.partition("/")[0]
    if "/" in name and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    torch.manual_seed(0)
    flow = flows.build(name, event_shape, **{"hidden": (16, 16), **TOLERANCE, **options})
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(1.5)
    return flow.double().eval()


def points(rows: int, dimension: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, dimension, dtype=torch.float64, generator=generator(seed))


def test_three_libraries_have_one() -> None:
    assert {"torchflows/ffjord", "zuko/ffjord", "diffrax/ffjord"} <= {*PEERS}


# -- the same function as ours ------------------------------------------------------------------


@every
@pytest.mark.parametrize(
    ("trace", "options"),
    [
        ("exact", {}),
        ("hutchinson", {"end_time": 0.3, "blocks": 2, "activation": "softplus"}),
    ],
)
def test_exact_density_is_ours_on_the_same_weights(
    name: str, trace: str, options: dict[str, Any]
) -> None:
    """The oracle goes both ways: the two share the network and no line of solver or trace."""
    tight = {"atol": 1e-10, "rtol": 1e-10, "trace": trace, **options}
    flow, ours = peer(name, (3,), **tight), peer("ffjord", (3,), **tight)
    ours.load_state_dict(flow.state_dict())
    x = points(6, 3)
    with torch.no_grad():
        theirs = flow.log_prob(x, exact=True)
        truth = ours.log_prob(x, exact=True)
        assert (theirs - flow.base.log_prob(x)).abs().min() > 1e-3
        torch.testing.assert_close(theirs, truth, atol=2e-8, rtol=1e-8)
        samples = flow.sample(6, generator=generator(2))
        torch.testing.assert_close(
            samples, ours.sample(6, generator=generator(2)), atol=2e-8, rtol=1e-8
        )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("zuko/ffjord", {}),
        ("torchflows/ffjord", {"trace_gradient": True}),
        pytest.param("diffrax/ffjord", {}, marks=pytest.mark.slow),
    ],
)
def test_gradient_is_ours(name: str, options: dict[str, Any]) -> None:
    flow, ours = peer(name, (2,), trace="exact", **options), peer("ffjord", (2,), trace="exact")
    ours.load_state_dict(flow.state_dict())
    x = points(6, 2)
    found = [torch.autograd.grad(f.loss(x), list(f.parameters())) for f in (flow, ours)]
    for theirs, truth in zip(*found, strict=True):
        torch.testing.assert_close(theirs, truth, atol=1e-6, rtol=1e-6)


def test_torchflows_has_no_gradient_of_the_log_determinant() -> None:
    """Its fault, which the catalog states; the day this fails, it can learn densities."""
    flow = peer("torchflows/ffjord", (2,), trace="exact")
    x = points(6, 2)
    z, change = flow.encode(x)
    whole = torch.autograd.grad(
        -(flow.base.log_prob(z) + change).mean(), list(flow.parameters()), retain_graph=True
    )
    latents_only = torch.autograd.grad(-flow.base.log_prob(z).mean(), list(flow.parameters()))
    ours = peer("ffjord", (2,), trace="exact")
    ours.load_state_dict(flow.state_dict())
    truth = torch.autograd.grad(ours.loss(x), list(ours.parameters()))

    def distance(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> float:
        return math.sqrt(
            sum(float((a - b).square().sum()) for a, b in zip(one, other, strict=True))
        )

    # What is left comes by way of the step sizes, through which autograd goes too.
    assert distance(whole, latents_only) < 0.01 * distance(truth, latents_only)


# -- the contract -------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("dimension", [1, 4])
def test_round_trip_and_log_determinant(name: str, dimension: int) -> None:
    flow = peer(name, (dimension,), blocks=2)
    x = points(3, dimension)
    with torch.no_grad():
        z, forth = flow.encode(x, exact=True)
        back, there = flow.decode(z, exact=True)
    torch.testing.assert_close(back, x, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(there, -forth, atol=1e-5, rtol=1e-5)
    for row in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(
            lambda value: flow.encode(value, exact=True)[0], x[row : row + 1]
        )
        truth = torch.linalg.slogdet(jacobian.reshape(dimension, dimension)).logabsdet
        torch.testing.assert_close(forth[row], truth, atol=1e-5, rtol=1e-5)


@every
def test_float32_is_near_float64(name: str) -> None:
    flow = peer(name, (4,), atol=1e-5, rtol=1e-5)
    x = points(5, 4)
    with torch.no_grad():
        truth = flow.log_prob(x, exact=True)
        found = flow.float().log_prob(x.float(), exact=True)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), truth, atol=1e-3, rtol=1e-3)


@every
def test_log_prob_integrates_to_one(name: str) -> None:
    flow = peer(name, (2,), atol=1e-5, rtol=1e-5)
    axis = torch.linspace(-8, 8, 121, dtype=torch.float64)
    with torch.no_grad():
        density = flow.log_prob(torch.cartesian_prod(axis, axis), exact=True).exp()
    assert (density.sum() * (axis[1] - axis[0]) ** 2).item() == pytest.approx(1.0, abs=5e-3)


@every
def test_estimates_scatter_around_the_exact_density(name: str) -> None:
    flow = peer(name, (3,), atol=1e-5, rtol=1e-5)
    draws = 3000
    x = points(1, 3)
    with torch.no_grad():
        _, exact = flow.encode(x, exact=True)
        _, estimates = flow.encode(x.expand(draws, 3), generator=generator(3))
    assert estimates.std() > 1e-3
    error = estimates.std() / math.sqrt(draws)
    assert (estimates.mean() - exact).abs() < 4 * error


@every
def test_trace_estimates_have_the_mean_and_variance_of_the_noise(name: str) -> None:
    flow = peer(name, (3,))
    x = points(1, 3)
    block = flow.get_submodule("blocks.0")
    vectors = unit_vectors(len(x), x.shape[1], x)
    truth = products(lambda y: block(torch.zeros(()).double(), y), x, vectors)[1].sum(0)
    jacobian = torch.autograd.functional.jacobian(lambda y: block(torch.zeros(()).double(), y), x)
    symmetric = 0.5 * (jacobian[0, :, 0] + jacobian[0, :, 0].T)
    found = flow.trace_estimates(x, draws=20_000, generator=generator(4))[:, 0]
    assert (found.mean() - truth).abs() < 4 * found.std() / math.sqrt(20_000)
    assert found.var().item() == pytest.approx(2 * symmetric.square().sum().item(), rel=0.1)
    with pytest.raises(NotImplementedError, match="exact density"):
        peer(name, (3,), trace="exact").trace_estimates(x, draws=2)
    with pytest.raises(InputError, match="draws"):
        flow.trace_estimates(x, draws=0)


@every
def test_randomness_is_explicit(name: str) -> None:
    flow = peer(name, (5,))
    x = points(4, 5)
    calls: list[Callable[[int], Tensor]] = [
        lambda seed: flow.log_prob(x, generator=generator(seed)),
        lambda seed: flow.decode(x, generator=generator(seed))[1],
        lambda seed: flow.sample(4, generator=generator(seed)),
    ]
    before = torch.get_rng_state()
    with torch.no_grad():
        for call in calls:
            assert torch.equal(call(5), call(5))
            assert not torch.equal(call(5), call(6))
    flow.loss(x, generator=generator(5)).backward()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(7)
    first, second = flow.log_prob(x), flow.log_prob(x)
    assert not torch.equal(first, second)
    torch.manual_seed(7)
    assert torch.equal(flow.log_prob(x), first)


@pytest.mark.parametrize("name", ["zuko/ffjord", "torchflows/ffjord"])
def test_evaluations_are_those_that_ran(name: str) -> None:
    flow = peer(name, (3,), blocks=2)
    ran = 0

    def count(*_: object) -> None:
        nonlocal ran
        ran += 1

    for block in flow.get_submodule("blocks").children():
        block.get_submodule("dynamics").register_forward_hook(count)
    x = points(4, 3)
    with Meter() as meter:
        loss = flow.loss(x, generator=generator())
        before = meter.forward
        loss.backward()
    assert meter.forward == before
    assert meter.forward + meter.backward == ran
    assert sum(part.forward for part in meter.parts.values()) == meter.forward
    assert set(meter.parts) == {"block 0", "block 1"}
    # Zuko recomputes accepted steps in the backward pass, torchflows keeps all of them.
    assert (meter.backward > 0) == name.startswith("zuko")
    with Meter() as meter, torch.no_grad():
        flow.sample(4)
    assert meter.forward > 0
    assert meter.backward == 0


@every
def test_gradients_reach_every_parameter(name: str) -> None:
    for flow in (peer(name, (4,)).train(), peer(name, (4,))):
        x = points(8, 4)
        flow.log_prob(x, generator=generator()).sum().backward()
        for key, parameter in flow.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            assert (parameter.grad != 0).any(), key


@every
def test_copies_are_equal_and_independent(name: str) -> None:
    flow = peer(name, (4,))
    x = points(4, 4)

    def output(of: Flow) -> Tensor:
        with torch.no_grad():
            return of.log_prob(x, generator=generator(1))

    expected = output(flow)
    for made in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert torch.equal(output(made), expected)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.zero_()
        assert torch.equal(output(flow), expected)
        assert not torch.equal(output(made), expected)
    other = {key: value + 0.01 for key, value in flow.named_parameters()}
    called = torch.func.functional_call(flow, other, (x,), {"exact": True})
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.01
    torch.testing.assert_close(called, flow(x, exact=True), atol=1e-9, rtol=1e-9)


@every
def test_evaluation_changes_no_state(name: str) -> None:
    flow = peer(name, (3,))
    before = copy.deepcopy(flow.state_dict())
    flow.log_prob(points(3, 3), generator=generator())
    flow.sample(3, generator=generator())
    for key, value in flow.state_dict().items():
        assert torch.equal(value, before[key])
    assert before.keys() == peer("ffjord", (3,)).state_dict().keys()


@every
def test_wrong_inputs_are_answered(name: str) -> None:
    flow = peer(name, (5,))
    with pytest.raises(InputError, match=r"must have shape \(n, 5\)"):
        flow.log_prob(torch.zeros(3, 4).double())
    with pytest.raises(InputError, match="without context_features"):
        flow.log_prob(torch.zeros(3, 5).double(), torch.zeros(3, 2))
    with pytest.raises(InputError, match="without context"):
        flows.build(name, (4,), 2)
    with pytest.raises(InputError, match="event_shape"):
        flows.build(name, ())


@every
def test_images_are_flattened(name: str) -> None:
    flow = peer(name, (1, 2, 3))
    with torch.no_grad():
        z, change = flow.encode(torch.zeros(2, 1, 2, 3).double())
        assert z.shape == (2, 1, 2, 3)
        assert change.shape == (2,)
        assert flow.sample(2).shape == (2, 1, 2, 3)


@every
def test_a_solve_that_cannot_end_is_ended(name: str) -> None:
    flow = peer(name, (3,), max_evaluations=20)
    x = points(3, 3)
    with pytest.raises(TooManyEvaluations, match="cap of 20 evaluations"):
        flow.log_prob(x)
    # The cap is that of one solve, and a failed one leaves nothing behind.
    capped = peer(name, (3,), max_evaluations=200)
    for _ in range(4):
        capped.loss(x, generator=generator()).backward()
    with torch.no_grad():
        for parameter in capped.parameters():
            parameter.fill_(math.nan)
    with pytest.raises((TooManyEvaluations, StepUnderflow)):
        capped.log_prob(x)


def test_options_are_spelled_as_ours() -> None:
    ours = type(flows.configure("ffjord")).model_fields
    for name, field in ContinuousPeerConfig.model_fields.items():
        assert field.annotation == ours[name].annotation
        assert field.default == ours[name].default


@pytest.mark.slow
def test_zuko_learns_a_narrow_gaussian() -> None:
    flow = peer("zuko/ffjord", (2,), atol=1e-4, rtol=1e-4, trace="exact").float().train()
    noise = generator(7)
    optimizer = torch.optim.Adam(flow.parameters(), lr=2e-2)
    for _ in range(150):
        optimizer.zero_grad()
        flow.loss(0.3 * torch.randn(128, 2, generator=noise)).backward()
        optimizer.step()
    entropy = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.3))
    with torch.no_grad():
        found = flow.loss(0.3 * torch.randn(4000, 2, generator=noise)).item()
    assert found == pytest.approx(entropy, abs=0.1)
