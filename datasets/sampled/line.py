"""A mixture of Gaussians on a line: one dimension, in which a density's mass is seen exactly."""

from __future__ import annotations

import math

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from datasets.base import Array, Entry
from datasets.sampling import Density, SampledConfig

__all__ = ["LineMixture", "LineMixtureConfig"]


class LineMixture(Density):
    """Gaussians of deviation 1 and equal weight, their centres evenly spaced around 0.

    Args:
        components: how many Gaussians.
        distance: between neighbouring centres.
    """

    def __init__(self, components: int, distance: float) -> None:
        self.centres: Array = distance * (np.arange(components) - (components - 1) / 2)

    def sample(self, n: int, random: np.random.Generator) -> Array:
        chosen = self.centres[random.integers(len(self.centres), size=n)]
        return np.asarray(chosen + random.standard_normal(n))[:, None]

    def log_prob(self, x: Tensor) -> Tensor:
        x = x.double()
        square = (x - torch.as_tensor(self.centres, device=x.device)).square()
        normaliser = math.log(len(self.centres) * math.sqrt(2 * math.pi))
        return torch.logsumexp(-square / 2, dim=1) - normaliser

    def entropy(self) -> float:
        """Nats; the trapezoidal rule, which converges geometrically."""
        step, half = 1 / 3, float(self.centres[-1]) + 9
        points = torch.arange(-half, half + step, step, dtype=torch.float64)[:, None]
        density = self.log_prob(points).exp()
        return -float(torch.special.xlogy(density, density).sum()) * step


class LineMixtureConfig(SampledConfig):
    """Gaussians on a line.

    Example:
        One component is a Gaussian.

        >>> data = LineMixtureConfig(components=1, rows=10).load("line")
        >>> round(data.truth.entropy_nats, 6) == round(0.5 * math.log(2 * math.pi * math.e), 6)
        True
    """

    kind = "toy"

    components: PositiveInt = Field(default=3, description="how many Gaussians")
    distance: PositiveFloat = Field(
        default=4.0,
        le=50.0,
        description="between neighbouring centres, in standard deviations, which are 1",
    )

    def seed_names(self) -> tuple[object, ...]:
        return "line", self.components, self.distance

    def density(self) -> LineMixture:
        return LineMixture(self.components, self.distance)


ENTRIES = [
    Entry(
        "line",
        LineMixtureConfig,
        "a mixture of Gaussians in one dimension, entropy by quadrature",
        "closed form",
    ),
]
