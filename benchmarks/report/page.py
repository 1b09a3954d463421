"""The page: every table and figure in one file that opens from disk."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from benchmarks import measures
from benchmarks.errors import StoreError
from benchmarks.report.figures import Picture
from benchmarks.report.records import Records, plain
from benchmarks.report.style import DPI
from benchmarks.report.table import Table, as_html

__all__ = ["write_page"]


# On the page, where an image of 96 would have its text smaller than the page's own.
_PIXELS_AN_INCH = 124


@dataclass(frozen=True)
class _Part:
    """A section of the page: what belongs to one question."""

    name: str
    title: str
    lead: str
    tables: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()


# Tables and figures by the beginning of their names; each appears in the first part that names it.
_PARTS = (
    _Part("quality", "Quality", "Which flow models the data best?", ("comparison", "kl", "images")),
    _Part("densities", "Densities", "What the flows have learned, to look at.", (), ("density",)),
    _Part(
        "learning",
        "Learning",
        "How fast does each flow get there?",
        (),
        ("nll-against-time", "nfe-over"),
    ),
    _Part("cost", "Cost", "At what cost?", ("cost", "ratios"), ("quality-against",)),
    _Part(
        "dimension",
        "Dimension",
        "How do quality and cost grow with dimension?",
        ("gaussian", "dimension"),
        ("dimension", "deviation-against-dimension"),
    ),
    _Part(
        "bottleneck",
        "Bottleneck",
        "What does a bottleneck do to the estimator?",
        ("bottleneck",),
        ("deviation-against-bottleneck",),
    ),
    _Part(
        "regularizers",
        "Regularisers",
        "What do regularisers of FFJORD save, and at what price?",
        ("regularizers",),
    ),
    _Part("published", "Published numbers", "What the literature reports.", ("published",)),
    _Part("failures", "Failures", "What is missing from the tables above.", ("failures",)),
)

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


def _figure(picture: Picture) -> dict[str, Any]:
    png, svg = picture.paths
    # Inside the page, so that the page can be sent alone.
    image = png.read_bytes()
    # A PNG's width in pixels stands in its header. A fixed ratio keeps the text of all figures
    # at one size.
    width = int.from_bytes(image[16:20], "big") * _PIXELS_AN_INCH // DPI
    data = base64.b64encode(image).decode("ascii")
    return {
        "width": width,
        "title": picture.title,
        "caption": picture.caption,
        "name": picture.name,
        "data": f"data:image/png;base64,{data}",
        "links": {"PNG": f"figures/{png.name}", "SVG": f"figures/{svg.name}"},
    }


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


def _matrices(records: Records) -> list[dict[str, Any]]:
    """Name and description of each store's last matrix, where it was kept."""
    found: dict[str, str] = {}
    for store in dict.fromkeys(records.store_of.values()):
        try:
            plan = store.plan()
        except StoreError:
            continue
        if plan is not None:
            found[plan.name] = plan.description
    return [{"name": name, "description": text} for name, text in sorted(found.items())]


def _meanings(records: Records) -> list[tuple[str, str]]:
    """What each measured column means, in the words of the family that measures it."""
    found = []
    for name in measures.FAMILIES:
        for column, meaning in measures.family(name).COLUMNS.items():
            if column in records.cells and records.cells[column].notna().any():
                found.append((column, meaning))
    return found


def write_page(
    records: Records,
    tables: Sequence[Table],
    pictures: Sequence[Picture],
    notes: Sequence[str],
    out: Path,
) -> Path:
    """Write ``index.html``.

    Args:
        records: what was measured.
        tables: written beside the page, in ``tables/``.
        pictures: written beside it, in ``figures/``.
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
    left_tables, left_pictures = list(tables), list(pictures)
    parts = []
    for part in _PARTS:
        mine = [t for t in left_tables if t.name.startswith(part.tables or ("\0",))]
        drawn = [p for p in left_pictures if p.name.startswith(part.figures or ("\0",))]
        left_tables = [t for t in left_tables if t not in mine]
        left_pictures = [p for p in left_pictures if p not in drawn]
        if mine or drawn:
            parts.append(
                {
                    "part": part,
                    "tables": [_table(table) for table in mine],
                    "figures": [_figure(picture) for picture in drawn],
                }
            )
    assert not left_tables, f"tables that no part of the page names: {left_tables}"
    assert not left_pictures, f"figures that no part of the page names: {left_pictures}"

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
        flows=list(dict.fromkeys(cells["flow"])),
        datasets=list(dict.fromkeys(cells["dataset"])),
        seeds=sorted(int(seed) for seed in set(cells["seed"].dropna())),
        matrices=_matrices(records),
        parts=parts,
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
