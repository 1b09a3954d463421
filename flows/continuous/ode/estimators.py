"""Unbiased estimators of a trace from products ``v^T M``, to be compared at equal numbers of them.

A flow trains with Hutchinson's (:mod:`flows.continuous.ode.trace`), which must be a quadratic form
of noise held fixed over a solve. At a fixed point and time there are others:

* Hutch++ (Meyer, Musco, Musco and Woodruff 2021, arXiv:2010.09649, algorithm 1) finds the trace on
  the range of a sketch ``M S`` exactly and estimates what is left. It gains where few directions
  carry the matrix.
* A control variate: with C the mean of the batch's matrices, e^T M e - e^T C e + tr C has
  Hutchinson's variance of M - C. It gains where the matrices of a batch are alike.

Each row of a batch has a matrix of its own, seen by products alone; an estimator spends a given
number of products a row, of which one is at its cheapest a pass through the network and back.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flows.continuous.ode.trace import Noise, Product, draw_noise, unit_vectors

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "control_variate",
    "exact_trace",
    "hutch_plus_plus",
    "hutchinson",
    "mean_matrix",
    "products_of_mean",
]

Estimator = Callable[[Product, Tensor, int, torch.Generator | None], Tensor]
"""Product, a tensor ``(n, width)`` like a row's vector, number of products and source of noise to
an estimate for each row, ``(n,)``."""


def _quadratic(product: Product, vectors: Tensor) -> Tensor:
    """``v^T M v``, shape ``(m, n)``."""
    return (product(vectors) * vectors).sum(2)


def exact_trace(product: Product, like: Tensor) -> Tensor:
    """The trace, by as many products as the rows are wide, shape ``(n,)``."""
    n, width = like.shape
    return _quadratic(product, unit_vectors(n, width, like=like)).sum(0)


def hutchinson(noise: Noise) -> Estimator:
    """Hutchinson's estimator, the mean of as many probes as there are products."""

    def estimate(
        product: Product, like: Tensor, products: int, generator: torch.Generator | None
    ) -> Tensor:
        vectors = draw_noise(noise, (products, *like.shape), like=like, generator=generator)
        return _quadratic(product, vectors).mean(0)

    return estimate


def hutch_plus_plus(
    product: Product, like: Tensor, products: int, generator: torch.Generator | None
) -> Tensor:
    """Hutch++: a third of the products each for sketch, trace on its range, and the rest.

    Raises:
        ValueError: if there are fewer than three products.
    """
    n, width = like.shape
    rank = min(products // 3, width)
    if rank < 1:
        raise ValueError(f"Hutch++ takes at least three products, got {products}")
    left = products - 2 * rank
    # Of few random signs two vectors are often the same, and the sketch then lacks a direction.
    sketch = draw_noise("gaussian", (rank, n, width), like=like, generator=generator)
    probes = draw_noise("rademacher", (left, n, width), like=like, generator=generator)
    # Rows of n matrices (width, rank) with orthonormal columns.
    basis = torch.linalg.qr(product(sketch).permute(1, 2, 0)).Q
    known = _quadratic(product, basis.permute(2, 0, 1).contiguous()).sum(0)
    inside = torch.einsum("nwr,mnw->mnr", basis, probes)
    outside = probes - torch.einsum("nwr,mnr->mnw", basis, inside)
    return known + _quadratic(product, outside).mean(0)


def products_of_mean(n: int, width: int) -> int:
    """How many products the mean matrix of a batch takes: each gives n rows of it."""
    return math.ceil(width / n)


def mean_matrix(product: Product, like: Tensor) -> Tensor:
    """An estimate of the mean of the batch's matrices that depends on no noise.

    Row j of a matrix is its product with the unit vector j. The batch's rows share the unit vectors
    out, and each row of the mean is over those that had it.

    Returns:
        Shape ``(width, width)``.
    """
    n, width = like.shape
    passes = products_of_mean(n, width)
    which = torch.arange(passes * n, device=like.device).view(passes, n) % width
    vectors = torch.nn.functional.one_hot(which, width).to(like.dtype)
    found = product(vectors)
    total = like.new_zeros(width, width).index_add_(0, which.flatten(), found.flatten(0, 1))
    return total / vectors.sum((0, 1))[:, None]


def control_variate(
    product: Product, like: Tensor, products: int, generator: torch.Generator | None
) -> Tensor:
    """Rademacher probes of each matrix's difference from the mean matrix, and that one's trace.

    Raises:
        ValueError: if no product is left when the mean matrix is found.
    """
    probes = products - products_of_mean(*like.shape)
    if probes < 1:
        raise ValueError(
            f"the mean matrix of {like.shape[1]} rows takes {products_of_mean(*like.shape)} "
            f"products of a batch of {len(like)}, and a probe one more; got {products}"
        )
    mean = mean_matrix(product, like)
    vectors = draw_noise("rademacher", (probes, *like.shape), like=like, generator=generator)
    difference = _quadratic(product, vectors) - ((vectors @ mean) * vectors).sum(2)
    return mean.trace() + difference.mean(0)


ESTIMATORS: dict[str, tuple[Estimator, Callable[[int, int], int]]] = {
    "gaussian": (hutchinson("gaussian"), lambda n, width: 1),
    "rademacher": (hutchinson("rademacher"), lambda n, width: 1),
    "hutch_plus_plus": (hutch_plus_plus, lambda n, width: 3),
    "control_variate": (control_variate, lambda n, width: products_of_mean(n, width) + 1),
}
"""Each by its name, with the fewest products it takes for n rows of a width."""
