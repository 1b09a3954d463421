import math

import numpy as np
import pytest
import torch

import datasets
from datasets.sampled.toy import SHAPES, EightGaussians

NAMES = sorted(SHAPES)
# Half a side of a square that holds all mass but some 1e-12, and the finest detail's size.
EXTENT = {"8gaussians": 6.5, "checkerboard": 5.0, "pinwheel": 7.0, "swissroll": 4.8}


def grid(side: float, n: int) -> tuple[torch.Tensor, float]:
    """Midpoints of n x n cells of a square around the origin, and a cell's area."""
    step = 2 * side / n
    axis = (torch.arange(n, dtype=torch.float64) + 0.5) * step - side
    return torch.cartesian_prod(axis, axis), step**2


@pytest.mark.parametrize("name", NAMES)
def test_density_integrates_to_one(name: str) -> None:
    points, area = grid(EXTENT.get(name, 4.6), 250)
    density = SHAPES[name]().log_prob(points).exp()
    assert density.dtype == torch.float64
    assert float(density.sum()) * area == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_samples_fall_as_the_density_says(name: str) -> None:
    """Chi-squared of a histogram against the integral of the density over its cells."""
    data = datasets.load(name, rows=100_000)
    assert data.truth is not None
    side, bins, fine = EXTENT.get(name, 4.6), 25, 10
    points, area = grid(side, bins * fine)
    density = data.truth.log_prob(points).exp().reshape(bins, fine, bins, fine)
    expected = (density.sum((1, 3)) * area * len(data.train)).numpy()
    edges = np.linspace(-side, side, bins + 1)
    counts, _, _ = np.histogram2d(data.train[:, 0], data.train[:, 1], bins=(edges, edges))
    enough = expected > 10
    assert counts[~enough].sum() == pytest.approx(expected[~enough].sum(), abs=60)
    chi_squared = ((counts - expected)[enough] ** 2 / expected[enough]).sum()
    cells = int(enough.sum())
    assert abs(chi_squared - cells) < 5 * math.sqrt(2 * cells)


@pytest.mark.parametrize("name", NAMES)
def test_entropy_is_the_mean_nll_of_samples(name: str) -> None:
    data = datasets.load(name, rows=10)
    assert data.truth is not None
    nll = -data.truth.log_prob(torch.as_tensor(data.test).double())
    assert torch.isfinite(nll).all()
    error = float(nll.std()) / math.sqrt(len(nll))
    assert abs(float(nll.mean()) - data.truth.entropy_nats) < 4 * error + 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_entropy_agrees_with_another_quadrature(name: str) -> None:
    side = EXTENT.get(name, 4.6)
    points, area = grid(side, 300)
    density = SHAPES[name]().log_prob(points).exp()
    plain = -float(torch.special.xlogy(density, density).sum()) * area
    assert SHAPES[name]().entropy() == pytest.approx(plain, abs=2e-3)


def test_entropy_of_far_apart_gaussians_is_that_of_one_and_of_the_choice() -> None:
    shape = EightGaussians()
    # Neighbours are six standard deviations apart: they overlap by little.
    apart = math.log(8) + math.log(2 * math.pi * math.e * shape.deviation**2)
    assert apart - 0.02 < shape.entropy() < apart


@pytest.mark.parametrize("name", NAMES)
def test_loading_again_gives_the_same(name: str) -> None:
    first, again = datasets.load(name, rows=500), datasets.load(name, rows=500)
    assert first.hashes == again.hashes
    assert len(set(first.hashes.values())) == 3
    assert datasets.load(name, rows=600).hashes["test"] == first.hashes["test"]
    assert first.train.dtype == np.float32
    assert (len(first.train), len(first.validation), len(first.test)) == (500, 10_000, 10_000)


def test_checkerboard_is_the_same_on_every_machine() -> None:
    """Made of sums and products alone, so not one bit may differ."""
    hashes = datasets.load("checkerboard").hashes
    assert hashes["train"].startswith("7a46e0ad1f0733fa")
    assert hashes["test"].startswith("dddec16f5c6faad2")


def test_an_option_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="rows"):
        datasets.load("moons", rows="many")
    with pytest.raises(ValueError, match="shape"):
        datasets.load("moons", shape="moon")
