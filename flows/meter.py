"""Counting what really ran: evaluations of networks inside flows.

Every flow calls :func:`tick` once for each evaluation of one of its networks, where that
evaluation happens. The dynamics of a continuous flow tick once an evaluation of the ODE's
right-hand side, so the count is the "number of function evaluations" (NFE) of Chen et al. 2018
(Neural Ordinary Differential Equations, arXiv:1806.07366). A conditioner of a discrete flow
ticks once a pass, so that RealNVP with ten couplings counts 10 for a density, and MAF with five
layers in D dimensions counts 5 for a density and 5 D for a sample.

Nothing is counted, and nothing is paid, unless a :class:`Meter` is open.
"""

from __future__ import annotations

from types import TracebackType

import torch

__all__ = ["Meter", "tick"]

_open: list[Meter] = []


class Meter:
    """Counts network evaluations while it is open; forward and backward pass apart.

    Meters nest: each one that is open counts. A meter is not bound to a flow, it counts
    everything that runs in its block, in whichever thread (autograd runs the backward pass of a
    CUDA graph in a thread of its own).

    Attributes:
        forward: evaluations outside a backward pass.
        backward: evaluations inside a backward pass, by the adjoint method or by recomputation.

    Example:
        >>> import torch, flows
        >>> flow = flows.build("realnvp", event_shape=(2,), layers=4)
        >>> with flows.Meter() as meter:
        ...     flow.log_prob(torch.zeros(5, 2)).sum().backward()
        >>> meter.forward, meter.backward
        (4, 0)
    """

    def __init__(self) -> None:
        self.forward = 0
        self.backward = 0

    def __enter__(self) -> Meter:
        _open.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _open.remove(self)

    def __repr__(self) -> str:
        return f"Meter(forward={self.forward}, backward={self.backward})"


def tick(evaluations: int = 1) -> None:
    """Report to every open meter that a network has just been evaluated.

    A function that torch.compile has compiled reports nothing.

    Args:
        evaluations: how many evaluations the call stands for; D for a sequential inverse that
            computes in one sweep what D passes through the network would.
    """
    # In a compiled graph counting would be traced once and never run again.
    if not _open or torch.compiler.is_compiling():
        return
    # The one question that autograd answers only in private: is a backward pass under way?
    # torch.utils.checkpoint asks it in the same way.
    in_backward = torch._C._current_graph_task_id() != -1
    for meter in _open:
        if in_backward:
            meter.backward += evaluations
        else:
            meter.forward += evaluations
