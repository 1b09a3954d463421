"""Flows of JAX's libraries: the same function as ours, torch's parameters, one thread.

What every peer keeps is in the tests beside this one.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import flows
from flows import Flow, InputError, Meter
from flows.peers.base import MissingLibrary

for library in ("jax", "diffrax", "flowjax"):
    pytest.importorskip(library)
# What is compiled takes seconds each time.
pytestmark = pytest.mark.slow


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def twins(dimension: int, **options: Any) -> tuple[Flow, Flow]:
    """The flow of diffrax and ours with the same weights, float64."""
    torch.manual_seed(0)
    options = {"hidden": (8, 8), "atol": 1e-9, "rtol": 1e-9, **options}
    theirs, ours = (
        flows.build(name, (dimension,), **options).double() for name in ("diffrax/ffjord", "ffjord")
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(1.5)
    ours.load_state_dict(theirs.state_dict())
    return theirs.eval(), ours.eval()


def points(rows: int, dimension: int) -> Tensor:
    return torch.randn(rows, dimension, dtype=torch.float64, generator=generator(1))


# -- diffrax ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "activation"),
    [
        ("ignore", "softplus"),
        ("concat", "elu"),
        ("concat_v2", "swish"),
        ("squash", "square"),
        ("concatsquash", "tanh"),
        ("blend", "tanh"),
        ("hyper", "tanh"),
    ],
)
def test_estimates_are_ours_on_the_same_weights_and_noise(layers: str, activation: str) -> None:
    theirs, ours = twins(3, layers=layers, activation=activation, blocks=2)
    x = points(6, 3)
    with torch.no_grad():
        found = theirs.log_prob(x, generator=generator())
        assert (found - theirs.log_prob(x, exact=True)).abs().max() > 1e-3
        torch.testing.assert_close(
            found, ours.log_prob(x, generator=generator()), atol=1e-6, rtol=1e-6
        )
        for one, other in zip(
            theirs.decode(x, generator=generator()),
            ours.decode(x, generator=generator()),
            strict=True,
        ):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_loss_in_one_is_the_loss_and_so_is_its_gradient() -> None:
    theirs, ours = twins(3, blocks=2)
    x = points(6, 3)
    parameters = list(theirs.parameters())
    whole = theirs.loss(x, generator=generator())
    parts = -theirs.log_prob(x, generator=generator()).mean()
    truth = ours.loss(x, generator=generator())
    torch.testing.assert_close(whole, parts, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(whole, truth, atol=1e-7, rtol=1e-7)
    found = torch.autograd.grad(3 * whole, parameters)
    again = torch.autograd.grad(3 * parts, parameters)
    expected = torch.autograd.grad(3 * truth, list(ours.parameters()))
    for one, other, right in zip(found, again, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-8)
        torch.testing.assert_close(one, right, atol=1e-6, rtol=1e-6)


def test_evaluations_are_those_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by a callback in the dynamics, which XLA may not leave out."""
    import jax

    from flows.peers import diffrax

    ran = []
    velocity = diffrax._velocity

    def counted(*arguments: Any) -> Any:
        jax.debug.callback(lambda: ran.append(1))
        return velocity(*arguments)

    monkeypatch.setattr(diffrax, "_velocity", counted)
    fresh = functools.cache(diffrax._operation.__wrapped__)
    monkeypatch.setattr(diffrax, "_operation", fresh)
    flow, _ = twins(2, atol=1e-7, rtol=1e-7, blocks=2)
    for call in (lambda: flow.log_prob(points(4, 2)), lambda: flow.sample(4)):
        ran.clear()
        with Meter() as meter, torch.no_grad():
            call()
        jax.effects_barrier()
        assert meter.forward == len(ran)
        assert meter.forward == 6 * (meter.accepted + meter.rejected) + 2
        assert meter.accepted > 4
        assert set(meter.parts) == {"block 0", "block 1"}


def test_a_gradient_counts_its_evaluations_in_the_backward_pass() -> None:
    flow, _ = twins(2)
    with Meter() as meter:
        loss = flow.loss(points(4, 2))
        forward = meter.forward
        loss.backward()
    assert meter.forward == forward > 0
    assert meter.backward == forward - 1


# -- what is between torch and JAX ---------------------------------------------------------------


def test_parameters_are_handed_over_without_a_copy() -> None:
    from flows.peers.jax import _shared

    flow, _ = twins(2)
    flow.float()
    parameters = dict(flow.named_parameters())
    arrays = _shared(parameters)
    again = _shared(parameters)
    for name, parameter in parameters.items():
        assert arrays[name].unsafe_buffer_pointer() == parameter.data_ptr()
        assert again[name] is arrays[name]


@pytest.mark.parametrize("name", ["diffrax/ffjord", "flowjax/realnvp"])
def test_a_step_of_the_optimiser_is_seen(name: str) -> None:
    options: dict[str, Any] = {"hidden": (8, 8)}
    if name.startswith("flowjax"):
        options["layers"] = 2
    flow = flows.build(name, (2,), **options)
    x = points(8, 2).float()
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    seen = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = flow.loss(x, generator=generator())
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == 4
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.set_(parameter.clone().mul_(1.1))
        moved = flow.loss(x, generator=generator()).item()
    assert moved != flows.build(name, (2,), **options).loss(x, generator=generator()).item()
    copied = flows.build(name, (2,), **options)
    copied.load_state_dict(flow.state_dict())
    assert copied.loss(x, generator=generator()).item() == pytest.approx(moved, abs=1e-6)


def test_tensors_of_any_layout_are_taken() -> None:
    flow = flows.build("flowjax/maf", (3,), hidden=(8,), layers=2)
    x = torch.randn(12, 6, generator=generator())
    with torch.no_grad():
        for given in (x[:, ::2], x[1:, 1:4], x.flatten()[1:61].view(20, 3)):
            torch.testing.assert_close(flow.log_prob(given), flow.log_prob(given.clone()))


def test_float64_is_off_in_jax_again() -> None:
    import jax

    flow = flows.build("flowjax/maf", (3,), hidden=(8,), layers=2).double()
    assert flow.log_prob(points(4, 3)).dtype == torch.float64
    assert not jax.config.jax_enable_x64
    assert flow.float().log_prob(points(4, 3).float()).dtype == torch.float32


def test_another_device_is_refused() -> None:
    flow = flows.build("flowjax/maf", (3,), hidden=(8,), layers=2)
    with pytest.raises(InputError, match="run on the CPU only, not on meta"):
        flow.to("meta")


# -- FlowJAX ------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["realnvp", "maf", "rqnsf-c", "rqnsf-ar"])
def test_flowjax_is_as_large_as_ours(system: str) -> None:
    """To the number, but for the slopes of a spline at the ends of its box."""
    dimension, bins, width = 6, 8, 16
    theirs, ours = (
        flows.build(name, (dimension,), layers=3, hidden=(width, width))
        for name in (f"flowjax/{system}", system)
    )
    outputs = dimension // 2 if system == "rqnsf-c" else dimension
    more = 3 * outputs * 2 * (width + 1) if system.startswith("rqnsf") else 0
    assert theirs.parameter_count - ours.parameter_count == more
    assert bins == 8


@pytest.mark.parametrize("system", ["realnvp", "maf"])
def test_passes_of_flowjax(system: str) -> None:
    flow = flows.build(f"flowjax/{system}", (4,), layers=3, hidden=(8,))
    passes = 4 if system == "maf" else 1
    with Meter() as density:
        flow.loss(torch.zeros(2, 4)).backward()
    with Meter() as samples, torch.no_grad():
        flow.sample(2)
    with Meter() as decoding, torch.no_grad():
        flow.decode(torch.zeros(2, 4))
    assert (density.forward, density.backward) == (3, 0)
    assert samples.forward == 3 * passes
    assert decoding.forward == 3 * (passes + (system == "maf"))


# -- its processes -------------------------------------------------------------------------------


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_what_cells_are_forked_from_holds_no_jax() -> None:
    code = """
import importlib, sys
from benchmarks.run.server import PRELOAD
importlib.import_module(PRELOAD)
import flows
print("jax" in sys.modules)
"""
    assert run_python(code).split() == ["False"]


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel which threads worked")
def test_one_thread_is_one_thread() -> None:
    code = """
import os, torch
torch.set_num_threads(1)
from flows.peers.jax import load_jax
jax = load_jax()
def chains(a, b, w):
    for _ in range(10):
        a, b = jax.numpy.tanh(a @ w), jax.numpy.tanh(b @ w)
    return a, b
def ticks():
    found = {}
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/stat") as file:
            words = file.read().rsplit(")", 1)[1].split()
        found[thread] = int(words[11]) + int(words[12])
    return found
compiled = jax.jit(chains)
arguments = [jax.numpy.ones(shape) for shape in ((1000, 400), (1000, 400), (400, 400))]
jax.block_until_ready(compiled(*arguments))
before = ticks()
for _ in range(10):
    jax.block_until_ready(compiled(*arguments))
worked = {thread: count - before.get(thread, 0) for thread, count in ticks().items()}
print(worked[str(os.getpid())], sum(worked.values()), os.environ.get("NPROC", "unset"))
"""
    main, together, setting = run_python(code).split()
    assert int(main) > 0.9 * int(together) > 5
    assert setting == "unset"


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flowjax", None)
    monkeypatch.setitem(sys.modules, "flowjax.flows", None)
    with pytest.raises(MissingLibrary, match=r"ffjord-bench\[jax\]"):
        flows.build("flowjax/maf", (3,))
