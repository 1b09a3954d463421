"""What the tables of quality say of training, rates, errors, splits and faults."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_records import every_table, make_record

import flows
from benchmarks.report import tables
from benchmarks.report.records import gather
from benchmarks.report.table import DASH, Table, as_html, as_latex, as_markdown
from benchmarks.store import Record, Store

T_2 = 4.302652729911275  # Student's t, two-sided 95 %, 2 degrees of freedom.


def store_of(directory: Path, *records: Record) -> Store:
    store = Store(directory)
    for record in records:
        store.write(record)
    return store


def scores(
    flow: str, *nll: float, measures: dict[str, Any] | None = None, **more: Any
) -> list[Record]:
    return [
        make_record(
            flow, seed=seed, measures={"nll_nats": value, "steps": 200, **(measures or {})}, **more
        )
        for seed, value in enumerate(nll)
    ]


def tables_of(directory: Path, *records: Record) -> dict[str, Table]:
    return {table.name: table for table in every_table(gather([store_of(directory, *records)]))}


def column(table: Table, position: int = 2) -> dict[str, Any]:
    return {row[0].text: row[position] for row in table.sections[0].rows}


# -- untrained flows ----------------------------------------------------------------------------


def untrained(flow: str, *nll: float, **more: Any) -> list[Record]:
    measures = {
        "steps": 0,
        "kl_to_truth_nats": 0.5,
        "truth_entropy_nats": 1.0,
        "train_step_seconds": 0.01,
        "nfe_train_forward": 8,
    }
    return scores(flow, *nll, steps=0, measures=measures, **more)


def test_an_untrained_flow_is_in_no_table_of_quality(tmp_path: Path) -> None:
    records = [*untrained("maf", 1.0, 1.1, 1.2), *untrained("glow", 2.0, 2.1, 2.2)]
    tables = tables_of(tmp_path, *records)
    assert set(tables) == {"cost", "failures"}
    words = as_markdown(tables["cost"])
    assert "of the trained flow" not in words
    assert "of the untrained flow (steps = 0)" in words
    assert "maf (untrained)" in words


def test_trained_and_untrained_are_told_apart(tmp_path: Path) -> None:
    timed = {"train_step_seconds": 0.01}
    records = [*scores("maf", 1.0, 1.2, measures=timed), *untrained("glow", 0.1, 0.2)]
    tables = tables_of(tmp_path, *records)
    assert list(column(tables["comparison"])) == ["maf · steps 200"]
    cost = tables["cost"]
    marked = {row[0].text: row[0].remark for row in cost.sections[0].rows}
    assert marked == {"maf · steps 200": "trained", "glow · steps 0": "untrained"}
    assert "where the row says so" in as_markdown(cost)
    records_of = gather([Store(tmp_path)])
    assert any("2 cells of untrained flows" in note for note in records_of.notes)


def test_dimension_against_cost_alone_where_nothing_was_trained(tmp_path: Path) -> None:
    records = [
        untrained(
            "maf",
            1.0,
            dataset="gaussian",
            dimension=d,
            dataset_options={"dimension": d},
            dataset_label=f"gaussian[dimension={d}]",
        )[0]
        for d in (2, 8)
    ]
    (table,) = tables.dimension(gather([store_of(tmp_path, *records)]))
    assert table.title.startswith("Cost against dimension")
    assert not any("KL" in heading for heading in table.columns)


# -- the best -----------------------------------------------------------------------------------


def test_one_seed_and_ties_of_all_are_no_win(tmp_path: Path) -> None:
    one = tables_of(tmp_path / "one", *scores("maf", 1.0), *scores("glow", 2.0))["comparison"]
    tied = [*scores("maf", 1.0, 1.2, 1.1), *scores("glow", 1.1, 1.1, 1.15)]
    all_tied = tables_of(tmp_path / "tied", *tied)["comparison"]
    for table in (one, all_tied):
        assert not any(entry.bold for entry in column(table).values())
        assert not table.data["best"].any()
        assert any("No flow is marked as the best" in note for note in table.notes)


def test_a_lost_seed_that_scores_lower_leaves_no_best(tmp_path: Path) -> None:
    records = [*scores("maf", 1.0, 1.1, 1.2), *scores("glow", 2.0, 2.1, 2.2)]
    records += [
        *scores("realnvp", 0.1, 0.2),
        make_record("realnvp", seed=2, status="diverged", reason="NaN"),
    ]
    table = tables_of(tmp_path, *records)["comparison"]
    assert not any(entry.bold for entry in column(table).values())


# -- errors, estimates, tails -------------------------------------------------------------------


def test_density_that_is_an_estimate_is_marked_and_explained(tmp_path: Path) -> None:
    estimated = {"density_estimated": True}
    records = [*scores("ffjord", 1.0, 1.1, measures=estimated), *scores("maf", 2.0, 2.1)]
    table = tables_of(tmp_path, *records)["comparison"]
    marks = {name: entry.mark for name, entry in column(table).items()}
    assert marks == {"ffjord": "†", "maf": ""}
    assert any(note.startswith("†: the test density is itself") for note in table.notes)
    assert table.data.set_index("flow")["density_estimated"].to_dict() == {
        "ffjord": True,
        "maf": False,
    }


def test_kl_by_quadrature_has_no_error_over_test_points(tmp_path: Path) -> None:
    quadrature = {"kl_by_quadrature": True, "kl_to_truth_nats": 0.3, "kl_to_truth_test_nats": 0.2}
    by_points = {"kl_to_truth_nats": 0.4, "kl_to_truth_nats_stderr": 0.01}
    on = {"dataset": "gaussian", "dimension": 8, "dataset_options": {"dimension": 8}}
    table = tables_of(
        tmp_path,
        *scores("maf", 1.0, measures=quadrature),
        *scores("maf", 1.0, measures=by_points, **on),
    )["kl"]
    (row,) = table.sections[0].rows
    assert [entry.text for entry in row[2:]] == ["0.300", "0.400"]
    assert [entry.also for entry in row[2:]] == ["", "0.020"]
    (said,) = (note for note in table.notes if "quadrature" in note)
    assert "(8gaussians)" in said
    assert table.data["kl_to_truth_test_nats"].to_list()[0] == 0.2


def test_the_median_stands_beside_a_mean_that_few_points_carry(tmp_path: Path) -> None:
    quiet = {"nll_median_nats": 0.9, "nll_largest_share": 0.02, "nll_nats_stderr": 0.01}
    heavy = {"nll_median_nats": 0.3, "nll_largest_share": 0.6, "nll_nats_stderr": 0.05}
    table = tables_of(
        tmp_path, *scores("maf", 1.0, measures=quiet), *scores("realnvp", 5.0, measures=heavy)
    )["comparison"]
    (tails,) = (section for section in table.sections if section.title.startswith("Median"))
    assert [[entry.text for entry in row] for row in tails.rows] == [["realnvp", "", "0.300"]]
    assert tails.rows[0][2].remark == "largest: 60 %"
    assert set(table.data["nll_median_nats"]) == {0.9, 0.3}
    # Where nothing is to be said the numbers are in the CSV all the same.
    table = tables_of(tmp_path / "calm", *scores("maf", 1.0, measures=quiet))["comparison"]
    assert not any(section.title.startswith("Median") for section in table.sections)
    assert table.data["nll_largest_share"].item() == 0.02


def test_rows_outside_a_splines_box_are_said(tmp_path: Path) -> None:
    outside = {"outside_fraction": 0.44}
    table = tables_of(tmp_path, *scores("rqnsf-c", 1.0, measures=outside))["comparison"]
    assert any("rqnsf-c on 8gaussians 44 %" in note for note in table.notes)


# -- splits -------------------------------------------------------------------------------------


def test_several_splits_are_averaged_over_seeds_first(tmp_path: Path) -> None:
    def on_split(split: int, *nll: float) -> list[Record]:
        label = f"power[rows=500,split={split}]" if split else "power[rows=500]"
        found = scores(
            "maf",
            *nll,
            dataset="power",
            dataset_label=label,
            dataset_options={"rows": 500, "split": split},
        )
        for record in found:
            record.data_hashes = {"train": f"of split {split}"}
        return found

    # One split with two seeds, two with one: a mean over all cells would weigh the first twice.
    records = [*on_split(0, 1.0, 2.0), *on_split(1, 3.0), *on_split(2, 4.5)]
    gathered = gather([store_of(tmp_path, *records)])
    assert not any("data have changed" in note for note in gathered.notes)
    (table,) = tables.comparison(gathered)
    assert table.columns[-1] == "power[rows=500]"
    means = [1.5, 3.0, 4.5]
    half_width = T_2 * np.std(means, ddof=1) / math.sqrt(3)
    entry = column(table)["maf"]
    assert (entry.text, entry.plus_minus, entry.over) == ("3.000", f"{half_width:.3f}", "splits")
    assert any("Several splits (power[rows=500]: 3)" in note for note in table.notes)
    assert not any("All seeds share one split" in note for note in table.notes)


# -- learning rates -----------------------------------------------------------------------------


def rated(flow: str, rate: float, *nll: float, more: dict[str, Any] | None = None) -> list[Record]:
    """Cells whose budget, not only whose tested weights, have a learning rate."""
    found = []
    for record in scores(flow, *nll, measures={"learning_rate": rate, **(more or {})}):
        budget = record.cell.budget.model_copy(update={"learning_rate": rate})
        cell = record.cell.model_copy(update={"budget": budget})
        # A copy keeps what was computed of the original, the key too.
        cell = type(cell).model_validate(cell.model_dump())
        found.append(record.model_copy(update={"cell": cell, "key": cell.key}))
    return found


def test_contestants_of_different_rates_are_compared(tmp_path: Path) -> None:
    records = [*rated("maf", 3e-3, 1.0, 1.1, 1.2), *rated("glow", 1e-2, 2.0, 2.11, 2.19)]
    table = tables_of(tmp_path, *records)["comparison"]
    assert {name: entry.text for name, entry in column(table, 1).items()} == {
        "maf": "0.003",
        "glow": "0.01",
    }
    assert column(table)["maf"].bold


def test_a_contestant_of_several_rates_has_a_row_for_each(tmp_path: Path) -> None:
    records = [
        *rated("maf", 3e-3, 1.0, 1.1, 1.2),
        *rated("maf", 1e-2, 3.0, 3.11, 3.19),
        *rated("glow", 1e-2, 2.0, 2.11, 2.19),
    ]
    table = tables_of(tmp_path, *records)["comparison"]
    shown = {name: (entry.text, entry.bold) for name, entry in column(table).items()}
    # All of one rule: one best among the three.
    assert shown == {
        "maf · learning rate 0.003": ("1.100", True),
        "maf · learning rate 0.01": ("3.100", False),
        "glow": ("2.100", False),
    }


def test_tuned_rates_tell_their_price_and_the_edge(tmp_path: Path) -> None:
    price = {"tuning_seconds": 12.0, "tuning_steps": 900}
    records = [
        make_record("maf", seed=seed, measures={"nll_nats": 1.0 + seed, "steps": 200} | price | own)
        for seed, own in enumerate(
            (
                {"learning_rate": 1e-3, "learning_rate_at_edge": True},
                {"learning_rate": 3e-3, "learning_rate_at_edge": False},
            )
        )
    ]
    table = tables_of(tmp_path, *records)["comparison"]
    # Seeds that chose differently are one contestant.
    rate = column(table, 1)["maf"]
    assert (rate.text, rate.remark) == ("0.001 to 0.003", "tuned, at the edge of the grid")
    assert column(table)["maf"].text == "1.500"
    said = " ".join(table.notes)
    assert "price of the whole grid, mean over cells: maf 900 steps, 12 s" in said
    assert "maf on 8gaussians, 1 of 2 tuned cells" in said


def test_rates_that_differ_between_data_sets_stand_in_their_order(tmp_path: Path) -> None:
    records = [
        *scores("maf", 1.0, measures={"learning_rate": 1e-2}),
        *scores("maf", 1.0, measures={"learning_rate": 3e-3}, dataset="checkerboard"),
    ]
    table = tables_of(tmp_path, *records)["comparison"]
    assert table.columns[2:] == ["8gaussians", "checkerboard"]
    assert column(table, 1)["maf"].text == "0.01 / 0.003"
    assert any("in the columns' order" in note for note in table.notes)


# -- remarks, literature ------------------------------------------------------------------------


def test_remarks_of_the_catalog_become_footnotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = flows.entry

    class Remarked:
        """An entry with a remark of this test's."""

        def __init__(self, name: str) -> None:
            self._entry = entry(name)
            self.remark = "a fault of the library" if "/" in name else ""

        def __getattr__(self, name: str) -> Any:
            return getattr(self._entry, name)

    monkeypatch.setattr(flows, "entry", Remarked)
    timed = {"train_step_seconds": 0.01}
    names = ("maf", "zuko/maf", "nflows/maf", "someone/else")
    records = [record for name in names for record in scores(name, 1.0, measures=timed)]
    tables = tables_of(tmp_path, *records)
    for name in ("comparison", "cost"):
        marks = {row[0].text: row[0].mark for row in tables[name].sections[0].rows}
        assert marks == {"maf": "", "zuko/maf": "a", "nflows/maf": "a", "someone/else": ""}
        assert "a: a fault of the library" in tables[name].notes


def test_published_numbers_name_their_recipe(tmp_path: Path) -> None:
    records = gather([store_of(tmp_path, *scores("glow", 1.0, dataset="power"))])
    (table,) = tables.published(records)
    recipes = {row[1].text: row[5].text for row in table.sections[0].rows}
    assert recipes["Glow, NSF paper's run"] == "trained again by NSF's authors"
    (comparison,) = tables.comparison(records)
    shown = {row[0].text.partition(" (")[0] for row in comparison.sections[-1].rows}
    assert shown == {"Gaussian", "Glow, FFJORD paper's run", "Glow, NSF paper's run"}


# -- what a density costs -----------------------------------------------------------------------


def test_estimate_and_exact_density_stand_side_by_side(tmp_path: Path) -> None:
    estimated = {
        "log_prob_seconds": 0.004,
        "log_prob_exact_seconds": 0.064,
        "nfe_log_prob": 26,
        "nfe_log_prob_exact": 28,
    }
    exact = {"log_prob_seconds": 0.002, "nfe_log_prob": 5}
    records = gather(
        [
            store_of(
                tmp_path,
                *scores("ffjord", 1.0, measures=estimated),
                *scores("maf", 1.0, measures=exact),
            )
        ]
    )
    (table,) = tables.cost(records)
    at = {heading: position for position, heading in enumerate(table.columns)}
    rows = {row[0].text: row for row in table.sections[0].rows}

    def shown(flow: str) -> list[str]:
        names = ("log_prob [ms]", "log_prob, exact [ms]", "NFE log_prob", "NFE log_prob, exact")
        return [f"{e.text}{e.mark}" for e in (rows[flow][at[name]] for name in names)]

    assert shown("ffjord") == ["4.00†", "64.0", "26†", "28"]
    assert shown("maf") == ["2.00", DASH, "5", DASH]
    assert any("costs what stands under exact" in note for note in table.notes)


def test_training_in_company_is_remarked(tmp_path: Path) -> None:
    cost = {"train_seconds": 5.0, "nfe_train_forward": 8}
    shared = {**cost, "training_shared": True}
    table = tables_of(
        tmp_path, *scores("maf", 1.0, measures=cost), *scores("glow", 1.0, measures=shared)
    )["cost"]
    last = {row[0].text: (row[-1].text, row[-1].mark) for row in table.sections[0].rows}
    assert last == {"maf": ("5.00", ""), "glow": ("5.00", "§")}
    assert any("§: in 1 of 2 cells" in note for note in table.notes)


def test_all_forms_show_both_errors_by_name(tmp_path: Path) -> None:
    error = {"nll_nats_stderr": 0.01}
    table = tables_of(tmp_path, *scores("maf", 1.0, 1.1, measures=error))["comparison"]
    half_width = column(table)["maf"].plus_minus
    assert f"1.050 ± {half_width} (seeds) ± 0.020 (points)" in as_markdown(table)
    assert rf"$1.050 \pm {half_width}$ (seeds) $\pm 0.020$ (points)" in as_latex(table)
    html = as_html(table)
    assert html.index("(seeds)") < html.index("± 0.020") < html.index("(points)")
