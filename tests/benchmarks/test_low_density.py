"""A model's mass where the true density is low, against closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import chi2, norm

import datasets
import flows
from benchmarks import measures
from benchmarks.cell import Cell
from benchmarks.measures.low_density import PART, level_below
from benchmarks.measures.subject import Subject
from flows.continuous.ffjord import FFJORD

PERCENT = 100 * PART


def subject(dataset: str, flow: str = "realnvp", **options: Any) -> Subject:
    """A fresh RealNVP is the identity: the model is the standard normal."""
    config = flows.configure(flow, {"hidden": (8,)})
    data = datasets.configure(dataset, options)
    cell = Cell.model_validate(
        {
            "flow": flow,
            "flow_options": config.model_dump(mode="json"),
            "dataset": dataset,
            "dataset_options": data.model_dump(mode="json"),
            "seed": 0,
            "budget": {"batch_size": 32},
            "measures": ["low-density", "path"],
            "device": "cpu",
            "threads": 1,
            "dtype": "float64",
        }
    )
    loaded = data.load(dataset)
    torch.manual_seed(0)
    return Subject(cell, config.build(loaded.event_shape).double(), loaded)


def measured(of: Subject, family: str = "low-density") -> dict[str, Any]:
    return dict(measures.family(family).measure(of))


def test_a_perfect_model_has_the_truths_own_mass_there() -> None:
    found = measured(subject("isotropic", rows=20_000))
    assert found["low_density_true_mass_percent"] == pytest.approx(PERCENT, abs=0.03)
    assert found["low_density_mass_percent"] == pytest.approx(PERCENT, abs=0.03)
    # The density at the radius beyond which the part lies.
    expected = math.log(PART) - math.log(2 * math.pi)
    assert found["low_density_level_nats"] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("condition", [2.0, 25.0])
def test_a_gaussian_against_another(condition: float) -> None:
    """The ellipse of a truth of variances s and 1 / s, under the standard normal."""
    found = measured(subject("gaussian", condition_number=condition, rows=20_000))
    square, s = chi2.ppf(1 - PART, 2), math.sqrt(condition)

    def strip(x: float) -> float:
        reach = math.sqrt(max(0.0, (square - x * x / s) / s))
        return float(norm.pdf(x) * (2 * norm.cdf(reach) - 1))

    edge = math.sqrt(square * s)
    inside, _ = quad(strip, -edge, edge)
    expected = 100 * (1 - inside)
    assert found["low_density_mass_percent"] == pytest.approx(expected, abs=0.1)
    assert found["low_density_mass_error_percent"] < 0.1


def test_a_checkerboard_has_no_mass_of_its_own_between_its_squares() -> None:
    """Its density is one number or zero: the region is all that is outside."""
    found = measured(subject("checkerboard", rows=20_000))
    assert found["low_density_true_mass_percent"] == 0
    assert found["low_density_level_nats"] == pytest.approx(-math.log(32))
    parts = [norm.cdf(2 * k + 2) - norm.cdf(2 * k) for k in range(-2, 2)]
    squares = sum(parts[i] * parts[j] for i in range(4) for j in range(4) if (i + j) % 2 == 0)
    assert found["low_density_mass_percent"] == pytest.approx(100 * (1 - squares), abs=1e-3)


def test_nothing_is_said_of_other_dimensions() -> None:
    assert measured(subject("gaussian", dimension=3, rows=2000)) == {}


def test_a_level_has_no_more_than_its_part_below() -> None:
    density = torch.tensor([-4.0, -3.0, -3.0, -2.0, -math.inf])
    mass = torch.tensor([0.01, 0.02, 0.02, 0.95, 0.0])
    for part, level in ((0.0, -4.0), (0.009, -4.0), (0.01, -3.0), (0.049, -3.0), (0.05, -2.0)):
        assert float(level_below(density, mass, part + 1e-6)) == level


# -- the way from noise to data -----------------------------------------------------------------


def test_the_way_begins_at_the_base_and_ends_at_the_model() -> None:
    of = subject("8gaussians", "ffjord", rows=2000)
    found = measured(of, "path")
    arrays = of.arrays
    y, x = (torch.as_tensor(arrays[name]).double() for name in ("path_y", "path_x"))
    points = torch.cartesian_prod(y, x).flip(1)
    first, last = (torch.as_tensor(arrays["path_log_density"][i]).double() for i in (0, -1))
    base = of.flow.base.log_prob(points)
    with torch.no_grad():
        model = of.flow.log_prob(points, exact=True)
    # Half precision keeps three digits.
    assert torch.allclose(first.flatten(), base, rtol=2e-3, atol=2e-3)
    assert torch.allclose(last.flatten(), model, rtol=2e-3, atol=2e-3)
    assert found["path_integral_error"] < 0.02
    assert len(arrays["path_times"]) == len(arrays["path_samples"])


def test_parts_of_a_blocks_way_make_the_whole() -> None:
    flow = subject("8gaussians", "ffjord", rows=2000).flow
    assert isinstance(flow, FFJORD)
    block: Any = flow.blocks[0]
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z, whole = flow.encode(x, exact=True)
        half, first = block.between(x, 0.0, 0.4)
        end, second = block.between(half, 0.4, 1.0)
        back, third = block.between(end, 1.0, 0.0)
        same, nothing = block.between(x, 0.4, 0.4)
    assert torch.allclose(end, z, atol=1e-3)
    assert torch.allclose(first + second, whole, atol=1e-3)
    assert torch.allclose(back, x, atol=1e-3)
    assert torch.allclose(third, -whole, atol=1e-3)
    assert torch.equal(same, x)
    assert not nothing.any()


def test_a_discrete_flow_has_no_way() -> None:
    of = subject("8gaussians", rows=2000)
    assert measured(of, "path") == {}
    assert not of.arrays
