"""The command `run`: from a matrix to records."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from benchmarks.cli.words import first_line, print_stale, table, warn
from benchmarks.errors import DataUnavailable, Interrupted, MatrixError

if TYPE_CHECKING:
    from benchmarks.cell import Cell
    from benchmarks.run.local import Outcome
    from benchmarks.store import LeftOut, Record, Stale, Store

__all__ = ["run"]


@click.command()
@click.argument("matrix")
@click.option(
    "--out", type=click.Path(path_type=Path), help="folder of the records  [results/runs/MATRIX]"
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
@click.option(
    "--profile",
    type=click.Choice(["small", "full"]),
    help="of a study  [small on a CPU, full on a GPU]",
)
@click.option("--filter", "filter_text", default="", help="such as 'flow=ffjord,maf;dataset=power'")
@click.option("--seeds", "seeds_text", help="instead of the matrix's, such as 0-4")
@click.option(
    "--jobs", type=click.IntRange(1), help="cells trained at once  [cores / threads; 1 on a GPU]"
)
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), help="seconds for a stage of a cell"
)
@click.option("--limit", type=click.IntRange(1), help="run at most so many cells")
@click.option("--retry-failed", is_flag=True, help="run cells again that failed before")
@click.option("--force", is_flag=True, help="run every cell again")
@click.option("--dry-run", is_flag=True, help="show what would run, and run nothing")
def run(
    matrix: str,
    out: Path | None,
    device: str,
    profile: Literal["small", "full"] | None,
    filter_text: str,
    seeds_text: str | None,
    jobs: int | None,
    timeout: float | None,
    limit: int | None,
    retry_failed: bool,
    force: bool,
    dry_run: bool,
) -> int:
    """Run the cells of MATRIX (a name from `list studies`, or a .toml file).

    A cell that has a record is not run again, so an interrupted run goes on where it was. A stale
    record (of code with other versions) is replaced by a new one.
    """
    from benchmarks.matrix import load_matrix
    from benchmarks.select import filter_cells, parse_seeds
    from benchmarks.store import LeftOut, Store

    chosen = _device(device)
    seeds = parse_seeds(seeds_text) if seeds_text else None
    resolved = load_matrix(matrix, device=chosen, seeds=seeds, profile=profile)
    cells = filter_cells(resolved, filter_text)
    store = Store(out or Path("results/runs") / resolved.name)

    records: dict[str, Record] = {}
    left_out: list[LeftOut] = []
    to_run: list[Cell] = []
    for cell in cells:
        found = store.read(cell)
        if isinstance(found, LeftOut):
            left_out.append(found)
        elif found is None or force or (found.failed and retry_failed):
            to_run.append(cell)
        else:
            records[cell.key] = found
    to_run = to_run[:limit]
    stale = _stale(store)
    print_stale([item for cell in to_run for item in stale.get(cell.identity, ())])
    if dry_run:
        for cell in to_run:
            click.echo(f"{cell.key}  {cell}")
        click.echo(f"{len(to_run)} cells to run, {len(records)} have a record")
        return 0

    with store.lock():
        store.write_plan(resolved)
        _check_data(to_run)
        for cell in to_run:
            store.discard(cell)

        def on_outcome(outcome: Outcome) -> None:
            if outcome.record is None:
                assert outcome.left_out is not None
                left_out.append(outcome.left_out)
                return
            records[outcome.cell.key] = outcome.record
            for item in stale.get(outcome.cell.identity, ()):
                store.remove(item)

        jobs = jobs or _jobs(chosen, cells)
        _run_cells(to_run, len(records), store, jobs, timeout, on_outcome)
    _print_ratios([*records.values()])
    return _summarise(store, [*records.values()], left_out)


def _stale(store: Store) -> dict[str, list[Stale]]:
    """The stale records of a folder by the identity of their cells."""
    from benchmarks.store import Stale

    found: dict[str, list[Stale]] = {}
    for item in store.records()[1]:
        if isinstance(item, Stale):
            found.setdefault(item.cell.identity, []).append(item)
    return found


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise MatrixError(
            "--device cuda: torch sees no CUDA device here; see `ffjord-bench doctor`"
        )
    return name


def _jobs(device: str, cells: Sequence[Cell]) -> int:
    import os

    if device == "cuda" or not cells:
        return 1
    return max(1, (os.cpu_count() or 1) // cells[0].threads)


def _check_data(cells: Sequence[Cell]) -> None:
    """Load each data set once before anything runs: what is missing is said now, not in hours."""
    import datasets

    problems: dict[str, str] = {}
    for cell in {c.dataset_label: c for c in cells}.values():
        try:
            cell.dataset_config().load(cell.dataset)
        except datasets.DataError as error:
            problems[cell.dataset_label] = str(error)
    if problems:
        lines = [f"{label}: {why}" for label, why in problems.items()]
        raise DataUnavailable(
            "\n".join([*lines, "nothing was run; get the data, or leave them out with --filter"])
        )


def _run_cells(
    cells: Sequence[Cell],
    cached: int,
    store: Store,
    jobs: int,
    timeout: float | None,
    on_outcome: Callable[[Outcome], None],
) -> None:
    """Run cells and show how far they are."""
    from tqdm import tqdm

    from benchmarks.run.local import run_cells

    terminal = sys.stderr.isatty()
    finished = failed = 0
    with tqdm(
        total=len(cells), disable=not terminal, unit="cell", dynamic_ncols=True, desc="cells"
    ) as bar:

        def show(outcome: Outcome) -> None:
            nonlocal finished, failed
            on_outcome(outcome)
            finished += 1
            line = _outcome_line(outcome)
            bad = outcome.record is None or outcome.record.failed
            failed += bad
            if terminal:
                if bad:
                    bar.write(line, file=sys.stderr)
                bar.set_postfix(failed=failed, cached=cached)
                bar.update()
            else:
                click.echo(f"[{finished}/{len(cells)}] {line}", err=True)

        def on_stage(cell: Cell, stage: str) -> None:
            if stage == "cost" and terminal:
                bar.set_description("timing, alone on the machine")

        try:
            run_cells(
                cells,
                store.directory,
                jobs=jobs,
                timeout=timeout,
                on_outcome=show,
                on_stage=on_stage,
            )
        except KeyboardInterrupt:
            bar.close()
            raise Interrupted(
                f"interrupted: {finished} of {len(cells)} cells finished and kept in "
                f"{store.directory}; the same command goes on from there"
            ) from None


def _outcome_line(outcome: Outcome) -> str:
    record = outcome.record
    if record is None:
        assert outcome.left_out is not None
        return f"{outcome.cell}: {outcome.left_out.path}: {outcome.left_out.why}"
    if record.status != "ok":
        return f"{outcome.cell}: {record.status}: {first_line(record.reason)}"
    nll = record.measures.get("nll_nats")
    return f"{outcome.cell}: " + (f"{nll:.3f} nats" if isinstance(nll, float) else "ok")


def _summarise(store: Store, records: Sequence[Record], left_out: Sequence[LeftOut]) -> int:
    counts = Counter(record.status for record in records)
    text = ", ".join(f"{number} {status}" for status, number in counts.most_common())
    click.echo(f"{len(records)} cells: {text or 'none'}; records in {store.directory}")
    for record in records:
        if record.failed:
            click.echo(f"  {record.cell}: {record.status}: {first_line(record.reason)}", err=True)
    for record in records:
        if record.measures.get("learning_rate_at_edge"):
            rate = record.measures["learning_rate"]
            click.echo(
                f"  {record.cell}: the best learning rate, {rate:g}, is at the edge of its grid: "
                "one outside it may be better",
                err=True,
            )
    warn(left_out)
    return 1 if left_out or any(record.failed for record in records) else 0


def _print_ratios(records: Sequence[Record]) -> None:
    """The ratios to a reference, where a matrix asks for them: above 1, the reference is faster."""
    rows = []
    for record in records:
        found = record.measures
        if not found.get("reference"):
            continue
        cells = []
        for name in ("train_step", "log_prob", "sample"):
            ratio, low, high = (found.get(f"{name}_ratio{end}") for end in ("", "_q25", "_q75"))
            cells.append(f"{ratio:.2f} ({low:.2f} to {high:.2f})" if ratio is not None else "")
        for name in ("train_step", "log_prob"):
            limit = found.get(f"{name}_over_matmul")
            cells.append(f"{limit:.1f}" if limit is not None else "")
        compilation = found.get("compile_seconds")
        cells.append(f"{compilation:.1f} s" if compilation is not None else "")
        memory = found.get("peak_memory_ratio")
        cells.append(f"{memory:.2f}" if memory is not None else "")
        shared = "shared" if found.get("cost_shared") else ""
        steps = found.get("steps", record.cell.budget.steps)
        form = f"{record.form}, " + (f"trained {steps} steps" if steps else "untrained")
        batch = str(record.cell.budget.batch_size)
        contestant = (record.flow_label, form, record.dataset_label, batch, str(found["reference"]))
        rows.append((*contestant, *cells, shared))
    if rows:
        click.echo("time over the reference's: median (quartiles) of interleaved pairs")
        contestant = ("flow", "form", "dataset", "batch", "reference")
        times = ("training step", "density", "sample", "step over matmul", "density over matmul")
        table([(*contestant, *times, "compilation", "memory over reference", ""), *rows])
