"""Neal's funnel: one coordinate is the logarithm of the variance of all others."""

from __future__ import annotations

import math

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from datasets.base import Array, Entry
from datasets.sampling import Density, SampledConfig

__all__ = ["Funnel", "FunnelConfig"]


class Funnel(Density):
    """``v ~ N(0, s^2)`` and ``x_i | v ~ N(0, e^v)`` (Neal 2003, doi:10.1214/aos/1056562461).

    Args:
        dimension: D, with v as the first coordinate.
        deviation: s; 3 in the paper's section 8, which has D = 10.
    """

    def __init__(self, dimension: int, deviation: float) -> None:
        self.dimension = dimension
        self.deviation = deviation

    def sample(self, n: int, random: np.random.Generator) -> Array:
        points: Array = random.standard_normal((n, self.dimension))
        points[:, 0] *= self.deviation
        points[:, 1:] *= np.exp(points[:, :1] / 2)
        return points

    def log_prob(self, x: Tensor) -> Tensor:
        x = x.double()
        v = x[:, 0]
        neck = -0.5 * (v / self.deviation).square() - 0.5 * math.log(
            2 * math.pi * self.deviation**2
        )
        square = x[:, 1:].square().sum(1) * torch.exp(-v)
        return neck - 0.5 * (square + (self.dimension - 1) * (v + math.log(2 * math.pi)))

    def entropy(self) -> float:
        """Nats: as v has mean 0, that of independent Gaussians of deviations s, 1, 1, ..."""
        return self.dimension / 2 * math.log(2 * math.pi * math.e) + math.log(self.deviation)


class FunnelConfig(SampledConfig):
    """Neal's funnel.

    Example:
        >>> round(FunnelConfig(rows=10).load("funnel").truth.entropy_nats, 4)
        15.288
    """

    kind = "family"

    dimension: int = Field(10, ge=2, description="D, at least two")
    deviation: PositiveFloat = Field(3.0, le=10.0, description="of the first coordinate")

    def seed_names(self) -> tuple[object, ...]:
        return "funnel", self.dimension

    def density(self) -> Funnel:
        return Funnel(self.dimension, self.deviation)


ENTRIES = [
    Entry(
        "funnel",
        FunnelConfig,
        "a coordinate sets the scale of all others, entropy known",
        "Neal 2003, Slice sampling, doi:10.1214/aos/1056562461, section 8",
    ),
]
