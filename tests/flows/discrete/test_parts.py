"""The parts of discrete flows, one by one."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import flows
from flows.base import InputError
from flows.discrete.layers import transform
from flows.discrete.layers.autoregressive import MADE, Autoregressive, Inverse, MaskedLinear
from flows.discrete.layers.bases import MixtureMADE, StandardLogistic
from flows.discrete.layers.coupling import Couplings
from flows.discrete.layers.elementwise import LOG_SCALE_BOUND, Affine
from flows.discrete.layers.linear import LULinear
from flows.discrete.layers.norm import ActNorm, BatchNorm, MinMaxScale
from flows.discrete.layers.spline import RationalQuadratic
from flows.registry import ENTRIES


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_actnorm_standardises_its_first_batch() -> None:
    x = 3 * normal(4, 500) + 2
    layer = ActNorm(4).double()
    layer.initialize(x, None)
    z, _ = layer(x, None)
    torch.testing.assert_close(z.mean(1), torch.zeros(4).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(z.std(1, correction=0), torch.ones(4).double())


def test_min_max_scale_puts_its_first_batch_into_the_box() -> None:
    x = (3 * normal(4, 500) + 2).exp()
    x[1] = 5.0
    layer = MinMaxScale(4, bound=4.0, margin=1.25).double()
    assert not list(layer.parameters())
    torch.testing.assert_close(layer(x, None)[0], x)
    layer.initialize(x, None)
    z, log_abs_det = layer(x, None)
    varies = torch.tensor([True, False, True, True])
    torch.testing.assert_close(z.amax(1), torch.where(varies, 4 / 1.25, 0.0).double())
    torch.testing.assert_close(z.amin(1), torch.where(varies, -4 / 1.25, 0.0).double())
    # A feature that does not vary is centred, and keeps its scale.
    assert layer.log_scale[1] == 0
    back, there = layer.inverse(z, None)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(there, -log_abs_det)


def test_lu_starts_as_a_rotation() -> None:
    torch.manual_seed(0)
    weight, log_abs_det = LULinear(9).double()(torch.eye(9, dtype=torch.float64), None)
    # The factors were rounded to float32 on the way.
    torch.testing.assert_close(weight @ weight.T, torch.eye(9).double(), atol=1e-5, rtol=0)
    assert log_abs_det.item() == pytest.approx(0.0, abs=1e-5)


def test_batch_norm_normalises_in_training_and_keeps_averages() -> None:
    layer = BatchNorm(3, momentum=0.5).double()
    x = 2 * normal(3, 400) + 1
    z, _ = layer(x, None)
    torch.testing.assert_close(z.mean(1), torch.zeros(3).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(z.std(1, correction=0), torch.ones(3).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(layer.mean, 0.5 * x.mean(1))
    torch.testing.assert_close(layer.variance, 0.5 + 0.5 * x.var(1, correction=0))


@pytest.mark.parametrize("name", ["maf", "realnvp"])
@pytest.mark.parametrize("context_features", [0, 2])
def test_refreshed_statistics_are_those_of_the_training_set(
    name: str, context_features: int
) -> None:
    """In evaluation the training set then passes as one batch would in training mode."""
    torch.manual_seed(0)
    flow = flows.build(name, (5,), context_features, layers=3, batch_norm=True).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    x = 2 * normal(300, 5) + 1
    context = normal(300, 2, seed=1) if context_features else None
    with torch.no_grad():
        expected = flow.train().log_prob(x, context)
        assert flow.keeps_statistics
        flow.refresh_statistics(x, context)
        assert flow.training
        measured = flow.eval().log_prob(x, context)
    torch.testing.assert_close(measured, expected)


def test_flows_without_batch_norm_keep_no_statistics() -> None:
    flow = flows.build("maf", (3,))
    assert not flow.keeps_statistics
    with pytest.raises(InputError, match="data must have shape"):
        flow.refresh_statistics(torch.zeros(5, 4))


@pytest.mark.parametrize("shape", [(3, 25), (25, 3, 2, 2)], ids=["columns", "images"])
def test_chunks_are_put_together_in_order(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transform, "_CHUNK", {2: 10, 4: 10})
    x = normal(*shape)
    batch = 1 if x.ndim == 2 else 0
    context = normal(*((2, 25) if x.ndim == 2 else (25, 2)), seed=1)

    def function(part: Tensor, given: Tensor | None) -> Tensor:
        assert given is not None
        assert part.shape[batch] == given.shape[batch] <= 10
        first = given.select(1 - batch, 0)
        return part * (first if part.ndim == 2 else first[:, None, None, None])

    chunked = transform.in_chunks(function, x, context)
    expected = (
        torch.cat([function(x[:, k : k + 1], context[:, k : k + 1]) for k in range(25)], 1)
        if x.ndim == 2
        else torch.cat([function(x[k : k + 1], context[k : k + 1]) for k in range(25)])
    )
    torch.testing.assert_close(chunked, expected)


@pytest.mark.parametrize("bound", [0.5, 5.0])
@pytest.mark.parametrize("shift_first", [False, True])
def test_affine_expands_and_contracts_up_to_its_bound(bound: float, shift_first: bool) -> None:
    affine = Affine(bound, shift_first)
    raw = torch.tensor([-1e3, -0.1, 0.0, 0.1, 1e3], dtype=torch.float64)
    _, log_scale = affine.encode(torch.ones_like(raw), torch.stack((torch.zeros_like(raw), raw)))
    assert log_scale is not None
    truth = bound * torch.tanh(raw / bound)
    torch.testing.assert_close(log_scale, truth)
    assert log_scale[0] == -bound
    assert log_scale[-1] == bound


@pytest.mark.parametrize(
    ("name", "few"),
    [("maf", "layers"), ("iaf", "layers"), ("realnvp", "layers"), ("glow", "steps")],
)
def test_log_scales_are_bounded_whatever_a_conditioner_says(name: str, few: str) -> None:
    """Where a network extrapolates a layer stays invertible, and expands by e at most."""
    torch.manual_seed(0)
    flow = flows.build(name, (4,), **{few: 2}).double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    changes = []
    for layer in flow.get_submodule("transforms").children():
        if isinstance(layer, Autoregressive | Inverse | Couplings):
            x = 100 * normal(4, 500)
            with torch.no_grad():
                z, change = layer(x, None)
                back, there = layer.inverse(z, None)
            torch.testing.assert_close(back, x, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(there, -change)
            # Of four features; a coupling has two, of which there are two in one layer or one.
            features = 2 * len(layer.networks) if isinstance(layer, Couplings) else 4
            assert change.abs().max() <= features * LOG_SCALE_BOUND + 1e-9
            changes.append(change.abs().max() / features)
    # The bound is all but reached, or the test says nothing.
    assert max(changes) > 0.75 * LOG_SCALE_BOUND


@pytest.mark.parametrize(
    "name", ["made", "maf-5", "maf-10", "maf-mog-5", "realnvp-5", "realnvp-10"]
)
def test_settings_of_the_papers_have_next_to_no_bound(name: str) -> None:
    assert flows.configure(name).model_dump()["log_scale_bound"] == 5.0
    assert (
        flows.configure(name.split("-")[0].replace("made", "maf")).model_dump()["log_scale_bound"]
        == LOG_SCALE_BOUND
    )


@pytest.mark.parametrize("shift_first", [False, True])
def test_derivatives_of_an_affine_are_right_to_second_order(shift_first: bool) -> None:
    affine = Affine(1.5, shift_first)
    x = normal(2, 3).double().requires_grad_()
    parameters = normal(2, 2, 3, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(affine.encode, (x, parameters))
    assert torch.autograd.gradgradcheck(affine.encode, (x, parameters))
    # Where only one of the results is asked for.
    assert torch.autograd.gradcheck(lambda *given: affine.encode(*given)[0], (x, parameters))
    assert torch.autograd.gradcheck(lambda *given: affine.encode(*given)[1], (x, parameters))


@pytest.mark.parametrize("shift_first", [False, True])
def test_an_affine_decodes_what_it_encoded(shift_first: bool) -> None:
    affine = Affine(5.0, shift_first)
    x, parameters = normal(4, 50).double(), 9 * normal(2, 4, 50, seed=1).double()
    z, change = affine.encode(x, parameters)
    back, change_back = affine.decode(z, parameters)
    torch.testing.assert_close(back, x)
    assert change is not None
    assert change_back is not None
    torch.testing.assert_close(change_back, -change)
    with torch.no_grad():
        torch.testing.assert_close(affine.encode(x, parameters), (z, change))


# -- masked autoregressive conditioners -----------------------------------------------------------


def made(dimension: int, *, reverse: bool, residual: bool = False, context: int = 0) -> MADE:
    torch.manual_seed(0)
    hidden = (20,) * 5 if residual else (20, 30)
    network = MADE(dimension, context, hidden, 2, "tanh", reverse, residual).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return network


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dimension", [1, 2, 5, 33])
def test_parameters_see_all_features_before_and_no_others(
    dimension: int, reverse: bool, residual: bool
) -> None:
    network = made(dimension, reverse=reverse, residual=residual)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: network(x.unsqueeze(1), None).squeeze(2), normal(dimension)
    )
    seen = (jacobian != 0).any(0)
    order = torch.arange(dimension).flip(0) if reverse else torch.arange(dimension)
    allowed = order[:, None] > order
    if dimension <= 20:
        # With at least a unit of each degree.
        assert torch.equal(seen, allowed)
    assert not (seen & ~allowed).any()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("dimension", [1, 6, 33])
def test_sweep_is_the_naive_inverse(
    dimension: int, context: int, reverse: bool, residual: bool
) -> None:
    """D passes through the whole network, each fixing one feature more, give the same."""
    layer = Autoregressive(
        made(dimension, reverse=reverse, residual=residual, context=context),
        Affine(3.0, shift_first=True),
    )
    z = normal(dimension, 7)
    given = normal(context, 7, seed=1) if context else None
    naive = torch.zeros_like(z)
    with torch.no_grad():
        for _ in range(dimension):
            naive, change = layer.elementwise.decode(z, layer.made(naive, given))
        assert change is not None
        x, log_abs_det = layer.inverse(z, given)
    torch.testing.assert_close(x, naive)
    torch.testing.assert_close(log_abs_det, change.sum(0))


def test_first_feature_depends_on_the_context() -> None:
    network = made(4, reverse=False, context=2)
    x = torch.zeros(4, 1, dtype=torch.float64)
    one = network(x, torch.tensor([[0.0], [0.0]], dtype=torch.float64))
    other = network(x, torch.tensor([[1.0], [0.0]], dtype=torch.float64))
    assert ((one - other)[:, 0].abs() > 0).all()


def test_made_without_hidden_layers_is_refused() -> None:
    with pytest.raises(InputError, match="at least one hidden layer"):
        flows.build("maf", (3,), hidden=())


# -- splines --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [1.0, 3.0, 64.0])
def test_spline_is_finite_and_continuous_at_its_ends(bound: float) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        spline = RationalQuadratic(8, bound)
        ends = torch.tensor([-bound, bound], dtype=dtype)
        parameters = (3 * normal(spline.parameter_count, 2)).to(dtype)
        for direction in (spline.encode, spline.decode):
            value, change = direction(ends, parameters)
            assert change is not None
            assert change.isfinite().all()
            torch.testing.assert_close(value, ends, rtol=2e-2, atol=0)


def test_spline_is_monotonic_and_inverted_with_extreme_parameters() -> None:
    spline = RationalQuadratic(8, 3.0)
    parameters = (20 * normal(spline.parameter_count, 1)).expand(-1, 4001)
    x = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    z, change = spline.encode(x, parameters)
    assert (z.diff() > 0).all()
    back, there = spline.decode(z, parameters)
    assert change is not None
    assert there is not None
    torch.testing.assert_close(back, x, atol=1e-6, rtol=0)
    torch.testing.assert_close(there, -change, atol=1e-4, rtol=1e-4)


SPLINES = ["rqnsf-c", "rqnsf-ar"]


def skewed(n: int = 500) -> Tensor:
    """Data of unlike positions and scales, with a long tail."""
    return torch.stack((100 + normal(n), 1e-3 * normal(n, seed=1), normal(n, seed=2).exp()), 1)


def stirred_spline(name: str, context_features: int = 0, **options: Any) -> flows.Flow:
    torch.manual_seed(0)
    flow = flows.build(name, (3,), context_features, layers=4, hidden=(16,), **options).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return flow


@pytest.mark.parametrize("name", SPLINES)
@pytest.mark.parametrize("context_features", [0, 2])
def test_the_box_follows_the_data(name: str, context_features: int) -> None:
    """And what is inside stays inside, whatever the weights become."""
    x = skewed()
    context = normal(len(x), 2, seed=3) if context_features else None
    flow = stirred_spline(name, context_features)
    # Before it has seen data the box is about zero.
    assert flow.outside_fraction(x, context) == 1.0
    flow.initialize(x, context)
    assert flow.outside_fraction(x, context) == 0.0
    with torch.no_grad():
        z, change = flow.encode(x, context)
        back, there = flow.decode(z, context)
        torch.testing.assert_close(back, x, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(there, -change, atol=1e-5, rtol=1e-5)
        for parameter in flow.parameters():
            parameter += torch.randn_like(parameter)
    assert flow.outside_fraction(x, context) == 0.0


@pytest.mark.parametrize("name", SPLINES)
def test_the_box_is_part_of_a_flows_state(name: str) -> None:
    """A flow that was initialised on other data has the box of the weights that it loads."""
    x = skewed()
    flow, other = stirred_spline(name), stirred_spline(name)
    flow.initialize(x)
    expected = flow.log_prob(x)
    other.initialize(normal(50, 3))
    assert other.outside_fraction(x) == 1.0
    other.load_state_dict(flow.state_dict())
    for made in (other, copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        torch.testing.assert_close(made.log_prob(x), expected, atol=0, rtol=0)
        assert made.outside_fraction(x) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("name", SPLINES)
def test_splines_learn_a_checkerboard_with_their_own_options(name: str) -> None:
    """Uniform on eight squares of side 2 in [-4, 4]^2, 44 % of which a box of 3 would miss."""
    random = torch.Generator().manual_seed(0)

    def draw(n: int) -> Tensor:
        column, row = torch.randint(4, (2, n), generator=random)
        corner = torch.stack((2 * column, 4 * (row // 2) + 2 * (column % 2)), 1) - 4.0
        return corner + 2 * torch.rand(n, 2, generator=random)

    torch.manual_seed(0)
    flow = flows.build(name, (2,))
    flow.initialize(draw(256))
    x = draw(10_000)
    assert flow.outside_fraction(x) == 0.0
    steps = 300
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        flow.loss(draw(256)).backward()
        optimizer.step()
        schedule.step()
    # The Gaussian of the same variance, 16 / 3 a coordinate, is left with 1.05 nats.
    gaussian = math.log(2 * math.pi * math.e * 16 / 3) - math.log(32)
    with torch.no_grad():
        divergence = -flow.log_prob(x).mean().item() - math.log(32)
    assert 0 < divergence < 0.3 * gaussian


@pytest.mark.parametrize("name", SPLINES)
@pytest.mark.parametrize("linear", [False, True])
def test_a_given_box_knows_nothing_of_the_data(name: str, linear: bool) -> None:
    flow = stirred_spline(name, tail_bound=2.5, linear=linear)
    x = normal(400, 3)
    before = flow.log_prob(x)
    flow.initialize(9 * x)
    torch.testing.assert_close(flow.log_prob(x), before, atol=0, rtol=0)
    outside = (x.abs() > 2.5).any(1).double().mean().item()
    assert 0 < outside < 0.1
    if not linear:
        assert flow.outside_fraction(x) == outside


@pytest.mark.parametrize("name", SPLINES)
def test_with_linear_maps_each_layer_has_its_box(name: str) -> None:
    x = skewed()
    flow = stirred_spline(name, linear=True)
    flow.initialize(x)
    assert flow.outside_fraction(x) == 0.0


def test_presets_of_the_paper_keep_its_box() -> None:
    presets = [name for name in ENTRIES if name.startswith("rqnsf-") and name.count("-") == 2]
    assert len(presets) == 10
    for name in presets:
        config = flows.configure(name)
        assert getattr(config, "tail_bound", None) == 3.0
        assert not any(isinstance(m, MinMaxScale) for m in config.build((6,)).modules())


def test_outside_counts_the_features_that_a_layer_transforms() -> None:
    x = torch.tensor([[9.0, 0.0], [0.0, 9.0], [0.0, 0.0], [-9.0, -9.0]])
    # One coupling transforms the feature of odd index alone.
    assert flows.build("rqnsf-c", (2,), layers=1).outside_fraction(x) == 0.5
    assert flows.build("rqnsf-c", (2,), layers=2).outside_fraction(x) == 0.75
    inverse = flows.build("iaf", (2,), transformer="rational-quadratic")
    assert inverse.outside_fraction(x) == 0.75
    for name in ("maf", "realnvp", "glow", "planar", "realnvp-5"):
        assert flows.build(name, (2,)).outside_fraction(x) is None
    with pytest.raises(InputError, match="no rows"):
        inverse.outside_fraction(x[:0])
    with pytest.raises(InputError, match="x must have shape"):
        inverse.outside_fraction(torch.zeros(3, 4))


def test_spline_whose_bins_do_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="do not fit"):
        flows.build("rqnsf-c", (4,), bins=1000)


def test_residual_conditioner_has_one_width() -> None:
    with pytest.raises(InputError, match="one width"):
        flows.build("rqnsf-ar", (4,), residual_blocks=2, hidden=(16, 16))


@pytest.mark.parametrize("name", ["rqnsf-c", "rqnsf-ar"])
def test_residual_conditioners_with_linear_maps_invert(name: str) -> None:
    torch.manual_seed(0)
    flow = flows.build(
        name, (5,), 2, layers=2, hidden=(16,), residual_blocks=2, linear=True, dropout=0.2
    )
    flow.double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        x, context = normal(6, 5), normal(6, 2, seed=1)
        z, change = flow.encode(x, context)
        back, there = flow.decode(z, context)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=0)
    torch.testing.assert_close(there, -change, atol=1e-8, rtol=0)


@pytest.fixture(params=["rqnsf-c", "rqnsf-ar"])
def dropping(request: pytest.FixtureRequest) -> flows.Flow:
    """A flow in training whose units are dropped, and make a difference."""
    torch.manual_seed(0)
    flow = flows.build(
        request.param, (4,), layers=2, hidden=(16,), residual_blocks=1, dropout=0.3, tail_bound=3.0
    )
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return flow.train()


def test_dropout_draws_from_the_generator_handed_in(dropping: flows.Flow) -> None:
    x = normal(30, 4).float()
    source = torch.Generator().manual_seed(3)
    start = source.get_state()
    for call in (dropping.loss, dropping.log_prob, dropping.encode, dropping.decode):
        source.set_state(start)
        before = torch.get_rng_state()
        first = call(x, generator=source)
        # torch's own generator stays where it was, and the one handed in moves on.
        assert torch.equal(torch.get_rng_state(), before)
        other = call(x, generator=source)
        again = call(x, generator=torch.Generator().manual_seed(3))
        if isinstance(first, tuple):
            first, other, again = first[0], other[0], again[0]
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    samples = [dropping.sample(5, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*samples)


def test_dropout_without_a_generator_draws_from_torchs_own(dropping: flows.Flow) -> None:
    x = normal(30, 4).float()
    torch.manual_seed(1)
    first, other = dropping.loss(x), dropping.loss(x)
    torch.manual_seed(1)
    assert torch.equal(dropping.loss(x), first)
    assert not torch.equal(first, other)


def test_initialisation_drops_nothing(dropping: flows.Flow) -> None:
    before = torch.get_rng_state()
    dropping.initialize(normal(30, 4).float())
    assert torch.equal(torch.get_rng_state(), before)
    assert dropping.training


@pytest.mark.slow
def test_a_compiled_loss_drops_by_the_generator_handed_in(dropping: flows.Flow) -> None:
    torch._dynamo.reset()
    loss, x = dropping.compiled_loss(), normal(30, 4).float()
    losses = [loss(x, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


# -- bases ----------------------------------------------------------------------------------------


def test_logistic_base_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    z = 5 * normal(20, 3)
    expected = stats.logistic.logpdf(z.numpy()).sum(1)
    base = StandardLogistic((3,)).double()
    torch.testing.assert_close(base.log_prob(z), torch.from_numpy(expected))
    samples = base.sample(20_000, generator=torch.Generator().manual_seed(0))
    assert stats.kstest(samples[:, 0].numpy(), "logistic").pvalue > 1e-3


def test_mixture_base_is_a_mixture() -> None:
    """A feature that sees nothing has torch's mixture density of its bias."""
    torch.manual_seed(0)
    components = 4
    network = MADE(1, 0, (8,), MixtureMADE.parameter_count(components), "relu")
    base = MixtureMADE(network, (1,), components).double()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
        z = normal(50, 1)
        parameters = network(z[:1].T, None).flatten(0, 1).T + base.start.flatten()
        logits, means, raw = parameters[0].unflatten(0, (3, components)).unbind(0)
        truth = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(logits=logits),
            torch.distributions.Normal(means, (5 * torch.tanh(raw / 5)).exp()),
        )
        torch.testing.assert_close(base.log_prob(z), truth.log_prob(z[:, 0]))


def test_fresh_mixture_base_has_about_unit_variance() -> None:
    flow = flows.build("maf-mog", (3,), layers=1)
    with torch.no_grad():
        samples = flow.sample(20_000, generator=torch.Generator().manual_seed(0))
    assert samples.mean(0).abs().max() < 0.03
    assert (samples.var(0) - 1).abs().max() < 0.05


# -- low rank -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["planar", "radial", "sylvester"])
def test_low_rank_layers_are_one_to_one_whatever_their_parameters(name: str) -> None:
    """On a line through the space the Jacobian's determinant never changes its sign."""
    torch.manual_seed(0)
    flow = flows.build(name, (2,), layers=1).double()
    for _ in range(20):
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.copy_(5 * torch.randn_like(parameter))
        z = torch.linspace(-10, 10, 200, dtype=torch.float64)[:, None] * normal(1, 2)
        jacobians = torch.func.vmap(
            torch.func.jacrev(lambda value: flow.decode(value.unsqueeze(0))[0].squeeze(0))
        )(z)
        assert (torch.linalg.det(jacobians) > -1e-9).all()


def test_nice_keeps_the_volume_but_for_the_scale() -> None:
    torch.manual_seed(0)
    flow = flows.build("nice", (6,)).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        _, change = flow.encode(normal(10, 6))
    scales = dict(flow.named_parameters())["transforms.1.log_scale"]
    torch.testing.assert_close(change, scales.sum().expand(10))
    assert math.isfinite(change[0].item())


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("context", [0, 2])
def test_a_wide_mades_stairs_hold_all_that_is_free(reverse: bool, context: int) -> None:
    made = MADE(20, context, (512, 512), 2, "relu", reverse=reverse)
    for layer in (*made.hidden, made.last):
        assert isinstance(layer, MaskedLinear)
        covered = torch.zeros_like(layer.mask)
        for start, stop, width in layer.stairs:
            covered[start:stop, :width] = 1
        assert not (layer.mask > covered).any()
    wide = made.hidden[1]
    assert isinstance(wide, MaskedLinear)
    assert sum((stop - start) * width for start, stop, width in wide.stairs) < 0.65 * 512**2
