"""The command line as tests call it."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from benchmarks import cli


def call(*words: object, capsys: Any) -> tuple[int, str, str]:
    """The command in this process: exit code, standard output, standard error."""
    before = sys.argv
    sys.argv = ["ffjord-bench", *map(str, words)]
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = before
    output = capsys.readouterr()
    code = ended.value.code
    assert isinstance(code, int)
    return code, output.out, output.err
