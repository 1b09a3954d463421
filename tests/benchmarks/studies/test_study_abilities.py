"""The study abilities: what its table and its finding make of what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_up import made_up_record

from benchmarks import studies
from benchmarks.matrix import load_matrix
from benchmarks.report.records import Records, gather
from benchmarks.report.table import DASH
from benchmarks.store import Store
from benchmarks.studies.abilities import ABILITIES, abilities, finding, numbers

FREE = {
    "claims_training_on_data": True,
    "claimed_sample_passes": "solver",
    "claimed_density": "estimated",
    "claimed_jacobian": "free-form",
    "gradient_step_gain": 1.0001,
    "sample_operations": 500,
    "sample_operations_growth": 1.2,
    "sample_nfe_growth": 1.2,
    "log_prob_redrawn_gap_nats": 0.1,
    "log_det_jacobian_error_nats": 1e-6,
    "jacobian_entries": 64,
    "jacobian_zero_entries": 0,
    "jacobian_constant_entries": 0,
    "jacobian_rank": 8,
}
COUPLING = FREE | {
    "claimed_sample_passes": "1",
    "claimed_density": "exact",
    "claimed_jacobian": "block-triangular",
    "sample_operations_growth": 1.0,
    "log_prob_redrawn_gap_nats": 0.0,
    "jacobian_zero_entries": 40,
    "jacobian_constant_entries": 44,
    "jacobian_rank": 4,
}
AUTOREGRESSIVE = COUPLING | {
    "claimed_sample_passes": "D",
    "claimed_jacobian": "triangular",
    "sample_operations_growth": 3.9,
    "jacobian_constant_entries": 28,
    "jacobian_rank": 7,
}
LOW_RANK = COUPLING | {
    "claims_training_on_data": False,
    "claimed_jacobian": "low-rank",
    "gradient_step_gain": None,
    "log_prob_redrawn_gap_nats": None,
    "jacobian_constant_entries": 0,
    "jacobian_rank": 1,
}
UNKNOWN = f"{DASH}*"
OF = {"ffjord": FREE, "realnvp": COUPLING, "maf": AUTOREGRESSIVE, "planar": LOW_RANK}


def records(folder: Path, *, seeds: list[int] | None = None, **of: Any) -> Records:
    """Records of the study with what is given for each system; a status for those that failed."""
    store = Store(folder)
    for cell in load_matrix("abilities", seeds=seeds).cells:
        if cell.flow not in of:
            continue
        found = of[cell.flow]
        store.write(made_up_record(cell, found(cell.seed) if callable(found) else found))
    return gather([store])


def rows(found: Records) -> dict[str, list[str]]:
    """By flow: what each ability's cell says, with its mark."""
    (table,) = abilities(found)
    (section,) = table.sections
    assert list(table.columns) == ["flow", *ABILITIES, "the same in the paper"]
    return {row[0].text: [entry.text + entry.mark for entry in row[1:]] for row in section.rows}


@pytest.mark.parametrize("profile", ["small", "full"])
def test_its_cells_are_untrained_and_of_one_layer(profile: Any) -> None:
    cells = load_matrix("abilities", profile=profile).cells
    assert all(cell.budget.steps == 0 and cell.dtype == "float64" for cell in cells)
    depths = [cell.flow_options.get("layers") for cell in cells if cell.flow != "glow"]
    assert {depth for depth in depths if isinstance(depth, int)} == {1}


def test_the_papers_table_is_found_again(tmp_path: Path) -> None:
    found = records(tmp_path, **OF)
    assert rows(found) == {
        "ffjord": ["yes", "yes", "yes", "yes", "yes, yes, yes, yes"],
        "realnvp": ["yes", "yes", "yes", "no", "yes, yes, yes, no"],
        "maf": ["yes", "no", "yes", "no", "yes, no, yes, no"],
        "planar": ["no", "yes", "yes", "no", "no, yes, yes, no"],
    }
    assert finding(found) == (
        "Of 4 flows ffjord has all four abilities; running confirms 16 of 16 of the flows' traits "
        "(weights of 1 seed)."
    )
    (table,) = numbers(found)
    assert len(table.data) == 4


@pytest.mark.parametrize(
    ("change", "column"),
    [
        # A gradient that is not the loss's own.
        ({"gradient_step_gain": 0.98}, 0),
        ({"sample_operations_growth": 4.0}, 1),
        ({"sample_nfe_growth": 4.0}, 1),
        ({"log_det_jacobian_error_nats": 0.1}, 2),
        # Exact by its traits, and each draw another.
        ({"log_prob_redrawn_gap_nats": 0.1}, 2),
        ({"jacobian_constant_entries": 0, "jacobian_rank": 8}, 3),
    ],
)
def test_what_running_does_not_confirm_is_marked(
    tmp_path: Path, change: dict[str, Any], column: int
) -> None:
    found = records(tmp_path, **(OF | {"realnvp": COUPLING | change}))
    row = rows(found)["realnvp"]
    assert [text.endswith("*") for text in row[:-1]] == [place == column for place in range(4)]
    said = finding(found)
    assert said is not None
    assert f"15 of 16 of the flows' traits, all but realnvp ({ABILITIES[column]})" in said


def test_seeds_that_differ_are_no_verdict(tmp_path: Path) -> None:
    def differing(seed: int) -> dict[str, Any]:
        return FREE | {"gradient_step_gain": 1.0 if seed else 0.5}

    found = records(tmp_path, seeds=[0, 1], ffjord=differing, realnvp=COUPLING)
    assert rows(found)["ffjord"][0] == UNKNOWN
    assert rows(found)["realnvp"][0] == "yes"
    said = finding(found)
    assert said is not None
    assert said.startswith("Of 2 flows none has all four abilities")
    assert said.endswith("(weights of 2 seeds).")


def test_nothing_is_said_of_cells_that_failed(tmp_path: Path) -> None:
    found = records(tmp_path, ffjord="error")
    assert list(abilities(found)) == []
    assert list(numbers(found)) == []
    assert finding(found) is None


def test_what_was_not_measured_is_a_dash(tmp_path: Path) -> None:
    none = dict.fromkeys(name for name in FREE if not name.startswith("claim"))
    found = records(tmp_path, ffjord=FREE | none, realnvp=COUPLING)
    assert rows(found)["ffjord"][1:4] == [UNKNOWN, UNKNOWN, UNKNOWN]
    assert studies.study("abilities").answers.startswith("Table 1 of FFJORD")
