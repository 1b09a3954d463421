"""The literature's flows on the whole of POWER, in hours of one core each."""

from __future__ import annotations

from benchmarks.report import figures, tables
from benchmarks.studies.base import Study
from benchmarks.studies.tabular import finding

# Published networks under a rule of ours: larger batches and rates than the papers', annealed to 0,
# which comes as far in hours as theirs do in days. Steps are what a core does in half an hour to
# an hour; FFJORD's are two hours. Validation sees 20,000 rows, the test all 204,928.
_MATRIX = """
seeds = [0]
measures = ["quality", "work"]

[budget]
batch_size = 1000
learning_rate = 3e-3
steps = {steps}
validate_every = {validate_every}
validation_rows = 20000

[[study]]
name = "power"
flows = [
    "maf-5", "realnvp-10", "maf-10",
    {{ name = "glow", budget = {{ steps = {glow} }} }},
    {{ name = ["rqnsf-c-power", "rqnsf-ar-power"], budget = {{ batch_size = 512, learning_rate = 1e-3, steps = {splines} }} }},
    {{ name = "ffjord-power", budget = {{ learning_rate = 5e-3, steps = {ffjord} }} }},
]
datasets = ["power"]
"""

_SMALL = _MATRIX.format(steps=1500, validate_every=500, glow=3000, splines=500, ffjord=300)
_FULL = _MATRIX.format(steps=60000, validate_every=1000, glow=100000, splines=20000, ffjord=12000)

ENTRIES = [
    Study(
        name="power",
        title="POWER, the whole training set: each system's published network beside its "
        "published number",
        answers="the POWER column of Table 2 of FFJORD (arXiv:1810.01367), of Table 1 of MAF "
        "(arXiv:1705.07057) and of Table 1 of neural spline flows (arXiv:1906.04032), as far as "
        "hours of one core reach",
        small=_SMALL,
        full=_FULL,
        tables=(tables.comparison, tables.gaps, tables.published, tables.cost),
        figures=(figures.learning, figures.nfe_growth),
        finding=finding,
        place=23,
    )
]
