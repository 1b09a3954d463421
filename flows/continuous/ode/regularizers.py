"""What training may add to the loss: integrals over the path that hold its velocity in check.

The two of RNODE (Finlay et al. 2020, arXiv:2002.02798, section 3), per sample and not divided by
the dimension, and those of the official code of FFJORD. Dense dynamics have the first two written
out in :mod:`flows.continuous.ode.dense`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flows.continuous.ode.dynamics import DenseDynamics
from flows.continuous.ode.field import Field
from flows.continuous.ode.trace import unit_vectors

__all__ = ["BY_ALL_PRODUCTS", "INTEGRANDS"]

BY_ALL_PRODUCTS = ("jacobian_frobenius", "jacobian_diagonal", "jacobian_off_diagonal")
"""Regularisers that take the whole Jacobian: D products at each evaluation."""


def _transposed(f: Tensor, z: Tensor, vector: Tensor) -> Tensor:
    """``J^T v``, flattened."""
    (product,) = torch.autograd.grad(f, z, vector, create_graph=True, retain_graph=True)
    return product.flatten(1)


def _image(f: Tensor, z: Tensor, vector: Tensor) -> Tensor:
    """``J v``, flattened: what is linear in u of ``J^T u`` has the derivative ``J``."""
    u = torch.zeros_like(f, requires_grad=True)
    (product,) = torch.autograd.grad(f, z, u, create_graph=True)
    (image,) = torch.autograd.grad(product, u, vector, create_graph=True)
    return image.flatten(1)


def _jacobian(f: Tensor, z: Tensor) -> Tensor:
    """J, shape ``(n, D, D)``."""
    vectors = unit_vectors(len(z), z[0].numel(), z)
    return torch.stack([_transposed(f, z, vector.view_as(z)) for vector in vectors], 1)


def _jacobian_norm(f: Tensor, z: Tensor, field: Field) -> Tensor:
    """Mean over the probes of ``||J e||^2`` for dense dynamics, of ``||J^T e||^2`` for others."""
    probes = field.probes
    assert probes is not None
    if probes.narrow:
        # The noise lives in the bottleneck and has no product with J.
        return _jacobian(f, z).square().sum((1, 2))
    product = _image if isinstance(field.held.module, DenseDynamics) else _transposed
    found = torch.stack([product(f, z, v).square().sum(1) for v in probes.vectors])
    # Unit vectors, whose weight is 1, give the whole norm together, and noise an estimate each.
    return found.sum(0) * probes.weight


def _length(vector: Tensor) -> Tensor:
    """Euclidean length of each row, with a gradient at zero."""
    return vector.flatten(1).square().sum(1).add(1e-12).sqrt()


INTEGRANDS: dict[str, Callable[[Tensor, Tensor, Field], Tensor]] = {
    "kinetic_energy": lambda f, z, field: f.flatten(1).square().sum(1),
    "jacobian_norm": _jacobian_norm,
    "mean_speed": lambda f, z, field: f.flatten(1).abs().mean(1),
    "rms_speed": lambda f, z, field: _length(f) / z[0].numel() ** 0.5,
    "directional_derivative": lambda f, z, field: (
        _length(_transposed(f, z, f)) / z[0].numel() ** 0.5
    ),
    "jacobian_frobenius": lambda f, z, field: _length(_jacobian(f, z)),
    "jacobian_diagonal": lambda f, z, field: _length(_jacobian(f, z).diagonal(dim1=1, dim2=2)),
    "jacobian_off_diagonal": lambda f, z, field: _length(
        _jacobian(f, z) * (1 - torch.eye(z[0].numel(), dtype=z.dtype, device=z.device))
    ),
}
"""Of velocity, state and field, the integrand of each regulariser, shape ``(n,)``."""
