"""To import this is to have loaded what every cell needs and takes its time to import.

What a cell's process does; torch's compiler's front end, which its optimisers import at their first
step; kernels, which are compiled once, before anything is measured; and all measures.
"""

import importlib

from benchmarks import measures

__all__: list[str] = []

for _name in (
    "benchmarks.run.process",
    "torch._dynamo",
    "flows.continuous.kernels.warmed",
    *(found.measure.__module__ for found in measures.FAMILIES.values()),
):
    importlib.import_module(_name)
