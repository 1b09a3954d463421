"""The learning rates of the study quick."""

from __future__ import annotations

import pandas as pd

from benchmarks.report import figures, tables
from benchmarks.report.records import Records
from benchmarks.studies.base import Study

_SMALL = """
seeds = [0]
measures = ["quality"]

# `ffjord-bench run quick-rates`, then `ffjord-bench collect results/runs/quick-rates`: the column
# learning_rate gives the choice, learning_rate_at_edge whether a wider grid is needed.
[budget]
steps = 500
batch_size = 256
learning_rate = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
validate_every = 50
validation_rows = 2000

[[study]]
name = "comparison"
flows = [{ name = "ffjord", atol = 1e-4, rtol = 1e-4 }, "realnvp", "glow", "maf"]
datasets = ["8gaussians", "checkerboard", { name = "power", rows = 20000, test_rows = 2469 }]

[[study]]
name = "images"
flows = [{ name = "ffjord", atol = 1e-4, rtol = 1e-4, hidden = [256] }, "realnvp", "glow", "maf"]
datasets = ["optdigits"]
budget = { steps = 300 }

[[study]]
name = "dimension"
flows = [{ name = "ffjord", atol = 1e-4, rtol = 1e-4 }, "realnvp", "glow", "maf"]
datasets = [{ name = "gaussian", dimension = [2, 8, 32] }]
budget = { steps = 200 }

# The bottleneck study takes the rate of FFJORD on the Gaussian of 32 dimensions.
"""


def finding(records: Records) -> str | None:
    """How far the grid was wide enough."""
    tuned = records.ok[records.ok["tuned"]]
    if tuned.empty:
        return None
    edge: pd.DataFrame = tuned[tuned["learning_rate_at_edge"]]
    return (
        f"Of {len(tuned)} choices of a learning rate {len(edge)} lie at an edge of the grid, "
        "beyond which a better rate may lie; each is one seed's, and says nothing of another's."
    )


ENTRIES = [
    Study(
        name="quick-rates",
        title="chooses the learning rates of the matrix quick by validation: its contestants on its data sets, five rates each",
        answers="which learning rates each contestant of the study quick is trained with",
        small=_SMALL,
        tables=(tables.comparison, tables.published),
        figures=(figures.learning,),
        finding=finding,
        place=11,
    )
]
