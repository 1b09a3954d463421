"""Neal's funnel: one coordinate is the logarithm of the variance of all others."""

from __future__ import annotations

import math

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from datasets.base import Array, Dataset, DatasetConfig, Truth, make_dataset, named_seed

__all__ = ["Funnel", "FunnelConfig"]


class Funnel:
    """``v ~ N(0, s^2)`` and ``x_i | v ~ N(0, e^v)`` (Neal 2003, doi:10.1214/aos/1056562461).

    Args:
        dimension: D, with v as the first coordinate.
        deviation: s; 3 in the paper's section 8, which has D = 10.
    """

    def __init__(self, dimension: int, deviation: float) -> None:
        self.dimension = dimension
        self.deviation = deviation

    def sample(self, n: int, random: np.random.Generator) -> Array:
        """Draw ``n`` points, shape ``(n, D)``, float64."""
        points: Array = random.standard_normal((n, self.dimension))
        points[:, 0] *= self.deviation
        points[:, 1:] *= np.exp(points[:, :1] / 2)
        return points

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, shape ``(n,)``, of points ``(n, D)``."""
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


class FunnelConfig(DatasetConfig):
    """Neal's funnel.

    Attributes:
        dimension: D, at least two.
        deviation: of the first coordinate.
        rows: size of the training split; validation and test have 10,000 rows each.
    """

    dimension: int = Field(default=10, ge=2)
    deviation: PositiveFloat = Field(default=3.0, le=10.0)
    rows: PositiveInt = 50_000

    def load(self, name: str) -> Dataset:
        """Draw the splits, each from a generator of its own.

        Args:
            name: the catalog's name.

        Returns:
            The data set with its truth.

        Example:
            >>> round(FunnelConfig(rows=10).load("funnel").truth.entropy_nats, 4)
            15.288
        """
        funnel = Funnel(self.dimension, self.deviation)
        splits = [
            funnel.sample(
                n,
                np.random.Generator(np.random.PCG64(named_seed("funnel", self.dimension, split))),
            )
            for split, n in (("train", self.rows), ("validation", 10_000), ("test", 10_000))
        ]
        return make_dataset(
            name,
            "gaussian",
            [split.astype(np.float32) for split in splits],
            truth=Truth(funnel.log_prob, funnel.entropy),
        )
