"""The report of committed records: made again it is the same, and what differs is named."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from synthetic_records import make_record, write_quick

from benchmarks import cli
from benchmarks.collection import collect_into
from benchmarks.errors import StoreError
from benchmarks.report import write_report
from benchmarks.report.reference import Reference, text_differences
from benchmarks.store import Store

ROOT = Path(__file__).parents[3]
README = "# x\n\n<!-- generated: answer -->\n<!-- end -->\n<!-- generated: runs -->\n<!-- end -->\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    store = Store(folder / "results/reference/mine")
    for seed, (first, second) in enumerate([(2.9, 3.1), (3.0, 3.25), (3.1, 3.3)]):
        seconds = {"quality_stage_seconds": 3600.0, "cost_stage_seconds": 1800.0}
        for flow, nll in (("maf", first), ("glow", second)):
            found = {"nll_nats": nll, "train_step_seconds": 0.01 * nll, **seconds}
            record = make_record(flow, "power", seed, measures=found)
            store.write(record)
            curve = store.path(record.cell, ".curve.jsonl")
            rows = [
                f'{{"step": {n}, "seconds": {n / 10}, "validation_nll_nats": {9 - n * nll / 90}}}'
                for n in (50, 100, 200)
            ]
            curve.write_text("\n".join(rows) + "\n")
    (folder / "README.md").write_text(README)
    Reference(folder).write()
    return folder


@pytest.fixture
def checkout(made: Path, tmp_path: Path) -> Path:
    """A checkout whose report is made, to write into."""
    return shutil.copytree(made, tmp_path / "checkout")


def call(*words: str, monkeypatch: pytest.MonkeyPatch, at: Path) -> int:
    monkeypatch.chdir(at)
    monkeypatch.setattr(sys, "argv", ["ffjord-bench", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_made_again_it_is_the_same_to_the_byte(checkout: Path) -> None:
    before = files_of(checkout)
    assert {"results/report/index.html", "results/report/tables/comparison.md"} <= before.keys()
    assert "| cells | 6 of 6 | 9.00 | CPU, 1 thread |" in before["README.md"].decode()
    (checkout / "results/report/tables/old.md").write_text("of a study that is gone")
    Reference(checkout).write()
    assert files_of(checkout) == before


def test_the_check_names_each_file_and_number(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert call("report", "--check", monkeypatch=monkeypatch, at=checkout) == 0
    report = checkout / "results/report"
    before = files_of(checkout)

    def edit(path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert old in text, old
        path.write_text(text.replace(old, new, 1))

    edit(checkout / "README.md", "9.00", "8.00")
    edit(report / "tables/comparison.md", "3.000", "3.001")
    edit(report / "tables/comparison.csv", "maf", "mfa")
    picture = report / "answer.svg"
    (x,) = re.findall(r"<use [^>]*?x=\"(\d+\.\d+)\"", picture.read_text())[:1]
    edit(picture, f'x="{x}"', f'x="{float(x) + 1:g}"')
    edit(report / "index.html", "3.000", "3.002")
    (report / "tables/failures.tex").unlink()
    (report / "tables/none.md").write_text("x")
    assert call("report", "--check", monkeypatch=monkeypatch, at=checkout) == 1
    said = capsys.readouterr().out.splitlines()
    named = {line.partition(",")[0].partition(":")[0].partition(" ")[0] for line in said}
    assert named == {
        "README.md",
        "results/report/index.html",
        "results/report/tables/comparison.csv",
        "results/report/tables/comparison.md",
        "results/report/answer.svg",
        "results/report/tables/failures.tex",
        "results/report/tables/none.md",
    }
    assert any("README.md, line" in line and "8.00 there, 9.00" in line for line in said)
    assert any("3.001 there, 3.000 by the records" in line for line in said)
    assert "results/report/tables/failures.tex is missing" in said
    assert "results/report/tables/none.md: no record gives it" in said
    # A check writes nothing; making it again mends everything.
    assert (report / "tables/none.md").exists()
    Reference(checkout).write()
    assert files_of(checkout) == before


def test_a_changed_record_changes_what_is_checked(checkout: Path) -> None:
    path = sorted(checkout.glob("results/reference/mine/cells/maf/power/*.json"))[0]
    path.write_text(re.sub(r'"nll_nats": [\d.]+', '"nll_nats": 3.5', path.read_text()))
    found = Reference(checkout).differences()
    assert any(item.startswith("results/report/tables/comparison.md") for item in found)
    assert any(item.startswith("results/report/index.html") for item in found)


def test_last_digits_are_a_processors_affair() -> None:
    assert text_differences("0.123456789,maf", "0.123456788,maf") == []
    assert text_differences('<svg x="10.1" d="l-.3.4"/>', '<svg x="10.2" d="l-.4.5"/>') == []
    assert text_differences('<svg x="10.1"/>', '<svg x="10.4"/>') != []
    assert text_differences("0.123", "0.124") == ["line 1: 0.123 there, 0.124 by the records"]
    assert text_differences("3.1e-07", "3.2e-07") == [
        "line 1: 3.1e-07 there, 3.2e-07 by the records"
    ]
    assert text_differences("a\nb 1", "a\nc 1\nd") == [
        "line 2: b there, c by the records",
        "line 3: nothing there, d by the records",
    ]
    assert text_differences("\n".join("abcdefg"), "\n".join("hijklmn"))[-1] == "and 2 more lines"


def test_a_report_of_a_run_can_be_checked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    Store(tmp_path / "run").write(make_record(measures={"nll_nats": 3.0}))
    assert call("report", "run", monkeypatch=monkeypatch, at=tmp_path) == 0
    assert call("report", "run", "--check", monkeypatch=monkeypatch, at=tmp_path) == 0
    (tmp_path / "run/report/index.html").write_text("")
    assert call("report", "run", "--check", monkeypatch=monkeypatch, at=tmp_path) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("index.html, ")


def test_elsewhere_there_is_nothing_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    code = call("report", monkeypatch=monkeypatch, at=tmp_path)
    assert code == StoreError.exit_code
    assert "holds no results/reference: name folders of records" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<!-- generated: answers -->\n<!-- end -->\n", "no block is called 'answers'"),
        ("<!-- generated: runs -->\n", "needs its `<!-- end -->`"),
    ],
)
def test_markers_that_are_wrong_are_refused(checkout: Path, text: str, why: str) -> None:
    (checkout / "README.md").write_text(text)
    with pytest.raises(StoreError, match=re.escape(why)):
        Reference(checkout).write()
    assert (checkout / "README.md").read_text() == text


@pytest.mark.slow
def test_the_report_of_a_collection_is_that_of_its_run(tmp_path: Path) -> None:
    run = write_quick(tmp_path / "run", seeds=2)
    for folder in run.directory.glob("cells/*/*"):
        if folder.name != "8gaussians":
            shutil.rmtree(folder)
    found = collect_into([run], tmp_path / "kept")
    pictures = {path.stem for path in (tmp_path / "kept").rglob("*.npz")}
    assert 0 < len(pictures) < len([*run.directory.rglob("*.npz")])
    assert found.size_bytes < sum(len(data) for data in files_of(run.directory).values())
    write_report([run], tmp_path / "of-run")
    write_report([Store(tmp_path / "kept")], tmp_path / "of-kept")
    assert files_of(tmp_path / "of-run") == files_of(tmp_path / "of-kept")


@pytest.mark.slow(seconds=40)
def test_the_committed_report_is_what_the_committed_records_give() -> None:
    assert Reference(ROOT).differences() == []


def test_what_is_committed_is_small() -> None:
    folders = (ROOT / "results/reference", ROOT / "results/report")
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 15e6
    # Asked for are 1.5 MB; with 1,000 cells of 18 studies it takes 1.84.
    assert (folders[1] / "index.html").stat().st_size < 1.9e6
    kinds = {path.suffix for path in folders[0].rglob("*") if path.is_file()}
    assert kinds <= {".json", ".jsonl", ".npz"}
