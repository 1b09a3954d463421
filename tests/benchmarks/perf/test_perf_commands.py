"""perf: what it says, what it refuses, and that it finds what slows the project down."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.perf import commands, machine
from benchmarks.perf.history import read
from benchmarks.perf.machine import Company, Machine
from benchmarks.perf.project import PerformanceError, Project
from flows.processor import processor
from flows.products import VARIABLE

ROOT = Path(__file__).resolve().parents[3]


def test_the_command_line_needs_neither_torch_nor_asv() -> None:
    code = "import sys, benchmarks.cli; sys.exit(bool({'torch', 'asv'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# -- the machine ------------------------------------------------------------------------------


def described(monkeypatch: pytest.MonkeyPatch, **gpu: str) -> None:
    """Answer the question for the environment; no process is started for it."""
    found = {
        "cpu_cores": 2,
        "platform": "Linux x86_64",
        "machine": "A CPU (6-143-8)",
        "memory_bytes": 8 * 2**30,
        "torch": "2.13.0+cu130",
        **gpu,
    }
    monkeypatch.setattr(machine, "_describe", lambda: (found, "1234", "mkl"))
    monkeypatch.setattr(machine, "ProcessPoolExecutor", lambda n, mp_context: ThreadPoolExecutor(n))


def test_the_machine_is_the_records_own() -> None:
    here = Machine.here(None)
    assert here.facts["cpu"] == processor().label
    assert here.facts["num_cpu"] == str(os.cpu_count())
    assert here.name.startswith(f"cpu-{os.cpu_count()}core")
    assert os.uname().nodename not in json.dumps(here.facts)
    assert here.environment[VARIABLE]


def test_histories_are_kept_apart_by_machine_and_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    described(monkeypatch)
    plain = Machine.here(None)
    assert plain.name == "cpu-2core"
    assert plain.facts["gpu"] == "none"
    described(monkeypatch, gpu="NVIDIA A100-SXM4")
    assert Machine.here("lab").name == "lab-nvidia-a100-sxm4"
    assert Machine.here("lab-nvidia-a100-sxm4").name == "lab-nvidia-a100-sxm4"
    assert Machine.here("lab").facts["torch"] == "2.13.0"
    with pytest.raises(PerformanceError, match=r"machine name '\.\./up'"):
        Machine.here("../up")


def test_a_shared_gpu_is_noticed_before_and_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Machine("lab", {"gpu": "NVIDIA A100"}, "1234")
    monkeypatch.setattr(machine, "gpu_processes", lambda uuid: 1)
    with pytest.raises(PerformanceError, match="another process computes"), lab.watched():
        raise AssertionError("it must not start")
    counts = iter([0, 1, 2])
    asked = machine.threading.Event()

    def processes(uuid: str) -> int:
        assert uuid == "1234"
        count = next(counts, None)
        if count is None:
            asked.set()
        return count or 0

    monkeypatch.setattr(machine, "gpu_processes", processes)
    with lab.watched() as company:
        assert not company.gpu
        assert asked.wait(20)
    assert company.gpu
    with Machine("cpu", {"gpu": "none"}).watched() as company:
        pass
    assert not company.gpu


# -- a repository made from this project --------------------------------------------------------


class Repository:
    """A git repository with this project's code, to commit into."""

    def __init__(self, root: Path) -> None:
        self.root = root
        ignore = shutil.ignore_patterns("__pycache__")
        for name in ("flows", "datasets", "benchmarks"):
            shutil.copytree(ROOT / name, root / name, ignore=ignore)
        for name in ("asv.conf.json", "pyproject.toml", ".gitignore"):
            shutil.copyfile(ROOT / name, root / name)
        self.git("init", "-q")
        self.git("add", "-A")
        self.commit("The project as it is")

    def git(self, *words: str) -> str:
        names = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        done = subprocess.run(
            ["git", *names, *words], cwd=self.root, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self, subject: str) -> str:
        self.git("commit", "-q", "--allow-empty", "-a", "-m", subject)
        return self.git("rev-parse", "HEAD")

    def append(self, path: str, code: str) -> None:
        with (self.root / path).open("a") as file:
            file.write(code)

    def perf(self, *words: str) -> tuple[int, str]:
        """The command as a user calls it: exit code and output."""
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", "perf", *words],
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("repository") / "project")


def test_a_dirty_tree_is_refused(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository.root / "flows")
    project = Project.here()
    assert project.root == repository.root
    project.refuse_dirty()
    (repository.root / "notes.txt").write_text("no code")
    project.refuse_dirty()
    for path in (repository.root / "flows/new.py", repository.root / "asv.conf.json"):
        before = path.read_text() if path.exists() else None
        path.write_text((before or "") + "\n")
        with pytest.raises(PerformanceError, match=rf"not committed: .*{path.name}"):
            project.refuse_dirty()
        path.unlink() if before is None else path.write_text(before)
    project.refuse_dirty()


def test_unknown_commits_and_places_are_refused(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository.root)
    with pytest.raises(PerformanceError, match="nowhere is not a commit"):
        Project.here().commit("nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PerformanceError, match="in a git checkout"):
        Project.here()


def result(folder: Path, torch: str, **results: int) -> None:
    """A file of results as asv writes it, as far as adding it to a history looks at it."""
    path = folder / "lab" / "0123-checkout.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"params": {"torch": torch}, "results": results}))


def test_results_are_added_to_those_of_other_benchmarks(tmp_path: Path) -> None:
    old, new = tmp_path / "history", tmp_path / "new"
    kept = old / "lab" / "0123-checkout.json"
    result(old, "2.12", a=1, b=1)
    result(new, "2.12", b=2, c=2)
    commands._keep(new, old)
    assert json.loads(kept.read_text())["results"] == {"a": 1, "b": 2, "c": 2}
    # A file holds the results of one machine alone.
    result(new, "2.13", c=3)
    commands._keep(new, old)
    assert json.loads(kept.read_text())["results"] == {"c": 3}


@pytest.mark.parametrize("end", ["well", "interrupted", "shared"])
def test_what_was_measured_is_kept_unless_the_gpu_was_shared(
    end: str, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    def measured(self: Project, here: Machine, results: Path, *words: Any) -> bool:
        result(results, "2.13", a=1)
        if end == "interrupted":
            raise KeyboardInterrupt
        return True

    lab = Machine("lab", {"gpu": "NVIDIA A100", "cpu": "some"}, "1234")
    monkeypatch.chdir(repository.root)
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls, name: lab))
    company = Company(gpu=end == "shared")
    monkeypatch.setattr(Machine, "watched", lambda self: contextlib.nullcontext(company))
    monkeypatch.setattr(Project, "measure", measured)
    answer = CliRunner().invoke(commands.perf, ["run"])
    history = repository.root / "results/asv"
    try:
        assert (history / "lab/0123-checkout.json").exists() == (end != "shared")
        if end == "shared":
            assert isinstance(answer.exception, PerformanceError)
            assert "nothing was saved" in str(answer.exception)
    finally:
        shutil.rmtree(history, ignore_errors=True)


@pytest.mark.slow
def test_the_suite_imports_and_its_quickest_form_runs(repository: Repository) -> None:
    code, output = repository.perf("check")
    assert code == 0, output
    assert "the suite is in order" in output
    code, output = repository.perf("run", "--quick")
    assert code == 0, output
    assert "failed" not in output
    assert not (repository.root / "results/asv").exists()


# Stands for a mistake in the code of a flow, whatever that code looks like today.
EXTRA_SOLVE = """

_log_prob = Flow.log_prob


def _twice(self, x, context=None, **options):
    _log_prob(self, x, context, **options)
    return _log_prob(self, x, context, **options)


Flow.log_prob = _twice
"""

LEAK = """

_loss = Flow.loss
_kept = []


def _remembers(self, x, *words, **options):
    _kept.append(x.repeat(64, 1))
    return _loss(self, x, *words, **options)


Flow.loss = _remembers
"""


@pytest.mark.slow
def test_regressions_are_found_on_real_commits_and_shown(repository: Repository) -> None:
    bench = [
        word
        for pattern in (
            r"Work.track_nfe\('ffjord', 2, 'nfe_log_prob'\)",
            r"Memory.track_peak_memory\('realnvp', 'cpu'\)",
            r"LogProb.time_log_prob\('ffjord', 16, 'cpu'\)",
        )
        for word in ("--bench", pattern)
    ]
    # Once each; a time that looks different is measured again anyway.
    bench += ["--rounds", "1"]
    own = Path.home() / ".asv-machine.json"
    before = own.read_bytes() if own.exists() else None
    base = repository.git("rev-parse", "HEAD")
    same = repository.commit("Nothing changes")
    code, output = repository.perf("continuous", base, same, "--save", *bench)
    assert code == 0, output
    assert "no regression past the thresholds" in output
    assert "(Nothing changes)" in output

    repository.append("flows/__init__.py", LEAK)
    repository.commit("A leak")
    repository.append("flows/__init__.py", EXTRA_SOLVE)
    repository.commit("An extra solve")
    code, output = repository.perf("continuous", same, "--save", *bench)
    assert code == 1, output
    assert "3 regressions past the thresholds" in output
    # The second solve has other noise, and so not quite the same number of steps.
    work = re.search(r"track_nfe \(flow = ffjord, .*, ([\d.]+) times as much", output)
    assert work is not None, output
    assert 1.6 < float(work[1]) < 2.4
    assert re.search(r"track_peak_memory \(flow = realnvp, .*MiB -> .*MiB", output)
    assert re.search(r"time_log_prob \(flow = ffjord, .*ms -> .*ms", output)
    assert "Network evaluations (NFE) of a density, a sample, both passes" in output
    assert "2 commits lie between" in output

    code, output = repository.perf("publish", "--picture", "results/asv/history.svg")
    assert code == 0, output
    text = (repository.root / ".asv/html/summary.html").read_text()
    regressions = text.partition("Regressions</th>")[2].partition("Gains</th>")[0]
    for name in ("track_nfe", "track_peak_memory", "time_log_prob"):
        assert regressions.count(name) == 1
    head = repository.git("rev-parse", "HEAD")
    assert regressions.count(f"{same[:7]} to {head[:7]}") == 3
    assert (repository.root / "results/asv/history.svg").stat().st_size > 1000

    # What is kept holds neither this machine's name nor a path of it.
    (kept,) = (repository.root / "results/asv").glob(f"*/{base[:8]}-*.json")
    assert os.uname().nodename not in kept.read_text()
    assert str(repository.root) not in kept.read_text()
    values = read(repository.root / "results/asv")
    assert len([value for value in values if value.commit == base]) == 3
    # asv's description of the user's machine is left alone.
    assert before == (own.read_bytes() if own.exists() else None)
