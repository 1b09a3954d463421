"""The control of :mod:`flows.continuous.ode.control`, as tensors: the host need not be asked.

An attempt is two functions: :func:`due` says where it goes and :func:`judged` what its error
decides, both of tensors of shape ``()`` in double precision, by the same formulas as the host's
generator, so that the steps are the same to the rounding of ``pow``. After the end, and after a
failure, attempts change nothing: their step is 0, and they are marked as masked.

Numbers of the host come in as arguments of operations alone: `torch.where` would first copy them
to the device, and wait for that.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from flows.continuous.ode.control import LEAST_RATIO, LONGER

__all__ = [
    "ACCEPTED",
    "DT",
    "FIELDS",
    "FIRST_SIZE",
    "MASKED",
    "RATIO",
    "REJECTED",
    "REST",
    "ROW",
    "SIZE",
    "SPAN",
    "STATUS",
    "UNDERFLOW",
    "Due",
    "T",
    "begun",
    "due",
    "judged",
]

# What a control vector holds: the way, and where it is.
_START, _DIRECTION, SPAN, FIRST_SIZE, _DONE, _BEFORE, _AFTER_REJECTION, _RUNNING = range(8)
FIELDS = 8

# What an attempt leaves for the host.
T, DT, RATIO, STATUS, REST, SIZE = range(6)
ROW = 6
MASKED, ACCEPTED, REJECTED, UNDERFLOW = range(4)
"""An attempt's status."""


class Due(NamedTuple):
    """An attempt that is due, tensors of shape ``()``.

    Attributes:
        t: where it begins in time.
        dt: size; 0 where it is masked.
        step: the size that is due, above 0.
        rest: of the way.
        runs: whether it counts.
        too_short: whether it would be shorter than time resolves.
    """

    t: Tensor
    dt: Tensor
    step: Tensor
    rest: Tensor
    runs: Tensor
    too_short: Tensor


def begun(start: float, end: float, first: float | None) -> list[float]:
    """The control vector's numbers at the start; NaN where the first size is yet to be found."""
    size = float("nan") if first is None else first
    # No error before is a 0.
    return [start, 1.0 if end > start else -1.0, abs(end - start), size, 0.0, 0.0, 0.0, 1.0]


def due(control: Tensor, resolution: float) -> Due:
    """The attempt that is due.

    Args:
        control: shape ``(FIELDS,)``, float64.
        resolution: the part of the way that a step cannot be shorter than.
    """
    start, direction, span, size, done, _, _, running = control.unbind()
    rest = span - done
    reach = LONGER * size
    step = torch.where(reach >= rest, rest, torch.where(2 * reach >= rest, rest / 2, size))
    too_short = ~(step > resolution * span)
    runs = (running > 0) & ~too_short
    dt = (direction * step).masked_fill(~runs, 0.0)
    return Due(start + direction * done, dt, step, rest, runs, too_short & (running > 0))


def judged(control: Tensor, of: Due, square: Tensor, order: int) -> tuple[Tensor, Tensor, Tensor]:
    """What an attempt's error decides.

    Args:
        control: before the attempt.
        of: the attempt.
        square: mean square of its error over the tolerance, shape ``()``.
        order: of the method.

    Returns:
        The control vector after it, whether the attempt is accepted, and the row for the host.
    """
    ratio = square.double().sqrt()
    accepted = of.runs & (ratio <= 1)
    before, after_rejection = control[_BEFORE], control[_AFTER_REJECTION]
    size = of.step * _growth(ratio, before, after_rejection, order)
    done = control[_DONE] + of.step.masked_fill(~accepted, 0.0)
    ended = accepted & (of.step == of.rest)
    rest = (control[SPAN] - done).masked_fill(ended, 0.0)
    after = torch.stack(
        [
            *control[:FIRST_SIZE].unbind(),
            torch.where(of.runs, size, control[FIRST_SIZE]),
            done,
            torch.where(accepted, ratio.clamp(min=LEAST_RATIO), before),
            torch.where(of.runs, (~accepted).double(), after_rejection),
            (of.runs & ~ended).double(),
        ]
    )
    status = of.runs * (REJECTED + (ACCEPTED - REJECTED) * accepted) + UNDERFLOW * of.too_short
    # Of a step that is too short the host is told the size that it would have had.
    dt = torch.where(of.runs, of.dt, of.step)
    row = torch.stack([of.t, dt, ratio, status.double(), rest, after[FIRST_SIZE]])
    return after, accepted, row


def _growth(ratio: Tensor, before: Tensor, after_rejection: Tensor, order: int) -> Tensor:
    """What to multiply the step size with; see the function of that name of the host's."""
    shrunk = (0.9 / ratio.pow(1 / order - 0.03)).clamp(min=0.2)
    first = before == 0
    capped = ratio.clamp(min=1e-10)
    power = torch.where(first, capped.pow(1 / order), capped.pow(1 / order - 0.03))
    grown = 0.9 * before.masked_fill(first, 1.0).pow(0.04) / power
    most = 10.0 - 9.0 * (after_rejection > 0)
    grown = torch.minimum(grown.clamp(min=0.2), most.double())
    return torch.where(ratio > 1, shrunk, grown).masked_fill(~ratio.isfinite(), 0.2)
