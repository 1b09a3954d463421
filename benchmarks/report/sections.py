"""The sections of a report: one a study, of the cells that the plans of its folders name for it."""

from __future__ import annotations

import dataclasses

from benchmarks import choose, studies
from benchmarks.errors import StoreError
from benchmarks.report import figures, tables
from benchmarks.report.records import Records
from benchmarks.studies.base import Study

__all__ = ["sections_of"]

ANYTHING = Study(
    name="cells",
    title="Cells of no study",
    answers="which flow models the data best, and at what cost",
    tables=(
        tables.comparison,
        tables.published,
        tables.cost,
        tables.ratios,
        tables.dimension,
        tables.bottleneck,
        tables.regularizers,
    ),
    figures=(
        figures.learning,
        figures.densities,
        figures.trade_offs,
        figures.dimension,
        figures.deviation_by_dimension,
        figures.deviation_by_bottleneck,
        figures.nfe_growth,
    ),
)
"""What is shown of cells whatever they were run for: a user's own matrix, a folder without plan."""


def sections_of(records: Records) -> list[tuple[Study, Records]]:
    """Studies with their records, in the order of the studies; then what is of none."""
    # Not among the studies: its cells are made for a table of the user's.
    catalog = {**studies.STUDIES, choose.STUDY.name: choose.STUDY}
    keys: dict[str, set[str]] = {}
    own: dict[str, Study] = {}
    for store in dict.fromkeys(records.store_of.values()):
        try:
            plan = store.plan()
        except StoreError as error:
            records.notes.append(str(error))
            continue
        if plan is None:
            continue
        for name, mine in studies.keys_by_study(plan).items():
            keys.setdefault(name, set()).update(mine)
            if name not in catalog:
                title = f"{name}: {plan.description}" if plan.description else name
                own[name] = dataclasses.replace(ANYTHING, name=name, title=title)
    known = [study for name, study in catalog.items() if name in keys]
    found = [(study, keys[study.name]) for study in (*known, *own.values())]
    rest = {_key(key) for key in records.cells["key"]} - set().union(*keys.values())
    return [
        (study, part)
        for study, mine in (*found, (ANYTHING, rest))
        if len((part := records.only(mine)).cells)
    ]


def _key(key: str) -> str:
    """Without the mark of a second machine."""
    return key.partition("@")[0]
