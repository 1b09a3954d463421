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
from benchmarks.cli.choose import choose
from benchmarks.cli.data import data
from benchmarks.cli.records import collect, compare, report, status
from benchmarks.cli.run import run
from benchmarks.cli.show import describe, doctor, list_
from benchmarks.cli.words import NearestGroup, lasting_streams, take_plugins
from benchmarks.errors import BenchError, Interrupted
from benchmarks.text import printable

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    with lasting_streams():
        code = _code()
    sys.exit(code)


def _code() -> int:
    try:
        with _interruptible():
            code = cli.main(standalone_mode=False)
    except BenchError as error:
        click.echo(f"error: {printable(str(error), 20_000)}", err=True)
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
    return code if isinstance(code, int) else 0


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGUSR2 raise KeyboardInterrupt inside the block, whatever was inherited.

    A shell starts what a script runs in the background with SIGINT ignored, and Python then leaves
    it so. A terminal that goes away (SIGHUP) interrupts too, unless that was to be ignored (nohup).
    """

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@click.group(cls=NearestGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ffjord-bench")
def cli() -> None:
    """FFJORD against discrete normalizing flows: which one, at what cost."""


for command in (
    run,
    choose,
    status,
    collect,
    report,
    compare,
    data,
    list_,
    describe,
    check,
    doctor,
):
    cli.add_command(command)
take_plugins(cli)
