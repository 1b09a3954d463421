"""What is found by looking, what is taken from outside, and what is refused."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import datasets
from datasets import BadEntry, Entry, SampledConfig, StoredConfig, UnknownDataset, registry
from datasets.base import Array


class Cube:
    """Uniform on the unit square: its density is one."""

    def sample(self, n: int, random: np.random.Generator) -> Any:
        return random.random((n, 2))

    def log_prob(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x)).double()

    def entropy(self) -> float:
        return 0.0


class CubeConfig(SampledConfig):
    """The unit square."""

    kind = "toy"

    def density(self) -> Cube:
        return Cube()

    def seed_names(self) -> tuple[object, ...]:
        return ("cube",)


class Unfinished(SampledConfig):
    kind = "toy"

    def density(self) -> Cube:
        return Cube()


class NoName(StoredConfig):
    kind = "tabular"
    split_sizes = (8, 1, 1)

    def prepare(self) -> Sequence[Array]:
        return [np.zeros((n, 2), np.float32) for n in self.split_sizes]


class NoSizes(NoName):
    stored_as = "no sizes"

    def sizes(self) -> tuple[int, int, int]:
        return self.the_sizes  # type: ignore[attr-defined, no-any-return]


class NoKind(CubeConfig):
    kind = "square"  # type: ignore[assignment]


class Needs(CubeConfig):
    side: float


CUBE = Entry("cube", CubeConfig, "uniform on a square", "closed form")


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cube", "cube2"):
        monkeypatch.setitem(registry.ENTRIES, name, CUBE)
        monkeypatch.delitem(registry.ENTRIES, name)


def test_every_option_has_a_description() -> None:
    for entry in datasets.ENTRIES.values():
        for option, field in entry.config_class.model_fields.items():
            assert field.description, f"{entry.name}: {option}"


def test_every_file_of_the_packages_is_looked_into() -> None:
    names = []
    for package in ("sampled", "tables", "images"):
        for module in pkgutil.iter_modules([str(Path(datasets.__file__).parent / package)]):
            found = importlib.import_module(f"datasets.{package}.{module.name}")
            names += [entry.name for entry in getattr(found, "ENTRIES", ())]
    assert sorted(names) == sorted(datasets.ENTRIES)
    assert all(entry.origin == "" for entry in datasets.ENTRIES.values())


def test_entries_are_in_the_order_of_their_kinds() -> None:
    kinds = [entry.kind for entry in datasets.ENTRIES.values()]
    assert list(dict.fromkeys(kinds)) == ["toy", "family", "tabular", "image"]
    assert kinds == sorted(kinds, key=kinds.index)


def test_a_set_from_outside_is_like_any_other() -> None:
    registry.add([CUBE], "my.py, sha256 1234")
    assert datasets.entry("cube").origin == "my.py, sha256 1234"
    data = datasets.load("cube", rows=20)
    assert data.train.shape == (20, 2)
    assert data.truth is not None
    assert data.truth.entropy_nats == 0


def test_a_name_is_given_once() -> None:
    with pytest.raises(BadEntry, match=r"my\.py: the name 'moons' is taken by ToyConfig of datase"):
        registry.add([dataclasses.replace(CUBE, name="moons")], "my.py")
    registry.add([CUBE], "my.py")
    with pytest.raises(BadEntry, match=r"other\.py: the name 'cube' is taken .* of my\.py; choose"):
        registry.add([CUBE], "other.py")
    again = dataclasses.replace(CUBE, name="cube2")
    with pytest.raises(BadEntry, match="'cube2' is taken"):
        registry.add([again, again], "other.py")
    assert "cube2" not in datasets.ENTRIES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "My cube"}, "'My cube', attribute name: must be of small letters"),
        ({"config_class": Cube}, "attribute config_class: must be a class derived from Dataset"),
        ({"config_class": Unfinished}, "config_class: Unfinished does not define seed_names"),
        ({"config_class": NoKind}, r"config_class: NoKind\.kind must be one of 'toy', 'family'"),
        ({"config_class": NoName}, "attribute config_class: .*no attribute 'stored_as'"),
        ({"config_class": NoSizes}, "attribute config_class: .*no attribute 'the_sizes'"),
        ({"config_class": Needs}, r"attribute options: (.|\n)*side(.|\n)*required"),
        ({"summary": ""}, "attribute summary: must be a text"),
        ({"source": None}, "attribute source: must be a text, not None"),
        ({"options": {"corners": 4}}, r"attribute options: (.|\n)*corners"),
        ({"options": {"rows": "many"}}, r"attribute options: (.|\n)*rows"),
    ],
)
def test_the_attribute_that_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadEntry, match=message) as caught:
        registry.add([dataclasses.replace(CUBE, **change)], "my.py, sha256 1234")
    assert str(caught.value).startswith("my.py, sha256 1234: ")
    assert "cube" not in datasets.ENTRIES


@pytest.mark.parametrize("entries", [None, CUBE, "cube", ["cube"]])
def test_what_is_no_list_of_entries_is_refused(entries: Any) -> None:
    with pytest.raises(BadEntry, match=r"my\.py: ENTRIES"):
        registry.add(entries, "my.py")


@pytest.mark.parametrize(
    ("ask", "name"),
    [(datasets.entry, "mooons"), (datasets.load, "moon"), (datasets.configure, "moons2")],
)
def test_a_near_name_is_offered(ask: Callable[[str], object], name: str) -> None:
    with pytest.raises(UnknownDataset, match="did you mean 'moons'"):
        ask(name)


@pytest.mark.parametrize("name", ["maf", "results/my.csv", ""])
def test_a_far_name_is_not(name: str) -> None:
    with pytest.raises(UnknownDataset, match=r"no data set is called .*list datasets") as caught:
        datasets.entry(name)
    assert "did you mean" not in str(caught.value)
