"""Study learned: ours against the best of the libraries, system by system, by hand."""

from __future__ import annotations

from pathlib import Path

from made_up import made_up_record

from benchmarks.matrix import load_matrix
from benchmarks.report.records import Records, gather
from benchmarks.store import Store
from benchmarks.studies.learned import finding

# Mean NLL on every set; zuko's RealNVP and nflows' MAF are the best of the libraries.
MEANS = {
    "realnvp": 0.5,
    "nflows/realnvp": 5.0,
    "zuko/realnvp": 0.75,
    "maf": 2.0,
    "nflows/maf": 1.0,
}


def records(folder: Path, *without: str) -> Records:
    store, matrix = Store(folder), load_matrix("learned")
    cells = [cell for cell in matrix.cells if cell.dataset == "magic" and cell.flow not in without]
    store.write_plan(matrix.model_copy(update={"cells": cells}))
    for cell in cells:
        # Odd seeds are unlucky for all alike: differences paired by seed do not see it.
        nll = MEANS.get(cell.flow, 9.0) + cell.seed % 2
        store.write(made_up_record(cell, {"nll_nats": nll}))
    return gather([store])


def test_ours_is_set_against_the_best_library_of_each_system(tmp_path: Path) -> None:
    assert finding(records(tmp_path)) == (
        "NLL of ours less the lowest mean of the libraries: realnvp less zuko/realnvp on magic "
        "-0.250 ± 0.000 nats (8 seeds); maf less nflows/maf on magic 1.000 ± 0.000 nats (8 seeds)."
    )


def test_nothing_is_said_of_libraries_alone(tmp_path: Path) -> None:
    assert finding(records(tmp_path, "realnvp", "maf")) is None
