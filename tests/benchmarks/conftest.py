"""A small matrix, and cells of it, for the tests of the harness."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import datasets
import flows
from benchmarks import measures, plugins, studies
from benchmarks.cell import Cell
from benchmarks.matrix import load_matrix

TINY = """
name = "tiny"
seeds = [0]

[budget]
steps = 20
batch_size = 64
learning_rate = 5e-3
validate_every = 10

[[study]]
name = "toys"
flows = [{ name = "realnvp", layers = 2, hidden = [8] }, { name = "maf", layers = 2, hidden = [8] }]
datasets = [{ name = "8gaussians", rows = 2000 }]
"""


@pytest.fixture(scope="session")
def tiny_text() -> str:
    """A matrix of two cells that train in a second, as text."""
    return TINY


@pytest.fixture
def tiny(tmp_path: Path, tiny_text: str) -> Path:
    """The same as a file."""
    path = tmp_path / "tiny.toml"
    path.write_text(tiny_text)
    return path


@pytest.fixture
def cell(tiny: Path) -> Cell:
    """The first of them."""
    return load_matrix(str(tiny)).cells[0]


@contextlib.contextmanager
def _registries_kept() -> Iterator[None]:
    registries = [
        flows.ENTRIES,
        datasets.ENTRIES,
        measures.FAMILIES,
        studies.STUDIES,
        plugins._LOADED,
    ]
    kept = [dict(registry) for registry in registries]
    modules = set(sys.modules)
    yield
    for registry, before in zip(registries, kept, strict=True):
        registry.clear()  # type: ignore[attr-defined]
        registry.update(before)  # type: ignore[attr-defined]
    for name in set(sys.modules) - modules:
        if name.startswith("ffjord_bench_plugin_"):
            del sys.modules[name]


@pytest.fixture(autouse=True, scope="module")
def _forget_plugins_of_a_file() -> Iterator[None]:
    """Registries as they were, whatever is loaded for all tests of a file."""
    with _registries_kept():
        yield


@pytest.fixture(autouse=True)
def _forget_plugins() -> Iterator[None]:
    """Registries as they were, whatever a test loads."""
    with _registries_kept():
        yield
