"""A batch that several processes divide: each has some of its rows, and all act as for the whole.

Inside :func:`sharing` a flow is given the rows of one process. What it draws for a batch is drawn
for all rows, by the same generator in every process, and its own are taken; what it averages over
a batch (statistics, errors of a solver) is averaged over all processes, so that they take the same
decisions. Outside of it everything is as if this file were not there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Share", "current", "drawn", "mean", "sharing", "var_mean"]


@dataclass(frozen=True)
class Share:
    """The rows of this process.

    Attributes:
        start: the first of them.
        stop: one past the last; there is one at least.
        rows: of the whole batch.
    """

    start: int
    stop: int
    rows: int

    @property
    def part(self) -> float:
        """The rows of one process over those of the batch."""
        return (self.stop - self.start) / self.rows


# Of the process, not of a thread: a backward pass on CUDA runs in another.
_current: Share | None = None


def current() -> Share | None:
    """The rows of this process; None where a batch is not divided."""
    return _current


@contextlib.contextmanager
def sharing(share: Share) -> Iterator[None]:
    """Flows that are evaluated in the block are given these rows of a batch."""
    global _current
    _current = share
    try:
        yield
    finally:
        _current = None


def drawn(draw: Callable[[Sequence[int]], Tensor], shape: Sequence[int], axis: int) -> Tensor:
    """Random numbers for the rows of this process, out of those for the whole batch.

    Args:
        draw: gives a tensor of a shape.
        shape: that is wanted here.
        axis: along which the batch lies.
    """
    share = _current
    if share is None:
        return draw(shape)
    whole = [*shape]
    whole[axis] = share.rows
    return draw(whole).narrow(axis, share.start, share.stop - share.start).contiguous()


def mean(here: Tensor) -> Tensor:
    """Means over the rows of this process to means over the whole batch; differentiable."""
    share = _current
    if share is None:
        return here
    found: Tensor = _Sum.apply(here * share.part)
    return found


def var_mean(x: Tensor, dim: int, correction: int) -> tuple[Tensor, Tensor]:
    """As :func:`torch.var_mean`, of the whole batch, which lies along ``dim``."""
    share = _current
    if share is None:
        found: tuple[Tensor, Tensor] = torch.var_mean(x, dim, correction=correction)
        return found
    center = mean(x.mean(dim))
    variance = mean((x - center.unsqueeze(dim)).square().mean(dim))
    # A row may stand for several numbers, as the pixels of a channel.
    count = round(x.shape[dim] / share.part)
    return variance * (count / (count - correction)), center


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, here: Tensor) -> Tensor:
        found = here.clone()
        dist.all_reduce(found)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        found = gradients[0].contiguous().clone()
        dist.all_reduce(found)
        return found
