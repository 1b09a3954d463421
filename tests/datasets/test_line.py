"""The mixture on a line, against torch's distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import datasets
from datasets.sampled.line import LineMixture


def test_density_is_torchs() -> None:
    line = LineMixture(components=4, distance=2.5)
    centres = torch.tensor([-3.75, -1.25, 1.25, 3.75], dtype=torch.float64)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(4)),
        torch.distributions.Normal(centres, torch.ones_like(centres)),
    )
    x = torch.linspace(-9, 9, 50, dtype=torch.float64)[:, None]
    torch.testing.assert_close(line.log_prob(x), mixture.log_prob(x[:, 0]), check_dtype=False)


def test_entropy_is_the_mean_nll_of_samples() -> None:
    data = datasets.load("line", rows=10)
    assert data.event_shape == (1,)
    assert data.truth is not None
    nll = -data.truth.log_prob(torch.as_tensor(data.test))
    error = float(nll.std()) / math.sqrt(len(nll))
    assert abs(float(nll.mean()) - data.truth.entropy_nats) < 4 * error


@pytest.mark.parametrize("components", [1, 2, 5])
def test_far_apart_the_entropy_is_that_of_a_gaussian_and_of_the_choice(components: int) -> None:
    entropy = LineMixture(components, 40.0).entropy()
    alone = 0.5 * math.log(2 * math.pi * math.e)
    assert entropy == pytest.approx(alone + math.log(components), abs=1e-9)


def test_samples_fill_every_component_alike() -> None:
    x = LineMixture(3, 30.0).sample(30_000, np.random.default_rng(0))[:, 0]
    for centre in (-30, 0, 30):
        near = x[np.abs(x - centre) < 10]
        assert len(near) == pytest.approx(10_000, abs=400)
        assert near.std() == pytest.approx(1, abs=0.03)
