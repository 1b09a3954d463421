"""The command `check`: whether a flow or a data set keeps the contract."""

from __future__ import annotations

from collections import Counter

import click

from benchmarks.cli.words import count
from benchmarks.errors import DataUnavailable, MatrixError, brief, hint

__all__ = ["check"]


@click.command()
@click.argument("name")
def check(name: str) -> int:
    """Hold the flow or data set called NAME to the contract, and say what it keeps of it.

    Networks of flows are made small for it. Ends with exit code 1 if a promise is not kept.
    """
    import datasets
    import flows
    from benchmarks.check import dataset, flow, run

    if name in flows.ENTRIES:
        checks = flow.CHECKS
    elif name in datasets.ENTRIES:
        checks = dataset.CHECKS
        try:
            datasets.load(name)
        except datasets.DataError as error:
            raise DataUnavailable(f"{name}: {error}") from error
    else:
        known = [*flows.ENTRIES, *datasets.ENTRIES]
        raise MatrixError(f"no flow or data set is called {brief(name)}{hint(name, known)}")
    failed = 0
    for found in run(checks, name):
        if found.failures:
            failed += 1
            click.echo(f"FAILS  {found.check.promise}")
            for words in found.failures:
                click.echo("       " + "\n       ".join(words.splitlines()))
        elif found.held:
            click.echo(f"holds  {found.check.promise}")
        else:
            (reason, _), *_ = Counter(found.reasons).most_common()
            click.echo(f"--     {found.check.promise} ({reason})")
    kept = len(checks) - failed
    if failed:
        click.echo(f"{name} breaks {count(failed, 'promise')} of {len(checks)}", err=True)
    else:
        click.echo(f"{name} keeps what applies to it of {kept} promises")
    return 1 if failed else 0
