"""What README tells to type is understood, what it shows runs, what it claims is generated."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from command_line import call

from benchmarks import cli
from benchmarks.report.readme import BLOCKS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BLOCK = re.compile(r"<!-- generated: ([\w-]+) -->\n.*?<!-- end -->\n", re.DOTALL)


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Each line of README's shell blocks, and each command within its text."""
    lines = [line for block in fenced("sh") for line in block.splitlines()]
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    within = re.findall(r"`((?:make|ffjord-bench|pip) [^`]+)`", text)
    found = [" ".join(shlex.split(line, comments=True)) for line in (*lines, *within)]
    found = [re.sub(r"^CUDA_VISIBLE_DEVICES=\S+ ", "", line) for line in found]
    return [*dict.fromkeys(line for line in found if line and "NAME" not in line)]


@pytest.mark.parametrize("line", commands())
def test_each_command_is_understood(line: str, tmp_path: Path, capsys: Any) -> None:
    program, *words = line.split()
    if program == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert re.search(rf"^{re.escape(words[0])}:", makefile, re.MULTILINE)
    elif program == "pip":
        (extra,) = re.findall(r"ffjord-bench\[(\w+)\]", line)
        assert extra in PYPROJECT["project"]["optional-dependencies"]
    elif program == ".":
        assert words == [".venv/bin/activate"]
    else:
        assert program == "ffjord-bench"
        bare = shlex.split(re.sub(r" --plugin \S+", "", line))[1:]
        context, group = click.Context(cli.cli), cli.cli
        name, command, rest = group.resolve_command(context, bare)
        while isinstance(command, click.Group):
            context = command.make_context(name, [], parent=context, resilient_parsing=True)
            name, command, rest = command.resolve_command(context, rest)
        assert command is not None
        command.make_context(name, list(rest))


def harmless() -> list[str]:
    """Commands that take neither records, a table, a GPU nor minutes; of runs what would run."""
    lines = [line for line in commands() if line.startswith("ffjord-bench ")]
    cheap = ("describe", "list", "run")
    apart = ("cuda", "slurm")
    return [
        line
        for line in lines
        if line.split()[1] in cheap and not any(word in line for word in apart)
    ]


@pytest.mark.parametrize("line", harmless())
def test_what_measures_nothing_runs(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = shlex.split(line.replace("my.toml", "tests/examples/mine.toml"))[1:]
    monkeypatch.chdir(ROOT)
    if words[0] == "run":
        if "--out" in words:
            del words[words.index("--out") : words.index("--out") + 2]
        words = [word for word in words if word != "--dry-run"]
        words += ["--out", str(tmp_path / "run"), "--dry-run"]
    code, out, err = call(*words, capsys=capsys)
    assert code == 0, err
    assert out
    assert not (tmp_path / "run").exists()


def test_the_examples_in_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to(ROOT / "results")
    code = "\n".join(fenced("python"))
    code = code.replace("steps=500", "steps=2, batch_size=8, validate_every=2, validation_rows=20")
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(names["frame"]) > 10
    assert not names["flow"].training
    assert (tmp_path / "mine.pt").exists()


def test_the_matrix_file_is_one(tmp_path: Path, capsys: Any) -> None:
    (text,) = fenced("toml")
    (tmp_path / "mine.toml").write_text(text)
    out = tmp_path / "run"
    code, said, err = call("run", tmp_path / "mine.toml", "--out", out, "--dry-run", capsys=capsys)
    assert code == 0, err
    # Seven flows on two data sets at three seeds.
    assert "42 cells" in said


def test_all_blocks_are_there_and_no_figure_stands_outside_them() -> None:
    assert sorted(BLOCK.findall(README)) == sorted(BLOCKS)
    rest = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", BLOCK.sub("", README), flags=re.DOTALL)
    rest = rest.replace("3.11 to 3.13", "")
    assert re.findall(r"\d+\.\d+|\d+ ?%|\d+ (?:times|minutes?|hours?|nats)", rest) == []


def test_links_lead_somewhere() -> None:
    for address in re.findall(r"\]\(([^)]+)\)", README):
        assert address.startswith("https://") or (ROOT / address).exists(), address


def test_the_citation_is_valid() -> None:
    """The keys that version 1.2.0 of the format requires, and what else names the project."""
    yaml = pytest.importorskip("yaml")
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"authors", "cff-version", "message", "title"} <= found.keys()
    assert found["cff-version"] == "1.2.0"
    assert found["type"] in ("software", "dataset")
    assert found["authors"] == [{"name": "The ffjord-bench authors"}]
    project = PYPROJECT["project"]
    assert (found["version"], found["license"]) == (project["version"], project["license"])
    for reference in found["references"]:
        assert {"authors", "title", "type"} <= reference.keys()
