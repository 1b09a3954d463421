"""README's blocks by records whose numbers are known by hand."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from synthetic_records import make_record

from benchmarks.report import write_report
from benchmarks.report.commands import time_commands
from benchmarks.report.readme import BLOCKS, COMMANDS, Material
from benchmarks.report.table import DASH
from benchmarks.store import Record, Store


def material(tmp_path: Path, *records: Record) -> Material:
    store = Store(tmp_path / "results/reference/mine")
    for record in records:
        store.write(record)
    return Material(write_report([store], tmp_path / "report"), tmp_path)


def rows_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_results_are_of_whole_training_sets_beside_what_is_published(tmp_path: Path) -> None:
    def score(seed: int, nll: float, hours: float, **options: object) -> Record:
        label = "power[rows=20000]" if options else "power"
        found = {"nll_nats": nll, "train_seconds": 3600 * hours}
        return make_record(
            "maf-5", "power", seed, measures=found, dataset_options=options, dataset_label=label
        )

    records = [score(0, -0.10, 1.0), score(1, -0.20, 2.0), score(0, 0.5, 1.0, rows=20000)]
    text = BLOCKS["results"](material(tmp_path, *records))
    (row,) = rows_of(text)
    assert row[:4] == ["power, nats", "maf-5", "2", "1.50"]
    # Papamakarios et al. 2017: a log-likelihood of 0.14.
    assert row[4].startswith("-0.150 ± ")
    assert row[5] == "-0.14"
    assert row[6].startswith("-0.010 ± ")
    assert row[7].endswith("Papamakarios et al. 2017")


def test_speed_is_of_the_fastest_library_over_cases(tmp_path: Path) -> None:
    def ratio(flow: str, dimension: int, step: float, **options: object) -> Record:
        found = {"reference": "maf[hidden=100-100]", "train_step_ratio": step, "steps": 0}
        data = {"dimension": dimension}
        return make_record(
            flow,
            "gaussian",
            measures=found,
            steps=0,
            flow_options=options,
            dataset_options=data,
            dataset_label=f"gaussian[dimension={dimension}]",
            dimension=dimension,
        )

    records = [
        ratio("zuko/maf", 6, 2.0),
        ratio("nflows/maf", 6, 3.0),
        ratio("zuko/maf", 43, 8.0),
        # Ours against itself is no library, and what computes less than ours no rival.
        ratio("maf", 43, 1.0),
        ratio("torchflows/ffjord", 43, 0.1, trace_gradient=False),
    ]
    (row,) = rows_of(BLOCKS["speed"](material(tmp_path, *records)))
    assert row == ["maf", "untrained", "CPU, 1 thread", "4.00 (2.00 to 8.00, zuko)", DASH, DASH]


def test_runs_say_where_for_how_long_and_at_which_commit(tmp_path: Path) -> None:
    def run(flow: str, seconds: float, commit: str, *, dirty: bool) -> Record:
        found = {"quality_stage_seconds": seconds, "cost_stage_seconds": 360.0}
        where = {"machine": "Example", "git_commit": commit, "git_dirty": dirty}
        return make_record(flow, measures=found, environment=where)

    records = [
        run("maf", 3240, "0123456789", dirty=False),
        run("glow", 3240, "abcdef0123", dirty=True),
    ]
    (row,) = rows_of(BLOCKS["runs"](material(tmp_path, *records)))
    assert row[:-1] == ["cells", "2 of 2", "2.00", "CPU, 1 thread", "Example"]
    assert set(row[-1].split(", ")) == {"0123456", "abcdef0+"}


def test_what_has_no_record_is_said(tmp_path: Path) -> None:
    found = material(tmp_path, make_record("maf", "optdigits", measures={"nll_nats": 90.0}))
    assert BLOCKS["results"](found).startswith("No record in")
    assert BLOCKS["speed"](found).startswith("No record in")
    assert "not been measured" in BLOCKS["commands"](found)
    limits = BLOCKS["limits"](found)
    assert "- No GPU has taken part: every record is of a CPU." in limits
    trained = next(line for line in limits.splitlines() if "No flow has been trained" in line)
    assert "power" in trained
    assert "optdigits" not in trained
    assert "gave no result" not in limits


def test_a_gpu_and_failures_are_named(tmp_path: Path) -> None:
    gpu = {"machine": "Example", "gpu": "Example GPU 80GB"}
    records = [
        make_record("maf", measures={"nll_nats": 3.0}, device="cuda", environment=gpu),
        make_record("glow", status="oom", reason="80 GB"),
    ]
    found = material(tmp_path, *records)
    limits = BLOCKS["limits"](found)
    assert "On a GPU (Example GPU 80GB) ran: cells. All else is of a CPU." in limits
    assert "1 of 2 cells gave no result" in limits
    places = {row[3] for row in rows_of(BLOCKS["runs"](found))}
    assert places == {"Example GPU 80GB", "CPU, 1 thread"}


def test_commands_are_as_they_were_timed(tmp_path: Path) -> None:
    found = material(tmp_path, make_record(measures={"nll_nats": 3.0}))
    document = {
        "seconds": {"make quick": 330.0, "make test": 1200.0},
        "git_commit": "0123456789",
        "machine": "Example",
        "cpu_cores": 2,
    }
    (tmp_path / "results/reference" / COMMANDS).write_text(json.dumps(document))
    assert BLOCKS["commands"](found) == (
        "Measured from a fresh clone on 2 cores of Example at 0123456: `make quick` 6 minutes, "
        "`make test` 20 minutes."
    )


@pytest.mark.slow
def test_commands_are_timed_in_a_clone(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(".venv:\n\tmkdir .venv\nquick: .venv\n\ttouch .venv/quick\n")
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    found = json.loads(time_commands(tmp_path, ["make quick"]).read_text())
    assert set(found) == {"seconds", "git_commit", "machine", "cpu_cores"}
    assert 0 <= found["seconds"]["make quick"] < 60
    assert not (tmp_path / ".venv").exists()
