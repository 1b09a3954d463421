"""Who wins at which cost: NLL against time, steps, evaluations and parameters, and rankings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy import stats

from benchmarks.report import figures, tables
from benchmarks.report.figures import Drawn, Scene
from benchmarks.report.figures.against import bars
from benchmarks.report.figures.panels import (
    centre_and_bounds,
    draw_point,
    file_name,
    handles,
    legend,
    log_axis,
    log_centre_and_bounds,
    mark_above,
    out_of_sight,
    panels,
)
from benchmarks.report.fronts import draw_front, on_front
from benchmarks.report.groups import grouped, replicate_of, replicates, summarise
from benchmarks.report.notes import replication_notes
from benchmarks.report.records import Records
from benchmarks.report.statistics import (
    Floats,
    Interval,
    interquartile_mean,
    stratified_bootstrap,
    t_interval,
)
from benchmarks.report.table import Entry, Section, Table, between, number
from benchmarks.studies.base import Study

# Each contestant's rate is the one of the study quick where it has one. NICE's four couplings can
# hardly bend a plane: it has as many as RealNVP.
_FEW_FLOWS = """[
    { name = "ffjord", atol = 1e-4, rtol = 1e-4, budget = { learning_rate = 3e-2 } },
    { name = ["realnvp", "glow", "maf"], budget = { learning_rate = 1e-2 } },
    { name = "nice", layers = 8, budget = { learning_rate = 1e-2 } },
    { name = ["rqnsf-c", "rqnsf-ar"], budget = { learning_rate = 3e-3 } },
]"""
_FEW_SETS = '["8gaussians", "checkerboard", { name = "power", rows = 20000, test_rows = 2469 }]'
_SMALL = f"""
seeds = [0, 1, 2]
measures = ["quality", "work"]

[budget]
steps = 1000000
batch_size = 256
validate_every = 50
validation_rows = 2000

[[study]]
name = "time"
flows = {_FEW_FLOWS}
datasets = {_FEW_SETS}
budget = {{ seconds = 7.0 }}
measures = ["quality", "work", "time"]

[[study]]
name = "work"
flows = {_FEW_FLOWS}
datasets = {_FEW_SETS}
budget = {{ nfe = 5000 }}
"""

_FLOWS = """[
    { name = ["ffjord", "ffjord-fm"], hidden = [[64, 64, 64], [256, 256, 256]] },
    { name = ["realnvp", "glow", "maf", "maf-mog", "rqnsf-c", "rqnsf-ar"], hidden = [[64, 64], [256, 256]] },
    { name = "nice", layers = 8, hidden = [[64, 64], [256, 256]] },
]"""
_SETS = (
    """["8gaussians", "checkerboard", "power", "miniboone", { name = "mixture", dimension = 16 }]"""
)
_FULL = f"""
seeds = [0, 1, 2]
measures = ["quality", "work", "time", "memory"]

[budget]
steps = 100000000
batch_size = 512
learning_rate = [1e-3, 3e-3, 1e-2]
validate_every = 200

[[study]]
name = "time"
flows = {_FLOWS}
datasets = {_SETS}
budget = {{ seconds = 200.0 }}

[[study]]
name = "work"
flows = {_FLOWS}
datasets = {_SETS}
budget = {{ nfe = 200000 }}
"""

_BOUNDS = {"budget.seconds": "equal time, {:g} s", "budget.nfe": "equal work, {:,.0f} evaluations"}
_APART = (*_BOUNDS, "budget.steps")
_COSTS = {
    "train_seconds": "training time [s]",
    "steps": "training steps",
    "train_nfe": "network evaluations of training",
    "parameters": "parameters",
}


def cells_of(records: Records) -> pd.DataFrame:
    """The trained cells with ``contestant`` and ``bound``: in what their training was equal."""
    cells = records.cells[records.cells["trained"]]
    bounds = []
    for _, cell in cells.iterrows():
        given = [(form, cell.get(name, math.nan)) for name, form in _BOUNDS.items()]
        words = [form.format(float(value)) for form, value in given if pd.notna(value)]
        bounds.append("; ".join(words) or f"equal steps, {float(cell['budget.steps']):,.0f}")
    return cells.assign(contestant=records.names(cells, _APART), bound=bounds)


# -- rankings -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranking:
    """Contestants that have a result of every seed on every data set, under one bound.

    Attributes:
        bound: in what training was equal.
        names: of the contestants, the lowest mean rank first.
        nll: test NLL in nats, shape ``(contestants, seeds, data sets)``.
        gains: what of the NLL of a full Gaussian each saves, nats a dimension, the same shape.
        datasets: names.
        left_out: contestants that lack a result.
    """

    bound: str
    names: tuple[str, ...]
    nll: Floats
    gains: Floats
    datasets: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def ranks(self) -> Floats:
        """Mean rank over seeds and data sets, 1 the best, shape ``(contestants,)``."""
        return mean_ranks(self.nll)

    @property
    def rank_bounds(self) -> tuple[Floats, Floats]:
        """The ends of their intervals."""
        return stratified_bootstrap(self.nll, mean_ranks)

    def behind(self, place: int) -> Interval:
        """How much NLL a contestant loses to the first, mean over data sets, paired by seed."""
        return t_interval((self.nll[place] - self.nll[0]).mean(axis=1).tolist())


def mean_ranks(nll: Floats) -> Floats:
    """Mean rank of each contestant among all of the same seed and data set; 1 is the lowest NLL.

    Args:
        nll: shape ``(..., contestants, seeds, data sets)``.

    Returns:
        Shape ``(..., contestants)``.

    Example:
        >>> mean_ranks(np.array([[[0.1, 0.2]], [[0.3, 0.1]], [[0.5, 0.6]]])).tolist()
        [1.5, 1.5, 3.0]
    """
    return np.asarray(stats.rankdata(nll, axis=-3).mean(axis=(-2, -1)))


def rankings(records: Records) -> list[Ranking]:
    """One for each bound under which two contestants or more have all of their results."""
    found = []
    cells = cells_of(records)
    for (bound,), within in grouped(cells, ["bound"]):
        datasets = tuple(dict.fromkeys(within["dataset"]))
        names = list(dict.fromkeys(within["contestant"]))
        runs = [
            (seed, dataset) for seed in sorted(set(replicate_of(within))) for dataset in datasets
        ]
        values = (
            within[within["status"] == "ok"]
            .assign(replicate=replicate_of(within))
            .groupby(["contestant", "replicate", "dataset"])[
                ["nll_nats", "gaussian_nll_nats", "dimension"]
            ]
            .mean()
        )
        whole, nll, gains = [], [], []
        for name in names:
            rows = values.reindex([(name, *run) for run in runs])
            if rows["nll_nats"].isna().any():
                continue
            whole.append(name)
            nll.append(rows["nll_nats"])
            gains.append((rows["gaussian_nll_nats"] - rows["nll_nats"]) / rows["dimension"])
        if len(whole) < 2:
            continue
        shape = (len(whole), len(runs) // len(datasets), len(datasets))
        scores, saved = (np.array(each, dtype=np.float64).reshape(shape) for each in (nll, gains))
        order = np.argsort(mean_ranks(scores), kind="stable")
        found.append(
            Ranking(
                bound=str(bound),
                names=tuple(whole[place] for place in order),
                nll=scores[order],
                gains=saved[order],
                datasets=datasets,
                left_out=tuple(name for name in names if name not in whole),
            )
        )
    return sorted(found, key=lambda each: each.bound)


def ranking_table(records: Records) -> list[Table]:
    """Who ranks how at equal time and at equal work, over all data sets."""
    sections, data, notes = [], [], []
    for found in rankings(records):
        ranks, (low, high) = found.ranks, found.rank_bounds
        gains = interquartile_mean(found.gains)
        gain_low, gain_high = stratified_bootstrap(found.gains, interquartile_mean)
        rows = []
        for place, name in enumerate(found.names):
            behind = found.behind(place) if place else Interval(math.nan, math.nan, 0)
            rows.append(
                [
                    Entry(name),
                    number(ranks[place], decimals=2),
                    between(low[place], high[place], 2),
                    number(behind.mean, behind.half_width, decimals=3),
                    number(gains[place], decimals=3),
                    between(gain_low[place], gain_high[place], 3),
                ]
            )
            data.append(
                {
                    "bound": found.bound,
                    "contestant": name,
                    "seeds": found.nll.shape[1],
                    "datasets": len(found.datasets),
                    "mean_rank": ranks[place],
                    "mean_rank_low": low[place],
                    "mean_rank_high": high[place],
                    "nll_behind_first": behind.mean,
                    "nll_behind_first_half_width": behind.half_width,
                    "gain_nats_per_dimension": gains[place],
                    "gain_low": gain_low[place],
                    "gain_high": gain_high[place],
                }
            )
        sections.append(Section(found.bound, rows))
        over = f"{found.bound}: {found.nll.shape[1]} seeds on {', '.join(found.datasets)}"
        lost = f"; not ranked, for want of a result: {', '.join(found.left_out)}"
        notes.append(f"{over}{lost if found.left_out else ''}.")
    if not sections:
        return []
    return [
        Table(
            name="ranking",
            title="Rankings by test NLL over all data sets",
            columns=[
                "flow",
                "mean rank",
                "95 % interval",
                "NLL behind the first [nats]",
                "gain on a Gaussian [nats/dim]",
                "95 % interval",
            ],
            sections=sections,
            notes=[
                *notes,
                "Rank: of the test NLL among all contestants of the same seed and data set, 1 the "
                "lowest, mean over both. Behind the first: difference of NLL paired by seed, mean "
                "over data sets, \u00b1 the half-width of its 95 % t interval over seeds. Gain: what a "
                "full-covariance Gaussian's NLL is above, per dimension; the interquartile mean "
                "over seeds and data sets.",
                "Intervals of ranks and gains: stratified bootstrap (Agarwal et al. 2021, "
                "arXiv:2108.13264), the seeds of each data set drawn anew, the same for all "
                "contestants. They say what other seeds would change, not other data sets, and are a fifth too "
                "narrow at three seeds, a tenth at five.",
                *_company(records),
                *replication_notes(records.ok),
            ],
            data=pd.DataFrame(data),
        )
    ]


def _company(records: Records) -> list[str]:
    """How many trainings to equal time had the machine to themselves, where not all had."""
    cells = cells_of(records)
    timed = cells[(cells["status"] == "ok") & cells["bound"].str.startswith("equal time")]
    shared = int(timed["training_shared"].sum())
    if not shared:
        return []
    return [
        f"Others used the machine in {shared} of {len(timed)} trainings to equal time, which then "
        "were shorter than they seem, and not all alike."
    ]


def front_table(records: Records) -> list[Table]:
    """What no other flow beats in NLL and in time, work or parameters, a section a data set."""
    cells = cells_of(records)
    means = summarise(cells, ["dataset", "bound", "contestant"], ["nll_nats", *_COSTS])
    means = means[means["nll_nats"].notna()]
    sections, data = [], []
    for (dataset,), group in grouped(means, ["dataset"]):
        fronts = {
            cost: on_front(group[cost].to_list(), group["nll_nats"].to_list()) for cost in _COSTS
        }
        rows = []
        for place, (_, row) in enumerate(group.iterrows()):
            on = [cost for cost in _COSTS if fronts[cost][place]]
            data.append({**row, **{f"on_front_{cost}": cost in on for cost in _COSTS}})
            if not on:
                continue
            costs = [
                number(row[cost], decimals=0 if cost != "train_seconds" else None)
                for cost in _COSTS
            ]
            rows.append(
                [
                    Entry(str(row["contestant"])),
                    Entry(str(row["bound"])),
                    number(row["nll_nats"], row["nll_nats_half_width"], decimals=3),
                    *(
                        Entry(entry.text, numeric=True, bold=cost in on)
                        for entry, cost in zip(costs, _COSTS, strict=True)
                    ),
                ]
            )
        if rows:
            sections.append(Section(str(dataset), rows))
    if not sections:
        return []
    return [
        Table(
            name="fronts",
            title="Pareto fronts of test NLL and what training took",
            columns=["flow", "trained to", "NLL [nats]", "time [s]", "steps", "NFE", "parameters"],
            sections=sections,
            notes=[
                "Bold: on the front of NLL and this cost, so that no other mean is as low for as "
                "little and better in one of the two; a row is on one front or more. Means over "
                "seeds, \u00b1 the half-width of the 95 % t interval; the fronts are of the means, and "
                "where intervals overlap another run may have others.",
                *replication_notes(records.ok),
            ],
            data=pd.DataFrame(data),
        )
    ]


# -- figures ------------------------------------------------------------------------------------


def fronts(scene: Scene) -> Iterator[Drawn]:
    """Test NLL against time, steps, evaluations and parameters, a figure a data set."""
    scene = scene.sweep(*_APART)
    cells = cells_of(scene.records)
    cells = cells[(cells["status"] == "ok") & cells["nll_nats"].notna()]
    for (dataset,), within in grouped(cells, ["dataset"]):
        figure, axes = panels(len(_COSTS))
        above: list[str] = []
        for ax, (cost, label) in zip(axes, _COSTS.items(), strict=True):
            above += _panel(ax, scene, within, cost)
            ax.set_xlabel(f"thousands of {label}" if cost == "parameters" else label)
            ax.set_ylabel("test NLL [nats]")
        names = scene.present(within["contestant"])
        legend(figure, handles({name: scene.looks[name] for name in names}, line=False))
        bounds = "; ".join(dict.fromkeys(within["bound"]))
        yield Drawn(
            figure,
            f"fronts-{file_name(dataset)}",
            f"Test NLL against what training took: {dataset}",
            f"Down and to the left is better. A marker a flow and bound of its training ({bounds})"
            f". Grey: the Pareto front of the means. {bars(scene)}"
            f"{out_of_sight(list(dict.fromkeys(above)))}",
        )


def _panel(ax: Axes, scene: Scene, cells: pd.DataFrame, cost: str) -> list[str]:
    """One panel; what lies above it, with its NLL."""
    data = replicates(cells, ["contestant", "bound"], ["nll_nats", cost])
    points = []
    for (name, _), group in grouped(data, ["contestant", "bound"]):
        nll = centre_and_bounds(group["nll_nats"])
        # Small numbers leave room between the ticks.
        factor = 1e-3 if cost == "parameters" else 1.0
        spent = log_centre_and_bounds(group[cost].dropna() * factor)
        if all(map(math.isfinite, (nll[0], spent[0]))):
            points.append((name, spent, nll))
    if not points:
        return []
    costs, means = [spent[0] for _, spent, _ in points], [nll[0] for _, _, nll in points]
    gaussian = float(cells["gaussian_nll_nats"].mean())
    low, high = min(means), max(means)
    if math.isfinite(gaussian):
        high = min(high, max(gaussian + 0.5 * abs(gaussian - low), low))
    room = 0.12 * max(high - low, 1e-3)
    ax.set_ylim(low - room, high + room)
    log_axis(ax.xaxis, costs)
    above = []
    for name, spent, nll in points:
        if nll[0] > high + room:
            mark_above(ax, spent[0], scene.looks[name])
            above.append(f"{name} ({nll[0]:.4g})")
        else:
            draw_point(ax, spent, nll, scene.looks[name], 5)
    draw_front(ax, costs, means)
    return above


def ranks(scene: Scene) -> Iterator[Drawn]:
    """Mean ranks with their intervals, a panel a bound."""
    scene = scene.sweep(*_APART)
    found = rankings(scene.records)
    if not found:
        return
    most = max(len(each.names) for each in found)
    figure, axes = panels(len(found), height=0.8 + 0.24 * most)
    for ax, each in zip(axes, found, strict=True):
        low, high = each.rank_bounds
        # Intervals that are computed already: seaborn would make its own.
        for place, (name, rank) in enumerate(zip(each.names, each.ranks, strict=True)):
            look = scene.looks[name]
            ax.plot([low[place], high[place]], [place, place], color=look.colour, lw=1.2)
            ax.plot(
                rank,
                place,
                color=look.colour,
                marker=look.marker,
                markerfacecolor=look.face,
                markersize=5 * look.size,
            )
        ax.set_yticks(range(len(each.names)), each.names)
        ax.set_ylim(len(each.names) - 0.5, -0.5)
        ax.set_xlim(0.7, len(each.names) + 0.3)
        ax.set_title(each.bound)
        ax.set_xlabel("mean rank (1 is best)")
    yield Drawn(
        figure,
        "ranking",
        "Mean rank by test NLL over all data sets",
        "Of the contestants that have a result of every seed on every data set. Lines: 95 % "
        "interval by stratified bootstrap over seeds, where there are two or more.",
    )


# -- finding ------------------------------------------------------------------------------------


def finding(records: Records) -> str | None:
    """Who ranks first at equal time and at equal work, and where FFJORD stands."""
    said = []
    for found in rankings(records):
        if found.nll.shape[1] < 2:
            continue
        (low, high), means = found.rank_bounds, found.ranks
        shown = [0, 1]
        ffjord = [i for i, name in enumerate(found.names) if name.startswith("ffjord")]
        shown += [i for i in ffjord[:1] if i not in shown]
        words = [f"{found.names[i]} {means[i]:.1f} ({low[i]:.1f} to {high[i]:.1f})" for i in shown]
        said.append(f"at {found.bound}: {', '.join(words)} of {len(found.names)}")
    if not said:
        return None
    (seeds, sets) = rankings(records)[0].nll.shape[1:]
    text = (
        f"Mean rank by test NLL over {sets} data sets and {seeds} seeds, the first two and FFJORD, "
        f"{'; '.join(said)}."
    )
    return " ".join([text, *_company(records)])


ENTRIES = [
    Study(
        name="cost",
        title="all flows of vectors at equal time and at equal work: who wins at which cost",
        answers="which flow has the lowest NLL for its time, steps, network evaluations and "
        "parameters, over several data sets",
        small=_SMALL,
        full=_FULL,
        tables=(ranking_table, front_table, tables.comparison, tables.cost),
        figures=(ranks, fronts, figures.learning),
        finding=finding,
        place=64,
    )
]
