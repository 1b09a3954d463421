"""The table of ratios to a reference."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from synthetic_records import every_table, make_record

from benchmarks.report import tables
from benchmarks.report.records import gather
from benchmarks.report.table import DASH, as_markdown
from benchmarks.store import Store


def store_of(directory: Path, ratios: dict[tuple[str, int], float], **more: object) -> Store:
    store = Store(directory)
    for (flow, seed), ratio in ratios.items():
        measures = {
            "reference": "ffjord",
            "train_step_ratio": ratio,
            "train_step_ratio_q25": ratio - 0.1,
            "train_step_ratio_q75": ratio + 0.2,
            "peak_memory_ratio": 0.5,
            "train_step_over_matmul": 3.0,
            **more,
        }
        store.write(make_record(flow, seed=seed, measures=measures))
    return store


def test_quartiles_of_the_pairs_for_one_seed(tmp_path: Path) -> None:
    (table,) = tables.ratios(gather([store_of(tmp_path, {("maf", 0): 2.5, ("glow", 0): 1.25})]))
    (section,) = table.sections
    assert section.title == "8gaussians, over ffjord"
    rows = {row[0].text: row[1:] for row in section.rows}
    assert (rows["maf"][0].text, rows["maf"][0].remark) == ("2.50", "2.40 to 2.70")
    assert [entry.text for entry in rows["glow"]] == ["1.25", DASH, DASH, "0.50", "3.00", DASH]
    assert "2.50 (2.40 to 2.70)" in as_markdown(table)
    assert not any("Left out" in note for note in table.notes)


def test_interval_over_several_seeds(tmp_path: Path) -> None:
    (table,) = tables.ratios(gather([store_of(tmp_path, {("maf", 0): 2.0, ("maf", 1): 3.0})]))
    entry = table.sections[0].rows[0][1]
    # Student's t, two-sided 95 %, one degree of freedom, times the standard error of two values.
    half_width = 12.706204736174694 * math.sqrt(0.5) / math.sqrt(2)
    assert (entry.text, entry.plus_minus, entry.remark) == ("2.50", f"{half_width:.2f}", "")
    assert table.data["train_step_ratio_half_width"].item() == pytest.approx(half_width)


def test_ratios_of_a_shared_machine_are_left_out_and_said(tmp_path: Path) -> None:
    alone = store_of(tmp_path / "alone", {("glow", 0): 2.0})
    shared = store_of(tmp_path / "shared", {("maf", 0): 2.0}, cost_shared=True)
    (table,) = tables.ratios(gather([alone, shared]))
    rows = {row[0].text: [entry.text for entry in row[1:]] for row in table.sections[0].rows}
    # Memory does not depend on the company.
    assert rows["maf"] == [DASH, DASH, DASH, "0.50", DASH, DASH]
    assert rows["glow"] == ["2.00", DASH, DASH, "0.50", "3.00", DASH]
    assert any("Left out: the times of 1 of 2 cells" in note for note in table.notes)


def test_no_table_without_a_reference(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(make_record(measures={"train_step_seconds": 0.1}))
    records = gather([store])
    assert tables.ratios(records) == []
    assert "ratios" not in [table.name for table in every_table(records)]


def test_each_row_says_its_form_and_whether_it_was_trained(tmp_path: Path) -> None:
    store = Store(tmp_path)
    timed = {"reference": "maf", "train_step_ratio": 2.0, "train_step_seconds": 0.01}
    compiled = {**timed, "compile_seconds": 12.34}
    for flow, form, steps, more in (
        ("maf", None, 200, timed),
        ("zuko/maf", "eager", 0, timed),
        ("realnvp", "compiled", 200, compiled),
        ("flowjax/maf", "JAX", 0, compiled),
    ):
        said = {"form": form} if form else {}
        store.write(make_record(flow, steps=steps, measures={**more, **said, "steps": steps}))
    records = gather([store])
    for (table,) in (tables.ratios(records), tables.cost(records)):
        found = {row[0].text: row[0].remark for row in table.sections[0].rows}
        assert found == {
            "maf · steps 200": "eager, trained",
            "zuko/maf · steps 0": "eager, untrained",
            "realnvp · steps 200": "compiled, trained",
            "flowjax/maf · steps 0": "JAX, untrained",
        }
        assert sum(note.startswith(("Eager:", "Compiled:", "JAX:")) for note in table.notes) == 3
    (cost,) = tables.cost(records)
    place = cost.columns.index("compilation [s]")
    shown = {row[0].remark: row[place].text for row in cost.sections[0].rows}
    assert shown["JAX, untrained"] == shown["compiled, trained"] == "12.3"
    assert shown["eager, trained"] == shown["eager, untrained"] == DASH


def test_where_all_is_eager_and_trained_nobody_says_so(tmp_path: Path) -> None:
    (table,) = tables.ratios(gather([store_of(tmp_path, {("maf", 0): 2.5, ("glow", 0): 1.25})]))
    assert {row[0].remark for row in table.sections[0].rows} == {""}
    assert not any(note.startswith(("Eager:", "JAX:")) for note in table.notes)
