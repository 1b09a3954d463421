"""The contract of datasets/base.py: every promise of benchmarks/check/dataset.py.

For every set that is drawn and those that ship with the project.
That the battery finds faults is shown by sets that have one.
"""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import datasets
from benchmarks.check import run
from benchmarks.check.dataset import CHECKS
from datasets.base import Array, Dataset, Split

# One of each kind that is quick to load.
FAST = ("8gaussians", "funnel", "optdigits")


def at_hand() -> list[str]:
    """The sets that come from no file but one that ships with the project."""
    sources = {name: entry.config.files() for name, entry in datasets.ENTRIES.items()}
    own = ("table", "images")
    return [
        name
        for name, source in sources.items()
        if name not in own and (source is None or source.embedded is not None)
    ]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in at_hand()],
)
def test_contract(name: str) -> None:
    findings = list(run(CHECKS, name))
    assert {found.check.name: found.failures for found in findings if found.failures} == {}
    # All but what is true in the plane alone, or of a known density.
    assert sum(found.held > 0 for found in findings) >= len(findings) - 3


class Unit:
    """Uniform on the unit square, or said to be."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def sample(self, n: int, random: np.random.Generator) -> Array:
        if self.fault == "global generator":
            return np.random.random((n, 2))  # noqa: NPY002
        return random.random((n, 2))

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        inside = ((x >= 0) & (x < 1)).all(1)
        value = 0.5 if self.fault == "no density" else 0.0
        return torch.where(inside, value, -math.inf).double()

    def entropy(self) -> float:
        return 0.3 if self.fault == "wrong entropy" else 0.0


def faulty(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """An entry of a set with a fault, or with none."""

    class UnitConfig(datasets.SampledConfig):
        kind = "toy"

        def density(self) -> Unit:
            return Unit(fault)

        def seed_names(self) -> tuple[object, ...]:
            return ("unit",)

        def part(self, rows: Array, count: int, purpose: Split) -> Array:
            return rows[-count:] if fault == "not nested" else rows[:count]

        def whole(self, name: str) -> Dataset:
            # A training split that is cut, as that of a file.
            data = super().whole(name)
            if fault == "not nested":
                return type(self)(split=self.split).load_all(name)
            if fault == "not finite":
                data.train[3, 1] = np.nan
            if fault == "stale hash":
                data.train[3, 1] = 0.25
            if fault == "test depends on rows":
                data = dataclasses.replace(data, test=data.test[: 10 * len(data.train)])
            return data

        def load_all(self, name: str) -> Dataset:
            return super().whole(name)

    entry = SimpleNamespace(
        name="unit", config_class=UnitConfig, config=UnitConfig(), options={}, origin=""
    )
    monkeypatch.setitem(datasets.ENTRIES, "unit", entry)  # type: ignore[misc]


def broken(name: str = "unit") -> dict[str, list[str]]:
    return {found.check.name: found.failures for found in run(CHECKS, name) if found.failures}


def test_a_set_without_a_fault_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty(monkeypatch, "none")
    assert broken() == {}


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        ("not finite", "splits_hold_events_of_one_shape", "train has values that are not finite"),
        ("stale hash", "hashes_are_those_of_the_values", "that of train is not"),
        ("global generator", "loading_again_gives_the_same", "a global generator was used"),
        ("not nested", "rows_shrink_the_training_split_alone", "first 7 of 20 rows are others"),
        ("test depends on rows", "rows_shrink_the_training_split_alone", "test depends on rows"),
        ("no density", "density_in_the_plane_integrates_to_one", "the integral is 1.6"),
        ("wrong entropy", "entropy_is_the_mean_nll_of_the_test_rows", "entropy 0.3000 nats"),
    ],
)
def test_a_fault_is_found(
    monkeypatch: pytest.MonkeyPatch, fault: str, check: str, words: str
) -> None:
    faulty(monkeypatch, fault)
    found = broken()
    assert words in "\n".join(found[check]), found
