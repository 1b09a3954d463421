"""The page: every table and figure in one file that opens from disk."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from benchmarks import measures
from benchmarks.report.figures import Drawn
from benchmarks.report.groups import plain
from benchmarks.report.records import Records
from benchmarks.report.svg import as_svg
from benchmarks.report.table import Table, as_html
from benchmarks.studies.base import Study

__all__ = ["section_of", "write_page"]


_RULES = (
    "Every contestant is trained by one loop under the budget of its cell; the checkpoint with "
    "the best validation NLL is the one that is tested.",
    "Each cell ran in a process of its own with a fixed number of threads.",
    "Times: kernels warmed up, the device synchronised before each reading of the clock, median "
    "and quartiles of repeated calls, the first step apart.",
    "Memory: in a pass of its own.",
    "Spread over seeds: a 95 % Student t interval; over the splits' means where there are several "
    "splits. The error over test points is another kind of error: it stands beside under "
    "its own name.",
    "Differences between flows: paired by seed where both ran the same seeds, by Welch's interval "
    "otherwise. Flows that the seeds cannot tell apart share their place.",
    "Cells of different settings (budget, device, threads, number type, machine, torch version) "
    "are never averaged together. The learning rate is each contestant's own.",
    "Untrained flows (steps = 0) are timed and never scored.",
)


# On the page, where a figure of 96 would have its text smaller than the page's own.
_PIXELS_AN_INCH = 124

_RULES_OF_LOOKS = re.compile(r"<style>((?:\.\w+\{[^}]*\})*)</style>")


def _unquoted(markup: str) -> str:
    """Attributes without the quotes that HTML does not need."""
    return re.sub(
        r'="([\w.#-]+)"(/?)', lambda found: f"={found[1]}{' /' if found[2] else ''}", markup
    )


def _figure(drawn: Drawn) -> dict[str, Any]:
    """A figure as SVG that stands alone."""
    return {
        "title": drawn.title,
        "caption": drawn.caption,
        "name": drawn.name,
        "width": round(float(drawn.figure.get_figwidth()) * _PIXELS_AN_INCH),
        "svg": as_svg(drawn.figure, drawn.name),
    }


def _at_home(figure: dict[str, Any], looks: dict[str, str]) -> dict[str, Any]:
    """A figure as part of the page, which has the rule of each look once, under a short name.

    Args:
        figure: of :func:`_figure`.
        looks: the names so far, by rule; those of this figure are added.
    """
    svg = figure["svg"]
    (rules,) = _RULES_OF_LOOKS.findall(svg)
    svg = _RULES_OF_LOOKS.sub("", svg)
    names = {}
    for name, rule in re.findall(r"\.(\w+)(\{[^}]*\})", rules):
        names[name] = looks.setdefault(rule, f"l{len(looks)}")

    def named(found: re.Match[str]) -> str:
        return f'class="{" ".join(names.get(word, word) for word in found[1].split())}"'

    svg = _unquoted(re.sub(r'class="([\w ]+)"', named, svg))
    svg = re.sub(r" (width|height)=[\d.]+pt", "", svg, count=2)
    label = html.escape(figure["title"], quote=True)
    # The page's SVG needs no namespace.
    head = f'<svg role="img" aria-label="{label}" width="{figure["width"]}" '
    svg = svg.replace(' xmlns="http://www.w3.org/2000/svg"', "", 1).replace("<svg ", head, 1)
    return figure | {"svg": Markup(svg)}


def _table(table: Table) -> dict[str, Any]:
    return {
        "title": table.title,
        "name": table.name,
        "html": Markup(_unquoted(as_html(table))) if any(s.rows for s in table.sections) else "",
        "notes": table.notes,
        "links": {
            "Markdown": f"tables/{table.name}.md",
            "CSV": f"tables/{table.name}.csv",
            "LaTeX": f"tables/{table.name}.tex",
        },
    }


def _values(records: Records, column: str) -> list[tuple[str, str]]:
    """The values of a column, each with the data sets that have it; empty where all agree."""
    words = records.cells[column].map(lambda value: _word(column, value))
    values = list(dict.fromkeys(words))
    if len(values) == 1:
        return [(values[0], "")]
    found = []
    for value in values:
        having = records.cells[words == value]
        names = list(dict.fromkeys(having["dataset"]))
        count = f"{len(having)} cells" if len(names) > 4 else ", ".join(names)
        found.append((value, count))
    return found


def _word(column: str, value: Any) -> str:
    text = plain(value)
    if text == "none":
        return text
    if column.endswith("_bytes"):
        return f"{float(value) / 2**30:.1f} GiB"
    return text


def _label(column: str) -> str:
    return (column.partition(".")[2] or column).removesuffix("_bytes").replace("_", " ")


def _listing(records: Records, columns: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"label": _label(column), "values": _values(records, column)}
        for column in columns
        if records.cells[column].notna().any()
    ]


def _meanings(records: Records) -> list[tuple[str, str]]:
    """What each measured column means, in the words of the family that measures it."""
    return [
        (column.name, column.meaning)
        for family in measures.FAMILIES.values()
        for column in family.columns
        if column.name in records.raw and records.raw[column.name].notna().any()
    ]


def section_of(
    study: Study, finding: str, tables: Sequence[Table], figures: Sequence[Drawn], usage: str = ""
) -> dict[str, Any]:
    """A section as :func:`write_page` takes it: text alone, which can come from another process.

    Args:
        study: whose it is.
        finding: one sentence that its records say; empty where they do not suffice.
        tables: written beside the page, in ``tables/``.
        figures: drawn in the page, and nowhere else.
        usage: lines of Python for whoever goes on from there; empty for none.
    """
    return {
        "study": {"name": study.name, "title": study.title, "answers": study.answers},
        "finding": finding,
        "usage": usage,
        "tables": [_table(table) for table in tables],
        "figures": [_figure(drawn) for drawn in figures],
    }


def write_page(
    records: Records,
    answer: Sequence[str],
    picture: Drawn | None,
    sections: Sequence[dict[str, Any]],
    failures: Table,
    notes: Sequence[str],
    out: Path,
) -> Path:
    """Write ``index.html``.

    Args:
        records: what was measured.
        answer: the sentences of the first screen.
        picture: what they are about; None for none.
        sections: each of :func:`section_of`.
        failures: what is missing from all of them.
        notes: what the reader should know of the records.
        out: folder of the page.

    Returns:
        The page's path.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    cells = records.cells
    environment_columns = sorted(
        name
        for name in cells.columns
        if name.startswith("environment.")
        # The machine stands among the settings, from these records or from older ones.
        and name not in (*records.setting_columns, "environment.machine")
    )
    looks: dict[str, str] = {}
    page = environment.get_template("index.html.jinja").render(
        total=len(cells),
        ok=len(records.ok),
        answer=answer,
        picture=_at_home(_figure(picture), looks) if picture else None,
        flows=list(dict.fromkeys(cells["flow"])),
        datasets=list(dict.fromkeys(cells["dataset"])),
        seeds=sorted(int(seed) for seed in set(cells["seed"].dropna())),
        parts=[
            section | {"figures": [_at_home(figure, looks) for figure in section["figures"]]}
            for section in sections
        ],
        failures=_table(failures),
        settings=_listing(records, records.setting_columns),
        differing=[_label(column) for column in records.differing],
        environment=_listing(records, environment_columns),
        rules=_RULES,
        meanings=_meanings(records),
        notes=notes,
        # Filled by the figures, above.
        looks=Markup("\n".join(f".{name}{rule}" for rule, name in looks.items())),
    )
    path = out / "index.html"
    path.write_bytes(page.encode("utf-8"))
    return path
