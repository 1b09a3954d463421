import math

import numpy as np
import pytest
import torch

import datasets
from datasets.gaussian_baseline import gaussian_baseline
from datasets.sampled.gaussian import Gaussian, random_rotation


def test_log_prob_is_torchs() -> None:
    random = np.random.default_rng(0)
    gaussian = Gaussian(random_rotation(4, random), np.array([0.1, 1.0, 2.0, 5.0]))
    covariance = torch.as_tensor(gaussian.axes * gaussian.variances @ gaussian.axes.T)
    oracle = torch.distributions.MultivariateNormal(torch.zeros(4, dtype=torch.float64), covariance)
    x = torch.as_tensor(random.standard_normal((50, 4)))
    torch.testing.assert_close(gaussian.log_prob(x), oracle.log_prob(x))
    assert gaussian.entropy() == pytest.approx(float(oracle.entropy()))


@pytest.mark.parametrize("dimension", [1, 2, 7])
def test_samples_have_the_covariance(dimension: int) -> None:
    data = datasets.load("gaussian", dimension=dimension, condition_number=25.0)
    variances = np.linalg.eigvalsh(np.atleast_2d(np.cov(data.train.T)))
    if dimension > 1:
        assert variances[-1] / variances[0] == pytest.approx(25, rel=0.05)
    assert np.prod(variances) == pytest.approx(1, rel=0.05)
    assert data.truth is not None
    assert data.truth.entropy_nats == pytest.approx(dimension / 2 * math.log(2 * math.pi * math.e))


def test_baseline_finds_the_entropy_of_a_gaussian() -> None:
    data = datasets.load("gaussian", dimension=5)
    assert data.truth is not None
    nll, error = gaussian_baseline(data)
    assert abs(nll - data.truth.entropy_nats) < 4 * error
    assert error == pytest.approx(math.sqrt(5 / 2 / 10_000), rel=0.05)


def test_baseline_without_enough_rows_says_so() -> None:
    with pytest.raises(datasets.DataError, match="singular"):
        gaussian_baseline(datasets.load("gaussian", dimension=8, rows=5))


def test_loading_again_gives_the_same_gaussian() -> None:
    first, again = datasets.load("gaussian", rows=100), datasets.load("gaussian", rows=100)
    assert first.hashes == again.hashes
    assert (len(first.train), len(first.validation), len(first.test)) == (100, 10_000, 10_000)
