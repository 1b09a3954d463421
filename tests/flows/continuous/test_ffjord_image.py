"""Image FFJORD: parameters of the official code, log-determinants, inversion, latents."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

import flows
from flows.base import InputError
from flows.continuous.image import (
    ConvolutionalDynamics,
    ConvolutionKind,
    ImageFFJORD,
    ImageFFJORDConfig,
)


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


@pytest.mark.parametrize("multiscale", [False, True])
def test_log_determinant_is_that_of_autograd(multiscale: bool) -> None:
    flow = make((1, 8, 8), 2, multiscale=multiscale)
    x, context = torch.randn(1, 1, 8, 8), torch.randn(1, 2)
    _, log_abs_det = flow.encode(x, context, exact=True)
    flow_fixed = make((1, 8, 8), 2, multiscale=multiscale, solver="rk4", steps=8)
    flow_fixed.load_state_dict(flow.state_dict())
    z = x.clone().requires_grad_(True)
    latent = flow_fixed.encode(z, context)[0].flatten()
    rows = [torch.autograd.grad(value, z, retain_graph=True)[0].flatten() for value in latent]
    truth = torch.stack(rows).slogdet().logabsdet
    torch.testing.assert_close(log_abs_det[0], truth, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layers", get_args(ConvolutionKind))
def test_decode_inverts_encode(layers: str) -> None:
    flow = make((2, 8, 16), layers=layers, hidden=(4, 4))
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


def test_the_trace_estimate_is_unbiased() -> None:
    flow = make((1, 4, 4), noise="rademacher", trace="hutchinson")
    x = torch.randn(1, 1, 4, 4)
    seen = flow.trace_estimates(x, draws=2000, generator=torch.Generator().manual_seed(0))[:, 0]
    dynamics = flow._groups[0][0].dynamics
    jacobian = torch.autograd.functional.jacobian(lambda y: dynamics(torch.zeros(()), y), x)
    trace = jacobian.reshape(16, 16).trace()
    assert abs(seen.mean() - trace) < 4.5 * seen.std() / math.sqrt(2000)


def test_a_gradient_reaches_every_parameter() -> None:
    flow = make((1, 8, 8), 2)
    x, context = torch.randn(2, 1, 8, 8), torch.randn(2, 2, requires_grad=True)
    flow.log_prob(x, context).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in flow.parameters())
    assert context.grad is not None


def test_time_matters() -> None:
    for layers in get_args(ConvolutionKind):
        dynamics = ConvolutionalDynamics(1, (3,), layers=layers)
        x = torch.randn(1, 1, 4, 4)
        at: list[Tensor] = [dynamics(torch.tensor(t), x) for t in (0.0, 1.0)]
        assert torch.equal(*at) == (layers == "ignore")


def test_vectors_are_refused() -> None:
    with pytest.raises(InputError, match="images"):
        ImageFFJORD((5,))
