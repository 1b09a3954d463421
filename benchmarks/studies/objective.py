"""The same field trained by likelihood, with regularisers, and by flow matching."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import measures
from benchmarks.report import figures, tables
from benchmarks.report.figures import Drawn, Scene
from benchmarks.report.figures.curves import frame
from benchmarks.report.figures.panels import draw_line, handles, legend, log_axis, panels
from benchmarks.report.findings import ratio_in_words
from benchmarks.report.groups import grouped, replicate_of, values_by_seed
from benchmarks.report.notes import replication_notes
from benchmarks.report.records import Records
from benchmarks.report.statistics import t_interval
from benchmarks.report.table import Entry, Section, Table, between, number
from benchmarks.studies.base import Study

_SMALL = """
seeds = [0, 1, 2]
measures = ["quality", "work"]

# Equal seconds, at a constant rate: stopped at any time, a training is what a shorter budget would
# have given.
[budget]
seconds = 25.0
steps = 1000000
batch_size = 256
schedule = "constant"
validate_every = 40
validation_rows = 1000

[[study]]
name = "objective"
flows = [
    { name = "ffjord", atol = 1e-4, rtol = 1e-4, budget = { learning_rate = 1e-2 } },
    { name = "ffjord", atol = 1e-4, rtol = 1e-4, kinetic_energy = 0.01, jacobian_norm = 0.01, budget = { learning_rate = 1e-2 } },
    { name = ["ffjord-fm", "ffjord-fm-ot"], atol = 1e-4, rtol = 1e-4, budget = { learning_rate = 3e-3 } },
]
datasets = ["8gaussians", "checkerboard", { name = "power", rows = 100000, test_rows = 2469 }]
"""

_FULL = """
seeds = [0, 1, 2]
measures = ["quality", "work", "pictures", "time"]

[budget]
seconds = 7200.0
steps = 100000000
batch_size = 1000
learning_rate = 1e-3
schedule = "constant"
validate_every = 200
validation_rows = 5000

[[study]]
name = "known"
flows = [
    { name = "ffjord" },
    { name = "ffjord", kinetic_energy = 0.01, jacobian_norm = 0.01 },
    { name = ["ffjord-fm", "ffjord-fm-ot"] },
]
datasets = ["8gaussians", "checkerboard", "2spirals", { name = "mixture", dimension = [2, 16] }]
budget = { seconds = 1800.0 }

# POWER's field of the paper's Table 4, by every objective.
[[study]]
name = "power"
flows = [
    { name = "ffjord", hidden = [60, 60, 60], blocks = 5, layers = "concat", atol = 1e-8, rtol = 1e-6 },
    { name = "ffjord", hidden = [60, 60, 60], blocks = 5, layers = "concat", atol = 1e-8, rtol = 1e-6, kinetic_energy = 0.01, jacobian_norm = 0.01 },
    { name = ["ffjord-fm", "ffjord-fm-ot"], hidden = [60, 60, 60], blocks = 5, layers = "concat", atol = 1e-8, rtol = 1e-6 },
]
datasets = ["power"]
"""

_AXES = {
    "evaluations": "network evaluations of training",
    "seconds": "training time [s]",
}
_POINTS = 40
Places = np.ndarray[Any, np.dtype[np.float64]]


def progress(records: Records) -> pd.DataFrame:
    """The best validation so far against what training has spent, of the cells that ended well.

    Returns:
        A row a validation: ``dataset, contestant, rule, replicate, evaluations, seconds, nll``.
    """
    columns = ["dataset", "contestant", "rule", "replicate", *_AXES, "nll"]
    cells = records.ok[records.ok["trained"]]
    cells = cells.assign(contestant=records.names(cells), replicate=replicate_of(cells))
    parts = []
    for _, cell in cells.iterrows():
        curve = records.store_of[cell["key"]].curve(cell["key"])
        if curve.empty or "validation_nll_nats" not in curve:
            continue
        curve = curve.sort_values("step", kind="stable")
        steps = curve["step"].diff().fillna(curve["step"])
        each = curve["nfe_forward"].astype(float) + curve["nfe_backward"].astype(float)
        nll = curve["validation_nll_nats"].astype(float)
        part = pd.DataFrame(
            {
                "evaluations": (steps * each).cumsum(),
                "seconds": curve["seconds"].astype(float),
                "nll": nll.where(np.isfinite(nll)).cummin(),
            }
        )
        names = {name: cell[name] for name in ("dataset", "contestant", "rule", "replicate")}
        parts.append(part.assign(**names).dropna(subset="nll")[columns])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _at(curve: pd.DataFrame, axis: str, places: Places) -> Places:
    """NLL of one training at logarithms of what it had spent, by interpolation."""
    spent, nll = (curve[name].to_numpy(dtype=float) for name in (axis, "nll"))
    return np.asarray(np.interp(places, np.log(spent), nll))


@dataclass(frozen=True)
class Crossing:
    """Where the curve of one training comes to lie on the other side of another's.

    Attributes:
        at: what both had spent at the last crossing; NaN where they do not cross.
        below_at_end: whether the first lies below the other at the end of what both spent.
    """

    at: float
    below_at_end: bool


def crossing(one: pd.DataFrame, other: pd.DataFrame, axis: str) -> Crossing | None:
    """Where one training's curve crosses another's for the last time.

    Args:
        one: rows of :func:`progress` of one cell.
        other: likewise.
        axis: ``evaluations`` or ``seconds``.

    Returns:
        None where there is nothing that both have spent.
    """
    one, other = (curve[curve[axis] > 0].dropna(subset=axis) for curve in (one, other))
    if one.empty or other.empty:
        return None
    low = max(one[axis].min(), other[axis].min())
    high = min(one[axis].max(), other[axis].max())
    if not low < high:
        return None
    within = np.concatenate([one[axis], other[axis], [low, high]]).astype(float)
    places = np.unique(np.log(within[(within >= low) & (within <= high)]))
    gap = _at(one, axis, places) - _at(other, axis, places)
    below = gap < 0
    changes = np.flatnonzero(below != below[-1])
    if not len(changes):
        return Crossing(math.nan, bool(below[-1]))
    last = changes[-1]
    part = gap[last] / (gap[last] - gap[last + 1])
    where = places[last] + part * (places[last + 1] - places[last])
    return Crossing(math.exp(where), bool(below[-1]))


def crossovers(records: Records) -> pd.DataFrame:
    """Each other objective against plain likelihood, paired by seed.

    Returns:
        A row a data set, contestant and axis: ``seeds`` compared, in how many the curves
        ``crossed``, in how many the contestant was ``below_at_end``, and the geometric mean of
        where they crossed, ``at``, with ``low`` and ``high``, the ends of its 95 % interval.
    """
    rows = []
    whole = progress(records)
    for (dataset, _), within in grouped(whole, ["dataset", "rule"]):
        curves = dict(grouped(within, ["contestant", "replicate"]))
        plain = _plain(records, within["contestant"])
        for name in dict.fromkeys(within["contestant"]):
            if plain is None or name == plain:
                continue
            for axis in _AXES:
                found = [
                    crossing(curve, curves[plain, replicate], axis)
                    for (mine, replicate), curve in curves.items()
                    if mine == name and (plain, replicate) in curves
                ]
                known = [each for each in found if each is not None]
                if not known:
                    continue
                logs = t_interval([math.log(e.at) for e in known if math.isfinite(e.at)])
                rows.append(
                    {
                        "dataset": dataset,
                        "contestant": name,
                        "against": plain,
                        "axis": axis,
                        "seeds": len(known),
                        "crossed": logs.n,
                        "below_at_end": sum(each.below_at_end for each in known),
                        "at": math.exp(logs.mean),
                        "low": math.exp(logs.mean - logs.half_width),
                        "high": math.exp(logs.mean + logs.half_width),
                    }
                )
    return pd.DataFrame(rows)


def _plain(records: Records, names: Iterable[str]) -> str | None:
    """The contestant that is trained by likelihood alone."""
    cells = records.ok
    weights = [
        f"flow.{name}" for name in ("kinetic_energy", "jacobian_norm") if f"flow.{name}" in cells
    ]
    regularised = cells[weights].apply(pd.to_numeric, errors="coerce").gt(0).any(axis=1)
    plain = cells[(cells["flow_name"] == "ffjord") & ~regularised]
    among = set(names)
    return next((name for name in records.names(plain) if name in among), None)


# -- tables -------------------------------------------------------------------------------------


def ends(records: Records) -> list[Table]:
    """What each objective ends with, and what its density then takes."""
    counted = {"steps": "steps", "train_nfe": "evaluations of training"}
    return tables.measure_table(
        records,
        records.ok,
        [
            "nll_nats",
            "kl_to_truth_nats",
            "nfe_log_prob",
            "nfe_sample",
            *(
                replace(measures.column(name), heading=heading, digits=0, interval=False)
                for name, heading in counted.items()
            ),
            "train_seconds",
        ],
        name="objective",
        title="What each objective ends with",
    )


def crossover_table(records: Records) -> list[Table]:
    """Where each objective's curve crosses that of plain likelihood."""
    data = crossovers(records)
    if data.empty:
        return []
    sections = []
    for (dataset,), group in grouped(data, ["dataset"]):
        rows = []
        for _, row in group.iterrows():
            rows.append(
                [
                    Entry(str(row["contestant"])),
                    Entry(str(row["axis"])),
                    Entry(f"{row['below_at_end']} of {row['seeds']}", numeric=True),
                    Entry(f"{row['crossed']} of {row['seeds']}", numeric=True),
                    number(row["at"]),
                    between(row["low"], row["high"]),
                ]
            )
        sections.append(Section(str(dataset), rows))
    against = ", ".join(dict.fromkeys(data["against"]))
    return [
        Table(
            name="crossover",
            title=f"Where the validation NLL of each objective crosses that of {against}",
            columns=["flow", "against", "lower at the end", "crossed", "at", "95 % interval"],
            sections=sections,
            notes=[
                "Best validation so far, interpolated between validations over the logarithm of "
                "what was spent, seed against seed, over the range that both have been through. At: "
                "the last crossing, geometric mean over the seeds in which there is one, with the "
                "t interval of the logarithms: none for a single one.",
                *replication_notes(records.ok),
            ],
            data=data,
        )
    ]


# -- figure -------------------------------------------------------------------------------------


def curves(scene: Scene) -> Iterator[Drawn]:
    """Best validation NLL so far against evaluations and seconds, a row of panels a data set."""
    whole = progress(scene.records)
    datasets = list(dict.fromkeys(whole["dataset"]))
    if not datasets:
        return
    figure, axes = panels(2 * len(datasets), columns=2, height=2.3)
    for place, ax in enumerate(axes):
        dataset, axis = datasets[place // 2], list(_AXES)[place % 2]
        mine = whole[whole["dataset"] == dataset]
        shown = {
            name: _common(mine[mine["contestant"] == name], axis)
            for name in scene.present(mine["contestant"])
        }
        shown = {name: points for name, points in shown.items() if not points.empty}
        means = {name: points.groupby(axis)["nll"].mean() for name, points in shown.items()}
        cells = scene.records.ok[scene.records.ok["dataset"] == dataset]
        entropy, gaussian = (
            float(cells[name].mean()) for name in ("truth_entropy_nats", "gaussian_nll_nats")
        )
        if means:
            frame(ax, list(means.values()), entropy, gaussian)
        log_axis(ax.xaxis, [x for mean in means.values() for x in mean.index])
        for name, points in shown.items():
            draw_line(ax, points, axis, "nll", scene.looks[name], band=True)
        ax.set_title(dataset)
        ax.set_xlabel(_AXES[axis])
        ax.set_ylabel("best validation NLL [nats]")
    names = scene.present(whole["contestant"])
    legend(figure, handles({name: scene.looks[name] for name in names}, line=True))
    yield Drawn(
        figure,
        "objective",
        "Best validation NLL so far against network evaluations and seconds of training",
        "An evaluation of the field counts 1, forward or backward; in a step of flow matching there "
        "is one a block, whose backpropagation counts nothing. Validations are on neither axis. "
        f"Lines: mean over seeds where all have values; band: {scene.interval}. Dashed: the "
        "entropy of the data, where known; dotted: a full Gaussian. The start of a curve may lie "
        "above the panel.",
    )


def _common(curves: pd.DataFrame, axis: str) -> pd.DataFrame:
    """One contestant's curves at places that all its seeds have been through."""
    each = [
        (replicate, curve[curve[axis] > 0].dropna(subset=axis))
        for (replicate,), curve in grouped(curves, ["replicate"])
    ]
    each = [(replicate, curve) for replicate, curve in each if not curve.empty]
    empty = pd.DataFrame(columns=["replicate", axis, "nll"])
    if not each:
        return empty
    low = max(curve[axis].min() for _, curve in each)
    high = min(curve[axis].max() for _, curve in each)
    if low > high:
        return empty
    places = np.unique(np.linspace(math.log(low), math.log(high), _POINTS))
    return pd.concat(
        [
            pd.DataFrame(
                {"replicate": replicate, axis: np.exp(places), "nll": _at(curve, axis, places)}
            )
            for replicate, curve in each
        ],
        ignore_index=True,
    )


# -- finding ------------------------------------------------------------------------------------


def finding(records: Records) -> str | None:
    """Where flow matching crosses plain likelihood, and what each density takes in the end."""
    data = crossovers(records)
    if data.empty:
        return None
    cells = records.ok
    regularised = set(records.names(cells[cells["flow_name"] == "ffjord"]))
    data = data[(data["seeds"] > 1) & ~data["contestant"].isin(regularised)]
    if data.empty:
        return None
    said = []
    for (name, dataset), rows in grouped(data, ["contestant", "dataset"]):
        words = " and ".join(_where(row) for _, row in rows.iterrows())
        said.append(f"{name} on {dataset} {words}")
    against = ", ".join(dict.fromkeys(data["against"]))
    text = f"Against {against}, by validation NLL: {'; '.join(said)}."
    ratios = _density_ratios(records)
    if ratios:
        text += f" NFE of a density at the end, as a multiple of its: {'; '.join(ratios)}."
    return text


def _where(row: pd.Series[float]) -> str:
    unit = {"evaluations": "evaluations", "seconds": "s"}[str(row["axis"])]
    seeds, below, crossed = int(row["seeds"]), int(row["below_at_end"]), int(row["crossed"])
    over = f"({seeds} seeds)"
    if below not in (0, seeds):
        return f"ends below at equal {row['axis']} in {below} of {seeds} seeds"
    if 0 < crossed < seeds:
        side = "below" if below else "above"
        return f"ends {side} at equal {row['axis']}, having crossed in {crossed} of {seeds} seeds"
    if not crossed:
        side = "below" if below else "above"
        return f"stays {side} at equal {row['axis']} throughout {over}"
    way = "falls below" if below else "is overtaken"
    within = between(row["low"], row["high"]).text
    return f"{way} at {number(row['at']).text} {unit} ({within}, {seeds} seeds)"


def _density_ratios(records: Records) -> list[str]:
    cells = records.ok[records.ok["trained"]]
    cells = cells.assign(contestant=records.names(cells))
    found: dict[str, list[str]] = {}
    for (dataset, _), within in grouped(cells, ["dataset", "rule"]):
        plain = _plain(records, within["contestant"])
        base = values_by_seed(within[within["contestant"] == plain], "nfe_log_prob")
        for (name,), group in grouped(within, ["contestant"]):
            ratio = (values_by_seed(group, "nfe_log_prob") / base).dropna()
            if name != plain and len(ratio) > 1:
                found.setdefault(name, []).append(f"{ratio_in_words(ratio, 'seeds')} on {dataset}")
    return [f"{name} {', '.join(words)}" for name, words in found.items()]


ENTRIES = [
    Study(
        name="objective",
        title="one field by likelihood, with RNODE's regularisers, and by flow matching with pairs "
        "as drawn and of least cost",
        answers="whether flow matching (Lipman et al. 2022, arXiv:2210.02747) reaches the likelihood "
        "of FFJORD for less, from which budget on, and what a density then costs",
        small=_SMALL,
        full=_FULL,
        tables=(ends, crossover_table, tables.comparison),
        figures=(curves, figures.nfe_growth, figures.densities),
        finding=finding,
        place=63,
    )
]
