"""Compiled kernels for dense dynamics, against autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flows.continuous.ode.dynamics import ACTIVATIONS, LAYERS, DenseDynamics
from flows.continuous.ode.tableaus import TABLEAUS

pytest.importorskip("numba", reason="numba is not installed: the extra 'fast' brings it")

from flows.continuous.kernels import activations, march
from flows.continuous.kernels.march import DenseMarch, Path, covers
from flows.continuous.kernels.panels import from_panels, to_panels

STEPS = ((0.1, 0.3), (0.4, 0.35))


def product(function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    """``J v``: what is linear in the w of ``w^T J`` is differentiated by w."""
    y = function(x)
    w = torch.zeros_like(y, requires_grad=True)
    (pulled,) = torch.autograd.grad(y, x, w, create_graph=True)
    (u,) = torch.autograd.grad(pulled, w, v, create_graph=True)
    return u


class Problem:
    """Dense dynamics with everything held fixed, small and drawn."""

    def __init__(
        self,
        *,
        n: int = 70,
        dimension: int = 3,
        hidden: tuple[int, ...] = (10, 7),
        probes: int = 1,
        bottleneck: int | None = None,
        narrow: bool | None = None,
        context: int = 0,
        weight: float | None = None,
        regularizers: tuple[str, ...] = (),
        dtype: torch.dtype = torch.float64,
        solver: str = "dopri5",
        size: float = 1.0,
        **options: Any,
    ) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        self.block = DenseDynamics(
            dimension, hidden, bottleneck=bottleneck, context_features=context, **options
        ).to(dtype)
        with torch.no_grad():
            for parameter in self.block.parameters():
                parameter.copy_(size * draw(*parameter.shape) / parameter.shape[-1] ** 0.5)
        self.z = draw(n, dimension)
        self.context = draw(n, context) if context else None
        self.narrow = bottleneck is not None if narrow is None else narrow
        width = bottleneck if self.narrow and bottleneck is not None else dimension
        self.vectors = draw(probes, n, width) if probes else None
        self.weight = weight or 1 / max(probes, 1)
        self.regularizers = regularizers
        self.solver = solver
        self.integrals = (1 + len(regularizers)) if probes else 0
        self.z_bar, self.q_bar = draw(n, dimension), draw(self.integrals, n)

    def march(self, path: Path | None = None) -> DenseMarch:
        """The kernels' solve of it."""
        return DenseMarch(
            self.block,
            self.z,
            self.context,
            self.vectors,
            narrow=self.narrow,
            weight=self.weight,
            regularizers=self.regularizers,
            solver=self.solver,
            atol=1e-5,
            rtol=1e-4,
            path=path,
        )

    def rates(self, t: float, z: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity and integrands, by autograd."""
        time = z.new_tensor(t)

        def velocity(z: Tensor) -> Tensor:
            f: Tensor = self.block(time, z, self.context)
            return f - z if self.block.residual else f

        f = velocity(z)
        if self.vectors is None:
            return f, z.new_empty(0, len(z))
        products, images = [], []
        for v in self.vectors:
            if self.narrow:
                h = self.block.narrow(time, z, self.context)
                u = product(lambda h: self.block.widen(time, h), h, v)
                u = product(lambda z: self.block.narrow(time, z, self.context), z, u)
            else:
                u = product(lambda z: self.block(time, z, self.context), z, v)
            products.append((u * v).sum(1))
            images.append(u - v if self.block.residual else u)
        trace = torch.stack(products).sum(0) * self.weight
        if self.block.residual:
            trace = trace - z.shape[1]
        rows = {
            "kinetic_energy": lambda: f.square().sum(1),
            "jacobian_norm": lambda: torch.stack(images).square().sum((0, 2)) * self.weight,
        }
        return f, torch.stack([trace, *(rows[name]() for name in self.regularizers)])

    def step(self, t: float, dt: float, z: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """State and integrals after a step, and the error's mean square."""
        tableau = TABLEAUS[self.solver]
        stages: list[tuple[Tensor, Tensor]] = []

        def moved(weights: tuple[float, ...]) -> tuple[Tensor, Tensor]:
            total = [torch.zeros_like(z), torch.zeros_like(q)]
            for weight, rates in zip(weights, stages, strict=False):
                total = [a + dt * weight * b for a, b in zip(total, rates, strict=True)]
            return total[0], total[1]

        for c, row in zip(tableau.times, tableau.stages, strict=True):
            stages.append(self.rates(t + c * dt, z + moved(row)[0]))
        dz, dq = moved(tableau.solution)
        if tableau.error is None:
            return z + dz, q + dq, z.new_zeros(())
        squares = []
        controlled = 1 if self.integrals else 0
        errors = moved(tableau.error)
        for error, before, after in zip(errors, (z, q), (z + dz, q + dq), strict=True):
            scale = 1e-5 + 1e-4 * torch.maximum(before.abs(), after.abs())
            squares.append((error / scale).square())
        parts = [squares[0].mean(), *(row.mean() for row in squares[1][:controlled])]
        return z + dz, q + dq, torch.stack(parts).max()


CASES = {
    "plain": {},
    "one hidden layer": {"hidden": (9,)},
    "wide": {"hidden": (64, 33), "dimension": 9, "n": 33},
    "no trace": {"probes": 0},
    "probes": {"probes": 3},
    "exact": {"probes": 3, "weight": 1.0},
    "bottleneck": {"bottleneck": 2, "probes": 2},
    "bottleneck, exact trace of the whole": {"bottleneck": 2, "narrow": False},
    "residual": {"residual": True, "probes": 2},
    "context": {"context": 2, "probes": 2},
    "regularisers": {"regularizers": ("kinetic_energy", "jacobian_norm"), "probes": 2},
    "all": {
        "bottleneck": 2,
        "context": 3,
        "residual": True,
        "regularizers": ("kinetic_energy",),
        "probes": 2,
        "activation": "softplus",
        "layers": "hyper",
    },
    "residual regularised": {
        "residual": True,
        "regularizers": ("jacobian_norm", "kinetic_energy"),
        "context": 1,
    },
    "fixed steps": {"solver": "rk4"},
    "bosh3": {"solver": "bosh3"},
    "one point": {"n": 1},
    "a full panel": {"n": 16},
    **{f"layers {kind}": {"layers": kind} for kind in LAYERS},
    **{
        f"activation {name}": {
            "activation": name,
            "probes": 2,
            "size": 0.3 if name == "square" else 1,
        }
        for name in ACTIVATIONS
    },
}


def relative(found: Tensor, truth: Tensor) -> float:
    """The largest difference, over the truth's size."""
    if not truth.numel():
        return 0.0
    return float((found - truth).abs().max() / (1e-3 + truth.abs().max()))


def run(problem: Problem, path: Path | None = None) -> tuple[DenseMarch, list[float]]:
    """Two steps of given sizes by the kernels."""
    solve = problem.march(path)
    errors = []
    if TABLEAUS[problem.solver].error is not None:
        solve.rates_at(STEPS[0][0], solve.y, solve.rates[0])
    for t, dt in STEPS:
        errors.append(solve.attempt(t, dt))
        solve.accept(t, dt)
    return solve, errors


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_steps_are_those_of_autograd(options: dict[str, Any], dtype: torch.dtype) -> None:
    tolerance = 1e-11 if dtype == torch.float64 else 2e-5
    problem = Problem(**options, dtype=dtype)
    path = Path()
    solve, errors = run(problem, path)
    z, q = solve.state()

    start = problem.z.clone().requires_grad_(True)
    if problem.context is not None:
        problem.context.requires_grad_(True)
    expected: tuple[Tensor, Tensor] = (start, start.new_zeros(problem.integrals, len(start)))
    for (t, dt), error in zip(STEPS, errors, strict=True):
        *expected, square = problem.step(t, dt, *expected)
        # The error is a small difference of large numbers.
        assert error == pytest.approx(float(square.detach()), rel=1e4 * tolerance, abs=1e-4)
    assert relative(z, expected[0].detach()) < tolerance
    assert relative(q, expected[1].detach()) < tolerance

    loss = (expected[0] * problem.z_bar).sum() + (expected[1] * problem.q_bar).sum()
    parameters = dict(problem.block.named_parameters())
    inputs = [start, *parameters.values()]
    if problem.context is not None:
        inputs.append(problem.context)
    truth = torch.autograd.grad(loss, inputs)
    z_bar, context_bar, found = solve.pull(problem.block, problem.z_bar, problem.q_bar)
    assert relative(z_bar, truth[0]) < tolerance
    for name, gradient, expected_gradient in zip(parameters, found, truth[1:], strict=False):
        assert gradient is not None
        assert relative(gradient, expected_gradient) < tolerance, name
    if problem.context is not None:
        assert relative(context_bar, truth[-1]) < tolerance


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_activations_to_rounding(name: str, dtype: type) -> None:
    p = np.linspace(-40, 40, 4001).astype(dtype)
    value, slope, curve = p.copy(), np.empty_like(p), np.empty_like(p)
    kind = activations.ACTIVATIONS.index(name)
    activations.activate(kind, value, slope, curve, len(p), True)
    x = torch.from_numpy(p.astype(np.float64)).requires_grad_(True)
    a = ACTIVATIONS[name](x)
    (s,) = torch.autograd.grad(a.sum(), x, create_graph=True)
    (c,) = torch.autograd.grad(s.sum(), x, allow_unused=True)
    epsilon = np.finfo(dtype).eps
    # torch's softplus is its argument beyond 20, its slope 1 there and not the sigmoid.
    loose = 3e-9 if name == "softplus" else 0.0
    for found, truth in ((value, a), (slope, s), (curve, c)):
        assert truth is not None
        expected = truth.detach().numpy()
        assert (np.abs(found - expected) <= 10 * epsilon * (1 + np.abs(expected)) + loose).all()


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_activations_let_what_is_no_number_through(name: str) -> None:
    value = np.full(3, np.nan, np.float32)
    scratch = np.zeros_like(value), np.zeros_like(value)
    activations.activate(activations.ACTIVATIONS.index(name), value, *scratch, 3, False)
    assert np.isnan(value).all()


def test_the_number_of_threads_changes_nothing() -> None:
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            problem = Problem(n=700, probes=2, context=1)
            solve, errors = run(problem, Path())
            z_bar, context_bar, found = solve.pull(problem.block, problem.z_bar, problem.q_bar)
            results.append([*solve.state(), torch.tensor(errors), z_bar, context_bar, *found])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("part", ["z", "context"])
def test_what_is_no_number_reaches_the_error(part: str) -> None:
    problem = Problem(context=1)
    tensor = getattr(problem, part)
    tensor[5] = torch.nan
    solve = problem.march()
    solve.rates_at(0.0, solve.y, solve.rates[0])
    assert np.isnan(solve.attempt(0.0, 0.1))
    assert np.isnan(from_panels(solve.y1, len(tensor))[5]).all()
    assert not np.isnan(from_panels(solve.y1, len(tensor))[:5]).any()


def test_strides_do_not_matter() -> None:
    problem, other = Problem(context=2, probes=2), Problem(context=2, probes=2)
    assert other.context is not None
    assert other.vectors is not None
    other.z = other.z.t().contiguous().t()
    other.context = other.context.repeat(1, 2)[:, :2]
    other.vectors = other.vectors.transpose(0, 1).contiguous().transpose(0, 1)
    assert all(
        torch.equal(a, b)
        for a, b in zip(run(problem)[0].state(), run(other)[0].state(), strict=True)
    )


def test_covers_what_it_can_and_should() -> None:
    block, z = DenseDynamics(3, (8,)), torch.zeros(4, 3)
    vectors = torch.zeros(1, 4, 3)

    def covered(block: torch.nn.Module = block, z: Tensor = z, *more: str) -> bool:
        return covers(block, z, None, vectors.to(z), more)

    assert covered()
    assert covered(block.double(), z.double(), "kinetic_energy")
    block.float()
    assert not covered(block, z.double())
    assert not covered(block.half(), z.half())
    block.float()
    assert not covered(block, z[:0])
    assert not covered(block, z, "mean_speed")
    assert not covered(torch.nn.Linear(3, 3))
    assert not covered(DenseDynamics(3, (860, 860)))
    assert not covered(block.to("meta"), z.to("meta"))


@pytest.mark.parametrize("size", [1, 31, 32, 33, 64])
def test_panels_and_back(size: int) -> None:
    rows = np.random.default_rng(0).normal(size=(size, 3, 2))
    panels = to_panels(rows, 32)
    assert panels.shape == (-(-size // 32), 3, 2, 32)
    assert (from_panels(panels, size) == rows).all()
    assert (panels.reshape(-1, 6, 32)[-1, :, -1] == rows[-1].ravel()).all()


def test_large_networks_are_left_to_a_library() -> None:
    # 256 kB a layer of 256 x 256 is well within; 4 of them are not.
    assert march.MOST_BYTES == 1 << 20
    assert covers(DenseDynamics(3, (256, 256)), torch.zeros(4, 3), None, None, ())
    assert not covers(DenseDynamics(3, (256,) * 6), torch.zeros(4, 3), None, None, ())
