"""The contract of flows/base.py as checks of any entry of a flow, made small for it."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import torch
from torch import Tensor

import flows
from benchmarks.check import Check, DoesNotApply, collector, expect, refuses
from benchmarks.check.small_flows import (
    IMAGES,
    SOME,
    VECTORS,
    built,
    close,
    finite,
    fresh,
    generator,
    grid,
    has_density,
    has_gradient,
    has_samples,
    inputs,
    integrates,
    modelled,
    needs_density,
    needs_samples,
    output,
    smaller,
    stirred,
    tolerance,
)
from flows import InputError, Meter, NotInvertible

__all__ = ["CHECKS"]

CHECKS: list[Check] = []
promise = collector(CHECKS)


@promise()
def models_vectors_or_images(name: str) -> None:
    """Vectors or images of some size are modelled; the others are refused with an InputError."""
    expect(bool(modelled(name, [*VECTORS, *IMAGES])), "no event of the battery is modelled")


@promise()
def traits_say_whether_it_trains_on_data(name: str) -> None:
    """The traits say that it trains on data exactly if it gives the density of data."""
    for flow in modelled(name, [VECTORS[0], IMAGES[1]]):
        expect(
            flow.traits.trains_on_data == has_density(flow),
            f"trains_on_data is {flow.traits.trains_on_data}, density_passes is "
            f"{flow.traits.density_passes!r}",
        )


@promise(
    event_shape=[*VECTORS, *IMAGES], dtype=[torch.float32, torch.float64], context_features=[0, 3]
)
def round_trip(
    name: str, event_shape: tuple[int, ...], context_features: int, dtype: torch.dtype
) -> None:
    """Decoding undoes encoding, and the two log-determinants are opposite."""
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
    expect(z.shape == x.shape, f"encode gives shape {tuple(z.shape)} for {tuple(x.shape)}")
    expect(z.dtype == forth.dtype == dtype, f"dtypes are {z.dtype} and {forth.dtype}")
    expect(forth.shape == (7,), f"the log-determinant of 7 rows has shape {tuple(forth.shape)}")
    close(back, x, allowed)
    close(there, -forth, 10 * allowed)


@promise(event_shape=[(1,), (2,), (5,), (1, 4, 4), (2, 4, 4)], context_features=[0, 3])
def log_determinant_is_autograds(
    name: str, event_shape: tuple[int, ...], context_features: int
) -> None:
    """The log-determinant is that of the Jacobian, as automatic differentiation has it."""
    flow = stirred(name, event_shape, context_features)
    size = flow.event_shape.numel()
    x, context = inputs(flow, 1 if integrates(flow) else 3)
    directions = [flow.encode] * has_density(flow) + [flow.decode] * has_samples(flow)
    for direction in directions:
        _, log_abs_det = direction(x, context, exact=True)
        for row in range(len(x)):
            given = None if context is None else context[row : row + 1]

            def mapped(value: Tensor, given: Any = given, direction: Any = direction) -> Any:
                return direction(value, given, exact=True)[0]

            jacobian = torch.autograd.functional.jacobian(mapped, x[row : row + 1])
            truth = torch.linalg.slogdet(jacobian.reshape(size, size)).logabsdet
            close(log_abs_det[row], truth, tolerance(flow))


@promise(context_features=[0, 3])
def decode_gives_the_same_with_and_without_gradients(name: str, context_features: int) -> None:
    """Decoding gives the same whether gradients are asked for or not."""
    flow = stirred(name, (5,), context_features)
    needs_samples(flow)
    z, context = inputs(flow, 4)
    with_gradients = flow.decode(z, context, exact=True)
    with torch.no_grad():
        without = flow.decode(z, context, exact=True)
    for one, other in zip(with_gradients, without, strict=True):
        close(one, other, tolerance(flow))


@promise()
def integrates_to_one(name: str) -> None:
    """The density integrates to one over the plane."""
    # By less than elsewhere, so that the density is smooth on the scale of the grid.
    flow = stirred(name, (2,), scale=0.2)
    needs_density(flow)
    _, mass = grid(flow)
    expect(abs(mass.sum().item() - 1) < 5e-3, f"the integral is {mass.sum().item():.4f}")


@promise()
def samples_follow_the_density(name: str) -> None:
    """Samples have the mean and the second moments of the density."""
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
    off = ((measured.mean(0) - truth) / error).tolist()
    expect(
        all(abs(each) < 4.5 for each in off),
        "moments x, y, x^2, y^2, xy of samples are off by "
        + ", ".join(f"{each:.1f}" for each in off)
        + " standard errors",
    )


@promise(context_features=[0, 3])
def sample_decodes_latents_of_the_base(name: str, context_features: int) -> None:
    """A sample is the base's sample, decoded, with the density that follows from it."""
    flow = stirred(name, (5,), context_features)
    needs_samples(flow)
    _, context = inputs(flow, 6)
    with torch.no_grad():
        z = flow.base.sample(6, context, generator=generator(3))
        x, change = flow.decode(z, context, exact=True)
        samples = flow.sample(6, context, generator=generator(3))
        close(samples, x, tolerance(flow))
        if has_density(flow):
            truth = flow.base.log_prob(z, context) - change
            close(flow.log_prob(x, context, exact=True), truth, 10 * tolerance(flow))


@promise(
    dimension=[2, 6, 43, 63, 784], training=[True, False], slow=lambda case: case["dimension"] > 100
)
def fresh_flow_is_sane(name: str, dimension: int, training: bool) -> None:
    """Fresh, with the options that users get: finite densities, samples of usual size."""
    if dimension > 100 and getattr(flows.configure(name), "trace", None) == "exact":
        raise DoesNotApply("the exact trace of so many scalars takes an adaptive solver too long")
    flow = built(name, (dimension,)).train(training)
    rows = 4
    with torch.no_grad():
        if has_density(flow):
            x = 3 * torch.randn(rows, dimension, generator=generator())
            finite(flow.log_prob(x, generator=generator()), "a density")
        if has_samples(flow):
            samples = flow.sample(rows, generator=generator())
            expect(samples.shape == (rows, dimension), f"samples have shape {tuple(samples.shape)}")
            largest = samples.abs().max().item()
            expect(largest < 1e3, f"the largest number of a sample is {largest:.3g}")


@promise(rows=[1, 2])
def small_batches(name: str, rows: int) -> None:
    """One row is enough, in training and afterwards."""
    flow = stirred(name, (5,))
    x, _ = inputs(flow, rows)
    flow.train()
    with torch.no_grad():
        if has_density(flow):
            finite(flow.log_prob(x, generator=generator()), "a density")
        flow.eval()
        if has_samples(flow):
            finite(flow.sample(rows, generator=generator()), "a sample")


@promise(event_shape=[(5,), (1, 8, 8)], training=[True, False], context_features=[0, 3])
def no_rows_give_no_rows(
    name: str, event_shape: tuple[int, ...], context_features: int, training: bool
) -> None:
    """No rows give no rows, no gradient, no count and no change of state."""
    flow = built(name, event_shape, context_features, **smaller(name)).train(training)
    before = copy.deepcopy(flow.state_dict())
    x, context = inputs(flow, 0)
    with Meter() as meter:
        if has_density(flow):
            for exact in (True, False):
                density = flow.log_prob(x, context, exact=exact)
                expect(density.shape == (0,), f"densities have shape {tuple(density.shape)}")
                z, log_abs_det = flow.encode(x, context, exact=exact)
                expect(z.shape == x.shape, f"latents have shape {tuple(z.shape)}")
                expect(log_abs_det.shape == (0,), "the log-determinant has rows")
            flow.log_prob(x, context).sum().backward()
            gradients = [parameter.grad for parameter in flow.parameters()]
            zero = all(g is not None and not g.any() for g in gradients)
            expect(zero, "a gradient is not zero")
        else:
            with refuses(NotInvertible, "", "log_prob"):
                flow.log_prob(x, context)
        if has_samples(flow):
            expect(flow.sample(0, context).shape == x.shape, "there are samples")
            expect(flow.decode(x, context)[1].shape == (0,), "decode has rows")
    counted = (meter.forward, meter.backward)
    expect(counted == (0, 0), f"evaluations forward and backward: {counted}")
    for key, value in flow.state_dict().items():
        expect(torch.equal(value, before[key]), f"{key} has changed")


@promise()
def initialization_stays_finite_on_poor_batches(name: str) -> None:
    """Initialised on one row, or with a constant feature, it stays finite."""
    flow = fresh(name, (5,))
    needs_density(flow)
    x = torch.randn(20, 5, generator=generator())
    x[:, 2] = 7.0
    for batch in (x[:1], x):
        again = copy.deepcopy(flow)
        again.initialize(batch)
        with torch.no_grad():
            density = again.log_prob(x, generator=generator())
            finite(density, f"after a batch of {len(batch)} a density")


@promise()
def initialization_checks_its_batch(name: str) -> None:
    """The batch that initialises is checked like any input."""
    flow = fresh(name, (5,))
    with refuses(InputError, "batch must have shape", "a batch of other width"):
        flow.initialize(torch.zeros(3, 4))


@promise(event_shape=SOME)
def state_dict_restores_a_flow(name: str, event_shape: tuple[int, ...]) -> None:
    """The state dict restores everything that the density depends on."""
    flow = stirred(name, event_shape)
    torch.manual_seed(99)
    other = flows.build(name, event_shape, **smaller(name)).double().eval()
    expect(not torch.equal(output(other), output(flow)), "two flows are equal before")
    other.load_state_dict(flow.state_dict())
    close(output(other), output(flow))


@promise(event_shape=SOME)
def copies_are_equal_and_independent(name: str, event_shape: tuple[int, ...]) -> None:
    """Copies and pickles are equal, and independent of the original."""
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
        close(output(made), expected)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.zero_()
        close(output(flow), expected)


@promise(event_shape=SOME)
def functional_call(name: str, event_shape: tuple[int, ...]) -> None:
    """Parameters that are handed in are the ones that count."""
    flow = stirred(name, event_shape)
    needs_density(flow)
    x, _ = inputs(flow, 4)
    other = {key: value + 0.01 for key, value in flow.named_parameters()}
    called = torch.func.functional_call(flow, other, (x,), {"exact": True})
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.01)
    close(called, flow(x, exact=True), 1e-9)


@promise(event_shape=SOME, context_features=[0, 3])
def gradients_reach_every_parameter(
    name: str, event_shape: tuple[int, ...], context_features: int
) -> None:
    """The loss has a finite gradient, not zero, for every parameter."""
    flow = stirred(name, event_shape, context_features)
    # In training batch norm takes away a shift before it, whose gradient then is rounding alone.
    flow.train(not flow.keeps_statistics)
    x, context = inputs(flow, 8)
    if has_density(flow):
        flow.log_prob(x, context, generator=generator()).sum().backward()
    else:
        value, change = flow.decode(x, context)
        (value.square().flatten(1).sum(1) + change).sum().backward()
    for key, parameter in flow.named_parameters():
        has_gradient(key, parameter)


@promise()
def gradients_reach_every_parameter_through_samples(name: str) -> None:
    """So have samples, the base apart."""
    flow = stirred(name, (5,))
    needs_samples(flow)
    z, _ = inputs(flow, 8)
    value, change = flow.decode(z, exact=True)
    (value.square().sum(1) + change).sum().backward()
    for key, parameter in flow.named_parameters():
        if not key.startswith("base."):
            has_gradient(key, parameter)


@promise(event_shape=SOME, context_features=[0, 3])
def no_tensor_is_left_behind(
    name: str, event_shape: tuple[int, ...], context_features: int
) -> None:
    """No tensor stays behind when it is moved to another device."""
    flow = fresh(name, event_shape, context_features)
    if integrates(flow):
        raise DoesNotApply("an adaptive solver looks at the values, which the meta device has not")
    flow.to("meta")
    x = torch.empty(4, *event_shape, device="meta")
    context = torch.empty(4, context_features, device="meta") if context_features else None
    if has_density(flow):
        density = flow.log_prob(x, context)
        expect(density.shape == (4,), f"densities have shape {tuple(density.shape)}")
        expect(density.device.type == "meta", f"densities are on {density.device}")
    if has_samples(flow):
        samples = flow.sample(4, context)
        expect(samples.shape == x.shape, f"samples have shape {tuple(samples.shape)}")
        expect(samples.device.type == "meta", f"samples are on {samples.device}")


@promise()
def conversion_leaves_no_other_float(name: str) -> None:
    """Converted to float64, all that floats is float64."""
    for flow in modelled(name, SOME):
        flow.double()
        for key, value in [*flow.named_parameters(), *flow.named_buffers()]:
            kept = value.is_floating_point() and value.dtype != torch.float64
            expect(not kept, f"{key} is {value.dtype}")


@promise(event_shape=SOME)
def evaluation_changes_no_state(name: str, event_shape: tuple[int, ...]) -> None:
    """Densities and samples change no state."""
    flow = stirred(name, event_shape)
    before = copy.deepcopy(flow.state_dict())
    output(flow)
    if has_samples(flow):
        flow.sample(3, generator=generator())
    for key, value in flow.state_dict().items():
        close(value, before[key])


@promise()
def randomness_is_explicit(name: str) -> None:
    """With a generator calls repeat, and torch's own generator stays where it was."""
    flow = stirred(name, (5,))
    x, _ = inputs(flow, 4)
    before = torch.get_rng_state()
    with torch.no_grad():
        if has_density(flow):
            first, second = (flow.log_prob(x, generator=generator(5)) for _ in range(2))
            expect(torch.equal(first, second), "densities of equal generators differ")
        if has_samples(flow):
            first, second = (flow.sample(4, generator=generator(5)) for _ in range(2))
            expect(torch.equal(first, second), "samples of equal generators differ")
            other = flow.sample(4, generator=generator(6))
            expect(not torch.equal(first, other), "samples do not depend on the generator")
    used = not torch.equal(before, torch.get_rng_state())
    expect(not used, "torch's own generator was used")


@promise()
def torch_is_left_as_it_was(name: str) -> None:
    """No setting of torch's is changed."""

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
    if has_samples(flow):
        flow.sample(2)
    expect(switches() == before, f"settings were {before}, are {switches()}")


@promise()
def wrong_inputs_are_answered(name: str) -> None:
    """Wrong shapes, dtypes, devices and contexts are refused, with what to do."""
    flow = fresh(name, (5,))
    for call in (flow.encode, flow.decode, flow.log_prob):
        with refuses(InputError, r"must have shape \(n, 5\)", "another width"):
            call(torch.zeros(3, 4))
        with refuses(InputError, "convert one of them", "another dtype"):
            call(torch.zeros(3, 5, dtype=torch.float64))
        with refuses(InputError, "move one of them", "another device"):
            call(torch.zeros(3, 5, device="meta"))
        with refuses(InputError, "without context_features", "a context"):
            call(torch.zeros(3, 5), torch.zeros(3, 2))
    with refuses(InputError, "without context_features", "a context for samples"):
        flow.sample(3, torch.zeros(3, 2))
    with refuses(InputError, "event_shape", "an event without dimensions"):
        flows.build(name, ())
    with refuses(InputError, "event_shape", "an event of no numbers"):
        flows.build(name, (0,))


@promise()
def missing_context_is_answered(name: str) -> None:
    """A conditional flow says so where the context is missing or wrong."""
    flow = fresh(name, (5,), 3)
    for call in (flow.encode, flow.decode, flow.log_prob):
        with refuses(InputError, "is conditional", "a call without context"):
            call(torch.zeros(4, 5))
        with refuses(InputError, "context must have shape", "a context of other width"):
            call(torch.zeros(4, 5), torch.zeros(4, 2))
    with refuses(InputError, "is conditional", "samples without context"):
        flow.sample(4)


@promise(event_shape=SOME)
def context_changes_every_number(name: str, event_shape: tuple[int, ...]) -> None:
    """The context can move every number of an event."""
    flow = stirred(name, event_shape, 3, scale=1.0)
    needs_samples(flow)
    z, context = inputs(flow, 4)
    assert context is not None, "it was asked for"
    with torch.no_grad():
        one, _ = flow.decode(z, context)
        other, _ = flow.decode(z, context + 1)
    moved = (one - other).abs().amax(0) > 0
    expect(bool(moved.all()), f"{int((~moved).sum())} of {moved.numel()} numbers stay")


@promise()
def missing_directions_say_why(name: str) -> None:
    """A direction that there is not raises NotInvertible, with the reason."""
    flow = fresh(name, (5,))
    x = torch.zeros(2, 5)
    if not has_density(flow):
        for call in (flow.encode, flow.log_prob, flow):
            with refuses(NotInvertible, r"\w+ \w+ \w+", "the density"):
                call(x)
    if not has_samples(flow):
        with refuses(NotInvertible, r"\w+ \w+ \w+", "decode"):
            flow.decode(x)
        with refuses(NotInvertible, r"\w+ \w+ \w+", "sample"):
            flow.sample(2)


@promise(dimension=[2, 5])
def meter_counts_network_passes(name: str, dimension: int) -> None:
    """The meter counts the network evaluations that the traits promise."""
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
        expect(meter.backward == 0, f"{meter.backward} evaluations backward without gradients")
    if "D" in counts and "1" in counts:
        # The sequential direction goes over the features once and uses each weight once.
        expect(counts["D"] == counts["1"], f"counted are {counts}")
    elif len(counts) == 1 and "1" in counts:
        # Both directions (or the only one) in one pass: a pass is a network a layer.
        modules = sum(1 for _ in flow.modules())
        expect(counts["1"] <= modules, f"{counts['1']} evaluations of {modules} modules")


NARROW = 0.1


@promise(slow=True)
def learns_a_narrow_gaussian(name: str) -> None:
    """It learns N(0, 0.1^2 I) to within 0.05 nats: it can expand from data to latent."""
    options = smaller(name)
    if "atol" in options:
        # In two dimensions FFJORD too trains with the exact trace.
        options |= {"atol": 1e-4, "rtol": 1e-4, "trace": "exact"}
    if "layers" in options:
        # A coupling may expand one half by e at most.
        options["layers"] = 8
    flow = built(name, (2,), **options)
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
        reverse: Tensor = (flow.base.log_prob(z) - change - target).mean()
        return reverse

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
    expect(abs(gap.item()) < 0.05, f"the divergence is {gap.item():.3f} nats")
