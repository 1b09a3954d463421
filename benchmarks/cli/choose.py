"""The command `choose`: which flow fits a table of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.cli.run import device_named, jobs_for, run_matrix
from benchmarks.cli.words import table
from benchmarks.errors import DataUnavailable, RunStopped
from benchmarks.text import printable

__all__ = ["choose"]


@click.command()
@click.argument("path", metavar="TABLE", type=click.Path(path_type=Path))
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    default=10,
    show_default=True,
    help="that it may take, about, on a machine that does nothing else",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="folder  [results/runs/choose-TABLE's name]"
)
@click.option("--seeds", "seeds_text", default="0", show_default=True, help="such as 0-2")
@click.option(
    "--missing",
    type=click.Choice(["refuse", "drop"]),
    default="refuse",
    show_default=True,
    help="rows with a value that is missing or infinite",
)
@click.option(
    "--dequantise/--no-dequantise",
    default=True,
    show_default=True,
    help="add noise to discrete columns, or refuse them",
)
@click.option("--drop-column", "drop_columns", multiple=True, help="leave it out; may be repeated")
@click.option("--array", help="which array of a file that holds several")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="cpu", show_default=True
)
@click.option("--jobs", type=click.IntRange(1), help="flows trained at once  [cores; 1 a GPU]")
def choose(
    path: Path,
    minutes: float,
    out: Path | None,
    seeds_text: str,
    missing: str,
    dequantise: bool,
    drop_columns: Sequence[str],
    array: str | None,
    device: str,
    jobs: int | None,
) -> int:
    """Train the flows of vectors on TABLE for equal time, and say which one fits best.

    TABLE is a CSV, TSV, Parquet, NPY, NPZ or HDF5 file, a row a datum; `ffjord-bench describe
    table` says what is done to it. A tenth of its rows validates, a tenth tests. The same command
    goes on where an earlier one was interrupted.
    """
    from benchmarks.run import server

    # As `run` does.
    click.get_current_context().with_resource(server.ahead())

    import datasets
    from benchmarks.choose import TRAINING_PART, check, contestants, document
    from benchmarks.matrix import matrix_of
    from benchmarks.select import parse_seeds
    from benchmarks.store import Store

    chosen = device_named(device)
    seeds = parse_seeds(seeds_text)
    given = {"missing": missing, "dequantise": dequantise, "drop_columns": list(drop_columns)}
    options: dict[str, Any] = {"path": str(path), **given}
    if array is not None:
        options["array"] = array
    try:
        data = datasets.load("table", **options)
        check(data, str(path))
    except datasets.DataError as error:
        raise DataUnavailable(_with_flags(str(error))) from error
    jobs = jobs or jobs_for(chosen)
    cells = len(contestants()) * len(seeds)
    # In figures that a person would write, since they stand in the keys.
    seconds = float(f"{60 * minutes * TRAINING_PART * min(jobs, cells) / cells:.2g}")
    found = document(data, options, seconds, seeds)
    resolved = matrix_of(found, f"choose {path}", device=chosen)
    store = Store(out or Path("results/runs") / f"choose-{path.name.partition('.')[0]}")
    click.echo(
        f"{len(data.train):,} / {len(data.validation):,} / {len(data.test):,} rows of "
        f"{data.dimension} columns to train, validate and test; {len(resolved.cells)} trainings of "
        f"{seconds:g} s, {jobs} at once"
    )
    for remark in data.remarks:
        click.echo(f"  {printable(remark)}")
    code = run_matrix(resolved, resolved.cells, store, jobs=jobs, keep_weights=True)
    _answer(data, store, {cell.key for cell in resolved.cells})
    return code


_FLAGS = {
    "missing = ": "--missing drop",
    "dequantise = ": "--dequantise",
    "drop_columns = ": "--drop-column NAME",
}


def _with_flags(message: str) -> str:
    """What is said of the data set's options, with the flags that stand for them here."""
    flags = [flag for option, flag in _FLAGS.items() if option in message]
    return f"{message} (here {', '.join(flags)})" if flags else message


def _answer(data: Any, store: Any, keys: set[str]) -> None:
    """Keep the best flow, write the page, and say what both hold.

    Raises:
        RunStopped: if no flow gave a result.
    """
    from benchmarks import choose
    from benchmarks.report import write_report
    from benchmarks.report.records import gather
    from benchmarks.report.table import as_text

    records = gather([store]).only(keys)
    if choose.keep_best(records, data, store) is None:
        raise RunStopped(
            f"no flow gave a result that can be compared; `ffjord-bench status {store.directory}` "
            "says why"
        )
    write_report([store], store.directory / "report")
    click.echo()
    for made in choose.table(records):
        table([made.columns, *map(as_text, made.sections[0].rows)])
    for text in (choose.finding(records), choose.usage(records)):
        click.echo(f"\n{text or ''}".rstrip())
    click.echo(f"\nreport: {store.directory / 'report' / 'index.html'}")
