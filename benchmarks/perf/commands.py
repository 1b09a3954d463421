"""The commands of ``ffjord-bench perf``.

Thin over asv (https://asv.readthedocs.io), which checks out each commit, runs the suite on it and
keeps the results in ``results/asv``. Added here is what asv leaves to its user: a name for the
machine, a clean tree, a GPU that nobody else uses, a threshold for each kind of benchmark, and an
answer in words. ``asv.conf.json`` holds the settings of both.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks.perf import history
from benchmarks.perf.project import PerformanceError, Project

# What needs torch is imported inside the commands, so that --help answers at once.
if TYPE_CHECKING:
    from benchmarks.perf.machine import Machine

__all__ = ["perf"]


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


def _words(bench: Sequence[str], rounds: int | None) -> list[str]:
    words = [word for pattern in bench for word in ("--bench", pattern)]
    return [*words, "--attribute", f"rounds={rounds}"] if rounds else words


@perf.command()
def check() -> int:
    """Import the suite and check every benchmark's arguments; run none."""
    project = Project.here()
    project.asv("check", "-E", "existing")
    click.echo("the suite is in order")
    return 0


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
    from benchmarks.perf.machine import Machine

    project = Project.here()
    words = _words(bench, rounds)
    if quick:
        click.echo("the tree as it is, each benchmark once; nothing is saved")
        with tempfile.TemporaryDirectory() as unkept:
            words += ["--quick", "--show-stderr"]
            return 1 - _said(project.measure(Machine.here(machine), Path(unkept), words))

    project.refuse_dirty()
    hashes = project.commits(commits)
    here = Machine.here(machine)
    where = f"the history of machine {here.name} in {project.config.results_dir}"
    click.echo(f"adds to {where}; {here.facts['cpu']}, GPU: {here.facts['gpu']}")
    if steps:
        words += ["--steps", str(steps)]
    if skip_existing:
        words += ["--skip-existing"]
    worked = _measure(project, here, "run", words, hashes, keep=True, known=skip_existing)
    click.echo(f"added to {where}; commit it")
    return 1 - worked


def _measure(
    project: Project,
    here: Machine,
    name: str,
    words: Sequence[str],
    commits: Sequence[str],
    *,
    keep: bool,
    known: bool = False,
) -> bool:
    """Measure commits into a scratch folder of that name; whether all benchmarks worked.

    With ``keep`` the results go into the history, however asv ends; with ``known`` asv sees what is
    there already. Raises PerformanceError, and keeps nothing, if others used the GPU meanwhile.
    """
    folder = project.scratch / name
    shutil.rmtree(folder, ignore_errors=True)
    if known and project.results.is_dir():
        shutil.copytree(project.results, folder)
    with here.watched() as company:
        try:
            worked = project.measure(here, folder, words, commits)
        finally:
            if company.gpu:
                raise PerformanceError(
                    f"another process computed on the {here.facts['gpu']} meanwhile: nothing was "
                    "saved. Run again when it is free"
                )
            if keep:
                _keep(folder, project.results)
    if company.cpu:
        click.echo(
            "other processes worked here meanwhile. Times on the CPU are processor times and leave "
            "theirs out, but caches are shared: expect more spread"
        )
    return _said(worked)


def _keep(folder: Path, history: Path) -> None:
    """Add results to a history; what it holds of other benchmarks on the same commits stays."""
    from asv.util import load_json, write_json

    for path in folder.rglob("*.json"):
        target = history / path.relative_to(folder)
        new = load_json(str(path))
        old = load_json(str(target)) if target.exists() else {}
        # A file of results is of one machine: those of another torch, say, are replaced.
        if "results" in old and old["params"] == new["params"]:
            new["results"] = old["results"] | new["results"]
            write_json(str(target), new, compact=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _said(worked: bool) -> bool:
    if not worked:
        click.echo("some benchmarks failed: see above", err=True)
    return worked


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
    from benchmarks.perf.machine import Machine

    project = Project.here()
    project.refuse_dirty()
    before, after = project.commit(base), project.commit(head)
    if before == after:
        raise PerformanceError(f"{base} and {head} are the same commit")
    click.echo(f"base: {project.describe(before)}\nhead: {project.describe(after)}")
    here = Machine.here(machine)

    def compare(name: str, words: Sequence[str], *, keep: bool) -> list[history.Change]:
        words = ["--interleave-rounds", *words]
        _measure(project, here, name, words, [after, before], keep=keep)
        values = history.read(project.scratch / name)
        return history.changes(
            [value for value in values if value.commit == before],
            [value for value in values if value.commit == after],
            project.config.regressions_thresholds,
        )

    found = compare("continuous", _words(bench, rounds), keep=save)
    suspects = [change for change in found if change.after.is_time]
    if suspects:
        click.echo(f"{len(suspects)} times look different: measured once more by themselves")
        patterns = [change.after.pattern for change in suspects]
        again = compare("again", _words(patterns, (rounds or 3) + 1), keep=False)
        looked = {(change.after.line, change.worse) for change in suspects}
        kept = [change for change in again if (change.after.line, change.worse) in looked]
        found = [change for change in found if change not in suspects] + kept
    if save:
        click.echo(f"both commits are in the history of machine {here.name} now")
    worse, better = history.sorted_by_size(found)
    for change in better:
        click.echo(f"better: {change.sentence()}")
    if not worse:
        click.echo("no regression past the thresholds")
        return 0
    click.echo(f"\n{len(worse)} regressions past the thresholds, the worst first:")
    for change in worse:
        click.echo(f"  {change.sentence()}")
    click.echo("\nwhat these benchmarks do:")
    for name in dict.fromkeys(change.after.benchmark for change in worse):
        click.echo(f"  {name}: {history.explain(name, project.suite)}")
    between = len(project.git("rev-list", f"{before}..{after}").split())
    if between > 1:
        click.echo(f"\n{between} commits lie between; `git bisect` with this finds the one:")
    else:
        click.echo("\nto look at it again:")
    click.echo(f"  ffjord-bench perf continuous {base} {head} --bench '{worse[0].after.pattern}'")
    return 1


@perf.command()
@click.option(
    "--picture", type=click.Path(path_type=Path), help="an SVG of the history's main lines, too"
)
def publish(picture: Path | None) -> int:
    """Make pages of the history: asv's own, and one page that needs no network."""
    from benchmarks.perf import page

    project = Project.here()
    order = project.git("rev-list", "--topo-order", "--reverse", "HEAD").split()
    values = [value for value in history.read(project.results) if value.commit in set(order)]
    if not values:
        raise PerformanceError(
            f"there is no history in {project.results} of commits before HEAD; `perf run` makes one"
        )
    project.asv("publish")
    measured = {value.commit for value in values}
    subjects = {commit: project.describe(commit) for commit in order if commit in measured}
    thresholds = project.config.regressions_thresholds
    summary = page.write(values, subjects, thresholds, project.html)
    if picture is not None:
        shutil.copyfile(project.html / "summary.svg", picture)
        click.echo(f"picture: {picture}")
    click.echo(f"asv's pages, which load scripts from the network: {project.html / 'index.html'}")
    click.echo(f"one page that needs no network: {summary}")
    return 0
