"""A report's sections are made by several processes, and nobody sees by how many."""

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from made_up import made_up_record

from benchmarks import report
from benchmarks.errors import StoreError
from benchmarks.matrix import load_matrix
from benchmarks.report.processes import on_all_cores
from benchmarks.store import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")


def test_what_is_made_comes_in_the_order_of_the_items() -> None:
    made = on_all_cores(lambda item: (item, os.getpid()), list(range(10)), processes=2)
    assert [item for item, _ in made] == list(range(10))
    assert os.getpid() not in {process for _, process in made}
    assert on_all_cores(lambda _: os.getpid(), [0], processes=2) == [os.getpid()]


def test_an_error_is_that_of_the_item_and_a_killed_process_is_told() -> None:
    def refuse(item: int) -> None:
        raise StoreError(f"item {item} cannot be written")

    with pytest.raises(StoreError, match="item 0 cannot be written"):
        on_all_cores(refuse, [0, 1], processes=2)
    with pytest.raises(StoreError, match="was killed"):
        on_all_cores(lambda _: os.kill(os.getpid(), signal.SIGKILL), [0, 1], processes=2)
    assert not [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and child.cmdline() == psutil.Process().cmdline()
    ]


def test_a_report_is_the_same_however_many_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = []
    for name in ("learning", "quick-rates"):
        matrix = load_matrix(name, seeds=[0, 1])
        stores.append(Store(tmp_path / name))
        stores[-1].write_plan(matrix)
        for cell in matrix.cells:
            measured = {"nll_nats": 1.0 + cell.seed, "train_step_seconds": 0.1, "steps": 10}
            stores[-1].write(made_up_record(cell, measured))
    monkeypatch.setattr(report, "_FEW_CELLS", 0)
    made = []
    for processes in (1, 2):
        monkeypatch.setattr(report, "cores", lambda number=processes: number)
        out = tmp_path / f"by-{processes}"
        summary = report.write_report(stores, out)
        assert len(summary.sections) == 2
        assert {out / path for path in summary.paths} == {
            path for path in out.rglob("*") if path.is_file()
        }
        files = [path.relative_to(out) for path in summary.paths]
        made.append((files, [(out / path).read_bytes() for path in files], summary.notes))
    assert made[0] == made[1]
