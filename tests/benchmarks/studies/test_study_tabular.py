"""Study tabular: gaps to published numbers and leads by hand, and what is said of odd records."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up import made_up_record

import datasets
import flows
from benchmarks.cell import Cell
from benchmarks.matrix import Matrix, load_matrix
from benchmarks.report import tables, write_report
from benchmarks.report.literature import literature
from benchmarks.report.records import Records, gather
from benchmarks.store import Store
from benchmarks.studies.tabular import finding

T_2 = 4.302652729911275  # Student's t, two-sided 95 %, 2 degrees of freedom.


def power() -> Matrix:
    matrix = load_matrix("tabular")
    return matrix.model_copy(update={"cells": [c for c in matrix.cells if c.dataset == "power"]})


def records(folder: Path, measured: Callable[[Cell], dict[str, Any] | str | None]) -> Records:
    """Of the cells on POWER: what is measured of each, how it failed, or None for no record."""
    store, matrix = Store(folder), power()
    store.write_plan(matrix)
    for cell in matrix.cells:
        if (found := measured(cell)) is not None:
            store.write(made_up_record(cell, found))
    return gather([store])


def nll(cell: Cell) -> dict[str, float]:
    """FFJORD ends at 0, 0.1 and 0.2, MAF with 10 layers a half below, all others above."""
    value = 0.1 * cell.seed + {"ffjord-power": 0.0, "maf-10": -0.5}.get(cell.flow, 1.0)
    return {"nll_nats": value, "nll_nats_stderr": 0.05}


def test_the_finding_is_the_paired_lead_and_the_gap(tmp_path: Path) -> None:
    said = finding(records(tmp_path, nll))
    half_width = T_2 * 0.1 / 3**0.5
    assert said == (
        "NLL of FFJORD less the lowest mean of the discrete flows: ffjord-power less maf-10 on "
        "power[rows=20000,test_rows=1000] 0.500 ± 0.000 nats (3 seeds). Ours less the published "
        # The paper's is -0.46.
        f"number: ffjord-power 0.560 ± {half_width:.3f} nats (3 seeds)."
    )


def test_gaps_are_ours_less_the_published(tmp_path: Path) -> None:
    (table,) = tables.gaps(records(tmp_path, nll))
    for _, row in table.data.iterrows():
        assert row["gap"] == pytest.approx(row["ours"] - row["published"])
        assert row["seeds"] == 3
    of = {(row["flow"], row["model"]): row for _, row in table.data.iterrows()}
    label = "maf-10"
    assert of[label, "MAF (10)"]["published"] == -0.24
    assert of[label, "MAF (10)"]["gap"] == pytest.approx(-0.4 + 0.24)
    # One name of two recipes stands twice, each with its own gap.
    assert {model for flow, model in of if flow == "glow"} == {
        "Glow, FFJORD paper's run",
        "Glow, NSF paper's run",
    }
    (section,) = table.sections
    by_model = {row[2].text: row for row in section.rows}
    ours, published = by_model["FFJORD"][1], by_model["FFJORD"][3]
    # Both kinds of error, each labelled; the published one by what it is over.
    assert (ours.over, ours.also_over) == ("seeds", "points")
    assert ours.also == "0.098"
    assert (published.text, published.plus_minus, published.over) == ("-0.46", "0.01", "runs")
    assert by_model["MADE"][3].over == "test points"


def test_one_seed_has_no_interval_and_says_so(tmp_path: Path) -> None:
    found = records(tmp_path, lambda cell: nll(cell) if cell.seed == 0 else None)
    assert re.search(r"0\.500 nats \(one seed: no interval\)", finding(found) or "")
    (table,) = tables.gaps(found)
    assert all(not row[4].plus_minus and not row[4].over for row in table.sections[0].rows)


@pytest.mark.parametrize("lost", ["diverged", "nan", "holes"])
def test_lost_contestants_are_shown_and_break_nothing(tmp_path: Path, lost: str) -> None:
    def measured(cell: Cell) -> dict[str, Any] | str | None:
        if cell.flow == "maf-10":
            return {"diverged": "diverged", "nan": {"nll_nats": None}, "holes": None}[lost]
        return nll(cell)

    found = records(tmp_path / "run", measured)
    said = finding(found)
    assert said is not None
    assert "maf-10" not in said
    write_report([Store(tmp_path / "run")], tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert ("diverged" in page) == (lost == "diverged")


def test_without_ffjord_nothing_is_found(tmp_path: Path) -> None:
    lost = records(tmp_path, lambda cell: "oom" if cell.flow == "ffjord-power" else nll(cell))
    assert finding(lost) is None


def test_the_full_matrix_has_every_published_system_with_its_preset() -> None:
    """Of each number of Tables 2 and 6 some contestant, on every set; batches of Table 4."""
    cells = load_matrix("tabular", profile="full").cells
    for dataset in ("power", "gas", "hepmass", "miniboone", "bsds300"):
        here = {cell.flow for cell in cells if cell.dataset == dataset}
        # The Gaussian stands there by itself, and of NSF's own training of MAF no settings do.
        others = ("Gaussian", "MAF, NSF paper's run")
        for item in literature().of(dataset, "nll_nats"):
            assert item.model in others or item.is_of(here), (dataset, item.model)
        trained = {
            name
            for name, entry in flows.ENTRIES.items()
            if "/" not in name and flows.registry.configure(name).traits.density_passes != "none"
        }
        assert here <= trained
    batches = {c.dataset: c.budget.batch_size for c in cells if c.flow.startswith("ffjord")}
    table_4 = {"power": 10_000, "gas": 1000, "hepmass": 10_000, "miniboone": 1000}
    assert batches.items() >= {**table_4, "bsds300": 10_000}.items()
    assert {cell.seed for cell in cells} == {0, 1, 2}
    for cell in cells:
        assert datasets.entry(cell.dataset).kind == "tabular"
