"""The contract of flows/base.py, checked for every entry of the catalog.

A new entry is covered without a change here. Networks are shrunk for speed by the names of the
options; what an entry cannot model (a vector, an image, a context) it refuses with an InputError,
and at least one kind of event must remain. Tolerances follow the traits: a flow that integrates
an ODE is as exact as its solver.
"""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import flows
from flows import Flow, InputError, Meter, NotInvertible
from flows.base import draw_normal
from flows.config import FlowConfig
from flows.registry import ENTRIES

# Smaller values for options that exist under these names and have the same type. Of widths
# there stay as many as there are.
WIDTH = 16
SMALLER: dict[str, Any] = {
    "layers": 3,
    "steps": 3,
    "blocks": 1,
    "rank": 3,
    "channels": 8,
    "levels": 2,
    "atol": 1e-8,
    "rtol": 1e-8,
}
VECTORS = [(2,), (5,)]
IMAGES = [(1, 4, 4), (1, 8, 8), (3, 8, 8)]
SOME = [(5,), (1, 4, 4), (3, 8, 8)]
# Scalars in an event whose Jacobian an adaptive solver can be asked for.
FEW = 16


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smaller(name: str) -> dict[str, Any]:
    config = flows.configure(name)
    options = {
        option: value
        for option, value in SMALLER.items()
        if type(getattr(config, option, None)) is type(value)
    }
    # The battery has images of 8 x 8 and vectors; dropout is random and tested elsewhere.
    if hasattr(config, "dropout"):
        options["dropout"] = 0.0
    if isinstance(widths := getattr(config, "hidden", None), tuple):
        options["hidden"] = (WIDTH,) * len(widths)
    return options


def own_systems() -> list[str]:
    """Our entries; of those that differ in nothing but the size of their networks, the first."""
    found: dict[FlowConfig, str] = {}
    for name in ENTRIES:
        if "/" not in name:
            found.setdefault(flows.configure(name, smaller(name)), name)
    return list(found.values())


def fresh(name: str, event_shape: tuple[int, ...], context_features: int = 0) -> Flow:
    """An untrained flow in evaluation mode; skipped where the system has no such events."""
    torch.manual_seed(0)
    try:
        flow = flows.build(name, event_shape, context_features, **smaller(name))
    except InputError as refusal:
        pytest.skip(str(refusal))
    if integrates(flow) and flow.event_shape.numel() > FEW:
        pytest.skip("the exact trace of so many scalars takes an adaptive solver too long")
    return flow.eval()


def stirred(
    name: str, event_shape: tuple[int, ...], context_features: int = 0, scale: float = 0.3
) -> Flow:
    """A flow whose parameters are off their fresh values, as training would leave them."""
    flow = fresh(name, event_shape, context_features)
    noise = generator(1)
    with torch.no_grad():
        for parameter in flow.parameters():
            # Of a matrix or kernel, by how many numbers go into one.
            inputs = parameter[0].numel() if parameter.ndim > 1 else parameter.numel()
            parameter += (
                scale
                / math.sqrt(inputs)
                * draw_normal(parameter.shape, like=parameter, generator=noise)
            )
    return flow.double()


def inputs(flow: Flow, n: int, seed: int = 2) -> tuple[Tensor, Tensor | None]:
    source = generator(seed)
    x = draw_normal((n, *flow.event_shape), like=flow.base.anchor, generator=source)
    if flow.context_features == 0:
        return x, None
    context = draw_normal((n, flow.context_features), like=x, generator=source)
    return x, context


def integrates(flow: Flow) -> bool:
    return "solver" in (flow.traits.density_passes, flow.traits.sample_passes)


def tolerance(flow: Flow) -> float:
    return 1e-5 if integrates(flow) else 1e-9


def needs_density(flow: Flow) -> None:
    if flow.traits.density_passes == "none":
        pytest.skip("the density of given data is NotInvertible")


def needs_samples(flow: Flow) -> None:
    if flow.traits.sample_passes == "none":
        pytest.skip("sampling is NotInvertible")


every = pytest.mark.parametrize("name", own_systems())
event_shapes = pytest.mark.parametrize("event_shape", [*VECTORS, *IMAGES], ids=str)
contexts = pytest.mark.parametrize("context_features", [0, 3])


@every
def test_models_vectors_or_images(name: str) -> None:
    modelled = []
    for event_shape in [*VECTORS, *IMAGES]:
        try:
            modelled.append(flows.build(name, event_shape, **smaller(name)))
        except InputError:
            continue
    assert modelled


@every
def test_traits_say_whether_it_trains_on_data(name: str) -> None:
    for event_shape in [VECTORS[0], IMAGES[1]]:
        try:
            flow = flows.build(name, event_shape, **smaller(name))
        except InputError:
            continue
        assert flow.traits.trains_on_data == (flow.traits.density_passes != "none")


@every
@event_shapes
@contexts
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_round_trip(
    name: str, event_shape: tuple[int, ...], context_features: int, dtype: torch.dtype
) -> None:
    # In float32 closer to fresh: triangular factors of many features are soon ill-conditioned.
    scale = 0.1 if dtype == torch.float32 else 0.3
    flow = stirred(name, event_shape, context_features, scale).to(dtype)
    needs_density(flow)
    needs_samples(flow)
    x, context = inputs(flow, 7)
    with torch.no_grad():
        z, forth = flow.encode(x, context, exact=True)
        back, there = flow.decode(z, context, exact=True)
    allowed = tolerance(flow)
    if dtype == torch.float32:
        allowed = 2e-3 if integrates(flow) else 2e-4
    assert z.shape == x.shape
    assert z.dtype == forth.dtype == dtype
    assert forth.shape == (7,)
    torch.testing.assert_close(back, x, atol=allowed, rtol=allowed)
    torch.testing.assert_close(there, -forth, atol=10 * allowed, rtol=10 * allowed)


@every
@pytest.mark.parametrize("event_shape", [(1,), (2,), (5,), (1, 4, 4), (2, 4, 4)], ids=str)
@contexts
def test_log_determinant_is_autograds(
    name: str, event_shape: tuple[int, ...], context_features: int
) -> None:
    flow = stirred(name, event_shape, context_features)
    size = flow.event_shape.numel()
    x, context = inputs(flow, 1 if integrates(flow) else 3)
    for direction, passes in (
        (flow.encode, flow.traits.density_passes),
        (flow.decode, flow.traits.sample_passes),
    ):
        if passes == "none":
            continue
        _, log_abs_det = direction(x, context, exact=True)
        for row in range(len(x)):
            given = None if context is None else context[row : row + 1]
            jacobian = torch.autograd.functional.jacobian(
                lambda value, given=given, direction=direction: direction(value, given, exact=True)[
                    0
                ],
                x[row : row + 1],
            )
            truth = torch.linalg.slogdet(jacobian.reshape(size, size)).logabsdet
            torch.testing.assert_close(
                log_abs_det[row], truth, atol=tolerance(flow), rtol=tolerance(flow)
            )


@every
@contexts
def test_decode_gives_the_same_with_and_without_gradients(name: str, context_features: int) -> None:
    flow = stirred(name, (5,), context_features)
    needs_samples(flow)
    z, context = inputs(flow, 4)
    with_gradients = flow.decode(z, context, exact=True)
    with torch.no_grad():
        without = flow.decode(z, context, exact=True)
    for one, other in zip(with_gradients, without, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance(flow), rtol=tolerance(flow))


def grid(flow: Flow, points: int = 241) -> tuple[Tensor, Tensor]:
    """Points of a square grid and the probability that the flow gives each cell."""
    reach = 8.0
    if flow.traits.sample_passes != "none":
        # Some bases have longer tails than the normal.
        reach = max(reach, 1.5 * flow.sample(1000, generator=generator()).abs().max().item())
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = flow.log_prob(x, exact=True).exp()
    return x, density * (axis[1] - axis[0]) ** 2


@every
def test_integrates_to_one(name: str) -> None:
    # By less than elsewhere, so that the density is smooth on the scale of the grid.
    flow = stirred(name, (2,), scale=0.2)
    needs_density(flow)
    _, mass = grid(flow)
    assert mass.sum().item() == pytest.approx(1.0, abs=5e-3)


@every
def test_samples_follow_the_density(name: str) -> None:
    """Mean and second moments of samples, against those of the density on a grid."""
    flow = stirred(name, (2,))
    needs_density(flow)
    needs_samples(flow)
    x, mass = grid(flow)
    with torch.no_grad():
        samples = flow.sample(4000, generator=generator())

    def moments(points: Tensor) -> Tensor:
        first, second = points.unbind(1)
        return torch.stack((first, second, first**2, second**2, first * second), 1)

    truth = (moments(x) * mass[:, None]).sum(0)
    measured = moments(samples)
    error = measured.std(0) / math.sqrt(len(samples))
    assert ((measured.mean(0) - truth).abs() < 4.5 * error).all()


@every
@contexts
def test_sample_decodes_latents_of_the_base(name: str, context_features: int) -> None:
    flow = stirred(name, (5,), context_features)
    needs_samples(flow)
    _, context = inputs(flow, 6)
    with torch.no_grad():
        z = flow.base.sample(6, context, generator=generator(3))
        x, change = flow.decode(z, context, exact=True)
        samples = flow.sample(6, context, generator=generator(3))
        torch.testing.assert_close(samples, x, atol=tolerance(flow), rtol=tolerance(flow))
        if flow.traits.density_passes != "none":
            torch.testing.assert_close(
                flow.log_prob(x, context, exact=True),
                flow.base.log_prob(z, context) - change,
                atol=10 * tolerance(flow),
                rtol=10 * tolerance(flow),
            )


@every
@pytest.mark.parametrize("dimension", [2, 6, 43, 63, pytest.param(784, marks=pytest.mark.slow)])
@pytest.mark.parametrize("training", [True, False])
def test_fresh_flow_is_sane(name: str, dimension: int, training: bool) -> None:
    """With the catalog's own options: the sizes that users meet."""
    if dimension > 100 and getattr(flows.configure(name), "trace", None) == "exact":
        pytest.skip("the exact trace of so many scalars takes an adaptive solver too long")
    torch.manual_seed(0)
    try:
        flow = flows.build(name, (dimension,))
    except InputError as refusal:
        pytest.skip(str(refusal))
    flow.train(training)
    rows = 4
    with torch.no_grad():
        if flow.traits.density_passes != "none":
            x = 3 * torch.randn(rows, dimension, generator=generator())
            assert flow.log_prob(x, generator=generator()).isfinite().all()
        if flow.traits.sample_passes != "none":
            samples = flow.sample(rows, generator=generator())
            assert samples.shape == (rows, dimension)
            assert samples.abs().max() < 1e3


@every
@pytest.mark.parametrize("rows", [1, 2])
def test_small_batches(name: str, rows: int) -> None:
    flow = stirred(name, (5,))
    x, _ = inputs(flow, rows)
    flow.train()
    with torch.no_grad():
        if flow.traits.density_passes != "none":
            assert flow.log_prob(x, generator=generator()).isfinite().all()
        flow.eval()
        if flow.traits.sample_passes != "none":
            assert flow.sample(rows, generator=generator()).isfinite().all()


@every
@pytest.mark.parametrize("event_shape", [(5,), (1, 8, 8)], ids=str)
@contexts
@pytest.mark.parametrize("training", [True, False])
def test_no_rows_give_no_rows(
    name: str, event_shape: tuple[int, ...], context_features: int, training: bool
) -> None:
    try:
        flow = flows.build(name, event_shape, context_features, **smaller(name)).train(training)
    except InputError as refusal:
        pytest.skip(str(refusal))
    before = copy.deepcopy(flow.state_dict())
    x, context = inputs(flow, 0)
    with Meter() as meter:
        if flow.traits.density_passes != "none":
            for exact in (True, False):
                assert flow.log_prob(x, context, exact=exact).shape == (0,)
                z, log_abs_det = flow.encode(x, context, exact=exact)
                assert z.shape == x.shape
                assert log_abs_det.shape == (0,)
            flow.log_prob(x, context).sum().backward()
            assert all((p.grad == 0).all() for p in flow.parameters())
        else:
            with pytest.raises(NotInvertible):
                flow.log_prob(x, context)
        if flow.traits.sample_passes != "none":
            assert flow.sample(0, context).shape == x.shape
            assert flow.decode(x, context)[1].shape == (0,)
    assert (meter.forward, meter.backward) == (0, 0)
    for key, value in flow.state_dict().items():
        assert torch.equal(value, before[key]), key


@every
def test_initialization_stays_finite_on_poor_batches(name: str) -> None:
    """A batch of one, and a batch in which a feature is constant."""
    flow = fresh(name, (5,))
    needs_density(flow)
    x = torch.randn(20, 5, generator=generator())
    x[:, 2] = 7.0
    for batch in (x[:1], x):
        again = copy.deepcopy(flow)
        again.initialize(batch)
        with torch.no_grad():
            assert again.log_prob(x, generator=generator()).isfinite().all()


@every
def test_initialization_checks_its_batch(name: str) -> None:
    flow = fresh(name, (5,))
    with pytest.raises(InputError, match="batch must have shape"):
        flow.initialize(torch.zeros(3, 4))


def output(flow: Flow) -> Tensor:
    """Log-densities, or where there are none decoded values; deterministic."""
    x, context = inputs(flow, 4)
    if flow.traits.density_passes != "none":
        return flow.log_prob(x, context, exact=True)
    return flow.decode(x, context, exact=True)[0]


@every
@pytest.mark.parametrize("event_shape", SOME, ids=str)
def test_state_dict_restores_a_flow(name: str, event_shape: tuple[int, ...]) -> None:
    flow = stirred(name, event_shape)
    torch.manual_seed(99)
    other = flows.build(name, event_shape, **smaller(name)).double().eval()
    assert not torch.equal(output(other), output(flow))
    other.load_state_dict(flow.state_dict())
    torch.testing.assert_close(output(other), output(flow), atol=0, rtol=0)


@every
@pytest.mark.parametrize("event_shape", SOME, ids=str)
def test_copies_are_equal_and_independent(name: str, event_shape: tuple[int, ...]) -> None:
    flow = stirred(name, event_shape)
    expected = output(flow)
    stream = io.BytesIO()
    torch.save(flow, stream)
    stream.seek(0)
    for made in (
        copy.deepcopy(flow),
        pickle.loads(pickle.dumps(flow)),
        torch.load(stream, weights_only=False),
    ):
        torch.testing.assert_close(output(made), expected, atol=0, rtol=0)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.zero_()
        torch.testing.assert_close(output(flow), expected, atol=0, rtol=0)


@every
@pytest.mark.parametrize("event_shape", SOME, ids=str)
def test_functional_call(name: str, event_shape: tuple[int, ...]) -> None:
    """Parameters handed in are the ones that count."""
    flow = stirred(name, event_shape)
    needs_density(flow)
    x, _ = inputs(flow, 4)
    other = {key: value + 0.01 for key, value in flow.named_parameters()}
    called = torch.func.functional_call(flow, other, (x,), {"exact": True})
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.01
    torch.testing.assert_close(called, flow(x, exact=True), atol=1e-9, rtol=1e-9)


@every
@pytest.mark.parametrize("event_shape", SOME, ids=str)
@contexts
def test_gradients_reach_every_parameter(
    name: str, event_shape: tuple[int, ...], context_features: int
) -> None:
    flow = stirred(name, event_shape, context_features)
    # In training batch norm takes away a shift before it, whose gradient then is rounding alone.
    flow.train(not flow.keeps_statistics)
    x, context = inputs(flow, 8)
    if flow.traits.density_passes != "none":
        flow.log_prob(x, context, generator=generator()).sum().backward()
    else:
        value, change = flow.decode(x, context)
        (value.square().flatten(1).sum(1) + change).sum().backward()
    for key, parameter in flow.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert (parameter.grad != 0).any(), key


@every
def test_gradients_reach_every_parameter_through_samples(name: str) -> None:
    flow = stirred(name, (5,))
    needs_samples(flow)
    z, _ = inputs(flow, 8)
    value, change = flow.decode(z, exact=True)
    (value.square().sum(1) + change).sum().backward()
    for key, parameter in flow.named_parameters():
        if key.startswith("base."):
            continue
        assert parameter.grad is not None, key
        assert (parameter.grad != 0).any(), key


@every
@pytest.mark.parametrize("event_shape", SOME, ids=str)
@contexts
def test_no_tensor_is_left_behind(
    name: str, event_shape: tuple[int, ...], context_features: int
) -> None:
    """Moved to the meta device, a flow that had kept a CPU tensor would mix devices and fail."""
    flow = fresh(name, event_shape, context_features)
    if integrates(flow):
        pytest.skip("an adaptive solver looks at the values, which the meta device has not")
    flow.to("meta")
    x = torch.empty(4, *event_shape, device="meta")
    context = torch.empty(4, context_features, device="meta") if context_features else None
    if flow.traits.density_passes != "none":
        density = flow.log_prob(x, context)
        assert density.shape == (4,)
        assert density.device.type == "meta"
    if flow.traits.sample_passes != "none":
        samples = flow.sample(4, context)
        assert samples.shape == x.shape
        assert samples.device.type == "meta"


@every
def test_conversion_leaves_no_other_float(name: str) -> None:
    for event_shape in SOME:
        try:
            flow = flows.build(name, event_shape, **smaller(name)).double()
        except InputError:
            continue
        for key, value in [*flow.named_parameters(), *flow.named_buffers()]:
            assert not value.is_floating_point() or value.dtype == torch.float64, key


@every
@pytest.mark.parametrize("event_shape", SOME, ids=str)
def test_evaluation_changes_no_state(name: str, event_shape: tuple[int, ...]) -> None:
    flow = stirred(name, event_shape)
    before = copy.deepcopy(flow.state_dict())
    output(flow)
    if flow.traits.sample_passes != "none":
        flow.sample(3, generator=generator())
    for key, value in flow.state_dict().items():
        torch.testing.assert_close(value, before[key], atol=0, rtol=0)


@every
def test_randomness_is_explicit(name: str) -> None:
    """With a generator a call repeats, and torch's own generator stays where it was."""
    flow = stirred(name, (5,))
    x, _ = inputs(flow, 4)
    before = torch.get_rng_state()
    with torch.no_grad():
        if flow.traits.density_passes != "none":
            first, second = (flow.log_prob(x, generator=generator(5)) for _ in range(2))
            assert torch.equal(first, second)
        if flow.traits.sample_passes != "none":
            first, second = (flow.sample(4, generator=generator(5)) for _ in range(2))
            assert torch.equal(first, second)
            assert not torch.equal(first, flow.sample(4, generator=generator(6)))
    assert torch.equal(before, torch.get_rng_state())


@every
def test_torch_is_left_as_it_was(name: str) -> None:
    def switches() -> tuple[object, ...]:
        return (
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_float32_matmul_precision(),
            torch.distributions.Distribution._validate_args,
        )

    before = switches()
    flow = fresh(name, (5,))
    flow.initialize(torch.randn(8, 5, generator=generator()))
    output(flow).sum().backward()
    if flow.traits.sample_passes != "none":
        flow.sample(2)
    assert switches() == before


@every
def test_wrong_inputs_are_answered(name: str) -> None:
    flow = fresh(name, (5,))
    calls = [flow.encode, flow.decode, flow.log_prob]
    for call in calls:
        with pytest.raises(InputError, match=r"must have shape \(n, 5\)"):
            call(torch.zeros(3, 4))
        with pytest.raises(InputError, match="convert one of them"):
            call(torch.zeros(3, 5, dtype=torch.float64))
        with pytest.raises(InputError, match="move one of them"):
            call(torch.zeros(3, 5, device="meta"))
        with pytest.raises(InputError, match="without context_features"):
            call(torch.zeros(3, 5), torch.zeros(3, 2))
    with pytest.raises(InputError, match="without context_features"):
        flow.sample(3, torch.zeros(3, 2))
    with pytest.raises(InputError, match="event_shape"):
        flows.build(name, ())
    with pytest.raises(InputError, match="event_shape"):
        flows.build(name, (0,))


@every
def test_missing_context_is_answered(name: str) -> None:
    flow = fresh(name, (5,), 3)
    for call in (flow.encode, flow.decode, flow.log_prob):
        with pytest.raises(InputError, match="is conditional"):
            call(torch.zeros(4, 5))
        with pytest.raises(InputError, match="context must have shape"):
            call(torch.zeros(4, 5), torch.zeros(4, 2))
    with pytest.raises(InputError, match="is conditional"):
        flow.sample(4)


@every
@pytest.mark.parametrize("event_shape", SOME, ids=str)
def test_context_changes_every_number(name: str, event_shape: tuple[int, ...]) -> None:
    """A conditional flow can move each number of an event with its context."""
    flow = stirred(name, event_shape, 3, scale=1.0)
    needs_samples(flow)
    z, context = inputs(flow, 4)
    assert context is not None
    with torch.no_grad():
        one, _ = flow.decode(z, context)
        other, _ = flow.decode(z, context + 1)
    assert ((one - other).abs().amax(0) > 0).all()


@every
def test_missing_directions_say_why(name: str) -> None:
    flow = fresh(name, (5,))
    x = torch.zeros(2, 5)
    if flow.traits.density_passes == "none":
        for call in (flow.encode, flow.log_prob, flow):
            with pytest.raises(NotInvertible, match=r"\w+ \w+ \w+"):
                call(x)
    if flow.traits.sample_passes == "none":
        with pytest.raises(NotInvertible, match=r"\w+ \w+ \w+"):
            flow.decode(x)
        with pytest.raises(NotInvertible, match=r"\w+ \w+ \w+"):
            flow.sample(2)


@every
@pytest.mark.parametrize("dimension", [2, 5])
def test_meter_counts_network_passes(name: str, dimension: int) -> None:
    flow = fresh(name, (dimension,))
    x = torch.zeros(2, dimension)
    counts = {}
    for passes, call in (
        (flow.traits.density_passes, lambda: flow.encode(x)),
        (flow.traits.sample_passes, lambda: flow.decode(x)),
    ):
        if passes == "none":
            continue
        with Meter() as meter, torch.no_grad():
            call()
        counts[passes] = meter.forward
        assert meter.backward == 0
    if "D" in counts and "1" in counts:
        # The sequential direction goes over the features once and uses each weight once.
        assert counts["D"] == counts["1"]
    elif len(counts) == 1 and "1" in counts:
        # Both directions (or the only one) in one pass: a pass is a network a layer.
        assert counts["1"] <= sum(1 for _ in flow.modules())


NARROW = 0.1


@every
@pytest.mark.slow
def test_learns_a_narrow_gaussian(name: str) -> None:
    """N(0, 0.1^2 I) to within 0.05 nats: the flow must be able to expand from data to latent."""
    torch.manual_seed(0)
    options = smaller(name)
    if "atol" in options:
        # In two dimensions FFJORD too trains with the exact trace.
        options |= {"atol": 1e-4, "rtol": 1e-4, "trace": "exact"}
    if name.startswith("realnvp") and "layers" in options:
        # Each half takes three couplings at least: one expands by e at most.
        options["layers"] = 8
    try:
        flow = flows.build(name, (2,), **options)
    except InputError as refusal:
        pytest.skip(str(refusal))
    if not flow.traits.trains_on_data:
        # A layer of low rank contracts by little: as many layers as the catalog has.
        flow = flows.build(name, (2,))
    entropy = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(NARROW))
    noise = generator(7)
    steps = 450 if integrates(flow) else 600
    optimizer = torch.optim.Adam(flow.parameters(), lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    flow.initialize(NARROW * torch.randn(256, 2, generator=noise))

    def divergence(n: int) -> Tensor:
        """KL divergence between flow and target, up to noise: forward if it can be had."""
        if flow.traits.trains_on_data:
            x = NARROW * torch.randn(n, 2, generator=noise)
            return -flow.log_prob(x, generator=noise).mean() - entropy
        z = flow.base.sample(n, generator=noise)
        x, change = flow.decode(z)
        target = torch.distributions.Normal(0.0, NARROW).log_prob(x).sum(1)
        return (flow.base.log_prob(z) - change - target).mean()

    for _ in range(steps):
        optimizer.zero_grad()
        divergence(256).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    flow.eval()
    with torch.no_grad():
        if flow.traits.trains_on_data:
            x = NARROW * torch.randn(4000, 2, generator=noise)
            truth = torch.distributions.Normal(0.0, NARROW).log_prob(x).sum(1)
            gap = (truth - flow.log_prob(x, exact=True)).mean()
        else:
            gap = divergence(4000)
    assert -0.05 < gap.item() < 0.05
