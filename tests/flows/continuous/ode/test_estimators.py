"""Estimators of the trace: unbiased, with the variance of their closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import flows
from flows.base import InputError
from flows.continuous.base import ContinuousFlow
from flows.continuous.ode.estimators import (
    ESTIMATORS,
    control_variate,
    exact_trace,
    hutch_plus_plus,
    mean_matrix,
    products_of_mean,
)
from flows.continuous.ode.trace import Product, hutchinson_variance, unit_vectors

WIDTH = 6
DRAWS = 20_000


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def matrices(n: int = 2, alike: float = 0.0) -> Tensor:
    """Not symmetric; the rows' matrices agree the more the closer ``alike`` is to 1."""
    random = torch.Generator().manual_seed(1)
    own = torch.randn(n, WIDTH, WIDTH, dtype=torch.float64, generator=random)
    return alike * own[:1] + (1 - alike) * own


def products_of(matrix: Tensor, spent: list[int] | None = None) -> Product:
    def product(vectors: Tensor) -> Tensor:
        if spent is not None:
            spent.append(len(vectors))
        return torch.einsum("mni,nij->mnj", vectors, matrix)

    return product


def repeated(matrix: Tensor, estimate: Callable[[Product, Tensor], Tensor], draws: int) -> Tensor:
    """Estimates for the rows' matrices, each row repeated so often: ``(draws, n)``."""
    many = matrix.repeat(draws, 1, 1)
    return estimate(products_of(many), many[:, 0]).view(draws, len(matrix))


@pytest.mark.parametrize("count", [3, 4, 12])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_are_unbiased_and_spend_what_they_may(name: str, count: int) -> None:
    matrix = matrices()
    estimate, _ = ESTIMATORS[name]
    spent: list[int] = []
    estimate(products_of(matrices(8), spent), matrices(8)[:, 0], count, generator())
    assert sum(spent) == count
    found = repeated(matrix, lambda p, like: estimate(p, like, count, generator()), DRAWS)
    trace = matrix.diagonal(dim1=1, dim2=2).sum(1)
    error = found.std(0) / math.sqrt(DRAWS)
    assert ((found.mean(0) - trace).abs() < 4 * error + 1e-12).all()


@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
@pytest.mark.parametrize("count", [1, 4])
def test_probes_have_the_variance_of_the_closed_form(noise: str, count: int) -> None:
    matrix = matrices()
    estimate, _ = ESTIMATORS[noise]
    found = repeated(matrix, lambda p, like: estimate(p, like, count, generator()), DRAWS)
    expected = hutchinson_variance(matrix, noise) / count  # type: ignore[arg-type]
    torch.testing.assert_close(found.var(0), expected, rtol=0.06, atol=0)
    # By hand: S of [[1, 2], [4, 3]] is [[1, 3], [3, 3]].
    small = torch.tensor([[[1.0, 2.0], [4.0, 3.0]]])
    assert hutchinson_variance(small, "gaussian").item() == 2 * (1 + 9 + 9 + 9)
    assert hutchinson_variance(small, "rademacher").item() == 2 * 18


def test_a_control_variate_has_the_variance_of_the_difference_from_the_mean() -> None:
    """Of a batch in which two matrices alternate, so that the mean is known."""
    matrix = matrices(alike=0.8)
    found = repeated(matrix, lambda p, like: control_variate(p, like, 3, generator()), DRAWS)
    # Each row of the mean comes from a part of the batch; even and odd rows have even and odd
    # unit vectors, for the width is even: the mean's rows alternate between the two matrices.
    mean = torch.stack([matrix[j % 2, j] for j in range(WIDTH)])
    expected = hutchinson_variance(matrix - mean, "rademacher") / 2
    torch.testing.assert_close(found.var(0), expected, rtol=0.06, atol=1e-12)


def test_where_all_matrices_are_one_the_control_variate_is_exact() -> None:
    matrix = matrices(1).repeat(8, 1, 1)
    found = control_variate(products_of(matrix), matrix[:, 0], 2, generator())
    torch.testing.assert_close(found, matrix.diagonal(dim1=1, dim2=2).sum(1))


@pytest.mark.parametrize("n", [1, 4, 6, 7, 20])
def test_the_mean_matrix_is_that_of_equal_matrices_whatever_the_batch(n: int) -> None:
    matrix = matrices(1).repeat(n, 1, 1)
    spent: list[int] = []
    found = mean_matrix(products_of(matrix, spent), matrix[:, 0])
    torch.testing.assert_close(found, matrix[0])
    assert spent == [products_of_mean(n, WIDTH)] == [math.ceil(WIDTH / n)]


def test_hutch_plus_plus_is_exact_where_the_sketch_holds_the_range() -> None:
    """On a matrix of rank two, with a sketch of two; and with as many directions as there are."""
    random = torch.Generator().manual_seed(2)
    left = torch.randn(3, WIDTH, 2, dtype=torch.float64, generator=random)
    right = torch.randn(3, 2, WIDTH, dtype=torch.float64, generator=random)
    for matrix, count in ((left @ right, 6), (matrices(3), 3 * WIDTH)):
        found = hutch_plus_plus(products_of(matrix), matrix[:, 0], count, generator())
        torch.testing.assert_close(found, matrix.diagonal(dim1=1, dim2=2).sum(1))


def test_hutch_plus_plus_leaves_the_variance_of_what_the_sketch_misses() -> None:
    """Given the sketch: two probes of (1 - P) M (1 - P), P the projection on its range."""
    matrix = matrices(1)
    product = products_of(matrix)
    draws = 4000
    sketches: list[Tensor] = []

    def seen(vectors: Tensor) -> Tensor:
        sketches.append(vectors)
        return product(vectors)

    def once(number: int) -> Tensor:
        return hutch_plus_plus(seen, matrix[:, 0], 3, torch.Generator().manual_seed(number))

    found = torch.cat([once(number) for number in range(draws)])
    expected = []
    for sketch in sketches[0::3]:
        image = product(sketch)[0]
        along = image.T / image.norm()
        rest = torch.eye(WIDTH, dtype=torch.float64) - along @ along.T
        left = rest @ matrix[0] @ rest
        expected.append(hutchinson_variance(left[None], "rademacher"))
    # The mean given the sketch is the trace, whatever the sketch, so that variances average.
    torch.testing.assert_close(found.var(), torch.stack(expected).mean(), rtol=0.12, atol=0)


def test_too_few_products_are_refused() -> None:
    matrix = matrices()
    with pytest.raises(ValueError, match="at least three products, got 2"):
        hutch_plus_plus(products_of(matrix), matrix[:, 0], 2, None)
    with pytest.raises(ValueError, match="takes 3 products of a batch of 2, and a probe one more"):
        control_variate(products_of(matrix), matrix[:, 0], 3, None)


@pytest.mark.parametrize("bottleneck", [None, 2])
def test_the_products_of_a_flow_are_those_of_its_dynamics(bottleneck: int | None) -> None:
    config = flows.configure("ffjord", {"hidden": (5,), "bottleneck": bottleneck})
    torch.manual_seed(0)
    flow = config.build((4,)).double()
    assert isinstance(flow, ContinuousFlow)
    x = torch.randn(3, 4, dtype=torch.float64, generator=generator())
    dynamics = flow.blocks[0].dynamics  # type: ignore[union-attr, index]
    t = torch.zeros((), dtype=torch.float64)

    def jacobian(of: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.jacrev(lambda row: of(row[None])[0]))(at)

    wide = jacobian(lambda z: dynamics(t, z), x)  # type: ignore[operator]
    product = flow.vector_jacobians(x, narrow=False)
    found = product(unit_vectors(3, 4, like=x)).transpose(0, 1)
    torch.testing.assert_close(found, wide)
    if bottleneck is None:
        assert flow.noise_width == 4
        with pytest.raises(InputError, match="no bottleneck"):
            flow.vector_jacobians(x, narrow=True)
        return
    h = dynamics.narrow(t, x)  # type: ignore[operator, union-attr]
    narrow = jacobian(lambda z: dynamics.narrow(t, z), x) @ jacobian(  # type: ignore[operator, union-attr]
        lambda y: dynamics.widen(t, y),  # type: ignore[operator, union-attr]
        h,
    )
    product = flow.vector_jacobians(x)
    assert flow.noise_width == 2
    torch.testing.assert_close(product(unit_vectors(3, 2, like=x)).transpose(0, 1), narrow)
    trace = wide.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(exact_trace(product, h), trace)
