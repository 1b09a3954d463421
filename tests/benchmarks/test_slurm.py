"""Cells on a cluster: what is submitted, and on a real Slurm of one node what becomes of it."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from command_line import call
from slurm_cluster import cluster, why_not

from benchmarks.cell import Cell
from benchmarks.errors import RunStopped
from benchmarks.matrix import load_matrix
from benchmarks.run import slurm
from benchmarks.run.claims import Runner, holders
from benchmarks.run.slurm import Resources, queue, submit, work_of
from benchmarks.store import Record, Store

# -- without Slurm ----------------------------------------------------------------------------

STUBS = {
    "sbatch": 'cp "$1" {folder}/submitted.sh; echo Submitted batch job 7',
    "srun": "exit 1",
    "scontrol": 'echo "$*" >> {folder}/scontrol; echo "MaxArraySize            = 51"',
    "squeue": "cat {folder}/queue",
    "sacct": "touch {folder}/sacct-was-called",
}


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands that stand in for Slurm's, and of what they were told."""
    folder = tmp_path / "stubs"
    folder.mkdir()
    for name, text in STUBS.items():
        (folder / name).write_text(f"#!/bin/sh\n{text.format(folder=folder)}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.mark.parametrize(("most", "tasks"), [(100, 51), (20, 20)])
def test_ten_thousand_cells_are_a_few_tasks(
    tmp_path: Path, cell: Cell, stubs: Path, most: int, tasks: int
) -> None:
    store = Store(tmp_path / "run")
    said = submit([cell] * 10_000, store, work_of(store), Resources(most))
    assert said == f"submitted job 7: {tasks} tasks for 10000 cells"
    assert f"--array=0-{tasks - 1}%{tasks}\n" in (stubs / "submitted.sh").read_text()
    assert len(list((store.directory / "slurm").glob("*_submitted.pkl"))) == tasks
    assert not (stubs / "sacct-was-called").exists()


def test_what_is_asked_of_slurm(tmp_path: Path, cell: Cell, stubs: Path) -> None:
    store = Store(tmp_path / "run")
    on_gpu = cell.model_copy(update={"device": "cuda", "threads": 2})
    more: dict[str, str | bool] = {"account": "physics", "exclusive": True, "gpus-per-node": "v100"}
    asked = Resources(100, 1.5, "long", more)
    submit([on_gpu] * 6, store, work_of(store, jobs=3), asked)
    lines = (stubs / "submitted.sh").read_text().splitlines()
    options = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert options >= {"array=0-1%2", "cpus-per-task=6", "gpus-per-node=v100", "time=90"}
    assert options >= {
        "partition=long",
        "account=physics",
        "exclusive",
        "requeue",
        "signal=USR2@90",
    }


def test_tasks_in_the_queue_count_and_serve_later_cells(
    tmp_path: Path, tiny: Path, stubs: Path
) -> None:
    store = Store(tmp_path / "run")
    first, second = load_matrix(str(tiny)).cells
    work = work_of(store)
    submit([first], store, work, Resources(2))
    (stubs / "queue").write_text("RUNNING None\nPENDING PartitionTimeLimit\n")
    assert queue(store) == {"running": 1, "pending, PartitionTimeLimit": 1}
    (stubs / "submitted.sh").unlink()
    assert "2 tasks are in the queue already" in submit([second], store, work, Resources(2))
    assert not (stubs / "submitted.sh").exists()
    assert [cell["seed"] for cell in json.loads(work.cells.read_text())] == [0, 0]


def test_slurm_that_is_missing_or_refuses_is_named(
    tmp_path: Path, cell: Cell, stubs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "run")
    (stubs / "sbatch").write_text("#!/bin/sh\necho invalid partition >&2; exit 1\n")
    with pytest.raises(RunStopped, match=r"(?s)Slurm refused the tasks.*invalid partition"):
        submit([cell] * 2, store, work_of(store), Resources())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunStopped, match="there is no sbatch here"):
        submit([cell], store, work_of(store), Resources())


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("sent", [signal.SIGUSR2, signal.SIGTERM])
def test_a_task_is_queued_again_when_its_time_is_up_and_it_got_on(
    tmp_path: Path,
    cell: Cell,
    stubs: Path,
    monkeypatch: pytest.MonkeyPatch,
    kept: bool,
    sent: signal.Signals,
) -> None:
    store = Store(tmp_path / "run")
    work = work_of(store)
    submit([cell], store, work, Resources())
    monkeypatch.setenv("SLURM_JOB_ID", "4711")

    def interrupted(cells: Sequence[Cell], *_: object, on_tick: Any, **__: object) -> None:
        on_tick([SimpleNamespace(task=SimpleNamespace(cell=cells[0]))])
        if kept:
            path = store.pending(cell.key, ".checkpoint")
            path.parent.mkdir()
            path.touch()
        os.kill(os.getpid(), sent)
        time.sleep(60)

    monkeypatch.setattr(slurm, "run_cells", interrupted)
    before = signal.getsignal(signal.SIGUSR2)
    work()
    assert signal.getsignal(signal.SIGUSR2) == before
    asked = (stubs / "scontrol").read_text()
    assert ("requeue 4711" in asked) == (kept and sent == signal.SIGUSR2)


def test_status_tells_queued_running_and_lost(
    tmp_path: Path, tiny: Path, stubs: Path, capsys: Any
) -> None:
    tiny.write_text(tiny.read_text().replace("[0]", "[0, 1]"))
    words = ["run", tiny, "--out", tmp_path / "run", "--engine", "slurm", "--device", "cpu"]
    code, out, err = call(*words, "--max-tasks", "3", capsys=capsys)
    assert (code, err) == (0, "")
    assert "submitted job 7: 3 tasks for 4 cells" in out
    (stubs / "queue").write_text("RUNNING None\nRUNNING None\nPENDING Resources\n")
    store = Store(tmp_path / "run")
    plan = store.plan()
    assert plan is not None
    with Runner(store) as runner, Runner(store) as lost:
        for each, cell in ((runner, plan.cells[0]), (lost, plan.cells[1])):
            each.look()
            assert each.take(cell.key)
        lost._lock.close()
        _, out, _ = call("status", store.directory, capsys=capsys)
        (stubs / "queue").write_text("")
        _, later, _ = call("status", store.directory, capsys=capsys)
    lines = [line.split(" (")[0].split() for line in out.splitlines()[:4]]
    assert lines == [["running", "1"], ["lost", "1"], ["queued", "2"], ["tasks", "3"]]
    assert "(2 running; 1 pending, Resources)" in out
    assert ["left", "2"] in [line.split() for line in later.splitlines()]
    (stubs / "queue").unlink()
    _, out, _ = call("status", store.directory, capsys=capsys)
    assert "Slurm cannot be asked" in out


# -- a real one -------------------------------------------------------------------------------

WHERE = """
import os
from benchmarks.measures import Column, Family

def measure(subject):
    return {name: os.environ.get(name.upper(), "") for name in COLUMNS_OF}

COLUMNS_OF = ("cuda_visible_devices", "slurm_job_id", "slurm_restart_count")
COLUMNS = tuple(Column(name, "where a cell was measured", sort="quality") for name in COLUMNS_OF)
ENTRIES = [Family("where", "where a cell was measured", "quality", 1, COLUMNS, measure)]
"""

MATRIX = """
name = "long"
plugins = ["where.py"]
measures = ["quality", "where"]
seeds = [0, 1, 2]

[budget]
steps = {steps}
batch_size = 64
learning_rate = 5e-3
validate_every = 1000

[[study]]
flows = [{{ name = "realnvp", layers = 2, hidden = [8] }}]
datasets = [{{ name = "8gaussians", rows = 2000 }}]
"""


class Commands:
    """The command line and Slurm's, as they are called on the cluster."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment

    def __call__(self, *words: object) -> str:
        found = subprocess.run(
            [*map(str, words)], env=self.environment, capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, found.stdout + found.stderr
        return found.stdout

    def bench(self, *words: object) -> str:
        with mock.patch.dict(os.environ, self.environment):
            code, out, err = call(*words)
        assert code == 0, out + err
        return out

    def submit(self, store: Store, *words: object) -> str:
        matrix = self.folder / "long.toml"
        words = ("--engine", "slurm", "--device", "cpu", "--sbatch", "gpus-per-node=1", *words)
        return self.bench("run", matrix, "--out", store.directory, *words)

    def cells(self) -> list[Cell]:
        return load_matrix(str(self.folder / "long.toml")).cells


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 900
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    if why := why_not():
        pytest.skip(why)
    # A socket's path is short.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        (folder / "where.py").write_text(WHERE)
        (folder / "long.toml").write_text(MATRIX.format(steps=STEPS))
        (folder / "bin").mkdir()
        sacct = folder / "bin" / "sacct"
        sacct.write_text(f"#!/bin/sh\ntouch {folder}/sacct-was-called\nexit 1\n")
        sacct.chmod(0o755)
        with cluster(folder) as environment:
            environment["PATH"] = f"{folder}/bin{os.pathsep}{environment['PATH']}"
            yield Commands(folder, environment)
        assert not (folder / "sacct-was-called").exists()
    finally:
        shutil.rmtree(folder)


STEPS = 3000


@pytest.fixture(scope="module")
def truth(commands: Commands) -> dict[str, Any]:
    """What the local engine finds."""
    # Not by `bench`: what is started with the cluster's environment is ended with the cluster.
    code, out, err = call("run", commands.folder / "long.toml", "--out", commands.folder / "local")
    assert code == 0, out + err
    return results(Store(commands.folder / "local"))


def results(store: Store) -> dict[str, Any]:
    records, left_out = store.records()
    assert left_out == []
    assert {record.status for record in records} == {"ok"}
    curves = {r.key: store.curve(r.key).drop(columns="seconds").to_json() for r in records}
    return {r.key: (r.measures["nll_nats"], curves[r.key]) for r in records}


def ended(store: Store, cells: Sequence[Cell]) -> bool:
    return all(isinstance(store.read(cell), Record) for cell in cells)


def at_work(store: Store) -> list[str]:
    """The cells that have trained a step."""
    living = [key for key, lives in holders(store).items() if lives]
    return [key for key in living if store.progress(key).get("step")]


@pytest.mark.slow(seconds=35)
def test_the_array_ends_with_the_records_of_the_local_engine(
    commands: Commands, truth: dict[str, Any]
) -> None:
    store = Store(commands.folder / "array")
    assert "2 tasks for 3 cells" in commands.submit(store, "--max-tasks", "2")
    assert len(queue_of(commands).splitlines()) == 2
    wait_for(lambda: ended(store, commands.cells()))
    wait_for(lambda: not queue_of(commands))
    assert results(store) == truth
    frame = store.frame()
    # One GPU for each task, and another one.
    found = frame.groupby("slurm_job_id")["cuda_visible_devices"].unique().map(list).tolist()
    assert sorted(found) == [["0"], ["1"]]
    for left in ("claims", "pending", "runners"):
        assert list((store.directory / left).iterdir()) == []


def queue_of(commands: Commands) -> str:
    return commands("squeue", "--noheader", "--array", "--format=%i %T")


@pytest.mark.slow(seconds=35)
def test_a_task_whose_time_is_up_is_queued_again_and_its_cells_go_on(
    commands: Commands, truth: dict[str, Any]
) -> None:
    store = Store(commands.folder / "limit")
    said = commands.submit(store, "--max-tasks", "1")
    job = said.split()[2].rstrip(":")
    wait_for(lambda: at_work(store))
    (key,) = at_work(store)
    # What Slurm sends before the time limit, to the same processes.
    commands("scancel", "--signal=USR2", job)
    wait_for(lambda: (store.pending(key, ".checkpoint")).exists() and not at_work(store))
    assert holders(store) == {}, "put back, not lost"
    wait_for(lambda: ended(store, commands.cells()))
    assert results(store) == truth
    frame = store.frame().set_index("key")
    assert set(frame["slurm_restart_count"].astype(str).str.rstrip(".0")) >= {"1"}
    (cell,) = [cell for cell in commands.cells() if cell.key == key]
    assert "goes on from its checkpoint" in store.path(cell, ".log").read_text()


@pytest.mark.slow(seconds=35)
def test_a_task_that_is_killed_loses_nothing(commands: Commands, truth: dict[str, Any]) -> None:
    store = Store(commands.folder / "killed")
    commands.submit(store, "--max-tasks", "1")
    wait_for(lambda: at_work(store))
    (runner,) = (store.directory / "runners").glob("[!.]*")
    os.kill(int(runner.name.split("-")[-2]), signal.SIGKILL)
    wait_for(lambda: not queue_of(commands))
    wait_for(lambda: list(holders(store).values()) == [False])
    plugin = commands.folder / "where.py"
    status = commands.bench("status", store.directory, "--plugin", plugin).splitlines()
    assert ["lost", "1"] in [line.split(" (")[0].split() for line in status]
    # Cancelled, a task has its cells keep their state, and puts them back.
    said = commands.submit(store, "--max-tasks", "1")
    wait_for(lambda: at_work(store))
    commands("scancel", said.split()[2].rstrip(":"))
    wait_for(lambda: not queue_of(commands))
    assert holders(store) == {}
    commands.submit(store)
    wait_for(lambda: ended(store, commands.cells()))
    assert results(store) == truth
