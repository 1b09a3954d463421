"""Commands on folders of records: `status`, `collect`, `report`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.cli.words import bytes_text, duration, filter_text, first_line, warn
from benchmarks.errors import StoreError
from benchmarks.text import printable

if TYPE_CHECKING:
    from benchmarks.store import LeftOut, Record, Store

__all__ = ["collect", "compare", "report", "status"]


_directory = click.argument("directory", type=click.Path(path_type=Path))
_directories = click.argument(
    "directories", nargs=-1, required=True, type=click.Path(path_type=Path)
)


def _existing(directory: Path) -> Store:
    from benchmarks.store import Store

    if not (directory / "cells").is_dir() and not (directory / "plan.json").is_file():
        raise StoreError(f"{directory} holds no records; `ffjord-bench run` makes them")
    return Store(directory)


@click.command()
@_directory
def status(directory: Path) -> int:
    """Show what is done, failed, running and left in DIRECTORY, and why."""
    from benchmarks.run.claims import holders
    from benchmarks.run.process import pending_stage
    from benchmarks.run.slurm import queue
    from benchmarks.store import STATUSES, Stale

    store = _existing(directory)
    records, left_out = store.records()
    stale = [item for item in left_out if isinstance(item, Stale)]
    plan = store.plan()
    known = {record.key for record in records} | {item.path.stem for item in left_out}
    left = [cell for cell in plan.cells if cell.key not in known] if plan else []
    taken = holders(store)
    running = [cell for cell in left if taken.get(cell.key) is True]
    lost = [cell for cell in left if taken.get(cell.key) is False]
    free = [cell for cell in left if cell.key not in taken]
    trained = [cell for cell in (*lost, *free) if pending_stage(store, cell) == "cost"]
    tasks = queue(store)
    counts = Counter(record.status for record in records)
    for name in STATUSES:
        if counts[name]:
            click.echo(f"{name:9} {counts[name]}")
    click.echo(f"{'running':9} {len(running)}")
    waiting = f" ({len(trained)} trained, to be timed)" if trained else ""
    if lost:
        click.echo(f"{'lost':9} {len(lost)} (what ran them has ended: the next to look goes on)")
    click.echo(f"{'queued' if tasks else 'left':9} {len(free)}{waiting}")
    if tasks:
        states = "; ".join(f"{number} {state}" for state, number in tasks.most_common())
        click.echo(f"{'tasks':9} {sum(tasks.values())} ({states})")
    elif tasks is None:
        click.echo(f"{'tasks':9} Slurm cannot be asked")
    if stale:
        click.echo(f"{'stale':9} {len(stale)}")
    for record in records:
        if record.status != "ok":
            reason = first_line(record.reason)
            click.echo(f"  {filter_text(record.cell)}: {record.status}: {reason}")
    for cell in running:
        click.echo(f"  {filter_text(cell)}: {_under_way(store.progress(cell.key))}")
    for item in stale:
        click.echo(f"  {filter_text(item.cell)}: stale: {item.why}")
    warn(left_out)
    return 0


def _under_way(found: dict[str, Any]) -> str:
    """How far a running cell is: ``training for 12 s, step 40 of 1000, validation 2.31 nats``."""
    from benchmarks.run.forecast import seconds_left

    def number(name: str) -> float | None:
        value = found.get(name)
        return value if isinstance(value, int | float) else None

    seconds, used = number("seconds"), number("used")
    at, step = number("at"), number("step")
    if seconds is None or at is None:
        return "running"
    elapsed = seconds + max(0.0, time.time() - at)
    if found.get("stage") == "cost":
        return f"timing, for {duration(elapsed)}"
    if step is None:
        return f"running, for {duration(elapsed)}"
    words = [f"training, for {duration(elapsed)}"]
    if rate := number("learning_rate"):
        words.append(f"at learning rate {rate:g}")
    steps = number("steps")
    words.append(f"step {step:.0f}" + (f" of {steps:.0f}" if steps is not None else ""))
    if (nll := number("validation_nll_nats")) is not None:
        words.append(f"validation {nll:.3f} nats")
    if used is not None and (left := seconds_left(used, seconds)) is not None:
        words.append(f"{duration(left)} left")
    return ", ".join(words)


@click.command()
@_directories
@click.option("--output", type=click.Path(path_type=Path), help="a file instead of standard output")
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    help="a folder, which gets records, curves and pictures of one seed instead; the collection "
    "that it held is replaced",
)
def collect(directories: Sequence[Path], output: Path | None, into: Path | None) -> int:
    """Write the records of DIRECTORIES as one CSV, a row a cell."""
    from benchmarks.store import frame_of, read_together

    stores = [_existing(directory) for directory in directories]
    if into is not None:
        if output is not None:
            raise click.UsageError("--output is a CSV, --into a folder: one of the two")
        return _collect_into(stores, into)
    records: dict[str, Record] = {}
    left_out: list[LeftOut] = []
    for found, odd in read_together(stores):
        left_out += odd
        for record in found:
            there = records.get(f"{record.key}{record.environment.get('machine')}")
            # Of one cell the record that ended well counts.
            if there is None or there.status != "ok":
                records[f"{record.key}{record.environment.get('machine')}"] = record
    text = frame_of([*records.values()]).to_csv(index=False)
    if output is None:
        click.echo(text, nl=False)
    else:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise StoreError(f"cannot write {output}: {error.strerror}") from error
    warn(left_out)
    return 0


def _collect_into(stores: Sequence[Store], target: Path) -> int:
    from benchmarks.collection import collect_into

    found = collect_into(stores, target)
    warn(found.left_out)
    if found.without_record:
        click.echo(f"{found.without_record} cells of the plan have no record", err=True)
    click.echo(f"{target}: {found.cells} records, {bytes_text(found.size_bytes)}")
    return 0


@click.command()
@click.argument("directories", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="folder of the report  [DIRECTORY/report]"
)
@click.option(
    "--figures",
    type=click.Path(path_type=Path),
    help="folder for each figure as an SVG of its own, beside those in the page",
)
@click.option(
    "--check",
    is_flag=True,
    help="write nothing; end with 1 if the report there is not what the records give",
)
def report(directories: Sequence[Path], out: Path | None, figures: Path | None, check: bool) -> int:
    """Write index.html with every figure, and tables, from the records of DIRECTORIES alone.

    Without DIRECTORIES, in a checkout of the project: results/report from all folders in
    results/reference, and the parts of README.md that are made from them.
    """
    from benchmarks.report import write_report
    from benchmarks.report.reference import Reference, report_differences

    if directories:
        stores = [_existing(directory) for directory in directories]
        target = out or directories[0] / "report"
    elif out is not None:
        raise click.UsageError("--out is for a report of DIRECTORIES: name some")
    else:
        reference = Reference(Path())
        target = reference.report
    if check:
        found = report_differences(stores, target) if directories else reference.differences()
        for difference in found:
            click.echo(printable(difference))
        if found:
            again = " ".join(["ffjord-bench report", *map(str, directories)])
            click.echo(f"{len(found)} differences: {again} makes it again", err=True)
        return 1 if found else 0
    summary = write_report(stores, target) if directories else reference.write()
    if figures is not None:
        try:
            figures.mkdir(parents=True, exist_ok=True)
            for name, svg in summary.figures.items():
                (figures / f"{name}.svg").write_text(svg, encoding="utf-8")
        except OSError as error:
            raise StoreError(f"cannot write figures into {figures}: {error.strerror}") from error
    for note in summary.notes:
        click.echo(f"note: {printable(note)}", err=True)
    click.echo(f"report: {target / 'index.html'}")
    return 0


@click.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="folder for a page with the table")
def compare(first: Path, second: Path, out: Path | None) -> int:
    """Compare the run in SECOND with that in FIRST, cell by cell.

    Ends with 1 if something became worse beyond the noise of the seeds.
    """
    from benchmarks.report.compare import compare as compare_runs
    from benchmarks.report.compare import write_comparison

    found = compare_runs(_existing(first), _existing(second))
    for word, sentences in (("worse", found.worse), ("better", found.better)):
        for sentence in sentences:
            click.echo(f"{word}: {printable(sentence)}")
    for note in found.table.notes[2:]:
        click.echo(f"note: {printable(note)}", err=True)
    click.echo(found.finding)
    if out is not None:
        click.echo(f"comparison: {write_comparison(found, out)}")
    return 1 if found.worse else 0
