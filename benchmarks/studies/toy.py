"""Two-dimensional densities: Figure 2 of the paper, and Figure 1's way from noise to data."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from benchmarks import measures
from benchmarks.measures.low_density import PART
from benchmarks.report import figures, tables
from benchmarks.report.figures import Drawn, Scene
from benchmarks.report.figures.panels import (
    LOG_INTERVAL,
    draw_marks,
    handles,
    legend,
    log_axis,
    log_centre_and_bounds,
    panels,
    within_reach,
)
from benchmarks.report.findings import in_words
from benchmarks.report.groups import grouped, replicates, values_by_seed
from benchmarks.report.records import Records
from benchmarks.report.statistics import t_interval
from benchmarks.studies.base import Study

_DATASETS = """[
    "8gaussians", "checkerboard", "2spirals", "pinwheel", "rings", "moons", "swissroll", "circles",
]"""
_MEASURES = '["quality", "work", "pictures", "low-density", "path"]'

# As many steps as take about as long. Learning rates: those of the study quick for FFJORD, RealNVP and
# MAF; NICE's validated best on 8gaussians with seed 0, of 1e-3, 3e-3 and 1e-2; with theirs the splines come
# within 0.05 nats of a checkerboard in 3,000 steps. A hundred steps of Glow of which each may scale by e
# lose some points near the data altogether (KL after 300 steps: 8gaussians 296 nats, circles 6e7):
# bounded by a tenth of that they do not, and bear a larger rate.
_SMALL = f"""
seeds = [0]
measures = {_MEASURES}

[budget]
steps = 2000
batch_size = 256
warmup_steps = 50
validate_every = 100
validation_rows = 2000

[[study]]
name = "toy"
flows = [
    {{ name = "ffjord", trace = "exact", atol = 1e-4, rtol = 1e-4, budget = {{ steps = 500, learning_rate = 3e-2 }} }},
    {{ name = "glow", steps = 100, log_scale_bound = 0.1, budget = {{ steps = 300, learning_rate = 3e-3 }} }},
    {{ name = "realnvp", layers = 10, budget = {{ learning_rate = 1e-2 }} }},
    {{ name = "nice", layers = 10, budget = {{ learning_rate = 1e-2 }} }},
    {{ name = "maf", budget = {{ learning_rate = 1e-2 }} }},
    {{ name = ["rqnsf-c", "rqnsf-ar"], budget = {{ steps = 1500, learning_rate = 3e-3 }} }},
]
datasets = {_DATASETS}
"""

# FFJORD as the official train_toy.py has it (concatsquash layers, which the paper's text calls
# concatenation), the others by the rule of its discrete baselines; Glow's depth is the paper's.
_FULL = f"""
seeds = [0, 1, 2]
measures = {_MEASURES}

[budget]
batch_size = 100
schedule = "constant"
validate_every = 500

[[study]]
name = "continuous"
flows = ["ffjord-toy"]
datasets = {_DATASETS}
budget = {{ steps = 10000, learning_rate = 1e-3, weight_decay = 1e-5 }}

[[study]]
name = "discrete"
flows = [
    {{ name = "glow", steps = 100 }},
    {{ name = ["realnvp", "nice"], layers = 10 }},
    "maf", "rqnsf-c", "rqnsf-ar",
]
datasets = {_DATASETS}
budget = {{ steps = 100000, optimizer = "adamax", learning_rate = 1e-4 }}
"""

_LEAK = "low_density_mass_percent"
_SHOWN = (_LEAK, "kl_to_truth_nats")
_CONTINUOUS = ("ffjord", "ffjord-toy")


def _own_rules(records: Records) -> tuple[str, ...]:
    """The columns of the budget, where each flow has one rule: they then tell no flows apart."""
    several = records.cells.groupby("flow")["rule"].nunique().max() > 1
    return () if several else tuple(n for n in records.differing if n.startswith("budget."))


def between_modes(scene: Scene) -> Iterable[Drawn]:
    """Mass at low true density, and distance to the truth, of each flow on each data set."""
    scene = scene.sweep(*_own_rules(scene.records))
    cells = scene.named(scene.records.cells)
    data = replicates(cells, ["dataset", "contestant"], _SHOWN)
    known = data[data[_LEAK] > 0]
    if known.empty:
        return
    names = scene.present(known["contestant"])
    datasets = list(dict.fromkeys(known["dataset"]))
    figure, axes = panels(len(_SHOWN), height=0.4 * len(datasets) + 0.75)
    for ax, measure in zip(axes, _SHOWN, strict=True):
        column = measures.column(measure)
        points = data[(data[measure] > 0) & data["dataset"].isin(datasets)]
        by = points.groupby(["dataset", "contestant"])[measure]
        bounds = [log_centre_and_bounds(group) for _, group in by]
        also = list(cells["low_density_true_mass_percent"]) if measure == _LEAK else []
        log_axis(ax.xaxis, [*within_reach(bounds), *also])
        for place, name in enumerate(names):
            mine = points[points["contestant"] == name]
            # Side by side, within seven tenths of a data set's room.
            apart = 0.7 * ((place + 0.5) / len(names) - 0.5)
            rows = mine["dataset"].map(datasets.index) + apart
            draw_marks(ax, mine.assign(_row=rows), measure, "_row", scene.looks[name])
        ax.set_yticks(range(len(datasets)), datasets if measure == _LEAK else [])
        ax.set_ylim(len(datasets) - 0.5, -0.5)
        ax.set_ylabel("")
        ax.set_xlabel(column.label)
    # What a perfect model has.
    own = cells.groupby("dataset")["low_density_true_mass_percent"].first()
    for row, dataset in enumerate(datasets):
        if own.get(dataset, 0.0) > 0:
            axes[0].vlines(own[dataset], row - 0.4, row + 0.4, color="#222222", ls="--", lw=1)
    legend(figure, handles({name: scene.looks[name] for name in names}, line=False))
    yield Drawn(
        figure,
        "between-modes",
        "What lies where the true density is low",
        f"Left: the model's mass where the true density is least and {100 * PART:g} % of the true "
        "mass lies, or none where it is uniform; dashed: that, which a perfect model has there. "
        "Right: the KL divergence from the truth. What is zero or below, or not finite, has no "
        f"mark. Bars: {scene.interval}. {LOG_INTERVAL}",
    )


def _by_dataset(records: Records) -> dict[str, dict[str, pd.Series[float]]]:
    """The mass at low density of each contestant, by data set and seed; none that lost a cell."""
    cells = records.cells[records.cells["trained"]]
    cells = cells.assign(contestant=records.names(cells, _own_rules(records)))
    found: dict[str, dict[str, pd.Series[float]]] = {}
    for (dataset, name), group in grouped(cells, ["dataset", "contestant"]):
        values = values_by_seed(group, _LEAK)
        if (group["status"] == "ok").all() and len(values):
            found.setdefault(dataset, {})[name] = values
    return found


def finding(records: Records) -> str | None:
    """How much more of their mass than FFJORD others leave where the true density is low."""
    cells = records.ok
    cells = cells.assign(contestant=records.names(cells, _own_rules(records)))
    ours = set(cells.loc[cells["flow_name"].isin(_CONTINUOUS) & cells["trained"], "contestant"])
    if len(ours) != 1:
        return None
    (own,) = ours
    more: dict[str, list[float]] = {}
    for of in _by_dataset(records).values():
        for name, values in of.items():
            if own in of and name != own:
                more.setdefault(name, []).append(float(values.mean() - of[own].mean()))
    if not more:
        return None
    found = {name: t_interval(values) for name, values in more.items()}
    words = [
        f"{name} {in_words(found[name], '%', digits=1, over='data sets')}"
        for name in sorted(found, key=lambda name: -found[name].mean)
    ]
    seeds = cells["seed"].nunique()
    chance = (
        "one seed: the intervals say how data sets differ, not what chance does"
        if seeds == 1
        else f"means over {seeds} seeds"
    )
    return (
        "Of their mass, what flows leave where the true density is low beyond what "
        f"{own} does: {', '.join(words)}; {chance}."
    )


ENTRIES = [
    Study(
        name="toy",
        title="FFJORD and discrete flows on two-dimensional densities: what each makes of them, "
        "what it leaves between modes, and the way from noise to data",
        answers="Figures 1 and 2 of FFJORD (arXiv:1810.01367), and its claim that Glow has trouble "
        "with the areas of low probability between disconnected regions",
        small=_SMALL,
        full=_FULL,
        tables=(tables.comparison,),
        figures=(
            figures.densities,
            between_modes,
            figures.way,
            figures.animation,
            figures.learning,
        ),
        finding=finding,
        place=21,
    )
]
