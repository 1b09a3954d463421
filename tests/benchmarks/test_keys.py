"""Keys of cells: what changes them, and what must not."""

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import Field, create_model

import datasets
import flows
from benchmarks import cell as cell_module
from benchmarks.cell import Budget, Cell, defaults_of
from benchmarks.matrix import Matrix, load_matrix

QUICK = "066f87669850beb3"
"""Hash of what makes the cells of `quick`. It changes with the matrix, with a preset's options or
with a default that was made explicit; never because an option was added."""


def identities(matrix: Matrix) -> str:
    text = "\n".join(cell.identity for cell in matrix.cells)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def again(cell: Cell, **changes: Any) -> Cell:
    """The same cell, with nothing kept of its key."""
    return Cell.model_validate({**cell.model_dump(), **changes})


def wider(config_class: Any, default: Any = 0.0) -> Any:
    """A config's class with one option more."""
    return create_model(
        config_class.__name__, __base__=config_class, new_option=(float, Field(default))
    )


def replace_class(
    monkeypatch: pytest.MonkeyPatch, catalog: Any, name: str, config_class: Any
) -> None:
    entry = catalog.ENTRIES[name]
    stand_in = SimpleNamespace(
        name=name, config_class=config_class, options=entry.options, origin=""
    )
    monkeypatch.setitem(catalog.ENTRIES, name, stand_in)


def test_the_cells_of_quick_stay_what_they_are() -> None:
    assert identities(load_matrix("quick")) == QUICK


def test_new_options_change_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [cell.key for cell in load_matrix("quick").cells]
    for catalog in (flows, datasets):
        used = {getattr(c, "flow" if catalog is flows else "dataset") for c in _quick()}
        for name in used:
            found = wider(catalog.ENTRIES[name].config_class)
            replace_class(monkeypatch, catalog, name, found)
    monkeypatch.setattr(cell_module, "Budget", wider(Budget))
    after = load_matrix("quick").cells
    # The option is there, and in no key.
    assert after[0].flow_options["new_option"] == after[0].dataset_options["new_option"] == 0.0
    assert [cell.key for cell in after] == before
    # Cells of a record from before the option are the same cells.
    assert [again(cell).key for cell in _quick()] == before


def _quick() -> list[Cell]:
    return load_matrix("quick").cells


def test_an_option_that_is_not_its_default_changes_the_key(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_class(monkeypatch, flows, cell.flow, wider(flows.ENTRIES[cell.flow].config_class))
    keys = {
        again(cell, flow_options={**cell.flow_options, "new_option": value}).key
        for value in (0.0, 0.5, 1.0)
    }
    assert len(keys) == 3
    assert cell.key in keys


def test_defaults_written_out_are_the_same_cell(cell: Cell) -> None:
    fewer = {
        name: value
        for name, value in cell.flow_options.items()
        if value != defaults_of(flows.ENTRIES[cell.flow].config_class).get(name)
    }
    assert fewer != cell.flow_options
    assert again(cell, flow_options=fewer).key == cell.key
    assert again(cell, budget={"steps": 20, "batch_size": 64, "learning_rate": 5e-3}).key != (
        cell.key
    )


def test_a_preset_that_changes_makes_another_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    def cell() -> Cell:
        return Cell(
            flow="ffjord-toy",
            flow_options=flows.configure("ffjord-toy").model_dump(mode="json"),
            dataset="8gaussians",
            dataset_options={},
            seed=0,
            budget=Budget(),
            measures=("quality",),
            device="cpu",
            threads=1,
        )

    before = cell().key
    assert '"end_time": 0.5' in cell().identity
    entry = flows.ENTRIES["ffjord-toy"]
    changed = SimpleNamespace(
        name=entry.name,
        config_class=entry.config_class,
        options={**entry.options, "end_time": 0.7},
        origin="",
    )
    monkeypatch.setitem(flows.ENTRIES, entry.name, changed)
    assert cell().key != before


def test_entries_of_equal_options_are_other_contestants(cell: Cell) -> None:
    named = {again(cell, flow=name, flow_options={}).key for name in ("realnvp", "realnvp-10")}
    assert len(named) == 2


@pytest.mark.parametrize("catalog", [flows, datasets], ids=["flows", "datasets"])
def test_defaults_have_the_form_of_a_cells_options(catalog: Any) -> None:
    for entry in catalog.ENTRIES.values():
        options = entry.config_class.model_validate(dict(entry.options)).model_dump(mode="json")
        for name, default in defaults_of(entry.config_class).items():
            assert name in entry.options or options[name] == default


# -- a user's own files -----------------------------------------------------------------------


def own(cell: Cell, path: Path) -> Cell:
    options = datasets.configure("table", {"path": str(path)}).model_dump(mode="json")
    return again(cell, dataset="table", dataset_options=options)


def test_a_file_counts_by_what_it_holds(cell: Cell, tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    path.write_text("a,b\n1,2\n3,4\n")
    before = own(cell, path).key
    assert own(cell, path).key == before
    moved = tmp_path / "moved.csv"
    moved.write_bytes(path.read_bytes())
    assert own(cell, moved).key == before
    path.write_text("a,b\n1,2\n3,5\n")
    # The times of a file system are coarse, and an edit takes longer.
    os.utime(path, ns=(1, 1))
    assert own(cell, path).key != before


def test_a_folder_counts_by_what_it_holds(cell: Cell, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "one.png").write_bytes(b"1")

    def key() -> str:
        return again(cell, dataset="images", dataset_options={"path": str(folder)}).key

    before = key()
    (folder / "two.png").write_bytes(b"2")
    assert key() != before


def test_an_absent_file_has_a_key_and_its_options_stay(cell: Cell, tmp_path: Path) -> None:
    absent = own(cell, tmp_path / "nowhere.csv")
    assert len(absent.key) == 16
    assert absent.dataset_options["path"].endswith("nowhere.csv")


def test_a_file_is_read_once(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import own as own_module

    path = tmp_path / "my.csv"
    path.write_text("a,b\n5,2\n3,4\n")
    count = 0
    real = own_module._sha256

    def counted(path: Path) -> str:
        nonlocal count
        count += 1
        return real(path)

    monkeypatch.setattr(own_module, "_sha256", counted)
    assert len({own(cell, path).key for _ in range(5)}) == 1
    assert count == 1
