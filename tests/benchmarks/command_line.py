"""The command line as tests call it."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

import pytest

from benchmarks import cli


def call(*words: object, capsys: Any = None) -> tuple[int, str, str]:
    """The command in this process, whose server of cells serves every call.

    Args:
        *words: of the command.
        capsys: what output goes by in a test that looks at more of it.

    Returns:
        Exit code, standard output, standard error.
    """
    before = sys.argv
    sys.argv = ["ffjord-bench", *map(str, words)]
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.ExitStack() as stack:
            if capsys is None:
                stack.enter_context(contextlib.redirect_stdout(out))
                stack.enter_context(contextlib.redirect_stderr(err))
            ended = stack.enter_context(pytest.raises(SystemExit))
            cli.main()
    finally:
        sys.argv = before
    code = ended.value.code
    assert isinstance(code, int)
    output = capsys.readouterr() if capsys is not None else None
    return (code, *((output.out, output.err) if output else (out.getvalue(), err.getvalue())))
