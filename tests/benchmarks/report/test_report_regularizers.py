"""The table of what regularisers save: pairs, differences and intervals by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_records import every_table, make_record

from benchmarks.report import tables
from benchmarks.report.records import gather
from benchmarks.report.table import as_latex, as_markdown
from benchmarks.report.tables.regularizers import regularizer_cells
from benchmarks.store import Record, Store

T_2 = 4.302652729911275  # Student's t, two-sided 95 %, 2 degrees of freedom.


def trained(
    seed: int,
    nll: float,
    forward: float,
    backward: float,
    *,
    energy: float = 0.0,
    sample: float = 26.0,
    seconds: float | None = None,
    **more: Any,
) -> Record:
    """One cell of FFJORD with a weight of the kinetic energy."""
    options = {"kinetic_energy": energy, "jacobian_norm": 0.0, "atol": 1e-4} | more.pop("own", {})
    measures = {
        "nll_nats": nll,
        "nfe_train_forward": forward,
        "nfe_train_backward": backward,
        "nfe_log_prob": 2 * forward,
        "nfe_sample": sample,
        "steps": 200,
        "train_nfe": 180 * (forward + backward),
    }
    if seconds is not None:
        measures |= {"train_step_seconds": seconds, "cost_shared": False}
    label = f"ffjord[kinetic_energy={energy}]" if energy else "ffjord"
    return make_record(
        "ffjord",
        seed=seed,
        measures=measures,
        flow_options=options,
        flow_label=more.pop("label", label),
        **more,
    )


def store_of(directory: Path, *records: Record) -> Store:
    store = Store(directory)
    for record in records:
        store.write(record)
    return store


def test_savings_are_paired_by_seed(tmp_path: Path) -> None:
    without = [(2.9, 30, 20), (3.0, 40, 30), (3.1, 50, 42)]
    held = [(2.95, 24, 16), (3.02, 30, 22), (3.2, 32, 28)]
    records = [trained(seed, *row) for seed, row in enumerate(without)]
    records += [trained(seed, *row, energy=0.01) for seed, row in enumerate(held)]
    (table,) = tables.regularizers(gather([store_of(tmp_path, *records)]))
    (row,) = table.data.to_dict("records")
    assert (row["flow"], row["without"], row["paired_seeds"]) == (
        "ffjord[kinetic_energy=0.01]",
        "ffjord",
        3,
    )

    saved = np.array([10.0, 18.0, 32.0])
    share = 100 * saved / np.array([50.0, 70.0, 92.0])
    assert row["nfe_train_step"] == pytest.approx(np.mean([40, 52, 60]))
    assert row["nfe_train_step_saved"] == pytest.approx(saved.mean())
    half_width = T_2 * saved.std(ddof=1) / math.sqrt(3)
    assert row["nfe_train_step_saved_half_width"] == pytest.approx(half_width)
    assert row["nfe_train_step_saved_percent"] == pytest.approx(share.mean())
    percent_half_width = T_2 * share.std(ddof=1) / math.sqrt(3)
    assert row["nfe_train_step_saved_percent_half_width"] == pytest.approx(percent_half_width)
    assert row["nfe_training"] == pytest.approx(0.9 * row["nfe_train_step"])
    assert row["nfe_training_saved"] == pytest.approx(0.9 * saved.mean())
    assert row["nfe_training_saved_half_width"] == pytest.approx(0.9 * half_width)
    assert row["nll_nats_increase"] == pytest.approx(np.mean([0.05, 0.02, 0.1]))
    assert row["nfe_log_prob_saved"] == pytest.approx(2 * np.mean([6, 10, 18]))
    assert row["nfe_sample_saved"] == 0

    shown = as_markdown(table)
    assert f"20.0 ± {half_width:.1f} ({share.mean():.0f} ± {percent_half_width:.0f} %)" in shown
    assert "+0.057 ±" in shown
    assert "train step [ms]" not in shown
    assert r"\%" in as_latex(table)


def test_a_twin_shares_everything_but_the_weights(tmp_path: Path) -> None:
    records = [
        trained(0, 3.0, 30, 20),
        # Another seed, tolerance, budget or data set makes no twin.
        trained(1, 3.1, 20, 15, energy=0.01),
        trained(0, 3.1, 20, 15, energy=0.01, own={"atol": 1e-5}, label="ffjord[atol=1e-5]"),
        trained(0, 3.1, 20, 15, energy=0.01, steps=900),
        trained(0, 3.1, 20, 15, energy=0.01, dataset="checkerboard"),
        make_record("maf", measures={"nll_nats": 2.9}),
    ]
    alone = gather([store_of(tmp_path / "alone", *records)])
    assert regularizer_cells(alone).empty
    assert tables.regularizers(alone) == []
    assert "regularizers" not in [table.name for table in every_table(alone)]

    together = gather([store_of(tmp_path / "both", *records, trained(0, 3.1, 25, 20, energy=0.1))])
    cells = regularizer_cells(together)
    assert sorted(cells["nfe_train_step"]) == [45, 50]
    assert "regularizers" in [table.name for table in every_table(together)]


def test_a_failed_twin_is_no_twin(tmp_path: Path) -> None:
    failed = trained(0, 3.0, 30, 20).model_copy(update={"status": "diverged", "measures": {}})
    records = gather([store_of(tmp_path, failed, trained(0, 3.1, 25, 20, energy=0.1))])
    assert tables.regularizers(records) == []


def test_fewer_seeds_and_slower_steps_are_said(tmp_path: Path) -> None:
    records = [trained(seed, 3.0 + seed, 30, 20, seconds=0.02) for seed in range(3)]
    records += [trained(seed, 3.1 + seed, 26, 20, energy=0.01, seconds=0.02) for seed in range(3)]
    records.append(trained(0, 2.5, 24, 20, energy=0.1, sample=32, seconds=0.032))
    (table,) = tables.regularizers(gather([store_of(tmp_path, *records)]))
    row = table.data.set_index("flow").loc["ffjord[kinetic_energy=0.1]"]
    # Against the same seed, and not against the mean over all.
    assert row["nll_nats_increase"] == pytest.approx(-0.5)
    assert math.isnan(row["nll_nats_increase_half_width"])
    assert row["train_step_seconds_saved"] == pytest.approx(-0.012)
    shown = as_markdown(table)
    assert "(seeds 1 of 3)" in shown
    assert "-12.0 (-60 %)" in shown
    assert "-6.0 (-23 %)" in shown
