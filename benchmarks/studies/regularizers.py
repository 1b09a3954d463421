"""What regularisers of FFJORD save, and at what price."""

from __future__ import annotations

import math

from benchmarks.report import figures, tables
from benchmarks.report.findings import in_words
from benchmarks.report.records import Records
from benchmarks.report.statistics import Interval
from benchmarks.studies.base import Study

_SMALL = """
seeds = [0, 1, 2]
measures = ["quality", "work", "time"]

[budget]
steps = 250
batch_size = 256
learning_rate = 1e-2
validate_every = 50
validation_rows = 2000

# The two of RNODE (arXiv:2002.02798, section 4: weights of 0.01), and ten times that.
[[study]]
name = "rnode"
flows = [
    { name = "ffjord", atol = 1e-4, rtol = 1e-4 },
    { name = "ffjord", atol = 1e-4, rtol = 1e-4, kinetic_energy = 0.01, jacobian_norm = 0.01 },
    { name = "ffjord", atol = 1e-4, rtol = 1e-4, kinetic_energy = 0.1, jacobian_norm = 0.1 },
]
datasets = ["8gaussians", { name = "power", rows = 20000, test_rows = 2469 }]

# Those of FFJORD's official code one at a time, against the same flow of the study above.
[[study]]
name = "official"
flows = [
    { name = "ffjord", atol = 1e-4, rtol = 1e-4, mean_speed = 0.1 },
    { name = "ffjord", atol = 1e-4, rtol = 1e-4, rms_speed = 0.1 },
    { name = "ffjord", atol = 1e-4, rtol = 1e-4, directional_derivative = 0.1 },
    { name = "ffjord", atol = 1e-4, rtol = 1e-4, jacobian_frobenius = 0.1 },
    { name = "ffjord", atol = 1e-4, rtol = 1e-4, jacobian_diagonal = 0.1 },
    { name = "ffjord", atol = 1e-4, rtol = 1e-4, jacobian_off_diagonal = 0.1 },
]
datasets = ["8gaussians"]
seeds = [0]

# Small convolutions, one scale and two; far from converged.
[[study]]
name = "images"
flows = [
    { name = "ffjord-image", multiscale = [false, true], hidden = [16], blocks = 1, atol = 1e-3, rtol = 1e-3 },
    { name = "ffjord-image", multiscale = [false, true], hidden = [16], blocks = 1, atol = 1e-3, rtol = 1e-3, kinetic_energy = 0.01, jacobian_norm = 0.01 },
]
datasets = ["optdigits"]
seeds = [0]
budget = { steps = 60, batch_size = 128, validation_rows = 300 }
"""


def finding(records: Records) -> str | None:
    """What the regularisers save of training's evaluations, and what they cost in likelihood."""
    found = []
    for table in tables.regularizers(records):
        for _, row in table.data.iterrows():
            saved, half_width, seeds = (
                row[name]
                for name in (
                    "nfe_training_saved_percent",
                    "nfe_training_saved_percent_half_width",
                    "paired_seeds",
                )
            )
            # One seed says nothing of chance.
            if math.isfinite(half_width):
                lost = Interval(
                    row["nll_nats_increase"], row["nll_nats_increase_half_width"], seeds
                )
                percent = in_words(Interval(saved, half_width, seeds), "%", digits=0)
                found.append(
                    f"{records.short[row['flow']]} on {row['dataset']} {percent}, for "
                    f"{in_words(lost, 'nats')} of NLL"
                )
    if not found:
        return None
    return f"Network evaluations of the whole training saved: {'; '.join(found)}."


ENTRIES = [
    Study(
        name="regularizers",
        title="FFJORD with and without its regularisers, on vectors and images: what they save, "
        "and at what price",
        answers="what the regularisers of RNODE (arXiv:2002.02798) and of FFJORD's official code "
        "save, and what they cost in likelihood",
        small=_SMALL,
        tables=(tables.comparison, tables.published, tables.cost, tables.regularizers),
        figures=(figures.learning, figures.trade_offs, figures.nfe_growth),
        finding=finding,
        place=43,
    )
]
