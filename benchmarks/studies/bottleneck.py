"""The bottleneck trick: noise of a narrow layer's width, and what the narrow layer costs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from benchmarks import measures
from benchmarks.report.figures import Drawn, Scene
from benchmarks.report.figures.against import lines
from benchmarks.report.figures.curves import curve_of
from benchmarks.report.figures.panels import (
    LOG_INTERVAL,
    draw_line,
    handles,
    legend,
    log_axis,
    log_centre_and_bounds,
    panels,
    spread,
    whole_number_axis,
    within_reach,
)
from benchmarks.report.findings import in_words, ratio_in_words
from benchmarks.report.groups import grouped, plain, replicates, values_by_seed
from benchmarks.report.notes import option_notes
from benchmarks.report.records import Records
from benchmarks.report.statistics import paired_difference
from benchmarks.report.style import SYSTEM_COLOURS, Look, dashes
from benchmarks.report.table import Entry, Section, Table, number
from benchmarks.report.tables.columns import contestants_by_seed, entries, how_spread, kept
from benchmarks.studies.base import Study

# The same networks twice: with a bottleneck of H, in whose space the noise then is, and as plain
# hidden layers, so that it has the data's dimension. Last without any narrow layer.
_SMALL = """
seeds = [0, 1, 2]
measures = ["quality", "variance", "closed-form", "gradient"]

[budget]
steps = 150
batch_size = 256
learning_rate = 1e-2
validate_every = 15
validation_rows = 500

[[study]]
name = "with"
flows = [
    { name = "ffjord", atol = 1e-3, rtol = 1e-3, hidden = [64], bottleneck = [1, 2, 4, 8, 16, 32, 64], noise = ["gaussian", "rademacher"] },
]
datasets = ["optdigits"]

[[study]]
name = "without"
flows = [
    { name = "ffjord", atol = 1e-3, rtol = 1e-3, hidden = [[64, 1, 64], [64, 2, 64], [64, 4, 64], [64, 8, 64], [64, 16, 64], [64, 32, 64], [64, 64, 64]], noise = ["gaussian", "rademacher"] },
]
datasets = ["optdigits"]

[[study]]
name = "full"
flows = [{ name = "ffjord", atol = 1e-3, rtol = 1e-3, hidden = [64, 64], noise = ["gaussian", "rademacher"] }]
datasets = ["optdigits"]
"""

# The paper's network on MNIST (Figure 4: 64-64-128-5-128-64-64), other widths of its narrow layer
# beside; as everywhere in the paper, time is an input of each layer.
_FULL = """
seeds = [0, 1, 2]
measures = ["quality", "variance", "closed-form", "gradient", "work", "time"]

[budget]
steps = 10000
batch_size = 200
learning_rate = 1e-3
validate_every = 250
validation_rows = 2000

[[study]]
name = "with"
flows = [
    { name = "ffjord", layers = "concat", activation = "softplus", hidden = [64, 64, 128], bottleneck = [1, 2, 5, 10, 20, 50, 100, 200, 400, 784], noise = ["gaussian", "rademacher"] },
]
datasets = ["mnist"]

[[study]]
name = "without"
flows = [
    { name = "ffjord", layers = "concat", activation = "softplus", hidden = [[64, 64, 128, 1, 128, 64, 64], [64, 64, 128, 2, 128, 64, 64], [64, 64, 128, 5, 128, 64, 64], [64, 64, 128, 10, 128, 64, 64], [64, 64, 128, 20, 128, 64, 64], [64, 64, 128, 50, 128, 64, 64], [64, 64, 128, 100, 128, 64, 64], [64, 64, 128, 200, 128, 64, 64], [64, 64, 128, 400, 128, 64, 64], [64, 64, 128, 784, 128, 64, 64]], noise = ["gaussian", "rademacher"] },
]
datasets = ["mnist"]

[[study]]
name = "full"
flows = [{ name = "ffjord", layers = "concat", activation = "softplus", hidden = [64, 64, 128, 128, 64, 64], noise = ["gaussian", "rademacher"] }]
datasets = ["mnist"]
"""

_COLUMNS = (
    "trace_std",
    "trace_std_closed_form",
    "log_prob_std",
    "log_prob_std_closed_form",
    "gradient_std",
    "gradient_std_batches",
    "nll_nats",
)
_DEVIATIONS = ("trace_std", "log_prob_std", "gradient_std")
_PANELS = (*_DEVIATIONS, "nll_nats")
_CLOSED_FORMS = {name: f"{name}_closed_form" for name in ("trace_std", "log_prob_std")}
_GREY = "#777777"


def arms(records: Records) -> pd.DataFrame:
    """The cells of the study, with what is compared.

    Adds ``layer``, the width of the narrow layer (NaN: none), ``trick``, whether the noise is of
    that width (``with``, ``without``, ``full`` where there is no such layer), and ``kin``, which
    cells share that differ in these, in noise and in seed alone. A narrow layer without the trick is
    the middle one of an odd number of layers that read the same from both ends.
    """
    cells = records.cells
    if "flow.hidden" not in cells:
        return cells.iloc[:0].assign(layer=[], trick=[], kin=[])
    apart = ("flow.bottleneck", "flow.noise", "flow.hidden")
    layers, tricks, outer = [], [], []
    for hidden, bottleneck in zip(cells["flow.hidden"], cells["bottleneck"], strict=True):
        widths = [width for width in plain(hidden).split("-") if width.isdigit()]
        middle = len(widths) // 2
        if math.isfinite(bottleneck):
            layers.append(float(bottleneck))
            tricks.append("with")
            widths = [*widths, *reversed(widths)]
        elif len(widths) % 2 and widths == widths[::-1]:
            layers.append(float(widths[middle]))
            tricks.append("without")
            widths = [*widths[:middle], *widths[middle + 1 :]]
        else:
            layers.append(math.nan)
            tricks.append("full")
        outer.append("-".join(widths))
    kin = [f"{a}|{b}" for a, b in zip(records.series(cells, apart), outer, strict=True)]
    cells = cells.assign(layer=layers, trick=tricks, kin=kin)
    narrow = set(cells.loc[cells["trick"] == "with", "kin"])
    cells = cells[cells["kin"].isin(narrow)]
    return cells.sort_values(["kin", "layer", "noise", "trick"], kind="stable")


def table(records: Records) -> Iterator[Table]:
    """Deviations and NLL against the width of the narrow layer."""
    cells = arms(records)
    columns = [measures.column(name) for name in _COLUMNS]
    by = ["dataset", "kin", "layer", "noise", "trick"]
    data = contestants_by_seed(cells, by, _COLUMNS)
    columns = kept(data, columns)
    if not columns:
        return
    paid = []
    for (_, kin, _, noise, _), group in grouped(cells, by):
        full = cells[(cells["kin"] == kin) & (cells["trick"] == "full") & (cells["noise"] == noise)]
        paid.append(
            paired_difference(values_by_seed(group, "nll_nats"), values_by_seed(full, "nll_nats"))
        )
    data["nll_nats_over_full"] = [each.mean for each in paid]
    data["nll_nats_over_full_half_width"] = [each.half_width for each in paid]
    data.loc[data["trick"] == "full", "nll_nats_over_full"] = math.nan
    sections = [
        Section(
            f"{dataset}, narrow layer of {layer:g}"
            if math.isfinite(layer)
            else f"{dataset}, no narrow layer",
            [
                [
                    Entry(row["noise"]),
                    Entry(
                        "the data's" if row["trick"] != "with" else "the layer's",
                        remark=f"{row['failed']} failed" if row["failed"] else "",
                    ),
                    *entries(row, columns),
                    number(
                        row["nll_nats_over_full"],
                        row["nll_nats_over_full_half_width"],
                        decimals=3,
                    ),
                ]
                for _, row in group.iterrows()
            ],
        )
        for (dataset, _, layer), group in grouped(data, ["dataset", "kin", "layer"])
    ]
    yield Table(
        name="bottleneck-trick",
        title="Noise of a narrow layer's width: deviations and NLL",
        columns=[
            "noise",
            "its width",
            *(column.title for column in columns),
            "NLL above no narrow layer [nats]",
        ],
        sections=sections,
        notes=[
            "Rows of one narrow layer are one network: with the trick the noise of the trace has "
            "the layer's width, without it the data's.",
            *how_spread(cells, columns),
            *(
                f"{column.heading[0].upper()}{column.heading[1:]}: {column.meaning}."
                for column in columns
                if column.name.startswith("gradient") or column.name in _CLOSED_FORMS.values()
            ),
            "NLL above no narrow layer: paired by seed, at the same noise.",
            *option_notes(records, cells),
        ],
        data=data.drop(columns="kin"),
    )


def _looks(cells: pd.DataFrame) -> dict[tuple[str, str], Look]:
    """By noise and trick: the trick is the colour, the noise marker and line."""
    noises = sorted(set(cells["noise"]))
    return {
        (noise, trick): Look(colour, "os"[place % 2], filled=place == 0, dashes=dashes(place))
        for trick, colour in (("with", SYSTEM_COLOURS["ffjord"]), ("without", "#222222"))
        for place, noise in enumerate(noises)
    }


def _words(noise: str, trick: str) -> str:
    return f"{noise} noise, {trick} the trick"


def deviations(scene: Scene) -> Iterable[Drawn]:
    """Deviations of trace, log p and training gradient, and the NLL, against the layer's width."""
    cells = arms(scene.records)
    cells = cells[cells["status"] == "ok"]
    kins = list(grouped(cells, ["kin"]))
    for place, (_, part) in enumerate(kins, start=1):
        measured = [*_PANELS, *_CLOSED_FORMS.values()]
        data = replicates(part, ["noise", "trick", "layer"], measured)
        narrow = data[data["layer"].notna()]
        present = [name for name in _PANELS if narrow[name].notna().any()]
        if narrow.empty or not present:
            continue
        look_of = _looks(part)
        arm_of = {
            arm: group.sort_values("layer", kind="stable")
            for arm, group in grouped(narrow, ["noise", "trick"])
        }
        arm_of = {arm: arm_of[arm] for arm in look_of if arm in arm_of}
        figure, axes = panels(len(present), height=2.4)
        entries = handles({_words(*arm): look_of[arm] for arm in arm_of}, line=True)
        full = data[data["layer"].isna()]
        for ax, name in zip(axes, present, strict=True):
            whole_number_axis(ax, narrow["layer"])
            centres = _without_layer(ax, full, name, look_of)
            each = [
                (_moved(points, i), look_of[arm]) for i, (arm, points) in enumerate(arm_of.items())
            ]
            if name in _CLOSED_FORMS and narrow[_CLOSED_FORMS[name]].notna().any():
                _through_closed_form(ax, each, name, centres)
            else:
                lines(ax, each, "layer", measures.column(name), "width H", also=centres)
        if full[present].notna().any(axis=None):
            entries += [
                Line2D([], [], color=_GREY, lw=1, ls=look_of[noise, "with"].line, label=words)
                for noise in sorted(set(full["noise"]))
                for words in [f"no narrow layer, {noise} noise"]
            ]
        legend(figure, entries)
        first = part.iloc[0]
        yield Drawn(
            figure,
            "bottleneck-trick" + (f"-{place}" if len(kins) > 1 else ""),
            f"Deviation of the estimators and NLL against the narrow layer's width: "
            f"{first['dataset']} (D = {first['dimension']:g})",
            "Of the trained flows: standard deviation over draws of the noise of the trace at the "
            "start of the flow, of log p (both root mean variances of fixed test points) and of "
            "the training loss's gradient (a fixed batch, all parameters together); test NLL. "
            "Where a panel says so, markers are measured and lines are the closed form of the same "
            "weights at the same points. Where there is none (Rademacher noise of one dimension is exact) nothing "
            "is drawn. Markers of one width lie side by side. Error bars: "
            f"{scene.interval}. {LOG_INTERVAL}",
        )


def _moved(points: pd.DataFrame, place: int) -> pd.DataFrame:
    return points.assign(layer=points["layer"] * 1.05 ** (place - 1.5))


def _without_layer(
    ax: Axes, full: pd.DataFrame, name: str, look_of: dict[tuple[str, str], Look]
) -> list[float]:
    """Horizontal lines of the flows without a narrow layer; their heights."""
    column = measures.column(name)
    centres = []
    for noise, group in full.groupby("noise"):
        values = group[name].dropna() * column.factor
        if values.empty:
            continue
        signed = column.sort == "quality"
        centre = float(values.mean()) if signed else log_centre_and_bounds(values)[0]
        centres.append(centre)
        ax.axhline(centre, color=_GREY, lw=1, ls=look_of[str(noise), "with"].line, zorder=1)
    return centres


def _through_closed_form(
    ax: Axes, each: list[tuple[pd.DataFrame, Look]], name: str, centres: list[float]
) -> None:
    """Measured deviations as markers, their closed form as a line."""
    column, formula = measures.column(name), _CLOSED_FORMS[name]
    each = [(points[(points[name] > 0) & (points[formula] > 0)], look) for points, look in each]
    bounds = [
        log_centre_and_bounds(group)
        for points, _ in each
        for values in (name, formula)
        for _, group in points.groupby("layer")[values]
    ]
    log_axis(ax.yaxis, [*centres, *within_reach(bounds)])
    for points, look in each:
        if points.empty:
            continue
        means = points.groupby("layer")[formula].agg(
            lambda values: log_centre_and_bounds(values)[0]
        )
        # A line alone, without the markers and intervals that seaborn's would have.
        ax.plot(means.index, means, color=look.colour, ls=look.line, lw=1.2)
        draw_line(ax, points, "layer", name, look, joined=False)
    ax.set_xlabel("width H")
    ax.set_ylabel(textwrap.fill(column.label, 30))
    ax.set_title("lines: closed form")


def training(scene: Scene) -> Iterable[Drawn]:
    """The training loss with and without the trick, a panel a width."""
    cells = arms(scene.records)
    cells = cells[(cells["status"] == "ok") & cells["trained"] & cells["layer"].notna()]
    kins = list(grouped(cells, ["kin"]))
    for place, (_, part) in enumerate(kins, start=1):
        widths = spread(part["layer"], most=4)
        look_of = _looks(part)
        found = {
            (width, arm): curve
            for width in widths
            for arm in look_of
            if not (
                curve := curve_of(
                    scene.records,
                    part[
                        (part["layer"] == width)
                        & (part["noise"] == arm[0])
                        & (part["trick"] == arm[1])
                    ],
                ).dropna(subset="train_nll_nats")
            ).empty
        }
        if not found:
            continue
        shown = [width for width in widths if any(width == each for each, _ in found)]
        figure, axes = panels(len(shown), height=2.3)
        for ax, width in zip(axes, shown, strict=True):
            means = []
            for arm, look in look_of.items():
                if (width, arm) in found:
                    curve = found[width, arm]
                    draw_line(ax, curve, "step", "train_nll_nats", look, band=True)
                    means.append(curve.groupby("step")["train_nll_nats"].mean())
            _frame(ax, means)
            ax.set_title(f"H = {width:g}")
            ax.set_xlabel("training step")
            ax.set_ylabel("training loss [nats]")
        present = [arm for arm in look_of if any(arm == each for _, each in found)]
        legend(figure, handles({_words(*arm): look_of[arm] for arm in present}, line=True))
        yield Drawn(
            figure,
            "bottleneck-training" + (f"-{place}" if len(kins) > 1 else ""),
            f"Training loss with and without the bottleneck trick: {part.iloc[0]['dataset']}",
            "Loss of training batches, mean since the validation before, then over seeds; band: "
            f"{scene.interval}. The start of a curve may lie above the panel.",
        )


def _frame(ax: Axes, means: list[pd.Series[float]]) -> None:
    """Limits that show the last three quarters of each curve."""
    later = pd.concat([mean.iloc[len(mean) // 4 :] for mean in means])
    room = 0.08 * max(float(later.max() - later.min()), 1e-9)
    ax.set_ylim(float(later.min()) - room, float(later.max()) + room)


def finding(records: Records) -> str | None:
    """What the trick takes from the trace's deviation and from the NLL, and what the layer costs."""
    cells = arms(records)
    cells = cells[cells["status"] == "ok"]
    parts = []
    for (dataset, kin), part in grouped(cells[cells["layer"] > 1], ["dataset", "kin"]):
        layer = part["layer"].min()
        of = dict(grouped(part[part["layer"] == layer], ["noise", "trick"]))
        told = []
        for noise in sorted(set(part["noise"])):
            if not {(noise, "with"), (noise, "without")} <= of.keys():
                continue
            with_, without = (of[noise, trick] for trick in ("with", "without"))
            deviation = values_by_seed(with_, "trace_std") / values_by_seed(without, "trace_std")
            change = paired_difference(
                values_by_seed(with_, "nll_nats"), values_by_seed(without, "nll_nats")
            )
            if deviation.dropna().empty or not change.n:
                continue
            told.append(
                f"with {noise} noise {ratio_in_words(deviation.dropna(), 'seeds')} times the "
                f"trace's standard deviation and {in_words(change, 'nats')} of test NLL"
            )
        if not told:
            continue
        text = f"on {dataset}, in a layer of {layer:g}, the trick gives {', '.join(told)}"
        full = cells[(cells["kin"] == kin) & (cells["trick"] == "full")]
        narrow = cells[
            (cells["kin"] == kin) & (cells["trick"] == "with") & (cells["layer"] == layer)
        ]
        cost = paired_difference(
            values_by_seed(narrow, "nll_nats"), values_by_seed(full, "nll_nats")
        )
        if cost.n:
            text += f"; the layer itself costs {in_words(cost, 'nats')} against none"
        parts.append(text)
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else None


ENTRIES = [
    Study(
        name="bottleneck",
        title="the bottleneck trick: noise of a narrow layer's width, with and without, and what the layer costs",
        answers="Figure 4 of FFJORD (arXiv:1810.01367): the training loss with and without the "
        "bottleneck trick, Gaussian and Rademacher noise; beyond it, deviations against their closed "
        "forms and the price of a narrow layer",
        small=_SMALL,
        full=_FULL,
        tables=(table,),
        figures=(deviations, training),
        finding=finding,
        place=25,
    )
]
