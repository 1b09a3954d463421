"""Cells in processes of their own: every end leaves a record, and nothing takes others along."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import flows
from benchmarks.allocator import ALLOCATOR
from benchmarks.cell import Cell
from benchmarks.matrix import load_matrix
from benchmarks.run import process as cell_module
from benchmarks.run.local import Outcome, run_cells
from benchmarks.run.process import Task, record_of
from benchmarks.store import Foreign, Record, Store


def changed(cell: Cell, **changes: Any) -> Cell:
    document = cell.model_dump()
    document["budget"] |= changes.pop("budget", {})
    return Cell.model_validate({**document, **changes})


def run(cells: list[Cell], folder: Path, **options: Any) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}

    def on_outcome(outcome: Outcome) -> None:
        found[outcome.cell.key] = outcome

    settings: dict[str, Any] = {"jobs": 2, "timeout": None, **options}
    run_cells(cells, folder, on_outcome=on_outcome, **settings)
    return found


def record(outcomes: dict[str, Outcome], cell: Cell) -> Record:
    found = outcomes[cell.key].record
    assert found is not None
    return found


def test_cells_come_from_a_process_that_keeps_its_memory(tmp_path: Path, tiny: Path) -> None:
    (cell, _) = load_matrix(str(tiny)).cells
    assert record(run([cell], tmp_path), cell).status == "ok"
    (server,) = (
        child for child in psutil.Process().children() if "forkserver" in " ".join(child.cmdline())
    )
    assert server.environ().items() >= ALLOCATOR.items()


def test_kept_memory_is_not_fetched_again() -> None:
    """40 tensors of 256 KiB, 20 times: pages are asked of the kernel once, or each time."""
    program = (
        "import resource, torch\n"
        "def fill(): return [torch.ones(2**16) for _ in range(40)]\n"
        "fill(); before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(20): fill()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    faults = [
        int(
            subprocess.run(
                [sys.executable, "-c", program],
                env={**os.environ, **extra},
                capture_output=True,
                check=True,
                text=True,
            ).stdout
        )
        for extra in ({"MALLOC_TRIM_THRESHOLD_": "131072"}, ALLOCATOR)
    ]
    # 10 MiB are 2,560 pages of 4 KiB.
    assert faults[0] > 20 * 2_500
    assert faults[1] < 2_000


@pytest.mark.slow
def test_every_end_leaves_a_record_and_the_others_go_on(tmp_path: Path, tiny: Path) -> None:
    good, other = load_matrix(str(tiny)).cells
    diverging = changed(
        good, budget={"learning_rate": 1e30, "schedule": "constant", "clip_norm": None}
    )
    huge = changed(good, flow_options={**good.flow_options, "hidden": [2**27, 2**27]})
    slow = changed(good, budget={"steps": 10_000_000})
    raising = changed(good, seed=5)
    occupied = changed(good, seed=6)
    store = Store(tmp_path)
    # What is written first in a stage cannot be written: an unexpected error inside the cell.
    store.path(raising, ".curve.jsonl").mkdir(parents=True)
    store.path(occupied).write_text("not a record")

    found = run([slow, diverging, huge, raising, good, other], tmp_path, timeout=15)

    assert record(found, good).status == "ok"
    assert record(found, other).status == "ok"
    assert record(found, diverging).status == "diverged"
    assert "no finite loss" in record(found, diverging).reason
    assert record(found, huge).status == "oom"
    assert record(found, raising).status == "error"
    assert "IsADirectoryError" in record(found, raising).reason
    assert "Traceback" in store.path(raising, ".log").read_text()
    assert record(found, slow).status == "timeout"
    assert "quality stage took more than 15 s" in record(found, slow).reason
    assert isinstance(store.read(occupied), Foreign)
    assert len(store.frame()) == 6
    # Nothing half-done is left behind.
    assert list((tmp_path / "pending").iterdir()) == []


@pytest.mark.slow
def test_a_killed_cell_is_a_record_and_names_the_signal(tmp_path: Path, cell: Cell) -> None:
    endless = changed(cell, budget={"steps": 10_000_000})
    store = Store(tmp_path)

    def kill() -> None:
        lock = store.pending(endless.key, ".lock")
        while not store.is_running(endless.key):
            time.sleep(0.05)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(Path(file.path) == lock for file in process.open_files()):
                    process.kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    found: list[Outcome] = []
    run_cells([endless], tmp_path, jobs=1, timeout=60, on_outcome=found.append)
    assert found[0].record is not None
    assert found[0].record.status == "crashed"
    assert "SIGKILL" in found[0].record.reason


RUNNER = """
import sys
from pathlib import Path
from benchmarks.run.local import run_cells
from benchmarks.cell import Cell
cell = Cell.model_validate_json(sys.argv[1])
run_cells([cell], Path(sys.argv[2]), jobs=1, timeout=None, on_outcome=print)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_cell_ends_with_its_runner(tmp_path: Path, cell: Cell, sent: signal.Signals) -> None:
    """However the runner ends, nothing goes on training, and nobody writes a record later."""
    store = Store(tmp_path)
    curve = store.path(cell, ".curve.jsonl")
    curve.parent.mkdir(parents=True)
    # A pipe that nobody reads: the cell waits there, in the middle of its stage.
    os.mkfifo(curve)
    command = [sys.executable, "-c", RUNNER, cell.model_dump_json(), tmp_path]
    with subprocess.Popen(command) as runner:
        wait_for(lambda: store.is_running(cell.key))
        runner.send_signal(sent)
    try:
        wait_for(lambda: not store.is_running(cell.key))
    finally:
        # One that went on regardless can go on to its end.
        os.close(os.open(curve, os.O_RDONLY | os.O_NONBLOCK))
    assert store.read(cell) is None


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something holds; a failure if it never does."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_record_that_ended_well_is_left_as_it_is(tmp_path: Path, cell: Cell) -> None:
    """It may have come between the runner's look at the store and the cell's claim."""
    store = Store(tmp_path)
    pending = cell_module.Pending(
        dimension=2, learning_rate=1e-3, measures={"nll_nats": 1.5}, data_hashes={}
    )
    store.write(record_of(cell, "ok", pending=pending))
    before = store.path(cell).read_bytes()
    assert record(run([cell], tmp_path), cell).measures == {"nll_nats": 1.5}
    assert store.path(cell).read_bytes() == before
    assert not store.path(cell, ".log").exists()


def test_a_stage_that_ends_well_and_leaves_nothing_is_a_crash(
    tmp_path: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    trained = changed(cell, seed=3)
    cell_module._run_logged(Task(trained, "quality", tmp_path), store)
    assert cell_module.pending_stage(store, trained) == "cost"
    nll = cell_module.read_pending(store, trained).measures["nll_nats"]  # type: ignore[union-attr]
    # Prints its task instead of doing it, and ends with exit code 0.
    monkeypatch.setattr(cell_module, "run", print)
    found = run([cell, trained], tmp_path)
    for one, stage in ((cell, "quality"), (trained, "cost")):
        assert record(found, one).status == "crashed"
        assert f"the {stage} stage ended with exit code 0 and left" in record(found, one).reason
    # What had been measured by then is kept.
    assert record(found, trained).measures["nll_nats"] == nll


@pytest.mark.slow
def test_a_record_has_every_measure_that_applies(tmp_path: Path, cell: Cell) -> None:
    ffjord = Cell.model_validate(
        {
            **cell.model_dump(),
            "flow": "ffjord",
            "flow_options": {"hidden": [8], "atol": 1e-3, "rtol": 1e-3},
        }
    )
    found = record(run([ffjord], tmp_path), ffjord)
    assert found.status == "ok"
    for name in (
        "nll_nats",
        "nll_nats_stderr",
        "kl_to_truth_nats",
        "parameters",
        "nfe_train_forward",
        "nfe_train_backward",
        "nfe_log_prob",
        "nfe_sample",
        "train_step_seconds",
        "log_prob_seconds",
        "sample_seconds",
        "first_step_seconds",
        "peak_memory_bytes",
        "process_peak_bytes",
        "trace_std",
        "log_prob_std",
        "round_trip_error",
        "density_integral",
        "cost_shared",
        "training_shared",
        "learning_rate",
    ):
        assert found.measures[name] is not None, name
    assert found.dimension == 2
    assert set(found.data_hashes) == {"train", "validation", "test"}
    assert found.environment["torch"]
    store = Store(tmp_path)
    assert set(store.arrays(ffjord.key)) >= {"log_density", "truth_log_density", "samples"}
    assert store.curve(ffjord.key)["step"].tolist() == [10, 20]


def test_a_trained_cell_goes_on_with_its_cost(tmp_path: Path, cell: Cell) -> None:
    """What Ctrl-C leaves between the stages is used, not trained again."""
    store = Store(tmp_path)
    cell_module._run_logged(Task(cell, "quality", tmp_path), store)
    assert store.read(cell) is None
    assert cell_module.pending_stage(store, cell) == "cost"

    curve = store.path(cell, ".curve.jsonl").read_bytes()
    outcome = run([cell], tmp_path)[cell.key]
    assert outcome.record is not None
    assert outcome.record.status == "ok"
    assert store.path(cell, ".curve.jsonl").read_bytes() == curve
    assert cell_module.pending_stage(store, cell) == "quality"


def test_a_flow_that_does_not_apply_is_skipped_with_a_reason(
    tmp_path: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)

    def refuse(self: object, event_shape: Any, context_features: int = 0) -> flows.Flow:
        raise flows.InputError("models images, not vectors")

    monkeypatch.setattr(type(cell.contestant.config()), "build", refuse)
    cell_module._run_logged(Task(cell, "quality", tmp_path), store)
    found = store.read(cell)
    assert isinstance(found, Record)
    assert (found.status, found.reason) == ("skipped", "models images, not vectors")
    assert not found.failed


def test_record_of_a_failure_keeps_what_was_measured(tmp_path: Path, cell: Cell) -> None:
    pending = cell_module.Pending(
        dimension=2, learning_rate=1e-3, measures={"nll_nats": 1.5}, data_hashes={}
    )
    found = record_of(cell, "timeout", "why", pending=pending)
    assert found.failed
    assert found.measures == {"nll_nats": 1.5}
