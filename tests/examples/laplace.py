"""A data set of one's own: independent Laplace variables, whose density is known."""

import math

import numpy as np
from pydantic import Field, PositiveInt
from torch import Tensor

from datasets import Entry, SampledConfig


class Laplace:
    """Density ``exp(-|x|) / 2`` in each of the dimensions."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def sample(self, n: int, random: np.random.Generator) -> np.ndarray:
        return random.laplace(size=(n, self.dimension))

    def log_prob(self, x: Tensor) -> Tensor:
        return -(x.double().abs() + math.log(2)).sum(1)

    def entropy(self) -> float:
        return self.dimension * (1 + math.log(2))


class LaplaceConfig(SampledConfig):
    """Independent Laplace variables of scale 1."""

    kind = "family"

    dimension: PositiveInt = Field(2, description="number of variables")

    def density(self) -> Laplace:
        return Laplace(self.dimension)

    def seed_names(self) -> tuple[object, ...]:
        return "laplace", self.dimension


ENTRIES = [Entry("laplace", LaplaceConfig, "independent Laplace variables", "closed form")]
