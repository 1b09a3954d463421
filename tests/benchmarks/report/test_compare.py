"""Two runs side by side: what is worse is found, equal runs are equal, the rest is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call
from synthetic_records import make_record

from benchmarks.errors import StoreError
from benchmarks.report.compare import compare, write_comparison
from benchmarks.store import Store

SEEDS = range(4)


def run(
    folder: Path,
    *,
    slower: float = 1.0,
    nats: float = 0.0,
    noise: int = 0,
    seeds: Any = SEEDS,
    **more: Any,
) -> Store:
    """A run of two flows whose noise differs from seed to seed by 1 %; the first is changed."""
    store = Store(folder)
    for place, flow in enumerate(("realnvp", "maf")):
        for seed in seeds:
            jitter = np.random.default_rng([noise, place, seed]).normal(size=3)
            changed = flow == "realnvp"
            found = {
                "nll_nats": 1.0 + 0.1 * seed + nats * changed + 0.002 * jitter[0],
                "train_step_seconds": 0.01 * (slower if changed else 1) * (1 + 0.01 * jitter[1]),
                "nfe_log_prob": 10,
            }
            store.write(make_record(flow, seed=seed, measures=found, **more))
    return store


def test_a_run_against_itself_is_the_same(tmp_path: Path) -> None:
    store = run(tmp_path / "a")
    found = compare(store, store)
    assert not found.worse
    assert not found.better
    assert set(found.table.data["change"]) == {"same"}
    assert len(found.table.data) == 6


def test_equal_runs_with_other_noise_are_the_same(tmp_path: Path) -> None:
    found = compare(run(tmp_path / "a"), run(tmp_path / "b", noise=1))
    assert (found.worse, found.better) == ((), ())


def test_what_became_slower_is_worse_by_as_much(tmp_path: Path) -> None:
    found = compare(run(tmp_path / "a"), run(tmp_path / "b", slower=1.5, noise=1))
    (sentence,) = found.worse
    assert sentence.startswith("realnvp on 8gaussians: train_step_seconds by +")
    data = found.table.data.set_index(["contestant", "measure"])
    row = data.loc[("realnvp", "train_step_seconds")]
    assert row["difference"] == pytest.approx(50, abs=3)
    assert row["pairs"] == 4
    assert not found.better


def test_what_scores_lower_is_better(tmp_path: Path) -> None:
    found = compare(run(tmp_path / "a"), run(tmp_path / "b", nats=-0.5, noise=1))
    assert not found.worse
    (sentence,) = found.better
    assert "nll_nats by -0.4" in sentence or "nll_nats by -0.5" in sentence


def test_one_seed_is_not_judged(tmp_path: Path) -> None:
    found = compare(run(tmp_path / "a", seeds=[0]), run(tmp_path / "b", slower=3, seeds=[0]))
    assert not found.worse
    assert found.unsure == 6
    assert "one seed" in found.finding


def test_cells_that_fail_now_are_worse(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a"), Store(tmp_path / "b")
    for seed in SEEDS:
        second.write(make_record("realnvp", seed=seed, status="diverged", reason="infinite"))
    found = compare(first, second)
    assert found.worse == ("realnvp on 8gaussians: 4 more cells without a result (diverged)",)
    assert any("1 contestants" in note for note in found.table.notes)


def test_times_of_other_machines_are_not_compared_and_scores_are(tmp_path: Path) -> None:
    here = make_record().environment
    there = {**here, "machine": "Other CPU", "torch": "2.11.0"}
    found = compare(run(tmp_path / "a"), run(tmp_path / "b", slower=2, noise=1, environment=there))
    assert not found.worse
    assert "train_step_seconds" not in set(found.table.data["measure"])
    assert "nll_nats" in set(found.table.data["measure"])
    assert "Times are not compared where the machines differ." in found.table.notes
    assert "Torch: 2.13.0; then 2.11.0." in found.table.notes


def test_other_data_are_not_compared(tmp_path: Path) -> None:
    stores = []
    for name in ("a", "b"):
        store = Store(tmp_path / name)
        for seed in SEEDS:
            record = make_record(seed=seed, measures={"nll_nats": 1.0})
            hashes = dict.fromkeys(("train", "validation", "test"), name * 8)
            store.write(record.model_copy(update={"data_hashes": hashes}))
        stores.append(store)
    found = compare(*stores)
    assert found.table.data.empty
    assert "Nothing can be compared" in found.finding
    assert any("the data differ" in note for note in found.table.notes)


def test_runs_of_other_things_are_refused(tmp_path: Path) -> None:
    other = Store(tmp_path / "b")
    other.write(make_record("maf", dataset="power"))
    with pytest.raises(StoreError, match="no cell in common"):
        compare(run(tmp_path / "a"), other)


def test_the_command_ends_with_1_where_something_is_worse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "a")
    run(tmp_path / "b", slower=1.5, noise=1)
    assert call("compare", tmp_path / "a", tmp_path / "a", capsys=capsys)[0] == 0
    words = ("compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "page")
    code, out, _ = call(*words, capsys=capsys)
    assert code == 1
    assert "worse: realnvp on 8gaussians: train_step_seconds" in out
    page = (tmp_path / "page" / "index.html").read_text()
    assert "Worse: realnvp" in page
    assert (tmp_path / "page" / "tables" / "compare.csv").is_file()


def test_a_comparison_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    store = run(tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write the comparison"):
        write_comparison(compare(store, store), tmp_path / "file")
