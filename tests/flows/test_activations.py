"""The one table of nonlinearities against torch's own and against autograd's derivatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from flows.activations import NONLINEARITIES, activation, pure_activation

TORCHS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "elu": functional.elu,
    "silu": functional.silu,
    "swish": functional.silu,
    "softplus": functional.softplus,
    "square": torch.square,
}
EVERY = pytest.mark.parametrize("name", NONLINEARITIES)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def points(dtype: torch.dtype) -> Tensor:
    """Either side of the kinks, and none on them."""
    return torch.linspace(-6, 6, 60, dtype=dtype)


@EVERY
@DTYPES
def test_values_are_torchs(name: str, dtype: torch.dtype) -> None:
    rule, p = NONLINEARITIES[name], points(dtype)
    expected = TORCHS[name](p)
    torch.testing.assert_close(rule.pure(p), expected)
    assert torch.equal(p, points(dtype))
    for function in (rule.in_place, rule.value):
        torch.testing.assert_close(function(points(dtype)), expected)


@EVERY
@DTYPES
def test_derivatives_are_those_of_autograd(name: str, dtype: torch.dtype) -> None:
    rule, p = NONLINEARITIES[name], points(dtype).requires_grad_()
    (slope,) = torch.autograd.grad(TORCHS[name](p).sum(), p, create_graph=True)
    curvature = torch.zeros_like(p)
    if slope.requires_grad:
        (curvature,) = torch.autograd.grad(slope.sum(), p)
    p, slope = p.detach(), slope.detach()
    first, second = torch.randn(2, len(p), dtype=dtype, generator=torch.Generator().manual_seed(0))

    grad = first.clone()
    pulled = rule.pull_back(grad, rule.pure(p) if rule.keeps_result else p)
    torch.testing.assert_close(pulled, slope * first)
    assert pulled.data_ptr() == grad.data_ptr()

    argument = p.clone()
    a = rule.value(argument)
    s = rule.slope(a, argument)
    torch.testing.assert_close(s, slope)
    assert rule.keeps_result or torch.equal(argument, p)
    before = first.clone(), a.clone(), s.clone()
    folded = rule.fold(first, second.clone(), a, s, argument if rule.folds_argument else None)
    torch.testing.assert_close(folded, slope * first + curvature * second)
    assert all(torch.equal(*pair) for pair in zip(before, (first, a, s), strict=True))


def test_a_name_gives_either_form() -> None:
    p = points(torch.float32)
    kept = pure_activation("relu")(p)
    assert torch.equal(p, points(torch.float32))
    torch.testing.assert_close(activation("relu")(p), kept)
    assert torch.equal(p, kept)
