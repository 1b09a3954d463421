"""What a solver's tolerance and method do to a density, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from benchmarks.measures.solver import ADAPTIVE, FIXED, REFERENCE, SWEEP
from benchmarks.report.figures import Drawn, Scene
from benchmarks.report.figures.against import bars
from benchmarks.report.figures.panels import (
    draw_line,
    file_name,
    handles,
    legend,
    log_axis,
    panels,
)
from benchmarks.report.findings import ratio_in_words
from benchmarks.report.fronts import draw_front, on_front
from benchmarks.report.groups import grouped, replicate_of
from benchmarks.report.notes import machine_notes, shared_notes
from benchmarks.report.records import Records
from benchmarks.report.statistics import t_interval
from benchmarks.report.style import Look
from benchmarks.report.table import DASH, Entry, Section, Table
from benchmarks.studies.base import Study

_SMALL = """
seeds = [0, 1, 2]
measures = ["quality", "solver"]

# Trained as in the paper at 1e-5; then the same weights are solved at every tolerance.
[budget]
steps = 300
batch_size = 256
learning_rate = 1e-2
validate_every = 100
validation_rows = 2000

# Figure 8 of the paper is of a mixture in one dimension.
[[study]]
name = "trained"
flows = [{ name = "ffjord", trace = "exact" }]
datasets = [{ name = "line", rows = 20000 }, "8gaussians"]

[[study]]
name = "untrained"
flows = [{ name = "ffjord", trace = "exact" }]
datasets = [{ name = "line", rows = 20000 }, "8gaussians"]
measures = ["solver"]
budget = { steps = 0 }
"""

_FULL = """
seeds = [0, 1, 2]
measures = ["quality", "solver"]

# The official settings of toy data; POWER with those of the paper's Table 4.
[budget]
steps = 10000
batch_size = 100
learning_rate = 1e-3
weight_decay = 1e-5
schedule = "constant"

[[study]]
name = "trained"
flows = ["ffjord-toy"]
datasets = ["line", "8gaussians", "checkerboard", "2spirals"]

[[study]]
name = "untrained"
flows = ["ffjord-toy"]
datasets = ["line", "8gaussians", "checkerboard", "2spirals"]
measures = ["solver"]
budget = { steps = 0 }

[[study]]
name = "power"
flows = ["ffjord-power"]
datasets = ["power"]
budget = { steps = 100000, batch_size = 10000, weight_decay = 0.0, patience = 30, validate_every = 200 }
"""

_STATES = {False: "untrained", True: "trained"}
_PAPERS = "dopri5"
# What of the finding is within: nats.
_LOST, _EXACT = 1e-2, 1e-3
_ERRORS = {
    "log_prob_error": "error of log p [nats]",
    "mass_error": "|1 \u2212 \u222b p|",
    "round_trip_error": "largest error of a round trip",
}
_LOOKS = {
    name: Look(to_hex(colour), marker, filled=name in ADAPTIVE)
    for name, marker, colour in zip(
        (*ADAPTIVE, *FIXED), "os^Dv<", sns.color_palette("colorblind", 6), strict=True
    )
}


def sweep(records: Records) -> pd.DataFrame:
    """A row a setting of a cell that ended well: the arrays of the measure, and whose they are.

    Returns:
        Columns ``method``, those of :data:`SWEEP`, ``dataset``, ``flow``, ``state`` and
        ``replicate``; seconds are missing where others used the device.
    """
    parts = []
    for _, cell in records.ok.iterrows():
        arrays = records.store_of[cell["key"]].arrays(cell["key"])
        if "solver_method" not in arrays:
            continue
        names = ("method", *SWEEP)
        part = pd.DataFrame({name: arrays[f"solver_{name}"] for name in names})
        if cell["cost_shared"]:
            part["seconds"] = math.nan
        whose = {name: cell[name] for name in ("key", "dataset", "flow")}
        parts.append(part.assign(**whose, state=_STATES[bool(cell["trained"])]))
    if not parts:
        return pd.DataFrame(columns=["method", *SWEEP, "dataset", "flow", "state", "replicate"])
    replicates = dict(zip(records.ok["key"], replicate_of(records.ok), strict=True))
    whole = pd.concat(parts, ignore_index=True)
    return whole.assign(replicate=whole["key"].map(replicates))


_SETTING = ["method", "tolerance", "steps"]


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """Geometric means over replicates, a row a setting in which every replicate was solved."""
    found = []
    for setting, group in grouped(rows, _SETTING):
        row = dict(zip(_SETTING, setting, strict=True))
        for name in SWEEP[2:]:
            values = group[name].to_numpy(dtype=float)
            whole = np.isfinite(values).all() and (values > 0).all()
            row[name] = math.exp(np.log(values).mean()) if whole else math.nan
        found.append(row)
    return pd.DataFrame(found, columns=[*_SETTING, *SWEEP[2:]])


# -- table --------------------------------------------------------------------------------------

_COLUMNS = (
    ("nfe", "NFE", 1.0),
    ("seconds", "density [ms]", 1e3),
    ("log_prob_error", "mean error of log p [nats]", 1.0),
    ("log_prob_error_max", "largest [nats]", 1.0),
    ("sample_error", "error of samples", 1.0),
    ("round_trip_error", "error of a round trip", 1.0),
    ("mass_error", "|1 - mass|", 1.0),
)


def table(records: Records) -> list[Table]:
    """What the paper's solver makes of each tolerance, and what no other setting beats."""
    rows = sweep(records)
    sections, data = [], []
    for (dataset, flow, state), group in grouped(rows, ["dataset", "flow", "state"]):
        means = _means(group)
        means["front"] = on_front(means["nfe"].to_list(), means["log_prob_error"].to_list())
        data.append(means.assign(dataset=dataset, flow=flow, state=state))
        shown = means[means["front"] | (means["method"] == _PAPERS)].sort_values(
            ["nfe", "log_prob_error"], kind="stable"
        )
        title = f"{dataset}, {records.short[flow]} {state}"
        sections.append(Section(title, [_row(row) for _, row in shown.iterrows()]))
    if not sections:
        return []
    whole = pd.concat(data, ignore_index=True)
    kept = [column for column in _COLUMNS if whole[column[0]].notna().any()]
    places = [0, *(1 + _COLUMNS.index(column) for column in kept)]
    return [
        Table(
            name="solver",
            title="Error and cost of a density at each setting of the solver",
            columns=["setting", *(heading for _, heading, _ in kept)],
            sections=[
                Section(each.title, [[row[place] for place in places] for row in each.rows])
                for each in sections
            ],
            notes=[
                f"Rows: {_PAPERS} at every tolerance, as in the paper's Figure 8, and the settings "
                "marked *, which no other beats in both NFE and mean error; all stand in the CSV. "
                "A tolerance is both the absolute and the relative one.",
                f"Errors: against the same weights in float64 at a tolerance of {REFERENCE:g}, "
                "with exact traces, at fixed test points and latents; geometric means over seeds. "
                "A dash: some seed could not be solved within the bound on evaluations, or an "
                "error was zero.",
                "Mass: by the trapezoidal rule on a grid, in one and two dimensions.",
                *shared_notes(records.cells),
                *machine_notes(records.cells),
            ],
            data=whole,
        )
    ]


def _row(row: pd.Series[float]) -> list[Entry]:
    name = Entry(_named(row), mark="*" if row["front"] else "")
    return [name, *(_entry(column, row[column] * factor) for column, _, factor in _COLUMNS)]


def _entry(column: str, value: float) -> Entry:
    if not math.isfinite(value):
        return Entry(DASH, numeric=True)
    exact = column in ("nfe", "seconds")
    return Entry(f"{value:,.1f}" if exact else f"{value:.1e}", numeric=True)


def _named(row: pd.Series[float]) -> str:
    if math.isfinite(row["tolerance"]):
        return f"{row['method']} at {row['tolerance']:.0e}"
    return f"{row['method']}, steps {row['steps']:g}"


# -- figures ------------------------------------------------------------------------------------


def against_tolerance(scene: Scene) -> Iterator[Drawn]:
    """Errors of a density against the solver's tolerance, a figure a data set."""
    rows = sweep(scene.records)
    rows = rows[rows["tolerance"].notna()]
    for (dataset, flow), part in grouped(rows, ["dataset", "flow"]):
        errors = [name for name in _ERRORS if (part[name] > 0).any()]
        states = _states(part)
        if not errors:
            continue
        figure, axes = panels(len(states) * len(errors), columns=len(errors))
        for place, ax in enumerate(axes):
            state, error = states[place // len(errors)], errors[place % len(errors)]
            _lines(ax, part[part["state"] == state], part, "tolerance", error)
            # Tighter to the right, as in the paper.
            ax.invert_xaxis()
            ax.set_title(state)
            ax.set_xlabel("tolerance, absolute and relative")
        _legend(figure, part)
        yield Drawn(
            figure,
            _file("error-against-tolerance", dataset, flow, rows),
            f"Error of a density against the solver's tolerance: {dataset}, "
            f"{scene.records.short[flow]}",
            f"Left: mean over test points of the distance of log p from that of the same weights "
            f"in float64 at {REFERENCE:g}. The mass is by the trapezoidal rule. Where a line stops "
            f"falling, rounding or the grid is what is left. {bars(scene)}",
        )


def against_cost(scene: Scene) -> Iterator[Drawn]:
    """The error of log p against evaluations and time, with the Pareto front, a figure a set."""
    rows = sweep(scene.records)
    for (dataset, flow), part in grouped(rows, ["dataset", "flow"]):
        if not (part["log_prob_error"] > 0).any():
            continue
        part = part.assign(ms=part["seconds"] * 1e3)
        costs = {"nfe": "NFE of a density", "ms": "density of a batch [ms]"}
        costs = {name: label for name, label in costs.items() if (part[name] > 0).any()}
        states = _states(part)
        figure, axes = panels(len(states) * len(costs), columns=len(costs), height=2.5)
        for place, ax in enumerate(axes):
            state, cost = states[place // len(costs)], list(costs)[place % len(costs)]
            own = part[part["state"] == state]
            # The replicates of a setting share one place.
            logs = np.log(own[cost]).groupby([own[name] for name in _SETTING], dropna=False)
            placed = own.assign(**{cost: np.exp(logs.transform("mean"))})
            _lines(ax, placed, part, cost, "log_prob_error")
            means = _means(placed.assign(seconds=placed["ms"] / 1e3))
            where = means["nfe"] if cost == "nfe" else means["seconds"] * 1e3
            draw_front(ax, where.to_list(), means["log_prob_error"].to_list())
            ax.set_title(state)
            ax.set_xlabel(costs[cost])
        _legend(figure, part)
        yield Drawn(
            figure,
            _file("error-against-cost", dataset, flow, rows),
            f"Error of log p against what it costs: {dataset}, {scene.records.short[flow]}",
            "A marker a setting: tolerances of the adaptive methods, numbers of steps of the "
            "fixed ones (white inside). Grey: the Pareto front, the least mean error that was had "
            f"at a cost. {bars(scene)}",
        )


def _states(part: pd.DataFrame) -> list[str]:
    return [state for state in _STATES.values() if (part["state"] == state).any()]


def _lines(ax: Axes, rows: pd.DataFrame, whole: pd.DataFrame, x: str, y: str) -> None:
    """A line a method; the panels of a figure share their scales for the same ``x`` and ``y``."""
    log_axis(ax.xaxis, whole[x].dropna())
    log_axis(ax.yaxis, whole[y].dropna())
    for method in _LOOKS:
        points = rows[(rows["method"] == method) & (rows[y] > 0) & (rows[x] > 0)]
        if not points.empty:
            draw_line(ax, points.sort_values(x), x, y, _LOOKS[method])
    ax.set_ylabel(_ERRORS[y])


def _legend(figure: Figure, part: pd.DataFrame) -> None:
    present = {name: look for name, look in _LOOKS.items() if (part["method"] == name).any()}
    legend(figure, handles(present, line=True))


def _file(stem: str, dataset: str, flow: str, rows: pd.DataFrame) -> str:
    names = [dataset] * (rows["dataset"].nunique() > 1) + [flow] * (rows["flow"].nunique() > 1)
    return "-".join([stem, *map(file_name, names)])


# -- finding ------------------------------------------------------------------------------------


def finding(records: Records) -> str | None:
    """Where quality is lost with the paper's solver, and what other methods take."""
    rows = sweep(records)
    rows = rows[rows["state"] == "trained"]
    lost, taken = [], []
    for (dataset, flow), part in grouped(rows, ["dataset", "flow"]):
        papers = part[(part["method"] == _PAPERS) & part["tolerance"].notna()]
        at = papers[np.isclose(papers["tolerance"], 1e-5)]["log_prob_error"]
        if at.isna().any() or len(at) < 2:
            continue
        interval = t_interval(np.log(at).to_list())
        low, mean, high = (
            math.exp(interval.mean + side * interval.half_width) for side in (-1, 0, 1)
        )
        worst = papers.groupby("tolerance")["log_prob_error"].agg(lambda v: v.max(skipna=False))
        where = f"on {dataset}"
        if part["flow"].nunique() > 1:
            where = f"{records.short[flow]} {where}"
        loose = worst.index[worst <= _LOST].to_list()
        lost.append(
            f"{where} by {mean:.1e} ({low:.1e} to {high:.1e}, {interval.n} seeds), and all seeds "
            + (
                f"stay within {_LOST:g} up to {max(loose):.0e}"
                if len(loose)
                else f"exceed {_LOST:g}"
            )
        )
        taken += _times_the_papers(part, dataset)
    if not lost:
        return None
    text = f"Trained, {_PAPERS} at 1e-5 misses log p in nats {'; '.join(lost)}."
    if taken:
        text += f" For {_EXACT:g} nats, times the evaluations of {_PAPERS}: {'; '.join(taken)}."
    return text


def _times_the_papers(part: pd.DataFrame, dataset: str) -> list[str]:
    """The least evaluations that the other methods were seen to take, over those of the paper's."""
    enough = part[part["log_prob_error"] <= _EXACT]
    least = enough.groupby(["method", "replicate"])["nfe"].min().unstack("method")
    found: Sequence[str] = [name for name in _LOOKS if name in least and name != _PAPERS]
    if _PAPERS not in least:
        return []
    words = []
    for name in found:
        ratio = (least[name] / least[_PAPERS]).dropna()
        if len(ratio) > 1:
            words.append(f"{name} {ratio_in_words(ratio, 'seeds')}")
    return [f"{', '.join(words)} on {dataset}"] if words else []


ENTRIES = [
    Study(
        name="solver",
        title="FFJORD's solver: error, mass, evaluations and time against tolerance and method",
        answers="Figure 8 of FFJORD (arXiv:1810.01367): from which tolerance on a density no longer "
        "integrates to one; and which method has the least error for its evaluations",
        small=_SMALL,
        full=_FULL,
        tables=(table,),
        figures=(against_tolerance, against_cost),
        finding=finding,
        place=27,
    )
]
