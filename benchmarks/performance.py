"""``ffjord-bench perf``: this project's own speed, over its commits, by asv.

Thin over asv (https://asv.readthedocs.io), which checks out each commit, runs the suite in
``benchmarks/perf`` on it and keeps the results in ``results/asv``. Added here is what asv leaves to
its user: a name for the machine, a clean tree, a GPU that nobody else uses, a threshold for each
kind of benchmark, and an answer in words. ``asv.conf.json`` holds the settings of both.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.allocator import ALLOCATOR
from benchmarks.errors import BenchError

if TYPE_CHECKING:
    from benchmarks.performance_history import Change

__all__ = ["perf"]

CODE = ("flows", "datasets", "benchmarks", "asv.conf.json", "pyproject.toml")


class PerformanceError(BenchError):
    """asv cannot do what was asked; the message says why."""


# -- the checkout -----------------------------------------------------------------------------


# asv keeps the machine's description in the home folder and has no option for another folder of
# results; both are set here, so that neither the user's other projects nor a history are touched.
_LAUNCHER = """
import json, sys
import asv.config, asv.machine, asv.main
machine_file, changes = sys.argv.pop(1), json.loads(sys.argv.pop(1))
asv.machine.MachineCollection.get_machine_file_path = staticmethod(lambda: machine_file)
read = asv.config.Config.from_json
asv.config.Config.from_json = classmethod(lambda cls, document: read(document | changes))
asv.main.main()
"""


@dataclass(frozen=True)
class Project:
    """The checkout whose commits are measured.

    Attributes:
        root: the folder of ``asv.conf.json``.
    """

    root: Path

    @classmethod
    def here(cls) -> Project:
        """The checkout that the current folder lies in.

        Raises:
            PerformanceError: if there is none, or asv is not installed.
        """
        if importlib.util.find_spec("asv") is None:
            raise PerformanceError("asv is not installed: pip install 'ffjord-bench[perf]'")
        for folder in (Path.cwd(), *Path.cwd().parents):
            if (folder / "asv.conf.json").is_file() and (folder / ".git").exists():
                return cls(folder)
        raise PerformanceError("perf measures commits: call it in a git checkout of the project")

    @cached_property
    def config(self) -> Any:
        """The configuration of asv."""
        from asv.config import Config

        return Config.load(str(self.root / "asv.conf.json"))

    @property
    def results(self) -> Path:
        """Folder of the history that is kept."""
        return self.root / str(self.config.results_dir)

    @property
    def html(self) -> Path:
        """Folder of the published pages."""
        return self.root / str(self.config.html_dir)

    @property
    def scratch(self) -> Path:
        """Folder of what is not kept; git ignores it."""
        return self.root / ".asv"

    def git(self, *words: str) -> str:
        """Output of a git command.

        Raises:
            PerformanceError: with what git says, if it fails.
        """
        done = subprocess.run(
            ["git", *words], cwd=self.root, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PerformanceError(f"git {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def commit(self, name: str) -> str:
        """Full hash of a commit.

        Raises:
            PerformanceError: if there is no such commit.
        """
        try:
            return self.git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        except PerformanceError:
            raise PerformanceError(f"{name} is not a commit of {self.root}") from None

    def describe(self, commit: str) -> str:
        """Short hash and subject of a commit."""
        return self.git("log", "-1", "--format=%h (%s)", commit)

    def refuse_dirty(self) -> None:
        """Make sure that the code is that of a commit.

        Raises:
            PerformanceError: if there are uncommitted changes.
        """
        changed = self.git("status", "--porcelain", "--", *CODE).splitlines()
        if changed:
            named = ", ".join(line[2:].strip() for line in changed[:3])
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise PerformanceError(
                f"not committed: {named}{more}. asv measures commits, so the results would be "
                f"saved under {self.git('rev-parse', '--short', 'HEAD')} without these changes. "
                "Commit or stash them; `perf run --quick` runs the tree as it is and saves nothing"
            )

    def asv(
        self,
        command: str,
        *words: str,
        machine: Machine | None = None,
        results: Path | None = None,
    ) -> int:
        """Run asv and leave its output where it goes.

        Args:
            command: one of asv's.
            *words: what follows it.
            machine: whose results these are, for commands that measure.
            results: folder of the results; the history's if None.

        Returns:
            asv's exit code.
        """
        changes = {} if results is None else {"results_dir": str(results)}
        machine_file = self.scratch / "machine.json"
        if machine is not None:
            machine_file.parent.mkdir(exist_ok=True)
            machine_file.write_text(json.dumps({machine.name: machine.facts, "version": 1}))
            words = ("--machine", machine.name, *words)
        environment = {**ALLOCATOR, **os.environ}
        if machine is not None:
            from benchmarks.environment import matrix_products
            from flows.products import VARIABLE

            # Commits that are compared multiply by the same library.
            environment[VARIABLE] = matrix_products().setting
        if "existing" in words:
            # The working tree, whatever is installed.
            environment["ASV_PYTHONPATH"] = str(self.root)
        else:
            environment.pop("ASV_PYTHONPATH", None)
        sys.stdout.flush()
        return subprocess.run(
            [
                sys.executable,
                "-c",
                _LAUNCHER,
                str(machine_file),
                json.dumps(changes),
                command,
                *words,
            ],
            cwd=self.root,
            env=environment,
            check=False,
        ).returncode


# -- the machine ------------------------------------------------------------------------------


_PROBE = """
import json, torch
gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
print(json.dumps({"torch": torch.__version__, "gpu": gpu and gpu.name,
                  "uuid": gpu and str(getattr(gpu, "uuid", ""))}))
"""


@dataclass(frozen=True)
class Machine:
    """Where a history is measured. What differs here is never drawn as one line.

    Attributes:
        name: of the history; ends in the GPU's model where there is one.
        facts: as asv keeps them; no host name, no kernel.
        uuid: of the GPU; empty without one.
    """

    name: str
    facts: dict[str, str]
    uuid: str = ""

    @classmethod
    def here(cls, name: str | None) -> Machine:
        """The machine that runs this.

        Args:
            name: what to call it; by default after its cores.

        Raises:
            PerformanceError: if the name will not do, or torch is missing.
        """
        import platform

        import psutil

        from flows.processor import processor

        # In a process of its own: this one must not occupy the GPU while others are timed on it.
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PerformanceError(f"torch cannot be imported: {done.stderr.strip()}")
        found = json.loads(done.stdout)
        cores = os.cpu_count() or 1
        name = name or f"cpu-{cores}core"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise PerformanceError(
                f"machine name {name!r}: letters, digits, '.', '_' and '-' are allowed"
            )
        gpu = found["gpu"] or ""
        suffix = "-".join(re.findall(r"[a-z0-9]+", gpu.lower()))
        if suffix and not name.endswith(suffix):
            name = f"{name}-{suffix}"
        gib = round(psutil.virtual_memory().total / 2**30)
        facts = {
            "machine": name,
            "os": platform.system(),
            "arch": platform.machine(),
            "cpu": processor().label,
            "num_cpu": str(cores),
            "ram": f"{gib} GiB",
            "gpu": gpu or "none",
            "torch": found["torch"].partition("+")[0],
        }
        return cls(name, facts, found["uuid"] or "")

    @contextlib.contextmanager
    def watched(self) -> Iterator[Sharing]:
        """Watch the GPU while a block runs.

        Raises:
            PerformanceError: if somebody computes on it already.
        """
        sharing = Sharing()
        if self.facts["gpu"] == "none":
            yield sharing
            return
        if _processes_on(self.uuid) > 0:
            raise PerformanceError(
                f"another process computes on the {self.facts['gpu']}: times would be those of "
                "both, and are not saved. Run again when it is free"
            )
        done = threading.Event()

        def watch() -> None:
            while not done.wait(1.0):
                # One process is the benchmark that is running.
                sharing.seen |= _processes_on(self.uuid) > 1

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield sharing
        finally:
            done.set()
            thread.join()


@dataclass
class Sharing:
    """Whether anybody else computed on the GPU."""

    seen: bool = False


def _processes_on(uuid: str) -> int:
    """How many processes compute on the GPU, as far as the driver tells."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-compute-apps=gpu_uuid,pid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return sum(not uuid or uuid in line for line in lines)


# -- commands ---------------------------------------------------------------------------------


@click.group()
def perf() -> None:
    """Track this project's own speed over its commits, with asv."""


_bench = click.option(
    "--bench", multiple=True, metavar="REGEX", help="only benchmarks that match; repeatable"
)
_machine = click.option(
    "--machine",
    envvar="FFJORD_BENCH_MACHINE",
    help="name of this machine's history  [cpu-<cores>core]; a GPU's model is added",
)
_rounds = click.option(
    "--rounds", type=click.IntRange(1), help="how often the times are taken anew  [suite: 3]"
)


@perf.command()
def check() -> int:
    """Import the suite and check every benchmark's arguments; run none."""
    project = Project.here()
    if project.asv("check", "-E", "existing"):
        raise PerformanceError("the suite does not import: see above")
    untracked = _untracked(project)
    if untracked:
        click.echo(
            f"not tracked: {', '.join(untracked)}; FAMILIES in benchmarks/perf/families.py and "
            "images.py says which flows are"
        )
    click.echo("the suite is in order")
    return 0


def _untracked(project: Project) -> list[str]:
    """Systems of the catalog, other libraries' apart, of which the suite measures no entry."""
    import flows

    files = [project.root / "benchmarks/perf" / name for name in ("families.py", "images.py")]
    suite = "".join(file.read_text(encoding="utf-8") for file in files)
    own = [entry for entry in flows.ENTRIES.values() if "/" not in entry.name]
    tracked = {entry.config_class for entry in own if f'"{entry.name}"' in suite}
    return [entry.name for entry in own if entry.config_class not in tracked]


@perf.command()
@click.argument("commits", default="HEAD")
@_bench
@_machine
@_rounds
@click.option("--steps", type=click.IntRange(1), help="at most so many commits, evenly spread")
@click.option("--skip-existing", is_flag=True, help="leave out what was measured before")
@click.option(
    "--quick", is_flag=True, help="the tree as it is, each benchmark once; nothing is saved"
)
def run(
    commits: str,
    bench: Sequence[str],
    machine: str | None,
    rounds: int | None,
    steps: int | None,
    skip_existing: bool,
    quick: bool,
) -> int:
    """Measure COMMITS (one, or a range such as v1..HEAD) and keep the results.

    Exit code 1 if a benchmark failed.
    """
    project = Project.here()
    here = Machine.here(machine)
    words = [word for pattern in bench for word in ("--bench", pattern)]
    if rounds:
        words += ["--attribute", f"rounds={rounds}"]
    if quick:
        click.echo("the tree as it is, each benchmark once; nothing is saved")
        with tempfile.TemporaryDirectory() as unkept:
            code = project.asv(
                "run",
                *("-E", "existing", "--quick", "--show-stderr", *words),
                machine=here,
                results=Path(unkept),
            )
        return _ran(code)

    project.refuse_dirty()
    hashes = _range(project, commits)
    before = _measured(project.results, here.name)
    click.echo(
        f"extends the history of machine {here.name} ({len(before)} commits so far) in "
        f"{project.results.relative_to(project.root)}; {here.facts['cpu']}, GPU: "
        f"{here.facts['gpu']}"
    )
    _say_load()
    if steps:
        words += ["--steps", str(steps)]
    if skip_existing:
        words += ["--skip-existing"]
    # Results go into the history only when it is certain that nobody shared the device.
    staging = project.scratch / "staging"
    shutil.rmtree(staging, ignore_errors=True)
    if project.results.is_dir():
        shutil.copytree(project.results, staging)
    with _listed(hashes) as listed, here.watched() as sharing:
        words += ["--record-samples", f"HASHFILE:{listed}"]
        try:
            code = project.asv("run", *words, machine=here, results=staging)
        except KeyboardInterrupt:
            if not sharing.seen:
                _keep(staging, project.results, here)
            raise
    if sharing.seen:
        raise PerformanceError(_shared(here))
    _keep(staging, project.results, here)
    after = _measured(project.results, here.name)
    click.echo(f"machine {here.name} has a history of {len(after)} commits now; commit it")
    return _ran(code)


def _range(project: Project, text: str) -> list[str]:
    """Commits of a range, or the one of that name.

    Raises:
        PerformanceError: if git knows no such commits.
    """
    if ".." not in text and "^" not in text:
        return [project.commit(text)]
    found = project.git("rev-list", "--first-parent", text).split()
    if not found:
        raise PerformanceError(f"there is no commit in {text}")
    return found


@contextlib.contextmanager
def _listed(hashes: Sequence[str]) -> Iterator[str]:
    """A file of hashes, which asv reads."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(hashes) + "\n")
        file.flush()
        yield file.name


def _measured(results: Path, machine: str) -> set[str]:
    return {path.name.split("-")[0] for path in (results / machine).glob("*-*.json")}


def _keep(source: Path, target: Path, machine: Machine) -> None:
    """Bring one machine's results, and what describes the benchmarks, into the history."""
    if not (source / machine.name).is_dir():
        return
    shutil.copytree(source / machine.name, target / machine.name, dirs_exist_ok=True)
    if (source / "benchmarks.json").is_file():
        shutil.copyfile(source / "benchmarks.json", target / "benchmarks.json")


def _shared(machine: Machine) -> str:
    return (
        f"another process computed on the {machine.facts['gpu']} meanwhile: nothing was saved. "
        "Run again when it is free"
    )


def _say_load() -> None:
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > 0.5 * cores:
        click.echo(
            f"other work is running here (load {load:.1f} on {cores} cores). Times on the CPU are "
            "processor times and leave it out, but caches are shared: expect more spread"
        )


def _ran(code: int) -> int:
    if code == 2:
        click.echo("some benchmarks failed: see above", err=True)
        return 1
    if code:
        raise PerformanceError("asv ended with an error: see above")
    return 0


@perf.command()
@click.argument("base")
@click.argument("head", default="HEAD")
@_bench
@_machine
@_rounds
@click.option("--save", is_flag=True, help="add the results of both commits to the history")
def continuous(
    base: str,
    head: str,
    bench: Sequence[str],
    machine: str | None,
    rounds: int | None,
    save: bool,
) -> int:
    """Compare commit HEAD with BASE, measured in turns; exit code 1 if it is worse.

    Worse: by more than the benchmark's threshold in asv.conf.json, in the median and in the best
    sample, and again when what looked different is measured a second time by itself.
    """
    from benchmarks import performance_history as history

    project = Project.here()
    project.refuse_dirty()
    here = Machine.here(machine)
    hashes = {"base": project.commit(base), "head": project.commit(head)}
    if hashes["base"] == hashes["head"]:
        raise PerformanceError(f"{base} and {head} are the same commit")
    click.echo(f"base: {project.describe(base)}\nhead: {project.describe(head)}")
    _say_load()

    def measure(name: str, patterns: Sequence[str], rounds: int | None) -> list[Change]:
        folder = project.scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        words = [word for pattern in patterns for word in ("--bench", pattern)]
        if rounds:
            words += ["--attribute", f"rounds={rounds}"]
        with _listed([hashes["head"], hashes["base"]]) as listed, here.watched() as sharing:
            code = project.asv(
                "run",
                *("--record-samples", "--interleave-rounds", *words, f"HASHFILE:{listed}"),
                machine=here,
                results=folder,
            )
        if sharing.seen:
            raise PerformanceError(_shared(here))
        if code == 2:
            click.echo("some benchmarks failed: see above", err=True)
        elif code:
            raise PerformanceError("asv ended with an error: see above")
        return history.changes(
            history.read(folder, here.name, hashes["base"]),
            history.read(folder, here.name, hashes["head"]),
            history.Thresholds(project.config.regressions_thresholds),
        )

    found = measure("continuous", bench, rounds)
    suspects = [change for change in found if change.series.is_time]
    if suspects:
        click.echo(f"{len(suspects)} times look different: measured once more by themselves")
        again = {
            (change.series, change.worse): change
            for change in measure("again", [c.series.pattern for c in suspects], (rounds or 3) + 1)
        }
        kept = [again[c.series, c.worse] for c in suspects if (c.series, c.worse) in again]
        found = [change for change in found if change not in suspects] + kept
    if save:
        project.results.mkdir(parents=True, exist_ok=True)
        _keep(project.scratch / "continuous", project.results, here)
        click.echo(f"both commits are in the history of machine {here.name} now")
    return _verdict(project, found, hashes, base, head)


def _verdict(
    project: Project, found: Sequence[Change], hashes: dict[str, str], base: str, head: str
) -> int:
    worse = sorted((c for c in found if c.worse), key=lambda c: -c.ratio)
    for change in sorted((c for c in found if not c.worse), key=lambda c: c.ratio):
        click.echo(f"better: {change.sentence()}")
    if not worse:
        click.echo("no regression past the thresholds")
        return 0
    click.echo(f"\n{len(worse)} regressions past the thresholds, the worst first:")
    for change in worse:
        click.echo(f"  {change.sentence()}")
    from benchmarks.performance_history import explain

    click.echo("\nwhat these benchmarks do:")
    for name in dict.fromkeys(change.series.benchmark for change in worse):
        click.echo(f"  {name}: {explain(name, project.root / 'benchmarks/perf')}")
    between = project.git("rev-list", f"{hashes['base']}..{hashes['head']}").split()
    if len(between) > 1:
        click.echo(f"\n{len(between)} commits lie between; `git bisect` with this finds the one:")
    else:
        click.echo("\nto look at it again:")
    click.echo(f"  ffjord-bench perf continuous {base} {head} --bench '{worse[0].series.pattern}'")
    return 1


@perf.command()
@click.option(
    "--picture", type=click.Path(path_type=Path), help="an SVG of the history's main lines, too"
)
def publish(picture: Path | None) -> int:
    """Make pages of the history: asv's own, and one page that needs no network."""
    from benchmarks import performance_history as history

    project = Project.here()
    lines = history.load(project.results, _order(project))
    if not lines:
        raise PerformanceError(
            f"there is no history in {project.results} of commits before HEAD; `perf run` makes one"
        )
    if project.asv("publish"):
        raise PerformanceError("asv ended with an error: see above")
    subjects = {c: project.describe(c) for c in {p.commit for line in lines for p in line.points}}
    thresholds = history.Thresholds(project.config.regressions_thresholds)
    page = project.html / "summary.html"
    page.write_text(history.page(lines, subjects, thresholds), encoding="utf-8")
    if picture is not None:
        history.draw(lines, picture)
        click.echo(f"picture: {picture}")
    click.echo(f"asv's pages, which load scripts from the network: {project.html / 'index.html'}")
    click.echo(f"one page that needs no network: {page}")
    return 0


def _order(project: Project) -> dict[str, int]:
    """Commits before HEAD to their place, the oldest first."""
    commits = project.git("rev-list", "--topo-order", "--reverse", "HEAD").split()
    return {commit: place for place, commit in enumerate(commits)}
