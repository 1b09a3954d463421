"""The score that any flow should beat: one Gaussian with a full covariance."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from datasets.base import DataError, Dataset, Split, named_seed

__all__ = ["gaussian_baseline", "gaussian_log_prob"]


# Rows handled at a time: bounds the memory of the largest sets.
_CHUNK = 65_536


def _batches(dataset: Dataset, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows ``(n, D)`` that a flow models, and the preprocessing's log-determinants ``(n,)``."""
    generator = torch.Generator().manual_seed(named_seed("gaussian baseline", split))
    stored = dataset.split(split)
    for start in range(0, len(stored), _CHUNK):
        # A copy: stored rows may be a read-only memory map, which torch warns about.
        raw = torch.from_numpy(np.array(stored[start : start + _CHUNK]))
        x, log_abs_det = dataset.preprocessing.forward(raw, generator)
        yield x.flatten(1).double(), log_abs_det.double()


def gaussian_baseline(dataset: Dataset) -> tuple[float, float]:
    """Fit a Gaussian with a full covariance to the training split, score it on the test split.

    The baseline of table 1 in Papamakarios et al. 2017 (arXiv:1705.07057). It is fitted to what a
    flow models, and the change of variables of the preprocessing is added, so that it compares
    with a flow's NLL. Dequantisation noise comes from a generator of its own.

    Args:
        dataset: any; images are taken as vectors.

    Returns:
        Mean NLL in nats of the test split and its standard error over test points (the
        literature's bars are twice that).

    Raises:
        DataError: if the covariance is singular: fewer rows than dimensions, or a column that
            others determine.

    Example:
        >>> import datasets
        >>> data = datasets.load("gaussian", dimension=4, rows=1000)
        >>> nll_nats, nll_nats_stderr = gaussian_baseline(data)
        >>> abs(nll_nats - data.truth.entropy_nats) < 5 * nll_nats_stderr
        True
    """
    nll = -gaussian_log_prob(dataset)
    return float(nll.mean()), float(nll.std() / math.sqrt(len(nll)))


def gaussian_log_prob(dataset: Dataset) -> Tensor:
    """The log-density of each test row under the Gaussian of :func:`gaussian_baseline`.

    Returns:
        Nats, shape ``(n,)``, float64.

    Raises:
        DataError: as there.
    """
    count = 0
    total = torch.zeros(dataset.dimension, dtype=torch.float64)
    moment = torch.zeros(dataset.dimension, dataset.dimension, dtype=torch.float64)
    shift: Tensor | None = None
    for x, _ in _batches(dataset, "train"):
        # Moments around the first chunk's mean: no cancellation where a mean is far from zero.
        shift = x.mean(0) if shift is None else shift
        x = x - shift
        count += len(x)
        total += x.sum(0)
        moment += x.T @ x
    if shift is None:
        raise DataError(f"{dataset.name}: the training split is empty")
    offset = total / count
    factor, failed = torch.linalg.cholesky_ex(moment / count - torch.outer(offset, offset))
    if failed:
        raise DataError(
            f"{dataset.name}: the covariance of the {count} training rows is singular, "
            "so a Gaussian has no density there"
        )
    normaliser = 0.5 * dataset.dimension * math.log(2 * math.pi) + factor.diagonal().log().sum()
    return -torch.cat(
        [
            torch.linalg.solve_triangular(factor, (x - shift - offset).T, upper=False)
            .square()
            .sum(0)
            / 2
            + normaliser
            - log_abs_det
            for x, log_abs_det in _batches(dataset, "test")
        ]
    )
