"""`choose`: its contestants, its verdicts on densities made up, its errors, and a real one."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import call

import datasets
import flows
from benchmarks import choose
from benchmarks.cell import Cell
from benchmarks.matrix import matrix_of
from benchmarks.report import write_report
from benchmarks.report.records import gather
from benchmarks.store import Record, Store

TINY = {
    "maf": (1e-2, ({"layers": 2, "hidden": [8]},)),
    "ffjord": (1e-2, ({"hidden": [8], "atol": 1e-3, "rtol": 1e-3},)),
}


def write(path: Path, columns: Mapping[str, Any]) -> Path:
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    a = random.normal(3, 2, 400)
    b = 10 * np.sin(a) + random.normal(size=400)
    return write(tmp_path / "my.csv", {"a": a, "b": b, "count": random.integers(0, 5, 400)})


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "CONTESTANTS", TINY)


def test_every_system_that_takes_vectors_competes() -> None:
    competing = {flows.entry(name).config_class for name in choose.CONTESTANTS}
    for name, entry in flows.ENTRIES.items():
        config = entry.config
        if "/" in name or not config.traits.trains_on_data or entry.config_class in competing:
            continue
        with pytest.raises(flows.FlowError):
            config.build((6,))
    # Each builds at each size, whatever the number of columns.
    for item in choose.contestants():
        options = {key: value for key, value in item.items() if key not in ("name", "budget")}
        for dimension in (2, 5):
            flows.build(item["name"], (dimension,), **options)


# -- verdicts -----------------------------------------------------------------------------------


def folder(
    path: Path,
    csv: Path,
    rows: Mapping[tuple[str, int], Any],
    gaussian: float = -99.0,
) -> Store:
    """Records of the tiny contestants with given log-densities; None for a cell that failed."""
    seeds = sorted({seed for _, seed in rows})
    data = datasets.load("table", path=str(csv))
    found = choose.document(data, {"path": str(csv)}, 1.0, seeds)
    matrix = matrix_of(found, "test")
    store = Store(path)
    store.write_plan(matrix)
    for cell in matrix.cells:
        log_prob = rows[cell.flow, cell.seed]
        measures = {} if log_prob is None else {"nll_nats": -float(np.mean(log_prob))}
        store.write(_record(cell, "error" if log_prob is None else "ok", measures))
        if log_prob is not None:
            known = np.full(len(log_prob), gaussian)
            arrays = {"test_log_prob": np.asarray(log_prob), "gaussian_log_prob": known}
            store.write_arrays(cell, arrays)
    return store


def _record(cell: Cell, status: Any, measures: dict[str, Any]) -> Record:
    return Record(
        key=cell.key,
        cell=cell,
        flow_label=cell.flow_label,
        dataset_label=cell.dataset_label,
        dataset_kind="tabular",
        dimension=3,
        status=status,
        measures={"steps": 10, "parameters": 5, "validation_nll_nats": 1.0, **measures},
    )


NORMAL = np.random.default_rng(1).normal(size=(200, 2))
N = 100
BASE = -np.linspace(0, 50, N)
"""Rows differ by far more than flows do."""
GAP = np.tile([0.4, -0.2], N // 2)
"""0.1 in the mean."""


@pytest.mark.usefixtures("tiny")
def test_differences_are_paired_row_by_row(tmp_path: Path, csv: Path) -> None:
    store = folder(tmp_path / "run", csv, {("maf", 0): BASE, ("ffjord", 0): BASE - GAP})
    records = gather([store])
    best, second, last = choose.ranking(records)
    assert (best.name, second.name, last.name) == ("maf", "ffjord", choose.GAUSSIAN)
    assert best.nll.mean == pytest.approx(25)
    assert second.behind.mean == pytest.approx(0.1)
    assert second.behind.half_width == pytest.approx(1.96 * GAP.std(ddof=1) / math.sqrt(N))
    assert second.nll.half_width > 10 * second.behind.half_width
    assert second.apart
    (table,) = choose.table(records)
    assert list(table.data["verdict"]) == ["best", "behind", "behind"]
    finding = choose.finding(records)
    assert finding is not None
    assert finding.startswith("maf fits best: NLL 25.000 ± ")
    assert "74.000 ± 2.872 below a Gaussian's" in finding
    assert "the next is ffjord, 0.100 ± 0.059 nats behind; one seed" in finding


@pytest.mark.usefixtures("tiny")
def test_what_the_rows_cannot_tell_apart_is_said(tmp_path: Path, csv: Path) -> None:
    rows = {("maf", 0): BASE, ("ffjord", 0): BASE - 10 * (GAP - 0.08)}
    records = gather([folder(tmp_path / "run", csv, rows)])
    assert not choose.ranking(records)[1].apart
    assert "not to be told from it: ffjord" in str(choose.finding(records))
    (table,) = choose.table(records)
    assert list(table.data["verdict"]) == ["best", "cannot be told apart", "behind"]


@pytest.mark.usefixtures("tiny")
def test_seeds_have_to_agree(tmp_path: Path, csv: Path) -> None:
    """The rows tell 0.1 apart in the mean of two seeds of which each says another thing."""
    rows = {("maf", seed): BASE for seed in (0, 1)}
    rows |= {("ffjord", 0): BASE - GAP - 0.5, ("ffjord", 1): BASE - GAP + 0.5}
    records = gather([folder(tmp_path / "run", csv, rows)])
    _, second, gaussian = choose.ranking(records)
    assert second.behind.mean == pytest.approx(0.1)
    assert second.behind.excludes_zero
    assert second.over_seeds.n == 2
    assert not second.apart
    # A Gaussian has no seed: the rows decide.
    assert gaussian.apart
    (table,) = choose.table(records)
    assert "the same over seeds [nats]" in table.columns
    assert "one seed" not in str(choose.finding(records))


@pytest.mark.usefixtures("tiny")
def test_a_flow_that_lost_a_seed_is_not_compared(tmp_path: Path, csv: Path) -> None:
    rows = {("maf", 0): BASE, ("maf", 1): BASE, ("ffjord", 0): BASE + 5, ("ffjord", 1): None}
    records = gather([folder(tmp_path / "run", csv, rows, gaussian=-20.0)])
    assert [item.name for item in choose.ranking(records)] == [choose.GAUSSIAN, "maf"]
    assert choose.finding(records) is None
    nothing = {("maf", 0): None, ("ffjord", 0): None}
    records = gather([folder(tmp_path / "none", csv, nothing)])
    assert choose.ranking(records) == []
    assert choose.table(records) == []


@pytest.mark.usefixtures("tiny")
def test_a_gaussian_may_be_best(tmp_path: Path, csv: Path) -> None:
    rows = {("maf", 0): BASE, ("ffjord", 0): BASE - GAP}
    finding = choose.finding(gather([folder(tmp_path / "run", csv, rows, gaussian=-9.0)]))
    assert str(finding).startswith("full-covariance Gaussian fits best: NLL 9.000 ± ")
    assert "below a Gaussian's" not in str(finding)


@pytest.mark.usefixtures("tiny")
def test_choices_for_several_tables_are_not_mixed(tmp_path: Path, csv: Path) -> None:
    rows = {("maf", 0): BASE, ("ffjord", 0): BASE - GAP}
    other = write(tmp_path / "other.csv", dict(zip("ab", NORMAL.T, strict=True)))
    stores = [folder(tmp_path / path.stem, path, rows) for path in (csv, other)]
    records = gather(stores)
    assert choose.ranking(records) == []
    assert "choices for several tables" in str(choose.finding(records))
    write_report(stores, tmp_path / "report")


# -- at the command line ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": NORMAL[:, 0]}, "has one column of numbers that vary, 'a'"),
        ({"a": NORMAL[:, 0], "b": 1.0}, "has one column of numbers that vary, 'a'"),
        ({"a": NORMAL[:60, 0], "b": NORMAL[:60, 1]}, "has 60 rows: a choice takes 100"),
        ({"a": NORMAL[:, 0], "b": "x"}, "row 1, column 'b': 'x' is no number; drop_columns"),
        ({"a": NORMAL[:, 0], "b": np.nan}, 'missing = "drop"'),
        (
            {"a": NORMAL[:, 0], "b": NORMAL[:, 1], "c": NORMAL.sum(1)},
            "column 'c' follows from the columns before it",
        ),
        ({"a": NORMAL[:, 0], "b": 3 * NORMAL[:, 0] + 1}, "column 'b' follows from"),
    ],
)
def test_tables_without_an_answer_are_refused(
    tmp_path: Path, columns: dict[str, Any], message: str, capsys: Any
) -> None:
    path = write(tmp_path / "my.csv", columns)
    code, _, err = call("choose", path, "--out", tmp_path / "run", capsys=capsys)
    assert code == 3
    assert message in err
    assert not (tmp_path / "run").exists()


def test_discrete_columns_and_missing_files(tmp_path: Path, csv: Path, capsys: Any) -> None:
    code, _, err = call("choose", tmp_path / "nowhere.csv", capsys=capsys)
    assert code == 3
    assert "there is no" in err
    code, _, err = call("choose", csv, "--no-dequantise", capsys=capsys)
    assert code == 3
    assert "column 'count' has 5 whole values" in err
    assert err.rstrip().endswith("here --dequantise, --drop-column NAME)")
    code, _, err = call("choose", csv, "--drop-column", "cuont", capsys=capsys)
    assert code == 3
    assert "did you mean 'count'" in err


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_a_choice(tmp_path: Path, csv: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes of their own; the Python that it prints runs, on new rows too."""
    monkeypatch.chdir(tmp_path)
    words = ("choose", "my.csv", "--minutes", 0.1, "--out", "run", "--jobs", 2)
    code, out, err = call(*words, capsys=capsys)
    assert code == 0, err
    assert "320 / 40 / 40 rows of 3 columns" in out
    assert "column 'count' has 5 whole values: uniform noise" in out
    assert " fits best: NLL " in out
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "flows.load" in page
    assert "cannot be told apart" in page or "behind" in page
    assert "One seed a flow" in page
    # What it prints is Python that works.
    code_lines = out[out.index("import datasets") : out.index("report: ")]
    assert "pickle" not in code_lines
    names: dict[str, Any] = {}
    exec(code_lines, names)
    assert names["log_density"].shape == (400,)
    assert list(names["rows"].columns) == ["a", "b", "count"]
    # The weights are those that were tested, the rows those of the test.
    (record,) = (
        record
        for record in Store("run").records()[0]
        if Store("run").path(record.cell, ".pt").read_bytes() == Path("run/best.pt").read_bytes()
    )
    data = datasets.load("table", path="my.csv")
    with torch.no_grad():
        log_prob = names["flow"].log_prob(torch.as_tensor(data.test), exact=True)
    assert -float(log_prob.mean()) == pytest.approx(record.measures["nll_nats"], abs=1e-3)
    new = pd.DataFrame({"count": [2], "b": [0.5], "a": [3.0], "note": ["new"]})
    assert torch.isfinite(names["flow"].log_prob(names["table"].forward(new))).all()
    # The same command again trains nothing, and the records alone give the same page.
    again = call(*words, capsys=capsys)
    assert again[0] == 0
    assert "nats" not in again[2]
    code, _, _ = call("report", "run", capsys=capsys)
    assert code == 0
    assert (tmp_path / "run" / "report" / "index.html").read_text() == page
