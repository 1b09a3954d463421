"""Stacks of dense layers: oneDNN's products and the written derivative against torch's own."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils import benchmark

from flows.activations import Activation
from flows.dense import dense, dense_stack
from flows.linalg import product
from flows.products import Products, onednn_is_there

NONLINEARITIES: dict[Activation, nn.Module] = {
    "relu": nn.ReLU(),
    "tanh": nn.Tanh(),
    "elu": nn.ELU(),
    "silu": nn.SiLU(),
    "softplus": nn.Softplus(),
}
WIDTHS = [(3, 2), (3, 16, 5), (40, 100, 7, 33, 1)]


@pytest.fixture(autouse=True, params=["mkl", "onednn"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """These products are small; where oneDNN is taken for large ones, it is to be right on them."""
    if request.param == "onednn":
        if not onednn_is_there():
            pytest.skip("torch has no oneDNN for this processor")
        monkeypatch.setattr("flows.linalg.LEAST_TERMS", 0)
        monkeypatch.setattr("flows.linalg.chosen_products", lambda: Products(0))


def arguments(widths: tuple[int, ...], n: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Columns, and weight and bias of each layer."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(widths[0], n)]
    for before, after in itertools.pairwise(widths):
        shapes += [(after, before), (after,)]
    return tuple(torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)


def stack(nonlinearity: Activation) -> Callable[..., Tensor]:
    def value(columns: Tensor, *parameters: Tensor) -> Tensor:
        layers = list(zip(parameters[::2], parameters[1::2], strict=True))
        return dense_stack(layers, nonlinearity, columns)

    return value


def reference(nonlinearity: Activation) -> Callable[..., Tensor]:
    def value(columns: Tensor, *parameters: Tensor) -> Tensor:
        rows = columns.T
        for index in range(0, len(parameters), 2):
            if index:
                rows = NONLINEARITIES[nonlinearity](rows)
            rows = nn.functional.linear(rows, parameters[index], parameters[index + 1])
        return rows.T

    return value


def in_double(values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(value.detach().double().requires_grad_() for value in values)


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("n", [1, 50])
@pytest.mark.parametrize("name", NONLINEARITIES)
def test_value_and_gradients_are_those_of_float64(
    name: Activation, widths: tuple[int, ...], n: int
) -> None:
    given = arguments(widths, n)
    exact = in_double(given)
    measured, expected = stack(name)(*given), reference(name)(*exact)
    torch.testing.assert_close(measured.double(), expected, rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(stack(name)(*given), measured)
    cotangent = torch.randn(measured.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(measured, given, cotangent)
    true = torch.autograd.grad(expected, exact, cotangent.double())
    for gradient, truth in zip(gradients, true, strict=True):
        torch.testing.assert_close(gradient.double(), truth, rtol=1e-4, atol=2e-2)


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_gradients_can_be_differentiated_again(name: Activation) -> None:
    def squared_norm(function: Callable[..., Tensor], given: tuple[Tensor, ...]) -> Tensor:
        gradients = torch.autograd.grad(function(*given).sum(), given, create_graph=True)
        return sum((gradient.square().sum() for gradient in gradients), torch.zeros(()))

    given = tuple((0.3 * value).detach().requires_grad_() for value in arguments((3, 8, 5, 2), 6))
    exact = in_double(given)
    measured = torch.autograd.grad(squared_norm(stack(name), given), given, allow_unused=True)
    true = torch.autograd.grad(squared_norm(reference(name), exact), exact, materialize_grads=True)
    for gradient, truth in zip(measured, true, strict=True):
        found = torch.zeros_like(truth) if gradient is None else gradient.double()
        torch.testing.assert_close(found, truth, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_a_gradient_is_computed_for_what_needs_one(name: Activation) -> None:
    given = arguments((3, 8, 2), 6)
    expected = torch.autograd.grad(stack(name)(*given).sum(), given)
    for index in range(len(given)):
        chosen = [value.detach().requires_grad_(i == index) for i, value in enumerate(given)]
        stack(name)(*chosen).sum().backward()
        for i, value in enumerate(chosen):
            if i == index:
                torch.testing.assert_close(value.grad, expected[i])
            else:
                assert value.grad is None


# torch's forward mode imports parts of its own that warn.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_functional_transforms_see_through_a_stack() -> None:
    given = arguments((3, 8, 2), 1)
    value = stack("tanh")
    jacobian = torch.func.jacrev(value)(*given)[:, 0, :, 0]
    _, tangent = torch.func.jvp(
        lambda columns: value(columns, *given[1:]), (given[0],), (torch.ones_like(given[0]),)
    )
    torch.testing.assert_close(tangent[:, 0], jacobian.sum(1))
    batch = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    mapped = torch.func.vmap(lambda columns: value(columns, *given[1:]))(batch)
    one_by_one = torch.stack([value(columns, *given[1:]) for columns in batch])
    torch.testing.assert_close(mapped, one_by_one)


def test_inputs_stay_what_they_are() -> None:
    given = arguments((3, 8, 8, 2), 5)
    before = copy.deepcopy([value.detach() for value in given])
    stack("relu")(*given).sum().backward()
    for value, old in zip(given, before, strict=True):
        torch.testing.assert_close(value.detach(), old, rtol=0, atol=0)


def test_views_and_empty_batches_are_columns_too() -> None:
    columns, weight, bias = arguments((6, 4), 10)
    expected = torch.addmm(bias.unsqueeze(1), weight[:, :3], columns[::2])
    torch.testing.assert_close(dense(weight[:, :3], bias, columns[::2]), expected)
    transposed = columns.detach().T.contiguous().T
    torch.testing.assert_close(
        dense(weight, bias, transposed), torch.addmm(bias.unsqueeze(1), weight, columns)
    )
    assert dense(weight, bias, columns[:, :0]).shape == (4, 0)


def test_a_nan_stays_a_nan() -> None:
    columns, *parameters = arguments((3, 8, 2), 5)
    with torch.no_grad():
        columns[1, 2] = torch.nan
    value = stack("relu")(columns, *parameters)
    assert value[:, 2].isnan().all()
    assert value[:, [0, 1, 3, 4]].isfinite().all()


def test_products_of_slices_are_as_fast_as_of_their_copies() -> None:
    """Of a matrix with gaps oneDNN's own product is hundreds of times as slow."""
    generator = torch.Generator().manual_seed(0)
    rows, wide = (torch.randn(shape, generator=generator) for shape in ((1000, 40), (100, 50)))
    weight, shift = wide[:, :40], wide[:, 45]
    whole = weight.contiguous()
    with torch.no_grad():
        torch.testing.assert_close(product(rows, weight.t()), rows @ whole.t())
        torch.testing.assert_close(product(weight, rows.t()), whole @ rows.t())
        torch.testing.assert_close(product(rows, weight.t(), shift), rows @ whole.t() + shift)
        slices, copies = (
            benchmark.Timer("product(a, b)", globals={"product": product, "a": rows, "b": b.t()})
            .blocked_autorange(min_run_time=0.02)
            .median
            for b in (weight, whole)
        )
    assert slices < 5 * copies


@pytest.mark.parametrize("nonlinearity", ["relu", "silu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_that_are_left_out_change_nothing(
    monkeypatch: pytest.MonkeyPatch, nonlinearity: Activation, dtype: torch.dtype
) -> None:
    """Of weights with stairs of zeros: value, gradients and second derivatives."""
    monkeypatch.setattr("flows.dense._LEAST_TERMS_TO_SKIP", 0)
    steps = [[(0, 16, 3), (16, 30, 5)], [(0, 20, 16), (20, 40, 30)], [(2, 4, 20), (4, 6, 40)]]
    columns, *given = (part.detach().to(dtype) for part in arguments((5, 30, 40, 6), 7))
    for weight, stairs in zip(given[::2], steps, strict=True):
        mask = torch.zeros_like(weight)
        for start, stop, width in stairs:
            mask[start:stop, :width] = 1
        weight *= mask

    def found(stairs: list[list[tuple[int, int, int]]] | None) -> list[Tensor]:
        leaves = [part.clone().requires_grad_() for part in (columns, *given)]
        layers = list(zip(leaves[1::2], leaves[2::2], strict=True))
        with torch.no_grad():
            evaluated = dense_stack(layers, nonlinearity, leaves[0], stairs)
        value = dense_stack(layers, nonlinearity, leaves[0], stairs)
        gradients = torch.autograd.grad(value.square().sum(), leaves, create_graph=True)
        (again,) = torch.autograd.grad(gradients[0].square().sum(), leaves[0])
        free = [
            # What is zero by its mask has a gradient that its mask takes away.
            part * (weight != 0)
            for part, weight in zip(gradients[1::2], given[::2], strict=True)
        ]
        parts = [evaluated, value, gradients[0], *gradients[2::2], *free, again]
        return [part.detach() for part in parts]

    for mine, true in zip(found(steps), found(None), strict=True):
        bound = float(true.abs().max()) * (1e-5 if dtype == torch.float32 else 1e-13)
        torch.testing.assert_close(mine, true, atol=bound, rtol=0)
