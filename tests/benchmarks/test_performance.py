"""perf: what it says, what it refuses, and that it finds what slows the project down."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

import flows
from benchmarks import performance
from benchmarks.performance import Machine, PerformanceError, Project, Sharing
from benchmarks.performance_history import (
    Change,
    Line,
    Point,
    Series,
    Thresholds,
    changes,
    draw,
    explain,
    page,
    read,
    steps,
)
from benchmarks.report.style import looks
from flows.processor import processor

ROOT = Path(__file__).resolve().parent.parent.parent

# -- comparing --------------------------------------------------------------------------------

TIME = Series("families.LogProb.time_log_prob", ("flow",), ("'maf'",), "seconds", "1")
NFE = Series("families.Work.track_nfe", (), (), "evaluations", "1")
THRESHOLDS = Thresholds({".*track_nfe.*": 0.02, ".*time_.*": 0.25})


def point(value: float | None, best: float | None = None, commit: str = "c") -> Point:
    return Point(commit, value, value if best is None else best)


def compared(series: Series, old: Point, new: Point) -> list[Change]:
    return changes({series: old}, {series: new}, THRESHOLDS)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (point(1.0, 0.9), point(1.2, 1.1), []),  # within the threshold
        (point(1.0, 0.9), point(1.5, 0.95), []),  # the machine was busy for a while
        (point(1.0, 0.5), point(1.1, 0.9), []),  # a lucky sample before
        (point(1.0, 0.9), point(1.5, 1.3), [True]),
        (point(1.5, 1.3), point(1.0, 0.9), [False]),
        (point(1.5, 0.95), point(1.0, 0.9), []),
        (point(1.0), point(None), [True]),
        (point(None), point(1.0), [False]),
        (point(None), point(None), []),
    ],
)
def test_a_time_changes_in_median_and_best_sample(
    old: Point, new: Point, found: list[bool]
) -> None:
    assert [change.worse for change in compared(TIME, old, new)] == found


def test_each_kind_has_its_threshold() -> None:
    assert [c.worse for c in compared(NFE, point(100), point(103))] == [True]
    assert not compared(NFE, point(100), point(102))
    # Zero cannot be exceeded by a fraction of itself, so anything is more.
    assert [c.worse for c in compared(NFE, point(0), point(1))] == [True]
    other = Series(NFE.benchmark, (), (), NFE.unit, "2")
    assert not changes({NFE: point(1)}, {other: point(9)}, THRESHOLDS)


def test_a_regression_is_named_in_words() -> None:
    (change,) = compared(TIME, point(0.010), point(0.020))
    assert change.sentence() == (
        "families.LogProb.time_log_prob (flow = maf): 10 ms -> 20 ms, 2 times as much "
        "(threshold 1.25)"
    )
    (failed,) = compared(NFE, point(26), point(None))
    assert failed.sentence() == "families.Work.track_nfe fails; it gave 26 evaluations before"
    said = explain(TIME.benchmark, ROOT / "benchmarks/perf")
    assert re.fullmatch(r"Log-density of a batch.* \(benchmarks/perf/families.py:\d+\)", said)


def test_a_pattern_selects_one_series() -> None:
    full = "families.LogProb.time_log_prob('maf')"
    assert re.search(TIME.pattern, full)
    assert not re.search(TIME.pattern, full.replace("maf", "maf-mog"))
    assert not re.search(NFE.pattern, NFE.benchmark + "_other")
    assert "'" not in TIME.pattern


def test_the_page_shows_where_it_became_worse(tmp_path: Path) -> None:
    values = {"a" * 40: 0.010, "b" * 40: 0.011, "c" * 40: 0.022}
    points = tuple(Point(commit, value, value) for commit, value in values.items())
    line = Line("cpu-2core", "gpu none", TIME, points)
    assert [change.after.commit for change in steps(line, THRESHOLDS)] == ["c" * 40]
    # A blip is no step: the time is back at the next commit.
    blip = (points[0], Point("d" * 40, 0.02, 0.02), points[1])
    assert not steps(Line("cpu-2core", "gpu none", TIME, blip), THRESHOLDS)
    counted = Line("cpu-2core", "gpu none", NFE, blip)
    assert [change.worse for change in steps(counted, THRESHOLDS)] == [True, False]
    subjects = {commit: f"{commit[:7]} (what <{commit[0]}> did)" for commit in values}
    text = page([line], subjects, THRESHOLDS)
    regressions = text.partition("<h3>Regressions</h3>")[2].partition("<h3>Gains</h3>")[0]
    assert "11 ms -&gt; 22 ms" in regressions
    assert "between bbbbbbb (what &lt;b&gt; did) and ccccccc (what &lt;c&gt; did)" in regressions
    assert text.count("<circle") == 3
    assert text.count('class="worse"') == 2  # the list and the dot
    needs_nothing_else(text)
    draw([line], tmp_path / "one.svg")
    draw([line], tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_the_picture_has_the_units_and_looks_of_the_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = "families.Memory.track_peak_memory"
    lines = [
        Line(
            "cpu-2core",
            "gpu none",
            Series(memory, ("flow", "device"), (f"'{flow}'", "'cpu'"), "bytes", "1"),
            (Point("a" * 40, size * 2.0**20, size * 2.0**20),),
        )
        for size, flow in enumerate(("glow", "maf", "ffjord"), start=1)
    ]
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    draw(lines, tmp_path / "picture.svg")
    (axes,) = [axes for axes in drawn[0].axes if axes.get_lines()]
    assert axes.get_ylabel().endswith("[MiB]")
    assert {line.get_label(): float(line.get_ydata()[0]) for line in axes.get_lines()} == {
        "glow": 1.0,
        "maf": 2.0,
        "ffjord": 3.0,
    }
    shown = {line.get_label(): (line.get_color(), line.get_marker()) for line in axes.get_lines()}
    assert shown == {n: (x.colour, x.marker) for n, x in looks(["glow", "maf", "ffjord"]).items()}


def needs_nothing_else(html: str) -> None:
    """A page without scripts that loads nothing."""
    assert not re.search(r"<(script|link|img|iframe)|\b(src|href)\s*=|url\(|@import", html)


# -- the suite --------------------------------------------------------------------------------


def test_importing_the_suite_touches_no_cuda_and_names_known_flows() -> None:
    """Benchmarks are forked from a process that has imported it: CUDA there breaks them all."""
    code = (
        "import torch\n"
        "def touched(*_): raise AssertionError('CUDA was asked for')\n"
        "torch.cuda.is_available = torch.cuda._lazy_init = touched\n"
        "import flows\n"
        "from benchmarks.perf import common, continuous, families, harness, images, training\n"
        "assert {*families.FAMILIES, *images.FAMILIES} <= set(flows.ENTRIES)\n"
        "assert torch.get_num_threads() == 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr


def test_the_command_line_needs_neither_torch_nor_asv() -> None:
    code = "import sys, benchmarks.cli; sys.exit(bool({'torch', 'asv'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_other_code_than_the_commit_is_refused(tmp_path: Path) -> None:
    environment = {**os.environ, "ASV_ENV_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "import benchmarks.perf"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "flows comes from" in done.stderr
    assert "is being measured" in done.stderr


def test_every_benchmark_has_a_threshold_of_its_kind() -> None:
    from asv.util import load_json

    patterns = load_json(str(ROOT / "asv.conf.json"), js_comments=True)["regressions_thresholds"]
    names = [
        f"{path.stem}.{name}"
        for path in (ROOT / "benchmarks/perf").glob("*.py")
        for name in re.findall(r"def ((?:time|track)_\w+)", path.read_text())
    ]
    assert len(names) > 10
    for name in names:
        assert any(re.match(pattern, name) for pattern in patterns), name


def test_parameters_do_not_depend_on_the_machine() -> None:
    from benchmarks.perf import common

    assert common.DEVICES == ["cpu", "cuda"]
    if not torch.cuda.is_available():
        with pytest.raises(NotImplementedError, match="no CUDA device"):
            common.require_device("cuda")
    # A commit that lacks a flow leaves a gap in its line, not a failure.
    with pytest.raises(NotImplementedError, match="no flow 'later'"):
        common.build("later", 2, "cpu")
    planar = flows.build("planar", (2,))
    with pytest.raises(NotImplementedError, match="no density"):
        common.require_density(planar)


# -- the machine ------------------------------------------------------------------------------


def probed(monkeypatch: pytest.MonkeyPatch, gpu: str | None) -> None:
    """Answer the question for the GPU; torch is not asked."""
    answer = json.dumps({"torch": "2.13.0+cu130", "gpu": gpu, "uuid": "1234" if gpu else None})
    done = subprocess.CompletedProcess([], 0, answer, "")
    monkeypatch.setattr(performance.subprocess, "run", lambda *words, **options: done)


def test_histories_are_kept_apart_by_machine_and_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    probed(monkeypatch, None)
    plain = Machine.here(None)
    assert plain.name == f"cpu-{os.cpu_count()}core"
    assert plain.facts["gpu"] == "none"
    assert plain.facts["cpu"] == processor().label
    assert os.uname().nodename not in json.dumps(plain.facts)
    probed(monkeypatch, "NVIDIA A100-SXM4")
    assert Machine.here("lab").name == "lab-nvidia-a100-sxm4"
    assert Machine.here("lab-nvidia-a100-sxm4").name == "lab-nvidia-a100-sxm4"
    assert Machine.here("lab").facts["torch"] == "2.13.0"
    with pytest.raises(PerformanceError, match=r"machine name '\.\./up'"):
        Machine.here("../up")


def test_a_shared_gpu_is_noticed_before_and_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine("lab", {"gpu": "NVIDIA A100"}, "1234")
    monkeypatch.setattr(performance, "_processes_on", lambda uuid: 1)
    with pytest.raises(PerformanceError, match="another process computes"), machine.watched():
        raise AssertionError("it must not start")
    counts = iter([0, 1, 2])
    asked = performance.threading.Event()

    def processes(uuid: str) -> int:
        count = next(counts, 1)
        if count == 2:
            asked.set()
        return count

    monkeypatch.setattr(performance, "_processes_on", processes)
    with machine.watched() as sharing:
        assert not sharing.seen
        assert asked.wait(20)
    assert sharing.seen
    with Machine("cpu", {"gpu": "none"}).watched() as sharing:
        pass
    assert sharing == Sharing(seen=False)


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


def test_what_a_shared_gpu_gave_is_not_kept(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import contextmanager

    from click.testing import CliRunner

    machine = Machine("lab", {"gpu": "NVIDIA A100", "cpu": "some"}, "1234")

    @contextmanager
    def shared(self: Machine) -> object:
        yield Sharing(seen=True)

    def measured(self: Project, command: str, *words: str, **options: object) -> int:
        folder = options["results"]
        assert isinstance(folder, Path)
        (folder / "lab").mkdir(parents=True)
        (folder / "lab/0123-checkout.json").write_text("{}")
        return 0

    monkeypatch.chdir(repository.root)
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls, name: machine))
    monkeypatch.setattr(Machine, "watched", shared)
    monkeypatch.setattr(Project, "asv", measured)
    answer = CliRunner().invoke(performance.perf, ["run"])
    assert isinstance(answer.exception, PerformanceError)
    assert "nothing was saved" in str(answer.exception)
    assert not (repository.root / "results/asv").exists()


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
            r"Work.track_nfe\('ffjord', 2, 'log_prob'\)",
            r"Memory.track_peak_memory\('realnvp', 'cpu'\)",
            r"LogProb.time_log_prob\('ffjord', 16, 'cpu'\)",
        )
        for word in ("--bench", pattern)
    ]
    # Once each; a time that looks different is measured again anyway.
    bench += ["--rounds", "1"]
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
    assert "Network evaluations (NFE); a training step's are those of both passes" in output
    assert "2 commits lie between" in output

    code, output = repository.perf("publish", "--picture", "results/asv/history.svg")
    assert code == 0, output
    text = (repository.root / ".asv/html/summary.html").read_text()
    needs_nothing_else(text)
    regressions = text.partition("<h3>Regressions</h3>")[2].partition("<h3>Gains</h3>")[0]
    for name in ("track_nfe", "track_peak_memory", "time_log_prob"):
        assert name in regressions
    assert regressions.count("(An extra solve)") == 3
    assert regressions.count("between") == regressions.count("<li>") == 3
    assert (repository.root / "results/asv/history.svg").stat().st_size > 1000

    # What is kept holds neither this machine's name nor a path of it.
    (kept,) = (repository.root / "results/asv").glob(f"*/{base[:8]}-*.json")
    assert os.uname().nodename not in kept.read_text()
    assert str(repository.root) not in kept.read_text()
    assert len(read(repository.root / "results/asv", kept.parent.name, base)) == 3
