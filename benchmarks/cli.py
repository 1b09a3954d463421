"""The command line: ``ffjord-bench``, or ``python -m benchmarks``.

Exit codes: 0 all well; 1 some cells failed; 2 usage or a bad matrix file; 3 data missing or
corrupt; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import difflib
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from benchmarks.errors import BenchError, DataUnavailable, Interrupted, MatrixError, StoreError
from benchmarks.performance import perf

# Everything that needs torch is imported inside the commands, so that --help and a mistyped
# option answer at once.
if TYPE_CHECKING:
    from benchmarks.engines.local import Outcome
    from benchmarks.matrix import Cell, Matrix
    from benchmarks.store import LeftOut, Record, Stale, Store

__all__ = ["main"]


class NearestGroup(click.Group):
    """A group that answers an unknown command with the nearest one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1, cutoff=0.0)
            ctx.fail(f"no command is called {args[0]!r}; did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    try:
        with _interruptible():
            code = cli.main(standalone_mode=False)
    except BenchError as error:
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = Interrupted.exit_code
    except BrokenPipeError:
        # The reader of a pipe (``| head``) has seen enough.
        sys.stderr.close()
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt inside the block, whatever was inherited.

    A shell starts what a script runs in the background with SIGINT ignored, and Python then leaves
    it so.
    """

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@click.group(cls=NearestGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ffjord-bench")
def cli() -> None:
    """FFJORD against discrete normalizing flows: which one, at what cost."""


cli.add_command(perf)


# -- run --------------------------------------------------------------------------------------


@cli.command()
@click.argument("matrix")
@click.option(
    "--out", type=click.Path(path_type=Path), help="folder of the records  [results/runs/MATRIX]"
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
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
    filter_text: str,
    seeds_text: str | None,
    jobs: int | None,
    timeout: float | None,
    limit: int | None,
    retry_failed: bool,
    force: bool,
    dry_run: bool,
) -> int:
    """Run the cells of MATRIX (a name from `list matrices`, or a .toml file).

    A cell that has a record is not run again, so an interrupted run goes on where it was. A stale
    record (of code with other versions) is replaced by a new one.
    """
    from benchmarks.matrix import filter_cells, load_matrix, parse_seeds
    from benchmarks.store import LeftOut, Store

    chosen = _device(device)
    seeds = parse_seeds(seeds_text) if seeds_text else None
    resolved = load_matrix(matrix, device=chosen, seeds=seeds)
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
    _print_stale([item for cell in to_run for item in stale.get(cell.identity, ())])
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

    from benchmarks.engines.local import run_cells

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
        return f"{outcome.cell}: {record.status}: {_first_line(record.reason)}"
    nll = record.measures.get("nll_nats")
    return f"{outcome.cell}: " + (f"{nll:.3f} nats" if isinstance(nll, float) else "ok")


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""


def _summarise(store: Store, records: Sequence[Record], left_out: Sequence[LeftOut]) -> int:
    counts = Counter(record.status for record in records)
    text = ", ".join(f"{number} {status}" for status, number in counts.most_common())
    click.echo(f"{len(records)} cells: {text or 'none'}; records in {store.directory}")
    for record in records:
        if record.failed:
            click.echo(f"  {record.cell}: {record.status}: {_first_line(record.reason)}", err=True)
    for record in records:
        if record.measures.get("learning_rate_at_edge"):
            rate = record.measures["learning_rate"]
            click.echo(
                f"  {record.cell}: the best learning rate, {rate:g}, is at the edge of its grid: "
                "one outside it may be better",
                err=True,
            )
    _warn(left_out)
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
        memory = found.get("peak_memory_ratio")
        cells.append(f"{memory:.2f}" if memory is not None else "")
        shared = "shared" if found.get("cost_shared") else ""
        rows.append(
            (record.flow_label, record.dataset_label, str(found["reference"]), *cells, shared)
        )
    if rows:
        click.echo("time over the reference's: median (quartiles) of interleaved pairs")
        head = ("flow", "dataset", "reference", "training step", "density", "sample")
        limits = ("step over matmul", "density over matmul", "memory over reference", "")
        _table([(*head, *limits), *rows])


def _warn(left_out: Sequence[LeftOut]) -> None:
    """Name the files that do not count: what is foreign each, what is stale by its reason."""
    from benchmarks.store import Stale

    for item in left_out:
        if not isinstance(item, Stale):
            click.echo(f"  left out: {item.path}: {item.why}; move it away", err=True)
    _print_stale([item for item in left_out if isinstance(item, Stale)])


def _print_stale(stale: Sequence[Stale]) -> None:
    for why, number in Counter(item.why for item in stale).most_common():
        click.echo(f"  stale: {_count(number, 'record')} {why}; `run` measures anew", err=True)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# -- records ----------------------------------------------------------------------------------


_directory = click.argument("directory", type=click.Path(path_type=Path))


def _existing(directory: Path) -> Store:
    from benchmarks.store import Store

    if not (directory / "cells").is_dir() and not (directory / "plan.json").is_file():
        raise StoreError(f"{directory} holds no records; `ffjord-bench run` makes them")
    return Store(directory)


@cli.command()
@_directory
def status(directory: Path) -> int:
    """Show what is done, failed, running and left in DIRECTORY, and why."""
    from benchmarks.cell import pending_stage
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
            click.echo(f"  {record.cell}: {record.status}: {_first_line(record.reason)}")
    for cell in running:
        click.echo(f"  {cell}: running")
    for item in stale:
        click.echo(f"  {item.cell}: stale: {item.why}")
    _warn(left_out)
    return 0


@cli.command()
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
    _warn(left_out)
    return 0


@cli.command()
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


# -- data -------------------------------------------------------------------------------------


@cli.group(cls=NearestGroup)
def data() -> None:
    """See, get and check data sets."""


def _known_datasets(names: Sequence[str]) -> Sequence[str]:
    """The names given, each known; every name if none is given."""
    import datasets

    try:
        return [datasets.entry(name).name for name in names] or list(datasets.ENTRIES)
    except datasets.UnknownDataset as error:
        raise MatrixError(str(error)) from error


@data.command("list")
def data_list() -> int:
    """Show which data sets are at hand, and how to have the others."""
    from datasets.files.fetch import status as status_of

    rows = [("name", "state", "size", "licence", "citation")]
    for name in _known_datasets(()):
        found = status_of(name)
        size = "" if found.bytes is None else f"{found.bytes / 1e6:.1f} MB"
        rows.append((name, found.state, size, found.licence or "", found.citation))
    _table(rows)
    return 0


@data.command("fetch")
@click.argument("names", nargs=-1, required=True)
def data_fetch(names: Sequence[str]) -> int:
    """Get the files of the data sets NAMES, unless they are there."""
    import datasets
    from datasets.files.fetch import fetch

    problems = []
    for name in _known_datasets(names):
        try:
            paths = fetch(name)
        except datasets.DataError as error:
            problems.append(f"{name}: {error}")
            continue
        where = ", ".join(map(str, paths)) or "made when it is loaded, nothing to get"
        click.echo(f"{name}: {where}")
    if problems:
        raise DataUnavailable("\n".join(problems))
    return 0


@data.command("verify")
@click.argument("names", nargs=-1)
def data_verify(names: Sequence[str]) -> int:
    """Check the data sets NAMES, or all that are at hand, from their files to their splits."""
    from datasets.files.fetch import verify

    problems = []
    for name in _known_datasets(names):
        found = verify(name)
        if found.missing is not None:
            click.echo(f"{name}: not here")
            # Asked for by name it is a problem; among all it is not.
            if names:
                problems.append(f"{name}: {found.missing}")
            continue
        click.echo(f"{name}: {'good' if found.ok else 'BAD'}")
        for check in found.checks:
            click.echo(f"  {'ok ' if check.ok else 'BAD'} {check.what}: {check.detail}")
        if not found.ok:
            problems.append(f"{name}: a check failed, see above")
    if problems:
        raise DataUnavailable("\n".join(problems))
    return 0


# -- what there is ----------------------------------------------------------------------------


@cli.group("list", cls=NearestGroup)
def list_() -> None:
    """List flows, datasets, matrices or measures."""


def _table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


@list_.command("flows")
def list_flows() -> int:
    """List flows with their traits."""
    import flows

    rows = [("name", "density", "passes: density", "sample", "Jacobian", "trained on data", "")]
    for entry in flows.ENTRIES.values():
        traits = entry.config.traits
        rows.append(
            (
                entry.name,
                traits.density,
                traits.density_passes,
                traits.sample_passes,
                traits.jacobian,
                "yes" if traits.trains_on_data else "no",
                " ".join(filter(None, (entry.summary, entry.remark and f"({entry.remark})"))),
            )
        )
    _table(rows)
    return 0


@list_.command("datasets")
def list_datasets() -> int:
    """List data sets."""
    import datasets

    _table([(e.name, e.kind, e.summary, e.source) for e in datasets.ENTRIES.values()])
    return 0


@list_.command("matrices")
def list_matrices() -> int:
    """List the matrices that ship with the project."""
    from benchmarks.matrix import bundled_matrices, load_matrix

    rows = [(name, load_matrix(name)) for name in bundled_matrices()]
    _table([(name, f"{len(m.cells)} cells", m.description) for name, m in rows])
    return 0


@list_.command("measures")
def list_measures() -> int:
    """List measures and the columns that they fill, and those that are always filled."""
    from benchmarks import measures
    from benchmarks.cell import COLUMNS

    for name, summary in measures.FAMILIES.items():
        click.echo(f"{name}: {summary}")
        for column, meaning in measures.family(name).COLUMNS.items():
            click.echo(f"  {column}: {meaning}")
    click.echo("always: of the training, and of the machine meanwhile")
    for column, meaning in COLUMNS.items():
        click.echo(f"  {column}: {meaning}")
    return 0


@cli.command()
@click.argument("name")
def describe(name: str) -> int:
    """Describe the flow, data set, matrix or measure called NAME."""
    import datasets
    import flows
    from benchmarks import measures
    from benchmarks.matrix import bundled_matrices, load_matrix

    if name in flows.ENTRIES or name in datasets.ENTRIES:
        entry = flows.ENTRIES.get(name) or datasets.ENTRIES[name]
        click.echo(f"{entry.name}: {entry.summary}\nsource: {entry.source}")
        if remark := getattr(entry, "remark", ""):
            click.echo(f"remark: {remark}")
        config: Any = entry.config_class.model_validate(dict(entry.options))
        click.echo((entry.config_class.__doc__ or "").strip())
        click.echo("options:")
        _table(
            [
                ("  " + option, str(getattr(config, option)), field.description or "")
                for option, field in entry.config_class.model_fields.items()
            ]
            or [("  none", "", "")]
        )
    elif name in measures.FAMILIES:
        click.echo(f"{name}: {measures.FAMILIES[name]}")
        _table([(f"  {k}", v) for k, v in measures.family(name).COLUMNS.items()])
    elif name in bundled_matrices():
        _describe_matrix(load_matrix(name))
    else:
        known = [*flows.ENTRIES, *datasets.ENTRIES, *measures.FAMILIES, *bundled_matrices()]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise MatrixError(f"nothing is called {name!r}; did you mean {near!r}?")
    return 0


def _describe_matrix(matrix: Matrix) -> None:
    click.echo(f"{matrix.name}: {matrix.description}")
    by_key = {cell.key: cell for cell in matrix.cells}
    for study, keys in matrix.studies.items():
        cells = [by_key[key] for key in keys]
        click.echo(f"{study}: {len(cells)} cells")
        click.echo(f"  flows: {', '.join(dict.fromkeys(c.flow_label for c in cells))}")
        click.echo(f"  datasets: {', '.join(dict.fromkeys(c.dataset_label for c in cells))}")
        click.echo(f"  seeds: {', '.join(dict.fromkeys(str(c.seed) for c in cells))}")
        click.echo(f"  measures: {', '.join(cells[0].measures)}")
        rules: dict[str, dict[str, None]] = {}
        for cell in cells:
            rules.setdefault(_budget_words(cell), {})[cell.flow_label] = None
        for words, labels in rules.items():
            whose = f" of {', '.join(labels)}" if len(rules) > 1 else ""
            click.echo(f"  budget{whose}: {words}")


def _budget_words(cell: Cell) -> str:
    """What of a cell's budget differs from the default."""
    budget = cell.budget.model_dump(exclude_defaults=True)
    if cell.learning_rates:
        budget["learning_rate"] = f"the best of {', '.join(f'{r:g}' for r in cell.learning_rates)}"
    return ", ".join(f"{name} = {value}" for name, value in budget.items()) or "default"


@cli.command()
def doctor() -> int:
    """Check versions, devices and data, and say what can run here."""
    import torch

    import datasets
    from benchmarks.environment import describe_environment

    problems = []
    project = Path(__file__).resolve().parent.parent
    if (
        not hasattr(datasets, "ENTRIES")
        or Path(datasets.__file__).resolve().parent.parent != project
    ):
        problems.append(
            f"the package `datasets` that Python finds is {datasets.__file__}, another project's; "
            "use an environment of this project's own (`make .venv`)"
        )
    cuda = torch.cuda.is_available()
    environment = describe_environment(torch.device("cuda" if cuda else "cpu"))
    _table([(name, str(value)) for name, value in environment.items()])
    if not cuda:
        click.echo("no CUDA device: cells run on the CPU")
    if not problems:
        from datasets.files.fetch import status as status_of

        for name in datasets.ENTRIES:
            click.echo(f"data {name}: {status_of(name).state}")
    for problem in problems:
        click.echo(f"problem: {problem}", err=True)
    return 1 if problems else 0
