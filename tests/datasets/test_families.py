"""The families of any dimension: mixture, funnel, Student t and banana."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

import datasets
from datasets.sampled.banana import Banana
from datasets.sampled.funnel import Funnel
from datasets.sampled.mixture import Mixture
from datasets.sampled.student_t import StudentT

FAMILIES = {
    "isotropic": {},
    "gaussian": {"condition_number": 100.0},
    "mixture": {"radius": 5.0},
    "funnel": {"deviation": 1.5},
    "student-t": {"freedom": 4.0},
    "banana": {},
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dimension", [2, 5, 32])
def test_entropy_is_the_mean_nll_of_samples(name: str, dimension: int) -> None:
    data = datasets.load(name, dimension=dimension, rows=10, **FAMILIES[name])
    assert data.event_shape == (dimension,)
    assert data.kind == "family"
    assert data.truth is not None
    nll = -data.truth.log_prob(torch.as_tensor(data.test).double())
    assert nll.dtype == torch.float64
    error = float(nll.std()) / math.sqrt(len(nll))
    assert abs(float(nll.mean()) - data.truth.entropy_nats) < 4 * error


@pytest.mark.parametrize("name", FAMILIES)
def test_density_in_the_plane_integrates_to_one(name: str) -> None:
    data = datasets.load(name, rows=10, **{**FAMILIES[name], "dimension": 2})
    assert data.truth is not None
    # Square roots of the tails: x = s^3 spreads a uniform grid over a wide square.
    s = torch.linspace(-4.0, 4.0, 1601, dtype=torch.float64)
    x, weight = s**3, 3 * s**2 * (s[1] - s[0])
    log_density = data.truth.log_prob(torch.cartesian_prod(x, x)).reshape(len(s), len(s))
    assert float(weight @ log_density.exp() @ weight) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_loading_again_gives_the_same(name: str) -> None:
    first, again = (datasets.load(name, rows=50) for _ in range(2))
    assert first.hashes == again.hashes
    assert len(set(first.hashes.values())) == 3


def test_student_t_is_scipys() -> None:
    random = np.random.default_rng(0)
    axes, _ = np.linalg.qr(random.standard_normal((3, 3)))
    scales = np.array([4.0, 1.0, 0.5])
    student = StudentT(axes, scales, 2.5)
    oracle = scipy.stats.multivariate_t(shape=axes @ np.diag(scales) @ axes.T, df=2.5)
    x = random.standard_normal((40, 3)) * 3
    np.testing.assert_allclose(student.log_prob(torch.as_tensor(x)), oracle.logpdf(x))
    assert student.entropy() == pytest.approx(float(oracle.entropy()))


def test_mixture_is_torchs() -> None:
    mixture = Mixture(np.eye(3), components=5, radius=2.0, deviation=0.7)
    centres = torch.zeros(5, 3, dtype=torch.float64)
    centres[:, :2] = torch.as_tensor(mixture.circle)
    oracle = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(5, dtype=torch.float64)),
        torch.distributions.Independent(
            torch.distributions.Normal(centres, torch.full_like(centres, 0.7)), 1
        ),
    )
    x = torch.randn(30, 3, dtype=torch.float64) * 2
    torch.testing.assert_close(mixture.log_prob(x), oracle.log_prob(x))


def test_entropy_of_far_apart_components_is_theirs_and_that_of_the_choice() -> None:
    mixture = Mixture(np.eye(4), components=4, radius=30.0, deviation=0.5)
    apart = math.log(4) + 4 / 2 * math.log(2 * math.pi * math.e * 0.25)
    assert mixture.entropy() == pytest.approx(apart, abs=1e-8)


def test_funnel_is_made_of_normals() -> None:
    x = torch.randn(20, 4, dtype=torch.float64)
    expected = torch.distributions.Normal(0.0, 3.0).log_prob(x[:, 0])
    for i in range(1, 4):
        expected = expected + torch.distributions.Normal(0.0, (x[:, 0] / 2).exp()).log_prob(x[:, i])
    torch.testing.assert_close(Funnel(4, 3.0).log_prob(x), expected)


def test_banana_undone_is_a_gaussian() -> None:
    banana = Banana(3, 2.0, 0.75)
    points = banana.sample(20_000, np.random.default_rng(1))
    points[:, 1] -= 0.75 * (points[:, 0] ** 2 - 4)
    np.testing.assert_allclose(np.cov(points.T), np.diag([4.0, 1.0, 1.0]), atol=0.15)
    area, _ = scipy.integrate.dblquad(
        lambda y, x: float(Banana(2, 2.0, 0.75).log_prob(torch.tensor([[x, y]])).exp()),
        -2,
        2,
        lambda x: 0.75 * (x * x - 4) - 6,
        lambda x: 0.75 * (x * x - 4) + 6,
        epsabs=1e-4,
    )
    assert area == pytest.approx(scipy.stats.norm.cdf(1) - scipy.stats.norm.cdf(-1), abs=1e-3)


def test_one_dimension_is_too_few_for_a_plane() -> None:
    for name in ("mixture", "funnel", "banana"):
        with pytest.raises(ValueError, match="dimension"):
            datasets.load(name, dimension=1)
