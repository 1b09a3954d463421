"""Other libraries' discrete flows behind the contract; a library not installed is skipped."""

from __future__ import annotations

import importlib.util
import math
import pickle
import sys

import pytest
import torch

import flows
from flows import Flow, InputError, Meter
from flows.catalog import ENTRIES
from flows.peers.base import MissingLibrary, PeerConfig

PEERS = [
    name
    for name, entry in ENTRIES.items()
    if "/" in name and issubclass(entry.config_class, PeerConfig)
]
# What torchflows does, and torch will stop supporting.
pytestmark = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
every = pytest.mark.parametrize("name", PEERS)


def peer(name: str, event_shape: tuple[int, ...], **options: object) -> Flow:
    library = name.partition("/")[0]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    torch.manual_seed(0)
    return flows.build(name, event_shape, **{"layers": 3, "hidden": (16, 16), **options}).eval()


def test_there_are_peers_of_four_libraries() -> None:
    assert {name.partition("/")[0] for name in PEERS} == {
        "nflows",
        "zuko",
        "normflows",
        "torchflows",
    }


@every
@pytest.mark.parametrize("dimension", [2, 5])
def test_round_trip_and_log_determinant(name: str, dimension: int) -> None:
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


@every
def test_passes_are_counted_as_the_traits_say(name: str) -> None:
    flow = peer(name, (4,))
    with Meter() as meter, torch.no_grad():
        flow.log_prob(torch.zeros(2, 4))
    assert meter.forward == 3
    with Meter() as meter, torch.no_grad():
        flow.sample(2)
    assert meter.forward == (12 if flow.traits.sample_passes == "D" else 3)


@every
def test_context_and_single_numbers_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="without context"):
        flows.build(name, (4,), 2)
    with pytest.raises(InputError, match="at least two"):
        flows.build(name, (1,))


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
