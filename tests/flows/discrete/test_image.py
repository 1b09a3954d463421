"""Flows of images."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import flows
from flows.base import InputError
from flows.discrete.layers.convolutions import ResidualConvolutions
from flows.discrete.layers.coupling import CheckerboardCoupling
from flows.discrete.layers.elementwise import Affine
from flows.discrete.layers.linear import ChannelLinear
from flows.discrete.layers.multiscale import LearnedPrior
from flows.discrete.layers.norm import ActNorm, ChannelNorm
from flows.discrete.layers.squeeze import Squeeze

SYSTEMS = ["glow-image", "realnvp-image"]
SMALL = {"channels": 8}


def images(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", SYSTEMS)
def test_vectors_and_indivisible_sides_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"\(channels, height, width\), got \(6,\)"):
        flows.build(name, (6,))
    with pytest.raises(InputError, match="divisible by 8, got 28 x 28; give fewer levels"):
        flows.build(name, (1, 28, 28), levels=3 if name == "glow-image" else 4)
    assert flows.build(name, (1, 28, 28), levels=2, **SMALL).event_shape == (1, 28, 28)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("event_shape", [(1, 8, 4), (2, 4, 12), (5, 8, 8)])
@pytest.mark.parametrize("levels", [1, 2])
def test_any_channel_count_and_divisible_sides(
    name: str, event_shape: tuple[int, int, int], levels: int
) -> None:
    torch.manual_seed(0)
    flow = flows.build(name, event_shape, levels=levels, **SMALL).double().eval()
    x = images(3, *event_shape)
    with torch.no_grad():
        flow.initialize(x)
        z, change = flow.encode(x)
        back, there = flow.decode(z)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(there, -change, atol=1e-8, rtol=1e-8)


def test_squeeze_is_a_permutation() -> None:
    x = images(2, 3, 4, 6)
    z, change = Squeeze()(x, None)
    assert z.shape == (2, 12, 2, 3)
    assert torch.equal(z.flatten(1).sort().values, x.flatten(1).sort().values)
    assert change.item() == 0


def test_channel_linear_is_the_map_of_each_pixel() -> None:
    torch.manual_seed(0)
    layer = ChannelLinear(4).double()
    x = images(2, 4, 3, 5)
    z, change = layer(x, None)
    weight, log_abs_det = layer.linear.weight_and_log_abs_det()
    torch.testing.assert_close(z, torch.einsum("ij,njhw->nihw", weight, x))
    torch.testing.assert_close(change, 15 * log_abs_det)


def test_actnorm_standardises_channels() -> None:
    x = 3 * images(8, 4, 5, 5) + 2
    layer = ChannelNorm(ActNorm(4)).double()
    layer.initialize(x, None)
    z, _ = layer(x, None)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("swap", [False, True])
def test_checkerboard_leaves_what_is_given(swap: bool) -> None:
    torch.manual_seed(0)
    layer = CheckerboardCoupling(
        2,
        4,
        5,
        lambda inputs, outputs: ResidualConvolutions(inputs, outputs, 8, 1, 0),
        Affine(5.0, shift_first=False),
        swap,
    ).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        x = images(3, 2, 4, 5)
        z, _ = layer(x, None)
    changed = (z != x).all(0).all(0)
    expected = (torch.arange(4)[:, None] + torch.arange(5)) % 2 == int(not swap)
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("given", [0, 3])
def test_learned_prior_is_a_gaussian(given: int) -> None:
    torch.manual_seed(0)
    affine = Affine(5.0, shift_first=True)
    prior = LearnedPrior(given, 2, 0, affine).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        stays = images(4, given, 3, 3, seed=1) if given else None
        leaves = images(4, 2, 3, 3)
        standard, change = prior.standardise(leaves, stays, None)
        density = torch.distributions.Normal(0, 1).log_prob(standard).flatten(1).sum(1) + change
        # The same by the moments: x = (z - shift exp(s)) / exp(s).
        zero, _ = prior.restore(torch.zeros_like(leaves), stays, None)
        one, _ = prior.restore(torch.ones_like(leaves), stays, None)
        truth = torch.distributions.Normal(zero, one - zero).log_prob(leaves).flatten(1).sum(1)
    torch.testing.assert_close(density, truth)


def test_glow_initialisation_standardises_the_latents() -> None:
    torch.manual_seed(0)
    flow = flows.build("glow-image", (3, 8, 8), **SMALL).double()
    x = 0.1 * images(64, 3, 8, 8) + 0.5
    with torch.no_grad():
        before = flow.log_prob(x).mean()
        flow.initialize(x)
        after = flow.log_prob(x).mean()
    # The truth is a Gaussian of standard deviation 0.1 a pixel.
    truth = -192 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.1))
    assert after > before
    assert after == pytest.approx(truth, abs=5)


def test_refreshed_statistics_are_those_of_the_training_set() -> None:
    torch.manual_seed(0)
    flow = flows.build("realnvp-image", (1, 4, 4), blocks=1, **SMALL).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        x = 2 * images(40, 1, 4, 4) + 1
        expected = flow.train().log_prob(x)
        assert flow.keeps_statistics
        flow.refresh_statistics(x)
        measured = flow.eval().log_prob(x)
    torch.testing.assert_close(measured, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_learns_correlated_pixels(name: str) -> None:
    """Pixels that share a common level: far better than independent pixels could be."""
    torch.manual_seed(0)
    options = {"blocks": 1} if name == "realnvp-image" else {"steps": 3}
    flow = flows.build(name, (1, 4, 4), **options, **SMALL)
    generator = torch.Generator().manual_seed(3)

    def draw(n: int) -> Tensor:
        level = torch.randn(n, 1, 1, 1, generator=generator)
        return level + 0.3 * torch.randn(n, 1, 4, 4, generator=generator)

    flow.initialize(draw(256))
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    for _ in range(400):
        optimizer.zero_grad()
        (-flow.log_prob(draw(128)).mean()).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimizer.step()
    flow.eval()
    with torch.no_grad():
        nll = -flow.log_prob(draw(2000)).mean().item()
    # Eigenvalues of the covariance: 16 + 0.09 once, 0.09 fifteen times.
    entropy = 8 * math.log(2 * math.pi * math.e) + 0.5 * math.log(16.09 * 0.09**15)
    independent = 8 * math.log(2 * math.pi * math.e) + 8 * math.log(1.09)
    assert nll < entropy + 1.0 < independent
