import itertools
import math

import pytest
import torch

from datasets.base import DataError
from datasets.preprocessing import Dequantize, bits_per_dim


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_bits_per_dim_by_hand() -> None:
    """Two pixels of four levels under a uniform density on [0, 1): two bits each."""
    raw = torch.tensor([[0, 3], [1, 2]], dtype=torch.uint8)
    _, log_abs_det = Dequantize(4).forward(raw, seeded())
    nll_nats = float(-(0.0 + log_abs_det).mean())
    assert nll_nats == pytest.approx(2 * math.log(4))
    assert bits_per_dim(nll_nats, 2) == pytest.approx(2.0)


@pytest.mark.parametrize("alpha", [1e-6, 0.05, 0.3])
def test_logit_by_hand(alpha: float) -> None:
    raw = torch.tensor([[0, 5, 16]], dtype=torch.uint8)
    noise = torch.rand(raw.shape, generator=seeded(3)).double()
    p = alpha + (1 - 2 * alpha) * (raw + noise) / 17
    x, log_abs_det = Dequantize(17, alpha).forward(raw, seeded(3))
    assert x.dtype == log_abs_det.dtype == torch.float32
    torch.testing.assert_close(x.double(), torch.logit(p), rtol=1e-5, atol=1e-5)
    slope = (1 - 2 * alpha) / 17 / (p * (1 - p))
    torch.testing.assert_close(log_abs_det.double(), slope.log().sum(1), rtol=1e-5, atol=1e-5)


def test_small_alpha_keeps_its_digits_at_the_white_end() -> None:
    """Naively, 1 - p has one digit in float32 there, and x would be off by 0.06."""
    raw = torch.full((1, 2000), 255, dtype=torch.uint8)
    noise = torch.rand(raw.shape, generator=seeded(1)).double()
    side = (255 - raw + 1 - noise) / 256
    p_complement = 1e-6 + (1 - 2e-6) * side
    x, _ = Dequantize(256, 1e-6).forward(raw, seeded(1))
    torch.testing.assert_close(
        x.double(), torch.log1p(-p_complement) - p_complement.log(), rtol=0, atol=2e-5
    )


@pytest.mark.parametrize("alpha", [None, 0.05])
def test_log_det_is_autograds(alpha: float | None) -> None:
    """The inverse is differentiated, so the two directions check one another."""
    dequantize = Dequantize(256, alpha)
    raw = torch.randint(0, 256, (6, 3, 2), generator=seeded()).to(torch.uint8)
    x, log_abs_det = dequantize.forward(raw, seeded())
    x = x.double()
    for i in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(dequantize.inverse, x[i]).reshape(6, 6)
        assert float(-torch.linalg.slogdet(jacobian).logabsdet) == pytest.approx(
            float(log_abs_det[i]), abs=1e-3
        )


@pytest.mark.parametrize("alpha", [None, 1e-6, 0.05])
def test_inverse_gives_the_integers_back(alpha: float | None) -> None:
    raw = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    dequantize = Dequantize(256, alpha)
    x, log_abs_det = dequantize.forward(raw, seeded())
    assert x.shape == raw.shape
    assert log_abs_det.shape == (4,)
    back = dequantize.inverse(x.double()) - raw
    assert float(back.min()) > -1e-2
    assert float(back.max()) < 1 + 1e-2


def test_noise_comes_from_the_given_generator() -> None:
    raw = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    dequantize = Dequantize(17, 0.05)
    first, again = (dequantize.forward(raw, seeded(5))[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, dequantize.forward(raw, seeded(6))[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_generator_on_the_cpu_gives_every_device_the_same_noise() -> None:
    raw = torch.randint(0, 17, (50, 1, 8, 8), generator=seeded()).to(torch.uint8)
    dequantize = Dequantize(17, 0.05)
    here, log_abs_det = dequantize.forward(raw, seeded(1))
    there, log_abs_det_there = dequantize.forward(raw.cuda(), seeded(1))
    torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_abs_det_there.cpu(), log_abs_det, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("alpha", [None, 0.05])
def test_bits_per_dim_against_a_discrete_likelihood(alpha: float | None) -> None:
    """A density that is flat within each bin has the likelihood of the discrete model itself.

    The model: two correlated pixels of three levels with a table of probabilities. Its
    dequantised density is ``P(bin)`` on each unit cell; written in the coordinates x of the
    logit, it is what a perfect flow would learn. Then bits/dim must be the discrete entropy.
    """
    table = torch.tensor([[0.2, 0.05, 0.1], [0.05, 0.3, 0.05], [0.1, 0.05, 0.1]]).double()
    dequantize = Dequantize(3, alpha)

    def flow_log_prob(x: torch.Tensor) -> torch.Tensor:
        inside = dequantize.inverse(x)
        cell = inside.long().clamp(0, 2)
        slope = torch.autograd.functional.jacobian(lambda t: dequantize.inverse(t).sum(0), x)
        slope = torch.stack([slope[i, :, i] for i in range(2)], dim=1)
        return table[cell[:, 0], cell[:, 1]].log() + slope.log().sum(1)

    raw = torch.tensor(list(itertools.product(range(3), repeat=2)), dtype=torch.uint8)
    x, log_abs_det = dequantize.forward(raw, seeded())
    nll = -(flow_log_prob(x.double()) + log_abs_det.double())
    weights = table.flatten()
    discrete_bits = float(-(weights * weights.log2()).sum()) / 2
    assert bits_per_dim(float((weights * nll).sum()), 2) == pytest.approx(discrete_bits, abs=1e-5)


def test_bits_per_dim_of_a_poorer_model_is_an_upper_bound() -> None:
    """Jensen: a density that varies within bins scores worse than its own bins' masses."""
    raw = torch.randint(0, 4, (4000, 1), generator=seeded()).to(torch.uint8)
    x, log_abs_det = Dequantize(4).forward(raw, seeded(1))
    # Density 2 x on [0, 1): its bins have masses (2 k + 1) / 16.
    nll = -((2 * x[:, 0]).log() + log_abs_det).mean()
    discrete = -((2 * raw[:, 0].double() + 1) / 16).log().mean()
    assert bits_per_dim(float(nll), 1) > bits_per_dim(float(discrete), 1)


@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0])
def test_an_impossible_alpha_is_refused(alpha: float) -> None:
    with pytest.raises(DataError, match="alpha"):
        Dequantize(256, alpha)


def test_too_few_levels_are_refused() -> None:
    with pytest.raises(DataError, match="levels"):
        Dequantize(1)
