"""The catalog: found by looking, checked when something is added, fast."""

from __future__ import annotations

import re
import subprocess
import sys
import typing
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from pydantic import Field

import flows
from flows import BadEntry, Entry, Flow, FlowConfig, Traits, UnknownFlow, registry
from flows.discrete.layers.coupling import COUPLING_TRAITS

PEERS = ("nflows", "zuko", "normflows", "torchflows", "jax", "flowjax", "diffrax", "equinox")


class MineConfig(FlowConfig):
    """A flow from outside: RealNVP by another name."""

    traits: ClassVar[Traits] = COUPLING_TRAITS

    layers: int = Field(default=2, description="number of couplings")

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> Flow:
        return flows.configure("realnvp", {"layers": self.layers}).build(
            event_shape, context_features
        )


class Unfinished(FlowConfig):
    """A config that builds nothing."""

    traits: ClassVar[Traits] = COUPLING_TRAITS


GOOD: dict[str, Any] = {
    "name": "mine",
    "config_class": MineConfig,
    "summary": "mine",
    "source": "here",
}


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ENTRIES", dict(registry.ENTRIES))


def test_a_flow_comes_in_with_its_origin_and_is_built() -> None:
    registry.add([Entry(**GOOD), Entry(**GOOD | {"name": "mine/too"})], "my.py, sha256 12")
    assert registry.entry("mine").origin == "my.py, sha256 12"
    assert registry.ENTRIES["mine/too"].config == MineConfig()
    flow = registry.build("mine", (3,), layers=4)
    assert flow.recipe == flows.Recipe("mine", {"layers": 4}, 0)
    assert list(registry.ENTRIES)[-2:] == ["mine", "mine/too"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Mine"}, "attribute name: must be of small letters"),
        ({"name": "a/b/c"}, "attribute name: must be of small letters"),
        ({"name": "maf"}, "the name 'maf' is taken by MAFConfig of flows.discrete.maf"),
        ({"config_class": Flow}, "attribute config_class: must be a class derived from FlowConfig"),
        ({"config_class": "MineConfig"}, "must be a class derived from FlowConfig"),
        ({"config_class": Unfinished}, "Unfinished does not define build"),
        ({"config_class": FlowConfig}, "FlowConfig does not define build, traits"),
        ({"summary": ""}, "attribute summary: must be a text"),
        ({"source": None}, "attribute source: must be a text"),
        ({"remark": None}, "attribute remark: must be a text"),
        ({"options": {"layer": 3}}, "attribute options: .*layer"),
    ],
)
def test_what_would_fail_later_is_refused(change: dict[str, Any], message: str) -> None:
    before = list(registry.ENTRIES)
    entries = [Entry(**GOOD | {"name": "first"}), Entry(**GOOD | change)]
    with pytest.raises(BadEntry, match=f"(?s)my.py: .*{message}"):
        registry.add(entries, "my.py")
    # All or none.
    assert list(registry.ENTRIES) == before


@pytest.mark.parametrize("entries", [Entry(**GOOD), "mine", 3, [GOOD]])
def test_what_is_no_list_of_entries_is_refused(entries: Any) -> None:
    with pytest.raises(BadEntry, match=r"my.py: ENTRIES (must be|holds)"):
        registry.add(entries, "my.py")


def test_a_name_twice_in_one_list_is_refused() -> None:
    with pytest.raises(BadEntry, match="the name 'mine' is taken by MineConfig of "):
        registry.add([Entry(**GOOD), Entry(**GOOD)], "my.py")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("realnpv", "did you mean 'realnvp'?"),
        ("fjord", "did you mean 'ffjord'?"),
        ("resflow", "`ffjord-bench list flows` shows all"),
        ("some/path.toml", "`ffjord-bench list flows` shows all"),
    ],
)
def test_a_nearest_name_is_offered_where_one_is_near(name: str, hint: str) -> None:
    message = re.escape(f"no flow is called {name!r}; {hint}")
    with pytest.raises(UnknownFlow, match=f"^{message}$"):
        registry.entry(name)


def test_continuous_flows_come_first_and_other_libraries_last() -> None:
    packages = [entry.config_class.__module__.split(".")[1] for entry in flows.ENTRIES.values()]
    order = ["continuous", "discrete", "peers"]
    assert packages == sorted(packages, key=order.index)
    assert next(iter(flows.ENTRIES)) == "ffjord"


def test_importing_flows_imports_no_library_of_a_peer_or_solver() -> None:
    code = "import sys, flows; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "flows" in loaded
    assert not {*loaded} & {*PEERS, "torchdiffeq", "scipy"}


CONFIGS = sorted(
    {entry.config_class for entry in flows.ENTRIES.values()}, key=lambda config: config.__name__
)


@pytest.mark.parametrize("config_class", CONFIGS, ids=lambda config: config.__name__)
def test_every_option_is_described_in_one_line(config_class: type[FlowConfig]) -> None:
    for option, field in config_class.model_fields.items():
        assert field.description, option
        assert "\n" not in field.description
        assert len(field.description) < 150, option
        # What may be given is to be read off the type.
        assert field.annotation is not None
        assert typing.get_origin(field.annotation) is not dict


@pytest.mark.parametrize("name", ["maf", "realnvp", "iaf", "planar", "glow", "ffjord", "cnf-exact"])
def test_a_flow_has_the_traits_that_its_config_says(name: str) -> None:
    assert flows.build(name, (3,)).traits == flows.configure(name).traits
