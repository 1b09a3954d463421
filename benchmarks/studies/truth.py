"""How far every flow of vectors stays from densities that are known, when trained to convergence."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from benchmarks.measures import Column
from benchmarks.report import figures, tables
from benchmarks.report.figures import Drawn, Scene
from benchmarks.report.figures.panels import panels
from benchmarks.report.findings import in_words
from benchmarks.report.groups import grouped, summarise, values_by_seed
from benchmarks.report.records import Records
from benchmarks.report.statistics import t_interval
from benchmarks.report.table import Table, number
from benchmarks.studies.base import Study

# Equal steps, few of them: after as many, flow matching, whose steps cost the least, is still far from
# converged. Learning rates: those of the study toy.
_SMALL = """
seeds = [0, 1, 2]
measures = ["quality", "work"]

[budget]
steps = 400
batch_size = 256
learning_rate = 1e-2
warmup_steps = 20
validate_every = 50
validation_rows = 2000

[[study]]
name = "truth"
flows = [
    { name = "ffjord", trace = "exact", atol = 1e-4, rtol = 1e-4, budget = { learning_rate = 3e-2 } },
    { name = "ffjord-fm", atol = 1e-4, rtol = 1e-4 },
    { name = "realnvp", layers = 10 },
    { name = "nice", layers = 10 },
    "glow", "made", "maf", "maf-mog", "iaf",
    { name = ["rqnsf-c", "rqnsf-ar"], budget = { learning_rate = 3e-3 } },
]
datasets = [
    "8gaussians", "checkerboard", "moons", "banana",
    { name = "gaussian", dimension = [2, 8] },
]
"""

# Every set of two dimensions whose density is known, and the Gaussians in more. No patience: while
# the rate is annealed the best validation comes at the end. Rates are a third of those that validate
# best in the hundreds of steps of the study quick. The discrete flows have ten layers, as the deeper
# ones of MAF's paper; the mixture base is what lets MAF part a density, and MADE is one layer.
_FULL = """
seeds = [0, 1, 2, 3, 4]
measures = ["quality", "work"]

[budget]
steps = 20000
batch_size = 256
learning_rate = 3e-3
warmup_steps = 100
validate_every = 500
validation_rows = 10000

[[study]]
name = "truth"
flows = [
    "made",
    { name = ["realnvp", "nice", "maf", "maf-mog"], layers = 10 },
    { name = "glow", steps = 10 },
    { name = ["rqnsf-c", "rqnsf-ar"], budget = { learning_rate = 1e-3 } },
    "iaf",
    { name = ["ffjord-fm", "ffjord-fm-ot"] },
    { name = ["ffjord", "cnf-exact"], budget = { learning_rate = 1e-2 } },
]
datasets = [
    "8gaussians", "checkerboard", "2spirals", "pinwheel", "rings", "moons", "swissroll", "circles",
    "banana", "mixture", "student-t", { name = "funnel", dimension = 2 },
    { name = ["gaussian", "isotropic"], dimension = [2, 8, 32] },
]
"""

FAR = 0.1
"""Nats: a flow that stays further away at convergence is to be looked into."""

_KL = "kl_to_truth_nats"
_GAUSSIAN = "gaussian_kl_nats"


def _trained(records: Records) -> pd.DataFrame:
    """The trained cells on data of known density, each with what a Gaussian is away."""
    cells = records.cells[records.cells["trained"]]
    known = set(cells.loc[cells[_KL].notna(), "dataset"])
    cells = cells[cells["dataset"].isin(known)]
    away = cells["gaussian_nll_nats"] - cells["truth_entropy_nats"]
    return cells.assign(contestant=records.names(cells), **{_GAUSSIAN: away})


def _far(cells: pd.DataFrame) -> pd.Series[bool]:
    """Which cells are of a contestant whose mean lies further than :data:`FAR` from the truth."""
    means = (
        cells[_KL].where(cells["status"] == "ok").groupby([cells["dataset"], cells["contestant"]])
    )
    return means.transform("mean") > FAR


# -- tables -------------------------------------------------------------------------------------


def distances(records: Records) -> list[Table]:
    """Contestants by data sets, in nats from the optimum."""
    return [table for table in tables.comparison(records) if table.name.startswith("kl")]


def far(records: Records) -> list[Table]:
    """What is known of those that stay away: whether a few rare points make it, or the last step."""
    cells = _trained(records)
    return tables.measure_table(
        records,
        cells[_far(cells)],
        [
            _KL,
            Column("kl_rare_nats", "", unit="nats", heading="of it rare points", digits=3),
            Column(_GAUSSIAN, "", unit="nats", heading="a Gaussian's", digits=3, interval=False),
            Column("best_step", "", heading="best step", digits=0, interval=False),
            Column("steps", "", heading="steps", digits=0, interval=False),
        ],
        name="far",
        title=f"Flows that stay further than {FAR:g} nats from the truth",
        notes=[
            "Of it rare points: what comes from the points of least true density that hold a "
            "thousandth of the true mass. A Gaussian's: what the best fit of a full covariance is "
            "away. Best step: of the best validation, near the end where training would have gone on."
        ],
    )


# -- figure -------------------------------------------------------------------------------------

_LEAST, _MOST = 1e-3, 1.0


def heat_map(scene: Scene) -> Iterable[Drawn]:
    """Distance to the truth of each flow on each data set, as numbers on colours."""
    cells = _trained(scene.records)
    data = summarise(cells, ["dataset", "contestant"], [_KL])
    data = data[data[_KL].notna()]
    if data.empty:
        return
    names = scene.present(data["contestant"])
    datasets = list(dict.fromkeys(data["dataset"]))
    grid = data.pivot(index="contestant", columns="dataset", values=_KL).loc[names, datasets]
    figure, (ax,) = panels(1, height=0.27 * len(names) + 1.1)
    figure.set_figwidth(1.6 + 0.5 * len(datasets))
    shade = np.log10(np.clip(grid.to_numpy(dtype=float), _LEAST, _MOST))
    bounds = math.log10(_LEAST), math.log10(_MOST)
    ax.pcolormesh(shade, cmap="Blues", vmin=bounds[0], vmax=bounds[1], edgecolors="white", lw=1)
    middle = sum(bounds) / 2
    for row, column in np.argwhere(np.isfinite(shade)):
        value = float(grid.iloc[row, column])
        ax.text(
            column + 0.5,
            row + 0.5,
            number(value, decimals=2 if value < 10 else 0).text,
            ha="center",
            va="center",
            fontsize=7,
            fontweight="bold" if value > FAR else "normal",
            color="white" if shade[row, column] > middle else "#222222",
        )
    ax.set_xticks(np.arange(len(datasets)) + 0.5, datasets, rotation=40, ha="right")
    ax.set_yticks(np.arange(len(names)) + 0.5, names)
    ax.tick_params(length=0)
    ax.set_ylim(len(names), 0)
    ax.grid(visible=False)
    yield Drawn(
        figure,
        "distance",
        "KL divergence from the true density in nats",
        f"Means over seeds; bold: above {FAR:g}. The colour follows the logarithm, from {_LEAST:g} "
        f"to {_MOST:g} nats. White: no result. The table has the intervals.",
    )


# -- finding ------------------------------------------------------------------------------------


def finding(records: Records) -> str | None:
    """Which flows lie further than :data:`FAR` from which densities, beyond chance."""
    cells = _trained(records)
    pairs, open_, lost = 0, 0, 0
    away: dict[str, list[str]] = {}
    seeds: set[int] = set()
    for (name, dataset, _), group in grouped(cells, ["contestant", "dataset", "rule"]):
        lost += int((group["status"] != "ok").any())
        found = t_interval(values_by_seed(group, _KL).to_list())
        if found.n == 0:
            continue
        pairs += 1
        seeds.add(found.n)
        # A single seed has no interval, and counts by its value.
        half = found.half_width if math.isfinite(found.half_width) else 0.0
        if found.mean - half > FAR:
            words = in_words(found, "nats", digits=2).rpartition(" (")[0]
            away.setdefault(str(name), []).append(f"{dataset} {words}")
        elif found.mean + half > FAR:
            open_ += 1
    if not pairs:
        return None
    count = sum(map(len, away.values()))
    over = (
        "one seed each: no intervals"
        if seeds == {1}
        else f"t intervals over {' or '.join(map(str, sorted(seeds)))} seeds"
    )
    steps = sorted(set(cells.loc[cells["status"] == "ok", "steps"].dropna()))
    after = " to ".join(f"{value:,.0f}" for value in dict.fromkeys((steps[0], steps[-1])))
    text = (
        f"After {after} steps, further than {FAR:g} nats from the truth: {count} of {pairs} pairs"
    )
    text += f" of flow and data set ({over})"
    if away:
        text += ": " + "; ".join(f"{name} on {', '.join(on)}" for name, on in away.items())
    if open_:
        text += f"; of {open_} more the interval holds {FAR:g}"
    if lost:
        text += f"; {lost} lost a seed or more"
    return f"{text}."


ENTRIES = [
    Study(
        name="truth",
        title="Every flow of vectors against densities that are known: how far it stays from them",
        answers="which densities each flow can learn, how far it stays from those it cannot, and "
        "whether that is the system's limit, its settings or chance",
        small=_SMALL,
        full=_FULL,
        tables=(distances, far),
        figures=(heat_map, figures.learning),
        finding=finding,
        place=24,
    )
]
