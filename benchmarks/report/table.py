"""A table, and its forms: Markdown, LaTeX, HTML for reading, CSV for machines.

The first three show the same cells; the CSV holds the numbers behind them in full, a row a
number's group, one column a measure.
"""

from __future__ import annotations

import html
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pandas as pd

__all__ = [
    "Entry",
    "Section",
    "Table",
    "as_html",
    "as_latex",
    "as_markdown",
    "as_text",
    "between",
    "number",
    "write",
]

DASH = "\u2013"
"""Stands where there is no number."""


@dataclass(frozen=True, repr=False)
class Entry:
    """One cell of a table.

    Attributes:
        text: what it says; for a number :func:`number` writes it.
        plus_minus: the half-width after the sign, empty for none.
        over: what that is over, in brackets after it; empty where a note says so for all.
        also: a half-width of another kind, empty for none; :attr:`also_over` says what it is over.
        also_over: as :attr:`over`.
        bold: whether it is set in bold: among the best of its column.
        mark: a mark that a note explains, set as a superscript.
        remark: a word after it, in brackets.
        why: of what gave no result, or not all of it, the reason; on the page alone, and grey where
            there is no number at all.
        numeric: aligned to the right.
    """

    text: str
    plus_minus: str = ""
    over: str = ""
    also: str = ""
    also_over: str = ""
    bold: bool = False
    mark: str = ""
    remark: str = ""
    why: str = ""
    numeric: bool = False

    def __repr__(self) -> str:
        given = [
            f"{item.name}={value!r}"
            for item in fields(self)[1:]
            if (value := getattr(self, item.name)) != item.default
        ]
        return f"Entry({', '.join([repr(self.text), *given])})"


@dataclass(frozen=True)
class Section:
    """Rows under a heading of their own; an empty title gives none."""

    title: str
    rows: Sequence[Sequence[Entry]]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: of its files.
        title: its caption, without a final stop.
        columns: headings, with units.
        sections: the rows.
        notes: what a reader must know to read it, one sentence or a few each.
        data: the numbers in full, for the CSV.
    """

    name: str
    title: str
    columns: Sequence[str]
    sections: Sequence[Section]
    notes: Sequence[str] = ()
    data: pd.DataFrame = field(default_factory=pd.DataFrame)


def _digits(value: float, decimals: int | None) -> int:
    if decimals is not None:
        return decimals
    if value == 0:
        return 0
    return max(0, 2 - math.floor(math.log10(abs(value))))


def number(
    value: float,
    half_width: float = math.nan,
    *,
    decimals: int | None = None,
) -> Entry:
    """A number as an entry.

    Args:
        value: NaN gives a dash.
        half_width: of its interval; NaN for none.
        decimals: digits after the point; None for as many as give three significant ones.

    Example:
        >>> number(-0.4567, 0.0123, decimals=3)
        Entry('-0.457', plus_minus='0.012', numeric=True)
        >>> number(12345.6).text, number(0.01234).text, number(float("nan")).text
        ('12,346', '0.0123', '–')
    """
    if not math.isfinite(value):
        return Entry(DASH, numeric=True)
    digits = _digits(value, decimals)
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")  # No minus zero.
    plus_minus = f"{half_width:,.{digits}f}" if math.isfinite(half_width) else ""
    if half_width > 0 and float(plus_minus.replace(",", "")) == 0:
        # Rounded away, but there: one digit of it.
        plus_minus = f"{half_width:.1g}"
    return Entry(text, plus_minus, numeric=True)


def between(low: float, high: float, decimals: int | None = None) -> Entry:
    """The ends of an interval as an entry; a dash where there is none.

    Example:
        >>> between(0.5, 12.25, decimals=2).text
        '0.50 to 12.25'
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return Entry(DASH, numeric=True)
    words = (number(end, decimals=decimals).text for end in (low, high))
    return Entry(" to ".join(words), numeric=True)


def as_text(row: Sequence[Entry]) -> list[str]:
    """A row for a terminal: what each entry says, its half-width and its mark.

    Example:
        >>> as_text([Entry("maf"), number(1.5, 0.25, decimals=2)])
        ['maf', '1.50 ± 0.25']
    """
    return [
        " ".join(
            filter(None, (entry.text, entry.plus_minus and f"± {entry.plus_minus}", entry.mark))
        )
        for entry in row
    ]


# -- Markdown -----------------------------------------------------------------------------------


def _markdown_text(text: str) -> str:
    """Text in which nothing is taken for markup; a table's row is one line."""
    text = re.sub(r"([\\`*_<>|~])", r"\\\1", " ".join(text.split()))
    # Brackets stand for units and options; only before another one do they make a link.
    return re.sub(r"\](?=[(\[])", r"\]", text)


def _markdown_entry(entry: Entry) -> str:
    text = _markdown_text(entry.text)
    if entry.plus_minus:
        text += f" ± {entry.plus_minus}"
    if entry.bold:
        text = f"**{text}**"
    if entry.over:
        text += f" ({_markdown_text(entry.over)})"
    if entry.also:
        text += f" ± {entry.also} ({_markdown_text(entry.also_over)})"
    if entry.mark:
        text += f" {_markdown_text(entry.mark)}"
    if entry.remark:
        text += f" ({_markdown_text(entry.remark)})"
    return text


def as_markdown(table: Table) -> str:
    """The table as GitHub's Markdown, with its caption above and its notes below."""
    widths = len(table.columns)
    lines = [f"**{_markdown_text(table.title)}**", ""]
    if not any(section.rows for section in table.sections):
        return "\n".join([*lines, *(f"- {_markdown_text(note)}" for note in table.notes)]) + "\n"
    lines.append("| " + " | ".join(_markdown_text(c) for c in table.columns) + " |")
    aligned = ["--:" if right else ":--" for right in _right(table)]
    lines.append("| " + " | ".join(aligned) + " |")
    for section in table.sections:
        if section.title:
            lines.append(f"| *{_markdown_text(section.title)}* " + "| " * (widths - 1) + "|")
        lines += [
            "| " + " | ".join(_markdown_entry(entry) for entry in row) + " |"
            for row in section.rows
        ]
    lines += [""]
    for note in table.notes:
        lines += [f"- {_markdown_text(note)}"]
    return "\n".join(lines).rstrip("\n") + "\n"


def _right(table: Table) -> list[bool]:
    """Which columns are aligned to the right: those in which some entry is a number."""
    rows = [row for section in table.sections for row in section.rows]
    return [any(row[i].numeric for row in rows) for i in range(len(table.columns))]


# -- LaTeX --------------------------------------------------------------------------------------

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # A row that begins with a bracket would be taken for an option of the line break before it.
    "[": "{[}",
    "]": "{]}",
    "±": r"$\pm$",
    "\u00d7": r"$\times$",
    "≤": r"$\leq$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "§": r"\S{}",
    DASH: "--",
    "\u2212": "$-$",
    "·": r"$\cdot$",
    "\u00b2": r"$^2$",
}


def _latex_text(text: str) -> str:
    out = []
    for char in " ".join(text.split()):
        if char in _LATEX:
            out.append(_LATEX[char])
        else:
            # A character that pdfLaTeX's fonts lack stops it; a message may hold any.
            out.append(char if char.isascii() else "?")
    return "".join(out)


def _latex_entry(entry: Entry) -> str:
    if re.fullmatch(r"-?[\d,]+(\.\d+)?(e-?\d+)?", entry.text):
        body = entry.text.replace(",", "{,}")
        if entry.plus_minus:
            body += rf" \pm {entry.plus_minus.replace(',', '{,}')}"
        text = rf"$\mathbf{{{body}}}$" if entry.bold else f"${body}$"
    else:
        text = _latex_text(entry.text)
        text = rf"\textbf{{{text}}}" if entry.bold else text
    if entry.over:
        text += f" ({_latex_text(entry.over)})"
    if entry.also:
        text += rf" $\pm {entry.also.replace(',', '{,}')}$ ({_latex_text(entry.also_over)})"
    if entry.mark:
        text += rf"\textsuperscript{{{_latex_text(entry.mark)}}}"
    if entry.remark:
        text += f" ({_latex_text(entry.remark)})"
    return text


# More rows than this do not fit on a page: then a section becomes a table of its own.
_ROWS_A_PAGE = 45


def as_latex(table: Table) -> str:
    r"""The table as LaTeX, to be ``\input``; it needs the packages booktabs and graphicx."""
    rows = sum(len(section.rows) for section in table.sections)
    if rows > _ROWS_A_PAGE and len(table.sections) > 1:
        parts = [
            replace(
                table,
                name=f"{table.name}-{position}",
                title=f"{table.title}: {section.title}" if section.title else table.title,
                sections=[Section("", section.rows)],
            )
            for position, section in enumerate(table.sections, start=1)
        ]
    else:
        parts = [table]
    head = "% Needs \\usepackage{booktabs,graphicx}.\n"
    return head + "\n".join(_latex_float(part) for part in parts)


def _latex_heading(text: str, side: str) -> str:
    """A heading, over several lines if it would be wider than the numbers below it."""
    lines = textwrap.wrap(text, 11, break_long_words=False, break_on_hyphens=False)
    if len(lines) < 2:
        return _latex_text(text)
    return rf"\shortstack[{side}]{{" + r" \\ ".join(map(_latex_text, lines)) + "}"


def _latex_float(table: Table) -> str:
    letters = "".join("r" if right else "l" for right in _right(table))
    lines = [
        r"\begin{table}[htbp]",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{_latex_text(table.title)}.}}",
        rf"\label{{tab:{table.name}}}",
        # A table that is wider than the text is made smaller, the others stay as they are.
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{@{{}}{letters}@{{}}}}",
        r"\toprule",
        " & ".join(
            _latex_heading(column, "r" if right else "l")
            for column, right in zip(table.columns, _right(table), strict=True)
        )
        + r" \\",
    ]
    for section in table.sections:
        lines.append(r"\midrule")
        if section.title:
            title = rf"\textit{{{_latex_text(section.title)}}}"
            lines.append(rf"\multicolumn{{{len(table.columns)}}}{{@{{}}l}}{{{title}}} \\")
        lines += [" & ".join(_latex_entry(entry) for entry in row) + r" \\" for row in section.rows]
    lines += [r"\bottomrule", r"\end{tabular}}"]
    if table.notes:
        notes = " ".join(_latex_text(note) for note in table.notes)
        lines.append(rf"\par\smallskip\parbox{{\linewidth}}{{\scriptsize {notes}}}")
    lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"


# -- HTML ---------------------------------------------------------------------------------------


_LONG = 48


_NO_VALUE = ' data-sort=""'


def _sort_value(entry: Entry) -> str:
    """By what a cell is sorted, where its text does not say it as a number."""
    if not entry.numeric:
        return ""
    value = entry.text.replace(",", "").removesuffix(" %").removesuffix(" nats")
    # A word where a number should be comes last, with those that have none.
    none = entry.text == DASH or (entry.why and not any(map(str.isdigit, value)))
    return _NO_VALUE if none else f' data-sort="{html.escape(value)}"'


def _td_attributes(entry: Entry, name: str) -> str:
    """What a cell is beside what it says, in few letters: a page holds thousands."""
    sort = _sort_value(entry)
    # What is long may break over lines; nothing else does.
    kind = f"{name} long" if len(entry.text) > _LONG else name
    kind += " failed" if entry.why and sort == _NO_VALUE else ""
    if kind == "text" and not sort:
        return ""
    if kind == "number" and sort not in ("", _NO_VALUE):
        # A number that begins its cell is sorted by that: `page.js` reads it.
        shown = f' data-sort="{entry.text.replace(",", "")}"'
        return ' class="n"' if sort == shown and not entry.bold else sort
    return f' class="{kind}"{sort}'


def _html_entry(entry: Entry) -> str:
    text = html.escape(entry.text)
    if not entry.numeric:
        # Where a name may break, where lines may: before its options, and after each.
        text = re.sub(r"(?<=[^\s,])(?=\[)|(?<=,)(?=\S)", "<wbr>", text)
    else:
        # The real minus sign, as wide as a digit.
        text = text.replace("-", "\u2212")
    if entry.plus_minus:
        half_width = entry.plus_minus.replace("-", "\u2212")
        text += f" <i>± {half_width}</i>"
    if entry.bold:
        text = f"<strong>{text}</strong>"
    if entry.over:
        text += f' <span class="remark">({html.escape(entry.over)})</span>'
    if entry.also:
        half_width = entry.also.replace("-", "\u2212")
        over = f'<span class="remark">({html.escape(entry.also_over)})</span>'
        text += f' <span class="half-width also">± {half_width} {over}</span>'
    if entry.mark:
        text += f"<sup>{html.escape(entry.mark)}</sup>"
    if entry.remark:
        text += f' <span class="remark">{html.escape(entry.remark)}</span>'
    if entry.why:
        text += f' <span class="why">{html.escape(entry.why)}</span>'
    return text


def as_html(table: Table) -> str:
    """The table as HTML, without its notes, which the page sets below it.

    Each section is two bodies, its title and its rows: a page that sorts does so body by body.
    """
    right = _right(table)
    names = ["number" if is_right else "text" for is_right in right]
    heads = zip(table.columns, names, strict=True)
    lines = ['<table class="sortable n-last asc">', "<thead><tr>"]
    lines += [f'<th scope="col" class="{name}">{html.escape(c)}</th>' for c, name in heads]
    lines += ["</tr></thead>"]
    for section in table.sections:
        if section.title:
            title = html.escape(section.title)
            head = f'<th colspan="{len(right)}" scope="rowgroup">{title}</th>'
            lines.append(f'<tbody class="title"><tr class="section">{head}</tr></tbody>')
        lines.append("<tbody>")
        for row in section.rows:
            body = ""
            for entry, name in zip(row, names, strict=True):
                body += f"<td{_td_attributes(entry, name)}>{_html_entry(entry)}</td>"
            lines.append(f"<tr>{body}</tr>")
        lines.append("</tbody>")
    return "\n".join([*lines, "</table>"])


# -- files --------------------------------------------------------------------------------------


def write(table: Table, folder: Path) -> list[Path]:
    """Write a table as ``.md``, ``.csv`` and ``.tex``; the same table gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        ".md": as_markdown(table),
        ".csv": table.data.to_csv(index=False, float_format="%.9g", lineterminator="\n"),
        ".tex": as_latex(table),
    }
    paths = []
    for suffix, text in texts.items():
        path = folder / f"{table.name}{suffix}"
        path.write_bytes(text.encode("utf-8"))
        paths.append(path)
    return paths
