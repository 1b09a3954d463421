"""Counting what really ran: evaluations of networks inside flows.

Every flow calls :func:`tick` once for each evaluation of one of its networks, where that
evaluation happens. One evaluation is one use of each of the network's weights on a batch, in
however many pieces. The dynamics of a continuous flow tick once an evaluation of the ODE's
right-hand side, so the count is the "number of function evaluations" (NFE) of Chen et al. 2018
(Neural Ordinary Differential Equations, arXiv:1806.07366). A conditioner of a discrete flow
ticks once a pass, so that RealNVP with ten couplings counts 10 for a density.

The sequential direction of an autoregressive flow (samples of MAF, densities of IAF) is where the
count tells implementations apart. Run naively it takes D passes through each of its networks, of
which each is thrown away but for one feature; other libraries do that, and count 5 D for a sample
of MAF with five layers in D dimensions (some a few passes more, which count too). Ours goes over
the features once and computes each hidden unit when what it sees has become known
(:mod:`flows.discrete.made`): each weight is used once, and it counts 5, as for a density. What the
count does not say is that these are D steps one after the other; :class:`flows.Traits` does.

Nothing is counted, and nothing is paid, unless a :class:`Meter` is open.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Counts", "Meter", "step", "tick"]

_open: list[Meter] = []


@dataclass
class Counts:
    """Evaluations and solver steps; see :class:`Meter`."""

    forward: int = 0
    backward: int = 0
    accepted: int = 0
    rejected: int = 0


class Meter(Counts):
    """Counts network evaluations while it is open; forward and backward pass apart.

    Meters nest: each one that is open counts. A meter is not bound to a flow, it counts
    everything that runs in its block, in whichever thread (autograd runs the backward pass of a
    CUDA graph in a thread of its own).

    Attributes:
        forward: evaluations outside a backward pass.
        backward: evaluations inside a backward pass, by the adjoint method or by recomputation.
        accepted: steps that a solver of differential equations accepted.
        rejected: steps that it rejected.
        parts: the same counts for each named part of a flow, such as a continuous flow's blocks;
            empty for what reports no names.

    Example:
        >>> import torch, flows
        >>> flow = flows.build("realnvp", event_shape=(2,), layers=4)
        >>> with flows.Meter() as meter:
        ...     flow.log_prob(torch.zeros(5, 2)).sum().backward()
        >>> meter.forward, meter.backward
        (4, 0)
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, Counts] = {}

    def _counts(self, part: str | None) -> tuple[Counts, ...]:
        """Where to count for a part: the meter itself, and the part's own counts."""
        return (self,) if part is None else (self, self.parts.setdefault(part, Counts()))

    def __enter__(self) -> Meter:
        _open.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _open.remove(self)

    def __repr__(self) -> str:
        steps = ""
        if self.accepted or self.rejected:
            steps = f", accepted={self.accepted}, rejected={self.rejected}"
        return f"Meter(forward={self.forward}, backward={self.backward}{steps})"


def tick(evaluations: int = 1, part: str | None = None) -> None:
    """Report to every open meter that a network has just been evaluated.

    A function that torch.compile has compiled reports nothing.

    Args:
        evaluations: how many evaluations the call stands for.
        part: name of the part of the flow that the network belongs to.
    """
    # In a compiled graph counting would be traced once and never run again.
    if not _open or torch.compiler.is_compiling():
        return
    # The one question that autograd answers only in private: is a backward pass under way?
    # torch.utils.checkpoint asks it in the same way.
    in_backward = torch._C._current_graph_task_id() != -1
    for meter in _open:
        for counts in meter._counts(part):
            if in_backward:
                counts.backward += evaluations
            else:
                counts.forward += evaluations


def step(accepted: bool, part: str | None = None, count: int = 1) -> None:
    """Report to every open meter that a solver has accepted or rejected steps.

    Args:
        accepted: whether the error was within the tolerance.
        part: name of the part of the flow that was solved.
        count: how many steps.
    """
    if not _open or torch.compiler.is_compiling():
        return
    for meter in _open:
        for counts in meter._counts(part):
            if accepted:
                counts.accepted += count
            else:
                counts.rejected += count
