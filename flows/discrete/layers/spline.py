"""Monotonic rational-quadratic splines.

Neural Spline Flows (Durkan, Bekasov, Murray and Papamakarios 2019, arXiv:1906.04032), section
3.1, after Gregory and Delbourgo (1982). Inside [-B, B] a number is mapped by K bins whose
widths, heights and inner derivatives are parameters; outside it stays what it is.

The parameters lie ahead of the features in memory (:mod:`flows.discrete.layers.elementwise`), so
that every step over the bins runs along whole rows; nothing depends on values, so that the whole
compiles as one graph and never waits for a device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from flows.base import InputError
from flows.discrete.layers.elementwise import Elementwise

__all__ = ["RationalQuadratic"]


class RationalQuadratic(Elementwise):
    """A rational-quadratic spline with linear tails.

    The 3K - 1 parameters of a number are K logits of widths, K logits of heights and K - 1 raw
    derivatives; the derivatives at both ends are 1, those of the tails. Parameters of zero give
    the identity.

    Args:
        bins: K.
        tail_bound: B; the box of a vector is [-B, B] in each coordinate, and is mapped onto itself.
        smallest: least width and height of a bin as a part of the whole, and least derivative.

    Raises:
        InputError: if so many bins of the smallest width do not fit.

    Example:
        >>> spline = RationalQuadratic(bins=4, tail_bound=3.0)
        >>> z, log_derivative = spline.encode(torch.tensor([0.5, 9.0]), torch.zeros(11, 2))
        >>> z
        tensor([0.5000, 9.0000])
    """

    def __init__(self, bins: int, tail_bound: float, smallest: float = 1e-3) -> None:
        if bins * smallest >= 1:
            raise InputError(f"{bins} bins do not fit: each takes {smallest} of the whole at least")
        self.bins = bins
        self.tail_bound = tail_bound
        self.smallest = smallest
        self.parameter_count = 3 * bins - 1
        # What makes softplus(0 + offset) + smallest = 1.
        self._offset = math.log(math.expm1(1 - smallest))

    def _bins(self, value: Tensor, parameters: Tensor, searched: int) -> tuple[Tensor, ...]:
        """The bin of each value, by widths (``searched`` 0) or by heights (1).

        Only what belongs to the bin is computed in full: the rest is looked at once, to find it.

        Returns:
            Left knot, lower knot, width, height, left and right derivative, each of shape S.
        """
        bins, bound = self.bins, self.tail_bound
        whole, least = 2 * bound, 2 * bound * self.smallest
        free = whole * (1 - bins * self.smallest)
        shares = torch.softmax(parameters[: 2 * bins].unflatten(0, (2, bins)), 1)
        # Sums of the first k shares, as a product with a triangular matrix: cumsum takes longer.
        ones = torch.ones(bins, bins, dtype=value.dtype, device=value.device).tril()
        ends = (ones @ shares.flatten(2)).view(shares.shape)
        with torch.no_grad():
            # Only the inner knots are asked, so that the index is a bin's whatever the rounding.
            before = torch.arange(1, bins, dtype=value.dtype, device=value.device) * least
            knots = ends[searched, :-1] * free + before.reshape(-1, *([1] * value.ndim))
            index = (knots <= value + bound).sum(0, keepdim=True)
        both = index.expand(2, *index.shape)
        share = shares.gather(1, both).squeeze(1)
        end = ends.gather(1, both).squeeze(1)
        size = share * free + least
        start = (end - share) * free + (index.to(value.dtype) * least - bound)
        # Zeros at both ends stand for the derivatives of the tails.
        inner = functional.pad(parameters[2 * bins :], (0, 0) * value.ndim + (1, 1))
        slopes = inner.gather(0, torch.cat((index, index + 1)))
        slopes = functional.softplus(slopes + self._offset) + self.smallest
        return (*start.unbind(0), *size.unbind(0), *slopes.unbind(0))

    def outside(self, x: Tensor) -> Tensor | None:
        return x.abs() > self.tail_bound

    def encode(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        inside = x.abs() <= self.tail_bound
        value = x.clamp(-self.tail_bound, self.tail_bound)
        left, lower, width, height, before, after = self._bins(value, parameters, 0)
        slope = height / width
        position = (value - left) / width
        rest = 1 - position
        mixed = position * rest
        denominator = slope + (before + after - 2 * slope) * mixed
        z = lower + height * (slope * position.square() + before * mixed) / denominator
        numerator = after * position.square() + 2 * slope * mixed + before * rest.square()
        log_derivative = (numerator * (slope / denominator).square()).log()
        return torch.where(inside, z, x), torch.where(inside, log_derivative, 0.0)

    def decode(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        inside = z.abs() <= self.tail_bound
        value = z.clamp(-self.tail_bound, self.tail_bound)
        left, lower, width, height, before, after = self._bins(value, parameters, 1)
        slope = height / width
        # The paper's appendix A.3, equations 25 to 29.
        above = value - lower
        bend = above * (before + after - 2 * slope)
        a = height * (slope - before) + bend
        b = height * before - bend
        c = -slope * above
        discriminant = (b.square() - 4 * a * c).clamp(min=0.0)
        position = 2 * c / (-b - discriminant.sqrt())
        rest = 1 - position
        mixed = position * rest
        denominator = slope + (before + after - 2 * slope) * mixed
        numerator = after * position.square() + 2 * slope * mixed + before * rest.square()
        log_derivative = -(numerator * (slope / denominator).square()).log()
        x = left + width * position
        return torch.where(inside, x, z), torch.where(inside, log_derivative, 0.0)
