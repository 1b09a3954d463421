"""The processes that train one flow together, each on a device and with its share of every batch.

All hold the same flow and the same data, and draw the same batches and the same noise; each
computes the loss of its own rows, and the gradients are those of the whole batch
(DistributedDataParallel), so that the weights are those of one device within rounding. What
clocks and validations decide, the first process decides for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from flows import Flow, InputError
from flows.shares import Share, sharing

__all__ = ["ALONE", "LossOf", "Team"]


class LossOf(nn.Module):
    """A flow's loss as what a module's call gives, which is what DistributedDataParallel wraps."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """As :meth:`flows.Flow.loss`."""
        return self.flow.loss(x, generator=generator)


Backward = Callable[[Tensor, torch.Generator], Tensor]
"""A batch and the source of noise to the loss, whose gradient the parameters then have."""


class Team:
    """So many processes of a process group, of which this is one.

    Args:
        rank: of this process; 0 decides.
        size: how many there are; one needs no process group.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def backward(self, flow: Flow, *, compiled: bool = False) -> Backward:
        """What computes a batch's loss and gradients, every process its part.

        Raises:
            InputError: if the flow's loss of a batch is not that of its parts.
        """
        if self.size == 1:
            loss_of = flow.compiled_loss() if compiled else flow.loss

            def alone(x: Tensor, generator: torch.Generator) -> Tensor:
                loss = loss_of(x, generator=generator)
                loss.backward()
                return loss.detach()

            return alone
        if why := flow.indivisible:
            raise InputError(f"devices = {self.size}: {why}; train it on one device")
        wrapped = DistributedDataParallel(LossOf(flow))

        def together(x: Tensor, generator: torch.Generator) -> Tensor:
            share = self.share(len(x))
            with sharing(share):
                loss = wrapped(x[share.start : share.stop], generator) * share.part
                # DistributedDataParallel divides the sum of the gradients by the processes.
                (loss * self.size).backward()
            found: Tensor = loss.detach()
            dist.all_reduce(found)
            return found

        return together

    def share(self, rows: int) -> Share:
        """The rows of a batch that are this process's, as many as the others' or one more.

        Raises:
            InputError: if there are fewer rows than processes.
        """
        if rows < self.size:
            raise InputError(f"devices = {self.size} divide a batch of {rows} rows: take fewer")
        cuts = [rows * rank // self.size for rank in (self.rank, self.rank + 1)]
        return Share(cuts[0], cuts[1], rows)

    def told(self, values: Sequence[float]) -> list[float]:
        """What the first process says. The host waits for it, not for a device."""
        if self.size == 1:
            return list(values)
        said = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(said, 0)
        return said.tolist()


ALONE = Team()
