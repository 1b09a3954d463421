"""asv with the project's plugin: what it refuses, and that it finds what slows the project down."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from asv.machine import Machine
from asv.util import UserError

import benchmarks.environment
from benchmarks.allocator import ALLOCATOR
from benchmarks.perf import plugin
from flows.processor import processor
from flows.products import VARIABLE

ROOT = Path(__file__).resolve().parents[3]


def test_the_machine_is_the_records_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    facts = vars(Machine.load(interactive=True))
    assert facts["cpu"] == processor().label
    assert facts["machine"].startswith(f"cpu-{os.cpu_count()}core")
    assert os.uname().nodename not in json.dumps(facts)
    assert {VARIABLE, *ALLOCATOR} <= os.environ.keys()
    assert vars(Machine.load(machine_name="lab")) == {**facts, "machine": "lab"}


def test_a_shared_gpu_and_changed_code_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = object.__new__(plugin.Checkout)
    monkeypatch.setattr(checkout, "gpu", "1234")
    monkeypatch.setattr(benchmarks.environment, "gpu_processes", lambda uuid: int(uuid == "1234"))
    with pytest.raises(UserError, match="another process computes on the GPU"):
        checkout.run(["-c", "pass"])
    monkeypatch.setattr(benchmarks.environment, "git_state", lambda: {"git_dirty": True})
    checkout._python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    with pytest.raises(UserError, match="code is changed that is not committed"):
        checkout.create()


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

    def asv(self, *words: str, **variables: str) -> tuple[int, str]:
        """Run asv as a user does in a checkout that is installed: exit code and output."""
        done = subprocess.run(
            [sys.executable, "-m", "asv", *words],
            cwd=self.root,
            env={
                **os.environ,
                "FFJORD_BENCH_KERNELS": "off",
                "PYTHONPATH": str(self.root),
                **variables,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("repository") / "project")


# Stands for a mistake in the code of a flow, whatever that code looks like today.
# Several, so that their time tells on a busy machine as well.
EXTRA_SOLVES = """

_log_prob = Flow.log_prob


def _again(self, x, context=None, **options):
    for _ in range(7):
        _log_prob(self, x, context, **options)
    return _log_prob(self, x, context, **options)


Flow.log_prob = _again
"""

LEAK = """

_loss = Flow.loss
_kept = []


def _remembers(self, x, *words, **options):
    _kept.append(x.repeat(64, 1))
    return _loss(self, x, *words, **options)


Flow.loss = _remembers
"""


@pytest.mark.slow(seconds=40)
def test_regressions_are_found_on_real_commits_and_kept(repository: Repository) -> None:
    counted = (
        *("--bench", r"Work.track_nfe\('ffjord', 2, 'nfe_log_prob'\)"),
        *("--bench", r"Memory.track_peak_memory\('realnvp', 'cpu'\)"),
        # What stays as it is.
        *("--bench", r"Parameters.track_parameters\('nice', 2\)"),
    )
    timed = ("--bench", r"LogProb.time_log_prob\('ffjord', 16, 'cpu'\)")
    continuous = ("continuous", "--factor", "1.25", "--attribute", "rounds=1")
    own = Path.home() / ".asv-machine.json"
    before = own.read_bytes() if own.exists() else None
    base = repository.git("rev-parse", "HEAD")
    repository.append("flows/__init__.py", LEAK + EXTRA_SOLVES)
    worse = repository.commit("A leak and extra solves")
    code, output = repository.asv(*continuous, base, worse, *counted, *timed)
    assert code == 1, output
    changed = re.findall(r"^\| \+ .*\| (\S+?)\(", output, re.MULTILINE)
    assert {name.rpartition(".")[2] for name in changed} == {
        "track_nfe",
        "track_peak_memory",
        "time_log_prob",
    }, output

    # What is kept holds neither this machine's name nor a path of it.
    kept = list((repository.root / "results/asv").glob("*/*-torch*.json"))
    assert {path.name[:8] for path in kept} == {base[:8], worse[:8]}
    for path in kept:
        assert os.uname().nodename not in path.read_text()
        assert str(repository.root) not in path.read_text()
    # asv's description of the user's machine is left alone.
    assert before == (own.read_bytes() if own.exists() else None)
