"""What counts as a change, how it is said, and how the history is shown."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.perf import page
from benchmarks.perf.history import Value, changes, explain, sorted_by_size, steps
from benchmarks.report.style import looks

ROOT = Path(__file__).resolve().parents[3]
THRESHOLDS = {".*track_nfe.*": 0.02, ".*time_.*": 0.25}
FAILED = math.nan


def given(
    value: float,
    best: float | None = None,
    *,
    benchmark: str = "families.LogProb.time_log_prob",
    flow: str = "maf",
    unit: str = "seconds",
    version: str = "1",
    commit: str = "c",
    more: str = "",
) -> Value:
    best = value if best is None else best
    call = f"{benchmark}('{flow}')"
    words = f"flow = {flow}{more}"
    return Value(
        "cpu-2core", "gpu none", benchmark, version, words, call, unit, commit, value, best
    )


def nfe(value: float, *, version: str = "1") -> Value:
    return given(value, benchmark="families.Work.track_nfe", unit="evaluations", version=version)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (given(1.0, 0.9), given(1.2, 1.1), []),  # within the threshold
        (given(1.0, 0.9), given(1.5, 0.95), []),  # the machine was busy for a while
        (given(1.0, 0.5), given(1.1, 0.9), []),  # a lucky sample before
        (given(1.0, 0.9), given(1.5, 1.3), [True]),
        (given(1.5, 1.3), given(1.0, 0.9), [False]),
        (given(1.5, 0.95), given(1.0, 0.9), []),
        (given(1.0), given(FAILED), [True]),
        (given(FAILED), given(1.0), [False]),
        (given(FAILED), given(FAILED), []),
        (nfe(100), nfe(103), [True]),
        (nfe(100), nfe(102), []),
        # Zero cannot be exceeded by a fraction of itself, so anything is more.
        (nfe(0), nfe(1), [True]),
        # Versions are not compared.
        (nfe(1), nfe(9, version="2"), []),
    ],
)
def test_each_kind_has_its_threshold_and_a_time_is_past_it_in_median_and_best_sample(
    old: Value, new: Value, found: list[bool]
) -> None:
    assert [change.worse for change in changes([old], [new], THRESHOLDS)] == found


def test_a_regression_is_named_in_words() -> None:
    (change,) = changes([given(0.010)], [given(0.020)], THRESHOLDS)
    assert change.sentence() == (
        "families.LogProb.time_log_prob (flow = maf): 10 ms -> 20 ms, 2 times as much "
        "(threshold 1.25)"
    )
    (failed,) = changes([nfe(26)], [nfe(FAILED)], THRESHOLDS)
    assert failed.sentence() == (
        "families.Work.track_nfe (flow = maf) fails; it gave 26 evaluations before"
    )
    (works,) = changes([nfe(FAILED)], [nfe(26)], THRESHOLDS)
    assert works.sentence().endswith("works again: 26 evaluations")
    assert sorted_by_size([change, works, failed]) == ([failed, change], [works])
    said = explain("families.LogProb.time_log_prob", ROOT / "benchmarks/perf/suite")
    assert re.fullmatch(r"Log-density of a .* \(benchmarks/perf/suite/families.py:\d+\)", said)


def test_a_pattern_selects_one_line() -> None:
    value = given(1.0)
    assert re.search(value.pattern, value.call)
    assert not re.search(value.pattern, value.call.replace("maf", "maf-mog"))
    assert "'" not in value.pattern


def test_a_time_that_is_back_at_the_next_commit_was_the_machines_doing() -> None:
    lasting = [
        given(v, commit=c) for c, v in zip("abcd", (0.010, 0.011, 0.022, 0.023), strict=True)
    ]
    assert [(c.before.commit, c.after.commit) for c in steps(lasting, THRESHOLDS)] == [("b", "c")]
    blip = [given(0.010), given(0.020), given(0.011)]
    assert not steps(blip, THRESHOLDS)
    # What is counted is never the machine's doing.
    assert [change.worse for change in steps([nfe(10), nfe(20), nfe(11)], THRESHOLDS)] == [
        True,
        False,
    ]


def history(values: Sequence[float]) -> tuple[list[Value], dict[str, str]]:
    commits = [letter * 40 for letter in "abcdefgh"[: len(values)]]
    subjects = {commit: f"{commit[:7]} (what <{commit[0]}> did)" for commit in commits}
    return [given(v, commit=c) for v, c in zip(values, commits, strict=True)], subjects


def test_the_page_shows_where_it_became_worse_and_needs_nothing_else(tmp_path: Path) -> None:
    values, subjects = history([0.010, 0.011, 0.022])
    text = page.write(values, subjects, THRESHOLDS, tmp_path).read_text()
    regressions = text.partition("Regressions</th>")[2].partition("Gains</th>")[0]
    for said in ("11 ms", "22 ms", ">2<", "1.25", "bbbbbbb to ccccccc"):
        assert said in regressions, said
    assert "none past the thresholds" in text.partition("Gains</th>")[2]
    assert "bbbbbbb (what &lt;b&gt; did)" in text
    assert "▄▄█" in text
    assert "2 at ccccccc" in text
    needs_nothing_else(text)
    assert pd.read_csv(tmp_path / "summary.csv")["value"].tolist() == [0.010, 0.011, 0.022]


def test_the_same_history_gives_the_same_picture(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        page.write(*history([0.010, 0.011]), THRESHOLDS, tmp_path / name)
    one, two = ((tmp_path / name / "summary.svg").read_bytes() for name in ("one", "two"))
    assert one == two


def test_what_a_former_version_measured_is_a_line_of_its_own() -> None:
    values = [nfe(10, version="1"), nfe(30, version="2")]
    changed, lines = page.tables(values, ["c"], THRESHOLDS)
    assert [section.title for section in lines.sections] == [
        "families.Work.track_nfe, as version 1 measured it",
        "families.Work.track_nfe",
    ]
    assert changed.sections[0].rows[0][0].text == "none past the thresholds"


def test_failures_and_gaps_are_told_apart() -> None:
    values, subjects = history([0.010, FAILED, 0.010, 0.010])
    (row,) = page.tables(values[:3], list(subjects), THRESHOLDS)[1].sections[0].rows
    assert row[4].text == f"█{page.FAILED}█{page.MISSING}"


def test_the_picture_has_the_units_and_looks_of_the_reports() -> None:
    memory = "families.Memory.track_peak_memory"
    sizes = {"glow": 1.0, "maf": 2.0, "ffjord": 3.0}
    values = [
        given(size * 2.0**20, benchmark=memory, flow=flow, unit="bytes", more=more)
        for flow, size in sizes.items()
        for more in (", device = cpu", ", device = cuda")
    ]
    figure = page.draw(pd.DataFrame(map(vars, values)), ["c"])
    (axes,) = [axes for axes in figure.axes if axes.get_lines()]
    assert axes.get_ylabel().endswith("[MiB]")
    drawn = axes.get_lines()
    assert {line.get_label(): float(line.get_ydata()[0]) for line in drawn} == sizes
    shown = {line.get_label(): (line.get_color(), line.get_marker()) for line in drawn}
    assert shown == {name: (look.colour, look.marker) for name, look in looks(sizes).items()}


def needs_nothing_else(html: str) -> None:
    """A page without scripts that loads nothing."""
    assert not re.search(r"<(script|link|iframe)|\bhref\s*=|src\s*=(?!\"data:)|url\(|@import", html)
