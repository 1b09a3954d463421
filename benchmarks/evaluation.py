"""Densities of any number of rows, as validations, tests and measures take them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from datasets import Dataset, Split
from datasets.base import named_seed
from flows import Flow

__all__ = ["EVALUATION_SCALARS", "evaluate", "evaluation_mode", "log_density"]

# Scalars that are evaluated at once: bounds the memory of a validation or a test.
EVALUATION_SCALARS = 2**18


@contextlib.contextmanager
def evaluation_mode(flow: Flow) -> Iterator[None]:
    """The flow in evaluation mode inside the block, as it was after it."""
    was = flow.training
    flow.eval()
    try:
        yield
    finally:
        flow.train(was)


def log_density(
    flow: Flow, x: Tensor, *, exact: bool = False, generator: torch.Generator | None = None
) -> Tensor:
    """Log-density of any number of rows in evaluation mode, without a graph.

    Args:
        flow: whose device and dtype the rows are brought to.
        x: model values, shape ``(n, *event_shape)``.
        exact: as in :meth:`flows.Flow.log_prob`.
        generator: likewise.

    Returns:
        Nats, shape ``(n,)``, float64, on the CPU.
    """
    parts = x.to(flow.dtype).split(max(1, EVALUATION_SCALARS // flow.event_shape.numel()))
    with evaluation_mode(flow), torch.no_grad():
        found = [
            flow.log_prob(part.to(flow.device), exact=exact, generator=generator).cpu()
            for part in parts
        ]
    return torch.cat(found).double()


def evaluate(
    flow: Flow,
    dataset: Dataset,
    split: Split,
    *,
    rows: int | None = None,
    exact: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-density of a split under a flow.

    Dequantisation and estimator noise come from generators named by the set and the split: the
    same noise at every call, so that validations are comparable.

    Args:
        flow: put into evaluation mode for the call.
        dataset: what to evaluate.
        split: ``train``, ``validation`` or ``test``.
        rows: the first so many rows; None for all.
        exact: as in :meth:`flows.Flow.log_prob`.

    Returns:
        ``x``, the model values, shape ``(n, *event_shape)``, and the log-density of the stored
        values in nats, shape ``(n,)``, preprocessing included, in float64; both on the CPU.
    """
    raw = torch.as_tensor(dataset.split(split)[:rows])
    noise = torch.Generator().manual_seed(named_seed(dataset.name, split, "evaluation noise"))
    x, log_abs_det = dataset.preprocessing.forward(raw, noise)
    x = x.to(flow.dtype)
    estimator = torch.Generator(flow.device)
    estimator.manual_seed(named_seed(dataset.name, split, "estimator noise"))
    log_prob = log_density(flow, x, exact=exact, generator=estimator)
    return x, log_prob + log_abs_det.double()
