"""What grows with the dimension of the data, at a fixed network, and how fast."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import to_hex

from benchmarks import measures
from benchmarks.report import figures, tables
from benchmarks.report.figures import Drawn, Scene
from benchmarks.report.figures.curves import curve_of
from benchmarks.report.figures.panels import draw_line, handles, legend, panels
from benchmarks.report.findings import in_words
from benchmarks.report.groups import grouped, values_by_seed
from benchmarks.report.notes import INTERVAL, Remarks, option_notes, shared_notes, training_words
from benchmarks.report.records import Records
from benchmarks.report.statistics import Interval, t_interval
from benchmarks.report.style import Look, dashes
from benchmarks.report.sweeps import dimension_cells
from benchmarks.report.table import Section, Table, number
from benchmarks.studies.base import Study

# Every flow keeps its hidden widths and its learning rate (those of the study quick) in all
# dimensions, so that nothing else changes with them. The exact trace takes D products.
_SMALL = """
seeds = [0, 1, 2]
measures = ["quality", "work", "time", "memory"]

[budget]
steps = 120
batch_size = 256
validate_every = 20
validation_rows = 500

[[study]]
name = "ffjord"
flows = [{ name = "ffjord", atol = 1e-4, rtol = 1e-4, budget = { learning_rate = 1e-2 } }]
datasets = [
    { name = "gaussian", dimension = [2, 8, 32, 128], test_rows = 2000 },
    { name = "mixture", dimension = [2, 8, 32, 128], test_rows = 2000 },
]

[[study]]
name = "exact"
flows = [{ name = "ffjord", trace = "exact", atol = 1e-4, rtol = 1e-4, budget = { learning_rate = 1e-2 } }]
datasets = [{ name = "gaussian", dimension = [2, 8, 32], test_rows = 2000 }]

[[study]]
name = "discrete"
flows = [{ name = ["realnvp", "glow", "maf"], budget = { learning_rate = 3e-3 } }]
datasets = [{ name = "gaussian", dimension = [2, 8, 32, 128], test_rows = 2000 }]
"""

_FULL = """
seeds = [0, 1, 2]
measures = ["quality", "work", "time", "memory", "variance"]

[budget]
steps = 10000
batch_size = 256
validate_every = 250
validation_rows = 2000

[[study]]
name = "ffjord"
flows = [{ name = "ffjord", budget = { learning_rate = 1e-3 } }]
datasets = [
    { name = "gaussian", dimension = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] },
    { name = "mixture", dimension = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] },
]

[[study]]
name = "exact"
flows = [{ name = "ffjord", trace = "exact", budget = { learning_rate = 1e-3 } }]
datasets = [
    { name = "gaussian", dimension = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] },
    { name = "mixture", dimension = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] },
]

[[study]]
name = "discrete"
flows = [{ name = ["realnvp", "glow", "maf"], budget = { learning_rate = 1e-3 } }]
datasets = [
    { name = "gaussian", dimension = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] },
    { name = "mixture", dimension = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] },
]
"""

_GROWING = (
    "nfe_train_forward",
    "nfe_train_backward",
    "nfe_log_prob",
    "nfe_sample",
    "train_step_seconds",
    "log_prob_seconds",
    "sample_seconds",
    "peak_memory_bytes",
)
_NFE = "nfe_train_forward"


def exponent(cells: pd.DataFrame, measure: str) -> Interval:
    """The power of the dimension by which a measure grows, over seeds.

    Each seed has the least squares slope of the measure's logarithm in that of the dimension; seeds
    that lack a dimension which another has are left out, for a slope depends on where it is taken.

    Args:
        cells: of one contestant on one family.
        measure: above 0; where it is not, there is no exponent.
    """
    values = {
        float(dimension): values_by_seed(group, measure)
        for (dimension,), group in grouped(cells, ["dimension"])
    }
    whole = pd.DataFrame({name: found for name, found in values.items() if len(found)}).dropna()
    if whole.shape[1] < 2 or not (whole > 0).all(axis=None):
        return t_interval([])
    x = np.log(whole.columns.to_numpy(dtype=float))
    x -= x.mean()
    slopes = np.log(whole.to_numpy()) @ x / (x @ x)
    # What rounding leaves of equal counts is no growth.
    return t_interval([0.0 if abs(slope) < 1e-12 else float(slope) for slope in slopes])


def _ranges(dimensions: Iterable[float]) -> list[list[float]]:
    """All dimensions, and the upper half of four or more: what is constant hides growth below."""
    found = sorted(set(dimensions))
    return [found, found[len(found) // 2 :]] if len(found) >= 4 else [found]


def table(records: Records) -> Iterator[Table]:
    """Exponents of growth with the dimension."""
    cells = dimension_cells(records)
    cells = cells.assign(contestant=records.names(cells))
    cells.loc[cells["cost_shared"], "peak_memory_bytes"] = math.nan
    remarks = Remarks(records)
    sections, rows = [], []
    shown = [name for name in _GROWING if cells[name].notna().any()]
    for (family,), part in grouped(cells, ["family"]):
        for dimensions in _ranges(part.loc[part["status"] == "ok", "dimension"]):
            lines = []
            for (flow, label), group in grouped(part, ["flow", "setting_label"]):
                within = group[group["dimension"].isin(dimensions)]
                found = {name: exponent(within, name) for name in shown}
                if not any(each.n for each in found.values()):
                    continue
                own = sorted(set(within.loc[within["status"] == "ok", "dimension"]))
                short = "" if own == dimensions else f"D to {own[-1]:g}"
                if short and own[0] != dimensions[0]:
                    short = f"D = {own[0]:g} to {own[-1]:g}"
                lost = int((within["status"] != "ok").sum())
                remark = ", ".join(
                    [*([short] if short else []), *([f"{lost} failed"] if lost else [])]
                )
                lines.append(
                    [
                        remarks.entry(flow, label, remark=remark),
                        *(
                            number(each.mean, each.half_width, decimals=2)
                            for each in found.values()
                        ),
                    ]
                )
                rows.append(
                    {
                        "family": family,
                        "flow": flow,
                        "setting": group["setting"].iloc[0],
                        "dimension_from": own[0],
                        "dimension_to": own[-1],
                        "seeds": max(each.n for each in found.values()),
                    }
                    | {
                        f"{name}_exponent{end}": value
                        for name, each in found.items()
                        for end, value in (("", each.mean), ("_half_width", each.half_width))
                    }
                )
            if lines:
                span = f"D = {dimensions[0]:g} to {dimensions[-1]:g}"
                sections.append(Section(f"{family}, {span}", lines))
    if not sections:
        return
    ok = cells[cells["status"] == "ok"]
    yield Table(
        name="growth",
        title="Growth with the dimension D: exponents b of a power D^b",
        columns=["flow", *(measures.column(name).heading for name in shown)],
        sections=sections,
        notes=[
            "Least squares slope of the logarithm in that of D, by seed, then the mean; 0: nothing "
            "changes with D, 1: twice the dimension, twice the cost. What does not depend on D "
            "(the hidden layers, the overhead of each call) flattens it in small dimensions. Of "
            f"seeds that have every dimension of the row; {training_words(ok)}.",
            INTERVAL,
            *shared_notes(cells),
            *option_notes(records, cells),
            *remarks.notes,
        ],
        data=pd.DataFrame(rows),
    )


def _continuous(cells: pd.DataFrame) -> pd.DataFrame:
    return cells[cells["flow.trace"].notna()] if "flow.trace" in cells else cells.iloc[:0]


def evaluations(scene: Scene) -> Iterable[Drawn]:
    """NFE over training, a panel a continuous flow and family, a line a dimension."""
    cells = _continuous(scene.named(dimension_cells(scene.records)))
    cells = cells[cells["trained"]]
    curves: dict[tuple[str, str], dict[float, pd.DataFrame]] = {}
    for (name, family, dimension), group in grouped(cells, ["contestant", "family", "dimension"]):
        curve = curve_of(scene.records, group).dropna(subset="nfe_forward")
        if not curve.empty:
            curves.setdefault((name, family), {})[float(dimension)] = curve
    if not curves:
        return
    dimensions = sorted({each for found in curves.values() for each in found})
    # From dark to light, but not as light as the page.
    colours = sns.color_palette("viridis", n_colors=len(dimensions) + 1)
    look_of = {
        dimension: Look(to_hex(colours[i]), "os^Dv<>pd"[i % 9], dashes=dashes(i % 4))
        for i, dimension in enumerate(dimensions)
    }
    figure, axes = panels(len(curves), height=2.4)
    for ax, ((name, family), found) in zip(axes, curves.items(), strict=True):
        for dimension in sorted(found):
            draw_line(ax, found[dimension], "step", "nfe_forward", look_of[dimension], band=True)
        ax.set_ylim(bottom=0)
        ax.set_title(f"{name}\n{family}", fontsize="small")
        ax.set_xlabel("training step")
        ax.set_ylabel(measures.column(_NFE).label)
    legend(figure, handles({f"D = {d:g}": look for d, look in look_of.items()}, line=True))
    yield Drawn(
        figure,
        "nfe-over-training-by-dimension",
        "NFE over training, by dimension",
        "Evaluations of the dynamics in the forward pass of a training step, mean since the "
        f"validation before, then over seeds; band: {scene.interval}.",
    )


def finding(records: Records) -> str | None:
    """Whether NFE depends on the dimension, and by which power a step's time grows."""
    cells = dimension_cells(records)
    cells = cells.assign(contestant=records.names(cells))
    cells = cells[cells["status"] == "ok"]
    continuous = _continuous(cells)
    claims = []
    for (name, family), group in grouped(continuous, ["contestant", "family"]):
        if (group["flow.trace"] == "exact").any():
            continue
        found = exponent(group, _NFE)
        if found.n:
            claims.append(f"of {name} on the {family} family {_claim(found, group['dimension'])}")
    times = []
    for (name, family), group in grouped(cells, ["contestant", "family"]):
        found = exponent(group, "train_step_seconds")
        if found.n and family == cells["family"].iloc[0]:
            times.append(f"{name} {in_words(found, digits=2)}")
    parts = []
    if claims:
        parts.append(f"The forward NFE of a training step {'; '.join(claims)}")
    if times:
        family = cells["family"].iloc[0]
        parts.append(f"the time of a step grows on {family} by the power of D: {', '.join(times)}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else None


def _claim(found: Interval, dimensions: Sequence[float] | pd.Series[float]) -> str:
    """The claim that NFE does not depend on D, by the interval of its exponent."""
    low, high = float(min(dimensions)), float(max(dimensions))
    span, reach = math.log(high / low), f"from D = {low:g} to {high:g}"
    factor = f"{math.exp(found.mean * span):.2f}"
    if not math.isfinite(found.half_width):
        return f"changes by a factor of {factor} {reach} (one seed: no interval)"
    ends = [math.exp((found.mean + side * found.half_width) * span) for side in (-1, 1)]
    interval = f"{factor} ({ends[0]:.2f} to {ends[1]:.2f}, {found.n} seeds)"
    if found.excludes_zero:
        way = "grows" if found.mean > 0 else "falls"
        return f"{way} with D, by a factor of {interval} {reach}"
    return f"is not seen to depend on D: its factor {reach} is {interval}"


ENTRIES = [
    Study(
        name="dimension",
        title="what grows with the dimension at a fixed network: NFE over training, time and memory of FFJORD with both traces and of discrete flows",
        answers="Figure 5 of FFJORD (arXiv:1810.01367), that NFE does not depend on the dimension, "
        "on families of known density instead of VAEs; and the exponents of growth",
        small=_SMALL,
        full=_FULL,
        tables=(table, tables.dimension),
        figures=(evaluations, figures.dimension),
        finding=finding,
        place=26,
    )
]
