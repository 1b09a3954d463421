"""Forms of a table: escaping, numbers, LaTeX that has no stray special characters."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.report.table import (
    Entry,
    Section,
    Table,
    as_html,
    as_latex,
    as_markdown,
    number,
    write,
)

NASTY = r"a_b[c=1] & 50% of $x^2$ #3 {y} ~ <b>|</b> \input ` * ](http://x) Ω"


def table(rows: int = 1, sections: int = 1) -> Table:
    row = [
        Entry(NASTY),
        Entry("-1,234.5", "0.2", bold=True, mark="†", remark="2/3 seeds", numeric=True),
    ]
    return Table(
        name="nasty",
        title=NASTY,
        columns=["flow_name", "value [ms]"],
        sections=[Section(f"section_{i}", [row] * rows) for i in range(sections)],
        notes=[NASTY],
        data=pd.DataFrame({"flow": [NASTY], "value": [1 / 3]}),
    )


def test_numbers() -> None:
    assert number(1.23456, 0.0456, decimals=2).text == "1.23"
    assert number(1.23456, 0.0456, decimals=2).plus_minus == "0.05"
    assert number(1.0, 0.0001, decimals=2).plus_minus == "0.0001"  # Not rounded to nothing.
    assert number(1.0, 0.0, decimals=2).plus_minus == "0.00"
    assert number(-0.0001, decimals=2).text == "0.00"
    assert number(0.0).text == "0"
    assert number(math.inf).text == number(math.nan).text == "\u2013"
    assert number(104.6).text == "105"
    assert number(1.0, math.nan, decimals=1).plus_minus == ""


def test_html_is_escaped() -> None:
    html = as_html(table())
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
    assert "a_b<wbr>[c=1] &amp; 50%" in html
    assert "<strong>\u22121,234.5" in html


def test_markdown_keeps_one_row_a_line_and_no_markup() -> None:
    text = as_markdown(table())
    rows = [line for line in text.splitlines() if line.startswith("|")]
    # Pipes inside entries are escaped: each row has as many bars as there are edges.
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}
    assert r"a\_b[c=1]" in text
    assert not re.search(r"(?<!\\)\]\(", text)
    assert "**-1,234.5 ± 0.2** † (2/3 seeds)" in text


def test_latex_is_escaped() -> None:
    text = as_latex(table())
    body = "\n".join(re.sub(r"(?<!\\)%.*", "", line) for line in text.splitlines())
    body = body.replace(r"\ifdim\width>\linewidth", "")
    bare = re.sub(r"\\[_&%$#{}]", "", body)
    assert not re.search(r"[#~|<>]", bare)
    assert "%" not in bare
    assert r"a\_b{[}c=1{]}" in body
    assert r"\textbackslash{}input" in body
    assert r"$\mathbf{-1{,}234.5 \pm 0.2}$\textsuperscript{$\dagger$} (2/3 seeds)" in body
    assert body.isascii()
    for line in body.splitlines():
        if line.endswith(r"\\") and "multicolumn" not in line:
            assert len(re.findall(r"(?<!\\)&", line)) == 1


def test_a_long_table_becomes_several_in_latex() -> None:
    assert as_latex(table(rows=10, sections=2)).count(r"\begin{table}") == 1
    assert as_latex(table(rows=30, sections=3)).count(r"\begin{table}") == 3


def test_csv_keeps_the_numbers(tmp_path: Path) -> None:
    paths = write(table(), tmp_path)
    assert sorted(path.suffix for path in paths) == [".csv", ".md", ".tex"]
    back = pd.read_csv(tmp_path / "nasty.csv")
    assert back["flow"][0] == NASTY
    assert back["value"][0] == pytest.approx(1 / 3, rel=1e-8)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path: Path) -> None:
    write(table(rows=30, sections=3), tmp_path)
    document = (
        r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
        r"\input{nasty}\end{document}"
    )
    (tmp_path / "main.tex").write_text(document)
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
