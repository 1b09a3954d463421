"""FFJORD and three discrete flows at a glance."""

from __future__ import annotations

from benchmarks.report import figures, tables
from benchmarks.report.findings import lowest
from benchmarks.studies.base import Study

_SMALL = """
seeds = [0, 1, 2]

# Each contestant's learning rate is the one of 1e-3, 3e-3, 1e-2, 3e-2 and 1e-1 that validated best,
# chosen with seed 0 by `ffjord-bench run quick-rates`, whose training is a quarter longer.
[budget]
steps = 400
batch_size = 256
validate_every = 50
validation_rows = 2000

[[study]]
name = "comparison"
flows = [
    { name = "ffjord", atol = 1e-4, rtol = 1e-4, budget = { learning_rate = 3e-2 } },
    { name = ["realnvp", "glow", "maf"], budget = { learning_rate = 1e-2 } },
]
datasets = ["8gaussians", { name = "power", rows = 20000, test_rows = 2469 }]

[[study]]
name = "checkerboard"
flows = [
    { name = "ffjord", atol = 1e-4, rtol = 1e-4, budget = { learning_rate = 3e-2 } },
    { name = ["realnvp", "maf"], budget = { learning_rate = 1e-2 } },
    { name = "glow", budget = { learning_rate = 3e-3 } },
]
datasets = ["checkerboard"]

# In 64 dimensions the dynamics have to be wider than the data.
[[study]]
name = "images"
flows = [
    { name = "ffjord", atol = 1e-4, rtol = 1e-4, hidden = [256], budget = { learning_rate = 3e-2 } },
    { name = ["realnvp", "glow"], budget = { learning_rate = 3e-3 } },
    { name = "maf", budget = { learning_rate = 1e-2 } },
]
datasets = ["optdigits"]
budget = { steps = 225 }

# One rate a contestant over all dimensions, so that nothing else changes with them: the choice in
# 32. In two, where every flow finds a Gaussian, the choices say little.
[[study]]
name = "dimension"
flows = [
    { name = "ffjord", atol = 1e-4, rtol = 1e-4, budget = { learning_rate = 3e-2 } },
    { name = ["realnvp", "glow"], budget = { learning_rate = 3e-3 } },
    { name = "maf", budget = { learning_rate = 1e-2 } },
]
datasets = [{ name = "gaussian", dimension = [2, 8, 32] }]
seeds = [0]
budget = { steps = 160 }

[[study]]
name = "bottleneck"
flows = [
    { name = "ffjord", atol = 1e-4, rtol = 1e-4, hidden = [64], bottleneck = [2, 8, 32], noise = ["gaussian", "rademacher"] },
    { name = "ffjord", atol = 1e-4, rtol = 1e-4, hidden = [64, 64], noise = ["gaussian", "rademacher"] },
]
datasets = [{ name = "gaussian", dimension = 32 }]
seeds = [0]
budget = { steps = 160, learning_rate = 3e-2 }
"""

ENTRIES = [
    Study(
        name="quick",
        title="FFJORD and three discrete flows on toys, POWER and digits, and small sweeps: minutes on two cores",
        answers="which flow models toys, a table and digits best at equal steps, and at what cost",
        small=_SMALL,
        tables=(
            tables.comparison,
            tables.published,
            tables.cost,
            tables.dimension,
            tables.bottleneck,
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
        finding=lowest,
        place=10,
    )
]
