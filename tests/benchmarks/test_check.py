"""The command `check`: words and exit codes."""

import re
from typing import Any

import pytest
from command_line import call

from benchmarks.check import Check, DoesNotApply, Failed, dataset, refuses, run


def checks(monkeypatch: pytest.MonkeyPatch, *functions: Any) -> None:
    found: list[Check] = [
        Check(f.__name__, f.__doc__, f, ({"rows": 1}, {"rows": 2}), lambda case: False)
        for f in functions
    ]
    monkeypatch.setattr(dataset, "CHECKS", found)


def is_kept(name: str, rows: int) -> None:
    """It is kept."""


def is_broken(name: str, rows: int) -> None:
    """It is kept too."""
    if rows == 2:
        raise Failed("it is not\nat all")


def has_nothing(name: str, rows: int) -> None:
    """It is about something else."""
    raise DoesNotApply("there is nothing")


def test_what_holds_and_what_fails_is_said(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    checks(monkeypatch, is_kept, is_broken, has_nothing)
    code, out, err = call("check", "8gaussians", capsys=capsys)
    assert code == 1
    assert out.splitlines() == [
        "holds  It is kept.",
        "FAILS  It is kept too.",
        "       rows 2: it is not",
        "       at all",
        "--     It is about something else. (there is nothing)",
    ]
    assert err == "8gaussians breaks 1 promise of 3\n"
    checks(monkeypatch, is_kept, has_nothing)
    code, out, _ = call("check", "8gaussians", capsys=capsys)
    assert code == 0
    assert out.splitlines()[-1] == "8gaussians keeps what applies to it of 2 promises"


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("relnvp", 2, "no flow or data set is called 'relnvp'; did you mean 'realnvp'?"),
        ("table", 3, "table is made of your own file"),
    ],
)
def test_what_cannot_be_checked(name: str, code: int, words: str, capsys: Any) -> None:
    found, _, err = call("check", name, capsys=capsys)
    assert found == code
    assert words in err


def test_a_check_that_raises_has_failed() -> None:
    def raises(name: str) -> None:
        raise KeyError("odd")

    (found,) = run([Check("raises", "It works.", raises, ({},), lambda case: False)], "any")
    assert found.failures == ["KeyError: 'odd'"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (None, "a thing is not refused with ValueError"),
        (ValueError("other"), r"the message 'other' does not say 'why'"),
        (KeyError("k"), r"a thing: KeyError \('k'\) instead of ValueError"),
    ],
)
def test_what_should_be_refused(error: Exception | None, words: str) -> None:
    def block() -> None:
        with refuses(ValueError, "why", "a thing"):
            if error is not None:
                raise error

    with pytest.raises(Failed) as caught:
        block()
    assert re.search(words, str(caught.value))
    with refuses(ValueError, "why", "a thing"):
        raise ValueError("that is why")
