"""The two-dimensional toy densities of the FFJORD paper, each with its exact log-density.

The shapes and their constants are those of the toy data published with Grathwohl et al. 2018
(arXiv:1810.01367, section 4.1), whose circles, moons and Swiss roll are in turn those of
scikit-learn. Two things differ, so that a density exists for every shape and rows are
independent: positions along a curve are drawn uniformly where a regular grid of them was used,
and component labels are drawn where equal counts were used.

Each shape is a generative definition, and its density follows from that definition:

===============  =================================================================
8gaussians       mixture of eight isotropic Gaussians
checkerboard     uniform on eight squares
rings, circles   mixture of circles + Gaussian noise: a Bessel function
pinwheel         change of variables, summed over every preimage
moons            half circles + Gaussian noise: quadrature along the curve
swissroll        a spiral + Gaussian noise: quadrature along the curve
2spirals         spirals + uniform + Gaussian noise: quadrature along the curve
===============  =================================================================
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from datasets.base import Entry, Truth
from datasets.sampling import Density, SampledConfig

__all__ = ["SHAPES", "ToyConfig"]

Points = np.ndarray[Any, np.dtype[Any]]
ShapeName = Literal[
    "8gaussians",
    "checkerboard",
    "2spirals",
    "pinwheel",
    "rings",
    "moons",
    "swissroll",
    "circles",
]

# Rows that are evaluated together against the nodes of a quadrature: bounds the memory.
_CHUNK = 1024


def _grid_entropy(
    log_prob: Callable[[Tensor], Tensor], corner: tuple[float, float], step: float
) -> float:
    """Entropy of a smooth two-dimensional density.

    The trapezoidal rule, which converges geometrically for a density smoothed by a Gaussian when
    the step is below its standard deviation.

    Args:
        log_prob: points ``(n, 2)`` to nats ``(n,)``.
        corner: the upper right corner of a rectangle around the origin that holds all mass.
        step: distance between the points of the grid.

    Returns:
        Nats.
    """
    sides = [
        torch.arange(-math.ceil(side / step), math.ceil(side / step) + 1, dtype=torch.float64)
        * step
        for side in corner
    ]
    log_density = log_prob(torch.cartesian_prod(*sides))
    return float(-torch.special.xlogy(log_density.exp(), log_density.exp()).sum() * step**2)


def _gauss_legendre(start: float, stop: float, panels: int) -> tuple[Points, Points]:
    """Nodes and weights of the composite 16-point Gauss-Legendre rule."""
    node, weight = np.polynomial.legendre.leggauss(16)
    edges = np.linspace(start, stop, panels + 1)
    half = (edges[1:] - edges[:-1]) / 2
    nodes = (edges[:-1] + half)[:, None] + half[:, None] * node
    return nodes.ravel(), (half[:, None] * weight).ravel()


def _in_chunks(log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([log_prob(part) for part in x.double().split(_CHUNK)])


class EightGaussians(Density):
    """Eight Gaussians on a circle: radius 4, standard deviation 0.5, all divided by 1.414."""

    scale = 1.414
    radius = 4.0 / scale
    deviation = 0.5 / scale

    def __init__(self) -> None:
        angle = np.arange(8) * np.pi / 4
        self.centres = self.radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def sample(self, n: int, random: np.random.Generator) -> Points:
        component = random.integers(8, size=n)
        return self.centres[component] + self.deviation * random.standard_normal((n, 2))

    def log_prob(self, x: Tensor) -> Tensor:
        centres = torch.as_tensor(self.centres, device=x.device)
        square = (x.double()[:, None] - centres).square().sum(-1)
        variance = self.deviation**2
        normaliser = math.log(8 * 2 * math.pi * variance)
        return torch.logsumexp(-square / (2 * variance), dim=1) - normaliser

    def entropy(self) -> float:
        side = self.radius + 9 * self.deviation
        return _grid_entropy(self.log_prob, (side, side), self.deviation / 3)


class Checkerboard(Density):
    """Uniform on the eight squares, of side 2, of a 4 x 4 board around the origin."""

    def sample(self, n: int, random: np.random.Generator) -> Points:
        column = random.random(n) * 4 - 2
        row = random.random(n) - 2 * random.integers(2, size=n) + np.floor(column) % 2
        return 2 * np.stack([column, row], axis=1)

    def log_prob(self, x: Tensor) -> Tensor:
        square = torch.floor(x.double() / 2)
        inside = ((square >= -2) & (square < 2)).all(1) & (square.sum(1) % 2 == 0)
        density = torch.full_like(x[:, 0], -math.log(32.0), dtype=torch.float64)
        return torch.where(inside, density, -math.inf)

    def entropy(self) -> float:
        return math.log(32.0)


class NoisyCircles(Density):
    """Concentric circles of equal weight, smeared by Gaussian noise.

    Around a circle of radius R the density of a point at distance r from the centre is
    ``exp(-(r^2 + R^2) / 2 s^2) I_0(r R / s^2) / (2 pi s^2)``: the average of the Gaussian over
    the angle is the integral that defines the modified Bessel function.

    Args:
        radii: of the circles.
        deviation: standard deviation of the noise.
    """

    def __init__(self, radii: tuple[float, ...], deviation: float) -> None:
        self.radii = np.array(radii)
        self.deviation = deviation

    def sample(self, n: int, random: np.random.Generator) -> Points:
        radius = self.radii[random.integers(len(self.radii), size=n)]
        angle = 2 * np.pi * random.random(n)
        direction: Points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return radius[:, None] * direction + self.deviation * random.standard_normal((n, 2))

    def log_prob(self, x: Tensor) -> Tensor:
        variance = self.deviation**2
        radii = torch.as_tensor(self.radii, device=x.device)
        distance = torch.linalg.vector_norm(x.double(), dim=1)[:, None]
        bessel = torch.special.i0e(distance * radii / variance).log()
        log_kernel = bessel - (distance - radii).square() / (2 * variance)
        normaliser = math.log(len(self.radii) * 2 * math.pi * variance)
        return torch.logsumexp(log_kernel, dim=1) - normaliser

    def entropy(self) -> float:
        # Depends on the distance alone: one-dimensional, with the circumference as weight.
        node, weight = _gauss_legendre(0.0, float(self.radii.max()) + 9 * self.deviation, 64)
        distance = torch.as_tensor(node)
        log_density = self.log_prob(torch.stack([distance, torch.zeros_like(distance)], dim=1))
        integrand = -log_density * log_density.exp() * 2 * math.pi * distance
        return float(integrand @ torch.as_tensor(weight))


class Pinwheel(Density):
    """Five arms: Gaussian blobs stretched along the radius, twisted by ``0.25 exp(radius)``.

    A point is ``2 R(a)^T f`` with ``f = (1 + 0.3 n_1, 0.1 n_2)``, the rotation ``R`` by the angle
    ``a = 2 pi k / 5 + 0.25 exp(f_1)`` and the arm k uniform. As the angle depends on f_1, the
    Jacobian's determinant is ``4 (1 + 0.25 exp(f_1) f_2)``: 1 for the rotation, and its turning
    with f_1 moves a point at height f_2 along f_1. A point can have several preimages; all are
    found, by the sign changes of ``f_1 - (R(a) x / 2)_1`` on a grid of f_1, and their densities
    add.
    """

    arms = 5
    radial_deviation = 0.3
    tangential_deviation = 0.1
    rate = 0.25
    scale = 2.0

    def sample(self, n: int, random: np.random.Generator) -> Points:
        normal = random.standard_normal((n, 2))
        along = 1 + self.radial_deviation * normal[:, 0]
        across = self.tangential_deviation * normal[:, 1]
        arm = random.integers(self.arms, size=n)
        return self.scale * self._twist(along, across, arm)

    def _twist(self, along: Points, across: Points, arm: Points | int) -> Points:
        angle = 2 * np.pi * arm / self.arms + self.rate * np.exp(along)
        cos, sin = np.cos(angle), np.sin(angle)
        return np.stack([cos * along + sin * across, cos * across - sin * along], axis=1)

    def log_prob(self, x: Tensor) -> Tensor:
        return _in_chunks(self._log_prob, x)

    def _log_prob(self, x: Tensor) -> Tensor:
        n = len(x)
        point = x / self.scale
        radius = torch.linalg.vector_norm(point, dim=1)
        polar = torch.atan2(point[:, 1], point[:, 0])
        # A preimage lies within ten standard deviations of its blob's centre or weighs < e^-50.
        # Beyond the radius there is none: a rotation keeps lengths.
        reach = 10 * self.radial_deviation
        grid = torch.linspace(1 - reach, 1 + reach, 257, dtype=x.dtype, device=x.device)
        arm = torch.arange(self.arms, dtype=x.dtype, device=x.device) * (2 * math.pi / self.arms)

        def miss(along: Tensor, phase: Tensor, radius: Tensor) -> Tensor:
            return along - radius * torch.cos(phase + self.rate * along.exp())

        phase = polar[:, None] + arm  # (n, arms)
        value = miss(grid, phase[..., None], radius[:, None, None])  # (n, arms, grid)
        positive = value > 0
        row, which, left = (positive[..., :-1] != positive[..., 1:]).nonzero(as_tuple=True)
        low, high = grid[left], grid[left + 1]
        phase, radius = phase[row, which], radius[row]
        rising = positive[row, which, left + 1]
        for _ in range(52):
            middle = (low + high) / 2
            right_of_root = (miss(middle, phase, radius) > 0) == rising
            low = torch.where(right_of_root, low, middle)
            high = torch.where(right_of_root, middle, high)
        along = (low + high) / 2
        across = radius * torch.sin(phase + self.rate * along.exp())
        determinant = self.scale**2 * (1 + self.rate * along.exp() * across).abs()
        log_density = (
            -((along - 1) / self.radial_deviation).square() / 2
            - (across / self.tangential_deviation).square() / 2
            - determinant.log()
            - math.log(self.arms * 2 * math.pi * self.radial_deviation * self.tangential_deviation)
        )
        # logsumexp over the preimages of each point, of which there may be none.
        highest = torch.full((n,), -math.inf, dtype=x.dtype, device=x.device)
        highest = highest.scatter_reduce(0, row, log_density, "amax")
        total = torch.zeros_like(highest).index_add(0, row, (log_density - highest[row]).exp())
        return highest + total.log()

    def entropy(self) -> float:
        # All arms are alike, so the mean of -log p over one arm, in the coordinates before the
        # twist, where the weight is a Gaussian: the trapezoidal rule again.
        normal = torch.arange(-32, 33, dtype=torch.float64) / 4
        pair = torch.cartesian_prod(normal, normal)
        weight = (-pair.square().sum(1) / 2).exp() / (2 * math.pi) / 16
        along = (1 + self.radial_deviation * pair[:, 0]).numpy()
        across = (self.tangential_deviation * pair[:, 1]).numpy()
        points = torch.as_tensor(self.scale * self._twist(along, across, 0))
        return float(-(weight * self.log_prob(points)).sum())


class NoisyCurves(Density):
    """Points along curves, smeared by Gaussian noise: quadrature along the curve.

    Args:
        deviation: standard deviation of the noise, isotropic.
        nodes: points of the curves, shape ``(m, 2)``.
        weights: of the nodes, sum 1.
    """

    def __init__(self, deviation: float, nodes: Points, weights: Points) -> None:
        self.deviation = deviation
        self.nodes = nodes
        self.weights = weights

    def log_prob(self, x: Tensor) -> Tensor:
        return _in_chunks(self._log_prob, x)

    def _log_prob(self, x: Tensor) -> Tensor:
        nodes = torch.as_tensor(self.nodes, device=x.device)
        variance = self.deviation**2
        log_weights = torch.as_tensor(self.weights, device=x.device).log()
        log_weights = log_weights - math.log(2 * math.pi * variance)
        square = (x[:, :1] - nodes[:, 0]).square_() + (x[:, 1:] - nodes[:, 1]).square_()
        return torch.logsumexp(square.mul_(-0.5 / variance).add_(log_weights), dim=1)

    def entropy(self) -> float:
        reach = np.abs(self.nodes).max(axis=0) + 9 * self.deviation
        return _grid_entropy(self.log_prob, (reach[0], reach[1]), self.deviation / 2)


class Moons(NoisyCurves):
    """Two half circles of radius 2, around (-1, -0.2) and (1, 0.8), with noise 0.2.

    scikit-learn's moons with noise 0.1, doubled and moved by (-1, -0.2).
    """

    def __init__(self) -> None:
        angle, weight = _gauss_legendre(0.0, math.pi, 8)
        nodes = np.concatenate([self._curve(angle, 0), self._curve(angle, 1)])
        super().__init__(0.2, nodes, np.tile(weight / math.pi, 2) / 2)

    @staticmethod
    def _curve(angle: Points, which: Points | int) -> Points:
        upper = np.stack([2 * np.cos(angle) - 1, 2 * np.sin(angle) - 0.2], axis=1)
        lower = np.stack([1 - 2 * np.cos(angle), 0.8 - 2 * np.sin(angle)], axis=1)
        return np.where(np.reshape(which, (-1, 1)) == 0, upper, lower)

    def sample(self, n: int, random: np.random.Generator) -> Points:
        which = random.integers(2, size=n)
        curve = self._curve(math.pi * random.random(n), which)
        return curve + self.deviation * random.standard_normal((n, 2))


class SwissRoll(NoisyCurves):
    """The spiral ``t (cos t, sin t) / 5``, t uniform in [1.5 pi, 4.5 pi], with noise 0.2.

    scikit-learn's Swiss roll with noise 1, seen along its axis, divided by 5.
    """

    start = 1.5 * math.pi
    stop = 4.5 * math.pi

    def __init__(self) -> None:
        angle, weight = _gauss_legendre(self.start, self.stop, 24)
        super().__init__(0.2, self._curve(angle), weight / (self.stop - self.start))

    @staticmethod
    def _curve(angle: Points) -> Points:
        direction: Points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return direction * (angle[:, None] / 5)

    def sample(self, n: int, random: np.random.Generator) -> Points:
        angle = self.start + (self.stop - self.start) * random.random(n)
        return self._curve(angle) + self.deviation * random.standard_normal((n, 2))


class TwoSpirals(Density):
    """Two spirals, one the other's reflection through the origin.

    One arm is ``(t (-cos t, sin t) + u) / 3 + 0.1 n`` with ``t = 3 pi sqrt(v)``, v uniform, u
    uniform in the square [0, 0.5]^2, n normal. Around a point of the curve, uniform and normal
    noise give a product of differences of the normal distribution function; the rest is
    quadrature over t, whose density is ``2 t / (3 pi)^2``.
    """

    stop = 3 * math.pi
    width = 0.5 / 3
    deviation = 0.1

    def __init__(self) -> None:
        angle, weight = _gauss_legendre(0.0, self.stop, 24)
        self.nodes = self._curve(angle)
        self.weights = weight * 2 * angle / self.stop**2

    @staticmethod
    def _curve(angle: Points) -> Points:
        direction: Points = np.stack([-np.cos(angle), np.sin(angle)], axis=1)
        return direction * (angle[:, None] / 3)

    def sample(self, n: int, random: np.random.Generator) -> Points:
        curve = self._curve(self.stop * np.sqrt(random.random(n)))
        arm = curve + self.width * random.random((n, 2))
        arm *= 1 - 2 * random.integers(2, size=(n, 1))
        return arm + self.deviation * random.standard_normal((n, 2))

    def log_prob(self, x: Tensor) -> Tensor:
        return _in_chunks(self._log_prob, x)

    def _log_prob(self, x: Tensor) -> Tensor:
        return torch.logaddexp(self._arm(x), self._arm(-x)) - math.log(2)

    def _arm(self, x: Tensor) -> Tensor:
        nodes = torch.as_tensor(self.nodes, device=x.device)
        log_density = torch.as_tensor(self.weights, device=x.device).log()
        for axis in range(2):
            # By symmetry the interval is moved to the lower tail, where the logarithm of the
            # distribution function keeps its digits.
            middle = (nodes[:, axis] + self.width / 2 - x[:, axis, None]).abs()
            near = (self.width / 2 - middle) / self.deviation
            log_near = torch.special.log_ndtr(near)
            log_far = torch.special.log_ndtr(near - self.width / self.deviation)
            log_density = log_density + log_near + torch.log1p(-(log_far - log_near).exp())
        return torch.logsumexp(log_density, dim=1) - 2 * math.log(self.width)

    def entropy(self) -> float:
        reach = np.abs(self.nodes).max() + self.width + 9 * self.deviation
        step = self.deviation / 2
        # Even under reflection through the origin: half the plane is enough.
        side = torch.arange(1, math.ceil(reach / step) + 1, dtype=torch.float64) * step
        both = torch.cat([-side.flip(0), torch.zeros(1, dtype=torch.float64), side])
        axis = torch.stack([torch.zeros_like(both), both], dim=1)
        upper, middle = (
            float(-torch.special.xlogy(density, density).sum())
            for density in (
                self.log_prob(torch.cartesian_prod(side, both)).exp(),
                self.log_prob(axis).exp(),
            )
        )
        return (2 * upper + middle) * step**2


SHAPES: dict[str, Callable[[], Density]] = {
    "8gaussians": EightGaussians,
    "checkerboard": Checkerboard,
    "2spirals": TwoSpirals,
    "pinwheel": Pinwheel,
    # Radii 1 to 1/4, times 3; the noise is added after that.
    "rings": functools.partial(NoisyCircles, (3.0, 2.25, 1.5, 0.75), 0.08),
    "moons": Moons,
    "swissroll": SwissRoll,
    # scikit-learn's circles with factor 0.5 and noise 0.08, times 3, noise and all.
    "circles": functools.partial(NoisyCircles, (3.0, 1.5), 0.24),
}


@functools.cache
def _entropy(shape: str) -> float:
    return SHAPES[shape]().entropy()


class ToyConfig(SampledConfig):
    """A two-dimensional toy density.

    Example:
        >>> toy = ToyConfig(shape="checkerboard", rows=100).load("checkerboard")
        >>> toy.train.shape, round(toy.truth.entropy_nats, 4)
        ((100, 2), 3.4657)
    """

    kind = "toy"

    rows: PositiveInt = Field(100_000, description="size of the training split")
    shape: ShapeName = Field("8gaussians", description="which one")

    def seed_names(self) -> tuple[object, ...]:
        return (self.shape,)

    def density(self) -> Density:
        return SHAPES[self.shape]()

    def truth(self, density: Density) -> Truth:
        # Its quadrature is long enough to be kept from one loading to the next.
        return Truth(density.log_prob, functools.partial(_entropy, self.shape))


ENTRIES = [
    Entry(
        name,
        ToyConfig,
        summary,
        "toy data of Grathwohl et al. 2018, arXiv:1810.01367, section 4.1",
        {"shape": name},
    )
    for name, summary in {
        "8gaussians": "eight Gaussians on a circle",
        "checkerboard": "uniform on the dark squares of a 4 x 4 board",
        "2spirals": "two noisy spirals",
        "pinwheel": "five twisted arms",
        "rings": "four concentric noisy circles",
        "moons": "two interleaved half circles",
        "swissroll": "one noisy spiral",
        "circles": "two concentric noisy circles",
    }.items()
]
