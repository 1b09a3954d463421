"""A Gaussian bent along a parabola: far from Gaussian, with the entropy of one."""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field, PositiveFloat
from torch import Tensor

from datasets.base import Array, Entry
from datasets.sampling import Density, SampledConfig

__all__ = ["Banana", "BananaConfig"]


class Banana(Density):
    """``x_1 = a z_1``, ``x_2 = z_2 + b (x_1^2 - a^2)``, ``x_i = z_i``, z standard normal.

    The twist of Haario, Saksman and Tamminen 1999 (doi:10.1007/s001800050022), which
    keeps volumes, centred. Theirs has a = 10 and b = 0.03 or 0.1; what shapes the banana is
    ``b a^2``, 3 or 10.

    Args:
        dimension: D.
        deviation: a.
        bend: b.
    """

    def __init__(self, dimension: int, deviation: float, bend: float) -> None:
        self.dimension = dimension
        self.deviation = deviation
        self.bend = bend

    def sample(self, n: int, random: np.random.Generator) -> Array:
        points: Array = random.standard_normal((n, self.dimension))
        points[:, 0] *= self.deviation
        points[:, 1] += self.bend * (points[:, 0] ** 2 - self.deviation**2)
        return points

    def log_prob(self, x: Tensor) -> Tensor:
        x = x.double()
        straight = x[:, 1] - self.bend * (x[:, 0].square() - self.deviation**2)
        square = (x[:, 0] / self.deviation).square() + straight.square()
        square = square + x[:, 2:].square().sum(1)
        normaliser = self.dimension / 2 * math.log(2 * math.pi) + math.log(self.deviation)
        return -0.5 * square - normaliser

    def entropy(self) -> float:
        """Nats: that of the Gaussian, for the twist keeps volumes."""
        return self.dimension / 2 * math.log(2 * math.pi * math.e) + math.log(self.deviation)


class BananaConfig(SampledConfig):
    """A banana; the defaults are Haario's milder one, its long axis five times shorter.

    Example:
        >>> round(BananaConfig(rows=10).load("banana").truth.entropy_nats, 4)
        3.531
    """

    kind = "family"

    dimension: int = Field(2, ge=2, description="D, at least two")
    deviation: PositiveFloat = Field(
        2.0, description="a, along the first coordinate before the bend"
    )
    bend: float = Field(0.75, description="b")

    def seed_names(self) -> tuple[object, ...]:
        return "banana", self.dimension

    def density(self) -> Banana:
        return Banana(self.dimension, self.deviation, self.bend)


ENTRIES = [
    Entry(
        "banana",
        BananaConfig,
        "a Gaussian bent along a parabola, entropy known",
        "Haario, Saksman and Tamminen 1999, doi:10.1007/s001800050022",
    ),
]
