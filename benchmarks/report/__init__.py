"""From records alone to tables, figures and one page to look at.

``tables/``
    each table as Markdown, CSV and LaTeX.
``figures/``
    each figure as PNG and SVG.
``index.html``
    all of it on one page that needs nothing else, neither the network nor the folders beside it.

Nothing here reads data, builds a flow or knows the clock: the same records give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import StoreError
from benchmarks.report.figures import draw_all
from benchmarks.report.page import write_page
from benchmarks.report.records import gather
from benchmarks.report.table import write
from benchmarks.report.tables import every_table
from benchmarks.store import Store

__all__ = ["ReportSummary", "write_report"]


@dataclass(frozen=True)
class ReportSummary:
    """What a report consists of.

    Attributes:
        paths: every file written, the page first.
        notes: what its reader should know: what was left out, and why.
        cells: how many cells it covers.
        without_result: how many of them gave no result.
    """

    paths: tuple[Path, ...]
    notes: tuple[str, ...]
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
        StoreError: if no store holds a record, or ``out`` cannot be written.
    """
    records = gather(stores)
    if records.cells.empty:
        folders = ", ".join(str(store.directory) for store in stores) or "no folder given"
        why = f" ({'; '.join(records.notes)})" if records.notes else ""
        raise StoreError(f"no records to report on in {folders}{why}: run a matrix into it first")
    try:
        out.mkdir(parents=True, exist_ok=True)
        tables = every_table(records)
        paths = [path for table in tables for path in write(table, out / "tables")]
        pictures, undrawn = draw_all(records, out / "figures")
        paths += [path for picture in pictures for path in picture.paths]
        notes = [*records.notes, *undrawn]
        page = write_page(records, tables, pictures, notes, out)
    except OSError as error:
        raise StoreError(f"cannot write the report into {out}: {error}") from error
    return ReportSummary(
        paths=(page, *paths),
        notes=tuple(notes),
        cells=len(records.cells),
        without_result=len(records.cells) - len(records.ok),
    )
