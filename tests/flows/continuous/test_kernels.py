"""Compiled kernels for dense dynamics, against what torch does in their place."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import flows
from benchmarks.measures.memory import peak_above_start
from flows.base import InputError
from flows.continuous import kernels
from flows.continuous.errors import StepUnderflow, TooManyEvaluations
from flows.continuous.ode.dynamics import LAYERS, DenseDynamics
from flows.continuous.ode.field import Probes
from flows.continuous.ode.gradient import integrate
from flows.continuous.ode.settings import Settings
from flows.continuous.transform import evaluator_of
from flows.meter import Meter

pytest.importorskip("numba", reason="numba is not installed: the extra 'fast' brings it")

import numba

from flows.continuous.kernels import activations, blocks, evaluator, steps
from flows.continuous.kernels.compiled import whole_vectors
from flows.continuous.kernels.evaluator import KernelEvaluator

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no hidden layer": {"hidden": ()},
    "wide": {"hidden": (64, 33), "dimension": 9, "n": 33},
    "probes": {"probes": 3},
    "rademacher": {"noise": "rademacher"},
    "exact": {"trace": "exact"},
    "bottleneck": {"bottleneck": 2, "probes": 2},
    "bottleneck, exact": {"bottleneck": 2, "trace": "exact"},
    "residual": {"residual": True, "probes": 2},
    "context": {"context": 2, "probes": 2},
    "regularisers": {"kinetic_energy": 0.1, "jacobian_norm": 0.2, "probes": 2},
    "residual regularised": {"residual": True, "jacobian_norm": 0.3, "context": 1},
    "learned end time": {"learned_end_time": True, "blocks": 2, "batch_norm": True},
    "all": {
        "bottleneck": 2,
        "context": 3,
        "residual": True,
        "kinetic_energy": 0.1,
        "learned_end_time": True,
        "probes": 2,
        "blocks": 2,
        "activation": "softplus",
        "layers": "hyper",
    },
    "fixed steps": {"solver": "rk4", "steps": 3},
    "bosh3": {"solver": "bosh3"},
    "one point": {"n": 1},
    "a full panel": {"n": 32},
    **{f"layers {kind}": {"layers": kind} for kind in LAYERS},
    **{f"activation {name}": {"activation": name} for name in activations.ACTIVATIONS},
}
# The kernels are the same text for both; each path of it once in single precision.
SINGLE = ("wide", "exact", "bottleneck, exact", "residual regularised", "all", "fixed steps")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(
    *, dimension: int = 3, context: int = 0, n: int = 70, dtype: torch.dtype, **options: Any
) -> tuple[Any, Tensor, Tensor | None]:
    """A flow with drawn weights, data and context."""
    options = {"hidden": (10, 7), "atol": 1e-4, "rtol": 1e-4, **options}
    torch.manual_seed(0)
    flow = flows.build("ffjord", (dimension,), context, **options).to(dtype)
    with torch.no_grad():
        for index, parameter in enumerate(flow.parameters()):
            if parameter.ndim:
                change = draw(*parameter.shape, seed=index).to(dtype)
                parameter.add_(0.3 * change / parameter.shape[-1] ** 0.5)
    x = draw(n, dimension, seed=1).to(dtype)
    return flow, x, draw(n, context, seed=2).to(dtype) if context else None


def found(flow: Any, x: Tensor, context: Tensor | None) -> dict[str, Any]:
    """All that a user may ask of a flow, and what the meter counts meanwhile."""
    generator = torch.Generator().manual_seed(3)
    results: dict[str, Any] = {}
    with Meter() as meter:
        flow.train()
        x = x.clone().requires_grad_(True)
        context = context if context is None else context.clone().requires_grad_(True)
        loss, terms = flow.training_loss(x, context, generator=generator)
        loss.backward()
        results |= {"loss": loss.detach(), **{name: one.detach() for name, one in terms.items()}}
        results |= {f"by {name}": p.grad for name, p in flow.named_parameters()}
        results |= {"by x": x.grad, "by context": None if context is None else context.grad}
        flow.eval()
        with torch.no_grad():
            results["log_prob"] = flow.log_prob(x, context, generator=generator)
            results["exact"] = flow.log_prob(x, context, exact=True)
            results["sample"] = flow.sample(len(x), context, generator=generator)
        z, change = flow.encode(x, context, generator=generator)
        results |= {"z": z.detach(), "change": change.detach()}
    results["parts"] = {name: astuple(counts) for name, counts in meter.parts.items()}
    results["generator"] = generator.get_state()
    return results


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gets the names of the kernels' ways as they are gone."""
    taken: list[str] = []
    for name in ("solve", "pull_solve"):
        compiled = getattr(steps, name)

        def noted(*args: Any, _compiled: Any = compiled, _name: str = name) -> Any:
            taken.append(_name)
            return _compiled(*args)

        monkeypatch.setattr(steps, name, noted)
    return taken


def both(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[], dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Results by the kernels, and by torch."""
    taken = counted(monkeypatch)
    by_kernels = run()
    assert {"solve", "pull_solve"} <= set(taken)
    monkeypatch.setenv(kernels.VARIABLE, "off")
    taken.clear()
    by_torch = run()
    assert not taken
    return by_kernels, by_torch


def agree(one: dict[str, Any], other: dict[str, Any], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        truth = other[name]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            same = torch.equal(value, truth) if isinstance(value, Tensor) else value == truth
            assert same, name
            continue
        scale = float(truth.abs().max()) if truth.numel() else 0.0
        assert float((value - truth).abs().max()) <= tolerance * (1e-2 + scale), name


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float64) for name in CASES] + [(name, torch.float32) for name in SINGLE],
)
def test_steps_values_and_gradients_are_those_of_torch(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> dict[str, Any]:
        return found(*made(dtype=dtype, **CASES[name]))

    agree(*both(monkeypatch, run), 1e-9 if dtype == torch.float64 else 2e-4)


def test_weights_that_a_functional_call_swaps_get_their_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flow, x, _ = made(dtype=torch.float64)
    weights = {name: 0.5 * p.detach() for name, p in flow.named_parameters()}

    def run() -> dict[str, Any]:
        flow.train()
        flow.blocks[0].fitting_step = None
        given = {name: one.clone().requires_grad_(True) for name, one in weights.items()}
        generator = torch.Generator().manual_seed(0)
        value = functional_call(flow, given, (x,), {"generator": generator}).sum()
        # The call is over, and the flow has its own weights again.
        value.backward()
        assert all(p.grad is None for p in flow.parameters())
        return {"value": value.detach(), **{name: one.grad for name, one in given.items()}}

    agree(*both(monkeypatch, run), 1e-9)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda flow: pickle.loads(pickle.dumps(flow)), "state"],
    ids=["deepcopy", "pickle", "state_dict"],
)
def test_a_copy_computes_the_same(copied: Any) -> None:
    flow, x, context = made(dtype=torch.float64)
    first = found(flow, x, context)
    if copied == "state":
        other, _, _ = made(dtype=torch.float64)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        other.load_state_dict(flow.state_dict())
    else:
        flow.zero_grad()
        flow.blocks[0].fitting_step = None
        other = copied(flow)
    agree(found(other, x, context), first, 0.0)


def test_frozen_weights_have_no_gradient() -> None:
    flow, x, _ = made(dtype=torch.float64)
    first, *others = flow.parameters()
    first.requires_grad_(False)
    flow.loss(x).backward()
    assert first.grad is None
    assert all(parameter.grad is not None for parameter in others)


def test_a_training_step_changes_the_next_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> dict[str, Any]:
        flow, x, _ = made(dtype=torch.float64)
        optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
        losses = []
        for seed in range(3):
            optimizer.zero_grad()
            loss = flow.loss(x, generator=torch.Generator().manual_seed(seed))
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return {"losses": torch.stack(losses), **dict(flow.state_dict())}

    agree(*both(monkeypatch, run), 1e-8)


def test_threads_give_the_same_to_rounding() -> None:
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(found(*made(n=700, dtype=torch.float64, probes=2, context=1)))
            assert evaluator._workers(700 // 16) == threads
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        agree(results[0], other, 1e-10)


def test_several_of_python_s_threads_may_solve_at_once() -> None:
    flow, x, _ = made(n=300, dtype=torch.float64)
    flow.eval()
    before = torch.get_num_threads()
    truth = flow.log_prob(x, exact=True)
    results: list[Tensor] = []

    def run() -> None:
        for _ in range(3):
            results.append(flow.log_prob(x, exact=True))

    threads = [threading.Thread(target=run) for _ in range(4)]
    try:
        torch.set_num_threads(2)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        torch.set_num_threads(before)
    assert len(results) == 12
    for found_there in results:
        torch.testing.assert_close(found_there, truth)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes can be forked here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_solves_by_threads_of_its_own() -> None:
    before = torch.get_num_threads()
    flow, x, _ = made(n=300, dtype=torch.float64)
    flow.eval()
    try:
        torch.set_num_threads(2)
        truth = flow.log_prob(x, exact=True).detach()
        child = os.fork()
        if not child:
            same = torch.allclose(flow.log_prob(x, exact=True).detach(), truth)
            os._exit(0 if same else 1)
        _, status = os.waitpid(child, 0)
    finally:
        torch.set_num_threads(before)
    assert os.waitstatus_to_exitcode(status) == 0


FAILURES: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "no number in the state": ({"broken": "state"}, StepUnderflow),
    "no number in the context": ({"broken": "context"}, StepUnderflow),
    "fixed steps": ({"broken": "state", "solver": "rk4", "steps": 2}, StepUnderflow),
    "no evaluation allowed": ({"max_evaluations": 0}, TooManyEvaluations),
    "one step allowed": ({"max_evaluations": 10}, TooManyEvaluations),
    "a few steps allowed": ({"max_evaluations": 30, "tolerance": 1e-10}, TooManyEvaluations),
}


@pytest.mark.parametrize(("case", "error"), FAILURES.values(), ids=FAILURES.keys())
def test_what_cannot_be_solved_is_torch_s_error_after_as_many_evaluations(
    case: dict[str, Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"max_evaluations": 10_000, **case}
    cap, tolerance = options.pop("max_evaluations"), options.pop("tolerance", 1e-4)
    broken = options.pop("broken", None)
    flow, x, context = made(n=40, dtype=torch.float64, context=2, **options)
    assert context is not None
    if broken is not None:
        (x if broken == "state" else context)[5] = torch.nan
    config = flow.config
    settings = Settings(config.solver, tolerance, tolerance, config.steps, max_evaluations=cap)

    def run() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for wanted in (False, True):
            z = x.clone().requires_grad_(wanted)
            of = evaluator_of(flow.blocks[0].dynamics, z, context, None, ())
            with Meter() as meter, pytest.raises(error) as caught, torch.set_grad_enabled(wanted):
                integrate(of, z, 0.0, 1.0, settings)
            found[f"{wanted}"] = (str(caught.value), astuple(meter))
        return found

    by_kernels = run()
    monkeypatch.setenv(kernels.VARIABLE, "off")
    by_torch = run()
    assert by_kernels == by_torch


def test_a_way_is_one_call_forward_and_one_back(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = counted(monkeypatch)
    flow, x, _ = made(dtype=torch.float32)
    flow.loss(x).backward()
    flow.eval()
    flow.log_prob(x, exact=True)
    flow.sample(5)
    assert taken == ["solve", "pull_solve", "solve", "solve"]


@pytest.mark.parametrize("options", [{"solver": "rk4", "steps": 50}, {"atol": 1e-9, "rtol": 1e-9}])
def test_a_long_way_takes_several_pieces_of_tape(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> dict[str, Any]:
        return found(*made(dtype=torch.float64, **options))

    monkeypatch.setattr(evaluator, "PIECE", 2)
    agree(*both(monkeypatch, run), 1e-9)


def test_no_rows_and_another_precision_are_what_they_are_to_torch() -> None:
    flow, x, _ = made(dtype=torch.float32)
    assert flow.log_prob(x[:0]).shape == (0,)
    assert flow.sample(0).shape == (0, 3)
    with pytest.raises(InputError, match="float16"):
        flow.log_prob(x.half())


def test_strides_do_not_matter() -> None:
    flow, x, context = made(dtype=torch.float64, context=2)
    assert context is not None
    truth = found(flow, x, context)
    flow, *_ = made(dtype=torch.float64, context=2)
    agree(found(flow, x.t().contiguous().t(), context.repeat(1, 2)[:, :2]), truth, 0.0)


def test_which_problems_are_covered() -> None:
    z = torch.zeros(4, 3)

    def covered(block: nn.Module, z: Tensor = z, names: tuple[str, ...] = ()) -> bool:
        probes = Probes(torch.zeros(1, *z.shape, dtype=z.dtype), False, 1.0)
        of = evaluator_of(block, z, None, probes, names)
        return isinstance(of, KernelEvaluator) and of.covered(z) is not None

    class Other(DenseDynamics):
        pass

    assert covered(DenseDynamics(3, (8,)))
    assert covered(DenseDynamics(3, (8,)).double(), z.double(), ("kinetic_energy",))
    assert not covered(DenseDynamics(3, (8,)), z.double())
    assert not covered(DenseDynamics(3, (8,)).bfloat16(), z.bfloat16())
    assert not covered(DenseDynamics(3, (8,)), z[:0])
    assert not covered(DenseDynamics(3, (8,)), z, ("mean_speed",))
    assert not covered(nn.Linear(3, 3))
    assert not covered(Other(3, (8,)))
    assert not covered(DenseDynamics(3, (860, 860)))
    assert not covered(DenseDynamics(3, (8,)).to("meta"), z.to("meta"))
    normed = DenseDynamics(3, (8,))
    first: Any = normed.stack[0]
    nn.utils.parametrizations.weight_norm(first.linear)
    assert not covered(normed)
    with torch.autocast("cpu", torch.bfloat16):
        assert not covered(DenseDynamics(3, (8,)))
    with torch.utils.flop_counter.FlopCounterMode(display=False):
        assert not covered(DenseDynamics(3, (8,)))


def test_the_variable_turns_them_off_and_must_be_right(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.in_use().startswith("numba ")
    monkeypatch.setenv(kernels.VARIABLE, "off")
    assert kernels.in_use() == "none"
    monkeypatch.setenv(kernels.VARIABLE, "perhaps")
    with pytest.raises(InputError, match=kernels.VARIABLE):
        kernels.in_use()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_activations_to_rounding(name: str, dtype: type) -> None:
    p: Any = np.linspace(-40, 40, 4000).astype(dtype)
    value, slope, curve = p.copy(), np.empty_like(p), np.empty_like(p)
    kind = activations.ACTIVATIONS.index(name)
    activations.activate(kind, value, slope, curve, len(p), True)
    x = torch.from_numpy(p.astype(np.float64)).requires_grad_(True)
    a = flows.activations.NONLINEARITIES[name].pure(x)
    (s,) = torch.autograd.grad(a.sum(), x, create_graph=True)
    (c,) = torch.autograd.grad(s.sum(), x, allow_unused=True)
    epsilon = np.finfo(dtype).eps
    # torch's softplus is its argument beyond 20, its slope 1 there and not the sigmoid.
    loose = 3e-9 if name == "softplus" else 0.0
    for got, truth in ((value, a), (slope, s), (curve, c)):
        assert truth is not None
        expected = truth.detach().numpy()
        assert (np.abs(got - expected) <= 10 * epsilon * (1 + np.abs(expected)) + loose).all()


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_activations_let_what_is_no_number_through(name: str) -> None:
    value = np.full(4, np.nan, np.float32)
    scratch = np.zeros_like(value), np.zeros_like(value)
    activations.activate(activations.ACTIVATIONS.index(name), value, *scratch, 4, False)
    assert np.isnan(value).all()


def test_loops_are_made_of_the_widest_vectors() -> None:
    def add(x: Any, y: Any) -> None:
        whole_vectors()
        for i in range(len(x)):
            y[i] += x[i]

    if blocks.VECTOR_BYTES < 64:
        pytest.skip("this processor has no vectors of 64 bytes")
    signature = "void(float32[::1], float32[::1])"
    (code,) = numba.njit(signature)(add).inspect_asm().values()
    assert "zmm" in code


def test_arrays_with_gaps_are_refused() -> None:
    x = np.zeros((4, 4), np.float32)[:, :1]
    with pytest.raises(Exception, match="without gaps"):
        blocks.turn(x, x, 1, 1)


@pytest.mark.parametrize("n", [64, 512])
def test_a_training_step_takes_no_more_memory_than_torch_s(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def peak() -> int:
        flow, x, _ = made(n=n, dtype=torch.float32, hidden=(60, 60, 60), dimension=6)
        flow.loss(x).backward()
        flow.zero_grad()
        return peak_above_start(lambda: flow.loss(x).backward())

    by_kernels = peak()
    monkeypatch.setenv(kernels.VARIABLE, "off")
    assert by_kernels <= 1.1 * peak()


def test_what_is_warmed_is_all_that_a_step_takes() -> None:
    code = """
import flows.continuous.kernels.warmed
import torch, flows
from flows.continuous.kernels import steps
compiled = (steps.solve, steps.pull_solve)
before = [len(one.signatures) for one in compiled]
assert before == [2, 2], before
for dtype in (torch.float32, torch.float64):
    for options in ({}, {"trace": "exact"}, {"bottleneck": 1, "kinetic_energy": 0.1}):
        flow = flows.build("ffjord", (2,), 1, hidden=(3,), **options).to(dtype)
        x, context = torch.randn(5, 2, dtype=dtype), torch.randn(5, 1, dtype=dtype)
        flow.loss(x, context).backward()
        flow.sample(5, context)
assert [len(one.signatures) for one in compiled] == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)
