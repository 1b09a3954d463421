"""Files that are no records, or odd ones, are named and left out; nothing crashes or hangs."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.cell import Cell
from benchmarks.cli.words import filter_text
from benchmarks.errors import StoreError
from benchmarks.matrix import Matrix, load_matrix
from benchmarks.run.claims import Runner
from benchmarks.run.process import Pending, record_of
from benchmarks.select import filter_cells
from benchmarks.store import Foreign, Record, Store, read_together
from benchmarks.text import printable

PENDING = Pending(
    dimension=2, learning_rate=5e-3, measures={"nll_nats": 2.5, "steps": 20}, data_hashes={}
)


def called(*words: object, capsys: Any) -> tuple[int, str, str]:
    """As :func:`call`; whatever lies there, nobody sees a traceback."""
    code, out, err = call(*words, capsys=capsys)
    assert "Traceback" not in err
    return code, out, err


def document(cell: Cell) -> dict[str, Any]:
    return record_of(cell, "ok", pending=PENDING).model_dump(mode="json")


Change = Callable[[dict[str, Any]], Any]
ODD: dict[str, Change] = {
    "a list where a scalar was": lambda d: d["measures"].update(nll_nats=[1.0]),
    "a table among the options": lambda d: d["cell"]["flow_options"].update(layers={"a": 1}),
    "a number past all bounds": lambda d: d["measures"].update(nll_nats=1e308),
    "an integer past all bounds": lambda d: d["measures"].update(steps=10**400),
    "a measure called seed": lambda d: d["measures"].update(seed=3),
    "a measure with a point": lambda d: d["measures"].update({"flow.layers": 3}),
    "another label": lambda d: d.update(flow_label="$\\frac"),
    "a long label": lambda d: d.update(dataset_label="x" * 100_000),
    "content of another key": lambda d: d["cell"].update(seed=77),
    "control characters": lambda d: d.update(status="\x1b[31mred"),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_record_is_named_and_left_out(
    tmp_path: Path, cell: Cell, odd: str, capsys: Any
) -> None:
    store = Store(tmp_path)
    other = Cell.model_validate({**cell.model_dump(), "seed": 1})
    store.write(record_of(other, "ok", pending=PENDING))
    content = document(cell)
    ODD[odd](content)
    path = store.path(cell)
    path.write_text(json.dumps(content))
    found = store.read(cell)
    assert isinstance(found, Foreign), found
    for command in ("status", "collect"):
        code, _, err = called(command, tmp_path, capsys=capsys)
        assert code == 0
        assert path.name in err
        assert "\x1b" not in err
    assert len(store.frame()) == 1


def test_a_record_of_a_flow_that_is_no_longer_there_is_shown(
    tmp_path: Path, cell: Cell, capsys: Any
) -> None:
    content = document(cell)
    content["cell"] |= {"flow": "nobody", "dataset": "nothing"}
    gone = Cell.model_validate(content["cell"])
    content |= {"status": "error", "key": gone.key, "flow_label": "nobody[layers=2]"}
    del content["versions"]["flow"], content["versions"]["dataset"]
    path = Store(tmp_path).path(gone)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    for command in ("status", "collect"):
        code, out, err = called(command, tmp_path, capsys=capsys)
        assert (code, err) == (0, "")
        assert "nobody" in out


def test_a_pipe_is_no_record_and_nobody_waits_for_it(tmp_path: Path, cell: Cell) -> None:
    store = Store(tmp_path)
    path = store.path(cell)
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    os.mkfifo(path.with_name(f"{cell.key}.curve.jsonl"))
    os.mkfifo(tmp_path / "plan.json")
    assert store.records()[1] == [Foreign(path, "not a record: no file")]
    assert store.curve(cell.key).empty
    assert store.plan() is None


def test_a_curve_of_other_things_has_the_rows_that_are_good(tmp_path: Path, cell: Cell) -> None:
    store = Store(tmp_path)
    path = store.path(cell, ".curve.jsonl")
    path.parent.mkdir(parents=True)
    good = b'{"step": 1, "train_nll_nats": null}\n'
    path.write_bytes(
        b"\xff\xfe\n[1]\n7\n" + good + b'{"step": "two"}\n{"step": 1e308}\n{"a": 1}\n{"step": 3'
    )
    assert store.curve(cell.key)["step"].tolist() == [1]


def test_arrays_that_cannot_be_read_are_none(tmp_path: Path, cell: Cell) -> None:
    store = Store(tmp_path)
    path = store.path(cell, ".npz")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK\x03\x04 and no more")
    assert store.arrays(cell.key) == {}


def test_a_reason_is_bounded_and_can_be_read_again(tmp_path: Path, cell: Cell) -> None:
    """An exception's text may be long, and hold halves of characters."""
    store = Store(tmp_path)
    store.write(record_of(cell, "error", "\ud800" + "x" * 20_000_000, more={"remark": "\udfff"}))
    found = store.read(cell)
    assert isinstance(found, Record)
    assert found.reason.startswith("\\ud800xxx")
    assert len(found.reason) < 5000
    assert found.measures["remark"] == "\\udfff"


def test_no_control_character_reaches_a_terminal(tmp_path: Path, cell: Cell, capsys: Any) -> None:
    store = Store(tmp_path)
    store.write(record_of(cell, "error", "\x1b]0;title\x07 \x9b31m"))
    _, out, _ = called("status", tmp_path, capsys=capsys)
    assert "\\x1b]0;title\\x07 \\x9b31m" in out
    assert printable(out) == out


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to each part of a document."""
    inner = value.items() if isinstance(value, dict) else ()
    return [at, *(place for name, part in inner for place in places(part, (*at, name)))]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> Matrix:
    path = tmp_path_factory.mktemp("few") / "tiny.toml"
    path.write_text(tiny_text)
    return load_matrix(str(path))


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_whatever_stands_in_a_record_it_is_read_or_left_out(
    tmp_path: Path, few: Matrix, data: st.DataObject
) -> None:
    """One part of a good record is replaced by anything, or a name is added."""
    cell = few.cells[0]
    content = document(cell)
    place = data.draw(st.sampled_from(places(content)[1:]))
    part = content
    for name in place[:-1]:
        part = part[name]
    name = place[-1] if data.draw(st.booleans()) else data.draw(st.text(max_size=10))
    part[name] = data.draw(JSON)
    store = Store(tmp_path)
    path = store.path(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    records, left_out = store.records()
    assert len(records) + len(left_out) == 1
    for item in left_out:
        printable(f"{item.path}: {item.why}")
    for record in records:
        filter_text(record.cell)
    store.frame().to_csv()


def test_two_records_of_one_cell_are_refused_and_both_named(
    tmp_path: Path, cell: Cell, capsys: Any
) -> None:
    one, other = Store(tmp_path / "one"), Store(tmp_path / "other")
    one.write(record_of(cell, "ok", pending=PENDING))
    other.write(record_of(cell, "crashed", "why"))
    read_together([one, other])
    words = ("collect", one.directory, other.directory)
    code, out, _ = called(*words, capsys=capsys)
    assert (code, out.count("\n")) == (0, 2)
    other.discard(cell)
    # The same record twice is a folder that was copied.
    other.write(record_of(cell, "ok", pending=PENDING))
    read_together([one, other])
    other.discard(cell)
    other.write(record_of(cell, "ok", pending=PENDING, more={"nll_nats": 2.6}))
    with pytest.raises(StoreError):
        read_together([one, other])
    for command in ("collect", "report"):
        words = (command, one.directory, other.directory)
        code, _, err = called(*words, capsys=capsys)
        assert code == 2
        assert str(one.path(cell)) in err
        assert str(other.path(cell)) in err


def test_collect_into_nothing_is_an_error_in_words(tmp_path: Path, cell: Cell, capsys: Any) -> None:
    Store(tmp_path).write(record_of(cell, "ok", pending=PENDING))
    words = ("collect", tmp_path, "--output", tmp_path / "no" / "where.csv")
    code, _, err = called(*words, capsys=capsys)
    assert code == 2
    assert "cannot write" in err


def test_status_prints_what_a_filter_takes(tmp_path: Path, few: Matrix, capsys: Any) -> None:
    store = Store(tmp_path)
    for cell in few.cells:
        store.write(record_of(cell, "error", "why"))
    _, out, _ = called("status", tmp_path, capsys=capsys)
    lines = [line.strip() for line in out.splitlines() if "why" in line]
    found = [filter_cells(few, line.removesuffix(": error: why")) for line in lines]
    assert all(len(cells) == 1 for cells in found)
    assert {cells[0].key for cells in found} == {cell.key for cell in few.cells}


def test_status_says_how_far_a_running_cell_is(tmp_path: Path, few: Matrix, capsys: Any) -> None:
    store = Store(tmp_path)
    store.write_plan(few)
    cell = few.cells[0]
    with Runner(store) as runner:
        runner.look()
        assert runner.take(cell.key)
        progress = {"stage": "quality", "seconds": 30.0, "at": 1e12, "used": 0.25, "step": 5}
        store.write_progress(cell.key, {**progress, "steps": 20, "validation_nll_nats": 2.5})
        _, out, _ = called("status", tmp_path, capsys=capsys)
    line = "training, for 30 s, step 5 of 20, validation 2.500 nats, 1.5 min left"
    assert f"  {filter_text(cell)}: {line}" in out
    # The file may hold anything.
    with Runner(store) as runner:
        runner.look()
        assert runner.take(cell.key)
        store.pending(cell.key, ".progress").write_text('{"seconds": "x", "at": [], "step": {}}')
        _, out, _ = called("status", tmp_path, capsys=capsys)
    assert f"  {filter_text(cell)}: running" in out


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path, cell: Cell) -> None:
    store = Store(tmp_path)
    store.write(record_of(cell, "ok", pending=PENDING))
    left = store.path(cell).with_name(f".{cell.key}.json.123.tmp")
    waiting = tmp_path / "pending" / f".{cell.key}.pt.123.tmp"
    waiting.parent.mkdir()
    for path in (left, waiting):
        path.write_text("half")
        os.utime(path, (0, 0))
    fresh = waiting.with_name(".fresh.json.1.tmp")
    fresh.write_text("being written")
    store.clean()
    assert not left.exists()
    assert not waiting.exists()
    assert fresh.exists()
    assert isinstance(store.read(cell), Record)
