"""What cells are forked from is started before its runner loads torch, and never for nothing."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import call

from benchmarks.cell import Cell
from benchmarks.run import process, server
from benchmarks.run.local import run_cells
from flows.products import Products, onednn_is_there


@pytest.mark.parametrize(
    "words", [["run", "no.toml"], ["choose", "pyproject.toml"]], ids=["run", "choose"]
)
def test_it_loads_while_its_runner_does(words: list[str]) -> None:
    """Before the runner imports anything that takes its time."""
    program = (
        "import sys\n"
        "from benchmarks.run import server\n"
        "def start():\n"
        "    loaded = {'torch', 'numpy', 'pandas', 'pydantic', 'scipy'} & sys.modules.keys()\n"
        "    sys.exit(f'started beside {sorted(loaded)}')\n"
        "server._start = start\n"
        f"sys.argv = ['ffjord-bench', *{words}]\n"
        "from benchmarks.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == "started beside []"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """What was started in the place of a server."""
    found: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(server, "_wanted", False)
    monkeypatch.setattr(server, "pid", lambda: found[-1].pid if found else None)
    monkeypatch.setattr(server, "_start", lambda: found.append(subprocess.Popen(["sleep", "600"])))
    yield found
    for each in found:
        each.kill()
        each.wait()


def test_nothing_stays_of_it_where_no_cell_is_run(
    started: list[subprocess.Popen[bytes]], capsys: Any
) -> None:
    """It may still be loading when a mistyped name is answered, and hold a pipe's end."""
    assert call("run", "no.toml", capsys=capsys)[0] == 2
    assert [each.wait(60) for each in started] == [-signal.SIGKILL]


def test_what_cells_came_to_need_stays(started: list[subprocess.Popen[bytes]]) -> None:
    with server.ahead():
        server.start()
    assert started[0].poll() is None


@pytest.mark.parametrize("words", [["--dry-run"], ["--engine", "slurm", "--device", "cpu"]])
def test_it_is_not_started_where_nothing_runs_here(
    started: list[subprocess.Popen[bytes]], words: list[str], capsys: Any
) -> None:
    assert call("run", "no.toml", *words, capsys=capsys)[0] == 2
    assert started == []


@pytest.mark.skipif(not onednn_is_there(), reason="there is one library only")
def test_cells_multiply_as_the_process_that_starts_them(
    tmp_path: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "matrix_products", lambda: Products(2**30))
    ended = []
    cell = Cell.model_validate({**cell.model_dump(), "measures": ("quality",)})
    run_cells([cell], tmp_path, jobs=1, timeout=None, on_outcome=ended.append)
    (found,) = ended
    assert found.record is not None
    assert found.record.environment["matrix_products"] == "oneDNN from 2**30 terms"
