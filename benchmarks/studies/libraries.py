"""Discrete flows of several libraries side by side: speed and memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import pandas as pd

from benchmarks import measures
from benchmarks.report import figures, tables
from benchmarks.report.findings import times_the_reference
from benchmarks.report.groups import contestant
from benchmarks.report.records import Records
from benchmarks.report.table import Table
from benchmarks.studies.base import Study

_HEAD = """
seeds = [0]
measures = ["work", "time", "memory", "ratio"]

# Batch 1000, one thread, float32; each contestant timed in turn with ours, A B A B, in one process.
# Ours against itself shows how far a ratio of 1 reads as another, and what it takes over the matrix
# products' own time.
[budget]
steps = 0
batch_size = 1000
"""
# Splines have the fixed box of the libraries, ours as well.
_ARCHITECTURES = {
    "realnvp": "layers = 10, hidden = [100, 100]",
    "maf": "layers = 5, hidden = [100, 100]",
    "rqnsf-c": "layers = 5, hidden = [100, 100], tail_bound = 3.0",
}
_OURS = ""
_ALL = (_OURS, "nflows", "zuko", "normflows", "torchflows", "flowjax")
# A density of normflows' MAF, and so a training step, takes D passes a layer: apart.
_ONE_PASS = (_OURS, "nflows", "zuko", "torchflows", "flowjax")
_DIMENSIONS = "[6, 43, 63]"


def _block(
    name: str,
    system: str,
    libraries: Iterable[str],
    dimension: str,
    more: str = "",
    width: int = 100,
) -> str:
    architecture = _ARCHITECTURES[system].replace("100", str(width))
    names = [f"{library}/{system}" if library else system for library in libraries]
    return f"""
[[study]]
name = "{name}"
flows = [{{ name = {names}, {architecture} }}]
datasets = [{{ name = "gaussian", dimension = {dimension}, rows = 5000 }}]
reference = {{ name = "{system}", {architecture} }}
{more}
"""


def _matrix(further: str, *, zuko_compiled: bool) -> str:
    """The matrix whose studies beside the first ones have these dimensions."""
    blocks = [
        _HEAD,
        _block("realnvp-100", "realnvp", _ALL, _DIMENSIONS),
        _block("maf-100", "maf", _ONE_PASS, _DIMENSIONS),
        _block("maf-512", "maf", [_OURS, "nflows", "zuko", "flowjax"], "[43, 63]", width=512),
        _block("rqnsf-c-100", "rqnsf-c", _ALL, _DIMENSIONS),
        _block("maf-100-normflows", "maf", ["normflows"], further),
    ]
    # FlowJAX with trained weights, by which a spline's branches go, and at other sizes of a batch,
    # where small ones show what a call costs beside its arithmetic. Compiled: the training step of
    # both by torch.compile, which takes minutes (zuko's the most, so in the full profile alone);
    # densities and samples are as they were, and FlowJAX is compiled as ever.
    timed = 'measures = ["time", "ratio"]\nbudget = '
    variants = [
        ("trained", [_OURS, "flowjax"], further, "budget = { steps = 200 }"),
        ("64", ["flowjax"], further, timed + "{ batch_size = 64 }"),
        ("4096", ["flowjax"], further, timed + "{ batch_size = 4096 }"),
    ]
    compiles = timed + "{ compile = true }"
    variants.append(("compiled", [_OURS, "flowjax"], "6", compiles))
    if zuko_compiled:
        variants.append(("compiled-zuko", ["zuko"], "6", compiles))
    blocks += [
        _block(f"{system}-100-{name}", system, libraries, dimension, more)
        for name, libraries, dimension, more in variants
        for system in _ARCHITECTURES
    ]
    return "".join(blocks)


def _library(cell: pd.Series[Any]) -> str:
    library, slash, _ = str(cell["flow_name"]).partition("/")
    library = library if slash else "ours against itself"
    # Where both are compiled is a comparison of its own.
    return f"{library}, both compiled" if cell.get("budget.compile") else library


def finding(records: Records) -> str | None:
    """How many times our time a training step takes in each library."""
    return times_the_reference(records, _library)


_TIMES = ("train_step_ratio", "log_prob_ratio", "sample_ratio")


def ratios(records: Records) -> list[Table]:
    """The ratios, and below them on which rows ours takes longer than FlowJAX."""
    return [
        dataclasses.replace(table, notes=[*table.notes, *_behind_flowjax(records, table.data)])
        for table in tables.ratios(records)
    ]


def _behind_flowjax(records: Records, rows: pd.DataFrame) -> list[str]:
    rows = rows[[records.system_of[flow].startswith("flowjax/") for flow in rows["flow"]]]
    rows = rows[rows[list(_TIMES)].notna().any(axis=1)]
    if rows.empty:
        return []
    labels = dict(zip(records.ok["setting"], records.ok["setting_label"], strict=True))
    found = []
    for _, row in rows.iterrows():
        behind = [
            f"{measures.column(name).title} {row[name]:.2f}"
            for name in _TIMES
            if round(row[name], 2) < 1
        ]
        if behind:
            name = contestant(records.short[row["flow"]], labels[row["setting"]])
            found.append(f"{name} on {row['dataset']} ({', '.join(behind)})")
    if not found:
        return [f"Ours is level with FlowJAX or ahead of it in all {len(rows)} rows."]
    return [f"Ours is behind FlowJAX in {len(found)} of {len(rows)} rows: {'; '.join(found)}."]


ENTRIES = [
    Study(
        name="libraries",
        title="our discrete flows against nflows, zuko, normflows, torchflows and FlowJAX at equal architecture: speed and memory",
        answers="whether our discrete flows cost what their systems cost, or what an implementation adds",
        # On two cores the further studies are in six dimensions alone.
        small=_matrix("6", zuko_compiled=False),
        full=_matrix(_DIMENSIONS, zuko_compiled=True),
        tables=(tables.cost, ratios, tables.dimension),
        figures=(figures.dimension,),
        finding=finding,
        place=41,
    )
]
