"""What the commands share: groups that know the nearest name, tables, what is left out."""

from __future__ import annotations

import contextlib
import os
import sys
import typing
from collections import Counter
from collections.abc import Iterator, Sequence
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, cast

import click

from benchmarks.errors import hint
from benchmarks.text import printable

if TYPE_CHECKING:
    from benchmarks.cell import Cell
    from benchmarks.store import LeftOut, Stale

__all__ = [
    "NearestGroup",
    "allowed",
    "bytes_text",
    "count",
    "duration",
    "filter_text",
    "first_line",
    "lasting_streams",
    "print_stale",
    "table",
    "take_plugins",
    "warn",
]


class NearestGroup(click.Group):
    """A group that answers an unknown command with the nearest one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            ctx.fail(f"no command is called {args[0]!r}{hint(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


def take_plugins(group: click.Group) -> None:
    """Give a group and every command below it the option ``--plugin``.

    What is named anywhere on the line is loaded, after what is installed, when the command itself
    is reached: its ``--help`` and a mistyped option load nothing.
    """
    for command in _below(group):
        command.params.append(
            click.Option(
                ["--plugin"],
                multiple=True,
                expose_value=False,
                callback=_collect_plugins,
                metavar="FILE.py|MODULE",
                help="flows, data sets, measures or studies of your own; may be repeated",
            )
        )


def _below(group: click.Group) -> Iterator[click.Command]:
    yield group
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from _below(command)
        else:
            yield command


def _collect_plugins(ctx: click.Context, option: click.Parameter, given: Sequence[str]) -> Any:
    sources: list[str] = ctx.meta.setdefault("benchmarks.plugins", [])
    sources.extend(given)
    if not isinstance(ctx.command, click.Group) and not ctx.resilient_parsing:
        from benchmarks import plugins

        plugins.load_installed()
        for source in sources:
            plugins.load(source)


_TYPES = {int: "whole number", float: "number", str: "text", bool: "true | false"}
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def allowed(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What an option may be, from its type and what stands beside that in ``Annotated``.

    Example:
        >>> from pydantic import Field
        >>> allowed(Literal["a", "b"]), allowed(Annotated[int, Field(gt=0)] | None)
        ('a | b', 'whole number > 0 | none')
    """
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return allowed(parts[0], [*metadata, *parts[1:]])
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " | ".join(dict.fromkeys(allowed(part, metadata) for part in parts))
    if origin in (tuple, list):
        return f"list of {allowed(parts[0])}" if parts else "list"
    if annotation is type(None):
        return "none"
    found = []
    for item in metadata:
        for each in getattr(item, "metadata", [item]):
            found += [
                f"{sign} {value:g}"
                for name, sign in _BOUNDS.items()
                if (value := getattr(each, name, None)) is not None
            ]
    name = _TYPES.get(annotation, getattr(annotation, "__name__", str(annotation)))
    return " ".join([name, " and ".join(found)]).strip()


def table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def first_line(text: str) -> str:
    return printable(text.splitlines()[0], 300) if text else ""


def filter_text(cell: Cell) -> str:
    """What ``--filter`` takes for a cell."""
    from benchmarks.store import labels_of

    flow, dataset = labels_of(cell)
    return printable(f"flow={flow};dataset={dataset};seed={cell.seed}")


def duration(seconds: float) -> str:
    """In the unit that one would say it in.

    Example:
        >>> duration(75), duration(5400), duration(3.2)
        ('1.2 min', '1.5 h', '3 s')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def bytes_text(number: float) -> str:
    """Bytes in words.

    Example:
        >>> bytes_text(3 * 2**30)
        '3.0 GiB'
    """
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


class _Lasting:
    """A stream that takes what it is given, also when nobody reads it any more."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return cast(int, self._stream.write(text))
        except BrokenPipeError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._give_up()

    def _give_up(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """In the block, a reader that leaves (``| head -1``) or never was (``2>&-``) ends nothing."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # Else the next file that is opened would be taken for the stream.
            null = os.open(os.devnull, os.O_RDWR)
            if null == number:
                # Processes that this one starts need it as well.
                os.set_inheritable(number, True)
            else:
                os.dup2(null, number)
                os.close(null)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        cast(Any, _Lasting(stream if stream is not None else open(os.devnull, "w")))  # noqa: SIM115
        for stream in before
    )
    try:
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        sys.stdout, sys.stderr = before


def warn(left_out: Sequence[LeftOut]) -> None:
    """Name the files that do not count: what is foreign each, what is stale by its reason."""
    from benchmarks.store import Stale

    for item in left_out:
        if not isinstance(item, Stale):
            text = printable(f"{item.path}: {item.why}")
            click.echo(f"  left out: {text}; move it away", err=True)
    print_stale([item for item in left_out if isinstance(item, Stale)])


def print_stale(stale: Sequence[Stale]) -> None:
    for why, number in Counter(item.why for item in stale).most_common():
        click.echo(f"  stale: {count(number, 'record')} {why}; `run` measures anew", err=True)


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
