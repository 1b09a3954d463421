"""What every measure is given: a trained flow, its data and its cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.batches import Batches, initialisation_rows
from benchmarks.cell import Cell
from benchmarks.evaluation import evaluate
from datasets import Dataset
from datasets.base import named_seed
from flows import Flow

__all__ = ["EXACT_UP_TO_DIMENSION", "Form", "Subject"]

# An exact trace costs D products with the Jacobian. Up to here the test density is exact, as in
# the official evaluation of tabular sets (up to D = 63); beyond it one unbiased draw is used, as
# there for images.
EXACT_UP_TO_DIMENSION = 64

Form = Literal["eager", "compiled", "JAX"]
"""What computes a flow's training step: PyTorch call by call, torch.compile, or JAX."""


@dataclass
class Subject:
    """A trained flow under measurement.

    Attributes:
        cell: what was trained.
        flow: with the weights of the best validation.
        dataset: what it was trained on.
        arrays: a measure may leave arrays here; they are kept beside the record.
    """

    cell: Cell
    flow: Flow
    dataset: Dataset
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the flow lives."""
        return self.flow.device

    @property
    def form(self) -> Form:
        """What computes a training step."""
        if not self.flow.in_torch:
            return "JAX"
        return "compiled" if self.cell.budget.compile else "eager"

    @cached_property
    def test_log_prob(self) -> tuple[Tensor, Tensor]:
        """The test split as :func:`benchmarks.evaluation.evaluate` gives it, computed once.

        Returns:
            Model values, shape ``(n, *event_shape)``, and the log-density of the stored values in
            nats, shape ``(n,)``, float64.
        """
        exact = self.dataset.dimension <= EXACT_UP_TO_DIMENSION
        return evaluate(self.flow, self.dataset, "test", exact=exact)

    def generator(self, purpose: str) -> torch.Generator:
        """A generator on the flow's device, named by purpose and seed."""
        generator = torch.Generator(self.device)
        return generator.manual_seed(named_seed(purpose, self.cell.seed))

    def test_points(self, rows: int) -> Tensor:
        """The first rows of the test split as model values, the same at every call."""
        raw = torch.as_tensor(self.dataset.test[:rows])
        noise = torch.Generator().manual_seed(named_seed(self.dataset.name, "fixed points"))
        x, _ = self.dataset.preprocessing.forward(raw, noise)
        return x.to(self.device, self.flow.dtype)

    def initialisation_rows(self) -> Tensor:
        """Training rows for :meth:`flows.Flow.initialize`, the same at every call."""
        size = self.cell.budget.batch_size
        return initialisation_rows(self.flow, self.dataset, size, self.cell.seed)

    def batches(self, purpose: str) -> Batches:
        """Training batches of the cell's size."""
        size, generator = self.cell.budget.batch_size, self.generator(purpose)
        return Batches(self.dataset, size, self.device, self.flow.dtype, generator)
