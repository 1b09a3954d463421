"""FFJORD over images, at one scale and several, against RealNVP and Glow."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from benchmarks import measures
from benchmarks.measures import Column
from benchmarks.report import figures, tables
from benchmarks.report.findings import in_words
from benchmarks.report.groups import grouped, values_by_seed
from benchmarks.report.records import Records
from benchmarks.report.statistics import difference, t_interval
from benchmarks.report.table import Table
from benchmarks.studies.base import Study

_SMALL = """
seeds = [0, 1, 2]
measures = ["quality", "work", "variance", "image-samples"]

# The images that ship with the project, of 8 x 8 pixels. Equal steps, the networks and FFJORD's
# tolerance reduced: far from converged. FFJORD's single flow is the official code's encoder and its
# mirror, of as many parameters as the flow of several scales: the paper's eight layers of softplus
# stay where they start for longer than these minutes.
[budget]
steps = 120
batch_size = 128
learning_rate = 3e-3
validate_every = 20
validation_rows = 300

[[study]]
name = "optdigits"
flows = [
    { name = "ffjord-mnist-multiscale", hidden = [40, 40], blocks = 1, atol = 1e-3, rtol = 1e-3, budget = { learning_rate = 1e-2 } },
    { name = "ffjord-mnist", hidden = [24, 40, 40, 24], strides = [2, 2, 1, -2, -2], atol = 1e-3, rtol = 1e-3, budget = { learning_rate = 1e-2 } },
    "realnvp-image",
    "glow-image",
]
datasets = [{ name = "optdigits", test_rows = 500 }]

# The bottleneck trick: the same encoder and mirror through 2 channels of 2 x 2 pixels, with the
# noise there or on the image's 64.
[[study]]
name = "bottleneck"
flows = [
    { name = "ffjord-mnist", hidden = [16, 16, 32], strides = [1, 2, 1, 2], bottleneck = 2, atol = 1e-3, rtol = 1e-3, noise = ["gaussian", "rademacher"] },
    { name = "ffjord-mnist", hidden = [16, 16, 32, 2, 32, 16, 16], atol = 1e-3, rtol = 1e-3, noise = ["gaussian", "rademacher"] },
]
datasets = [{ name = "optdigits", test_rows = 500 }]
seeds = [0]
"""

# The settings of the paper's section 4.2 and its appendix: Adam at 1e-3 and batches of 900 for 500
# epochs, with the trace estimated in the test too. One data set is one set of model values for all:
# FFJORD's logit on CIFAR-10, where RealNVP's own has alpha = 0.05. Glow is the authors' 32 steps a
# scale of 512 channels, with the scales that 28 pixels allow; it and RealNVP learn at FFJORD's rate.
_FULL = """
seeds = [0, 1, 2]
measures = ["quality", "work", "time", "memory", "variance", "image-samples"]

[budget]
steps = 30000
batch_size = 900
learning_rate = 1e-3
warmup_steps = 1000
validate_every = 200
validation_rows = 10000
patience = 50

[[study]]
name = "digits"
flows = ["ffjord-mnist-multiscale", "ffjord-mnist"]
datasets = ["mnist", "fashion-mnist"]

[[study]]
name = "digits-discrete"
flows = [
    { name = "realnvp-image", blocks = 8, channels = 64 },
    { name = "glow-image", steps = 32, channels = 512 },
]
datasets = ["mnist", "fashion-mnist"]
budget = { steps = 100000, batch_size = 128 }

[[study]]
name = "cifar10"
flows = ["ffjord-cifar10-multiscale", "ffjord-cifar10"]
datasets = [{ name = "cifar10", alpha = 1e-6 }]

[[study]]
name = "cifar10-discrete"
flows = ["realnvp-cifar10", "glow-cifar10"]
datasets = [{ name = "cifar10", alpha = 1e-6 }]
budget = { steps = 200000, batch_size = 64 }

[[study]]
name = "optdigits"
flows = ["ffjord-mnist-multiscale", "ffjord-mnist", "realnvp-image", "glow-image"]
datasets = ["optdigits"]
budget = { steps = 5000, batch_size = 256, validation_rows = 1000 }

# Figure 4's network: the encoder and mirror through 5 channels of 7 x 7 pixels.
[[study]]
name = "bottleneck"
flows = [
    { name = "ffjord-mnist", hidden = [64, 64, 128], strides = [1, 2, 1, 2], bottleneck = 5, noise = ["gaussian", "rademacher"] },
    { name = "ffjord-mnist", hidden = [64, 64, 128, 5, 128, 64, 64], noise = ["gaussian", "rademacher"] },
]
datasets = ["mnist"]
budget = { steps = 5000 }
"""

BOUND = 1e-4
"""The paper's of the variance of the validation log-likelihood over the estimator's noise."""

_MORE = (
    Column("nfe_train", "", heading="NFE train", digits=1, interval=False),
    Column("glow_percent", "", unit="%", heading="parameters of Glow's", interval=False),
    Column("validation_std", "", unit="nats", heading="validation NLL std"),
    Column("validation_bits_std", "", unit="bits/dim", heading="validation bits/dim std"),
)


def _with_more(records: Records) -> pd.DataFrame:
    """The trained cells with all NFE, parameters against Glow's, and deviations of a validation.

    Each image has noise of its own, so that the variance of a validation's mean is that of an image
    over the number of images. The former was measured at test images.
    """
    cells = records.ok
    cells = cells[cells["trained"] & (cells["dataset_kind"] == "image")]
    glow = cells["parameters"].where(cells["flow_name"].str.startswith("glow"))
    largest = glow.groupby(cells["dataset"]).transform("max")
    continuous = cells["flow_name"].str.startswith("ffjord")
    rows = pd.to_numeric(cells["budget.validation_rows"], errors="coerce")
    deviation = cells["log_prob_std"] / rows.pow(0.5)
    return cells.assign(
        nfe_train=cells["nfe_train_forward"] + cells["nfe_train_backward"],
        glow_percent=(100 * cells["parameters"] / largest).where(continuous),
        validation_std=deviation,
        validation_bits_std=deviation / (cells["dimension"] * math.log(2)),
    )


def architectures(records: Records) -> Iterable[Table]:
    """Work, size and noise beside the loss, a section a data set."""
    cells = _with_more(records)
    size = measures.column("parameters")
    return tables.measure_table(
        records,
        cells,
        ["bits_per_dim", _MORE[0], size, *_MORE[1:3], _MORE[3], "log_prob_std", "trace_std"],
        name="architectures",
        title="One scale and several: loss, work, parameters and the estimator's noise",
        notes=[
            "Parameters of Glow's: as a part of the largest Glow's on the same data set.",
            "Validation std: of the mean over the budget's validation rows, over draws of the "
            "estimator's noise: log p std over the root of their number. The paper states a variance "
            f"below {BOUND:g} without its unit, that is a standard deviation below "
            f"{BOUND**0.5:g}.",
        ],
    )


def _single_and_several(cells: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """FFJORD's cells of several scales, and of one scale those nearest to them in parameters.

    Networks with a bottleneck, or like one, are of one scale too.
    """
    ours = cells[cells["flow_name"].str.startswith("ffjord") & cells["bottleneck"].isna()]
    kinds = [
        [group for _, group in grouped(ours[ours["flow.multiscale"] == kind], ["flow", "setting"])]
        for kind in (False, True)
    ]
    if not kinds[0] or len(kinds[1]) != 1:
        return None
    several = kinds[1][0]
    size = several["parameters"].mean()
    return min(kinds[0], key=lambda group: abs(group["parameters"].mean() - size)), several


def finding(records: Records) -> str | None:
    """One scale against several, Glow's size, and the estimator's noise."""
    cells = _with_more(records)
    if "flow.multiscale" not in cells:
        return None
    said = []
    for (dataset,), group in grouped(cells, ["dataset"]):
        found = _single_and_several(group)
        if found is None:
            continue
        single, several = found
        lead = difference(
            values_by_seed(single, "bits_per_dim"), values_by_seed(several, "bits_per_dim")
        )
        if not math.isfinite(lead.mean):
            continue
        share = t_interval(several["glow_percent"].to_list()).mean
        size = f", several have {share:.3g} % of Glow's parameters" if math.isfinite(share) else ""
        said.append(f"on {dataset} one scale less several {in_words(lead, 'bits/dim')}{size}")
    if not said:
        return None
    worst = cells["validation_bits_std"].max() ** 2
    noise = ""
    if math.isfinite(worst):
        how = "stays below" if worst < BOUND else "is not below"
        noise = (
            f" The variance of the mean validation bits/dim over the estimator's noise {how} "
            f"{BOUND:g}: {worst:.2g} at most."
        )
    return f"Bits/dim of FFJORD: {'; '.join(said)}.{noise}"


ENTRIES = [
    Study(
        name="images",
        title="FFJORD over images at one scale and several, against RealNVP and Glow",
        answers="Table 2 (images) and Figures 3, 6 and 7 of FFJORD (arXiv:1810.01367): bits/dim, "
        "samples, work against loss at one scale and several, parameters against Glow's, and the "
        "noise of the validation",
        small=_SMALL,
        full=_FULL,
        tables=(tables.comparison, tables.gaps, tables.published, architectures, tables.cost),
        figures=(figures.image_grids, figures.nfe_against_loss, figures.learning),
        finding=finding,
        place=23,
    )
]
