"""The sweep over solvers: a field whose flow is known, and a density whose mass is."""

from __future__ import annotations

import math

import pytest
import torch

import datasets
from benchmarks.cell import Budget, Cell
from benchmarks.measures import solver
from benchmarks.measures.subject import Subject
from flows import Flow, build, configure

TOLERANCES = solver.TOLERANCES


def subject_of(flow: Flow, dataset: str, name: str = "ffjord") -> Subject:
    cell = Cell(
        flow=name,
        flow_options=configure(name).model_dump(mode="json"),
        dataset=dataset,
        dataset_options={},
        seed=0,
        budget=Budget(steps=0),  # type: ignore[call-arg]
        measures=("solver",),
        device="cpu",
        threads=1,
    )
    return Subject(cell, flow, datasets.load(dataset, rows=1000))


def linear(dimension: int, rate: float) -> Flow:
    """dz/dt = rate z, by a network without hidden layers."""
    flow = build("ffjord", (dimension,), hidden=(), layers="ignore", trace="exact").double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.zero_()
        weight = next(p for p in flow.parameters() if p.ndim == 2)
        weight.copy_(rate * torch.eye(dimension))
    return flow


@pytest.fixture(scope="module")
def swept() -> tuple[Subject, dict[str, float]]:
    subject = subject_of(linear(1, 0.7), "line")
    return subject, solver.measure(subject)


def rows(subject: Subject, method: str) -> dict[str, torch.Tensor]:
    mine = subject.arrays["solver_method"] == method
    return {name: torch.as_tensor(subject.arrays[f"solver_{name}"][mine]) for name in solver.SWEEP}


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_errors_fall_with_the_order_of_the_method(
    swept: tuple[Subject, dict[str, float]], method: str, order: int
) -> None:
    found = rows(swept[0], method)
    error = found["sample_error"]
    orders = torch.log2(error[:-1] / error[1:])[1:4]
    assert orders.mean().item() == pytest.approx(order, abs=0.3)
    stages = {"euler": 1, "midpoint": 2, "rk4": 4}[method]
    assert torch.equal(found["nfe"], stages * found["steps"])


def test_eulers_samples_are_those_of_the_closed_form(
    swept: tuple[Subject, dict[str, float]],
) -> None:
    """One step back from z: z (1 - r), where the way back is z exp(-r)."""
    subject, _ = swept
    z = subject.flow.base.sample(solver.POINTS, generator=subject.generator("solver: latents"))
    expected = (z * (1 - 0.7 - math.exp(-0.7))).square().mean().sqrt().item()
    assert rows(subject, "euler")["sample_error"][0].item() == pytest.approx(expected, rel=1e-6)


def test_eulers_mass_is_that_of_the_closed_form(swept: tuple[Subject, dict[str, float]]) -> None:
    """Log p = log N(x (1 + r)) + r: a mass of exp(r) / (1 + r)."""
    mass = math.exp(0.7) / 1.7
    found = rows(swept[0], "euler")["mass_error"][0].item()
    assert found == pytest.approx(mass - 1, abs=1e-6)
    assert swept[1]["reference_mass_error"] < 1e-9


@pytest.mark.parametrize("method", solver.ADAPTIVE)
def test_tighter_tolerances_take_more_evaluations_for_less_error(
    swept: tuple[Subject, dict[str, float]], method: str
) -> None:
    found = rows(swept[0], method)
    assert (found["nfe"].diff() >= 0).all()
    assert found["nfe"][-1] > found["nfe"][0]
    # That of order 8 is there at once.
    assert found["log_prob_error"][-1] < 1e-6
    assert (found["log_prob_error_max"] >= found["log_prob_error"]).all()


def test_its_own_settings_are_among_the_columns(swept: tuple[Subject, dict[str, float]]) -> None:
    subject, found = swept
    mine = rows(subject, "dopri5")["log_prob_error"]
    assert found["log_prob_error_nats"] == pytest.approx(mine[TOLERANCES.index(1e-5)].item())


def test_a_flow_that_solves_nothing_has_none_of_it() -> None:
    subject = subject_of(build("maf", (2,)), "8gaussians", "maf")
    assert solver.measure(subject) == {}
    assert not subject.arrays


@pytest.mark.parametrize("dimension", [1, 2])
def test_the_grid_integrates_a_gaussian(dimension: int) -> None:
    data = torch.randn(500, dimension, generator=torch.Generator().manual_seed(0)).double()
    points, area = solver.grid(data)
    assert points is not None
    density = (-0.5 * points.square().sum(1)).exp() / (2 * math.pi) ** (dimension / 2)
    assert density.sum().item() * area == pytest.approx(1, abs=1e-7)
    assert solver.grid(torch.zeros(3, 3))[0] is None
