"""Commands on data sets: `data list`, `data fetch`, `data verify`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from benchmarks.cli.words import NearestGroup, table
from benchmarks.errors import DataUnavailable, MatrixError

__all__ = ["data"]


@click.group(cls=NearestGroup)
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
    table(rows)
    for names in _sharing():
        click.echo(f"one download serves {', '.join(names[:-1])} and {names[-1]}")
    return 0


def _sharing() -> list[list[str]]:
    """The names of data sets that are made of the same files, together."""
    import datasets

    by_files: dict[tuple[str, ...], list[str]] = {}
    for name, entry in datasets.ENTRIES.items():
        source = entry.config.files()
        form = source.download if source is not None else None
        if form is not None:
            addresses = tuple(address for file in form.files for address in file.addresses[:1])
            by_files.setdefault(addresses, []).append(name)
    return [names for names in by_files.values() if len(names) > 1]


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
