"""FFJORD's solver beside torchdiffeq and the libraries: speed and memory."""

from __future__ import annotations

from typing import Any

import pandas as pd

from benchmarks.report import figures, tables
from benchmarks.report.findings import times_the_reference
from benchmarks.report.records import Records
from benchmarks.studies.base import Study

_SMALL = """
seeds = [0]
measures = ["work", "time", "memory", "ratio"]

# One thread, float32; each contestant timed in turn with ours, A B A B, in one process, with the
# same network, tolerances and weights. An adaptive solver's work depends on the weights: each study
# comes untrained and trained. Ours against itself shows what is chance, and its distance from the
# machine's matrix products. torchflows' FFJORD has no gradient of the log-determinant, so that its
# training step does less than the others'; with trace_gradient it does the same. diffrax is compiled
# by JAX; where that is not installed its cells are skipped.
[budget]
steps = 0
batch_size = 1000
validation_rows = 1000

[[study]]
name = "toy"
flows = [
    { name = "ffjord-toy", trace = "hutchinson", backend = ["native", "torchdiffeq"] },
    { name = "zuko/ffjord", end_time = 0.5 },
    { name = "torchflows/ffjord", end_time = 0.5, trace_gradient = [false, true] },
    { name = "diffrax/ffjord", end_time = 0.5 },
]
datasets = [{ name = "8gaussians", rows = 5000 }]
reference = { name = "ffjord-toy", trace = "hutchinson" }
budget = { batch_size = 512 }

# As the official code trains on two-dimensional data.
[[study]]
name = "toy-exact"
flows = [
    { name = "ffjord-toy", backend = ["native", "torchdiffeq"] },
    { name = "zuko/ffjord", end_time = 0.5, trace = "exact" },
    { name = "torchflows/ffjord", end_time = 0.5, trace = "exact", trace_gradient = true },
    { name = "diffrax/ffjord", end_time = 0.5, trace = "exact" },
]
datasets = [{ name = "8gaussians", rows = 5000 }]
reference = "ffjord-toy"
budget = { batch_size = 512 }

# Without the gradient of the log-determinant nothing is learned: torchflows comes mended alone.
[[study]]
name = "toy-trained"
flows = [
    { name = "ffjord-toy", trace = "hutchinson", backend = ["native", "torchdiffeq"] },
    { name = "zuko/ffjord", end_time = 0.5 },
    { name = "torchflows/ffjord", end_time = 0.5, trace_gradient = true },
    { name = "diffrax/ffjord", end_time = 0.5 },
]
datasets = ["8gaussians"]
reference = { name = "ffjord-toy", trace = "hutchinson" }
measures = ["quality", "work", "time", "memory", "ratio"]
budget = { batch_size = 512, steps = 200, learning_rate = 1e-2 }

[[study]]
name = "power"
flows = [
    { name = "ffjord-power", backend = ["native", "torchdiffeq"] },
    { name = "zuko/ffjord", hidden = [60, 60, 60], blocks = 5, atol = 1e-8, rtol = 1e-6 },
    { name = "torchflows/ffjord", hidden = [60, 60, 60], blocks = 5, atol = 1e-8, rtol = 1e-6, trace_gradient = [false, true] },
    { name = "diffrax/ffjord", hidden = [60, 60, 60], blocks = 5, atol = 1e-8, rtol = 1e-6 },
]
datasets = [{ name = "power", rows = 10000 }]
reference = "ffjord-power"

[[study]]
name = "power-trained"
flows = [{ name = "diffrax/ffjord", hidden = [60, 60, 60], blocks = 5, atol = 1e-8, rtol = 1e-6 }]
datasets = [{ name = "power", rows = 10000 }]
reference = "ffjord-power"
budget = { steps = 200, learning_rate = 3e-3 }
"""

_DIFFRAX = {
    "toy": """
flows = [{ name = "diffrax/ffjord", end_time = 0.5 }]
datasets = [{ name = "8gaussians", rows = 10000 }]
reference = { name = "ffjord-toy", trace = "hutchinson" }
""",
    "power": """
flows = [{ name = "diffrax/ffjord", hidden = [60, 60, 60], blocks = 5, atol = 1e-8, rtol = 1e-6 }]
datasets = [{ name = "power", rows = 10000 }]
reference = "ffjord-power"
""",
}
_RATES = {"toy": 1e-2, "power": 3e-3}


def _of_size(data: str, batch: int, trained: bool) -> str:
    """Against diffrax at another size of a batch.

    Small ones show what a call costs beside its arithmetic, large ones what the caches hold.
    """
    how = f"steps = 200, learning_rate = {_RATES[data]}" if trained else "steps = 0"
    return f"""
[[study]]
name = "{data}{"-trained" if trained else ""}-{batch}"
{_DIFFRAX[data]}
measures = ["work", "time", "ratio"]
budget = {{ batch_size = {batch}, {how} }}
"""


_SMALL += "".join(
    _of_size(*each) for each in (("toy", 64, False), ("toy", 64, True), ("toy", 4096, False))
)

# What two cores take too long for.
_MORE = """
[[study]]
name = "power-trained-eager"
flows = [{ name = "ffjord-power", backend = ["native", "torchdiffeq"] }]
datasets = [{ name = "power", rows = 10000 }]
reference = "ffjord-power"
budget = { steps = 200, learning_rate = 3e-3 }

# The data's values matter little to an untrained flow; the dimension is MINIBOONE's. A training
# step takes seconds, and ten of them tell what there is to tell.
[[study]]
name = "miniboone"
flows = [
    { name = "ffjord-miniboone", backend = ["native", "torchdiffeq"] },
    { name = "zuko/ffjord", hidden = [860, 860], activation = "softplus", atol = 1e-8, rtol = 1e-6 },
    { name = "torchflows/ffjord", hidden = [860, 860], activation = "softplus", atol = 1e-8, rtol = 1e-6, trace_gradient = [false, true] },
    { name = "diffrax/ffjord", hidden = [860, 860], activation = "softplus", atol = 1e-8, rtol = 1e-6 },
]
datasets = [{ name = "gaussian", dimension = 43, rows = 5000 }]
reference = "ffjord-miniboone"
measures = ["time", "memory", "ratio"]

[[study]]
name = "miniboone-trained"
flows = [
    "ffjord-miniboone",
    { name = "diffrax/ffjord", hidden = [860, 860], activation = "softplus", atol = 1e-8, rtol = 1e-6 },
]
datasets = [{ name = "gaussian", dimension = 43, rows = 5000 }]
reference = "ffjord-miniboone"
budget = { steps = 50, learning_rate = 3e-3 }
"""
_MORE += "".join(
    _of_size(*each)
    for each in (
        ("power", 64, False),
        ("power", 64, True),
        ("power", 4096, False),
        ("toy", 4096, True),
        ("power", 4096, True),
    )
)


def _contestant(cell: pd.Series[Any]) -> str:
    library, slash, _ = str(cell["flow_name"]).partition("/")
    if not slash:
        native = cell.get("flow.backend") == "native"
        library = "ours against itself" if native else "torchdiffeq"
    if cell.get("flow.trace_gradient") is False:
        # It does less than the others: no case of the same work.
        return ""
    return f"{library} {'trained' if cell['trained'] else 'untrained'}"


def finding(records: Records) -> str | None:
    """How many times our time a training step takes with each solver, untrained and trained."""
    return times_the_reference(records, _contestant)


ENTRIES = [
    Study(
        name="backends",
        title="FFJORD's solver against torchdiffeq with the adjoint, zuko, torchflows and diffrax, at the official settings, untrained and trained: speed and memory",
        answers="how far FFJORD's cost is the method's, and how far the solver's",
        small=_SMALL,
        full=_SMALL + _MORE,
        tables=(tables.comparison, tables.published, tables.cost, tables.ratios),
        figures=(figures.learning, figures.trade_offs),
        finding=finding,
        place=42,
    )
]
