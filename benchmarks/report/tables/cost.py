"""What a training step, a density and a sample cost."""

from __future__ import annotations

from benchmarks import measures
from benchmarks.report.records import Records
from benchmarks.report.table import Table
from benchmarks.report.tables.columns import measure_table

__all__ = ["cost"]

# In the CSV alone, with the quartiles of the times.
_BESIDE = (
    "first_step_seconds",
    "process_peak_bytes",
    "peak_memory_reserved_bytes",
    "matmul_flops_per_second",
)


def cost(records: Records) -> list[Table]:
    """Time, work, memory and parameters of each flow, a section a data set."""
    times = measures.columns("time", table="cost")
    # What every trained cell has says nothing of cost by itself.
    always = [column for column in measures.ALWAYS if column.table == "cost"]
    others = [c for c in measures.columns(table="cost") if c not in (*times, *always)]
    cells = records.ok
    quartiles = [f"{column.name}_{end}" for column in times for end in ("q25", "q75")]
    return measure_table(
        records,
        cells,
        [*times, *others, *always],
        name="cost",
        title="Cost of a training step, a density and a sample",
        needs=[column.name for column in (*times, *others)],
        beside=[*(name for name in quartiles if name in cells), *_BESIDE],
    )
