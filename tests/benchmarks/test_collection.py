"""What of runs is kept in a collection, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call
from made_up import made_up_record

from benchmarks.collection import collect_into
from benchmarks.errors import StoreError
from benchmarks.matrix import Matrix, load_matrix
from benchmarks.pictures import compact
from benchmarks.store import Store

MATRIX = """
name = "mine"
seeds = [0, 1, 2]
[[study]]
flows = ["maf", "glow"]
datasets = ["8gaussians"]
"""
_RANDOM = np.random.default_rng(0)
PICTURES = {
    "grid_x": np.linspace(-1, 1, 60),
    "grid_y": np.linspace(0, 2, 60),
    "log_density": _RANDOM.standard_normal((60, 60)),
    "samples": _RANDOM.uniform(0, 1, (500, 2)),
}
NUMBERS = {"solver_error": np.arange(20.0)}


@pytest.fixture
def matrix(tmp_path: Path) -> Matrix:
    (tmp_path / "mine.toml").write_text(MATRIX)
    return load_matrix(str(tmp_path / "mine.toml"))


def filled(directory: Path, matrix: Matrix, found: Any = None, **more: Any) -> Store:
    """A run of a matrix, with all that a run leaves."""
    store = Store(directory)
    store.write_plan(matrix)
    for cell in matrix.cells:
        record = made_up_record(cell, {"nll_nats": 3.0} if found is None else found)
        record.environment |= more
        store.write(record)
        for suffix in (".curve.jsonl", ".log", ".pt"):
            store.path(cell, suffix).write_text('{"step": 1}\n')
        store.write_arrays(cell, PICTURES if cell.flow == "maf" else NUMBERS)
    store.pending("x", ".progress").parent.mkdir()
    store.pending("x", ".progress").write_text("{}")
    return store


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_records_curves_numbers_and_one_picture_are_kept(tmp_path: Path, matrix: Matrix) -> None:
    store = filled(tmp_path / "run", matrix)
    found = collect_into([store], tmp_path / "kept")
    kept = Store(tmp_path / "kept")
    wanted = {"plan.json"}
    for cell in matrix.cells:
        of_all = [".json", ".curve.jsonl"]
        if cell.flow == "glow" or cell.seed == 0:
            of_all.append(".npz")
        wanted |= {
            kept.path(cell, suffix).relative_to(kept.directory).as_posix() for suffix in of_all
        }
    assert names(tmp_path / "kept") == wanted
    assert kept.records() == store.records()
    assert kept.plan() == matrix
    assert (found.cells, found.without_record, found.left_out) == (6, 0, ())


def test_the_picture_is_of_the_lowest_seed_that_has_one(tmp_path: Path, matrix: Matrix) -> None:
    store = filled(tmp_path / "run", matrix)
    lost = next(cell for cell in matrix.cells if (cell.flow, cell.seed) == ("maf", 0))
    store.path(lost, ".npz").unlink()
    collect_into([store], tmp_path / "kept")
    kept = Store(tmp_path / "kept")
    having = [c.seed for c in matrix.cells if c.flow == "maf" and kept.path(c, ".npz").exists()]
    assert having == [1]


def test_an_earlier_collection_is_replaced_and_nothing_else(tmp_path: Path, matrix: Matrix) -> None:
    old = matrix.model_copy(update={"cells": matrix.cells[:2], "studies": {}})
    target = tmp_path / "kept"
    collect_into([filled(tmp_path / "old", matrix, {"nll_nats": 9.0})], target)
    collect_into([filled(tmp_path / "new", old)], target)
    assert [record.measures["nll_nats"] for record in Store(target).records()[0]] == [3.0] * 2
    for other in (tmp_path / "old", tmp_path / "new"):
        before = names(other)
        with pytest.raises(StoreError, match="which is of no collection"):
            collect_into([Store(target)], other)
        assert names(other) == before


def test_a_collection_made_anew_keeps_all_and_thins_what_came_as_it_was(
    tmp_path: Path, matrix: Matrix
) -> None:
    store = filled(tmp_path / "run", matrix)
    for other in (*store.directory.rglob("*.log"), *store.directory.rglob("*.pt")):
        other.unlink()
    shutil.rmtree(store.pending("x", ".progress").parent)
    stale = made_up_record(matrix.cells[0].model_copy(update={"seed": 9}), {"nll_nats": 1.0})
    stale.versions = dict.fromkeys(stale.versions, 0)
    store.write(stale)
    before = names(store.directory)
    collect_into([store], tmp_path / "kept")
    for _ in range(2):
        collect_into([store], store.directory)
        gone = before - names(store.directory)
        assert {Path(name).suffix for name in gone} == {".npz"}
        assert len(gone) == 2
    for name in names(tmp_path / "kept"):
        assert (tmp_path / "kept" / name).read_bytes() == (store.directory / name).read_bytes()


def test_pictures_are_bytes_that_show_what_was_there() -> None:
    found = compact(PICTURES)
    again = compact(found)
    assert all(again[name] is found[name] for name in found)
    assert {found[name].dtype for name in ("density", "samples")} == {np.dtype(np.uint8)}
    assert found["square"].tolist() == [-1, 1, 0, 2]
    density = np.exp(PICTURES["log_density"])
    shown = found["density"] * (float(found["top"]) / 255)
    below = density < float(found["top"])
    assert below.mean() > 0.99
    assert np.abs(shown - density)[below].max() <= float(found["top"]) / 509
    # The points lie to the right of the middle and below it.
    assert found["samples"].sum() == 500
    half = len(found["samples"]) // 2
    assert found["samples"][:half, half:].sum() == 500


def test_runs_of_several_machines(tmp_path: Path, matrix: Matrix) -> None:
    halves = [
        matrix.model_copy(
            update={
                "cells": cells,
                "studies": {"study-1": [cell.key for cell in cells]},
            }
        )
        for cells in (matrix.cells[:4], matrix.cells[2:])
    ]
    stores = [filled(tmp_path / str(n), half) for n, half in enumerate(halves)]
    # What failed in one of them and ended well in the other ended well.
    failed = matrix.cells[3]
    stores[0].discard(failed)
    stores[0].write(made_up_record(failed, None))
    collect_into(stores, tmp_path / "kept")
    kept = Store(tmp_path / "kept")
    assert {record.key for record in kept.records()[0]} == {cell.key for cell in matrix.cells}
    assert {record.status for record in kept.records()[0]} == {"ok"}
    plan = kept.plan()
    assert plan is not None
    assert plan.studies == matrix.studies
    other = filled(tmp_path / "other", matrix, {"nll_nats": 4.0}, machine="another")
    with pytest.raises(StoreError, match="of two machines"):
        collect_into([stores[0], other], tmp_path / "both")
    assert not (tmp_path / "both").exists()
    renamed = filled(tmp_path / "renamed", matrix.model_copy(update={"name": "yours"}))
    with pytest.raises(StoreError, match="runs of mine and of yours"):
        collect_into([stores[0], renamed], tmp_path / "both")


def test_the_command_says_what_it_keeps_and_what_is_missing(
    tmp_path: Path, matrix: Matrix, capsys: Any
) -> None:
    store = filled(tmp_path / "run", matrix)
    store.discard(matrix.cells[0])
    into = tmp_path / "kept"
    code, out, err = call("collect", tmp_path / "run", "--into", into, capsys=capsys)
    assert code == 0
    assert out.startswith(f"{into}: 5 records, ")
    assert "1 cells of the plan have no record" in err
    code, _, err = call(
        "collect", tmp_path / "run", "--into", into, "--output", "x.csv", capsys=capsys
    )
    assert code == 2
    assert "one of the two" in err
    code, _, err = call("collect", tmp_path / "none", "--into", into, capsys=capsys)
    assert code == StoreError.exit_code
