"""Records on disk: whole or absent, foreign files left alone, one row a cell."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cell import Cell
from benchmarks.errors import StoreError
from benchmarks.run.process import Pending, record_of
from benchmarks.store import Foreign, Record, Store, write_atomically

PENDING = Pending(
    dimension=2,
    learning_rate=5e-3,
    measures={"nll_nats": 2.5, "steps": 20, "learning_rate": 5e-3},
    data_hashes={"test": "ab"},
)


def test_a_record_comes_back_as_it_was(tmp_path: Path, cell: Cell) -> None:
    store = Store(tmp_path / "run")
    record = record_of(cell, "ok", pending=PENDING, more={"sample_seconds": 0.25})
    store.write(record)
    assert store.read(cell) == record
    assert store.records() == ([record], [])


def test_not_a_number_becomes_null(tmp_path: Path, cell: Cell) -> None:
    store = Store(tmp_path)
    store.write(record_of(cell, "diverged", "why", more={"nll_nats": float("nan")}))
    found = store.read(cell)
    assert isinstance(found, Record)
    assert found.measures == {"nll_nats": None}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1, 2]", b'{"key": "x"}', b"\xff\xfe", b'{"schema_version": 99}'],
)
def test_a_foreign_file_is_named_and_left_alone(tmp_path: Path, cell: Cell, content: bytes) -> None:
    store = Store(tmp_path)
    path = store.path(cell)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    found = store.read(cell)
    assert isinstance(found, Foreign)
    assert found.path == path
    with pytest.raises(StoreError, match="is not a record and was left as it is"):
        store.write(record_of(cell, "ok", pending=PENDING))
    assert path.read_bytes() == content
    assert store.frame().empty


def test_truncated_at_any_length_is_foreign(tmp_path: Path, cell: Cell) -> None:
    store = Store(tmp_path)
    store.write(record_of(cell, "ok", pending=PENDING))
    path = store.path(cell)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 97):
        path.write_bytes(whole[:length])
        assert isinstance(store.read(cell), Foreign)
    path.write_bytes(whole)
    assert isinstance(store.read(cell), Record)


def test_a_record_under_another_key_is_foreign(tmp_path: Path, cell: Cell) -> None:
    store = Store(tmp_path)
    store.write(record_of(cell, "ok", pending=PENDING))
    copy = store.path(cell).with_name("0123456789abcdef.json")
    copy.write_bytes(store.path(cell).read_bytes())
    records, foreign = store.records()
    assert len(records) == 1
    assert [item.path for item in foreign] == [copy]
    assert cell.key in foreign[0].why


def _write_forever(path: Path) -> None:
    while True:
        for letter in b"ab":
            write_atomically(path, bytes([letter]) * 100_000)


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    process = multiprocessing.get_context("fork").Process(target=_write_forever, args=(path,))
    process.start()
    while not path.exists():
        time.sleep(0.01)
    time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    content = path.read_bytes()
    assert content in (b"a" * 100_000, b"b" * 100_000)


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.lock(), pytest.raises(StoreError, match="another run"), store.lock():
        pass
    with store.lock():
        pass


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a file"):
        Store(tmp_path / "file")


def test_frame_has_a_row_a_cell_with_the_documented_columns(tmp_path: Path, cell: Cell) -> None:
    store = Store(tmp_path)
    store.write(record_of(cell, "ok", pending=PENDING))
    other = Cell.model_validate({**cell.model_dump(), "seed": 1})
    store.write(record_of(other, "crashed", "why"))
    frame = store.frame()
    assert list(frame["seed"]) == [0, 1]
    assert list(frame["status"]) == ["ok", "crashed"]
    assert frame["nll_nats"].tolist()[0] == 2.5
    assert np.isnan(frame["nll_nats"].tolist()[1])
    assert frame.loc[0, "flow"] == "realnvp[layers=2,hidden=8]"
    assert frame.loc[0, "flow.hidden"] == "8"
    assert frame.loc[0, "budget.steps"] == 20
    assert frame.loc[0, "data_hash.test"] == "ab"


def test_arrays_and_curves_lie_beside_the_record(tmp_path: Path, cell: Cell) -> None:
    store = Store(tmp_path)
    assert store.arrays(cell.key) == {}
    assert store.curve(cell.key).empty
    store.write_arrays(cell, {"samples": np.arange(6.0).reshape(3, 2)})
    assert store.arrays(cell.key)["samples"].tolist() == [[0, 1], [2, 3], [4, 5]]
    # The last line is cut off, as a killed process leaves it.
    store.path(cell, ".curve.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert store.curve(cell.key)["step"].tolist() == [1, 2]
