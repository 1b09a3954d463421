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

__all__ = ["Noise", "bottleneck_products", "draw_noise", "exact_trace", "products"]

Noise = Literal["gaussian", "rademacher"]

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


def _vector_jacobian(outputs: Tensor, inputs: Tensor, vector: Tensor) -> Tensor:
    """``vector^T d outputs / d inputs``, differentiable where gradients are on outside."""
    (product,) = torch.autograd.grad(
        outputs, inputs, vector, create_graph=torch.is_grad_enabled(), retain_graph=True
    )
    return product


def _all_vector_jacobians(outputs: Tensor, inputs: Tensor, vectors: Tensor) -> Tensor:
    """:func:`_vector_jacobian` for each vector, together where there are many."""
    if len(vectors) < MANY:
        return torch.stack([_vector_jacobian(outputs, inputs, v) for v in vectors])
    found = []
    for some in vectors.split(CHUNK):
        (product,) = torch.autograd.grad(
            outputs,
            inputs,
            some,
            create_graph=torch.is_grad_enabled(),
            retain_graph=True,
            is_grads_batched=True,
        )
        found.append(product)
    return torch.cat(found)


def _differentiable(z: Tensor, outer_grad: bool) -> Tensor:
    """``z`` as something to differentiate by; cut off from its past where nobody asks for that."""
    return z if outer_grad and z.requires_grad else z.detach().requires_grad_(True)


def products(
    velocity: Callable[[Tensor], Tensor], z: Tensor, vectors: Tensor
) -> tuple[Tensor, Tensor]:
    """Velocity and ``v^T J v`` for each given vector.

    Args:
        velocity: ``(n, ...)`` to the same shape, each row from its own row.
        z: state, shape ``(n, ...)``.
        vectors: shape ``(m, n, ...)``: noise for an estimate, unit vectors for the exact trace.

    Returns:
        Velocity, shape of ``z``, and the products, shape ``(m, n)``.
    """
    outer_grad = torch.is_grad_enabled()
    with torch.enable_grad():
        z = _differentiable(z, outer_grad)
        f = velocity(z)
    with torch.set_grad_enabled(outer_grad):
        quadratic = (_all_vector_jacobians(f, z, vectors) * vectors).flatten(2).sum(2)
    return (f if outer_grad else f.detach()), quadratic


def bottleneck_products(
    narrow: Callable[[Tensor], Tensor],
    widen: Callable[[Tensor], Tensor],
    z: Tensor,
    vectors: Tensor,
) -> tuple[Tensor, Tensor]:
    """Velocity and ``v^T (dh/dz)(dg/dh) v`` for f = g(h(z)) and each given vector.

    Args:
        narrow: h, ``(n, D)`` to ``(n, k)``.
        widen: g, ``(n, k)`` to ``(n, D)``.
        z: state, shape ``(n, D)``.
        vectors: shape ``(m, n, k)``.

    Returns:
        Velocity, shape ``(n, D)``, and the products, shape ``(m, n)``.
    """
    outer_grad = torch.is_grad_enabled()
    with torch.enable_grad():
        z = _differentiable(z, outer_grad)
        h = narrow(z)
        f = widen(h)
    with torch.set_grad_enabled(outer_grad):
        quadratic = []
        for v in vectors:
            through_h = _vector_jacobian(h, z, v)
            quadratic.append((_vector_jacobian(f, h, through_h) * v).sum(1))
    return (f if outer_grad else f.detach()), torch.stack(quadratic)


def unit_vectors(n: int, width: int, like: Tensor) -> Tensor:
    """The ``width`` unit vectors for each of ``n`` rows, shape ``(width, n, width)``."""
    identity = torch.eye(width, dtype=like.dtype, device=like.device)
    return identity[:, None, :].expand(width, n, width)


def exact_trace(velocity: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """Velocity and the exact trace of its Jacobian, by D products.

    Args:
        velocity: ``(n, D)`` to ``(n, D)``, each row from its own row.
        z: state, shape ``(n, D)``.

    Returns:
        Velocity, shape ``(n, D)``, and traces, shape ``(n,)``.

    Example:
        >>> a = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
        >>> _, trace = exact_trace(lambda z: z @ a.T, torch.zeros(1, 2))
        >>> trace
        tensor([5.])
    """
    f, diagonal = products(velocity, z, unit_vectors(len(z), z.shape[1], z))
    return f, diagonal.sum(0)
