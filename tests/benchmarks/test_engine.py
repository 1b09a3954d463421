"""Cells in processes of their own: every end leaves a record, and nothing takes others along."""

import contextlib
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

import flows
from benchmarks.allocator import ALLOCATOR
from benchmarks.cell import Cell
from benchmarks.errors import RunStopped
from benchmarks.matrix import load_matrix
from benchmarks.run import local
from benchmarks.run import process as cell_module
from benchmarks.run.claims import is_running
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
def test_every_end_leaves_a_record_and_the_others_go_on(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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

    def late() -> bool:
        """The others have trained, and the slow one trains."""
        quick = (good, other, diverging, huge, raising)
        trained = [
            cell_module.pending_stage(store, cell) == "cost" or store.path(cell).exists()
            for cell in quick
        ]
        return all(trained) and not store.path(slow).exists()

    clock = local.time.monotonic
    moved = SimpleNamespace(
        monotonic=lambda: clock() + 1e6 * late(), time=time.time, sleep=time.sleep
    )
    monkeypatch.setattr(local, "time", moved)
    found = run([slow, diverging, huge, raising, good, other], tmp_path, timeout=1e5)

    assert record(found, good).status == "ok"
    assert record(found, other).status == "ok"
    assert record(found, diverging).status == "diverged"
    assert "no finite loss" in record(found, diverging).reason
    assert record(found, huge).status == "oom"
    assert record(found, raising).status == "error"
    assert "IsADirectoryError" in record(found, raising).reason
    assert "Traceback" in store.path(raising, ".log").read_text()
    assert record(found, slow).status == "timeout"
    assert "quality stage took more than " in record(found, slow).reason
    assert isinstance(store.read(occupied), Foreign)
    assert len(store.frame()) == 6
    # Nothing half-done is left behind.
    for left in ("pending", "claims", "runners"):
        assert list((tmp_path / left).iterdir()) == []


@pytest.mark.slow
def test_a_killed_cell_is_a_record_and_names_the_signal(tmp_path: Path, cell: Cell) -> None:
    endless = changed(cell, budget={"steps": 10_000_000})
    store = Store(tmp_path)

    def kill() -> None:
        log = store.path(endless, ".log")
        while not found:
            time.sleep(0.05)
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if any(Path(file.path) == log for file in process.open_files()):
                        process.kill()

    found: list[Outcome] = []
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    run_cells([endless], tmp_path, jobs=1, timeout=None, on_outcome=found.append)
    killer.join()
    assert found[0].record is not None
    assert found[0].record.status == "crashed"
    assert "SIGKILL (often the kernel, out of memory), 3 times" in found[0].record.reason


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
        wait_for(lambda: is_running(store, cell.key))
        runner.send_signal(sent)
    try:
        wait_for(lambda: not is_running(store, cell.key))
    finally:
        # One that went on regardless can go on to its end.
        os.close(os.open(curve, os.O_RDONLY | os.O_NONBLOCK))
    assert store.read(cell) is None


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something holds; a failure if it never does."""
    deadline = time.monotonic() + 600
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


def once(task: Task) -> bool:
    """Whether this is the first process of a cell."""
    path = task.directory / f"begun-{task.cell.key}"
    if path.exists():
        return False
    path.touch()
    return True


def lose_the_server(task: Task) -> None:
    if once(task):
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    cell_module.run(task)


def die_by(number: int) -> None:
    # Without a dump of the core, and without a word.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    time.sleep(60)


def die_once(task: Task) -> None:
    if once(task):
        die_by(signal.SIGKILL)
    cell_module.run(task)


def die_of_a_fault(task: Task) -> None:
    once(task)
    die_by(signal.SIGBUS)


def die_by_force(task: Task) -> None:
    die_by(signal.SIGKILL)


@pytest.mark.parametrize("accident", [lose_the_server, die_once])
def test_what_ends_a_cell_from_outside_is_no_result(
    tmp_path: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch, accident: Callable[[Task], None]
) -> None:
    """It is started again, and the server that is started anew keeps its memory as well."""
    quick = changed(cell, measures=("quality",))
    monkeypatch.setattr(cell_module, "run", accident)
    assert record(run([quick], tmp_path), quick).status == "ok"
    assert (tmp_path / f"begun-{quick.key}").exists()


def signal_the_server(task: Task) -> None:
    with (task.directory / "begun").open("a") as file:
        file.write("x")
    for number in cell_module.STOP_SIGNALS:
        os.kill(os.getppid(), number)
    cell_module.run(task)


def test_a_signal_to_all_processes_of_a_job_spares_the_server(
    tmp_path: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell ends with its server, before it has kept anything."""
    quick = changed(cell, measures=("quality",))
    monkeypatch.setattr(cell_module, "run", signal_the_server)
    assert record(run([quick], tmp_path), quick).status == "ok"
    assert (tmp_path / "begun").read_text() == "x"


def test_what_a_cell_brings_on_itself_is_its_result(
    tmp_path: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_module, "run", die_of_a_fault)
    found = record(run([cell], tmp_path), cell)
    assert (found.status, found.reason) == ("crashed", "the process was ended by SIGBUS")


def test_the_kernels_end_for_want_of_memory_is_told_apart(
    tmp_path: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter(range(1000))
    monkeypatch.setattr(local, "_oom_kills", lambda: next(counts))
    monkeypatch.setattr(cell_module, "run", die_by_force)
    found = record(run([cell], tmp_path), cell)
    assert (found.status, found.reason) == (
        "oom",
        "the kernel ended the quality stage, out of memory",
    )


def leave_strays(task: Task) -> None:
    """Children in sessions of their own, one of them an orphan, that ignore what is polite."""
    cell_module._lead_group()
    sleep = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    orphan = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]], "
        "start_new_session=True, stdout=-3, stderr=-3); print(p.pid)"
    )
    child = subprocess.Popen([sys.executable, "-c", sleep], start_new_session=True)
    words = [sys.executable, "-c", orphan, sleep]
    second = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    forked = os.fork()
    if forked == 0:
        os.setsid()
        time.sleep(600)
    temporary = task.directory / "writing"
    temporary.write_text(f"{child.pid} {second.strip()} {forked}")
    temporary.rename(task.directory / "strays")
    if task.cell.seed == 0:
        die_by(signal.SIGBUS)
    time.sleep(600)


@pytest.mark.skipif(sys.platform != "linux", reason="orphans have no other parent elsewhere")
@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_that_a_cell_has_started_outlives_it(
    tmp_path: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Neither where it dies (seed 0) nor where its time is up."""
    strays = tmp_path / "strays"
    monkeypatch.setattr(cell_module, "run", leave_strays)
    clock = local.time.monotonic
    # Its time is up when it has started all of them.
    monkeypatch.setattr(
        local,
        "time",
        SimpleNamespace(monotonic=lambda: clock() + 1e6 * strays.exists(), time=time.time),
    )
    found = record(run([changed(cell, seed=seed)], tmp_path, timeout=1e5), changed(cell, seed=seed))
    assert found.status == ("crashed" if seed == 0 else "timeout")
    for pid in strays.read_text().split():
        wait_for(lambda pid=pid: not psutil.pid_exists(int(pid)))  # type: ignore[misc]


def remove_the_folder(task: Task) -> None:
    shutil.rmtree(task.directory)


def test_a_folder_that_is_removed_ends_the_run(
    tmp_path: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_module, "run", remove_the_folder)
    with pytest.raises(RunStopped, match="was removed or replaced"):
        run([cell], tmp_path / "run")


def find_no_room(task: Task) -> None:
    sys.exit(cell_module.NO_DISK)


def test_a_full_disk_ends_the_run_and_is_nobodys_result(
    tmp_path: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_module, "run", find_no_room)
    with pytest.raises(RunStopped, match=f"cannot write into {tmp_path}, where .* bytes are free"):
        run([cell], tmp_path)
    assert Store(tmp_path).read(cell) is None


def test_a_cell_that_finds_no_room_keeps_what_it_has(
    tmp_path: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    write = cell_module.write_atomically

    def full(path: Path, data: bytes) -> None:
        if path.suffix == ".pt":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(cell_module, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        cell_module._run_logged(Task(cell, "quality", tmp_path), store)
    assert store.read(cell) is None
    assert cell_module.pending_stage(store, cell) == "quality"


def say_the_slot(task: Task) -> None:
    (task.directory / f"gpu-{task.gpu}-{task.cell.seed}").touch()
    deadline = time.monotonic() + 600
    while len([*task.directory.glob("gpu-*")]) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)


def test_each_cell_has_one_gpu_and_each_gpu_as_many_cells(
    tmp_path: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_module, "run", say_the_slot)
    cells = [changed(cell, seed=seed) for seed in range(4)]
    run(cells, tmp_path, gpus=["0", "GPU-1f"], jobs=4)
    found = sorted(path.name.rpartition("-")[0] for path in tmp_path.glob("gpu-*"))
    assert found == ["gpu-0", "gpu-0", "gpu-GPU-1f", "gpu-GPU-1f"]


def test_the_visible_gpus_are_those_that_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-1f")
    assert local.visible_gpus() == ["2", "GPU-1f"]


def test_a_log_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with cell_module._logged(path, fresh=True):
        os.write(1, b"first line\n" + b"x" * 10_000_000)
        cell_module.bound_log(path)
        os.write(2, b"\nlast line\n")
    text = path.read_text()
    assert len(text) < 1_100_000
    assert text.startswith("first line\n")
    assert text.endswith("\nlast line\n")
    assert "bytes left out" in text


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
