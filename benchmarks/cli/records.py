"""Commands on folders of records: `status`, `collect`, `report`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks.cli.words import first_line, warn
from benchmarks.errors import StoreError

if TYPE_CHECKING:
    from benchmarks.store import Store

__all__ = ["collect", "report", "status"]


_directory = click.argument("directory", type=click.Path(path_type=Path))


def _existing(directory: Path) -> Store:
    from benchmarks.store import Store

    if not (directory / "cells").is_dir() and not (directory / "plan.json").is_file():
        raise StoreError(f"{directory} holds no records; `ffjord-bench run` makes them")
    return Store(directory)


@click.command()
@_directory
def status(directory: Path) -> int:
    """Show what is done, failed, running and left in DIRECTORY, and why."""
    from benchmarks.run.process import pending_stage
    from benchmarks.store import STATUSES, Stale

    store = _existing(directory)
    records, left_out = store.records()
    stale = [item for item in left_out if isinstance(item, Stale)]
    plan = store.plan()
    known = {record.key for record in records} | {item.path.stem for item in left_out}
    left = [cell for cell in plan.cells if cell.key not in known] if plan else []
    running = [cell for cell in left if store.is_running(cell.key)]
    trained = [
        cell for cell in left if cell not in running and pending_stage(store, cell) == "cost"
    ]
    counts = Counter(record.status for record in records)
    for name in STATUSES:
        if counts[name]:
            click.echo(f"{name:9} {counts[name]}")
    click.echo(f"{'running':9} {len(running)}")
    waiting = f" ({len(trained)} trained, to be timed)" if trained else ""
    click.echo(f"{'left':9} {len(left) - len(running)}{waiting}")
    if stale:
        click.echo(f"{'stale':9} {len(stale)}")
    for record in records:
        if record.status != "ok":
            click.echo(f"  {record.cell}: {record.status}: {first_line(record.reason)}")
    for cell in running:
        click.echo(f"  {cell}: running")
    for item in stale:
        click.echo(f"  {item.cell}: stale: {item.why}")
    warn(left_out)
    return 0


@click.command()
@_directory
@click.option("--output", type=click.Path(path_type=Path), help="a file instead of standard output")
def collect(directory: Path, output: Path | None) -> int:
    """Write the records of DIRECTORY as one CSV, a row a cell."""
    store = _existing(directory)
    _, left_out = store.records()
    text = store.frame().to_csv(index=False)
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
    warn(left_out)
    return 0


@click.command()
@click.argument("directories", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="folder of the report  [DIRECTORY/report]"
)
def report(directories: Sequence[Path], out: Path | None) -> int:
    """Write tables, figures and index.html from the records of DIRECTORIES, and nothing else."""
    from benchmarks.report import write_report

    stores = [_existing(directory) for directory in directories]
    target = out or directories[0] / "report"
    summary = write_report(stores, target)
    for note in summary.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"report: {target / 'index.html'}")
    return 0
