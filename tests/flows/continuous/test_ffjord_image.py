"""Image FFJORD: parameters of the official code, log-determinants, inversion, latents."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast, get_args

import pytest
import torch
from torch import Tensor, nn

import flows
from flows.base import InputError
from flows.continuous.errors import CostWarning
from flows.continuous.image import (
    ConvolutionalDynamics,
    ConvolutionKind,
    ImageFFJORD,
    ImageFFJORDConfig,
)
from flows.continuous.options import REGULARIZERS
from flows.continuous.transform import ContinuousTransform


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def make(
    shape: tuple[int, ...] = (1, 8, 8), context_features: int = 0, **options: Any
) -> ImageFFJORD:
    defaults = {"hidden": (4,), "blocks": 1, "atol": 1e-8, "rtol": 1e-8, "end_time": 0.5}
    config = ImageFFJORDConfig.model_validate({**defaults, **options})
    return ImageFFJORD(shape, context_features, config)


def dynamics_of(block: ContinuousTransform) -> Any:
    """Its convolutions, whose parts no type knows."""
    assert isinstance(block.dynamics, ConvolutionalDynamics)
    return block.dynamics


@pytest.mark.parametrize(
    ("preset", "shape", "blocks", "parameters"),
    [
        ("ffjord-mnist-multiscale", (1, 28, 28), 10, 800_646),
        ("ffjord-cifar10-multiscale", (3, 32, 32), 14, 1_358_882),
    ],
)
def test_the_presets_have_the_parameters_of_the_official_code(
    preset: str, shape: tuple[int, ...], blocks: int, parameters: int
) -> None:
    """The official code counts each block's end time among the parameters."""
    flow = flows.build(preset, shape, learned_end_time=True)
    assert isinstance(flow, ImageFFJORD)
    assert sum(len(group) for group in flow.groups) == blocks  # type: ignore[arg-type]
    assert flow.parameter_count == parameters


@pytest.mark.parametrize(("shape", "parameters"), [((1, 28, 28), 18_818), ((3, 32, 32), 19_364)])
def test_the_official_codes_own_single_flow(shape: tuple[int, ...], parameters: int) -> None:
    """Its default dims, strides and blocks."""
    options: dict[str, Any] = {"hidden": (8, 32, 32, 8), "strides": (2, 2, 1, -2, -2)}
    flow = flows.build(
        "ffjord-image", shape, multiscale=False, blocks=1, learned_end_time=True, **options
    )
    assert flow.parameter_count == parameters


def test_the_papers_single_flow_is_an_encoder_and_its_mirror() -> None:
    """As many parameters as the multi-scale flow's 800,636, as in Figure 6 of the paper."""
    flow = cast(ImageFFJORD, flows.build("ffjord-mnist", (1, 28, 28)))
    (block,) = flow._groups[0]
    layers = [layer.convolution for layer in dynamics_of(block).stack]
    transposed = [isinstance(layer, nn.ConvTranspose2d) for layer in layers]
    # Each layer has the time for another channel.
    channels = [layer.in_channels - 1 for layer in layers]
    assert channels == [1, 64, 64, 128, 128, 128, 64, 64]
    assert transposed == [False, False, False, False, True, False, True, False]
    strides = [layer.stride[0] for layer in layers]
    assert strides == [1, 2, 1, 2, 2, 1, 2, 1]
    multiscale = flows.build("ffjord-mnist-multiscale", (1, 28, 28))
    assert 0.95 < flow.parameter_count / multiscale.parameter_count < 1.05


STRIDED: dict[str, Any] = {"hidden": (4, 6, 6, 4), "strides": (2, 2, 1, -2, -2)}
# Down to 2 channels of a quarter of the sides, and back in mirror image.
NARROW: dict[str, Any] = {"hidden": (4, 6, 6), "strides": (1, 2, 1, 2), "bottleneck": 2}
UNFOLDED: dict[str, Any] = {"hidden": (4, 6, 6, 2, 6, 6, 4), "strides": (1, 2, 1, 2, -2, 1, -2, 1)}


@pytest.mark.parametrize(
    "options",
    [
        {"multiscale": False},
        {"multiscale": True},
        {"multiscale": False, **STRIDED},
        {"multiscale": False, **NARROW},
        {"multiscale": False, "residual": True, **NARROW},
    ],
)
def test_log_determinant_is_that_of_autograd(options: dict[str, Any]) -> None:
    flow = make((1, 8, 8), 2, **options)
    x, context = torch.randn(1, 1, 8, 8), torch.randn(1, 2)
    _, log_abs_det = flow.encode(x, context, exact=True)
    flow_fixed = make((1, 8, 8), 2, solver="rk4", steps=8, **options)
    flow_fixed.load_state_dict(flow.state_dict())
    z = x.clone().requires_grad_(True)
    latent = flow_fixed.encode(z, context)[0].flatten()
    rows = [torch.autograd.grad(value, z, retain_graph=True)[0].flatten() for value in latent]
    truth = torch.stack(rows).slogdet().logabsdet
    torch.testing.assert_close(log_abs_det[0], truth, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layers", get_args(ConvolutionKind))
@pytest.mark.parametrize(
    "options",
    [{"hidden": (4, 4)}, {"multiscale": False, **STRIDED}, {"multiscale": False, **NARROW}],
)
def test_decode_inverts_encode(layers: str, options: dict[str, Any]) -> None:
    flow = make((2, 8, 16), layers=layers, **options)
    x = torch.randn(2, 2, 8, 16)
    with torch.no_grad():
        z, forth = flow.encode(x, generator=torch.Generator().manual_seed(0))
        back, _ = flow.decode(z, generator=torch.Generator().manual_seed(0))
        assert forth.isfinite().all()
        torch.testing.assert_close(back, x, atol=1e-6, rtol=0)
        source = torch.Generator().manual_seed(1)
        sample = flow.sample(2, generator=source)
        latent = flow.base.sample(2, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(flow.encode(sample)[0], latent, atol=1e-6, rtol=0)


@pytest.mark.parametrize("layers", get_args(ConvolutionKind))
def test_strided_dynamics_see_the_whole_of_a_small_image(layers: str) -> None:
    """Down to one pixel and back: every output pixel depends on every input pixel."""
    dynamics = ConvolutionalDynamics(
        (1, 4, 4), (3, 3, 3, 3), strides=(2, 2, 1, -2, -2), layers=layers
    )
    x = torch.randn(1, 1, 4, 4)
    t = torch.tensor(0.3)
    jacobian = torch.autograd.functional.jacobian(lambda y: dynamics(t, y), x).reshape(16, 16)
    assert (jacobian != 0).all()


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 6, 6), STRIDED, "do not lead from 6 x 6"),
        ((1, 8, 8), {"hidden": (4,), "strides": (2, 1)}, "do not lead from 8 x 8"),
        ((1, 8, 8), {"hidden": (4,), "strides": (1, 1, 1)}, "1 hidden convolutions have 2 strides"),
        ((1, 6, 6), NARROW, "do not lead from 6 x 6"),
        ((1, 8, 8), {**UNFOLDED, "bottleneck": 2, "strides": (1,)}, "convolutions have 8 strides"),
    ],
)
def test_strides_that_do_not_fit_are_answered(
    shape: tuple[int, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make(shape, **{"multiscale": False, **options})


def test_the_trace_estimate_is_unbiased() -> None:
    flow = make((1, 4, 4), noise="rademacher", trace="hutchinson")
    x = torch.randn(1, 1, 4, 4)
    seen = flow.trace_estimates(x, draws=2000, generator=torch.Generator().manual_seed(0))[:, 0]
    dynamics = flow._groups[0][0].dynamics
    jacobian = torch.autograd.functional.jacobian(lambda y: dynamics(torch.zeros(()), y), x)
    trace = jacobian.reshape(16, 16).trace()
    assert abs(seen.mean() - trace) < 4.5 * seen.std() / math.sqrt(2000)


def same_network(**options: Any) -> tuple[ImageFFJORD, ImageFFJORD]:
    """One network with the noise in its middle, and with the noise on the image."""
    shared = {"multiscale": False, **options}
    narrow, plain = make((1, 8, 8), **shared, **NARROW), make((1, 8, 8), **shared, **UNFOLDED)
    plain.load_state_dict(narrow.state_dict())
    return narrow, plain


def test_a_bottleneck_is_the_same_network_with_the_noise_elsewhere() -> None:
    narrow, plain = same_network()
    block = narrow._groups[0][0]
    # 2 channels of 2 x 2 pixels.
    assert block.bottleneck == 8
    t, z = torch.tensor(0.3), torch.randn(3, 1, 8, 8)
    dynamics = dynamics_of(block)
    h = dynamics.narrow(t, z)
    assert h.shape == (3, 8)
    torch.testing.assert_close(dynamics.widen(t, h), dynamics(t, z))
    torch.testing.assert_close(plain._groups[0][0].dynamics(t, z), dynamics(t, z))
    probes = block.probes(z, exact=False, generator=None)
    assert probes.narrow
    assert probes.vectors.shape == (1, 3, 8)
    with torch.no_grad():
        assert torch.allclose(
            narrow.log_prob(z, exact=True), plain.log_prob(z, exact=True), atol=1e-6
        )


def jacobians(flow: ImageFFJORD, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of the first block at time 0: the image's 64 x 64, and the map's (dh/dz)(dg/dh)."""
    dynamics = dynamics_of(flow._groups[0][0])
    t, jacobian = torch.zeros(()), torch.autograd.functional.jacobian
    size = x.numel()
    whole = jacobian(lambda z: dynamics(t, z), x).reshape(size, size)
    h = dynamics.narrow(t, x)
    inner = jacobian(lambda z: dynamics.narrow(t, z), x).reshape(-1, size)
    outer = jacobian(lambda y: dynamics.widen(t, y), h).reshape(size, -1)
    torch.testing.assert_close(outer @ inner, whole)
    return whole, inner @ outer


@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
def test_the_estimate_through_a_map_is_unbiased_and_of_the_variance_of_its_matrix(
    noise: str,
) -> None:
    """Mean tr J, variance 2 ||S||^2 with S of (dh/dz)(dg/dh), less its diagonal if Rademacher."""
    flow, plain = same_network(noise=noise)
    x, draws = torch.randn(1, 1, 8, 8), 4000
    for model, matrix in zip((plain, flow), jacobians(flow, x), strict=True):
        seen = model.trace_estimates(x, draws=draws, generator=torch.Generator().manual_seed(0))
        symmetric = (matrix + matrix.T) / 2
        square = symmetric.square().sum()
        if noise == "rademacher":
            square = square - symmetric.diagonal().square().sum()
        assert abs(seen.mean() - matrix.trace()) < 4.5 * seen.std() / math.sqrt(draws)
        # The standard error of a variance of products of noise, with their fourth moment.
        centred = (seen - seen.mean()).square()
        assert abs(centred.mean() - 2 * square) < 4.5 * centred.std() / math.sqrt(draws)


def test_log_densities_through_a_map_are_unbiased() -> None:
    """Fixed steps have the trace enter linearly: the mean over noise is the exact density."""
    flow, _ = same_network(solver="rk4", steps=4, noise="gaussian")
    x = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        exact = flow.log_prob(x, exact=True)
        seen = flow.log_prob(x.expand(2000, -1, -1, -1), generator=torch.Generator().manual_seed(1))
    assert seen.std() > 0
    assert abs(seen.mean() - exact) < 4.5 * seen.std() / math.sqrt(2000)


def test_a_gradient_through_a_map_is_that_of_finite_differences() -> None:
    flow, _ = same_network(solver="rk4", steps=3)
    x = torch.randn(2, 1, 8, 8)
    weight = dynamics_of(flow._groups[0][0]).stack[3].convolution.weight

    def loss() -> Tensor:
        return flow.loss(x, generator=torch.Generator().manual_seed(0))

    loss().backward()
    direction, at = torch.randn(weight.shape), []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            weight += step * direction
            at.append(loss())
    torch.testing.assert_close(
        (weight.grad * direction).sum(), (at[0] - at[1]) / 2e-5, atol=1e-7, rtol=1e-6
    )


def test_a_map_wider_than_the_image_is_warned_of() -> None:
    with pytest.warns(CostWarning, match="holds 256 numbers, more than the state's 64"):
        make((1, 8, 8), multiscale=False, **{**NARROW, "bottleneck": 64})


@pytest.mark.parametrize("options", [{}, {"multiscale": False, **NARROW}])
def test_a_gradient_reaches_every_parameter(options: dict[str, Any]) -> None:
    flow = make((1, 8, 8), 2, **options)
    x, context = torch.randn(2, 1, 8, 8), torch.randn(2, 2, requires_grad=True)
    flow.log_prob(x, context).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in flow.parameters())
    assert context.grad is not None


def linear_dynamics(dynamics: nn.Module, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Matrix and offset of dynamics that are one convolution and know no time."""
    zero = torch.zeros(1, *shape)
    matrix = torch.autograd.functional.jacobian(
        lambda z: dynamics(torch.zeros(()), z).flatten(), zero
    )
    offset = dynamics(torch.zeros(()), zero).flatten().detach()
    return matrix.reshape(zero.numel(), zero.numel()), offset


def closed_forms(block: ContinuousTransform, z: Tensor, end: float) -> tuple[Tensor, float]:
    """Of linear dynamics dz/dt = A z + b: int ||f||^2 dt of each row, and T ||A||_F.

    f obeys df/dt = A f, so that the first is f(0)^T W f(0) with W = int exp(A^T t) exp(A t) dt,
    which Van Loan (1978, doi:10.1109/TAC.1978.1101743) reads off one matrix exponential.
    """
    a, b = linear_dynamics(block.dynamics, z.shape[1:])
    size = len(a)
    joined = torch.zeros(2 * size, 2 * size)
    joined[:size, :size], joined[:size, size:], joined[size:, size:] = -a.T, torch.eye(size), a
    exponential = torch.linalg.matrix_exp(joined * end)
    w = exponential[size:, size:].T @ exponential[:size, size:]
    f = z.flatten(1) @ a.T + b
    return ((f @ w) * f).sum(1), end * float(a.norm())


@pytest.mark.parametrize("multiscale", [False, True])
def test_regularizers_of_linear_dynamics_have_their_closed_form(multiscale: bool) -> None:
    flow = make(
        (1, 8, 8),
        hidden=(),
        layers="ignore",
        multiscale=multiscale,
        kinetic_energy=0.1,
        jacobian_frobenius=0.2,
    )
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        loss, terms = flow.training_loss(x, generator=torch.Generator().manual_seed(0))
        z, energy, frobenius = x, torch.zeros(3), 0.0
        for index, (block,) in enumerate(flow._groups):
            # A squeeze comes before the second group, and a split before the third.
            if index == 1:
                z = torch.nn.functional.pixel_unshuffle(z, 2)
            if index == 2:
                z = z.chunk(2, 1)[0]
            more, norm = closed_forms(block, z, 0.5)
            energy, frobenius = energy + more, frobenius + norm
            z = block.without_trace(z)
        log_prob = flow.log_prob(x, generator=torch.Generator().manual_seed(0))
    assert len(flow._groups) == (3 if multiscale else 1)
    torch.testing.assert_close(terms["kinetic_energy"], energy.mean(), atol=1e-6, rtol=1e-6)
    assert float(terms["jacobian_frobenius"]) == pytest.approx(frobenius, rel=1e-6)
    torch.testing.assert_close(terms["nll"], -log_prob.mean())
    weighted = terms["nll"] + 0.1 * terms["kinetic_energy"] + 0.2 * terms["jacobian_frobenius"]
    torch.testing.assert_close(loss, weighted)


def test_the_estimated_jacobian_norm_of_linear_dynamics() -> None:
    """T ||A^T e||^2 with the trace's own noise e."""
    flow = make((1, 4, 4), hidden=(), layers="ignore", noise="gaussian", jacobian_norm=1.0)
    with torch.no_grad():
        _, terms = flow.training_loss(
            torch.randn(3, 1, 4, 4), generator=torch.Generator().manual_seed(4)
        )
    matrix, _ = linear_dynamics(flow._groups[0][0].dynamics, torch.Size((1, 4, 4)))
    noise = torch.randn(1, 3, 1, 4, 4, generator=torch.Generator().manual_seed(4)).view(3, 16)
    expected = 0.5 * (noise @ matrix).square().sum(1).mean()
    torch.testing.assert_close(terms["jacobian_norm"], expected)


def test_regularizers_weigh_in_training_and_nowhere_else() -> None:
    weights = dict.fromkeys(REGULARIZERS, 0.1)
    plain, held = make((1, 8, 8), 2), make((1, 8, 8), 2, **weights)
    held.load_state_dict(plain.state_dict())
    x, context = torch.randn(2, 1, 8, 8), torch.randn(2, 2)

    def source() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    with torch.no_grad():
        for exact in (False, True):
            densities = [
                flow.log_prob(x, context, exact=exact, generator=source()) for flow in (plain, held)
            ]
            assert torch.equal(*densities)
        samples = [flow.sample(2, context, generator=source()) for flow in (plain, held)]
        assert torch.equal(*samples)
    with flows.Meter() as free:
        plain.loss(x, context, generator=source()).backward()
    with flows.Meter() as paid:
        loss = held.loss(x, context, generator=source())
        loss.backward()
    assert (paid.forward, paid.backward, paid.accepted) == (
        free.forward,
        free.backward,
        free.accepted,
    )
    again, terms = held.training_loss(x, context, generator=source())
    assert set(terms) == {"nll", *REGULARIZERS}
    assert all(term > 0 for name, term in terms.items() if name != "nll")
    # The first step is remembered from the first loss, so that the second differs by the error.
    torch.testing.assert_close(again, loss, atol=0, rtol=1e-6)
    assert loss > terms["nll"]
    for one, other in zip(plain.parameters(), held.parameters(), strict=True):
        assert other.grad is not None
        assert other.grad.abs().max() > 0
        assert not torch.equal(one.grad, other.grad)  # type: ignore[arg-type]


def test_gradients_of_regularizers_agree_with_finite_differences() -> None:
    flow = make(
        (1, 4, 4), multiscale=False, solver="rk4", steps=3, kinetic_energy=0.3, jacobian_norm=0.2
    )
    x = torch.randn(2, 1, 4, 4)
    weight = flow._groups[0][0].dynamics.stack[0].convolution.weight  # type: ignore[union-attr, index]

    def loss() -> Tensor:
        return flow.loss(x, generator=torch.Generator().manual_seed(0))

    loss().backward()
    direction = torch.randn(weight.shape)
    at = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            weight += step * direction
            at.append(loss())
    torch.testing.assert_close(
        (weight.grad * direction).sum(), (at[0] - at[1]) / 2e-5, atol=1e-7, rtol=1e-6
    )


@pytest.mark.parametrize("name", ["jacobian_frobenius", "jacobian_diagonal"])
def test_regularizers_by_many_products_state_their_price(name: str) -> None:
    flow = make((1, 28, 28), hidden=(1,), multiscale=False, solver="euler", steps=1, **{name: 0.1})
    x = torch.zeros(1, 1, 28, 28)
    with torch.no_grad(), pytest.warns(CostWarning, match=f"{name} in 784 dimensions"):
        flow.loss(x)
    with torch.no_grad():
        flow.log_prob(x)


def test_time_matters() -> None:
    for layers in get_args(ConvolutionKind):
        dynamics = ConvolutionalDynamics((1, 4, 4), (3,), layers=layers)
        x = torch.randn(1, 1, 4, 4)
        at: list[Tensor] = [dynamics(torch.tensor(t), x) for t in (0.0, 1.0)]
        assert torch.equal(*at) == (layers == "ignore")


def test_vectors_are_refused() -> None:
    with pytest.raises(InputError, match="images"):
        ImageFFJORD((5,))
