"""The command `run`: from a matrix to records."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from benchmarks.cli.words import bytes_text, count, duration, first_line, print_stale, table, warn
from benchmarks.errors import DataUnavailable, Interrupted, MatrixError
from benchmarks.text import printable

if TYPE_CHECKING:
    from benchmarks.cell import Cell
    from benchmarks.matrix import Matrix
    from benchmarks.run.local import Outcome, Running
    from benchmarks.run.slurm import Resources
    from benchmarks.store import LeftOut, Record, Stale, Store

__all__ = ["device_named", "jobs_for", "run", "run_matrix"]

LINE_SECONDS = 60.0
"""Between two lines that say how far a run is, where there is no terminal."""


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
    "--jobs", type=click.IntRange(1), help="cells trained at once  [cores / threads; 1 a GPU]"
)
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), help="seconds for a stage of a cell"
)
@click.option("--limit", type=click.IntRange(1), help="run at most so many cells")
@click.option("--retry-failed", is_flag=True, help="run cells again that failed before")
@click.option("--force", is_flag=True, help="run every cell again")
@click.option("--skip-missing", is_flag=True, help="run what can be, where data are missing")
@click.option("--keep-weights", is_flag=True, help="keep the tested weights beside the records")
@click.option(
    "--engine",
    type=click.Choice(["local", "slurm"]),
    default="local",
    show_default=True,
    help="where cells run; tasks of Slurm share the folder",
)
@click.option(
    "--max-tasks",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="of Slurm, one GPU each",
)
@click.option("--partition", help="of Slurm  [the cluster's default]")
@click.option(
    "--time",
    "hours",
    type=click.FloatRange(0, min_open=True),
    default=4.0,
    show_default=True,
    help="hours after which a task of Slurm is queued again",
)
@click.option(
    "--sbatch", "more", multiple=True, metavar="NAME[=VALUE]", help="another option of sbatch"
)
@click.option("--dry-run", is_flag=True, help="show what would run and what it takes, run nothing")
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
    skip_missing: bool,
    keep_weights: bool,
    engine: Literal["local", "slurm"],
    max_tasks: int,
    partition: str | None,
    hours: float,
    more: Sequence[str],
    dry_run: bool,
) -> int:
    """Run the cells of MATRIX (a name from `list studies`, or a .toml file).

    A cell that has a record is not run again, and a training goes on from its checkpoint, so that
    an interrupted run goes on where it was. A stale record (of code with other versions) is
    replaced by a new one.

    With --engine slurm the cells are run by tasks of a cluster, a GPU each, which go on without
    this command; it ends when they are in the queue.
    """
    if engine == "local" and (partition or more):
        raise click.UsageError("--partition and --sbatch are Slurm's: say --engine slurm as well")
    if engine == "local" and not dry_run:
        # Before anything that takes its time to import: the two then load side by side.
        from benchmarks.run import server

        click.get_current_context().with_resource(server.ahead())

    from benchmarks.matrix import load_matrix
    from benchmarks.select import filter_cells, parse_seeds
    from benchmarks.store import Store

    resources = None
    if engine == "slurm":
        from benchmarks.run.slurm import Resources

        # The machine at which tasks are submitted has often no GPU.
        chosen: Any = "cuda" if device == "auto" else device
        options = (option.lstrip("-").partition("=") for option in more)
        others = {name: value if equals else True for name, equals, value in options}
        resources = Resources(max_tasks, hours, partition, others)
    else:
        chosen = device_named(device)
    seeds = parse_seeds(seeds_text) if seeds_text else None
    resolved = load_matrix(matrix, device=chosen, seeds=seeds, profile=profile)
    return run_matrix(
        resolved,
        filter_cells(resolved, filter_text),
        Store(out or Path("results/runs") / resolved.name),
        jobs=jobs,
        timeout=timeout,
        limit=limit,
        retry_failed=retry_failed,
        force=force,
        skip_missing=skip_missing,
        keep_weights=keep_weights,
        slurm=resources,
        dry_run=dry_run,
    )


def run_matrix(
    resolved: Matrix,
    cells: Sequence[Cell],
    store: Store,
    *,
    jobs: int | None = None,
    timeout: float | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    force: bool = False,
    skip_missing: bool = False,
    keep_weights: bool = False,
    slurm: Resources | None = None,
    dry_run: bool = False,
) -> int:
    """Run those of a matrix's cells that have no record, as the options of :func:`run` say.

    With ``slurm`` they are run by its tasks, after the call.

    Returns:
        The exit code.
    """
    from benchmarks.run.claims import holders, sweep
    from benchmarks.store import LeftOut

    there, odd = store.records()
    by_path: dict[Path, Record | LeftOut] = {store.path(found.cell): found for found in there}
    by_path |= {found.path: found for found in odd}
    records: dict[str, Record] = {}
    left_out: list[LeftOut] = []
    to_run: list[Cell] = []
    for cell in cells:
        found = by_path.get(store.path(cell))
        if isinstance(found, LeftOut):
            left_out.append(found)
        elif found is None or force or (found.failed and retry_failed):
            to_run.append(cell)
        else:
            records[cell.key] = found
    to_run = to_run[:limit]
    stale = _stale(odd)
    print_stale([item for cell in to_run for item in stale.get(cell.identity, ())])
    missing = _missing_data(to_run)
    device, threads = (cells[0].device, cells[0].threads) if cells else ("cpu", 1)
    gpus = _gpus(device)
    at_once = jobs or jobs_for(device, threads)
    if slurm is not None:
        at_once = min(slurm.tasks * (jobs or 1), max(1, len(to_run)))
    if dry_run:
        for cell in to_run:
            click.echo(f"{cell.key}  {printable(str(cell))}")
        click.echo(f"{len(to_run)} cells to run, {len(records)} have a record")
        _print_needs(to_run, store, there, at_once)
        for label, why in missing.items():
            number = sum(cell.dataset_label == label for cell in to_run)
            click.echo(f"missing, {count(number, 'cell')}: {label}: {why}", err=True)
        return 0
    to_run = _with_data(to_run, missing, skip_missing)

    with store.lock():
        store.clean()
        sweep(store, {*records})
        store.write_plan(resolved)
        taken = holders(store)
        for cell in to_run:
            if not taken.get(cell.key):
                store.discard(cell)
        if slurm is not None and to_run:
            from benchmarks.run.slurm import submit, work_of

            work = work_of(store, jobs=jobs, timeout=timeout, keep_weights=keep_weights)
            click.echo(submit(to_run, store, work, slurm))
            click.echo(f"`ffjord-bench status {store.directory}` says how far they are")
            return 0

        def on_outcome(outcome: Outcome) -> None:
            if outcome.record is None:
                assert outcome.left_out is not None
                left_out.append(outcome.left_out)
                return
            records[outcome.cell.key] = outcome.record
            for item in stale.get(outcome.cell.identity, ()):
                store.remove(item)

        settings = {"jobs": at_once, "timeout": timeout, "gpus": gpus, "keep_weights": keep_weights}
        _run_cells(to_run, len(records), store, settings, on_outcome)
    _print_ratios([*records.values()])
    return _summarise(store, [*records.values()], left_out, len(missing))


def _stale(left_out: Sequence[LeftOut]) -> dict[str, list[Stale]]:
    """The stale records of a folder by the identity of their cells."""
    from benchmarks.store import Stale

    found: dict[str, list[Stale]] = {}
    for item in left_out:
        if isinstance(item, Stale):
            found.setdefault(item.cell.identity, []).append(item)
    return found


def device_named(name: str) -> Any:
    """``cpu`` or ``cuda``, as ``--device`` says.

    Raises:
        MatrixError: if there is no CUDA device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise MatrixError(
            "--device cuda: torch sees no CUDA device here; see `ffjord-bench doctor`"
        )
    return name


def _gpus(device: str) -> list[str]:
    from benchmarks.run.local import visible_gpus

    return visible_gpus() if device == "cuda" else []


def jobs_for(device: str, threads: int = 1) -> int:
    """How many cells train at once unless somebody says otherwise: cores / threads; 1 a GPU."""
    import os

    return len(_gpus(device)) or max(1, (os.cpu_count() or 1) // threads)


def _missing_data(cells: Sequence[Cell]) -> dict[str, str]:
    """Load what is read from files before anything runs: what is missing is said now, not in hours.

    Returns:
        The data sets that cannot be loaded, by their labels, and why.
    """
    import datasets
    from datasets.sampling import SampledConfig

    problems: dict[str, str] = {}
    for cell in {c.dataset_label: c for c in cells}.values():
        config = cell.dataset_config()
        # Of what is drawn nothing can be missing.
        if isinstance(config, SampledConfig):
            continue
        try:
            config.load(cell.dataset)
        except datasets.DataError as error:
            problems[cell.dataset_label] = str(error)
    return problems


def _with_data(cells: Sequence[Cell], missing: dict[str, str], skip: bool) -> list[Cell]:
    """The cells whose data are there; an error if some are not and may not be left out."""
    kept = [cell for cell in cells if cell.dataset_label not in missing]
    lines = [f"{label}: {why}" for label, why in missing.items()]
    if missing and (not skip or not kept):
        advice = "nothing was run; get the data, or leave them out with --skip-missing or --filter"
        raise DataUnavailable("\n".join([*lines, advice]))
    for line in lines:
        click.echo(f"left out, its data are missing: {printable(line)}", err=True)
    return kept


def _print_needs(cells: Sequence[Cell], store: Store, there: Sequence[Record], jobs: int) -> None:
    """Hours, memory and disk by earlier records, in this folder and those beside it."""
    from benchmarks.run.forecast import needs_of
    from benchmarks.store import Store

    beside = store.directory.parent
    folders = sorted(path.parent for path in beside.glob("*/cells")) if beside.is_dir() else []
    others = [Store(folder) for folder in folders if folder != store.directory]
    earlier = ((other, other.records()[0]) for other in others)
    needs = needs_of(cells, [*earlier, (store, there)])
    if not needs.known:
        click.echo("time, memory and disk: not known, there is no earlier record of these flows")
        return
    of_all = "" if needs.known == len(cells) else f" for {needs.known} of {len(cells)} cells"
    click.echo(
        f"by earlier records{of_all}: {duration(needs.seconds / jobs)} with {jobs} at once, "
        f"{bytes_text(needs.memory_bytes)} of memory each at most, "
        f"{bytes_text(needs.disk_bytes)} of disk"
    )


def _run_cells(
    cells: Sequence[Cell],
    cached: int,
    store: Store,
    settings: dict[str, Any],
    on_outcome: Callable[[Outcome], None],
) -> None:
    """Run cells and show how far they are."""
    from tqdm import tqdm

    from benchmarks.run.forecast import Course
    from benchmarks.run.local import run_cells

    terminal = sys.stderr.isatty()
    finished = failed = 0
    course = Course(store, cells, settings["jobs"])
    said = time.monotonic()
    form = "{desc}: {percentage:5.1f} %|{bar}| {elapsed}, {postfix}"
    with tqdm(
        total=course.total, disable=not terminal, dynamic_ncols=True, bar_format=form, desc="cells"
    ) as bar:

        def show(outcome: Outcome) -> None:
            nonlocal finished, failed
            on_outcome(outcome)
            finished += 1
            line = printable(_outcome_line(outcome))
            bad = outcome.record is None or outcome.record.failed
            failed += bad
            course.ended(outcome.cell, well=not bad)
            if not terminal:
                click.echo(f"[{finished}/{len(cells)}] {line}", err=True)
            elif bad:
                bar.write(line, file=sys.stderr)

        def tick(running: Sequence[Running]) -> None:
            nonlocal said
            done, seconds = course.look(running)
            left = "" if seconds is None else f", {duration(seconds)} left"
            counts = f"{finished} of {len(cells)}" + (f", {failed} failed" if failed else "")
            if terminal:
                timing = any(item.task.stage == "cost" for item in running)
                bar.set_description("timing, alone on the machine" if timing else "cells")
                bar.n = min(done, course.total)
                bar.set_postfix_str(f"{counts}, {cached} kept{left}")
                bar.refresh()
            elif time.monotonic() - said >= LINE_SECONDS:
                said = time.monotonic()
                part = 100 * done / max(1, course.total)
                click.echo(f"{part:.1f} %: {counts} cells, {len(running)} running{left}", err=True)

        try:
            run_cells(cells, store.directory, on_outcome=show, on_tick=tick, **settings)
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


def _summarise(
    store: Store, records: Sequence[Record], left_out: Sequence[LeftOut], missing: int
) -> int:
    counts = Counter(record.status for record in records)
    text = ", ".join(f"{number} {status}" for status, number in counts.most_common())
    click.echo(f"{len(records)} cells: {text or 'none'}; records in {store.directory}")
    for record in records:
        if record.failed:
            line = f"{record.cell}: {record.status}: {first_line(record.reason)}"
            click.echo(f"  {printable(line)}", err=True)
    for record in records:
        if record.measures.get("learning_rate_at_edge"):
            rate = record.measures["learning_rate"]
            click.echo(
                f"  {record.cell}: the best learning rate, {rate:g}, is at the edge of its grid: "
                "one outside it may be better",
                err=True,
            )
    warn(left_out)
    skipped = bool(records) and all(record.status == "skipped" for record in records)
    if skipped:
        click.echo(
            f"nothing was measured: every cell was skipped; {first_line(records[0].reason)}",
            err=True,
        )
    if missing:
        click.echo(f"{count(missing, 'data set')} missing: their cells are left", err=True)
    bad = left_out or skipped or missing or any(record.failed for record in records)
    return 1 if bad else 0


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
