"""What flows and data sets promise, checked on any entry: the project's own or a plugin's.

A check is a function whose docstring is the promise, in words; ``ffjord-bench check`` and the tests
run the same ones (:data:`benchmarks.check.flow.CHECKS`, :data:`benchmarks.check.dataset.CHECKS`).
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Check", "DoesNotApply", "Failed", "Finding", "collector", "expect", "refuses", "run"]


class Failed(AssertionError):
    """A promise that is not kept; the message says in what."""


class DoesNotApply(Exception):
    """A check that has nothing to look at in an entry; the message says why."""


@dataclass(frozen=True)
class Check:
    """One promise and how it is looked at.

    Attributes:
        name: of the function.
        promise: its docstring on one line.
        function: of an entry's name and a case; raises if the promise is not kept, or
            :class:`DoesNotApply`.
        cases: what it is looked at with, as keyword arguments.
        slow: whether a case takes long.
    """

    name: str
    promise: str
    function: Callable[..., None]
    cases: tuple[Mapping[str, Any], ...]
    slow: Callable[[Mapping[str, Any]], bool]


@dataclass
class Finding:
    """What became of a check.

    Attributes:
        check: which.
        held: in how many cases.
        failures: the other cases, in words, with what was found.
        reasons: why it did not apply where it did not.
    """

    check: Check
    held: int = 0
    failures: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


def collector(checks: list[Check]) -> Callable[..., Callable[[Callable[..., None]], Any]]:
    """A decorator that adds functions to a list of checks.

    It takes an axis of cases a keyword (their product is looked at), and ``slow``: whether all
    cases take long, or a function of a case that says so.
    """

    def promise(
        *, slow: bool | Callable[[Mapping[str, Any]], bool] = False, **axes: Sequence[Any]
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        def add(function: Callable[..., None]) -> Callable[..., None]:
            text = inspect.getdoc(function)
            assert text is not None, "a check's docstring is its promise"
            values = itertools.product(*axes.values())
            cases = tuple(dict(zip(axes, each, strict=True)) for each in values)
            is_slow = slow if callable(slow) else lambda case: bool(slow)
            words = " ".join(text.split())
            checks.append(Check(function.__name__, words, function, cases, is_slow))
            return function

        return add

    return promise


def expect(condition: bool, otherwise: str) -> None:
    """Raise :class:`Failed` with what is said, unless a condition is true."""
    if not condition:
        raise Failed(otherwise)


@contextlib.contextmanager
def refuses(error: type[Exception], pattern: str, what: str) -> Iterator[None]:
    """Expect a block, in words ``what``, to raise an error whose message has a pattern."""
    try:
        yield
    except error as found:
        expect(
            re.search(pattern, str(found)) is not None,
            f"{what}: the message {str(found)!r} does not say {pattern!r}",
        )
    except Exception as found:
        raise Failed(
            f"{what}: {type(found).__name__} ({found}) instead of {error.__name__}"
        ) from found
    else:
        raise Failed(f"{what} is not refused with {error.__name__}")


def run(checks: Sequence[Check], name: str) -> Iterator[Finding]:
    """Run checks on an entry, one after another."""
    for check in checks:
        finding = Finding(check)
        for case in check.cases:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    check.function(name, **case)
            except DoesNotApply as reason:
                finding.reasons.append(str(reason))
            except Exception as error:
                words = ", ".join(f"{key} {value}" for key, value in case.items())
                what = str(error).strip() or "no reason given"
                if not isinstance(error, AssertionError):
                    what = f"{type(error).__name__}: {what}"
                finding.failures.append(f"{words}: {what}" if words else what)
            else:
                finding.held += 1
        yield finding
