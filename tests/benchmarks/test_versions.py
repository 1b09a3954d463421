"""Versions of the code: what raises a cell's key, what makes a record stale, what asks for it."""

import ast
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import remember_versions as memory

from benchmarks import measures, versions
from benchmarks.cell import Cell
from benchmarks.cli.words import filter_text
from benchmarks.run.process import Pending, record_of
from benchmarks.store import Foreign, Record, Stale, Store
from benchmarks.versions import explain_difference, versions_of
from flows.discrete.maf import MAFConfig
from flows.discrete.realnvp import RealNVPConfig

PENDING = Pending(dimension=2, learning_rate=1e-3, measures={"nll_nats": 2.5}, data_hashes={})


def again(cell: Cell) -> Cell:
    """The same cell, with nothing kept of its key."""
    return Cell.model_validate(cell.model_dump())


# -- what changes a version -------------------------------------------------------------------


def test_the_code_behind_each_version_is_the_one_remembered() -> None:
    complaints = memory.complaints(json.loads(memory.MEMORY.read_text()), memory.present())
    assert not complaints, "\n".join(complaints)


def test_every_common_version_has_code() -> None:
    assert memory.COMMON_CODE.keys() == versions.COMMON.keys()
    named = [name for modules in memory.COMMON_CODE.values() for name in modules]
    assert all(memory.path_of(name).is_file() for name in (*named, *memory.IN_THE_KEYS))


@pytest.mark.parametrize(
    ("item", "module"),
    [
        ("system RealNVP", "flows.discrete.layers.coupling"),
        ("system MAF", "flows.discrete.layers.autoregressive"),
        ("system FFJORD", "flows.continuous.ode.gradient"),
        ("system Nflows", "flows.peers.base"),
        ("measure ratio", "benchmarks.measures.time"),
        ("measure quality", "datasets.gaussian_baseline"),
    ],
)
def test_the_code_behind_a_version_is_what_it_imports(item: str, module: str) -> None:
    modules = memory.items()[item].modules
    assert module in modules
    assert not {"benchmarks.train", "flows.base", "benchmarks.cell"} & {*modules}


def test_words_do_not_ask_and_code_does() -> None:
    code = 'ENTRIES = [1]\nCOLUMNS = {"a": "b"}\ndef f(x):\n    return x + 1\n'
    words = (
        '"""Says what."""\nENTRIES = [2]\nCOLUMNS = {"a": "more"}\n\n\ndef f(\n    x,\n):\n'
        '    """Adds one."""\n    # One.\n    return (x + 1)\n'
    )

    def hash_of(source: str) -> str:
        return memory.hash_of([ast.parse(source)])

    assert hash_of(words) == hash_of(code)
    for change in ("x + 2", "x - 1", "None", "x + 1.0"):
        assert hash_of(code.replace("x + 1", change)) != hash_of(code)


def test_what_is_to_be_decided_is_said() -> None:
    before: dict[str, dict[str, int | str]] = {"measure time": {"version": 1, "hash": "a"}}
    assert memory.complaints(before, before) == []
    (changed,) = memory.complaints(before, {"measure time": {"version": 1, "hash": "b"}})
    assert "code behind measure time has changed" in changed
    assert "raise its version" in changed
    (raised,) = memory.complaints(before, {"measure time": {"version": 2, "hash": "b"}})
    assert "from version 1 to 2" in raised
    (gone,) = memory.complaints(before, {})
    assert "measure time is gone" in gone
    assert all(memory.COMMAND in line for line in (changed, raised, gone))


# -- what a version changes -------------------------------------------------------------------


def raise_time(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = dataclasses.replace(measures.family("time"), version=2)
    monkeypatch.setitem(measures.FAMILIES, "time", raised)


def test_a_raised_version_changes_the_keys_of_those_it_concerns(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    quality = Cell.model_validate({**cell.model_dump(), "measures": ("quality",)})
    reference = {"flow": "maf", "flow_options": {}}
    against = Cell.model_validate({**cell.model_dump(), "reference": reference})

    def changed() -> list[bool]:
        return [again(one).key != one.key for one in (cell, quality, against)]

    _ = cell.key, quality.key, against.key
    assert changed() == [False, False, False]
    with monkeypatch.context() as patch:
        raise_time(patch)
        assert changed() == [True, False, True]
    with monkeypatch.context() as patch:
        patch.setattr(RealNVPConfig, "version", RealNVPConfig.version + 1)
        assert changed() == [True, True, True]
    with monkeypatch.context() as patch:
        patch.setattr(MAFConfig, "version", MAFConfig.version + 1)
        assert changed() == [False, False, True]
    with monkeypatch.context() as patch:
        patch.setitem(versions.COMMON, "training rule", 2)
        assert changed() == [True, True, True]
    assert cell.identity == again(cell).identity


def test_presets_have_the_version_of_their_system(cell: Cell) -> None:
    preset = Cell.model_validate({**cell.model_dump(), "flow": "realnvp-10"})
    assert versions_of(preset)["flow"] == RealNVPConfig.version


def test_a_difference_is_said_in_words(cell: Cell) -> None:
    now = versions_of(cell)
    assert explain_difference(cell, now, now) == ""
    then = {**now, "time": now["time"] - 1, "flow": now["flow"] - 1}
    why = explain_difference(cell, then, now)
    assert f"time version {now['time'] - 1}, now {now['time']}" in why
    assert f"realnvp version {now['flow'] - 1}, now {now['flow']}" in why
    assert why.startswith("measured by ")


def test_a_record_of_other_versions_is_stale_everywhere(
    tmp_path: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.write(record_of(cell, "ok", pending=PENDING))
    path = store.path(cell)
    assert json.loads(path.read_text())["versions"] == versions_of(cell)
    (record,) = store.records()[0]
    raise_time(monkeypatch)
    assert store.read(again(cell)) is None
    records, left_out = store.records()
    assert records == []
    assert left_out == [Stale(path, "measured by time version 1, now 2", record)]
    assert record.cell == cell
    assert store.frame().empty
    store.write(record_of(again(cell), "ok", pending=PENDING))
    assert len(store.records()[0]) == len(store.frame()) == 1
    assert len(store.records()[1]) == 1


def test_a_record_of_an_earlier_schema_is_stale_and_of_a_later_foreign(
    tmp_path: Path, cell: Cell
) -> None:
    store = Store(tmp_path)
    record = record_of(cell, "ok", pending=PENDING)
    store.write(record)
    document = json.loads(store.path(cell).read_text())
    old, new = dict(document), dict(document)
    # As the first schema had it: without what came later.
    old |= {"schema_version": 1, "key": "0" * 16}
    del old["versions"], old["cell"]["learning_rates"]
    new |= {"schema_version": 4, "key": "1" * 16}
    for changed in (old, new):
        store.path(cell).with_name(f"{changed['key']}.json").write_text(json.dumps(changed))
    records, (first, second) = store.records()
    assert records == [record]
    assert isinstance(first, Stale)
    assert first.why == "measured under schema 1 of records, now 3"
    assert isinstance(second, Foreign)
    assert "schema 4, this version reads 3" in second.why


def test_the_committed_records_can_be_told_apart() -> None:
    """Whatever was measured under other code is stale, never foreign."""
    folders = [path.parent for path in memory.ROOT.glob("results/reference/*/plan.json")]
    assert folders
    for folder in folders:
        assert all(isinstance(item, Stale) for item in Store(folder).records()[1])


def test_run_and_status_tell_what_is_stale_and_measure_it_anew(
    tmp_path: Path, tiny: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import cli
    from benchmarks.matrix import load_matrix
    from benchmarks.run import local
    from benchmarks.run.local import Outcome

    def measured(cells: Any, directory: Path, *, on_outcome: Any, **_: Any) -> None:
        store = Store(directory)
        for cell in cells:
            store.write(record_of(cell, "ok", pending=PENDING))
            record = store.read(cell)
            assert isinstance(record, Record)
            on_outcome(Outcome(cell, record))

    def call(*words: object) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["ffjord-bench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        return capsys.readouterr()  # type: ignore[no-any-return]

    monkeypatch.setattr(local, "run_cells", measured)
    folder = tmp_path / "run"
    old = load_matrix(str(tiny)).cells
    call("run", tiny, "--out", folder)
    store = Store(folder)
    store.path(old[0], ".curve.jsonl").write_text('{"step": 1}\n')
    raise_time(monkeypatch)
    out, err = call("status", folder)
    assert "left      2" in out
    assert "stale     2" in out
    assert f"{filter_text(old[0])}: stale: measured by time version 1, now 2" in out
    for words in (("collect", folder), ("run", tiny, "--out", folder, "--dry-run")):
        out, err = call(*words)
        assert "stale: 2 records measured by time version 1, now 2" in err
    out, err = call("run", tiny, "--out", folder)
    assert "stale: 2 records" in err
    assert "2 cells: 2 ok" in out
    # What was stale has been replaced, with what lay beside it.
    records, left_out = store.records()
    assert {record.key for record in records} == {c.key for c in load_matrix(str(tiny)).cells}
    assert left_out == []
    assert not list(folder.glob("cells/*/*/*.curve.jsonl"))
