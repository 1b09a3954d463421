"""The tables that studies choose from, each a function of records.

It gives a list: several where there are many data sets, none where no record has what it takes.
A study's own table of some measures is :func:`measure_table`.
"""

from benchmarks.report.tables.bottleneck import bottleneck
from benchmarks.report.tables.columns import measure_table
from benchmarks.report.tables.comparison import comparison
from benchmarks.report.tables.cost import cost
from benchmarks.report.tables.dimension import dimension
from benchmarks.report.tables.failures import failures
from benchmarks.report.tables.gaps import gaps
from benchmarks.report.tables.published import published
from benchmarks.report.tables.ratios import ratios
from benchmarks.report.tables.regularizers import regularizers

__all__ = [
    "bottleneck",
    "comparison",
    "cost",
    "dimension",
    "failures",
    "gaps",
    "measure_table",
    "published",
    "ratios",
    "regularizers",
]
