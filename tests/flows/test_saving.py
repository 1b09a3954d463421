"""Flows in files: what comes back is what was saved, and what does not fit says so."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import flows
from flows import NotLoadable, NotSaveable, UnknownFlow, registry
from flows.continuous.ffjord import FFJORD, FFJORDConfig

SYSTEMS: list[tuple[str, tuple[int, ...], int, dict[str, Any]]] = [
    ("maf", (4,), 0, {"layers": 2, "hidden": [8, 8], "batch_norm": True}),
    ("maf-mog", (4,), 2, {"layers": 1, "hidden": (8,)}),
    ("glow", (5,), 0, {"steps": 2}),
    ("rqnsf-c", (4,), 3, {"layers": 2}),
    ("glow-image", (1, 4, 4), 0, {"steps": 1, "channels": 8}),
    ("ffjord", (2,), 0, {"hidden": (8,), "batch_norm": True}),
]


def trained(name: str, shape: tuple[int, ...], context: int, options: dict[str, Any]) -> flows.Flow:
    torch.manual_seed(0)
    flow = flows.build(name, shape, context, **options)
    flow.initialize(torch.randn(20, *shape), torch.randn(20, context) if context else None)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return flow.eval()


@pytest.mark.parametrize(("name", "shape", "context", "options"), SYSTEMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_comes_back_is_what_was_saved(
    name: str,
    shape: tuple[int, ...],
    context: int,
    options: dict[str, Any],
    dtype: torch.dtype,
    tmp_path: Path,
) -> None:
    flow = trained(name, shape, context, options).to(dtype)
    flows.save(flow, tmp_path / "flow.pt")
    random_state = torch.get_rng_state()
    loaded = flows.load(tmp_path / "flow.pt")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert type(loaded) is type(flow)
    assert (loaded.recipe, loaded.dtype, loaded.training) == (flow.recipe, dtype, False)
    x = torch.randn(6, *shape, dtype=dtype)
    given = torch.randn(6, context, dtype=dtype) if context else None
    with torch.no_grad():
        one, other = (
            each.log_prob(x, given, generator=torch.Generator().manual_seed(1))
            for each in (flow, loaded)
        )
    assert torch.equal(one, other)
    # Nothing else is left in the folder.
    assert os.listdir(tmp_path) == ["flow.pt"]


def test_a_file_holds_plain_values_and_tensors(tmp_path: Path) -> None:
    flows.save(flows.build("maf", (3,), layers=2), tmp_path / "flow.pt")
    content = torch.load(tmp_path / "flow.pt", weights_only=True)
    assert content["name"] == "maf"
    assert content["options"]["layers"] == 2
    assert content["event_shape"] == [3]
    assert content["written_by"]["torch"] == torch.__version__


def test_a_flow_made_by_hand_is_not_saved(tmp_path: Path) -> None:
    flow = FFJORD((2,), config=FFJORDConfig(hidden=(8,)))
    with pytest.raises(NotSaveable, match=r"was not made by flows\.build"):
        flows.save(flow, tmp_path / "flow.pt")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_save_leaves_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "flow.pt"
    flows.save(flows.build("maf", (3,), layers=1), path)
    before = path.read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        flows.save(flows.build("maf", (3,), layers=2), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["flow.pt"]


class Evil:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("evil",))


def test_files_of_other_kinds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("no flow")
    Path("empty").touch()
    torch.save({"state": {}}, "other")
    Path("pickle").write_bytes(pickle.dumps(Evil(), protocol=2))
    torch.save({"format": Evil()}, "code")
    for name in ("text", "empty", "other", "pickle", "code"):
        with pytest.raises(NotLoadable, match=f"^{name} was not written by flows.save"):
            flows.load(name)
    assert not Path("evil").exists()
    with pytest.raises(FileNotFoundError):
        flows.load("missing")


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    path = tmp_path / "flow.pt"
    flows.save(flows.build("maf", (3,), layers=1), path)
    return path, torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"name": "mine", "origin": "my.py, sha256 12"},
            UnknownFlow,
            "a flow of my.py, sha256 12, which has an entry 'mine': there is none here",
        ),
        ({"options": {"depth": 3}}, NotLoadable, "the options of maf are others here"),
        ({"event_shape": [4]}, NotLoadable, "the weights do not fit maf as it is here"),
        ({"state": {}}, NotLoadable, "the weights do not fit maf as it is here"),
    ],
)
def test_what_does_not_fit_says_so(
    saved: tuple[Path, dict[str, Any]], change: dict[str, Any], error: type, message: str
) -> None:
    path, content = saved
    torch.save(content | change, path)
    with pytest.raises(error, match=f"(?s){message}"):
        flows.load(path)


def test_another_version_of_the_system_is_warned_of(saved: tuple[Path, dict[str, Any]]) -> None:
    path, content = saved
    torch.save(content | {"version": 0}, path)
    with pytest.warns(UserWarning, match="is of version 0 of maf, which is at"):
        flows.load(path)


def test_an_entry_from_outside_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "ENTRIES", {**registry.ENTRIES})
    maf = registry.entry("maf")
    registry.add([flows.Entry("mine", maf.config_class, "mine", "here")], "my.py, sha256 12")
    flow = registry.build("mine", (3,))
    flows.save(flow, tmp_path / "flow.pt")
    assert flows.load(tmp_path / "flow.pt").recipe == flow.recipe
