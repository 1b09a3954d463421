"""What the solver rests on: an evaluation, a step and a pull are functions, and a tape replays."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from flows.continuous.ode.autograd import AutogradEvaluator
from flows.continuous.ode.dense import DenseEvaluator
from flows.continuous.ode.dynamics import DenseDynamics
from flows.continuous.ode.evaluator import Evaluator, Problem
from flows.continuous.ode.field import Field, Probes
from flows.continuous.ode.forward import Tape, forward
from flows.continuous.ode.gradient import integrate
from flows.continuous.ode.settings import Settings
from flows.continuous.ode.tableaus import TABLEAUS, coefficients

CPU = torch.device("cpu")


def evaluator(kind: str, context: bool = False) -> Evaluator:
    torch.manual_seed(0)
    dynamics = DenseDynamics(3, (5, 4), context_features=2 if context else 0).double()
    noise = torch.Generator().manual_seed(1)
    probes = Probes(torch.randn(1, 6, 3, dtype=torch.float64, generator=noise), False, 1.0)
    given = torch.randn(6, 2, dtype=torch.float64) if context else None
    if kind == "dense":
        return DenseEvaluator(dynamics, given, probes)
    return AutogradEvaluator(Field(dynamics, given, probes))


def problem_of(of: Evaluator, z: Tensor, settings: Settings) -> Problem:
    weights = coefficients(settings.solver, z.dtype, z.device)
    return Problem(settings, weights, tuple(z.shape), of.integrals)


def state() -> Tensor:
    return torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", ["dense", "autograd"])
@pytest.mark.parametrize("context", [False, True])
def test_pulls_are_functions_and_their_shares_sum_to_the_gradient(kind: str, context: bool) -> None:
    """Twice the same answer, no argument changed, and autograd's gradient of that evaluation."""
    of, z = evaluator(kind, context), state()
    moments = of.moments(torch.tensor([0.2, 0.7], dtype=torch.float64))
    f_bar, q_bar = torch.randn_like(z), torch.randn(1, 6, dtype=torch.float64)
    given = copy.deepcopy((z, f_bar, q_bar))
    first, again = (of.pull(moments[1], z, f_bar, q_bar) for _ in range(2))
    assert torch.equal(first[0], again[0])
    torch.testing.assert_close(first[1], again[1], atol=0, rtol=0)
    assert all(torch.equal(*pair) for pair in zip(given, (z, f_bar, q_bar), strict=True))
    sums = of.gradients()
    sums.add(torch.tensor([0.7], dtype=torch.float64), [first[1]])
    found = sums.totals()
    assert len(found) == len(of.tensors)

    truth = AutogradEvaluator(evaluator("autograd", context).field)
    point = z.clone().requires_grad_()
    for tensor in truth.tensors:
        tensor.requires_grad_()
    f, trace = truth.field.rates(torch.tensor(0.7, dtype=torch.float64), point)
    total = (f * f_bar).sum() + (trace * q_bar[0]).sum()
    z_bar, *bars = torch.autograd.grad(total, [point, *truth.tensors])
    torch.testing.assert_close(first[0], z_bar)
    for mine, true in zip(found, bars, strict=True):
        if mine is not None:
            torch.testing.assert_close(mine, true)


@pytest.mark.parametrize("solver", TABLEAUS)
@pytest.mark.parametrize("kind", ["dense", "autograd"])
def test_a_step_is_a_function(solver: str, kind: str) -> None:
    of, z = evaluator(kind), state()
    problem, tableau = problem_of(of, z, Settings(solver)), TABLEAUS[solver]
    y = torch.cat([z.reshape(-1), torch.zeros(6, dtype=torch.float64)])
    dt = torch.tensor(0.1, dtype=torch.float64)
    times = torch.tensor(tableau.evaluated, dtype=torch.float64) * dt
    rate = None
    if tableau.adaptive:
        (moment,) = of.moments(torch.zeros(1, dtype=torch.float64))
        rate = torch.cat([part.reshape(-1) for part in of.rates(moment, z, integrands=True)])
    before = y.clone()
    found = [of.step(problem, of.moments(times), y, rate, dt) for _ in range(2)]
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    assert torch.equal(y, before)
    torch.testing.assert_close(found[0].y, y + 0.1 * problem.coefficients.solution @ found[0].rate)
    assert (found[0].square > 0) == tableau.adaptive


@pytest.mark.parametrize("options", [{}, {"solver": "rk4", "steps": 7}], ids=str)
def test_the_tape_holds_the_path(options: dict[str, Any]) -> None:
    """Steps follow one another, each from where it began, and end at the end."""
    of, z = evaluator("dense"), state()
    settings = Settings(**{"atol": 1e-8, "rtol": 1e-8, **options})
    problem, tape = problem_of(of, z, settings), Tape(room=0)
    y = forward(of, problem, z, 1.5, 0.0, None, tape)
    assert len(tape.steps) > 1
    assert torch.equal(tape.steps[0].z, z.reshape(-1))
    for one, other in itertools.pairwise(tape.steps):
        assert one.t + one.dt == pytest.approx(other.t, abs=1e-12)
        there = forward(of, problem, z, 1.5, other.t, None, None)[: problem.z_size]
        torch.testing.assert_close(there, other.z, atol=1e-5, rtol=0)
    assert tape.steps[-1].t + tape.steps[-1].dt == pytest.approx(0.0, abs=1e-12)
    assert all(step.velocities is None for step in tape.steps)
    roomy = Tape(room=10**6)
    assert torch.equal(forward(of, problem, z, 1.5, 0.0, None, roomy), y)
    assert all(step.velocities is not None for step in roomy.steps)


def test_a_first_step_is_tried_and_the_one_that_fits_comes_back() -> None:
    of, z = evaluator("dense"), state()
    settings = Settings(atol=1e-8, rtol=1e-8)
    found = integrate(of, z, 0.0, 1.0, settings)
    assert found[2] is not None
    again = integrate(of, z, 0.0, 1.0, settings, found[2])
    torch.testing.assert_close(found[0], again[0], atol=1e-6, rtol=0)
    with torch.no_grad():
        assert integrate(of, z, 0.0, 1.0, settings)[2] is None


def test_an_evaluator_may_do_whole_ways() -> None:
    class Whole(DenseEvaluator):
        def solve(self, problem: Problem, z: Tensor, start: float, *rest: Any) -> Tensor:
            end, _, tape = rest
            if tape is not None:
                tape.whole = end - start
            return torch.full((problem.size,), end - start, dtype=z.dtype)

        def pull_solve(
            self, problem: Problem, tape: Tape, z_bar: Tensor, q_bar: Tensor | None
        ) -> tuple[Tensor, list[Tensor | None]]:
            return z_bar * tape.whole, [None] * len(self.tensors)

    made, z = evaluator("dense"), state().requires_grad_(True)
    assert isinstance(made, DenseEvaluator)
    made.__class__ = Whole
    for wanted in (False, True):
        with torch.set_grad_enabled(wanted):
            found, integrals, _ = integrate(made, z, 0.5, 2.0, Settings())
        assert torch.equal(found, torch.full_like(z, 1.5))
        assert torch.equal(integrals, torch.full((1, 6), 1.5, dtype=z.dtype))
    found.sum().backward()
    assert z.grad is not None
    assert torch.equal(z.grad, torch.full_like(z, 1.5))
