"""From records alone to tables, figures and one page to look at.

``tables/``
    each table as Markdown, CSV and LaTeX.
``index.html``
    all of it on one page that needs nothing else, neither the network nor the folders beside it;
    above all who wins at which cost (:mod:`benchmarks.report.answer`). Figures are there alone,
    as SVG that its reader can save; the summary holds them too.

A report has a section for each study that the folders' plans name, and one for cells of no study
(:mod:`benchmarks.report.sections`). Nothing here reads data, builds a flow or knows the clock: the
same records give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.errors import StoreError
from benchmarks.report.answer import answer
from benchmarks.report.figures import Drawn, Scene
from benchmarks.report.page import section_of, write_page
from benchmarks.report.processes import cores, on_all_cores
from benchmarks.report.records import Records, gather
from benchmarks.report.sections import sections_of
from benchmarks.report.style import rc
from benchmarks.report.table import write
from benchmarks.report.tables import failures
from benchmarks.store import Store
from benchmarks.studies.base import Study

__all__ = ["ReportSummary", "write_report"]

# Below, one process is done before others would have begun.
_FEW_CELLS = 100


@dataclass(frozen=True)
class ReportSummary:
    """What a report consists of.

    Attributes:
        paths: every file written, the page first.
        notes: what its reader should know: what was left out, and why.
        sections: each study with its records, as the page shows them.
        sentences: who wins at which cost.
        picture: what they are about; None where there is nothing to show.
        figures: by name each figure of the sections as SVG that stands alone.
        cells: how many cells it covers.
        without_result: how many of them gave no result.
    """

    paths: tuple[Path, ...]
    notes: tuple[str, ...]
    sections: tuple[tuple[Study, Records], ...]
    sentences: tuple[str, ...]
    picture: Drawn | None
    figures: dict[str, str]
    cells: int
    without_result: int


def write_report(stores: Sequence[Store], out: Path) -> ReportSummary:
    """Write tables, figures and the page.

    Args:
        stores: folders of records; a cell that lies in several counts once.
        out: folder to write into; made if missing. Files of an earlier report are overwritten.

    Returns:
        What was written.

    Raises:
        StoreError: if no store holds a record, two hold different ones of one cell, or ``out``
            cannot be written.
    """
    records = gather(stores)
    if records.cells.empty:
        folders = ", ".join(str(store.directory) for store in stores) or "no folder given"
        why = f" ({'; '.join(records.notes)})" if records.notes else ""
        raise StoreError(f"no records to report on in {folders}{why}: run a study into it first")
    sections = sections_of(records)
    notes = list(records.notes)
    sentences, picture = answer(sections)
    # Names are one study's own: where there are several, files say whose they are.
    several = len(sections) > 1

    def write_section(place: int) -> _Written:
        study, mine = sections[place]
        return _write_section(study, mine, f"{study.name}-" if several else "", out)

    try:
        out.mkdir(parents=True, exist_ok=True)
        (missing,) = failures(records)
        paths = write(missing, out / "tables")
        # The largest first.
        order = sorted(range(len(sections)), key=lambda place: -len(sections[place][1].cells))
        processes = 1 if len(records.cells) < _FEW_CELLS else cores()
        made = on_all_cores(write_section, order, processes)
        written = [found for _, found in sorted(zip(order, made, strict=True))]
        for found in written:
            notes += found.undrawn
            paths += found.paths
        parts = [found.part for found in written]
        page = write_page(records, sentences, picture, parts, missing, notes, out)
    except OSError as error:
        raise StoreError(f"cannot write the report into {out}: {error}") from error
    return ReportSummary(
        paths=(page, *paths),
        notes=tuple(notes),
        sections=tuple(sections),
        sentences=sentences,
        picture=picture,
        figures={drawn["name"]: drawn["svg"] for part in parts for drawn in part["figures"]},
        cells=len(records.cells),
        without_result=len(records.cells) - len(records.ok),
    )


@dataclass(frozen=True)
class _Written:
    """What became of a section.

    Attributes:
        part: of the page.
        undrawn: a note for each figure that could not be drawn.
        paths: the files of its tables.
    """

    part: dict[str, Any]
    undrawn: list[str]
    paths: list[Path]


def _write_section(study: Study, records: Records, prefix: str, out: Path) -> _Written:
    """Write a study's tables and draw its figures; nothing but what the page takes stays."""
    scene = Scene.of(records)
    tables = [
        replace(table, name=prefix + table.name) for make in study.tables for table in make(records)
    ]
    paths = [path for table in tables for path in write(table, out / "tables")]
    figures, undrawn = [], []
    with mpl.rc_context(rc()):
        for draw in study.figures:
            drawn = [replace(each, name=prefix + each.name) for each in draw(scene)]
            figures += drawn
            if not drawn:
                what = (draw.__doc__ or draw.__name__).partition("\n")[0].rstrip(".")
                undrawn.append(f"{study.name}: no record has what this figure takes: {what}")
    part = section_of(
        study,
        finding=(study.finding and study.finding(records)) or "",
        tables=tables,
        figures=figures,
        usage=(study.usage and study.usage(records)) or "",
    )
    return _Written(part, undrawn, paths)
