"""How commands bear thousands of cells: `python tests/benchmarks/scale.py 10000`.

Makes up a record, with its curve, for so many cells of the matrix `full` at more seeds than it has,
and runs the commands on them. Shown of each are processor seconds, which other programs on the
machine hardly change, seconds by the clock, and the most memory that it held. Bounds: 5 s for `run
--dry-run`, `status`, `collect` on 10,000; a report of 2,000 in 60 s and 1 GB, of 10,000 in 300 s.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from made_up import made_up_record

from benchmarks import measures
from benchmarks.cell import Cell
from benchmarks.matrix import Matrix, load_matrix
from benchmarks.store import Store

VALIDATIONS = 20


def cells_of_full(number: int) -> Matrix:
    """The matrix `full` with as many seeds as make so many cells."""
    one, two = (len(load_matrix("full", profile="full", seeds=range(n)).cells) for n in (1, 2))
    seeds = 1 + max(0, -(-(number - one) // (two - one)))
    matrix = load_matrix("full", profile="full", seeds=range(seeds))
    return matrix.model_copy(update={"cells": matrix.cells[:number]})


def made_up_measures(cell: Cell) -> dict[str, float | bool]:
    """A value for each number that the cell's families fill: near one another over seeds."""
    random = np.random.default_rng(int(cell.key, 16))
    found: dict[str, float | bool] = {}
    families = [measures.family(name).columns for name in cell.measures]
    for column in (*measures.ALWAYS, *chain(*families)):
        if column.sort == "flag":
            found[column.name] = False
        elif column.sort != "text":
            base = _base(cell.flow_label, cell.dataset_label, column.name)
            found[column.name] = base * (1 + 0.05 * random.standard_normal())
    return found


@cache
def _base(*names: str) -> float:
    source = np.random.default_rng([ord(letter) for letter in "/".join(names)])
    return float(source.lognormal())


def make_up(store: Store, cells: Iterable[Cell]) -> None:
    """A record for each cell, one in fifty of them failed, and the curve of its training."""
    for number, cell in enumerate(cells):
        failed = number % 50 == 49
        record = made_up_record(cell, None if failed else made_up_measures(cell))
        path = store.path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        # As Store.write has it, without waiting for the disk.
        path.write_text(json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True))
        steps = cell.budget.steps or 1000
        rows = [_curve_row(part / VALIDATIONS, steps) for part in range(VALIDATIONS + 1)]
        store.path(cell, ".curve.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def _curve_row(part: float, steps: int) -> dict[str, float]:
    nll = 2 + 3 * float(np.exp(-5 * part))
    work = {"nfe_forward": 20 + 40 * part, "nfe_backward": 15 + 30 * part}
    times = {"step": round(steps * part), "seconds": 0.02 * steps * part}
    return {**times, "train_nll_nats": nll, "validation_nll_nats": nll + 0.1, **work}


def cost(*words: object, cwd: Path) -> tuple[float, float, float]:
    """A command's processor seconds, seconds by the clock, and the most memory it held, GB."""
    command = [sys.executable, "-m", "benchmarks", *map(str, words)]
    path = os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH"))))
    start = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, cwd=cwd, env={**os.environ, "PYTHONPATH": path}
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return used.ru_utime + used.ru_stime, time.monotonic() - start, used.ru_maxrss / 1e6


def main(number: int) -> None:
    """Make up the records and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "made-up")
        matrix = cells_of_full(number)
        seeds = f"0-{max(cell.seed for cell in matrix.cells)}"
        store.write_plan(matrix)
        dry: list[Any] = ["run", "full", "--profile", "full", "--seeds", seeds, "--dry-run"]
        print(f"{len(matrix.cells)} cells      processor s  clock s  GB")
        for name, words in (
            ("plan, nothing there", [*dry, "--out", Path(folder) / "none"]),
            ("plan", [*dry, "--out", store.directory]),
            ("status", ["status", store.directory]),
            ("collect", ["collect", store.directory]),
            ("report", ["report", store.directory]),
        ):
            if name == "plan":
                make_up(store, matrix.cells)
            processor, clock, memory = cost(*words, cwd=Path(folder))
            print(f"{name:20} {processor:11.1f} {clock:8.1f} {memory:5.2f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
