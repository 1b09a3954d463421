"""What FFJORD's presets learn in minutes."""

from __future__ import annotations

import math

from benchmarks.report import figures, tables
from benchmarks.report.findings import in_words
from benchmarks.report.groups import grouped, values_by_seed
from benchmarks.report.records import Records
from benchmarks.report.statistics import t_interval
from benchmarks.studies.base import Study

_SMALL = """
seeds = [0]
measures = ["quality", "work", "pictures"]

# Five minutes of training a data set; its evaluation comes on top.
[budget]
seconds = 300
steps = 100000
batch_size = 512
learning_rate = 1e-2
validation_rows = 2000

[[study]]
name = "toy"
flows = ["ffjord-toy"]
datasets = ["8gaussians", "checkerboard", "2spirals"]

[[study]]
name = "power"
flows = ["ffjord-power"]
datasets = [{ name = "power", rows = 200000, test_rows = 5000 }]
budget = { batch_size = 1000, learning_rate = 5e-3 }
"""


def finding(records: Records) -> str | None:
    """How far from the truth training ends."""
    found = []
    for (dataset,), group in grouped(records.ok, ["dataset"]):
        distance = t_interval(values_by_seed(group, "kl_to_truth_nats").to_list())
        if math.isfinite(distance.mean):
            found.append(f"{in_words(distance, 'nats')} on {dataset}")
    return f"Distance to the truth after training: {', '.join(found)}." if found else None


ENTRIES = [
    Study(
        name="learning",
        title="FFJORD's presets learn: two-dimensional densities whose entropy is known, and a curve on POWER; a quarter of an hour on two cores",
        answers="how far FFJORD comes in five minutes of training with the official settings",
        small=_SMALL,
        tables=(tables.comparison, tables.published, tables.cost),
        figures=(figures.learning, figures.densities, figures.nfe_growth),
        finding=finding,
        place=30,
    )
]
