"""The trace of the dynamics' Jacobian: exact, or Hutchinson's unbiased estimate.

A continuous flow's log-density changes by the trace of the Jacobian J = df/dz (Chen et al. 2018,
arXiv:1806.07366, Theorem 1). Hutchinson's estimator replaces tr J by e^T J e with noise e of zero
mean and unit covariance (Hutchinson 1989; Grathwohl et al. 2018, arXiv:1810.01367, section 3.1).
With S = (J + J^T) / 2 its variance over the noise is

* Gaussian noise: 2 ||S||_F^2,
* Rademacher noise: 2 (||S||_F^2 - sum_i S_ii^2).

For dynamics f = g(h(z)) through a bottleneck of width k the trace of the D x D matrix
(dg/dh)(dh/dz) equals that of the k x k matrix (dh/dz)(dg/dh), so that noise of width k serves
(section 3.1.1 of the same paper); the variances above hold with S the symmetric part of the
latter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from flows.base import draw_normal

__all__ = [
    "Noise",
    "Product",
    "draw_noise",
    "hutchinson_variance",
    "products",
    "pulled_back",
    "unit_vectors",
]

Noise = Literal["gaussian", "rademacher"]
Product = Callable[[Tensor], Tensor]
"""Vectors v, ``(m, n, ...)``, to ``v^T M`` of the same shape, each row with a matrix of its own."""

MANY = 8
"""From so many products on they are computed together, which has a price of its own."""
CHUNK = 64
"""So many products are computed together at most, which bounds the memory."""


def draw_noise(
    kind: Noise,
    shape: Sequence[int],
    *,
    like: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """Noise of zero mean and unit covariance, for Hutchinson's estimator.

    Args:
        kind: standard normal, or -1 and +1 with equal odds.
        shape: shape of the result.
        like: tensor whose dtype and device the result gets.
        generator: source of randomness; None for torch's global one.
    """
    if kind == "gaussian":
        return draw_normal(shape, like=like, generator=generator)
    device = like.device if generator is None else generator.device
    bits = torch.randint(0, 2, tuple(shape), device=device, generator=generator)
    return (2 * bits - 1).to(device=like.device, dtype=like.dtype)


def _vector_jacobians(outputs: Tensor, inputs: Tensor, vectors: Tensor) -> Tensor:
    """``v^T d outputs / d inputs`` for each vector, differentiable where gradients are on outside.

    Many are computed together.
    """
    together = len(vectors) >= MANY
    found = []
    for some in vectors.split(CHUNK) if together else vectors:
        (product,) = torch.autograd.grad(
            outputs,
            inputs,
            some,
            create_graph=torch.is_grad_enabled(),
            retain_graph=True,
            is_grads_batched=together,
        )
        found.append(product)
    return torch.cat(found) if together else torch.stack(found)


def pulled_back(
    velocity: Callable[[Tensor], Tensor],
    z: Tensor,
    narrow: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Product]:
    """Velocity, and the products ``v^T M`` at one state.

    Args:
        velocity: f, ``(n, ...)`` to the same shape, each row from its own row; with a bottleneck
            g of f = g(h(z)), ``(n, k)`` to ``(n, D)``.
        z: state, shape ``(n, ...)``.
        narrow: h, ``(n, D)`` to ``(n, k)``; None without a bottleneck.

    Returns:
        Velocity, shape of ``z``, and the function of vectors, ``(m, n, ...)``, with a bottleneck
        ``(m, n, k)``, where M is the Jacobian, or ``(dh/dz)(dg/dh)``.
    """
    outer_grad = torch.is_grad_enabled()
    with torch.enable_grad():
        # Cut off from its past where nobody asks for that.
        z = z if outer_grad and z.requires_grad else z.detach().requires_grad_(True)
        h = z if narrow is None else narrow(z)
        f = velocity(h)

    def product(vectors: Tensor) -> Tensor:
        pulled = vectors if narrow is None else _vector_jacobians(h, z, vectors)
        return _vector_jacobians(f, h, pulled)

    return (f if outer_grad else f.detach()), product


def products(
    velocity: Callable[[Tensor], Tensor],
    z: Tensor,
    vectors: Tensor,
    narrow: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Velocity, and ``v^T M v`` for each given vector.

    Args:
        velocity: as :func:`pulled_back` takes it.
        z: state, shape ``(n, ...)``.
        vectors: shape ``(m, n, ...)``, with a bottleneck ``(m, n, k)``: noise for an estimate,
            unit vectors for the exact trace.
        narrow: as :func:`pulled_back` takes it.

    Returns:
        Velocity, shape of ``z``, and the products, shape ``(m, n)``.
    """
    f, product = pulled_back(velocity, z, narrow)
    return f, (product(vectors) * vectors).flatten(2).sum(2)


def hutchinson_variance(matrix: Tensor, noise: Noise) -> Tensor:
    """The variance of one probe's ``e^T M e``, by the closed forms above.

    Args:
        matrix: M, shape ``(n, k, k)``.
        noise: of the probe.

    Returns:
        Shape ``(n,)``.
    """
    symmetric = (matrix + matrix.mT) / 2
    squares = symmetric.square().sum((1, 2))
    if noise == "rademacher":
        # What rounding leaves of nothing is no variance.
        diagonal = symmetric.diagonal(dim1=1, dim2=2).square().sum(1)
        squares = (squares - diagonal).clamp(min=0)
    return 2 * squares


def unit_vectors(n: int, width: int, like: Tensor) -> Tensor:
    """The ``width`` unit vectors for each of ``n`` rows, shape ``(width, n, width)``."""
    identity = torch.eye(width, dtype=like.dtype, device=like.device)
    return identity[:, None, :].expand(width, n, width)
