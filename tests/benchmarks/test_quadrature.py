"""Divergences in the plane against closed forms and against a fine grid."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy.stats import ncx2
from torch import Tensor

import datasets
from benchmarks.quadrature import (
    _DEGREE_5,
    _DEGREE_7,
    _POINTS,
    LEFT_OUT,
    RARE,
    kullback_leibler,
)
from datasets.sampled.toy import SHAPES

LogProb = Callable[[Tensor], Tensor]
# The truth itself takes its time for these.
SLOW = ("2spirals", "pinwheel")
NAMES = [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
    for name in sorted([*SHAPES, "gaussian", "mixture", "banana", "student-t"])
]


def normal(deviation: float = 1.0, centre: float = 0.0) -> LogProb:
    """The isotropic one in the plane, around a point on the diagonal."""
    distribution = torch.distributions.Normal(
        torch.tensor(centre, dtype=torch.float64), torch.tensor(deviation, dtype=torch.float64)
    )
    return lambda x: distribution.log_prob(x).sum(1)


def draws(deviation: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return deviation * torch.randn(10_000, 2, dtype=torch.float64, generator=generator)


def test_the_rules_are_exact_for_polynomials_of_their_degree() -> None:
    for weights, degree in ((_DEGREE_7, 7), (_DEGREE_5, 5)):
        for i in range(degree + 1):
            for j in range(degree + 1 - i):
                value = float(weights @ (_POINTS[:, 0] ** i * _POINTS[:, 1] ** j))
                exact = 0.0 if i % 2 or j % 2 else 1 / ((i + 1) * (j + 1))
                assert value == pytest.approx(exact, abs=1e-13)
    assert float(_DEGREE_7 @ _POINTS[:, 0] ** 8) != pytest.approx(1 / 9, abs=1e-3)


@pytest.mark.parametrize(("deviation", "centre"), [(1.0, 0.0), (3.0, 0.0), (0.4, 1.0), (1.0, 5.0)])
def test_of_two_normals_it_is_the_closed_form(deviation: float, centre: float) -> None:
    ratio = 1 / deviation**2
    expected = ratio - 1 - math.log(ratio) + centre**2 / deviation**2
    found = kullback_leibler(normal(), normal(deviation, centre), draws())
    assert abs(found.nats - expected) < min(1e-3, found.error)
    assert found.error < 0.005
    assert found.evaluations <= 30_000 + 2 * len(_POINTS)


def test_it_does_not_depend_on_the_scale() -> None:
    for scale in (1e-4, 1e4):
        found = kullback_leibler(normal(scale), normal(2 * scale), draws(scale))
        assert found.nats == pytest.approx(2 * (math.log(2) - 3 / 8), abs=1e-3)


def test_thin_tails_of_a_model_are_seen_where_no_test_point_is() -> None:
    """The gap is ``e^(4 x) / 100``, whose mean comes from around x = 4, as rare as 3e-5."""

    def model(x: Tensor) -> Tensor:
        return normal()(x) - 0.01 * torch.exp(4 * x[:, 0])

    def within(left_out: float) -> float:
        """The mean over the disc that holds the rest of the mass: e^8 times what a normal around
        (4, 0) has in it.
        """
        return 0.01 * math.exp(8) * float(ncx2.cdf(-2 * math.log(left_out), 2, 16))

    data = draws()
    found = kullback_leibler(normal(), model, data)
    expected = within(LEFT_OUT)
    assert expected == pytest.approx(27, abs=1)
    assert abs(found.nats - expected) < min(found.error, 0.02 * expected)
    assert found.rare == pytest.approx(expected - within(RARE), rel=0.15)
    sampled = float((normal()(data) - model(data)).mean())
    assert abs(sampled - expected) > 10 * abs(found.nats - expected)


def test_what_is_rare_carries_its_share() -> None:
    """Beyond radius r a normal has mass e^(-r^2 / 2), and the gap to another has a closed form."""
    found = kullback_leibler(normal(), normal(0.5), draws(), tolerance=1e-4)

    def beyond(mass: float) -> float:
        # log p - log q = 3/2 r^2 - log 4, and r^2 has the mean -2 log(mass) + 2 beyond.
        return mass * (1.5 * (2 - 2 * math.log(mass)) - math.log(4))

    assert found.rare == pytest.approx(beyond(RARE) - beyond(LEFT_OUT), rel=0.15)


@pytest.mark.parametrize("name", NAMES)
def test_against_a_normal_it_is_half_the_second_moment_less_the_entropy(name: str) -> None:
    """On every set in two dimensions: the entropy is known by other means."""
    data = datasets.load(name, rows=100_000)
    truth = data.truth
    assert truth is not None
    test = torch.as_tensor(data.test).double()
    deviation = 2.0
    found = kullback_leibler(truth.log_prob, normal(deviation), test)
    square = torch.as_tensor(data.train).double().square().sum(1)
    error = float(square.std()) / math.sqrt(len(square)) / (2 * deviation**2)
    cross_entropy = float(square.mean()) / (2 * deviation**2) + math.log(2 * math.pi * deviation**2)
    assert found.error < 0.01
    assert abs(found.nats - (cross_entropy - truth.entropy_nats)) < 4 * error + found.error


def test_a_funnel_is_found_in_its_neck() -> None:
    """Widths from e^-5 to e^5: most of the mass lies where a grid has no point."""
    data = datasets.load("funnel", dimension=2, rows=10_000)
    truth = data.truth
    assert truth is not None

    def model(x: Tensor) -> Tensor:
        """The funnel with its neck's deviation doubled: the same conditionals."""
        v = x[:, 0]
        return truth.log_prob(x) + (v / 3).square() * 3 / 8 - math.log(2)

    found = kullback_leibler(truth.log_prob, model, torch.as_tensor(data.test))
    assert found.nats == pytest.approx(math.log(2) - 3 / 8, abs=2e-3)


def test_a_divergence_of_a_density_from_itself_is_nothing() -> None:
    found = kullback_leibler(normal(), normal(), draws())
    assert found.nats == 0
    assert found.error < 1e-3


def test_a_model_without_density_where_the_truth_has_mass_is_infinitely_far() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] > 3, -math.inf, normal()(x))

    found = kullback_leibler(normal(), model, draws())
    assert found.nats == math.inf
    assert found.error == math.inf


def test_rows_that_repeat_end_the_search_for_equal_shares() -> None:
    data = torch.cat([draws(), torch.ones(10_000, 2, dtype=torch.float64)])
    found = kullback_leibler(normal(), normal(2.0), data)
    assert found.nats == pytest.approx(2 * (math.log(2) - 3 / 8), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["8gaussians", "rings", "checkerboard", "moons"])
def test_of_a_learned_like_density_it_is_that_of_a_fine_grid(name: str) -> None:
    """A mixture of wide normals on the data, as a flow in mid-training is."""
    data = datasets.load(name, rows=1000)
    truth = data.truth
    assert truth is not None
    centres = torch.as_tensor(data.train[:60]).double()

    def model(x: Tensor) -> Tensor:
        square = (x[:, None] - centres).square().sum(2)
        normaliser = math.log(len(centres) * 2 * math.pi * 0.3**2)
        return torch.logsumexp(-square / (2 * 0.3**2), 1) - normaliser

    found = kullback_leibler(truth.log_prob, model, torch.as_tensor(data.test))
    # Cells whose sides lie on those of the checkerboard's squares.
    step = 1 / 64
    axis = (torch.arange(-64 * 7, 64 * 7, dtype=torch.float64) + 0.5) * step
    total = 0.0
    for part in axis.split(64):
        points = torch.cartesian_prod(part, axis)
        log_truth = truth.log_prob(points)
        near = log_truth > -60
        gap = log_truth[near] - model(points[near])
        total += float((log_truth[near].exp() * gap).sum()) * step**2
    assert abs(found.nats - total) < max(1e-3, found.error)
    assert found.error < 0.005
