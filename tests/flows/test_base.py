"""What all flows share: base densities, checks, the catalog, configs and the meter."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import flows
from flows import Flow, InputError, Meter, StandardNormal, VectorFlow
from flows.base import draw_normal, global_noise_from
from flows.meter import tick
from flows.registry import ENTRIES, configure, entry


@pytest.mark.parametrize("event_shape", [(1,), (5,), (3, 4, 4)])
def test_standard_normal_is_torchs(event_shape: tuple[int, ...]) -> None:
    base = StandardNormal(event_shape).double()
    z = 2 * torch.randn(7, *event_shape, dtype=torch.float64)
    truth = torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(base.log_prob(z), truth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_standard_normal_draws_with_the_flows_dtype(dtype: torch.dtype) -> None:
    base = StandardNormal((3,)).to(dtype)
    samples = base.sample(20_000, generator=torch.Generator().manual_seed(0))
    assert samples.dtype == dtype
    assert samples.mean(0).abs().max() < 0.03
    assert (samples.std(0) - 1).abs().max() < 0.02


def test_noise_repeats_with_its_generator() -> None:
    like = torch.zeros((), dtype=torch.float64)
    one, other = (
        draw_normal((4,), like=like, generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert torch.equal(one, other)
    assert one.dtype == torch.float64


def test_forward_is_log_prob() -> None:
    flow = flows.build("realnvp", (3,))
    x = torch.randn(4, 3)
    assert torch.equal(flow(x), flow.log_prob(x))


def test_loss_is_the_mean_negative_log_density() -> None:
    flow = flows.build("realnvp", (3,))
    x = torch.randn(4, 3)
    torch.testing.assert_close(flow.loss(x), -flow.log_prob(x).mean())


def test_images_are_flattened_and_restored() -> None:
    flow = flows.build("maf", (2, 3, 3))
    assert isinstance(flow, VectorFlow)
    assert flow.dimension == 18
    z, change = flow.encode(torch.ones(4, 2, 3, 3))
    # A fresh MAF is the identity.
    assert torch.equal(z, torch.ones(4, 2, 3, 3))
    assert torch.equal(change, torch.zeros(4))


def test_parameter_count_is_of_what_is_trained() -> None:
    flow = flows.build("realnvp", (4,), layers=2, hidden=(8,))
    # Two conditioners 2-8-4.
    assert flow.parameter_count == 2 * (2 * 8 + 8 + 8 * 4 + 4)
    next(flow.parameters()).requires_grad_(False)
    assert flow.parameter_count == 2 * (2 * 8 + 8 + 8 * 4 + 4) - 16


def test_exact_flows_have_no_estimates_to_draw() -> None:
    flow = flows.build("maf", (3,))
    with pytest.raises(NotImplementedError, match="exact density"):
        flow.trace_estimates(torch.zeros(2, 3), draws=3)


@pytest.mark.parametrize("event_shape", [(), (0,), (3, -1)])
def test_empty_events_are_refused(event_shape: tuple[int, ...]) -> None:
    class Plain(VectorFlow):
        """A flow without layers."""

        def _encode_vector(self, x, context, *, exact, generator):  # type: ignore[no-untyped-def]
            return x, x.new_zeros(len(x))

        _decode_vector = _encode_vector

    with pytest.raises(InputError, match="positive"):
        Plain(event_shape)
    assert Plain((2,)).log_prob(torch.zeros(1, 2)).item() == pytest.approx(-math.log(2 * math.pi))


@pytest.mark.parametrize("name", ["maf", "ffjord", "glow-image", "planar"])
def test_a_number_of_features_is_answered_with_the_tuple_to_write(name: str) -> None:
    with pytest.raises(InputError, match=r"write \(6,\), not 6"):
        flows.build(name, 6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given", [np.zeros((3, 2), np.float32), [[0.0, 0.0]]], ids=["array", "list"]
)
def test_what_is_no_tensor_is_answered_with_what_to_do(given: Any) -> None:
    flow = flows.build("realnvp", (2,))
    kind = type(given).__name__
    for call, name in (
        (flow.log_prob, "x"),
        (flow.loss, "x"),
        (flow.encode, "x"),
        (flow.decode, "z"),
        (flow.initialize, "batch"),
    ):
        message = (
            f"{name} is a {kind}, not a tensor: .*torch.as_tensor\\({name}, dtype=torch.float32"
        )
        with pytest.raises(InputError, match=message):
            call(given)
    conditional = flows.build("realnvp", (2,), context_features=2)
    for call in (
        lambda: conditional.sample(3, given),
        lambda: conditional.log_prob(torch.zeros(3, 2), given),
    ):
        with pytest.raises(InputError, match=rf"context is a {kind}, .*torch.as_tensor\(context"):
            call()


@pytest.mark.parametrize("name", ["realnvp", "planar", "iaf"])
def test_samples_carry_a_graph_only_where_asked(name: str) -> None:
    torch.manual_seed(0)
    flow = flows.build(name, (2,))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    one = flow.sample(4, generator=torch.Generator().manual_seed(1))
    other = flow.rsample(4, generator=torch.Generator().manual_seed(1))
    assert not one.requires_grad
    torch.testing.assert_close(one, other.detach())
    other.square().sum().backward()
    assert all(parameter.grad is not None for parameter in flow.parameters())


def test_a_flow_is_shown_in_a_line() -> None:
    flow = flows.build("maf", (4,), layers=1, hidden=(8,))
    # A conditioner 4-8-8 with its biases.
    assert repr(flow) == "<flow maf: event shape (4,), 112 parameters, torch.float32 on cpu>"
    # One that no entry was built from goes by its class.
    assert repr(flows.configure("planar").build((2,))).startswith("<flow LowRankFlow: ")


@pytest.mark.parametrize("kind", ["global", "other"])
def test_a_generator_stands_in_for_the_global_one(kind: str) -> None:
    torch.manual_seed(0)
    source = torch.default_generator if kind == "global" else torch.Generator().manual_seed(0)
    before = torch.get_rng_state()
    with global_noise_from(source, torch.device("cpu")):
        drawn = torch.rand(3)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(0)))
    # It moves on, by what was drawn.
    assert torch.equal(torch.get_rng_state(), before) == (kind == "other")
    after = torch.Generator().manual_seed(0)
    torch.rand(3, generator=after)
    assert torch.equal(source.get_state(), after.get_state())


@pytest.mark.parametrize("options", [{"layer": 3}, {"layers": "3"}, {"layers": 0}, {"hidden": [0]}])
def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        configure("maf", options)


def test_configs_are_values() -> None:
    one, other = configure("maf", {"hidden": [8, 8]}), configure("maf", {"hidden": (8, 8)})
    assert one == other
    assert hash(one) == hash(other)
    with pytest.raises(ValidationError, match="frozen"):
        one.layers = 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_say_what_they_are(name: str) -> None:
    found = entry(name)
    assert found.name == name
    assert found.summary
    assert found.source
    assert configure(name)


def test_meters_nest_and_see_other_threads() -> None:
    with Meter() as outer:
        tick()
        with Meter() as inner:
            thread = threading.Thread(target=tick, args=(5,))
            thread.start()
            thread.join()
    tick()
    assert (outer.forward, inner.forward) == (6, 5)
    assert repr(outer) == "Meter(forward=6, backward=0)"


def test_meter_tells_the_backward_pass_apart() -> None:
    class Twice(torch.autograd.Function):
        """Ticks once forward and three times backward."""

        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            tick()
            return 2 * x

        @staticmethod
        def backward(ctx, gradient):  # type: ignore[no-untyped-def]
            tick(3)
            return 2 * gradient

    x = torch.ones((), requires_grad=True)
    with Meter() as meter:
        Twice.apply(x).backward()
    assert (meter.forward, meter.backward) == (1, 3)
    assert x.grad is not None
    assert x.grad.item() == 2


def test_every_entry_builds_a_flow() -> None:
    """A cheap one of each kind; the battery has them all."""
    for name, event_shape in [("realnvp", (2,)), ("glow-image", (1, 4, 4)), ("planar", (2,))]:
        assert isinstance(flows.build(name, event_shape), Flow)


def test_a_compiled_loss_draws_from_the_generator_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise of dropout, which a graph draws from torch's own; tracing is not the point."""
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)
    torch.manual_seed(0)
    flow = flows.build("rqnsf-c", (4,), hidden=(16,), residual_blocks=1, dropout=0.5)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    loss = flow.compiled_loss()
    x = torch.randn(16, 4)
    given = torch.Generator().manual_seed(1)
    before = torch.random.get_rng_state()
    first, second = loss(x, generator=given), loss(x, generator=given)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(loss(x, generator=torch.Generator().manual_seed(1)), first)
    assert not torch.equal(first, second)
