"""A multivariate Student t: heavier tails than any Gaussian base can make with bounded slope."""

from __future__ import annotations

import math

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from datasets.base import Array, Entry
from datasets.sampled.gaussian import random_rotation, spread
from datasets.sampling import Density, SampledConfig

__all__ = ["StudentT", "StudentTConfig"]


class StudentT(Density):
    """The multivariate t with mean zero (Kotz and Nadarajah 2004, ISBN 978-0521826549, eq. 1.1).

    Args:
        axes: orthogonal, shape ``(D, D)``; the columns are the axes of the scale matrix.
        scales: squares of its lengths along them, shape ``(D,)``.
        freedom: degrees of freedom.
    """

    def __init__(self, axes: Array, scales: Array, freedom: float) -> None:
        # SciPy takes its time to import, and few sets need it.
        from scipy.special import gammaln

        self.axes = axes
        self.scales = scales
        self.freedom = freedom
        dimension = len(scales)
        self._log_normaliser = float(
            gammaln((freedom + dimension) / 2)
            - gammaln(freedom / 2)
            - 0.5 * np.log(freedom * math.pi * scales).sum()
        )

    def sample(self, n: int, random: np.random.Generator) -> Array:
        """Draw ``n`` points, shape ``(n, D)``, float64: normals over the root of a chi-squared."""
        normal = random.standard_normal((n, len(self.scales)))
        shrink = np.sqrt(random.chisquare(self.freedom, size=(n, 1)) / self.freedom)
        return np.asarray((normal / shrink * np.sqrt(self.scales)) @ self.axes.T)

    def log_prob(self, x: Tensor) -> Tensor:
        along = x.double() @ torch.as_tensor(self.axes, device=x.device)
        square = (along.square() / torch.as_tensor(self.scales, device=x.device)).sum(1)
        power = (self.freedom + len(self.scales)) / 2
        return self._log_normaliser - power * torch.log1p(square / self.freedom)

    def entropy(self) -> float:
        """Nats: the mean of ``log(1 + square / freedom)`` is a difference of digammas."""
        from scipy.special import digamma

        half = (self.freedom + len(self.scales)) / 2
        return float(half * (digamma(half) - digamma(self.freedom / 2)) - self._log_normaliser)


class StudentTConfig(SampledConfig):
    """A multivariate Student t in a random orientation.

    The scales along its axes are evenly spaced on a logarithmic scale and their product is 1, as
    in :class:`datasets.sampled.gaussian.GaussianConfig`.

    Example:
        With one degree of freedom in one dimension it is the Cauchy distribution.

        >>> data = StudentTConfig(dimension=1, freedom=1.0, rows=10).load("student-t")
        >>> round(data.truth.entropy_nats, 6) == round(math.log(4 * math.pi), 6)
        True
    """

    kind = "family"

    dimension: PositiveInt = Field(2, description="D")
    freedom: float = Field(
        3.0,
        ge=1.0,
        description="degrees of freedom; moments of this order and above are infinite",
    )
    condition_number: float = Field(10.0, ge=1.0, le=1e6, description="of the scale matrix")

    def seed_names(self) -> tuple[object, ...]:
        return "student-t", self.dimension

    def density(self) -> StudentT:
        axes = random_rotation(self.dimension, self.random("rotation"))
        return StudentT(axes, spread(self.dimension, self.condition_number), self.freedom)


ENTRIES = [
    Entry(
        "student-t",
        StudentTConfig,
        "correlated Student t with heavy tails, entropy known",
        "closed form",
    ),
]
