"""Any number of runners share a folder: each cell is taken by one, and none is lost for good."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.cell import Cell
from benchmarks.matrix import load_matrix
from benchmarks.run import claims
from benchmarks.run.claims import MOST_LOSSES, Runner, holders, is_running, sweep, with_runner
from benchmarks.run.local import Outcome, run_cells
from benchmarks.run.process import record_of
from benchmarks.store import Record, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "run")


def takes(runner: Runner, key: str) -> bool:
    runner.look()
    return runner.take(key)


def lose(runner: Runner) -> None:
    """What the system does when a runner is killed."""
    runner._lock.close()


def test_a_cell_is_taken_by_one_and_put_back_for_all(store: Store) -> None:
    with Runner(store) as first, Runner(store) as second:
        assert not is_running(store, "key")
        assert takes(first, "key")
        assert is_running(store, "key")
        assert not takes(second, "key")
        first.put_back("key")
        assert holders(store) == {}
        assert takes(second, "key")
        assert second.losses("key") == 0
        assert not takes(first, "key")
        second.done("key")
        assert takes(first, "key")
    assert list((store.directory / "claims").iterdir()) != [], "put back when the runner ended"
    assert list((store.directory / "runners").iterdir()) == []
    assert holders(store) == {}


def test_of_many_that_want_a_cell_one_gets_it(store: Store) -> None:
    """All have seen that it is free, or lost, before the first one takes it."""
    with Runner(store) as lost:
        assert takes(lost, "lost")
        lose(lost)
        runners = [Runner(store).__enter__() for _ in range(8)]
        for runner in runners:
            runner.look()
        barrier = threading.Barrier(len(runners))
        taken: list[str] = []

        def want(runner: Runner) -> None:
            barrier.wait()
            taken.extend(key for key in ("free", "lost") if runner.take(key))

        threads = [threading.Thread(target=want, args=(runner,)) for runner in runners]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(taken) == ["free", "lost"]
        for runner in runners:
            runner.__exit__(None, None, None)


def test_who_looked_long_ago_takes_nothing_from_others(store: Store) -> None:
    with Runner(store) as late, Runner(store) as first, Runner(store) as second:
        late.look()
        assert takes(first, "key")
        first.put_back("key")
        # The numbers 1 and 2 are used, and 1 is free.
        assert not late.take("key")
        assert takes(second, "key")
        assert not late.take("key")
        assert second.holds("key")
        assert is_running(store, "key")


def test_a_lost_runner_leaves_its_cells_at_once(store: Store) -> None:
    with Runner(store) as lost, Runner(store) as other:
        assert takes(lost, "key")
        name = lost.name
        # A cell of it is still at work, and keeps its state.
        with with_runner(store, name):
            lose(lost)
            assert is_running(store, "key")
            assert not takes(other, "key")
        assert holders(store) == {"key": False}
        assert takes(other, "key")
        assert not lost.holds("key")
        assert other.losses("key") == 1


def test_a_runner_of_another_machine_has_a_lease(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Runner(store) as lost, Runner(store) as other:
        assert takes(lost, "key")
        lose(lost)
        monkeypatch.setattr(claims, "_machine", lambda: "another one")
        assert not takes(other, "key")
        now = claims._now
        monkeypatch.setattr(claims, "_now", lambda store: now(store) + claims.LEASE_SECONDS)
        assert takes(other, "key")


def test_losses_count_while_nothing_is_kept(store: Store) -> None:
    checkpoint = store.pending("key", ".checkpoint")
    checkpoint.parent.mkdir(parents=True)
    for expected in (0, 1, 2):
        runner = Runner(store).__enter__()
        assert takes(runner, "key")
        assert runner.losses("key") == expected
        lose(runner)
    claim = store.directory / "claims" / "key.3"
    checkpoint.touch()
    os.utime(checkpoint, (0, claim.lstat().st_mtime + 1))
    with Runner(store) as runner:
        assert takes(runner, "key")
        assert runner.losses("key") == 0


def test_a_cell_that_takes_its_runners_along_is_given_up(store: Store, cell: Cell) -> None:
    for _ in range(MOST_LOSSES):
        runner = Runner(store).__enter__()
        assert takes(runner, cell.key)
        lose(runner)
    found: list[Outcome] = []
    run_cells([cell], store.directory, jobs=1, timeout=None, on_outcome=found.append)
    record = found[0].record
    assert record is not None
    assert record.status == "crashed"
    assert record.reason == f"its runner was lost {MOST_LOSSES} times while it was at work"
    assert list((store.directory / "claims").iterdir()) == []


def test_what_dead_runners_left_is_swept(store: Store) -> None:
    with Runner(store) as living:
        assert takes(living, "its")
        for key in ("finished", "lost"):
            runner = Runner(store).__enter__()
            assert takes(runner, key)
            lose(runner)
        sweep(store, {"finished"})
        assert [path.name for path in (store.directory / "runners").iterdir()] == [living.name]
        assert holders(store) == {"its": True, "lost": False}


@contextmanager
def taken(store: Store, cell: Cell) -> Iterator[None]:
    with Runner(store) as runner:
        assert takes(runner, cell.key)
        yield


def test_what_another_has_is_left_to_it(store: Store, tiny: Path) -> None:
    mine, other = load_matrix(str(tiny)).cells
    found: list[Outcome] = []
    with taken(store, other):
        store.write(record_of(mine, "skipped", "by another"))
        settings = {"jobs": 2, "timeout": None, "patience": 0.0}
        run_cells([other, mine], store.directory, on_outcome=found.append, **settings)
    assert [(outcome.cell, outcome.elsewhere) for outcome in found] == [(mine, True)]
    assert store.read(other) is None


RUNNER = """
import sys
from pathlib import Path
from benchmarks.run.local import run_cells
from benchmarks.matrix import load_matrix
cells = load_matrix(sys.argv[1]).cells
def say(outcome):
    print(outcome.cell.key, outcome.record.status, outcome.elsewhere, flush=True)
run_cells(cells, Path(sys.argv[2]), jobs=1, timeout=None, on_outcome=say)
"""


@pytest.mark.slow
def test_two_runners_share_the_cells(store: Store, tiny: Path) -> None:
    tiny.write_text('measures = ["quality"]\n' + tiny.read_text().replace("[0]", "[0, 1, 2]"))
    command = [sys.executable, "-c", RUNNER, tiny, store.directory]
    runners = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = [line.split() for runner in runners for line in runner.communicate()[0].splitlines()]
    keys = sorted(cell.key for cell in load_matrix(str(tiny)).cells)
    assert sorted(key for key, _, elsewhere in lines if elsewhere == "False") == keys
    # Each runner hears of every cell.
    assert sorted(key for key, _, _ in lines) == sorted(2 * keys)
    assert {status for _, status, _ in lines} == {"ok"}
    assert all(isinstance(store.read(c), Record) for c in load_matrix(str(tiny)).cells)
    for left in ("claims", "pending", "runners"):
        assert list((store.directory / left).iterdir()) == []
