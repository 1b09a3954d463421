"""What is taken in, kept apart and left out: machines, stale records, a shipped plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_records import make_record

from benchmarks.errors import StoreError
from benchmarks.matrix import load_matrix
from benchmarks.report import tables, write_report
from benchmarks.report.figures import Scene
from benchmarks.report.records import gather
from benchmarks.report.sweeps import bottleneck_cells
from benchmarks.store import Record, Store


def store_of(directory: Path, *records: Record) -> Store:
    store = Store(directory)
    for record in records:
        store.write(record)
    return store


def on_machine(machine: str, rate: float, seconds: float, **measures: Any) -> Record:
    environment = {
        "torch": "2.13.0",
        "cpu": "Example CPU",
        "machine": f"Example CPU, {machine}",
        "cpu_vector_extensions": "AVX-512",
    }
    found = {
        "train_step_seconds": seconds,
        "matmul_flops_per_second": rate,
        "cost_shared": False,
        "steps": 200,
        **measures,
    }
    return make_record("maf", measures=found, environment=environment)


def two_machines(folder: Path, **measures: Any) -> list[Store]:
    return [
        store_of(folder / "a", on_machine("25-17-1", 1e11, 0.010, **measures)),
        store_of(folder / "b", on_machine("26-2-1", 2e11, 0.006, **measures)),
    ]


def test_machines_are_kept_apart_and_named(tmp_path: Path) -> None:
    (table,) = tables.cost(gather(two_machines(tmp_path)))
    rows = {row[0].text: row[1].text for row in table.sections[0].rows}
    # One name for both processors: what tells them apart stands in the rows.
    assert rows == {
        "maf · machine Example CPU, 25-17-1": "10.0",
        "maf · machine Example CPU, 26-2-1": "6.00",
    }
    said = " ".join(table.notes)
    first = "Example CPU, 25-17-1; vector extensions AVX-512; a large product reaches 100 GFLOP/s"
    assert first in said
    assert "Example CPU, 26-2-1; vector extensions AVX-512; a large product reaches 200" in said
    assert "their times do not compare" in said


def test_one_cell_on_two_machines_keeps_the_curve_of_each(tmp_path: Path) -> None:
    stores = two_machines(tmp_path)
    for number, store in enumerate(stores):
        (record,) = store.records()[0]
        row = {"step": 10, "seconds": 1.0 + number, "validation_nll_nats": 3.0}
        store.path(record.cell, ".curve.jsonl").write_text(json.dumps(row))
    records = gather(stores)
    seconds = {
        cell["machine"]: records.store_of[cell["key"]].curve(cell["key"])["seconds"].item()
        for _, cell in records.cells.iterrows()
    }
    assert seconds == {"Example CPU, 25-17-1": 1.0, "Example CPU, 26-2-1": 2.0}


def test_ratios_name_their_processors(tmp_path: Path) -> None:
    ratio = {"reference": "ffjord", "train_step_ratio": 2.0}
    (table,) = tables.ratios(gather(two_machines(tmp_path, **ratio)))
    assert len(table.sections[0].rows) == 2
    assert sum(note.startswith("Processor: Example CPU") for note in table.notes) == 2


def test_records_without_a_machine_are_told_apart_by_the_processors_name(tmp_path: Path) -> None:
    timed = {"train_step_seconds": 0.01}
    old = [
        make_record("maf", seed=seed, measures=timed, environment={"cpu": name})
        for seed, name in enumerate(("One CPU", "Another CPU"))
    ]
    gathered = gather([store_of(tmp_path, *old)])
    assert set(gathered.cells["machine"]) == {"One CPU", "Another CPU"}
    assert gathered.cells["setting"].nunique() == 2


def test_what_is_left_out_is_counted_by_its_reason_and_named(tmp_path: Path) -> None:
    records = [
        make_record(flow, seed=seed, measures={"nll_nats": 1.0})
        for flow in ("maf", "glow")
        for seed in range(3)
    ]
    store = store_of(tmp_path, *records)
    for record in records[:5]:
        path = store.path(record.cell)
        document = json.loads(path.read_text())
        path.write_text(json.dumps(document | {"schema_version": 0}))
    gathered = gather([store])
    assert len(gathered.cells) == 1
    (note,) = (note for note in gathered.notes if "left out" in note)
    assert note.startswith("5 records were left out")
    assert "schema 0" in note
    assert "cells/maf/8gaussians (3)" in note
    assert "cells/glow/8gaussians (2)" in note


def test_a_folder_of_records_that_do_not_count_says_why(tmp_path: Path) -> None:
    record = make_record("maf", measures={"nll_nats": 1.0})
    store = store_of(tmp_path / "run", record)
    path = store.path(record.cell)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 0}))
    with pytest.raises(StoreError, match=r"no records to report on in .*schema 0"):
        write_report([store], tmp_path / "out")


def test_the_shipped_bottleneck_study_has_its_full_width_rows(tmp_path: Path) -> None:
    matrix = load_matrix("quick")
    keys = set(matrix.studies["bottleneck"])
    store = Store(tmp_path)
    for cell in matrix.cells:
        if cell.dataset != "gaussian":
            continue
        record = Record(
            key=cell.key,
            cell=cell,
            flow_label=cell.flow_label,
            dataset_label=cell.dataset_label,
            dataset_kind="gaussian",
            dimension=cell.dataset_options["dimension"],
            status="ok",
            measures={"trace_std": 1.0, "kl_to_truth_nats": 0.1, "steps": 200},
        )
        store.write(record)
    records = gather([store])
    cells = bottleneck_cells(records)
    # The whole study and nothing else: three hidden layers are another network.
    assert set(cells["key"]) == keys
    assert cells["series"].nunique() == 1
    (table,) = tables.bottleneck(records)
    (section,) = table.sections
    shown = [(row[0].text, row[1].text) for row in section.rows]
    for noise in ("gaussian", "rademacher"):
        assert [width for name, width in shown if name == noise] == ["2", "8", "32", "full"]


def test_a_record_of_any_age_makes_a_report(tmp_path: Path) -> None:
    bare = make_record("maf", measures={"nll_nats": 1.0}, environment={"python": "3.11"})
    (table,) = tables.comparison(gather([store_of(tmp_path, bare)]))
    assert table.sections[0].rows[0][2].text == "1.000"


def test_records_from_before_families_had_a_name_are_families(tmp_path: Path) -> None:
    measures = {"nll_nats": 1.0, "truth_entropy_nats": 0.9, "kl_to_truth_nats": 0.1}
    old = make_record("maf", "funnel", kind="gaussian", measures=measures)
    found = {table.name: table for table in tables.comparison(gather([store_of(tmp_path, old)]))}
    assert list(found) == ["kl", "families"]
    assert "Gaussians" not in " ".join(table.title for table in found.values())


def test_no_option_that_differs_is_left_unsaid(tmp_path: Path) -> None:
    """Shared by all of a system, or by all of a data set, it stands in no name: a note says it."""

    def timed(flow: str, dataset: str, steps: int, rate: float, label: str) -> Record:
        measures = {"train_step_seconds": 0.1, "learning_rate": rate, "nll_nats": 1.0}
        return make_record(flow, dataset, measures=measures, steps=steps, flow_label=label)

    records = gather(
        [
            store_of(
                tmp_path,
                timed("maf", "8gaussians", 200, 1e-2, "maf[layers=3]"),
                timed("glow", "8gaussians", 200, 1e-3, "glow[layers=3]"),
                timed("maf", "checkerboard", 400, 1e-2, "maf[layers=3]"),
            )
        ]
    )
    (table,) = tables.cost(records)
    assert [row[0].text for section in table.sections for row in section.rows] == [
        "glow",
        "maf",
        "maf",
    ]
    for said in (
        "Every glow, maf here has layers=3.",
        "Settings that differ: steps 200 on 8gaussians; steps 400 on checkerboard.",
        "Learning rates: 0.001 of glow; 0.01 of maf.",
    ):
        assert said in table.notes


def test_a_sweep_tells_no_contestants_apart_by_what_it_is_over(tmp_path: Path) -> None:
    swept = [
        make_record(
            "ffjord",
            flow_options={"rtol": rtol, "atol": atol},
            flow_label=f"ffjord[rtol={rtol},atol={atol}]",
            measures={"nll_nats": 1.0},
        )
        for rtol in (0.1, 0.01)
        for atol in (0.1, 0.2)
    ]
    records = gather([store_of(tmp_path, *swept)])
    assert len(Scene.of(records).looks) == 4
    scene = Scene.of(records).sweep("flow.rtol")
    assert list(scene.looks) == ["ffjord[atol=0.1]", "ffjord[atol=0.2]"]
    lines = scene.named(records.cells).groupby("line")["flow.rtol"].nunique()
    assert list(lines) == [2, 2]
    by_batch = Scene.of(records).sweep("flow.rtol", "flow.atol")
    assert list(by_batch.looks) == ["ffjord"]


def test_versions_of_a_library_are_apart_where_one_contestant_ran_with_several(
    tmp_path: Path,
) -> None:
    """Zuko's results of two versions are two results; ours stand beside both as one."""
    store = Store(tmp_path)
    here = dict(make_record().environment)
    for flow, seed, version in (
        ("zuko/maf", 0, "1.4.0"), ("zuko/maf", 1, "1.5.0"), ("maf", 0, None), ("maf", 1, None)
    ):  # fmt: skip
        more = {} if version is None else {"zuko": version}
        found = {"nll_nats": float(seed)}
        store.write(make_record(flow, seed=seed, measures=found, environment={**here, **more}))
    cells = gather([store]).cells.set_index("flow")
    assert cells.loc["zuko/maf", "setting"].nunique() == 2
    assert sorted(cells.loc["zuko/maf", "setting_label"]) == ["zuko 1.4.0", "zuko 1.5.0"]
    assert cells.loc["maf", "setting"].nunique() == 1
    assert set(cells.loc["maf", "setting_label"]) == {""}
