"""The kernel of a step on CUDA: in Triton's interpreter its arithmetic is that of torch's path."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
import torch

import flows
from flows.continuous.kernels import triton_is_there
from flows.continuous.ode import on_device
from flows.continuous.ode.dense import DenseEvaluator
from flows.continuous.ode.dynamics import LAYERS, DenseDynamics
from flows.continuous.ode.evaluator import Problem
from flows.continuous.ode.field import Probes
from flows.continuous.ode.settings import Settings
from flows.continuous.ode.tableaus import TABLEAUS, coefficients
from flows.continuous.ode.trace import unit_vectors

if not triton_is_there():
    pytest.skip("no Triton", allow_module_level=True)

ROWS = 21
# Without a device Triton's interpreter runs the kernel, see the `conftest.py` of the project.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def on_cuda() -> ModuleType:
    return importlib.import_module("flows.continuous.kernels.on_cuda")


def pair(
    on_cuda: ModuleType,
    dynamics: DenseDynamics,
    *,
    context: int = 0,
    products: int | str = 1,
    regularizers: tuple[str, ...] = (),
) -> tuple[DenseEvaluator, DenseEvaluator, torch.Tensor]:
    """The same right-hand side by torch and by the kernel, and a state."""
    size, dynamics = dynamics.dimension, dynamics.to(DEVICE)
    z = torch.randn(ROWS, size, device=DEVICE)
    given = torch.randn(ROWS, context, device=DEVICE) if context else None
    probes = None
    if products == "exact":
        probes = Probes(unit_vectors(ROWS, size, like=z), narrow=False, weight=1.0)
    elif isinstance(products, int) and products:
        probes = Probes(
            torch.randn(products, ROWS, size, device=DEVICE), narrow=False, weight=1 / products
        )
    arguments = dynamics, given, probes, regularizers
    return DenseEvaluator(*arguments), on_cuda.TritonEvaluator(*arguments), z


@torch.no_grad()
def assert_same_step(
    truth: DenseEvaluator, kernel: DenseEvaluator, z: torch.Tensor, solver: str = "dopri5"
) -> None:
    settings, tableau = Settings(solver, atol=1e-4, rtol=1e-3), TABLEAUS[solver]
    weights = coefficients(solver, z.dtype, z.device)
    problem = Problem(settings, weights, tuple(z.shape), truth.integrals)
    y = torch.cat([z.reshape(-1), torch.randn(truth.integrals * len(z), device=DEVICE)])
    dt = torch.tensor(-0.3, device=DEVICE)
    times = 0.8 + dt * torch.tensor(tableau.evaluated, device=DEVICE)
    rate = None
    if tableau.adaptive:
        (moment,) = truth.moments(torch.full((1,), 0.8, device=DEVICE))
        f, q = truth.rates(moment, z, integrands=truth.integrals > 0)
        rate = torch.cat([f.reshape(-1), *([] if q is None else [q.reshape(-1)])])
    true = truth.step(problem, truth.moments(times), y, rate, dt)
    mine = kernel.step(problem, kernel.moments(times), y, rate, dt)
    for found, expected in ((mine.rate, true.rate), (mine.y, true.y)):
        bound = 1e-5 * float(expected.abs().max().clamp(min=1))
        torch.testing.assert_close(found, expected, atol=bound, rtol=1e-5)
    torch.testing.assert_close(mine.square, true.square, atol=1e-6, rtol=1e-2)
    assert (mine.square > 0) == tableau.adaptive


@torch.no_grad()
def assert_same_pull(
    truth: DenseEvaluator, kernel: DenseEvaluator, z: torch.Tensor, solver: str = "dopri5"
) -> None:
    tableau = TABLEAUS[solver]
    weights = coefficients(solver, z.dtype, z.device)
    problem = Problem(Settings(solver), weights, tuple(z.shape), truth.integrals)
    dt = torch.tensor(-0.3, device=DEVICE)
    times = 0.8 + dt * torch.tensor(tableau.times[: tableau.used], device=DEVICE)
    velocities = torch.randn(tableau.used - 1, z.numel(), device=DEVICE)
    z_bar = torch.randn(z.numel(), device=DEVICE)
    q_bar = torch.randn(truth.integrals, ROWS, device=DEVICE) if truth.integrals else None
    found = []
    for one in (kernel, truth):
        moments = one.moments(times)
        arguments = problem, moments, dt, z.reshape(-1), velocities, z_bar, q_bar
        bar, shares = one.pull_step(*arguments)
        sums = one.gradients()
        sums.add(times, shares)
        found.append([bar, *(total for total in sums.totals() if total is not None)])
    for mine, true in zip(*found, strict=True):
        bound = 1e-5 * float(true.abs().max().clamp(min=1))
        torch.testing.assert_close(mine, true, atol=bound, rtol=1e-4)


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("activation", ["tanh", "softplus", "elu", "swish", "square"])
def test_of_all_layers_and_activations(on_cuda: ModuleType, layers: Any, activation: Any) -> None:
    dynamics = DenseDynamics(3, (20, 9), layers=layers, activation=activation)
    assert_same_step(*pair(on_cuda, dynamics))
    assert_same_pull(*pair(on_cuda, dynamics))


@pytest.mark.parametrize(
    "options",
    [
        {"products": 0},
        {"products": 3},
        {"products": "exact"},
        {"context": 2},
        {"regularizers": ("kinetic_energy",)},
        {"regularizers": ("jacobian_norm", "kinetic_energy"), "products": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("residual", [False, True])
def test_of_all_that_goes_along(
    on_cuda: ModuleType, options: dict[str, Any], residual: bool
) -> None:
    dynamics = DenseDynamics(
        5, (17,), residual=residual, context_features=options.get("context", 0)
    )
    assert_same_step(*pair(on_cuda, dynamics, **options))
    assert_same_pull(*pair(on_cuda, dynamics, **options))


@pytest.mark.parametrize("solver", TABLEAUS)
def test_of_all_methods(on_cuda: ModuleType, solver: str) -> None:
    assert_same_step(*pair(on_cuda, DenseDynamics(2, (16, 16, 16))), solver)
    assert_same_pull(*pair(on_cuda, DenseDynamics(2, (16, 16, 16))), solver)


@pytest.mark.parametrize("shape", [(6, (60, 60, 60)), (2, (64, 64, 64))], ids=["power", "toy"])
def test_of_the_official_networks(on_cuda: ModuleType, shape: tuple[int, tuple[int, ...]]) -> None:
    assert_same_step(*pair(on_cuda, DenseDynamics(*shape)))
    assert_same_pull(*pair(on_cuda, DenseDynamics(*shape)))


def test_what_it_is_made_for(on_cuda: ModuleType) -> None:
    def fits(*arguments: Any, probes: Probes | None = None, **options: Any) -> bool:
        evaluator = DenseEvaluator(DenseDynamics(*arguments, **options), None, probes)
        found: bool = on_cuda.made_for(evaluator)
        return found

    assert fits(6, (60, 60, 60))
    assert not fits(43, (860, 860))
    assert not fits(3, ())
    narrow = Probes(torch.zeros(1, 4, 2), narrow=True, weight=1.0)
    assert not fits(3, (8,), bottleneck=2, probes=narrow)
    many = Probes(torch.zeros(9, 4, 9), narrow=False, weight=1.0)
    assert not fits(9, (8,), probes=many)


COMPILE = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from flows.continuous.kernels.on_cuda.evaluator import ROWS
from flows.continuous.kernels.on_cuda.pull import pull_kernel
from flows.continuous.kernels.on_cuda.step import step_kernel

COMMON = dict(DEPTH=4, STAGES=7, ACTIVATION=0, RESIDUAL=False, INPUTS=16, HIDDEN=64, OUTPUTS=16)
COMMON["BLOCK"] = ROWS
STEP = dict(COMMON, ADAPTIVE=True, INTEGRALS=1, KINETIC=0, JACOBIAN=0)
INTEGERS = "total vectors_step vectors_row vectors_column n dimension size width probes used"
for function, constants in ((step_kernel, STEP), (pull_kernel, dict(COMMON, TANGENT=True))):
    kinds = {name: "*fp32" for name in function.arg_names}
    kinds |= {name: "i32" for name in INTEGERS.split() if name in kinds} | {"table": "*i32"}
    kinds |= {name: "fp32" for name in ("weight", "atol", "rtol") if name in kinds}
    kinds |= dict.fromkeys(constants, "constexpr")
    places = {(function.arg_names.index(name),): value for name, value in constants.items()}
    made = triton.compile(ASTSource(function, kinds, places), target=GPUTarget("cuda", 90, 32))
    assert made.asm["cubin"]
    print(function.__name__, made.metadata.shared)
"""


@pytest.mark.slow
def test_it_compiles_for_an_h100_and_fits_its_shared_memory() -> None:
    """For POWER and the toys; it takes no device."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    found = dict(line.split() for line in done.stdout.splitlines())
    assert set(found) == {"step_kernel", "pull_kernel"}
    assert all(int(size) <= 227 * 1024 for size in found.values())


def test_a_kernel_that_is_wrong_is_not_used(
    on_cuda: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, _, z = pair(on_cuda, DenseDynamics(2, (8,)))
    with on_device.chosen(True):
        assert on_cuda.covers(truth, z)
        assert not on_cuda.refused
        monkeypatch.setattr(on_cuda.proof, "_proven", set())
        monkeypatch.setattr(on_cuda.evaluator, "ACTIVATIONS", ("square", "tanh"))
        assert not on_cuda.covers(truth, z)
        assert "off by" in next(iter(on_cuda.refused.values()))
        on_cuda.refused.clear()
        monkeypatch.setattr(on_cuda.evaluator, "ACTIVATIONS", ())
        assert not on_cuda.covers(truth, z)
        assert "ValueError" in next(iter(on_cuda.refused.values()))
        on_cuda.refused.clear()


@pytest.mark.slow
def test_a_flow_trains_with_it(on_cuda: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steps forward, and torch's gradients of them, for a flow of two blocks."""
    from flows.continuous import transform

    x = torch.randn(ROWS, 2, device=DEVICE)

    def found(kernel: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        flow = flows.build("ffjord", (2,), hidden=(4,), blocks=2, end_time=0.1, atol=1e-2).to(
            DEVICE
        )
        if kernel:
            monkeypatch.setattr(
                transform,
                "evaluator_of",
                lambda dynamics, z, *rest: on_cuda.TritonEvaluator(dynamics, *rest),
            )
        loss = flow.loss(x, generator=torch.Generator(DEVICE).manual_seed(0))
        loss.backward()
        grads = [parameter.grad for parameter in flow.parameters()]
        return [loss.detach(), *(grad for grad in grads if grad is not None)]

    truth = found(False)
    with on_device.chosen(True):
        torch.testing.assert_close(found(True), truth, atol=1e-4, rtol=1e-3)
