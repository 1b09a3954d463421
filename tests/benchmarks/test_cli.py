"""The command line as a user meets it: what it prints, what it leaves, how it ends."""

import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from command_line import call
from made_up import made_up_record

from benchmarks import cli
from benchmarks.matrix import load_matrix
from benchmarks.run.claims import is_running
from benchmarks.store import Record, Store


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> Path:
    """A folder of two finished cells, run through the command line."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.toml").write_text(tiny_text)
    code, out, err = call("run", folder / "tiny.toml", "--out", folder / "run")
    assert code == 0, err
    assert "2 cells: 2 ok" in out
    assert "[2/2]" in err
    return folder


@pytest.mark.slow
def test_a_second_run_trains_nothing(finished: Path, capsys: Any) -> None:
    store = Store(finished / "run")
    before = {path: path.stat().st_mtime_ns for path in store.directory.rglob("*.json*")}
    del before[store.directory / "plan.json"]
    code, out, _ = call("run", finished / "tiny.toml", "--out", finished / "run", capsys=capsys)
    assert code == 0
    assert "2 cells: 2 ok" in out
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())


@pytest.mark.slow
def test_collect_gives_a_row_a_cell(finished: Path, capsys: Any) -> None:
    code, out, _ = call("collect", finished / "run", capsys=capsys)
    frame = pd.read_csv(io.StringIO(out))
    assert code == 0
    assert len(frame) == 2
    assert set(frame.columns) >= {
        "nll_nats", "parameters", "nfe_train_forward", "nfe_train_backward",
        "train_step_seconds", "log_prob_seconds", "sample_seconds", "peak_memory_bytes",
        "status", "flow", "dataset", "seed", "dimension", "bottleneck",
    }  # fmt: skip
    call("collect", finished / "run", "--output", finished / "all.csv", capsys=capsys)
    assert (finished / "all.csv").read_text() == out


@pytest.mark.slow
def test_a_copied_folder_gives_the_same_report_without_the_data(
    finished: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(finished / "run", copy)
    assert call("report", finished / "run", "--out", tmp_path / "a", capsys=capsys)[0] == 0
    import datasets

    def unavailable(*_: object, **__: object) -> None:
        raise datasets.DataMissing("no data here")

    monkeypatch.setattr(datasets.registry, "load", unavailable)
    monkeypatch.setattr(datasets, "load", unavailable)
    assert call("report", copy, "--out", tmp_path / "b", capsys=capsys)[0] == 0
    tables = [
        path.relative_to(tmp_path / "a")
        for path in (tmp_path / "a").rglob("*")
        if path.suffix in (".csv", ".md", ".tex")
    ]
    assert tables
    for path in tables:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    assert (tmp_path / "b" / "index.html").is_file()


@pytest.mark.slow
def test_each_figure_of_a_report_can_be_a_file_that_stands_alone(
    finished: Path, tmp_path: Path, capsys: Any
) -> None:
    out, folder = tmp_path / "report", tmp_path / "figures"
    words = ("report", finished / "run", "--out", out, "--figures", folder)
    assert call(*words, capsys=capsys)[0] == 0
    page = (out / "index.html").read_text()
    files = list(folder.iterdir())
    assert files
    for path in files:
        assert f'id="figure-{path.stem}"' in page
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    # A folder cannot be made where a file is.
    words = ("report", finished / "run", "--out", out, "--figures", files[0])
    code, _, err = call(*words, capsys=capsys)
    assert code == 2
    assert "cannot write figures into" in err


@pytest.mark.slow
def test_status_and_foreign_files(finished: Path, tmp_path: Path, capsys: Any) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished / "run", copy)
    store = Store(copy)
    cells = load_matrix(str(finished / "tiny.toml")).cells
    code, out, _ = call("status", copy, capsys=capsys)
    assert code == 0
    assert "ok        2" in out
    assert "left      0" in out
    path = store.path(cells[0])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for words in (("status", copy), ("collect", copy), ("report", copy)):
        code, _, err = call(*words, capsys=capsys)
        assert code == 0
        assert path.name in err
        assert "left out" in err
        assert "not a record" in err
    code, _, err = call("run", finished / "tiny.toml", "--out", copy, capsys=capsys)
    assert code == 1
    assert f"left out: {path}" in err
    assert path.read_bytes() == whole[: len(whole) // 2]
    path.unlink()
    code, out, _ = call("status", copy, capsys=capsys)
    assert "left      1" in out


@pytest.mark.slow
def test_a_failed_cell_makes_the_exit_code_one_and_is_retried_on_request(
    tmp_path: Path, tiny: Path, capsys: Any
) -> None:
    bad = tiny.read_text().replace("learning_rate = 5e-3", "learning_rate = 1e30")
    bad = bad.replace("[budget]", "[budget]\nschedule = 'constant'")
    tiny.write_text(bad)
    words = ("run", tiny, "--out", tmp_path / "run", "--filter", "flow=maf")
    code, out, err = call(*words, capsys=capsys)
    assert code == 1
    assert "1 diverged" in out
    assert "diverged: " in err
    started = Store(tmp_path / "run").frame()
    assert call(*words, capsys=capsys)[0] == 1
    code, _, err = call(*words, "--retry-failed", capsys=capsys)
    assert code == 1
    assert "[1/1]" in err
    assert started["status"].tolist() == ["diverged"]


@pytest.mark.slow
def test_interrupted_keeps_what_was_finished_and_goes_on(tmp_path: Path, tiny: Path) -> None:
    """Ctrl-C in the middle of the second cell, of a run that was started with Ctrl-C ignored.

    So does a shell start what a script runs in the background.
    """
    tiny.write_text('measures = ["quality", "memory"]\n' + tiny.read_text())
    words = ("run", tiny, "--out", tmp_path / "run")
    command = [sys.executable, "-m", "benchmarks", *words]
    store = Store(tmp_path / "run")
    first, second = load_matrix(str(tiny)).cells
    # A pipe that nobody reads: the second cell waits there until it is ended.
    waits = store.path(second, ".curve.jsonl")
    waits.parent.mkdir(parents=True)
    os.mkfifo(waits)
    with subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$0" "$@"', *command, "--jobs", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not is_running(store, second.key) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130, err
    assert "the same command goes on from there" in err
    assert not is_running(store, second.key)
    assert store.read(second) is None
    waits.unlink()
    # The first is done, one at a time being timed at once, and it is not run again.
    assert isinstance(store.read(first), Record)
    curve = store.path(first, ".curve.jsonl").stat().st_mtime_ns
    code, out, err = call(*words)
    assert code == 0, err
    assert "2 cells: 2 ok" in out
    assert store.path(first, ".curve.jsonl").stat().st_mtime_ns == curve


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "quik"], "no study is called 'quik'; did you mean 'quick'"),
        (["run", "quick", "--filter", "flw=maf"], "'flw' is no axis; did you mean 'flow'"),
        (["run", "quick", "--filter", "flow=mfa"], "has no flow 'mfa'; did you mean 'maf'"),
        (["run", "quick", "--seeds", "x"], "seeds 'x'"),
        (["run", "quick", "--sedes", "1"], "--seeds"),
        (["run", "quick", "--jobs", "0"], "--jobs"),
        (["run", "quick", "--partition", "gpu"], "say --engine slurm as well"),
        (["run", "quick", "--device", "tpu"], "'tpu' is not one of"),
        (["rum"], "no command is called 'rum'; did you mean 'run'"),
        (["list", "flow"], "did you mean 'flows'"),
        (["describe", "realnpv"], "nothing is called 'realnpv'; did you mean 'realnvp'"),
        (["status", "nowhere"], "nowhere holds no records"),
        (["collect", "nowhere"], "nowhere holds no records"),
        (["report", "nowhere"], "nowhere holds no records"),
    ],
)
def test_a_wrong_word_is_answered_with_the_nearest(
    words: list[str], message: str, capsys: Any
) -> None:
    code, out, err = call(*words, capsys=capsys)
    assert code == 2
    assert message in err
    assert not out
    assert "Traceback" not in err


def test_missing_data_are_named_before_anything_runs(
    tmp_path: Path, tiny: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FFJORD_BENCH_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tiny.write_text(tiny.read_text().replace('"8gaussians", rows = 2000', '"gas"'))
    code, _, err = call("run", tiny, "--out", tmp_path / "run", capsys=capsys)
    assert code == 3
    assert "gas: gas is not here: run `ffjord-bench data fetch gas`" in err
    assert not (tmp_path / "run" / "cells").exists()


def test_what_is_drawn_is_not_made_to_see_whether_it_is_there(
    tmp_path: Path, tiny: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets.sampled.toy import ToyConfig

    monkeypatch.delattr(ToyConfig, "density")
    code, out, _ = call("run", tiny, "--out", tmp_path / "run", "--dry-run", capsys=capsys)
    assert code == 0
    assert "2 cells to run" in out


def test_a_plan_reads_each_record_once(
    tmp_path: Path, tiny: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "run")
    one, two = load_matrix(str(tiny)).cells
    store.write(made_up_record(one, {"nll_nats": 1.0, "process_peak_bytes": 2**30}))
    read: list[Path] = []
    _read = Store._read

    def noted(self: Store, path: Path) -> Any:
        read.append(path)
        return _read(self, path)

    monkeypatch.setattr(Store, "_read", noted)
    words = ("run", tiny, "--out", store.directory, "--dry-run")
    code, out, _ = call(*words, capsys=capsys)
    assert code == 0
    assert "1 cells to run, 1 have a record" in out
    assert two.key in out
    assert read == [store.path(one)]


def test_data_commands(capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Neither the files nor the prepared splits of whoever runs the tests are to be found.
    monkeypatch.setenv("FFJORD_BENCH_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code, out, _ = call("data", "list", capsys=capsys)
    assert code == 0
    assert {"moons", "power", "gas"} <= {line.split()[0] for line in out.splitlines()}
    code, out, _ = call("data", "fetch", "moons", "power", capsys=capsys)
    assert code == 0
    assert "moons: made when it is loaded" in out
    code, out, _ = call("data", "verify", "optdigits", capsys=capsys)
    assert code == 0
    assert "optdigits: good" in out
    code, out, err = call("data", "verify", "freyfaces", capsys=capsys)
    assert code == 3
    assert "freyfaces: not here" in out
    assert "freyfaces" in err
    code, _, err = call("data", "fetch", "powr", capsys=capsys)
    assert code == 2
    assert "did you mean 'power'" in err


def test_a_folder_in_use_is_refused(tmp_path: Path, tiny: Path, capsys: Any) -> None:
    with Store(tmp_path / "run").lock():
        code, _, err = call("run", tiny, "--out", tmp_path / "run", capsys=capsys)
    assert code == 2
    assert "another run is writing" in err


def test_dry_run_runs_nothing(tmp_path: Path, tiny: Path, capsys: Any) -> None:
    code, out, _ = call("run", tiny, "--out", tmp_path / "run", "--dry-run", capsys=capsys)
    assert code == 0
    assert "2 cells to run, 0 have a record" in out
    assert not (tmp_path / "run").exists()
    code, out, _ = call("run", tiny, "--dry-run", "--limit", "1", "--seeds", "0-4", capsys=capsys)
    assert "1 cells to run" in out


def test_a_profile_is_chosen(tiny: Path, capsys: Any) -> None:
    code, out, _ = call(
        "run",
        "learning",
        "--profile",
        "full",
        "--filter",
        "dataset=power",
        "--dry-run",
        capsys=capsys,
    )
    assert code == 0
    assert "1 cells to run" in out
    code, _, err = call("run", tiny, "--profile", "full", "--dry-run", capsys=capsys)
    assert code == 2
    assert "a matrix file has no profiles" in err


def test_lists_and_descriptions(capsys: Any) -> None:
    for words, expected in (
        (("list", "flows"), "ffjord"),
        (("list", "datasets"), "8gaussians"),
        (("list", "studies"), "quick"),
        (("list", "measures"), "nll_nats"),
        (("list", "measures"), "always: of the training"),
        (("list", "measures"), "tuning_seconds: train_seconds of all rates"),
        (("describe", "ffjord"), "bottleneck"),
        (("describe", "nflows/realnvp"), "remark: Each coupling of nflows"),
        (("describe", "power"), "rows"),
        (("describe", "quick"), "comparison"),
        (("describe", "quick"), "answers: which flow models"),
        (("describe", "time"), "train_step_seconds"),
        (("doctor",), "torch"),
    ):
        code, out, err = call(*words, capsys=capsys)
        assert code == 0, err
        assert expected in out


def test_a_matrix_is_described_with_the_budgets_of_its_flows(tiny: Path, capsys: Any) -> None:
    code, out, _ = call("describe", "quick-rates", capsys=capsys)
    assert code == 0
    assert "learning_rate = the best of 0.001, 0.003, 0.01, 0.03, 0.1\n" in out
    own = 'layers = 2, hidden = [8], budget = { learning_rate = 1e-2 } }, { name = "maf"'
    tiny.write_text(tiny.read_text().replace('layers = 2, hidden = [8] }, { name = "maf"', own))
    code, out, _ = call("describe", str(tiny), capsys=capsys)
    lines = [line for line in out.splitlines() if "budget" in line]
    assert lines == [
        "  budget of realnvp[layers=2,hidden=8]: steps = 20, batch_size = 64, "
        "learning_rate = 0.01, validate_every = 10",
        "  budget of maf[layers=2,hidden=8]: steps = 20, batch_size = 64, "
        "learning_rate = 0.005, validate_every = 10",
    ]


def test_a_choice_at_the_edge_of_the_grid_is_said(
    tmp_path: Path, tiny: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.run import local
    from benchmarks.run.process import Pending, record_of

    tiny.write_text(tiny.read_text().replace("5e-3", "[1e-3, 1e-2]"))
    first, second = load_matrix(str(tiny)).cells

    def measured(cells: Any, directory: Path, *, on_outcome: Any, **_: Any) -> None:
        for cell in cells:
            found = {"learning_rate": 1e-2, "learning_rate_at_edge": cell == second}
            pending = Pending(dimension=2, learning_rate=1e-2, measures=found, data_hashes={})
            on_outcome(local.Outcome(cell, record_of(cell, "ok", pending=pending)))

    monkeypatch.setattr(local, "run_cells", measured)
    code, _, err = call("run", tiny, "--out", tmp_path / "run", capsys=capsys)
    assert code == 0
    assert f"{second}: the best learning rate, 0.01, is at the edge of its grid" in err
    assert f"{first}: the best" not in err


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_handled_within_the_command_line_alone(
    sent: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the process was started with them ignored."""
    monkeypatch.setattr(cli.cli, "main", lambda **_: signal.raise_signal(sent))
    before = signal.signal(sent, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 130
        assert signal.getsignal(sent) == signal.SIG_IGN
    finally:
        signal.signal(sent, before)


def test_help_needs_no_torch() -> None:
    """Help and mistyped options answer at once: torch takes seconds to load."""
    code = "import sys, benchmarks.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_missing_is_left_out_on_request(
    tmp_path: Path, tiny: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.run import local

    monkeypatch.setenv("FFJORD_BENCH_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tiny.write_text(tiny.read_text().replace("rows = 2000 }", 'rows = 2000 }, "gas"'))
    words = ("run", tiny, "--out", tmp_path / "run")
    code, out, err = call(*words, "--dry-run", capsys=capsys)
    assert code == 0
    assert "4 cells to run" in out
    assert "missing, 2 cells: gas: gas is not here" in err
    ran: list[Any] = []
    monkeypatch.setattr(local, "run_cells", lambda cells, directory, **_: ran.extend(cells))
    code, _, err = call(*words, "--skip-missing", capsys=capsys)
    assert code == 1
    assert [cell.dataset for cell in ran] == ["8gaussians"] * 2
    assert "left out, its data are missing: gas: gas is not here" in err
    words = (*words, "--skip-missing", "--filter", "dataset=gas")
    code, _, err = call(*words, capsys=capsys)
    assert code == 3
    assert "nothing was run" in err


def test_a_run_of_which_nothing_applies_says_so(
    tmp_path: Path, tiny: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.run import local
    from benchmarks.run.process import record_of

    def skipped(cells: Any, directory: Path, *, on_outcome: Any, **_: Any) -> None:
        for cell in cells:
            on_outcome(local.Outcome(cell, record_of(cell, "skipped", "no library")))

    monkeypatch.setattr(local, "run_cells", skipped)
    code, _, err = call("run", tiny, "--out", tmp_path / "run", capsys=capsys)
    assert code == 1
    assert "nothing was measured: every cell was skipped" in err
    assert "no library" in err


def test_what_a_run_takes_is_told_by_earlier_records(
    tmp_path: Path, tiny: Path, capsys: Any
) -> None:
    from benchmarks.run.process import Pending, record_of

    words = ("run", tiny, "--out", tmp_path / "runs" / "new", "--dry-run", "--jobs", "1")
    assert "not known, there is no earlier record" in call(*words, capsys=capsys)[1]
    maf = load_matrix(str(tiny)).cells[1]
    # Of another budget: 10 steps took 2 of 5 seconds. Now 20 steps are to be taken.
    document = maf.model_dump()
    document["budget"]["steps"] = 10
    measured = {
        "steps": 10, "train_seconds": 2.0, "quality_stage_seconds": 4.0,
        "cost_stage_seconds": 1.0, "process_peak_bytes": 2**20,
    }  # fmt: skip
    pending = Pending(dimension=2, learning_rate=5e-3, measures=measured, data_hashes={})
    earlier = type(maf).model_validate(document)
    Store(tmp_path / "runs" / "old").write(record_of(earlier, "ok", pending=pending))
    _, out, _ = call(*words, capsys=capsys)
    assert "by earlier records for 1 of 2 cells: 7 s with 1 at once, 1 MiB of memory each" in out


def test_the_way_of_a_run_counts_parts_of_cells(tmp_path: Path, tiny: Path) -> None:
    import time
    from types import SimpleNamespace

    from benchmarks.run.forecast import Course

    cells = load_matrix(str(tiny)).cells
    store = Store(tmp_path)
    course = Course(store, cells, jobs=1)
    assert course.total == 4
    task = SimpleNamespace(cell=cells[0], stage="quality")
    item: Any = SimpleNamespace(task=task, started=time.monotonic() - 40)
    (tmp_path / "pending").mkdir()
    assert course.look([item]) == (0, None)
    store.write_progress(cells[0].key, {"used": 0.5})
    done, left = course.look([item])
    assert done == pytest.approx(0.475)
    # 40 seconds for 0.475 of a training; as much for the other, and nothing is known of the costs.
    assert left == pytest.approx(40 / 0.475 * (2 - 0.475), rel=0.01)
    course.ended(cells[0], well=True)
    done, left = course.look([])
    assert done == 2
    assert left == pytest.approx(40, abs=1)


@pytest.mark.slow
def test_a_run_goes_on_when_nobody_listens(tmp_path: Path, tiny: Path) -> None:
    """Its output goes into a pipe that is closed at once, and it has no standard error."""
    out = tmp_path / "run"
    tiny.write_text('measures = ["quality"]\n' + tiny.read_text())
    words = f"{sys.executable} -m benchmarks run {tiny} --out {out} --filter flow=maf"
    done = subprocess.run(
        ["bash", "-c", f"{words} 2>&1 | true; echo ${{PIPESTATUS[0]}}; {words} --force 2>&- >&-"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 0)
    assert Store(out).frame()["status"].tolist() == ["ok"]


@pytest.mark.slow
def test_a_disk_without_room_ends_a_run_in_words_and_loses_nothing(
    tmp_path: Path, tiny: Path
) -> None:
    """Files may be no larger than a record, which is less than the pictures' arrays."""
    words = ("run", tiny, "--out", tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
    )
    assert done.returncode == 1, done.stderr
    assert f"cannot write into {tmp_path / 'run'}" in done.stderr
    assert "Traceback" not in done.stderr
    assert Store(tmp_path / "run").frame().empty
    code, out, err = call(*words)
    assert code == 0, err
    assert "2 cells: 2 ok" in out


def test_describe_lists_what_is_allowed(capsys: Any) -> None:
    code, out, _ = call("describe", "ffjord", capsys=capsys)
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert "hutchinson | exact" in rows["trace"]
    assert "number > 0" in rows["atol"]
    assert "list of whole number > 0" in rows["hidden"]


def test_data_list_says_which_sets_share_a_download(capsys: Any) -> None:
    code, out, _ = call("data", "list", capsys=capsys)
    assert code == 0
    assert "one download serves bsds300, gas and hepmass" in out


def test_help_and_a_mistyped_command_import_no_torch() -> None:
    code = (
        "import sys; sys.argv[1:] = {words!r}.split(); from benchmarks.cli import main\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'numpy', 'pandas') if m in sys.modules])"
    )
    for words in ("--help", "run --help", "list flows --help", "rum", "run quick --typo"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(words=words)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.endswith("[]\n"), words


def test_more_rows_than_any_memory_holds_are_refused(tmp_path: Path, capsys: Any) -> None:
    matrix = tmp_path / "large.toml"
    rows = 'flows = ["maf"]\ndatasets = [{ name = "8gaussians", rows = 999999999999 }]'
    matrix.write_text(f'name = "large"\n[[study]]\n{rows}')
    code, _, err = call("run", matrix, "--out", tmp_path / "run", capsys=capsys)
    assert code == 2
    assert "rows = 999999999999 is more than 100000000" in err


@pytest.mark.parametrize("command", ["run", "choose"])
def test_hostile_data_end_with_exit_code_3(command: str, tmp_path: Path, capsys: Any) -> None:
    """A header that states a terabyte."""
    path = tmp_path / "my.npy"
    with path.open("wb") as stream:
        described = {"descr": "<f8", "fortran_order": False, "shape": (2**37, 1)}
        np.lib.format.write_array_header_1_0(stream, described)
        stream.write(bytes(800))
    matrix = tmp_path / "matrix.toml"
    matrix.write_text(
        'name = "hostile"\n[[study]]\nflows = ["realnvp"]\n'
        f'datasets = [{{ name = "table", path = "{path}" }}]\n'
    )
    given = matrix if command == "run" else path
    code, _, said = call(command, given, "--out", tmp_path / "out", capsys=capsys)
    assert code == 3
    assert "my.npy is no complete .npy file" in said


def test_a_corrupt_set_is_told_by_check_with_exit_code_3(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mnist.npz").write_bytes(b"PK")
    monkeypatch.setenv("FFJORD_BENCH_DATA", str(tmp_path))
    monkeypatch.setattr("datasets.files.folder.platformdirs.user_cache_dir", lambda name: tmp_path)
    code, _, said = call("check", "mnist", capsys=capsys)
    assert code == 3
    assert "mnist.npz" in said
