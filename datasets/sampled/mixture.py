"""A mixture of Gaussians in any dimension whose entropy is still exact."""

from __future__ import annotations

import math

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from datasets.base import Array, Entry
from datasets.sampled.gaussian import random_rotation
from datasets.sampling import Density, SampledConfig

__all__ = ["Mixture", "MixtureConfig"]


class Mixture(Density):
    """Isotropic Gaussians of equal weight, their centres on a circle in a plane.

    Across the plane the density is one Gaussian, so the entropy is that of the two-dimensional
    mixture, by quadrature, plus that of a Gaussian in the other dimensions.

    Args:
        axes: orthogonal, shape ``(D, D)``; its first two columns span the plane.
        components: how many Gaussians.
        radius: of the circle.
        deviation: standard deviation of each Gaussian.
    """

    def __init__(self, axes: Array, components: int, radius: float, deviation: float) -> None:
        self.axes = axes
        self.dimension = len(axes)
        self.components = components
        self.radius = radius
        self.deviation = deviation
        angle = 2 * np.pi * np.arange(components) / components
        self.circle: Array = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def sample(self, n: int, random: np.random.Generator) -> Array:
        points: Array = self.deviation * random.standard_normal((n, self.dimension))
        points[:, :2] += self.circle[random.integers(self.components, size=n)]
        return np.asarray(points @ self.axes.T)

    def log_prob(self, x: Tensor) -> Tensor:
        x = x.double() @ torch.as_tensor(self.axes, device=x.device)
        square = x[:, 2:].square().sum(1)
        variance = self.deviation**2
        across = (self.dimension - 2) / 2 * math.log(2 * math.pi * variance)
        return self._log_prob_in_plane(x[:, :2]) - square / (2 * variance) - across

    def _log_prob_in_plane(self, x: Tensor) -> Tensor:
        centres = torch.as_tensor(self.circle, device=x.device)
        variance = self.deviation**2
        square = (x[:, :1] - centres[:, 0]).square() + (x[:, 1:] - centres[:, 1]).square()
        normaliser = math.log(self.components * 2 * math.pi * variance)
        return torch.logsumexp(-square / (2 * variance), dim=1) - normaliser

    def entropy(self) -> float:
        """Nats; the trapezoidal rule, which converges geometrically, in the plane."""
        step = self.deviation / 3
        half = math.ceil((self.radius + 9 * self.deviation) / step)
        axis = torch.arange(-half, half + 1, dtype=torch.float64) * step
        in_plane = 0.0
        # A row of the grid at a time keeps the memory small when the circle is wide.
        for row in axis:
            points = torch.stack([axis, row.expand_as(axis)], dim=1)
            density = self._log_prob_in_plane(points).exp()
            in_plane -= float(torch.special.xlogy(density, density).sum()) * step**2
        across = 0.5 * math.log(2 * math.pi * math.e * self.deviation**2)
        return in_plane + (self.dimension - 2) * across


class MixtureConfig(SampledConfig):
    """Gaussians on a circle in a random plane.

    Example:
        One component is a Gaussian.

        >>> data = MixtureConfig(dimension=3, components=1, rows=10).load("mixture")
        >>> round(data.truth.entropy_nats, 6) == round(1.5 * math.log(2 * math.pi * math.e), 6)
        True
    """

    kind = "family"

    dimension: int = Field(2, ge=2, description="D, at least two")
    components: PositiveInt = Field(8, description="how many Gaussians")
    radius: PositiveFloat = Field(
        8.0, le=50.0, description="of the circle, in standard deviations, which are 1"
    )

    def seed_names(self) -> tuple[object, ...]:
        return "mixture", self.dimension

    def density(self) -> Mixture:
        axes = random_rotation(self.dimension, self.random("rotation"))
        return Mixture(axes, self.components, self.radius, 1.0)


ENTRIES = [
    Entry(
        "mixture",
        MixtureConfig,
        "Gaussians on a circle in a random plane, entropy by quadrature",
        "closed form",
    ),
]
