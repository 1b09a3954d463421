"""Quality and cost against dimension."""

from __future__ import annotations

from benchmarks.report.records import Records
from benchmarks.report.sweeps import dimension_cells
from benchmarks.report.table import Table
from benchmarks.report.tables.columns import measure_table

__all__ = ["dimension"]

_COLUMNS = (
    "kl_to_truth_nats",
    "trace_std",
    "log_prob_std",
    "nfe_train_forward",
    "nfe_train_backward",
    "train_step_seconds",
    "log_prob_seconds",
    "log_prob_exact_seconds",
    "sample_seconds",
    "peak_memory_bytes",
    "parameters",
)


def dimension(records: Records) -> list[Table]:
    """Quality, estimator deviation and cost of each flow against dimension."""
    cells = dimension_cells(records).sort_values(["family", "dimension"], kind="stable")
    families = cells["family"].nunique()
    known = bool(cells.loc[cells["status"] == "ok", "kl_to_truth_nats"].notna().any())
    return measure_table(
        records,
        cells,
        _COLUMNS,
        name="dimension",
        title=("Quality and cost" if known else "Cost")
        + " against dimension, on data of known entropy",
        by=("family", "dimension"),
        heading=lambda family, size: f"D = {size:g}" + (f" ({family})" if families > 1 else ""),
    )
