"""Data sets that are drawn from a known density."""

from __future__ import annotations

import abc
from typing import Any, Protocol

import numpy as np
from pydantic import Field, PositiveInt
from torch import Tensor

from datasets.base import Array, Dataset, DatasetConfig, Split, Truth, make_dataset, named_generator

__all__ = ["Density", "SampledConfig"]

# Rows of the validation and of the test split.
HELD_OUT = 10_000


class Density(Protocol):
    """A density that can be sampled and evaluated."""

    def sample(self, n: int, random: np.random.Generator) -> Array:
        """Draw ``n`` independent points, shape ``(n, D)``, float64."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, shape ``(n,)``, float64, of points ``(n, D)`` on any device."""

    def entropy(self) -> float:
        """Differential entropy in nats."""


class SampledConfig(DatasetConfig):
    """Options of a density from which independent rows are drawn.

    Each split comes from a generator of its own, named by the density and the split, so that
    validation and test do not depend on ``rows``: 10,000 rows each. The training split is drawn in
    blocks of the default number of rows, each from a generator of its own, and cut off at
    ``rows``: a smaller number's rows are the first of a larger one's, whatever the order in which
    a density uses its generator. Another ``split`` is another draw of all three from the same
    density: its parameters do not depend on it.
    """

    rows: PositiveInt = Field(
        50_000, description="size of the training split, as large as one likes"
    )

    @abc.abstractmethod
    def density(self) -> Density:
        """The density; its random parameters, if any, come from :meth:`random`."""

    @abc.abstractmethod
    def seed_names(self) -> tuple[object, ...]:
        """What names the generators, before the purpose."""

    def truth(self, density: Density) -> Truth:
        """The density as a flow is measured by it; the entropy is computed when first read."""
        return Truth(density.log_prob, density.entropy)

    def random(self, *purpose: object) -> np.random.Generator:
        """A generator named by the density and the purpose."""
        return named_generator(*self.seed_names(), *purpose)

    def sizes(self) -> tuple[int | None, int, int]:
        return None, HELD_OUT, HELD_OUT

    def whole(self, name: str) -> Dataset:
        density = self.density()
        splits = [
            self._draw(density, "train", self.rows, type(self).model_fields["rows"].default),
            self._draw(density, "validation", HELD_OUT, HELD_OUT),
            self._draw(density, "test", HELD_OUT, HELD_OUT),
        ]
        return make_dataset(name, self.kind, splits, truth=self.truth(density))

    def _draw(self, density: Density, purpose: Split, count: int, block: int) -> Array:
        """The first rows of an endless sequence of blocks, float32, shape ``(count, D)``."""
        split: tuple[Any, ...] = ("split", self.split) if self.split else ()
        blocks = [
            density.sample(block, self.random(purpose, *split, *(("block", i) if i else ())))
            for i in range(-(-count // block))
        ]
        return np.concatenate(blocks)[:count].astype(np.float32)
