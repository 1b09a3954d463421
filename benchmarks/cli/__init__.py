"""The command line: ``ffjord-bench``, or ``python -m benchmarks``.

Exit codes: 0 all well; 1 some cells failed; 2 usage or a bad matrix file; 3 data missing or
corrupt; 130 interrupted.

Everything that needs torch is imported inside the commands, so that --help and a mistyped option
answer at once.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

import click

from benchmarks.cli.check import check
from benchmarks.cli.data import data
from benchmarks.cli.records import collect, report, status
from benchmarks.cli.run import run
from benchmarks.cli.show import describe, doctor, list_
from benchmarks.cli.words import NearestGroup, take_plugins
from benchmarks.errors import BenchError, Interrupted
from benchmarks.performance import perf

__all__ = ["main"]


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
    except MemoryError as error:
        click.echo(f"error: not enough memory for what was asked: {error}", err=True)
        code = BenchError.exit_code
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


for command in (run, status, collect, report, data, list_, describe, check, doctor, perf):
    cli.add_command(command)
take_plugins(cli)
