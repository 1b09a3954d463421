"""CONTRIBUTING's examples: shown as they are, kept to the contract, and run from outside."""

import re
from pathlib import Path

import pytest
from command_line import call

from benchmarks.store import Store

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "tests" / "examples"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def test_contributing_shows_the_files_as_they_are() -> None:
    blocks = re.findall(r"<!-- (\S+) -->\n\n```\w+\n(.*?)```\n", CONTRIBUTING, re.DOTALL)
    assert sorted(name for name, _ in blocks) == sorted(path.name for path in EXAMPLES.glob("*.*"))
    for name, text in blocks:
        assert text == (EXAMPLES / name).read_text(), f"CONTRIBUTING shows another {name}"


def test_the_flow_is_under_sixty_lines() -> None:
    assert len((EXAMPLES / "sinh_arcsinh.py").read_text().splitlines()) < 60


@pytest.mark.slow
def test_the_four_together(tmp_path: Path) -> None:
    """The flow on the data set with the measure, and the study by its name; one report of both."""
    code, _, err = call("run", EXAMPLES / "mine.toml", "--out", tmp_path / "mine")
    assert code == 0, err
    (record,) = Store(tmp_path / "mine").records()[0]
    assert record.status == "ok"
    found = record.measures
    # Its tails are not Laplace's: near the entropy of 3 (1 + log 2) = 5.08 nats.
    assert 0 < found["kl_to_truth_nats"] < 0.3
    assert 0 < found["sliced_wasserstein"] < 0.3
    origins = [value for name, value in record.versions.items() if name.startswith("origin.")]
    assert {str(value).partition(",")[0] for value in origins} == {
        "sinh_arcsinh.py",
        "laplace.py",
        "sliced_wasserstein.py",
    }
    study = ("--plugin", EXAMPLES / "tolerance.py")
    code, _, err = call(
        "run", "tolerance", *study, "--out", tmp_path / "tolerance", "--seeds", 0, "--limit", 1
    )
    assert code == 0, err
    plugins = [word for path in EXAMPLES.glob("*.py") for word in ("--plugin", path)]
    code, _, err = call("report", tmp_path / "mine", tmp_path / "tolerance", *plugins)
    assert code == 0, err
    page = (tmp_path / "mine" / "report" / "index.html").read_text()
    assert '<section id="tolerance">' in page
    assert "Sliced Wasserstein distance" in page
    assert "sinh-arcsinh" in page


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sinh-arcsinh", "laplace"])
def test_flow_and_data_set_keep_the_contract(name: str) -> None:
    code, out, _ = call("check", name, "--plugin", EXAMPLES / f"{name.replace('-', '_')}.py")
    assert code == 0, out
    assert "keeps what applies to it" in out
