"""The figures of the report, from records alone.

One colour and one marker a flow in all of them (:mod:`benchmarks.report.style`). Variants of one
flow share them, and differ in the line and in whether the marker is filled.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from benchmarks.report.records import Records, grouped, summarise
from benchmarks.report.style import Look, looks, new_figure, rc, save
from benchmarks.report.tables import bottleneck_cells, contestant, dimension_cells

__all__ = ["Picture", "draw_all"]

_PANEL = (2.55, 2.15)
_COLUMNS = 3
_LINES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)))
_INTERVAL = "Error bars: 95 % t interval over seeds, where there are two or more."


@dataclass(frozen=True)
class Picture:
    """A figure that was written.

    Attributes:
        name: of its files.
        title: one line.
        caption: what is shown, and how it was measured.
        paths: PNG and SVG.
    """

    name: str
    title: str
    caption: str
    paths: tuple[Path, Path]


@dataclass(frozen=True)
class _Drawn:
    figure: Figure
    name: str
    title: str
    caption: str


def draw_all(records: Records, folder: Path) -> tuple[list[Picture], list[str]]:
    """Draw every figure that the records have something for.

    Returns:
        The figures, and a note for each kind that could not be drawn and why.
    """
    style = looks(records.cells["flow_name"])
    pictures, notes = [], []
    makers: Sequence[tuple[str, Callable[[Records, dict[str, Look]], Iterable[_Drawn]]]] = (
        ("NLL against wall time", _learning),
        ("density panels", _densities),
        ("quality against cost", _trade_offs),
        ("cost against dimension", _dimension),
        ("estimator deviation against dimension", _deviation_by_dimension),
        ("estimator deviation against bottleneck width", _deviation_by_bottleneck),
        ("NFE over training", _nfe_growth),
    )
    with mpl.rc_context(rc()):
        for what, make in makers:
            found = False
            for drawn in make(records, style):
                png, svg = save(drawn.figure, folder, drawn.name)
                pictures.append(Picture(drawn.name, drawn.title, drawn.caption, (png, svg)))
                found = True
            if not found:
                notes.append(f"no figure of {what}: no record has what it takes")
    return pictures, notes


# -- what the figures share ---------------------------------------------------------------------


def _grid(panels: int, *, height: float = _PANEL[1]) -> tuple[Figure, list[Axes]]:
    """Panels in rows of at most three."""
    columns = 2 if panels == 4 else min(panels, _COLUMNS)
    rows = math.ceil(panels / columns)
    width = {1: 4.2, 2: 6.4}.get(columns, _PANEL[0] * columns)
    figure = new_figure(width, height * rows + 0.35)
    axes = [figure.add_subplot(rows, columns, 1 + i) for i in range(panels)]
    return figure, axes


def _legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """One legend for the whole figure, below it, in as many columns as fit."""
    if not handles:
        return
    longest = max(len(str(handle.get_label())) for handle in handles)
    inches = 0.065 * longest + 0.55
    columns = max(1, min(len(handles), int(figure.get_figwidth() / inches)))
    # Each row after the first one makes the figure taller, so that no panel pays for it.
    figure.set_figheight(figure.get_figheight() + 0.19 * (math.ceil(len(handles) / columns) - 1))
    figure.legend(
        handles=list(handles), loc="outside lower center", ncols=columns, columnspacing=1.4
    )


def _flow_handles(names: Iterable[str], style: dict[str, Look], line: bool) -> list[Line2D]:
    return [
        Line2D(
            [],
            [],
            color=style[name][0],
            marker=style[name][1],
            linestyle="-" if line else "none",
            label=name,
        )
        for name in names
    ]


def _variant_handles(labels: Sequence[str]) -> list[Line2D]:
    """Which line stands for which variant; nothing if there is only one."""
    if len(labels) < 2:
        return []
    return [
        Line2D([], [], color="#444444", linestyle=_line(i), label=label or "defaults")
        for i, label in enumerate(labels)
    ]


def _line(position: int) -> Any:
    return _LINES[position % len(_LINES)]


def _short(value: float) -> str:
    """A tick's number: 0.01, 1, 30, 1,000; powers of ten where these would be long."""
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.10g}"


def _log(axis: Any, values: Iterable[float]) -> None:
    """A logarithmic axis around some values, its ticks written as plain numbers."""
    finite = [value for value in values if math.isfinite(value) and value > 0]
    if not finite:
        return
    low, high = min(finite), max(finite)
    axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
    decades = math.log10(high / low)
    # Room at both ends, so that no marker is cut and two equal values make no empty range.
    room = max(0.06 * decades, 0.12)
    limits = (low * 10**-room, high * 10**room)
    axis.axes.set_xlim(limits) if axis.axis_name == "x" else axis.axes.set_ylim(limits)
    axis.set_major_locator(FixedLocator(_log_ticks(*limits)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axis.set_minor_formatter(NullFormatter())
    if decades + 2 * room < 1:
        axis.set_minor_locator(NullLocator())


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two bounds: three or more of them, and no more than are needed."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = range(first, last + 1)
    for every in (4, 3, 2):
        ticks = [10.0**power for power in decades if power % every == 0]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            return ticks
    ticks = []
    for parts in ("1", "1 3", "1 2 5", "1 1.5 2 3 5 7", "1 1.2 1.4 1.6 1.8 2 2.5 3 3.5 4 5 6 7 8"):
        # From text, so that 0.3 is 0.3 and not 0.30000000000000004.
        ticks = [float(f"{part}e{power}") for power in decades for part in parts.split()]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return ticks


def _dimensions(ax: Axes, values: Iterable[float], label: str) -> None:
    """A logarithmic axis of small whole numbers with a tick at each that was measured."""
    ticks = sorted(set(values))
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if len(ticks) > 1:
        ax.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
    ax.set_xlabel(label)


def _bars(
    ax: Axes,
    data: pd.DataFrame,
    x: str,
    measure: str,
    look: Look,
    *,
    factor: float = 1.0,
    line: Any = "-",
    filled: bool = True,
    shift: float = 1.0,
) -> None:
    """A line through means with the error bars of their intervals, on a log axis cut at zero.

    ``shift`` moves the points along a logarithmic x axis, so that equal values of several flows
    lie beside each other and not one under the other.
    """
    colour, marker = look
    means = data[measure].to_numpy() * factor
    half = np.nan_to_num(data[f"{measure}_half_width"].to_numpy() * factor)
    # A t interval of three seeds may reach below zero, which a logarithmic axis cannot show.
    lower = np.minimum(half, means * (1 - 1e-2)) if ax.get_yscale() == "log" else half
    ax.errorbar(
        data[x] * shift,
        means,
        yerr=np.vstack([np.maximum(lower, 0), half]),
        color=colour,
        marker=marker,
        linestyle=line,
        markerfacecolor=colour if filled else "white",
        capsize=2,
        elinewidth=0.9,
    )


# -- learning curves ----------------------------------------------------------------------------


def _mean_curve(records: Records, cells: pd.DataFrame) -> pd.DataFrame:
    """Curves of several seeds as one, at the steps that all of them reached.

    Returns:
        Columns ``step, seconds, validation_nll_nats, lowest, highest, nfe_forward,
        nfe_backward``; empty if there is no curve.
    """
    curves = []
    for key in cells["key"]:
        curve = records.store_of[key].curve(key)
        if curve.empty or "step" not in curve:
            continue
        wanted = ("seconds", "validation_nll_nats", "nfe_forward", "nfe_backward")
        missing = {name: np.nan for name in wanted if name not in curve}
        curve = curve.assign(**missing)[["step", *wanted]].astype(float)
        curve = curve.replace([np.inf, -np.inf], np.nan)
        curves.append(curve.drop_duplicates("step", keep="last").set_index("step"))
    if not curves:
        return pd.DataFrame()
    steps = curves[0].index
    for curve in curves[1:]:
        steps = steps.intersection(curve.index)
    stacked = pd.concat([curve.loc[steps] for curve in curves]).groupby(level=0)
    mean = stacked.mean()
    nll = stacked["validation_nll_nats"]
    mean["lowest"], mean["highest"] = nll.min(), nll.max()
    return mean.reset_index()


def _learning(records: Records, style: dict[str, Look]) -> Iterable[_Drawn]:
    ok = records.ok
    cells = ok[ok["dataset_kind"] != "gaussian"]
    if cells.empty:
        cells = ok
    by_dataset: dict[str, list[tuple[str, str, pd.DataFrame]]] = {}
    for (dataset, name, flow, label, _), group in grouped(
        cells, ["dataset", "flow_name", "flow", "setting_label", "setting"]
    ):
        curve = _mean_curve(records, group)
        if not curve.empty and curve["validation_nll_nats"].notna().any():
            by_dataset.setdefault(dataset, []).append(
                (name, _variant(records.short[flow], name, label), curve)
            )
    if not by_dataset:
        return
    variants = list(dict.fromkeys(v for lines in by_dataset.values() for _, v, _ in lines))
    figure, axes = _grid(len(by_dataset), height=2.3)
    for ax, (dataset, lines) in zip(axes, by_dataset.items(), strict=True):
        for name, variant, curve in lines:
            curve = curve[curve["seconds"] > 0].dropna(subset="validation_nll_nats")
            colour, marker = style[name]
            ax.fill_between(
                curve["seconds"], curve["lowest"], curve["highest"], color=colour, alpha=0.18, lw=0
            )
            ax.plot(
                curve["seconds"],
                curve["validation_nll_nats"],
                color=colour,
                marker=marker,
                markersize=3.6,
                markevery=max(1, len(curve) // 6),
                linestyle=_line(variants.index(variant)),
            )
        group = cells[cells["dataset"] == dataset]
        entropy, gaussian = (
            float(group[column].mean()) for column in ("truth_entropy_nats", "gaussian_nll_nats")
        )
        _frame_nll(ax, [curve for _, _, curve in lines], entropy, gaussian)
        # From where the first curve enters the panel.
        top = ax.get_ylim()[1]
        inside = [
            second
            for _, _, curve in lines
            for second in curve.loc[curve["validation_nll_nats"] <= top, "seconds"]
        ]
        _log(ax.xaxis, inside)
        ax.set_title(dataset)
        ax.set_xlabel("training time [s]")
        ax.set_ylabel("validation NLL [nats]")
    references = []
    if cells["truth_entropy_nats"].notna().any():
        references.append(Line2D([], [], color="#222222", ls="--", lw=1, label="entropy (optimum)"))
    if cells["gaussian_nll_nats"].notna().any():
        references.append(Line2D([], [], color="#777777", ls=":", lw=1.2, label="full Gaussian"))
    names = list(dict.fromkeys(name for lines in by_dataset.values() for name, _, _ in lines))
    handles = _flow_handles([name for name in style if name in names], style, True)
    _legend(figure, [*handles, *_variant_handles(variants), *references])
    yield _Drawn(
        figure,
        "nll-against-time",
        "Validation NLL against wall time",
        "Lines: mean over seeds, at the steps that every seed reached; band: lowest to highest "
        "seed. Time: seconds of training, evaluation apart, mean over seeds; training may share "
        "the machine with other cells, so the cost table, not this axis, ranks speed. The start "
        "of a curve may lie above the panel.",
    )


def _variant(flow: str, name: str, setting_label: str) -> str:
    """What tells a line from the flow's own: its options and what of its setting differs."""
    options = flow.removeprefix(name).strip("[]").replace(",", ", ")
    return ", ".join(part for part in (options, setting_label) if part)


def _frame_nll(ax: Axes, curves: Sequence[pd.DataFrame], entropy: float, gaussian: float) -> None:
    """Limits that show where curves end up, and at least the last two thirds of each: untrained
    flows start hundreds of nats above.
    """
    values = [curve["validation_nll_nats"].dropna() for curve in curves]
    ends = [float(nll.min()) for nll in values]
    later = [float(nll.iloc[len(nll) // 3 :].max()) for nll in values]
    low = min([*ends, *([entropy] if math.isfinite(entropy) else [])])
    high = max(ends)
    spread = max(high - low, 0.02 * max(1.0, abs(low)))
    top = max(*later, min(max(float(nll.iloc[0]) for nll in values), high + 2.5 * spread))
    if math.isfinite(gaussian):
        if gaussian < high + 6 * spread:
            top = max(top, gaussian + 0.3 * spread)
        ax.axhline(gaussian, color="#777777", ls=":", lw=1.2, zorder=1)
    if math.isfinite(entropy):
        ax.axhline(entropy, color="#222222", ls="--", lw=1, zorder=1)
    room = 0.06 * (top - low)
    ax.set_ylim(low - room, top + room)


# -- densities ----------------------------------------------------------------------------------

_ACROSS = 5


def _densities(records: Records, style: dict[str, Look]) -> Iterable[_Drawn]:
    cells = records.ok[records.ok["dimension"] == 2]
    for (dataset,), group in grouped(cells, ["dataset"]):
        panels, reference = [], None
        for (flow, label), alike in grouped(group, ["flow", "setting_label"]):
            # One seed is shown, the lowest that has pictures: a mean of densities is no density.
            for _, cell in alike.sort_values("seed").iterrows():
                arrays = records.store_of[cell["key"]].arrays(cell["key"])
                if {"log_density", "samples", "grid_x", "grid_y"} <= set(arrays):
                    panels.append((contestant(records.short[flow], label), cell, arrays))
                    if reference is None or "truth_log_density" in arrays:
                        reference = arrays
                    break
        if reference is None:
            continue
        yield _density_figure(str(dataset), panels, reference, style)


def _density_figure(
    dataset: str,
    panels: Sequence[tuple[str, pd.Series[Any], dict[str, np.ndarray[Any, Any]]]],
    reference: dict[str, np.ndarray[Any, Any]],
    style: dict[str, Look],
) -> _Drawn:
    across = min(len(panels) + 1, _ACROSS)
    blocks = math.ceil((len(panels) + 1) / across)
    size = 1.55
    figure = new_figure(size * across + 0.25, (2 * size + 0.45) * blocks)
    grid = figure.subplots(2 * blocks, across, squeeze=False)
    truth = reference.get("truth_log_density")
    fields = [arrays["log_density"] for _, _, arrays in panels]
    top = _brightest([truth] if truth is not None else fields)
    x, y = reference["grid_x"], reference["grid_y"]
    extent = (float(x[0]), float(x[-1]), float(y[0]), float(y[-1]))

    def density(ax: Axes, field: np.ndarray[Any, Any]) -> None:
        ax.imshow(
            _density(field),
            origin="lower",
            extent=extent,
            vmin=0,
            vmax=top,
            interpolation="bilinear",
            aspect="equal",
        )

    def points(ax: Axes, values: np.ndarray[Any, Any], colour: str) -> None:
        ax.scatter(
            values[:, 0],
            values[:, 1],
            s=0.9,
            color=colour,
            linewidths=0,
            alpha=0.55,
            rasterized=True,
        )

    def finish(ax: Axes) -> None:
        ax.set_xlim(extent[:2])
        ax.set_ylim(extent[2:])
        ax.set_aspect("equal")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(False)
        for spine in ax.spines.values():
            spine.set_visible(True)
            spine.set_color("#999999")
            spine.set_linewidth(0.6)

    first = grid[0][0], grid[1][0]
    if truth is not None:
        density(first[0], truth)
    elif "data" in reference:
        data = reference["data"]
        counts, _, _ = np.histogram2d(
            data[:, 1], data[:, 0], bins=60, range=(extent[2:], extent[:2]), density=True
        )
        with np.errstate(divide="ignore"):
            density(first[0], np.log(counts))
    if "data" in reference:
        points(first[1], reference["data"], "#333333")
    first[0].set_title("truth" if truth is not None else "data")
    first[1].text(
        0.02,
        0.98,
        "test data",
        transform=first[1].transAxes,
        va="top",
        fontsize=8,
        color="#333333",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
    )
    for position, (label, cell, arrays) in enumerate(panels, start=1):
        block, column = divmod(position, across)
        upper, lower = grid[2 * block][column], grid[2 * block + 1][column]
        density(upper, arrays["log_density"])
        points(lower, arrays["samples"], style[cell["flow_name"]][0])
        nll = cell["nll_nats"]
        title = _folded(label) + (f"\n{nll:.3f} nats" if math.isfinite(nll) else "")
        upper.set_title(title.replace("-", "\u2212") if nll < 0 else title)
    for row in range(2 * blocks):
        grid[row][0].set_ylabel("density" if row % 2 == 0 else "samples")
        for column in range(across):
            if row // 2 * across + column > len(panels):
                grid[row][column].set_axis_off()
            else:
                finish(grid[row][column])
    square = f"{extent[0]:.1f} to {extent[1]:.1f} by {extent[2]:.1f} to {extent[3]:.1f}"
    return _Drawn(
        figure,
        f"density-{_file_name(dataset)}",
        f"Densities and samples: {dataset}",
        f"Above: density, one linear colour scale for all, from 0 to {top:.3g} per unit area "
        "(brighter is denser); "
        + ("the truth first. " if truth is not None else "a histogram of the data first. ")
        + f"Below: test data, and samples of each flow. Square: {square}, in the data's units. "
        "One seed of each flow, the lowest; the number is its test NLL.",
    )


def _folded(label: str, width: int = 20) -> str:
    """A long label over several lines, cut at spaces, commas, brackets and hyphens."""
    words = label.replace("[", " [").replace(",", ", ").replace("/", "/ ")
    return "\n".join(line.replace("/ ", "/") for line in textwrap.wrap(words, width))


def _density(log_density: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The density of a log-density; nothing where a flow has none, finite where it explodes."""
    finite = np.nan_to_num(
        log_density.astype(np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf
    )
    density: np.ndarray[Any, Any] = np.exp(np.minimum(finite, 500.0))
    return density


def _brightest(fields: Sequence[np.ndarray[Any, Any]]) -> float:
    """Top of the colour scale: nearly the largest density, whatever single points do."""
    values = np.concatenate([_density(field).ravel() for field in fields])
    top = float(np.quantile(values, 0.998))
    return top if top > 0 else 1.0


def _file_name(label: str) -> str:
    """A label as a file's name: letters, digits and hyphens."""
    words = "".join(char if char.isalnum() or char in ".=" else " " for char in label).split()
    return "-".join(words).replace("=", "-")


# -- quality against cost -----------------------------------------------------------------------


def _trade_offs(records: Records, style: dict[str, Look]) -> Iterable[_Drawn]:
    for cost, words, name in (
        ("train_step_seconds", "training step [ms]", "quality-against-training-cost"),
        ("log_prob_seconds", "density of a batch [ms]", "quality-against-density-cost"),
        ("sample_seconds", "sampling a batch [ms]", "quality-against-sampling-cost"),
    ):
        drawn = _trade_off(records, style, cost, words, name)
        if drawn is not None:
            yield drawn


def _trade_off(
    records: Records, style: dict[str, Look], cost: str, words: str, name: str
) -> _Drawn | None:
    ok = records.ok
    cells = ok[ok["dataset_kind"] != "gaussian"]
    if not (cells[cost].notna() & cells["nll_nats"].notna()).any():
        cells = ok
    by = ["dataset", "dataset_kind", "flow_name", "flow", "setting_label", "setting"]
    data = summarise(cells, by, ["nll_nats", "bits_per_dim", cost])
    data = data[data[cost].notna() & data["nll_nats"].notna()]
    if data.empty:
        return None
    datasets = list(dict.fromkeys(data["dataset"]))
    variants = list(
        dict.fromkeys(
            _variant(records.short[flow], flow_name, label)
            for flow, flow_name, label in zip(
                data["flow"], data["flow_name"], data["setting_label"], strict=True
            )
        )
    )
    figure, axes = _grid(len(datasets))
    for ax, dataset in zip(axes, datasets, strict=True):
        points = data[data["dataset"] == dataset]
        image = points["bits_per_dim"].notna().all()
        measure = "bits_per_dim" if image else "nll_nats"
        for _, row in points.iterrows():
            colour, marker = style[row["flow_name"]]
            variant = _variant(records.short[row["flow"]], row["flow_name"], row["setting_label"])
            position = variants.index(variant)
            half = float(np.nan_to_num(row[f"{cost}_half_width"])) * 1e3
            value = row[cost] * 1e3
            ax.errorbar(
                value,
                row[measure],
                xerr=[[min(half, 0.99 * value)], [half]],
                yerr=float(np.nan_to_num(row[f"{measure}_half_width"])),
                color=colour,
                marker=marker,
                markersize=6,
                markerfacecolor=colour if position == 0 else "white",
                elinewidth=0.9,
                capsize=2,
                linestyle="none",
            )
            if position:
                ax.annotate(
                    str(position),
                    (value, row[measure]),
                    xytext=(5, 4),
                    textcoords="offset points",
                    fontsize=7,
                    color=colour,
                )
        _log(ax.xaxis, points[cost] * 1e3)
        ax.margins(y=0.15)
        ax.set_title(dataset)
        ax.set_xlabel(words)
        ax.set_ylabel("test bits/dim" if image else "test NLL [nats]")
    names = [flow for flow in style if flow in set(data["flow_name"])]
    handles = _flow_handles(names, style, False)
    handles += [
        Line2D(
            [], [], linestyle="none", marker=f"${i}$", color="#444444", label=label or "defaults"
        )
        for i, label in enumerate(variants)
        if i
    ]
    _legend(figure, handles)
    return _Drawn(
        figure,
        name,
        f"Test quality against cost: {words.partition(' [')[0]}",
        "Down and to the left is better. Cost: median call of the trained flow with the device "
        f"to itself, one batch. Both axes: mean over seeds. {_INTERVAL}",
    )


# -- sweeps -------------------------------------------------------------------------------------


def _lines_by(
    records: Records, data: pd.DataFrame, style: dict[str, Look]
) -> list[tuple[str, str, pd.DataFrame, Look]]:
    """Each flow's own line: its name, its variant, its points and its look."""
    lines = []
    for (name, flow, label, _), group in grouped(
        data, ["flow_name", "flow", "setting_label", "setting"]
    ):
        lines.append((name, _variant(records.short[flow], name, label), group, style[name]))
    return lines


_PANELS = (
    ("nfe_train_forward", "NFE, forward pass", 1.0),
    ("nfe_train_backward", "NFE, backward pass", 1.0),
    ("train_step_seconds", "training step [ms]", 1e3),
    ("log_prob_seconds", "density of a batch [ms]", 1e3),
    ("sample_seconds", "sampling a batch [ms]", 1e3),
    ("peak_memory_bytes", "peak tensor memory [MiB]", 2.0**-20),
)


def _dimension(records: Records, style: dict[str, Look]) -> Iterable[_Drawn]:
    cells = dimension_cells(records)
    cells = cells[cells["status"] == "ok"]
    measures = [measure for measure, _, _ in _PANELS]
    by = ["family", "flow_name", "flow", "setting_label", "setting", "dimension"]
    for (family,), part in grouped(cells, ["family"]):
        data = summarise(part, by, measures).sort_values("dimension", kind="stable")
        panels = [
            (measure, label, factor)
            for measure, label, factor in _PANELS
            if (data[measure].fillna(0) > 0).any()
        ]
        if not panels:
            continue
        lines = _lines_by(records, data, style)
        lines.sort(key=lambda line: list(style).index(line[0]))
        variants = list(dict.fromkeys(variant for _, variant, _, _ in lines))
        # Side by side, and all within a tenth of their dimension.
        apart = min(1.045, 1.2 ** (1 / max(1, len(lines) - 1)))
        figure, axes = _grid(len(panels))
        for ax, (measure, label, factor) in zip(axes, panels, strict=True):
            shown = []
            for place, (_, variant, points, look) in enumerate(lines):
                points = points[points[measure] > 0]
                if points.empty:
                    continue
                ax.set_yscale("log")
                _bars(
                    ax,
                    points,
                    "dimension",
                    measure,
                    look,
                    factor=factor,
                    line=_line(variants.index(variant)),
                    filled=variants.index(variant) == 0,
                    shift=apart ** (place - (len(lines) - 1) / 2),
                )
                shown += list(points[measure] * factor)
            _log(ax.yaxis, shown)
            _dimensions(ax, data["dimension"], "dimension D")
            ax.set_ylabel(label)
        names = list(dict.fromkeys(name for name, _, _, _ in lines))
        _legend(figure, [*_flow_handles(names, style, True), *_variant_handles(variants)])
        yield _Drawn(
            figure,
            "dimension" if cells["family"].nunique() == 1 else f"dimension-{_file_name(family)}",
            f"NFE, time and memory against dimension: {family}",
            "Of a training step, a density and a sample of one batch on the trained flow. NFE of "
            "a discrete flow counts its conditioners. Only continuous flows evaluate networks in "
            "the backward pass. Logarithmic axes; markers of one dimension lie side by side. "
            f"{_INTERVAL} A bar that would leave a panel is cut.",
        )


_DEVIATIONS = (
    ("trace_std", "std of the trace estimate\n[nats per unit of time]"),
    ("log_prob_std", "std of log p [nats]"),
)


def _deviation_by_dimension(records: Records, style: dict[str, Look]) -> Iterable[_Drawn]:
    cells = dimension_cells(records)
    cells = cells[cells["status"] == "ok"]
    by = ["family", "flow_name", "flow", "setting_label", "setting", "dimension"]
    for (family,), part in grouped(cells, ["family"]):
        data = summarise(part, by, [measure for measure, _ in _DEVIATIONS])
        data = data[(data["trace_std"] > 0) | (data["log_prob_std"] > 0)]
        data = data.sort_values("dimension", kind="stable")
        if data.empty:
            continue
        lines = _lines_by(records, data, style)
        variants = list(dict.fromkeys(variant for _, variant, _, _ in lines))
        figure, axes = _deviation_axes()
        for ax, (measure, label) in zip(axes, _DEVIATIONS, strict=True):
            shown = []
            for _, variant, points, look in lines:
                position = variants.index(variant)
                points = points[points[measure] > 0]
                ax.set_yscale("log")
                _bars(
                    ax,
                    points,
                    "dimension",
                    measure,
                    look,
                    line=_line(position),
                    filled=position == 0,
                )
                shown += list(points[measure])
            _log(ax.yaxis, shown)
            _dimensions(ax, data["dimension"], "dimension D")
            ax.set_ylabel(label)
        names = list(dict.fromkeys(name for name, _, _, _ in lines))
        _legend(figure, [*_flow_handles(names, style, True), *_variant_handles(variants)])
        yield _Drawn(
            figure,
            "deviation-against-dimension"
            + ("" if cells["family"].nunique() == 1 else f"-{_file_name(family)}"),
            f"Deviation of the estimators against dimension: {family}",
            "Standard deviation over draws of the estimator's noise at fixed test points, root "
            "of the mean variance: of the trace at the start of the flow, and of log p(x). "
            f"Logarithmic axes. {_INTERVAL} A bar that would leave a panel is cut.",
        )


def _deviation_axes() -> tuple[Figure, list[Axes]]:
    figure = new_figure(6.4, 2.85)
    return figure, [figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)]


def _deviation_by_bottleneck(records: Records, style: dict[str, Look]) -> Iterable[_Drawn]:
    cells = bottleneck_cells(records)
    cells = cells[cells["status"] == "ok"]
    measures = [measure for measure, _ in _DEVIATIONS]
    several = cells["series"].nunique() > 1
    for number, (_, part) in enumerate(grouped(cells, ["series"]), start=1):
        by = ["flow_name", "noise", "bottleneck"]
        data = summarise(part, by, measures)
        narrow = data[data["bottleneck"].notna()].sort_values("bottleneck", kind="stable")
        full = data[data["bottleneck"].isna()]
        if not (narrow[measures].fillna(0) > 0).any(axis=None):
            continue
        noises = list(dict.fromkeys(narrow["noise"]))
        first = part.iloc[0]
        look = style[first["flow_name"]]
        figure, axes = _deviation_axes()
        for ax, (measure, label) in zip(axes, _DEVIATIONS, strict=True):
            shown = []
            ax.set_yscale("log")
            for position, noise in enumerate(noises):
                points = narrow[(narrow["noise"] == noise) & (narrow[measure] > 0)]
                _bars(
                    ax,
                    points,
                    "bottleneck",
                    measure,
                    look,
                    line=_line(position),
                    filled=position == 0,
                )
                shown += list(points[measure])
            for _, row in full[full[measure] > 0].iterrows():
                # Grey, not the flow's colour: a reference, without a bottleneck.
                position = noises.index(row["noise"]) if row["noise"] in noises else 0
                ax.axhline(row[measure], color="#555555", lw=1, ls=_line(position), zorder=1)
                shown.append(row[measure])
            _log(ax.yaxis, shown)
            _dimensions(ax, narrow["bottleneck"], "bottleneck width")
            ax.set_ylabel(label)
        handles = [
            Line2D(
                [],
                [],
                color=look[0],
                marker=look[1],
                linestyle=_line(i),
                markerfacecolor=look[0] if i == 0 else "white",
                label=f"{first['flow_name']}, {noise} noise",
            )
            for i, noise in enumerate(noises)
        ]
        handles += [
            Line2D(
                [],
                [],
                color="#555555",
                lw=1,
                ls=_line(noises.index(noise) if noise in noises else 0),
                label=f"no bottleneck, {noise} noise",
            )
            for noise in dict.fromkeys(full.loc[(full[measures] > 0).any(axis=1), "noise"])
        ]
        _legend(figure, handles)
        dimension = f"D = {first['dimension']:g}"
        label = f", {first['setting_label']}" if first["setting_label"] else ""
        missing = "" if len(full) else " No full-width flow was run under the same setting."
        yield _Drawn(
            figure,
            "deviation-against-bottleneck" + (f"-{number}" if several else ""),
            f"Deviation of the estimators against bottleneck width: {first['dataset']} "
            f"({dimension}){label}",
            "Standard deviation over draws of the estimator's noise at fixed test points, root "
            "of the mean variance. Horizontal: the same flow without a bottleneck, whose noise "
            f"has the data's dimension.{missing} Logarithmic axes. {_INTERVAL} A bar that would "
            "leave a panel is cut.",
        )


# -- NFE over training --------------------------------------------------------------------------


def _nfe_growth(records: Records, style: dict[str, Look]) -> Iterable[_Drawn]:
    ok = records.ok
    cells = ok[ok["bottleneck"].isna() & (ok["dataset_kind"] != "gaussian")]
    if cells.empty:
        cells = ok
    by_dataset: dict[str, list[tuple[str, str, pd.DataFrame]]] = {}
    for (dataset, name, flow, label, _), group in grouped(
        cells, ["dataset", "flow_name", "flow", "setting_label", "setting"]
    ):
        curve = _mean_curve(records, group)
        if curve.empty:
            continue
        forward, backward = curve["nfe_forward"].dropna(), curve["nfe_backward"].dropna()
        # A discrete flow evaluates the same networks in every step: nothing to see.
        if (len(forward) and forward.max() > forward.min()) or (backward > 0).any():
            by_dataset.setdefault(dataset, []).append(
                (name, _variant(records.short[flow], name, label), curve)
            )
    if not by_dataset:
        return
    figure, axes = _grid(len(by_dataset))
    variants = list(dict.fromkeys(v for lines in by_dataset.values() for _, v, _ in lines))
    for ax, (dataset, lines) in zip(axes, by_dataset.items(), strict=True):
        for name, variant, curve in lines:
            colour, marker = style[name]
            every = max(1, len(curve) // 6)
            for column, line, filled in (
                ("nfe_forward", "-", True),
                ("nfe_backward", "--", False),
            ):
                points = curve[["step", column]].dropna()
                ax.plot(
                    points["step"],
                    points[column],
                    color=colour,
                    marker=marker,
                    linestyle=line,
                    markerfacecolor=colour if filled else "white",
                    markersize=3.6,
                    markevery=every,
                    linewidth=1.5 if variant == variants[0] else 0.9,
                )
        ax.set_title(dataset)
        counts = [
            float(curve[["nfe_forward", "nfe_backward"]].max().max()) for _, _, curve in lines
        ]
        ax.set_ylim(0, 1.12 * max(counts))
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.set_xlabel("training step")
        ax.set_ylabel("NFE of a step")
    names = list(dict.fromkeys(name for lines in by_dataset.values() for name, _, _ in lines))
    handles = _flow_handles(names, style, False)
    handles += [
        Line2D([], [], color="#444444", ls="-", marker="o", label="forward pass"),
        Line2D([], [], color="#444444", ls="--", marker="o", mfc="white", label="backward pass"),
    ]
    _legend(figure, handles)
    yield _Drawn(
        figure,
        "nfe-over-training",
        "NFE over training",
        "Evaluations of the dynamics in a training step, mean since the validation before, then "
        "over seeds. Flows whose work does not change with training are left out.",
    )
