"""Training rows on the device: in batches, and for a flow's initialisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from datasets import Dataset
from datasets.base import named_seed
from flows import Flow

__all__ = ["Batches", "initialisation_rows"]

# Scalars that a flow is initialised on: bounds the memory of the one pass, which keeps no graph.
INITIALISATION_SCALARS = 2**17


class Batches:
    """Training rows on the device, in random batches; an epoch is one permutation.

    The rows go to the device once; a batch is an index operation there. What is left over at
    the end of an epoch is dropped, another remainder each time.

    Args:
        dataset: its train split is used.
        batch_size: rows a batch, or all rows if there are fewer.
        device: where the rows are to lie.
        dtype: of the model's values.
        generator: on the device; gives order and dequantisation noise.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        device: torch.device,
        dtype: torch.dtype,
        generator: torch.Generator,
    ) -> None:
        self.rows = torch.as_tensor(dataset.train).to(device)
        self.batch_size = min(batch_size, len(self.rows))
        self.preprocessing = dataset.preprocessing
        self.dtype = dtype
        self.generator = generator
        self._epoch: Tensor | None = None
        self._order: Tensor | None = None
        self._next = 0

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        """Model values ``(batch_size, *event_shape)`` and preprocessing log-determinants."""
        if self._order is None or self._next + self.batch_size > len(self._order):
            self._epoch = self.generator.get_state()
            self._order, self._next = self._permutation(), 0
        raw = self.rows[self._order[self._next : self._next + self.batch_size]]
        self._next += self.batch_size
        x, log_abs_det = self.preprocessing.forward(raw, self.generator)
        return x.to(self.dtype), log_abs_det.to(self.dtype)

    def _permutation(self) -> Tensor:
        return torch.randperm(len(self.rows), generator=self.generator, device=self.rows.device)

    def state_dict(self) -> dict[str, Any]:
        """Where in which epoch; the order of the rows follows from the generator's state then."""
        return {"epoch": self._epoch, "next": self._next, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was asked."""
        self._epoch, self._next = state["epoch"], state["next"]
        if self._epoch is not None:
            self.generator.set_state(self._epoch)
            self._order = self._permutation()
        self.generator.set_state(state["generator"])


def initialisation_rows(flow: Flow, dataset: Dataset, batch_size: int, seed: int) -> Tensor:
    """Training rows for :meth:`flows.Flow.initialize`, the same at every call.

    More than a batch where rows are short: what is to hold the data (a spline's box, the scale of
    an actnorm) is found the better the more of them are seen.
    """
    generator = torch.Generator(flow.device)
    generator.manual_seed(named_seed("initialisation", seed))
    size = max(batch_size, INITIALISATION_SCALARS // dataset.dimension)
    return next(Batches(dataset, size, flow.device, flow.dtype, generator))[0]
