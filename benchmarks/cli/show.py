"""Commands that say what there is: `list`, `describe`, `doctor`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks.cli.words import NearestGroup, allowed, table
from benchmarks.errors import MatrixError, hint

if TYPE_CHECKING:
    import datasets
    import flows
    from benchmarks.cell import Cell
    from benchmarks.matrix import Matrix

__all__ = ["describe", "doctor", "list_"]


@click.group("list", cls=NearestGroup)
def list_() -> None:
    """List flows, datasets, studies or measures."""


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
    table(rows)
    return 0


@list_.command("datasets")
def list_datasets() -> int:
    """List data sets."""
    import datasets

    table([(e.name, e.kind, e.summary, e.source) for e in datasets.ENTRIES.values()])
    return 0


@list_.command("studies")
def list_studies() -> int:
    """List studies, with how many cells each has at the profiles small and full."""
    from benchmarks.matrix import load_matrix
    from benchmarks.studies import PROFILES, STUDIES

    rows = [("name", *PROFILES, "")]
    for name, study in STUDIES.items():
        cells = [f"{len(load_matrix(name, profile=profile).cells)} cells" for profile in PROFILES]
        rows.append((name, *cells, study.title))
    table(rows)
    return 0


@list_.command("measures")
def list_measures() -> int:
    """List measures and the columns that they fill, and those that are always filled."""
    from benchmarks import measures

    for family in measures.FAMILIES.values():
        click.echo(f"{family.name}: {family.summary}")
        for column in family.columns:
            click.echo(f"  {column.name}: {column.meaning}")
    click.echo("always: of the training, and of the machine meanwhile")
    for column in measures.ALWAYS:
        click.echo(f"  {column.name}: {column.meaning}")
    return 0


@click.command()
@click.argument("name")
def describe(name: str) -> int:
    """Describe the flow, data set, study, measure or matrix file called NAME."""
    import datasets
    import flows
    from benchmarks import measures
    from benchmarks.matrix import load_matrix
    from benchmarks.studies import PROFILES, STUDIES

    known = [*flows.ENTRIES, *datasets.ENTRIES, *measures.FAMILIES, *STUDIES]
    if name not in known and not name.endswith(".toml"):
        raise MatrixError(f"nothing is called {name!r}{hint(name, known)}")
    # A study may be called as the data that it is about: a name's every meaning is shown.
    if name in flows.ENTRIES or name in datasets.ENTRIES:
        entry = flows.ENTRIES.get(name) or datasets.ENTRIES[name]
        click.echo(f"{entry.name}: {entry.summary}\nsource: {entry.source}")
        if remark := getattr(entry, "remark", ""):
            click.echo(f"remark: {remark}")
        click.echo(inspect.cleandoc(entry.config_class.__doc__ or ""))
        click.echo("options:")
        table(_options(entry) or [("  none",)])
    if name in measures.FAMILIES:
        family = measures.family(name)
        click.echo(f"{name}: {family.summary}")
        table([(f"  {column.name}", column.meaning) for column in family.columns])
    if name in STUDIES:
        click.echo(f"answers: {STUDIES[name].answers}")
        if STUDIES[name].includes:
            click.echo(f"includes: {', '.join(STUDIES[name].includes)}")
        for profile in PROFILES:
            if profile == "small" or STUDIES[name].full or STUDIES[name].includes:
                click.echo(f"profile {profile}:")
                _describe_matrix(load_matrix(name, profile=profile))
    if name.endswith(".toml"):
        _describe_matrix(load_matrix(name))
    return 0


def _options(entry: flows.Entry | datasets.Entry) -> list[tuple[str, ...]]:
    """A row an option: its name, its value as the entry comes, what is allowed, what it is."""
    rows: list[tuple[str, ...]] = [("  option", "value", "allowed", "")]
    for option, field in entry.config_class.model_fields.items():
        if option in entry.options:
            value = str(entry.options[option])
        elif field.is_required():
            value = "(to be given)"
        else:
            value = str(field.get_default(call_default_factory=True))
        words = allowed(field.annotation, field.metadata)
        rows.append((f"  {option}", value, words, " ".join((field.description or "").split())))
    return rows if len(rows) > 1 else []


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


@click.command()
def doctor() -> int:
    """Check versions, devices and data, and say what can run here."""
    import torch

    import datasets
    from benchmarks.environment import LIBRARIES, describe_environment, version_of

    problems = []
    project = Path(__file__).resolve().parents[2]
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
    table([(name, str(value)) for name, value in environment.items()])
    for library in (*LIBRARIES, "asv"):
        click.echo(f"library {library}: {version_of(library) or 'not installed'}")
    if not cuda:
        click.echo("no CUDA device: cells run on the CPU")
    if not problems:
        from datasets.files.fetch import status as status_of

        for name in datasets.ENTRIES:
            click.echo(f"data {name}: {status_of(name).state}")
    for problem in problems:
        click.echo(f"problem: {problem}", err=True)
    return 1 if problems else 0
