"""The first screen: a winner only with an interval, and what is missing for one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from synthetic_records import make_record, write_quick

from benchmarks.report import write_report
from benchmarks.report.answer import answer
from benchmarks.report.figures import Drawn
from benchmarks.report.records import gather
from benchmarks.report.sections import sections_of
from benchmarks.store import Record, Store

LOWEST = "Lowest test NLL on 8gaussians, after 200 training steps each"
Answer = tuple[tuple[str, ...], Drawn | None]


def answer_of(directory: Path, records: list[Record]) -> Answer:
    store = Store(directory)
    for record in records:
        store.write(record)
    return answer(sections_of(gather([store])))


def runs(
    flow: str, nll: list[float], seconds: float | None, dataset: str = "8gaussians", **more: Any
) -> list[Record]:
    cost = {} if seconds is None else {"train_step_seconds": seconds}
    return [
        make_record(
            flow,
            dataset,
            seed,
            measures={"nll_nats": value, "validation_nll_nats": value, **cost},
            **more,
        )
        for seed, value in enumerate(nll)
    ]


def test_the_lowest_leads_by_a_paired_interval_and_costs_a_ratio(tmp_path: Path) -> None:
    (first, second, third), picture = answer_of(
        tmp_path,
        [
            *runs("ffjord", [2.0, 2.2, 2.4], 0.30),
            *runs("maf", [2.2, 2.4, 2.8], 0.02),
            *runs("glow", [3.0, 3.2, 3.5], 0.04),
        ],
    )
    # Of two dimensions. maf: 0.1, 0.1 and 0.2 above, 0.133 with 4.303 * 0.0577 / sqrt(3) = 0.143;
    # glow: 0.5, 0.5 and 0.55.
    assert first.startswith(f"{LOWEST}: ffjord and maf, which the seeds do not tell apart")
    assert "glow lies 0.517 ± 0.072 nats per dimension (3 seeds) above ffjord" in first
    assert "a training step 15 (15 to 15) times maf's" in second
    assert "nobody beats maf and ffjord; maf beats glow" in third
    assert picture is not None


def test_a_clear_winner_is_named_alone(tmp_path: Path) -> None:
    (first, *_), _ = answer_of(
        tmp_path,
        [*runs("ffjord", [2.0, 2.2, 2.4], 0.3), *runs("maf", [2.2, 2.4, 2.62], 0.02)],
    )
    assert first.startswith(f"{LOWEST}: ffjord; maf lies 0.103 ± 0.014")


def test_one_seed_has_no_winner(tmp_path: Path) -> None:
    (first, _, third), picture = answer_of(
        tmp_path, [*runs("ffjord", [2.0], 0.3), *runs("maf", [2.5], 0.02)]
    )
    assert first.startswith("Nobody wins yet on 8gaussians, for want of an interval")
    assert "±" not in first
    assert third == "Missing for an answer: a second seed, for intervals."
    assert picture is not None
    assert "no intervals" in picture.caption


def test_without_times_the_cost_is_not_known(tmp_path: Path) -> None:
    (first, second, third), picture = answer_of(
        tmp_path, [*runs("ffjord", [2.0, 2.1], None), *runs("maf", [2.5, 2.6], None)]
    )
    assert f"{LOWEST}: ffjord" in first
    assert "not known" in second
    assert "times (the measures time or work)" in third
    assert picture is not None


def test_untrained_flows_are_compared_by_cost_alone(tmp_path: Path) -> None:
    records = [
        *runs("ffjord", [9.0, 9.1], 0.3, steps=0),
        *runs("maf", [1.0, 1.1], 0.02, steps=0),
    ]
    (first, second, third), picture = answer_of(tmp_path, records)
    assert first.startswith("Nobody wins: on 8gaussians no flow was trained")
    assert "15 (15 to 15) times maf's" in second
    assert "trained flows" in third
    assert picture is not None
    assert "untrained" in picture.title


def test_a_system_that_lost_a_seed_is_not_placed(tmp_path: Path) -> None:
    records = [
        *runs("ffjord", [2.0, 2.1], 0.3),
        *runs("maf", [2.5, 2.6], 0.02),
        *runs("nice", [1.0], 0.02),
        make_record("nice", "8gaussians", 1, status="diverged", reason="NaN"),
    ]
    (first, *_), picture = answer_of(tmp_path, records)
    assert "ffjord" in first
    assert "nice" not in first
    assert picture is not None
    assert "Without a result on all of this: nice" in picture.caption


def test_of_variants_the_one_that_validates_best_stands_for_its_system(tmp_path: Path) -> None:
    wide = {"flow_options": {"hidden": [9]}, "flow_label": "maf[hidden=9]"}
    records = [
        *runs("ffjord", [2.0, 2.2], 0.3),
        *runs("maf", [2.5, 2.7], 0.02),
        *runs("maf", [2.3, 2.5], 0.04, **wide),
    ]
    (first, second, _), _ = answer_of(tmp_path, records)
    assert "maf lies 0.150 ± 0.000 nats per dimension (2 seeds) above it" in first
    assert "7.5 (7.5 to 7.5) times maf's" in second


def test_data_sets_count_alike_and_only_those_that_all_share(tmp_path: Path) -> None:
    records = [
        *runs("ffjord", [2.0, 2.2], 0.3),
        *runs("maf", [2.5, 2.7], 0.02),
        *runs("ffjord", [3.0, 3.2], 0.3, "checkerboard"),
        *runs("maf", [2.5, 2.7], 0.03, "checkerboard"),
        *runs("maf", [2.5, 2.7], 0.03, "power"),
        *runs("glow", [2.5, 2.8], 0.03, "power"),
    ]
    (first, second, _), picture = answer_of(tmp_path, records)
    # Half a nat each way: none is ahead over both, and each on one.
    assert first.startswith("Nobody wins by test NLL on 2 data sets (8gaussians, checkerboard)")
    assert f"a training step {math.sqrt(15 * 10):.3g} " in second
    assert picture is not None
    assert "Other data, each in its section: power" in picture.caption


def test_nothing_in_common_is_said(tmp_path: Path) -> None:
    sentences, picture = answer_of(
        tmp_path, [*runs("ffjord", [2.0], 0.3), *runs("maf", [2.5], 0.02, "power")]
    )
    assert len(sentences) == 1
    assert sentences[0].startswith("Nobody wins: of 2 cells")
    assert picture is None


@pytest.mark.slow
def test_the_page_begins_with_it(tmp_path: Path) -> None:
    store = write_quick(tmp_path / "run", seeds=2)
    sentences, picture = answer(sections_of(gather([store])))
    write_report([store], tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    header = page[: page.index("</header>")]
    assert len(sentences) == 3
    assert picture is not None
    assert all(sentence.replace("'", "&#39;") in header for sentence in sentences)
    assert header.count("<svg") == 1
