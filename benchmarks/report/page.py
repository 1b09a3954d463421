"""The page: every table and figure in one file that opens from disk."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from benchmarks import measures
from benchmarks.report.figures import Drawn
from benchmarks.report.groups import plain
from benchmarks.report.records import Records
from benchmarks.report.table import Table, as_html
from benchmarks.studies.base import Study

__all__ = ["Part", "section_of", "write_page"]


@dataclass(frozen=True)
class Part:
    """A section of the page.

    Attributes:
        study: whose it is.
        finding: one sentence that its records say; empty where they do not suffice.
        tables: written beside the page, in ``tables/``.
        figures: written beside it, in ``figures/``.
        usage: lines of Python for whoever goes on from there; empty for none.
    """

    study: Study
    finding: str
    tables: Sequence[Table]
    figures: Sequence[Drawn]
    usage: str = ""


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


def _figure(drawn: Drawn, folder: Path) -> dict[str, Any]:
    return {
        "title": drawn.title,
        "caption": drawn.caption,
        "name": drawn.name,
        "svg": Markup(_inline(folder / f"{drawn.name}.svg", drawn)),
        "links": {"SVG": f"figures/{drawn.name}.svg"},
    }


# On the page, where a figure of 96 would have its text smaller than the page's own.
_PIXELS_AN_INCH = 124


_PNG = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")


def _webp(found: re.Match[str]) -> str:
    """An image in what every browser reads, but not every program that takes figures."""
    image = Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGBA")
    out = io.BytesIO()
    if image.getchannel("A").getextrema() == (255, 255):
        image.convert("RGB").save(out, "webp", quality=75, method=6)
    else:
        # Points in one colour: their edges would suffer.
        image.save(out, "webp", lossless=True, method=6)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"


def _inline(path: Path, drawn: Drawn) -> str:
    """A figure's SVG as part of the page."""
    svg = path.read_text(encoding="utf-8")
    width = float(drawn.figure.get_figwidth()) * _PIXELS_AN_INCH
    svg = re.sub(r' (width|height)="[^"]*pt"', "", svg)
    svg = _PNG.sub(_webp, svg)
    label = html.escape(drawn.title, quote=True)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" width="{width:.0f}" ', 1)


def _table(table: Table) -> dict[str, Any]:
    return {
        "title": table.title,
        "name": table.name,
        "html": Markup(as_html(table)) if any(s.rows for s in table.sections) else "",
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


def section_of(part: Part, out: Path) -> dict[str, Any]:
    """A section as the page's template takes it: text alone.

    Args:
        part: its tables and figures written already.
        out: folder of the page.
    """
    study = part.study
    return {
        "study": {"name": study.name, "title": study.title, "answers": study.answers},
        "finding": part.finding,
        "usage": part.usage,
        "tables": [_table(table) for table in part.tables],
        "figures": [_figure(drawn, out / "figures") for drawn in part.figures],
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
        picture: what they are about, written already; None for none.
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
    page = environment.get_template("index.html.jinja").render(
        total=len(cells),
        ok=len(records.ok),
        answer=answer,
        picture=_figure(picture, out / "figures") if picture else None,
        flows=list(dict.fromkeys(cells["flow"])),
        datasets=list(dict.fromkeys(cells["dataset"])),
        seeds=sorted(int(seed) for seed in set(cells["seed"].dropna())),
        parts=sections,
        failures=_table(failures),
        settings=_listing(records, records.setting_columns),
        differing=[_label(column) for column in records.differing],
        environment=_listing(records, environment_columns),
        rules=_RULES,
        meanings=_meanings(records),
        notes=notes,
    )
    path = out / "index.html"
    path.write_bytes(page.encode("utf-8"))
    return path
