"""Discrete flows of several libraries side by side: speed and memory."""

from __future__ import annotations

from typing import Any

import pandas as pd

from benchmarks.report import figures, tables
from benchmarks.report.findings import times_the_reference
from benchmarks.report.records import Records
from benchmarks.studies.base import Study

_LIBRARIES = """
seeds = [0]
measures = ["work", "time", "memory", "ratio"]

# Batch 1000, one thread, float32; each contestant timed in turn with ours, A B A B, in one process.
# Ours against itself shows how far a ratio of 1 reads as another, and what it takes over the matrix
# products' own time.
[budget]
steps = 0
batch_size = 1000

[[study]]
name = "realnvp-100"
flows = [
    { name = ["realnvp", "nflows/realnvp", "zuko/realnvp", "normflows/realnvp", "torchflows/realnvp", "flowjax/realnvp"], layers = 10, hidden = [100, 100] },
]
datasets = [{ name = "gaussian", dimension = [6, 43, 63], rows = 5000 }]
reference = { name = "realnvp", layers = 10, hidden = [100, 100] }

[[study]]
name = "maf-100"
flows = [
    { name = ["maf", "nflows/maf", "zuko/maf", "torchflows/maf", "flowjax/maf"], layers = 5, hidden = [100, 100] },
]
datasets = [{ name = "gaussian", dimension = [6, 43, 63], rows = 5000 }]
reference = { name = "maf", layers = 5, hidden = [100, 100] }

[[study]]
name = "maf-512"
flows = [
    { name = ["maf", "nflows/maf", "zuko/maf", "flowjax/maf"], layers = 5, hidden = [512, 512] },
]
datasets = [{ name = "gaussian", dimension = [43, 63], rows = 5000 }]
reference = { name = "maf", layers = 5, hidden = [512, 512] }

# The fixed box of the libraries for ours as well.
[[study]]
name = "rqnsf-c-100"
flows = [
    { name = "rqnsf-c", layers = 5, hidden = [100, 100], tail_bound = 3.0 },
    { name = ["nflows/rqnsf-c", "zuko/rqnsf-c", "normflows/rqnsf-c", "torchflows/rqnsf-c", "flowjax/rqnsf-c"], layers = 5, hidden = [100, 100] },
]
datasets = [{ name = "gaussian", dimension = [6, 43, 63], rows = 5000 }]
reference = { name = "rqnsf-c", layers = 5, hidden = [100, 100], tail_bound = 3.0 }
"""

# On two cores in six dimensions alone. FlowJAX at the other sizes of a batch, where small ones show what
# a call costs beside its arithmetic, and with trained weights, by which a spline's branches go.
_FURTHER = """
# Its density and so its training step takes D passes a layer.
[[study]]
name = "maf-100-normflows"
flows = [{ name = "normflows/maf", layers = 5, hidden = [100, 100] }]
datasets = [{ name = "gaussian", dimension = [6, 43, 63], rows = 5000 }]
reference = { name = "maf", layers = 5, hidden = [100, 100] }

[[study]]
name = "realnvp-100-trained"
flows = [{ name = ["realnvp", "flowjax/realnvp"], layers = 10, hidden = [100, 100] }]
datasets = [{ name = "gaussian", dimension = [6, 43, 63], rows = 5000 }]
reference = { name = "realnvp", layers = 10, hidden = [100, 100] }
budget = { steps = 200 }

[[study]]
name = "maf-100-trained"
flows = [{ name = ["maf", "flowjax/maf"], layers = 5, hidden = [100, 100] }]
datasets = [{ name = "gaussian", dimension = [6, 43, 63], rows = 5000 }]
reference = { name = "maf", layers = 5, hidden = [100, 100] }
budget = { steps = 200 }

[[study]]
name = "rqnsf-c-100-trained"
flows = [{ name = ["rqnsf-c", "flowjax/rqnsf-c"], layers = 5, hidden = [100, 100], tail_bound = 3.0 }]
datasets = [{ name = "gaussian", dimension = [6, 43, 63], rows = 5000 }]
reference = { name = "rqnsf-c", layers = 5, hidden = [100, 100], tail_bound = 3.0 }
budget = { steps = 200 }

[[study]]
name = "realnvp-100-64"
flows = [{ name = "flowjax/realnvp", layers = 10, hidden = [100, 100] }]
datasets = [{ name = "gaussian", dimension = [6, 43, 63], rows = 5000 }]
reference = { name = "realnvp", layers = 10, hidden = [100, 100] }
measures = ["time", "ratio"]
budget = { batch_size = 64 }

[[study]]
name = "maf-100-64"
flows = [{ name = "flowjax/maf", layers = 5, hidden = [100, 100] }]
datasets = [{ name = "gaussian", dimension = [6, 43, 63], rows = 5000 }]
reference = { name = "maf", layers = 5, hidden = [100, 100] }
measures = ["time", "ratio"]
budget = { batch_size = 64 }

[[study]]
name = "rqnsf-c-100-64"
flows = [{ name = "flowjax/rqnsf-c", layers = 5, hidden = [100, 100], tail_bound = 3.0 }]
datasets = [{ name = "gaussian", dimension = [6, 43, 63], rows = 5000 }]
reference = { name = "rqnsf-c", layers = 5, hidden = [100, 100], tail_bound = 3.0 }
measures = ["time", "ratio"]
budget = { batch_size = 64 }

[[study]]
name = "realnvp-100-4096"
flows = [{ name = "flowjax/realnvp", layers = 10, hidden = [100, 100] }]
datasets = [{ name = "gaussian", dimension = [6, 43, 63], rows = 5000 }]
reference = { name = "realnvp", layers = 10, hidden = [100, 100] }
measures = ["time", "ratio"]
budget = { batch_size = 4096 }

[[study]]
name = "maf-100-4096"
flows = [{ name = "flowjax/maf", layers = 5, hidden = [100, 100] }]
datasets = [{ name = "gaussian", dimension = [6, 43, 63], rows = 5000 }]
reference = { name = "maf", layers = 5, hidden = [100, 100] }
measures = ["time", "ratio"]
budget = { batch_size = 4096 }

[[study]]
name = "rqnsf-c-100-4096"
flows = [{ name = "flowjax/rqnsf-c", layers = 5, hidden = [100, 100], tail_bound = 3.0 }]
datasets = [{ name = "gaussian", dimension = [6, 43, 63], rows = 5000 }]
reference = { name = "rqnsf-c", layers = 5, hidden = [100, 100], tail_bound = 3.0 }
measures = ["time", "ratio"]
budget = { batch_size = 4096 }
"""

# The training step of both by torch.compile, which takes minutes; densities and samples are as they
# were. FlowJAX is compiled as ever.
_COMPILED = """
[[study]]
name = "realnvp-100-compiled"
flows = [{ name = ["realnvp", "zuko/realnvp", "flowjax/realnvp"], layers = 10, hidden = [100, 100] }]
datasets = [{ name = "gaussian", dimension = 6, rows = 5000 }]
reference = { name = "realnvp", layers = 10, hidden = [100, 100] }
measures = ["time", "ratio"]
budget = { compile = true }

[[study]]
name = "maf-100-compiled"
flows = [{ name = ["maf", "zuko/maf", "flowjax/maf"], layers = 5, hidden = [100, 100] }]
datasets = [{ name = "gaussian", dimension = 6, rows = 5000 }]
reference = { name = "maf", layers = 5, hidden = [100, 100] }
measures = ["time", "ratio"]
budget = { compile = true }

[[study]]
name = "rqnsf-c-100-compiled"
flows = [{ name = ["rqnsf-c", "zuko/rqnsf-c", "flowjax/rqnsf-c"], layers = 5, hidden = [100, 100], tail_bound = 3.0 }]
datasets = [{ name = "gaussian", dimension = 6, rows = 5000 }]
reference = { name = "rqnsf-c", layers = 5, hidden = [100, 100], tail_bound = 3.0 }
measures = ["time", "ratio"]
budget = { compile = true }
"""


def _library(cell: pd.Series[Any]) -> str:
    library, slash, _ = str(cell["flow_name"]).partition("/")
    library = library if slash else "ours against itself"
    # Where both are compiled is a comparison of its own.
    return f"{library}, both compiled" if cell.get("budget.compile") else library


def finding(records: Records) -> str | None:
    """How many times our time a training step takes in each library."""
    return times_the_reference(records, _library)


ENTRIES = [
    Study(
        name="libraries",
        title="our discrete flows against nflows, zuko, normflows, torchflows and FlowJAX at equal architecture: speed and memory",
        answers="whether our discrete flows cost what their systems cost, or what an implementation adds",
        small=_LIBRARIES + _FURTHER.replace("[6, 43, 63]", "6"),
        full=_LIBRARIES + _FURTHER + _COMPILED,
        tables=(tables.cost, tables.ratios, tables.dimension),
        figures=(figures.dimension,),
        finding=finding,
        place=41,
    )
]
