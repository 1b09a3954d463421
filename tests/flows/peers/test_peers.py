"""Other libraries' discrete flows behind the contract; a library not installed is skipped."""

from __future__ import annotations

import importlib.util
import math
import pickle
import sys
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import flows
from flows import Flow, InputError, Meter
from flows.peers.base import MissingLibrary, PeerConfig
from flows.registry import ENTRIES

PEERS = [
    name
    for name, entry in ENTRIES.items()
    if "/" in name and issubclass(entry.config_class, PeerConfig)
]
# What torchflows does, and torch will stop supporting.
pytestmark = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
# What JAX compiles takes seconds each time.
every = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name.startswith("flowjax/") else [])
        for name in PEERS
    ],
)


def peer(name: str, event_shape: tuple[int, ...], **options: object) -> Flow:
    library = name.partition("/")[0]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    torch.manual_seed(0)
    return flows.build(name, event_shape, **{"layers": 3, "hidden": (16, 16), **options}).eval()


def test_there_are_peers_of_five_libraries() -> None:
    assert {name.partition("/")[0] for name in PEERS} == {
        "nflows",
        "zuko",
        "normflows",
        "torchflows",
        "flowjax",
    }


@every
def test_round_trip_and_log_determinant(name: str) -> None:
    dimension = 5
    flow = peer(name, (dimension,)).double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, dimension, dtype=torch.float64, generator=generator)
    z, forth = flow.encode(x)
    back, there = flow.decode(z)
    # normflows accumulates log-determinants in float32 whatever the flow's type.
    torch.testing.assert_close(back, x, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(there, -forth, atol=1e-4, rtol=1e-4)
    jacobians = torch.autograd.functional.jacobian(lambda value: flow.encode(value)[0].sum(0), x)
    truth = torch.linalg.slogdet(jacobians.movedim(1, 0)).logabsdet
    torch.testing.assert_close(forth, truth, atol=1e-5, rtol=1e-5)


@every
def test_log_prob_integrates_to_one(name: str) -> None:
    flow = peer(name, (2,)).double()
    generator = torch.Generator().manual_seed(2)
    flow.initialize(torch.randn(500, 2, dtype=torch.float64, generator=generator))
    axis = torch.linspace(-8, 8, 161, dtype=torch.float64)
    with torch.no_grad():
        density = flow.log_prob(torch.cartesian_prod(axis, axis)).exp()
    assert (density.sum() * (axis[1] - axis[0]) ** 2).item() == pytest.approx(1.0, abs=0.02)


@every
def test_trains_and_pickles(name: str) -> None:
    flow = peer(name, (4,)).train()
    generator = torch.Generator().manual_seed(2)
    x = 0.5 * torch.randn(256, 4, generator=generator) + 0.5
    flow.initialize(x)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    before = -flow.log_prob(x).mean().item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = -flow.log_prob(x).mean()
        loss.backward()
        optimizer.step()
    assert math.isfinite(loss.item())
    assert loss.item() < before
    flow.eval()
    copied = pickle.loads(pickle.dumps(flow))
    torch.testing.assert_close(copied.log_prob(x), flow.log_prob(x), atol=0, rtol=0)


@pytest.mark.parametrize("name", [name for name in PEERS if not name.startswith("flowjax/")])
def test_passes_that_run_are_counted(name: str) -> None:
    """Against a counter of the matrix products below: each conditioner has three layers."""
    flow = peer(name, (4,))
    for call, passes in (
        (lambda: flow.log_prob(torch.zeros(2, 4)), flow.traits.density_passes),
        (lambda: flow.sample(2), flow.traits.sample_passes),
    ):
        with CountProducts() as counter, Meter() as meter, torch.no_grad():
            call()
        assert meter.forward == (12 if passes == "D" else 3)
        assert counter.calls == 3 * meter.forward


class CountProducts(TorchDispatchMode):
    """Counts the linear layers that are really computed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func in (torch.ops.aten.addmm.default, torch.ops.aten.mm.default)
        return func(*args, **(kwargs or {}))


def test_a_log_determinant_that_takes_a_pass_more_is_counted() -> None:
    """The inverse of zuko evaluates the conditioner once more for it, and our count follows."""
    flow = peer("zuko/maf", (4,))
    with CountProducts() as counter, Meter() as meter, torch.no_grad():
        flow.decode(torch.zeros(2, 4))
    assert meter.forward == 15
    assert counter.calls == 3 * meter.forward


def test_the_faults_that_entries_remark_on_are_facts() -> None:
    """Each as far as it can be seen in the flow; torchflows/ffjord's is in the continuous tests."""
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(3))

    def of_any_weights(name: str, layers: int) -> Flow:
        flow = peer(name, (6,), layers=layers)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.normal_(0.0, 1.0, generator=torch.Generator().manual_seed(4))
        return flow

    flow = of_any_weights("nflows/realnvp", 1)
    jacobians = torch.autograd.functional.jacobian(lambda value: flow.encode(value)[0].sum(0), x)
    scales = jacobians.diagonal(dim1=0, dim2=2)
    assert 0.001 <= scales.min() < 0.02
    assert 0.99 < scales.max() <= 1.001 + 1e-6
    with torch.no_grad():
        assert of_any_weights("nflows/realnvp", 8).log_prob(1e-3 * x).max() < -6 * 0.91

    flow = peer("nflows/maf", (6,), layers=8, hidden=(64, 64))
    with torch.no_grad():
        z, change = flow.encode(x)
        assert 1 / 40 < z.std() / x.std() < 1 / 5
        torch.testing.assert_close(
            change.mean(), torch.tensor(6 * 8 * math.log(math.log(2))), atol=2.0, rtol=0
        )
        samples = flow.sample(1000, generator=torch.Generator().manual_seed(0))
    assert samples.abs().max() > 100

    flow = of_any_weights("normflows/maf", 4)
    assert (flow.traits.density_passes, flow.traits.sample_passes) == ("D", "1")
    with torch.no_grad():
        assert flow.decode(x)[1].max() <= 4 * 6 * math.log(1.001) + 1e-5


def test_remarks_are_where_faults_are() -> None:
    remarked = {name for name, entry in ENTRIES.items() if entry.remark}
    assert remarked == {"nflows/realnvp", "nflows/maf", "normflows/maf", "torchflows/ffjord"}
    for name in remarked:
        assert ENTRIES[name].remark.endswith(".")


def test_normflows_maf_learns_what_is_narrow() -> None:
    """In its authors' direction it expands the data; turned round it could not."""
    flow = peer("normflows/maf", (2,), layers=4).train()
    generator = torch.Generator().manual_seed(5)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        loss = flow.loss(0.1 * torch.randn(256, 2, generator=generator))
        loss.backward()
        optimizer.step()
    entropy = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.1))
    # Turned round: at least log 2 pi = 1.84, the base's mode; the entropy is -1.77.
    assert loss.item() < entropy + 0.3


@every
def test_context_and_single_numbers_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="without context"):
        flows.build(name, (4,), 2)
    with pytest.raises(InputError, match="at least two"):
        flows.build(name, (1,))


@every
def test_no_rows_give_no_rows(name: str) -> None:
    flow = peer(name, (4,)).train()
    assert flow.log_prob(torch.zeros(0, 4)).shape == (0,)
    assert flow.sample(0).shape == (0, 4)


@every
def test_images_are_flattened(name: str) -> None:
    flow = peer(name, (1, 2, 3))
    with torch.no_grad():
        assert flow.encode(torch.zeros(2, 1, 2, 3))[0].shape == (2, 1, 2, 3)


def test_zuko_leaves_validation_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("zuko")
    for module in [key for key in sys.modules if key.partition(".")[0] == "zuko"]:
        monkeypatch.delitem(sys.modules, module)
    for before in (True, False):
        monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", before)
        flows.build("zuko/realnvp", (2,))
        assert torch.distributions.Distribution._validate_args is before


def test_missing_library_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [key for key in sys.modules if key.partition(".")[0] == "zuko"]:
        monkeypatch.delitem(sys.modules, module)

    class Absent:
        """An importer that finds no zuko."""

        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            if name == "zuko":
                raise ModuleNotFoundError("No module named 'zuko'", name="zuko")

    monkeypatch.setattr(sys, "meta_path", [Absent, *sys.meta_path])
    with pytest.raises(MissingLibrary, match=r"pip install zuko"):
        flows.build("zuko/realnvp", (2,))


@pytest.mark.slow
def test_a_library_that_breaks_graphs_is_compiled_in_parts() -> None:
    """Zuko makes its transforms anew at each call, which is Python beside the graph."""
    flow = peer("zuko/maf", (3,), layers=2)
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(flow.compiled_loss()(x), flow.loss(x))
