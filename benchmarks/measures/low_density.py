"""What a model puts where the true density is low: between modes and around them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.evaluation import log_density
from benchmarks.measures.base import Column, Family
from benchmarks.measures.subject import Subject
from flows import FlowError

PART = 0.05
"""The part of the truth's mass in the region: that of its least density. Between neighbours of the
eight Gaussians the truth has 2 % of its peak: a smaller part would leave such bridges out."""

COLUMNS = (
    Column(
        "low_density_mass_percent",
        "the model's mass where the true density is below the level under which lies "
        f"{100 * PART:g} % of the true mass (or below the least density that there is, where it is "
        "uniform), in two dimensions, by quadrature over the rest of the plane, %",
        sort="quality",
        unit="%",
        heading="Mass at low true density",
        axis="mass at low density",
        digits=2,
        table="comparison",
    ),
    Column(
        "low_density_mass_error_percent",
        "an estimate of the quadrature's error in it: half of the difference between every other "
        "point and the others, %",
        sort="quality",
        unit="%",
    ),
    Column(
        "low_density_true_mass_percent",
        "the truth's own mass there, by the same quadrature, %",
        unit="%",
    ),
    Column(
        "low_density_level_nats",
        "the level, a log-density in nats",
        unit="nats",
    ),
)

# Points of the grid at most, along the longer side.
GRID = 512
# Room around the data, a part of their extent: beyond it is low density.
MARGIN = 0.1


def measure(subject: Subject) -> dict[str, float]:
    """The model's mass in the region, one less that in the rest; only in two dimensions.

    The rest is bounded, and a grid of equal steps, each a power of two, takes in the model's
    density there: what jumps on round numbers, as a checkerboard's, jumps between points.
    """
    flow, truth = subject.flow, subject.dataset.truth
    if truth is None or subject.dataset.event_shape != (2,):
        return {}
    points, area = grid(torch.as_tensor(subject.dataset.train).double())
    true = truth.log_prob(points)
    held = true.exp() * area
    # Where the grid ends the density is low already.
    beyond = max(0.0, 1 - float(held.sum()))
    level = level_below(true, held, max(0.0, PART - beyond))
    inside = true >= level
    try:
        model = log_density(flow, points[inside], exact=True).exp() * area
    except FlowError:
        return {}
    if not bool(model.isfinite().all()):
        return {}
    # A grid's points of even and of odd place are two grids, each of twice the area a point.
    even = _even(points, area)[inside]
    gap = float(model[even].sum() - model[~even].sum())
    return {
        "low_density_mass_percent": 100 * (1 - float(model.sum())),
        "low_density_mass_error_percent": 100 * abs(gap) / 2,
        "low_density_true_mass_percent": 100 * (beyond + float(held[~inside].sum())),
        "low_density_level_nats": float(level),
    }


def grid(data: Tensor) -> tuple[Tensor, float]:
    """The middles of squares over all data.

    Args:
        data: shape ``(n, 2)``.

    Returns:
        Middles, shape ``(m, 2)``, and the area of a square, whose side is a power of two.
    """
    low, high = data.amin(0), data.amax(0)
    room = MARGIN * (high - low)
    low, high = low - room, high + room
    side = 2.0 ** math.ceil(math.log2(float((high - low).max()) / GRID))
    first, last = (low / side).floor(), (high / side).ceil()
    axes = [
        (torch.arange(float(a), float(b), dtype=torch.float64) + 0.5) * side
        for a, b in zip(first, last, strict=True)
    ]
    return torch.cartesian_prod(*axes), side**2


def level_below(log_density: Tensor, mass: Tensor, part: float) -> Tensor:
    """The highest log-density below which lies no more than so much mass.

    Args:
        log_density: shape ``(m,)``.
        mass: that each of them stands for, shape ``(m,)``.
        part: of it, at most.

    Returns:
        One of the log-densities.

    Example:
        >>> level_below(torch.tensor([-9.0, -1.0, -1.0]), torch.tensor([0.01, 0.5, 0.49]), 0.1)
        tensor(-1.)
    """
    values, place = log_density.unique(return_inverse=True)
    held = mass.new_zeros(len(values)).index_add(0, place, mass)
    below = held.cumsum(0) - held
    level: Tensor = values[below <= part][-1]
    return level


def _even(points: Tensor, area: float) -> Tensor:
    place = (points / math.sqrt(area)).floor().sum(1)
    return place.remainder(2) == 0


ENTRIES = [
    Family(
        "low-density",
        "the model's mass where the true density is low, in two dimensions, by quadrature",
        stage="quality",
        version=1,
        columns=COLUMNS,
        measure=measure,
        place=46,
    )
]
