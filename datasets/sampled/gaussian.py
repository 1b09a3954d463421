"""Correlated Gaussians of any dimension: the family whose optimum is known in closed form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from datasets.base import Entry
from datasets.sampling import Density, SampledConfig

__all__ = ["Gaussian", "GaussianConfig", "random_rotation", "spread"]

Matrix = np.ndarray[Any, np.dtype[np.float64]]


def random_rotation(dimension: int, random: np.random.Generator) -> Matrix:
    """An orthogonal matrix from the uniform (Haar) distribution.

    The QR decomposition of a Gaussian matrix, with the signs that make it unique (Mezzadri 2007,
    arXiv:math-ph/0609050, section 5).
    """
    q, r = np.linalg.qr(random.standard_normal((dimension, dimension)))
    return np.asarray(q * np.sign(np.diag(r)), dtype=np.float64)


def spread(dimension: int, condition_number: float) -> Matrix:
    """Positive numbers, evenly spaced on a logarithmic scale, whose product is 1, shape ``(D,)``.

    The largest is the condition number times the smallest; in one dimension there is 1 alone.
    """
    exponents = np.linspace(0.5, -0.5, dimension) if dimension > 1 else np.zeros(1)
    return np.asarray(condition_number**exponents)


class Gaussian(Density):
    """A Gaussian with mean zero, given by the axes and variances of its covariance.

    Args:
        axes: orthogonal, shape ``(D, D)``; a column is an eigenvector of the covariance.
        variances: its eigenvalues, shape ``(D,)``.
    """

    def __init__(self, axes: Matrix, variances: Matrix) -> None:
        self.axes = axes
        self.variances = variances

    def sample(self, n: int, random: np.random.Generator) -> Matrix:
        normal = random.standard_normal((n, len(self.variances)))
        return np.asarray((normal * np.sqrt(self.variances)) @ self.axes.T, dtype=np.float64)

    def log_prob(self, x: Tensor) -> Tensor:
        x = x.double()
        axes = torch.as_tensor(self.axes, device=x.device)
        variances = torch.as_tensor(self.variances, device=x.device)
        square = ((x @ axes).square() / variances).sum(1)
        return -0.5 * (square + (2 * math.pi * variances).log().sum())

    def entropy(self) -> float:
        """``log det(2 pi e covariance) / 2`` nats."""
        return float(0.5 * np.log(2 * math.pi * math.e * self.variances).sum())


class GaussianConfig(SampledConfig):
    """A Gaussian whose covariance has a set condition number, in a random orientation.

    The variances along its axes are evenly spaced on a logarithmic scale and their product is 1:
    the entropy, ``D log(2 pi e) / 2``, is that of the standard Gaussian whatever the condition
    number.

    Example:
        >>> data = GaussianConfig(dimension=3, rows=10).load("gaussian")
        >>> data.train.shape, round(data.truth.entropy_nats, 4)
        ((10, 3), 4.2568)
    """

    kind = "family"

    dimension: PositiveInt = Field(2, description="D")
    condition_number: float = Field(
        10.0,
        ge=1.0,
        le=1e6,
        description="the largest variance over the smallest; without effect in one dimension",
    )

    def seed_names(self) -> tuple[object, ...]:
        return "gaussian", self.dimension

    def density(self) -> Gaussian:
        axes = random_rotation(self.dimension, self.random("rotation"))
        return Gaussian(axes, spread(self.dimension, self.condition_number))


ENTRIES = [
    Entry(
        "gaussian",
        GaussianConfig,
        "correlated Gaussian of any dimension, entropy known",
        "closed form",
    ),
    Entry(
        "isotropic",
        GaussianConfig,
        "standard Gaussian of any dimension: what a flow must not spoil",
        "closed form",
        {"condition_number": 1.0},
    ),
]
