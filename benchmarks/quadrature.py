"""Integrals over the plane by adaptive cubature: the divergence of a density from a known one.

A mean over test points misses what rare points carry. Here the plane is cut into boxes, each with
a rule that knows its own error, and boxes of large error are halved, many at once, since a
continuous flow's density costs a solve however many points it is asked for.

The rule is that of Genz and Malik 1980 (doi:10.1016/0771-050X(80)90039-X), of degree 7 with 17
points in two dimensions, beside the one of degree 5 on the same points. Their difference overstates
the error of the better, mostly by far. A box is halved along the axis with the larger fourth
difference, as there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["LEFT_OUT", "RARE", "Divergence", "kullback_leibler"]

LogProb = Callable[[Tensor], Tensor]

RARE = 1e-4
"""The part of the truth's mass that is called rare: one row of a test split of 10,000."""
LEFT_OUT = 1e-6
"""The part of the truth's mass, that of least density, that counts for nothing. A flow whose scales
are exponentials of networks can have a log-density that falls like an exponential of an exponential
in the tails; its divergence is infinite, and what a computer makes of it is chance."""

# Boxes begin so small that each holds a part of the data no larger than this.
_DATA_SHARE = 1 / 128
# How far boxes reach, as a multiple of the data's largest value: up to twice that.
_REACH = 8
# The true log-density may bend by so much from a box's middle to its sides: they are then one and
# a half standard deviations away.
_MOST_BEND = 2.0
# Boxes that can hold no more of the truth than this may be as large as they are.
_LEAST_BENT_MASS = 1e-8
# The share of the error whose boxes are halved at once.
_SHARE_HALVED = 0.7
_MOST_EVALUATIONS = 30_000
# Times the tolerance, beyond which twice the evaluations are spent.
_PATIENCE = 5
# Bounds the boxes of data that repeat.
_MOST_HALVINGS = 60

_A, _B, _C = math.sqrt(9 / 70), math.sqrt(9 / 10), math.sqrt(9 / 19)


def _rule() -> tuple[Tensor, Tensor, Tensor]:
    """Points in [-1, 1]^2, shape ``(17, 2)``, and the weights, of sum 1, of degree 7 and 5."""
    axes = [(1, 0), (-1, 0), (0, 1), (0, -1)]
    corners = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    groups = [
        (0.0, [(0, 0)], (12824 - 9120 * 2 + 400 * 4) / 19683, (729 - 950 * 2 + 50 * 4) / 729),
        (_A, axes, 980 / 6561, 245 / 486),
        (_B, axes, (1820 - 400 * 2) / 19683, (265 - 100 * 2) / 1458),
        (_B, corners, 200 / 19683, 25 / 729),
        (_C, corners, 6859 / 19683 / 4, 0.0),
    ]
    rows = [
        (scale * x, scale * y, seven, five)
        for scale, places, seven, five in groups
        for x, y in places
    ]
    table = torch.tensor(rows, dtype=torch.float64)
    return table[:, :2], table[:, 2], table[:, 3]


_POINTS, _DEGREE_7, _DEGREE_5 = _rule()


@dataclass(frozen=True)
class Divergence:
    """A Kullback-Leibler divergence.

    Attributes:
        nats: its value; not finite where the model's density is not, at a point where the truth
            has mass.
        error: a bound on the error of the quadrature, as far as the rules' difference is one.
        rare: what of the value comes from the points of least true density that hold
            :data:`RARE` of the true mass, to a tenth or so; nats.
        evaluations: how many points the model was asked for.
    """

    nats: float
    error: float
    rare: float
    evaluations: int


@dataclass(frozen=True)
class _Boxes:
    """Boxes with what is known at their points.

    Attributes:
        centre, half: middle and half of the sides, shape ``(m, 2)``.
        log_truth: the true log-density at the points, shape ``(m, 17)``.
        integrand: shape ``(m, 17)``.
    """

    centre: Tensor
    half: Tensor
    log_truth: Tensor
    integrand: Tensor

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.centre, self.half, self.log_truth, self.integrand

    def __getitem__(self, chosen: Tensor) -> _Boxes:
        return _Boxes(*(part[chosen] for part in self._parts()))

    def and_those_of(self, other: _Boxes) -> _Boxes:
        """Both."""
        return _Boxes(*map(torch.cat, zip(self._parts(), other._parts(), strict=True)))

    @property
    def points(self) -> Tensor:
        """Shape ``(m, 17, 2)``."""
        return self.centre[:, None] + self.half[:, None] * _POINTS

    @property
    def area(self) -> Tensor:
        """Shape ``(m,)``."""
        return 4 * self.half.prod(1)

    @property
    def integrals(self) -> Tensor:
        """Of each box, by the better rule, shape ``(m,)``."""
        return self.area * (self.integrand @ _DEGREE_7)

    @property
    def errors(self) -> Tensor:
        """Of each box, shape ``(m,)``."""
        return self.area * (self.integrand @ (_DEGREE_7 - _DEGREE_5)).abs()

    @property
    def mass(self) -> float:
        """The truth's mass in all of them."""
        return float((self.area * (self.log_truth.exp() @ _DEGREE_7)).sum())

    def log_density_above(self, part: float) -> float:
        """The log-density that all but a part of the truth's mass exceeds."""
        held = (self.area[:, None] * _DEGREE_7 * self.log_truth.exp()).flatten()
        log_density, order = self.log_truth.flatten().sort()
        return float(log_density[int((held[order].cumsum(0) < part).sum())])

    @property
    def rare_part(self) -> float:
        """The integral over the points of least density that hold :data:`RARE` of the mass."""
        integrand = self.integrand * (self.log_truth < self.log_density_above(RARE))
        return float((self.area * (integrand @ _DEGREE_7)).sum())

    @property
    def _bend(self) -> Tensor:
        """How far the true log-density is from a line along each axis, in nats, shape ``(m, 2)``.

        Nothing where the density is zero.
        """
        return _differences(self.log_truth)[1].abs().nan_to_num(0.0, 0.0, 0.0)

    @property
    def bent(self) -> Tensor:
        """Which boxes are too large for what the truth's mass may be in them, shape ``(m,)``.

        A model's log-density can be so low in the tails that they decide: so it is not the truth's
        integral that decides, but its shape.
        """
        bend = self._bend.amax(1)
        may_hold = self.log_truth.amax(1) + bend + self.area.log()
        return (bend > _MOST_BEND) & (may_hold > math.log(_LEAST_BENT_MASS))

    @property
    def rougher_axis(self) -> Tensor:
        """The axis along which each box is to be halved, shape ``(m,)``."""
        near, far = _differences(self.integrand)
        roughness = (near - (_A / _B) ** 2 * far).abs()
        # Before there is an integrand the truth's shape decides.
        roughness = torch.where(self.integrand.any(1, keepdim=True), roughness, self._bend)
        level = roughness[:, 0] == roughness[:, 1]
        return torch.where(level, self.half.argmax(1), roughness.argmax(1))


def _differences(values: Tensor) -> tuple[Tensor, Tensor]:
    """Second differences along both axes, between the near points and the far ones.

    Args:
        values: at the points of boxes, shape ``(m, 17)``.

    Returns:
        Two of shape ``(m, 2)``.
    """
    # Points 1 to 4 lie at +-A along the two axes, 5 to 8 at +-B.
    middle = 2 * values[:, :1]
    near, far = (values[:, i : i + 4].reshape(-1, 2, 2).sum(2) - middle for i in (1, 5))
    return near, far


def kullback_leibler(
    truth: LogProb,
    model: LogProb,
    data: Tensor,
    *,
    tolerance: float = 1e-3,
) -> Divergence:
    """``KL(truth || model)`` of two densities in the plane, the last millionth left out.

    That is the integral of ``p log(p / q)`` over the points whose true density ``p`` is exceeded by
    all but :data:`LEFT_OUT` of the truth's mass.

    Args:
        truth: points ``(n, 2)`` in float64 to nats ``(n,)``; cheap beside the model.
        model: likewise.
        data: points that follow the truth, shape ``(n, 2)``: where its mass is.
        tolerance: the bound on the error at which refinement ends, nats. It ends as well past
            30,000 evaluations of the model, or twice as many where the bound is more than five
            times the tolerance.

    Returns:
        The divergence.

    Example:
        >>> normal = torch.distributions.Normal(0.0, 1.0)
        >>> wide = torch.distributions.Normal(0.0, 2.0)
        >>> data = torch.randn(1000, 2, dtype=torch.float64)
        >>> found = kullback_leibler(
        ...     lambda x: normal.log_prob(x).sum(1), lambda x: wide.log_prob(x).sum(1), data
        ... )
        >>> abs(found.nats - 2 * (math.log(2) - 3 / 8)) < 1e-3
        True
    """
    data = data.double()
    # Powers of two keep what lies on round numbers on the boxes' sides.
    side = 2.0 ** torch.ceil(torch.log2(data.abs().amax(0) * _REACH))
    evaluations = 0

    def evaluated(boxes: _Boxes) -> _Boxes:
        nonlocal evaluations
        asked = boxes.log_truth >= least
        integrand = torch.zeros_like(boxes.log_truth)
        if asked.any():
            evaluations += int(asked.sum())
            log_truth = boxes.log_truth[asked]
            integrand[asked] = log_truth.exp() * (log_truth - model(boxes.points[asked]))
        return replace(boxes, integrand=integrand)

    # First where the truth alone asks for it, which costs the model nothing.
    boxes = _boxes(*_equal_shares(data, side), truth)
    while boxes.log_truth.numel() < _MOST_EVALUATIONS:
        bent = boxes.bent
        if not bent.any():
            break
        boxes = boxes[~bent].and_those_of(_halved(boxes[bent], truth))
    # The boxes are still large: more than what counts is asked for, and left out in the end.
    least = boxes.log_density_above(LEFT_OUT / 4)
    boxes = evaluated(boxes)
    while boxes.integrand.isfinite().all():
        errors = boxes.errors
        error = float(errors.sum())
        bound = _MOST_EVALUATIONS * (2 if error > _PATIENCE * tolerance else 1)
        if error <= tolerance or evaluations >= bound:
            break
        order = errors.argsort(descending=True)
        carried = errors[order].cumsum(0)
        count = int((carried < _SHARE_HALVED * carried[-1]).sum()) + 1
        count = min(count, math.ceil((bound - evaluations) / (2 * len(_POINTS))))
        halves = evaluated(_halved(boxes[order[:count]], truth))
        boxes = boxes[order[count:]].and_those_of(halves)
    if not bool(boxes.integrand.isfinite().all()):
        return Divergence(math.inf, math.inf, math.inf, evaluations)
    counted = boxes.log_truth >= boxes.log_density_above(LEFT_OUT)
    boxes = replace(boxes, integrand=boxes.integrand * counted)
    # A mass that no box saw is worth a nat for each part.
    error = float(boxes.errors.sum()) + abs(1 - boxes.mass)
    return Divergence(float(boxes.integrals.sum()), error, boxes.rare_part, evaluations)


def _boxes(centre: Tensor, half: Tensor, truth: LogProb) -> _Boxes:
    """Boxes with the truth at their points, and no integrand yet."""
    points = centre[:, None] + half[:, None] * _POINTS
    log_truth = truth(points.reshape(-1, 2)).reshape(points.shape[:2])
    return _Boxes(centre, half, log_truth, torch.zeros_like(log_truth))


def _halved(boxes: _Boxes, truth: LogProb) -> _Boxes:
    """Both halves of boxes, with the truth at their points."""
    return _boxes(*_halves(boxes.centre, boxes.half, boxes.rougher_axis), truth)


def _halves(centre: Tensor, half: Tensor, axis: Tensor) -> tuple[Tensor, Tensor]:
    """Both halves of boxes, cut across an axis of each."""
    step = half / 2 * torch.nn.functional.one_hot(axis, 2)
    return torch.cat([centre - step, centre + step]), (half - step).repeat(2, 1)


def _equal_shares(data: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes that tile ``[-side, side]``, halved until none holds much of the data.

    Returns:
        Middle and half of the sides, shape ``(m, 2)``.
    """
    most = max(8, round(len(data) * _DATA_SHARE))
    whole, done = (torch.zeros(1, 2, dtype=torch.float64), side[None]), []
    waiting = [(*whole, data, 0)]
    while waiting:
        centre, half, inside, depth = waiting.pop()
        if len(inside) <= most or depth == _MOST_HALVINGS:
            done.append((centre, half))
            continue
        # Along which the data fill the least of the box.
        axis = (inside.std(0) / half).argmin(1)
        centres, halves = _halves(centre, half, axis)
        upper = inside[:, axis[0]] >= centre[0, axis[0]]
        for place, part in enumerate((inside[~upper], inside[upper])):
            waiting.append((centres[place, None], halves[place, None], part, depth + 1))
    return torch.cat([centre for centre, _ in done]), torch.cat([half for _, half in done])
