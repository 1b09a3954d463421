"""The options of continuous flows: regularisers, norms, probes, end times, errors, presets."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, get_args

import pydantic
import pytest
import torch
from torch import Tensor, nn

import flows
from flows.continuous.errors import (
    CostWarning,
    DynamicsShapeError,
    StepUnderflow,
    ToleranceTooTight,
    TooManyEvaluations,
)
from flows.continuous.ffjord import FFJORD, FFJORDConfig
from flows.continuous.moving_norm import MovingBatchNorm
from flows.continuous.ode.autograd import AutogradEvaluator
from flows.continuous.ode.dense import DenseEvaluator
from flows.continuous.ode.dynamics import LAYERS, Activation, DenseDynamics
from flows.continuous.ode.field import Field
from flows.continuous.ode.gradient import integrate
from flows.continuous.ode.settings import Settings


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


TIGHT: dict[str, Any] = {"atol": 1e-10, "rtol": 1e-10}


def make(dimension: int = 3, context_features: int = 0, **options: Any) -> FFJORD:
    config = FFJORDConfig.model_validate({"hidden": (8,), **TIGHT, **options})
    return FFJORD((dimension,), context_features, config)


OPTIONS = pytest.mark.parametrize(
    "options",
    [
        {},
        {"bottleneck": 2},
        {"trace": "exact"},
        {"probes": 3, "residual": True, "learned_end_time": True},
    ],
    ids=str,
)


def results(flow: FFJORD) -> list[Tensor]:
    """Log-densities and every gradient, for inputs that depend on nothing."""
    x = torch.randn(5, 2, generator=generator(1)).requires_grad_(True)
    context = torch.randn(5, 2, generator=generator(2)).requires_grad_(True)
    log_prob = flow.log_prob(x, context, generator=generator(3))
    log_prob.sum().backward()
    found = [log_prob, x.grad, context.grad, *(p.grad for p in flow.parameters())]
    assert all(tensor is not None for tensor in found)
    return [tensor for tensor in found if tensor is not None]


class Wrapped(nn.Module):
    """Dynamics in disguise, so that autograd has to differentiate them."""

    def __init__(self, inner: DenseDynamics) -> None:
        super().__init__()
        self.inner = inner
        self.bottleneck, self.residual = inner.bottleneck, inner.residual
        self.narrow, self.widen = inner.narrow, inner.widen

    def forward(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        result: Tensor = self.inner(t, z, context)
        return result


@pytest.mark.parametrize("layers", list(LAYERS))
@pytest.mark.parametrize("activation", get_args(Activation))
@OPTIONS
def test_products_by_hand_are_those_of_autograd(
    layers: str, activation: str, options: dict[str, Any]
) -> None:
    """The same steps, differentiated by hand and by autograd: the same numbers to rounding."""
    options = {"layers": layers, "activation": activation, "hidden": (6, 5), **options}
    options |= {"end_time": 0.4, "solver": "rk4", "steps": 2}
    flow = make(2, 2, **options)
    other = copy.deepcopy(flow)
    other.blocks[0].dynamics = Wrapped(other.blocks[0].dynamics)
    for ours, theirs in zip(results(flow), results(other), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("activation", ["tanh", "softplus"])
@OPTIONS
def test_gradients_are_those_of_the_adjoint(activation: str, options: dict[str, Any]) -> None:
    """Two solvers and two ways to a gradient agree to their tolerance."""
    options = {"activation": activation, "hidden": (6, 5), "end_time": 0.4, **options}
    flow = make(2, 2, **options)
    other = make(2, 2, backend="torchdiffeq", **options)
    other.load_state_dict(flow.state_dict())
    for ours, theirs in zip(results(flow), results(other), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-8)


def test_gradients_agree_with_finite_differences() -> None:
    flow = make(2, trace="exact", learned_end_time=True, residual=True)
    x = torch.randn(4, 2)
    flow.log_prob(x).sum().backward()
    step = 1e-5
    for parameter in flow.parameters():
        assert parameter.grad is not None
        direction = torch.randn(parameter.shape, generator=generator(4))
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step * direction
                values.append(flow.log_prob(x).sum())
                parameter -= sign * step * direction
        slope = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close((parameter.grad * direction).sum(), slope, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_fixed_steps_converge_at_their_order(solver: str, order: int) -> None:
    flow = make(2, trace="exact", atol=1e-13, rtol=1e-13)
    x = torch.randn(4, 2)
    with torch.no_grad():
        truth = flow.log_prob(x)
        errors = []
        for steps in (5, 10):
            coarse = make(2, trace="exact", solver=solver, steps=steps)
            coarse.load_state_dict(flow.state_dict())
            errors.append((coarse.log_prob(x) - truth).abs().max())
    assert abs(torch.log2(errors[0] / errors[1]) - order) < 0.3


def test_regularizers_are_the_integrals_along_the_path() -> None:
    """Against a quadrature over 400 midpoints of the path, by autograd's Jacobian."""
    names = {
        "kinetic_energy": 0.1,
        "jacobian_norm": 0.2,
        "mean_speed": 0.3,
        "rms_speed": 0.4,
        "directional_derivative": 0.5,
        "jacobian_frobenius": 0.6,
        "jacobian_diagonal": 0.7,
        "jacobian_off_diagonal": 0.8,
    }
    flow = make(3, noise="rademacher", end_time=0.8, **names)
    x = torch.randn(1, 3)
    loss, terms = flow.training_loss(x, generator=generator(5))
    noise = 2.0 * torch.randint(0, 2, (1, 1, 3), generator=generator(5))[0, 0] - 1
    dynamics = flow.blocks[0].dynamics

    expected = dict.fromkeys(names, torch.zeros(()))
    count = 400
    z = x
    width = 0.8 / count
    for index in range(count):
        start = torch.tensor(index * width)
        with torch.no_grad():
            # Two half steps of the 3/8 rule, so that the middle is on the path.
            middle = _rk4(dynamics, start, z, width / 2)
            z = _rk4(dynamics, start + width / 2, middle, width / 2)
        t = start + width / 2
        j = torch.autograd.functional.jacobian(lambda y, t=t: dynamics(t, y)[0], middle)[:, 0]
        f = dynamics(t, middle)[0].detach()
        found = {
            "kinetic_energy": f.square().sum(),
            "jacobian_norm": (j @ noise).square().sum(),
            "mean_speed": f.abs().mean(),
            "rms_speed": f.norm() / 3**0.5,
            "directional_derivative": (f @ j).norm() / 3**0.5,
            "jacobian_frobenius": j.norm(),
            "jacobian_diagonal": j.diagonal().norm(),
            "jacobian_off_diagonal": (j - j.diagonal().diag()).norm(),
        }
        expected = {name: expected[name] + width * found[name] for name in names}
    for name, value in expected.items():
        # |f| has a kink where a velocity changes its sign, and no quadrature order across it.
        tolerance = 2e-3 if name == "mean_speed" else 1e-5
        torch.testing.assert_close(terms[name].detach(), value, atol=tolerance, rtol=tolerance)
    weighted = terms["nll"] + sum(weight * terms[name] for name, weight in names.items())
    torch.testing.assert_close(loss, weighted)
    torch.testing.assert_close(terms["nll"], -flow.log_prob(x, generator=generator(5)).mean())


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_regularizers_written_by_hand_are_those_of_autograd(trace: str, residual: bool) -> None:
    """Integrals and all gradients."""
    flow = make(3, trace=trace, residual=residual)
    (block,) = flow.blocks
    x = torch.randn(5, 3)
    probes = block.probes(x, trace == "exact", generator())
    names = ("jacobian_norm", "kinetic_energy")
    found = []
    for evaluator in (
        DenseEvaluator(block.dynamics, None, probes, names),
        AutogradEvaluator(Field(block.dynamics, None, probes), names),
    ):
        start = x.clone().requires_grad_(True)
        z, integrals, _ = integrate(evaluator, start, 0.0, 1.0, Settings("rk4", steps=4))
        weights = torch.randn(integrals.shape, generator=generator(7))
        total = (z * torch.randn(z.shape, generator=generator(8))).sum() + (
            integrals * weights
        ).sum()
        found.append(
            (integrals, *torch.autograd.grad(total, [start, *block.dynamics.parameters()]))
        )
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("options", [{}, {"bottleneck": 2}, {"probes": 2, "residual": True}])
def test_a_regularizer_is_the_same_whatever_others_there_are(options: dict[str, Any]) -> None:
    """The dear ones are integrated by autograd, the first two, alone, by hand."""
    x = torch.randn(5, 3)
    alone = make(3, jacobian_norm=0.1, kinetic_energy=0.1, **options)
    among = make(3, jacobian_norm=0.1, kinetic_energy=0.1, rms_speed=0.1, **options)
    among.load_state_dict(alone.state_dict())
    terms = [flow.training_loss(x, generator=generator(5))[1] for flow in (alone, among)]
    for name in ("nll", "kinetic_energy", "jacobian_norm"):
        torch.testing.assert_close(terms[0][name], terms[1][name], atol=1e-8, rtol=1e-8)


def test_the_estimated_jacobian_norm_of_dense_linear_dynamics() -> None:
    flow = make(3, hidden=(), layers="ignore", noise="gaussian", jacobian_norm=1.0, end_time=0.5)
    x = torch.randn(4, 3)
    _, terms = flow.training_loss(x, generator=generator(5))
    noise = torch.randn(1, 4, 3, generator=generator(5))[0]
    matrix = flow.blocks[0].dynamics.stack[0].linear.weight.detach()
    expected = 0.5 * (noise @ matrix.T).square().sum(1).mean()
    torch.testing.assert_close(terms["jacobian_norm"].detach(), expected)


def _rk4(dynamics: nn.Module, t: Tensor, z: Tensor, h: float) -> Tensor:
    k1 = dynamics(t, z)
    k2 = dynamics(t + h / 2, z + h / 2 * k1)
    k3 = dynamics(t + h / 2, z + h / 2 * k2)
    k4 = dynamics(t + h, z + h * k3)
    result: Tensor = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return result


def test_regularizers_have_gradients_and_leave_the_steps_alone() -> None:
    plain, held = make(2, atol=1e-6, rtol=1e-6), make(2, atol=1e-6, rtol=1e-6, kinetic_energy=0.1)
    held.load_state_dict(plain.state_dict())
    x = torch.randn(6, 2)
    with flows.Meter() as free:
        plain.training_loss(x, generator=generator())[0].backward()
    with flows.Meter() as paid:
        held.training_loss(x, generator=generator())[0].backward()
    assert (paid.forward, paid.accepted) == (free.forward, free.accepted)
    difference = [
        (a.grad - b.grad).abs().max()
        for a, b in zip(plain.parameters(), held.parameters(), strict=True)
        if a.grad is not None and b.grad is not None
    ]
    assert max(difference) > 1e-3


@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
def test_the_mean_of_several_probes_has_its_share_of_the_variance(noise: str) -> None:
    x = torch.randn(1, 3)
    one, four = make(3, noise=noise), make(3, noise=noise, probes=4)
    four.load_state_dict(one.state_dict())
    variances = [
        flow.trace_estimates(x, draws=20_000, generator=generator()).var() for flow in (one, four)
    ]
    assert abs(variances[0] / variances[1] - 4) < 0.4


def test_a_residual_flow_subtracts_the_state() -> None:
    flow = make(3, residual=True)
    plain = make(3)
    plain.load_state_dict(flow.state_dict())
    x = torch.randn(2, 3)
    with torch.no_grad():
        difference = plain.trace_estimates(x, draws=5, generator=generator()) - (
            flow.trace_estimates(x, draws=5, generator=generator())
        )
    torch.testing.assert_close(difference, torch.full((5, 2), 3.0))


def test_the_meter_knows_blocks_and_steps() -> None:
    # The wide one keeps the velocities of every step, five a step; the narrow one, whose graph is
    # smaller, those of a few, and finds the five of each other step once more.
    for width, kept, moving in ((256, 1000, False), (32, 3, False), (256, 1000, True)):
        flow = make(2, blocks=2, hidden=(width,), learned_end_time=moving)
        with flows.Meter() as meter:
            flow.log_prob(torch.randn(3, 2)).sum().backward()
        assert list(meter.parts) == ["block 0", "block 1"]
        for name in ("forward", "backward", "accepted", "rejected"):
            total = sum(getattr(part, name) for part in meter.parts.values())
            assert total == getattr(meter, name)
        for part in meter.parts.values():
            assert part.forward == 1 + 6 * (part.accepted + part.rejected)
            again = max(part.accepted - kept, 0)
            # The gradient by the end time takes one evaluation, at the end.
            assert part.backward == 6 * part.accepted + 5 * again + moving > 0
            assert (again > 0) == (width == 32)
        assert repr(meter) == (
            f"Meter(forward={meter.forward}, backward={meter.backward}, "
            f"accepted={meter.accepted}, rejected={meter.rejected})"
        )


def test_estimates_of_the_trace_are_one_evaluation_however_many() -> None:
    flow = make(2, blocks=2, probes=3)
    with flows.Meter() as meter:
        flow.trace_estimates(torch.randn(4, 2), draws=7)
    assert (meter.forward, meter.backward, list(meter.parts)) == (1, 0, ["block 0"])


def test_moving_norm_inverts_and_has_its_determinant() -> None:
    norm = MovingBatchNorm(3)
    x = 3 + 2 * torch.randn(500, 3)
    norm.initialize(x)
    norm.eval()
    y, log_abs_det = norm.encode(x)
    # The variance has eps in it.
    torch.testing.assert_close(y.mean(0), torch.zeros(3), atol=1e-12, rtol=0)
    torch.testing.assert_close(y.var(0), torch.ones(3), atol=1e-4, rtol=0)
    jacobian = torch.autograd.functional.jacobian(lambda v: norm.encode(v[None])[0][0], x[0])
    torch.testing.assert_close(jacobian.slogdet().logabsdet, log_abs_det[0])
    back, reverse = norm.decode(y)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(reverse, -log_abs_det)


def test_moving_norm_in_training_has_its_closed_form() -> None:
    """Batch k is normalised with 0.9^k (0, 1) + 0.1 sum_j 0.9^(k - 1 - j) (mean_j, var_j)."""
    norm = MovingBatchNorm(2)
    with torch.no_grad():
        norm.log_scale.copy_(torch.tensor([0.3, -0.2]))
        norm.shift.copy_(torch.tensor([0.5, 1.5]))
    batches = [(k + 1) * torch.randn(50, 2) + 7 for k in range(4)]
    for k, x in enumerate(batches):
        weights = [0.1 * 0.9 ** (k - 1 - j) for j in range(k)]
        mean = sum((w * b.mean(0) for w, b in zip(weights, batches, strict=False)), torch.zeros(2))
        variance = 0.9**k + sum(
            (w * b.var(0) for w, b in zip(weights, batches, strict=False)), torch.zeros(2)
        )
        y, log_abs_det = norm.encode(x)
        scale = torch.tensor([0.3, -0.2]).exp() / (variance + 1e-4).sqrt()
        torch.testing.assert_close(y, (x - mean) * scale + torch.tensor([0.5, 1.5]))
        torch.testing.assert_close(log_abs_det, scale.log().sum().expand(50))
    torch.testing.assert_close(norm.mean, 0.9 * mean + 0.1 * x.mean(0))
    torch.testing.assert_close(norm.variance, 0.9 * variance + 0.1 * x.var(0))


def test_moving_norm_in_training_keeps_the_samples_of_a_batch_apart() -> None:
    x = torch.randn(6, 2)
    found = []
    for batch in (x, torch.cat([x[:1], x[1:] + 5])):
        norm = MovingBatchNorm(2)
        y, log_abs_det = norm.encode(batch)
        found.append((y[0], log_abs_det[0]))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    # One sample has no variance to move the averages by.
    norm = MovingBatchNorm(2)
    norm.encode(x[:1])
    assert torch.equal(norm.mean, torch.zeros(2))


def test_moving_norm_has_the_gradient_of_what_it_computed() -> None:
    """The averages move before the backward pass, which must not see them moved."""
    norm, x = MovingBatchNorm(2), torch.randn(20, 2) + 3
    held = MovingBatchNorm(2).eval()
    for one in (norm, held):
        y, log_abs_det = one.encode(x)
        (y.pow(3).sum() + log_abs_det.sum()).backward()
    assert not torch.equal(norm.mean, held.mean)
    for one, other in zip(norm.parameters(), held.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_initialize_normalises_between_blocks() -> None:
    flow = make(2, blocks=2, batch_norm=True)
    x = 5 + 3 * torch.randn(300, 2)
    flow.initialize(x)
    flow.eval()
    with torch.no_grad():
        z, _ = flow.encode(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=1e-8, rtol=0)
    torch.testing.assert_close(z.var(0), torch.ones(2), atol=1e-2, rtol=0)
    back, _ = flow.decode(z)
    torch.testing.assert_close(back, x, atol=1e-7, rtol=1e-7)


class Wrong(nn.Module):
    """Dynamics that forget a dimension."""

    def forward(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z[:, :1]


def test_dynamics_of_the_wrong_shape_are_named() -> None:
    flow = FFJORD((2,), dynamics=[Wrong()])
    with pytest.raises(DynamicsShapeError, match=r"\(3, 2\).*\(3, 1\)"):
        flow.log_prob(torch.zeros(3, 2))
    with pytest.raises(DynamicsShapeError):
        flow.sample(3)


def test_own_dynamics_serve() -> None:
    class Rotation(nn.Module):
        def forward(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
            return torch.stack([z[:, 1], -z[:, 0]], 1)

    flow = FFJORD((2,), config=FFJORDConfig(**TIGHT), dynamics=[Rotation()])
    z, log_abs_det = flow.encode(torch.tensor([[1.0, 0.0]]), exact=True)
    one = torch.tensor(1.0)
    torch.testing.assert_close(z[0], torch.stack([one.cos(), -one.sin()]))
    torch.testing.assert_close(log_abs_det, torch.zeros(1))


class Explosion(nn.Module):
    """dz/dt = z^2, which is infinite at t = 1 / z(0)."""

    def forward(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z.square()


@pytest.mark.parametrize("backend", ["native", "torchdiffeq"])
def test_a_solution_that_explodes_is_a_step_underflow(backend: str) -> None:
    config = FFJORDConfig.model_validate({"backend": backend, "max_evaluations": 100_000})
    flow = FFJORD((1,), config=config, dynamics=[Explosion()])
    with pytest.raises((StepUnderflow, TooManyEvaluations), match="loosen"):
        flow.log_prob(torch.full((2, 1), 3.0))


@pytest.mark.parametrize("backend", ["native", "torchdiffeq"])
def test_the_cap_on_evaluations_is_kept(backend: str) -> None:
    flow = make(2, backend=backend, max_evaluations=9)
    with pytest.raises(TooManyEvaluations, match="cap of 9 evaluations"):
        flow.log_prob(torch.randn(3, 2))


def test_a_tolerance_below_the_resolution_is_refused() -> None:
    flow = make(2, atol=1e-9, rtol=1e-9).float()
    with pytest.raises(ToleranceTooTight, match="float32"):
        flow.log_prob(torch.zeros(1, 2, dtype=torch.float32))


def test_prices_are_stated() -> None:
    with pytest.warns(CostWarning, match="wider"):
        FFJORD((2,), config=FFJORDConfig(hidden=(4,), bottleneck=3))
    flow = FFJORD((784,), config=FFJORDConfig(hidden=(4,), solver="euler", steps=1))
    with torch.no_grad(), pytest.warns(CostWarning, match="784 Jacobian products"):
        flow.log_prob(torch.zeros(1, 784), exact=True)


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "native", "gradient": "adjoint"},
        {"backend": "torchdiffeq", "gradient": "checkpoint"},
        {"backend": "native", "solver": "dopri8"},
        {"backend": "torchdiffeq", "kinetic_energy": 0.1},
    ],
    ids=str,
)
def test_options_that_contradict_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError, match="backend"):
        FFJORDConfig.model_validate(options)


def test_the_backend_is_the_first_that_has_what_is_asked() -> None:
    chosen = {
        ("dopri5", None): "native",
        ("dopri8", None): "torchdiffeq",
        ("dopri5", "adjoint"): "torchdiffeq",
        ("rk4", "checkpoint"): "native",
    }
    for (solver, gradient), backend in chosen.items():
        config = FFJORDConfig.model_validate({"solver": solver, "gradient": gradient})
        assert config.resolved_backend == backend


def test_the_toy_has_the_parameters_of_the_official_code() -> None:
    """9,225 with T, which the official code counts among the parameters."""
    assert flows.build("ffjord-toy", (2,), learned_end_time=True).parameter_count == 9225


@pytest.mark.parametrize("remember", [True, False])
def test_a_first_step_is_remembered_in_training_alone_and_where_it_may(remember: bool) -> None:
    flow = make(2, atol=1e-5, rtol=1e-5, remember_step=remember)
    x = torch.randn(8, 2)
    flow.eval()
    before = flow.log_prob(x, generator=generator())
    flow.train()
    losses, counts = [], []
    for _ in range(2):
        with flows.Meter() as meter:
            losses.append(flow.loss(x, generator=generator()))
            losses[-1].backward()
        counts.append(meter.forward)
    assert (counts[1] < counts[0]) == remember
    # The loss depends on the solve before with remembered steps alone, and within the tolerance.
    assert torch.equal(losses[0], losses[1]) == (not remember)
    torch.testing.assert_close(losses[0], losses[1], atol=1e-4, rtol=0)
    flow.eval()
    assert torch.equal(before, flow.log_prob(x, generator=generator()))


def test_copies_do_not_share_a_remembered_step() -> None:
    flow = make(2)
    other = copy.deepcopy(flow)
    flow.log_prob(torch.randn(8, 2)).sum().backward()
    assert flow.blocks[0].fitting_step is not None
    assert other.blocks[0].fitting_step is None
