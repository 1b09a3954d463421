"""What dimension and bottleneck width do to quality, cost and the estimators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.report.figures.common import (
    LOG_INTERVAL,
    PANEL_HEIGHT,
    Drawn,
    Scene,
    draw_line,
    file_name,
    handles,
    legend,
    log_axis,
    log_centre_and_bounds,
    panels,
    replicates,
    whole_number_axis,
    within_reach,
)
from benchmarks.report.records import grouped
from benchmarks.report.style import Look, dashes, looks
from benchmarks.report.tables import bottleneck_cells, dimension_cells

__all__ = ["deviation_by_bottleneck", "deviation_by_dimension", "dimension"]

_PANELS = (
    ("kl_to_truth_nats", "KL to the truth [nats]", 1.0),
    ("nfe_train_forward", "NFE, forward pass", 1.0),
    ("nfe_train_backward", "NFE, backward pass", 1.0),
    ("train_step_seconds", "training step [ms]", 1e3),
    ("log_prob_seconds", "density of a batch [ms]", 1e3),
    ("sample_seconds", "sampling a batch [ms]", 1e3),
    ("peak_memory_bytes", "peak tensor memory [MiB]", 2.0**-20),
)
_DEVIATIONS = (
    ("trace_std", "std of the trace estimate\n[nats per unit of time]", 1.0),
    ("log_prob_std", "std of log p [nats]", 1.0),
)
_DEVIATION_HEIGHT = 2.5
_GREY = "#555555"
Panels = Sequence[tuple[str, str, float]]
"""Measure, label of the axis, factor to its unit."""


def dimension(scene: Scene) -> Iterable[Drawn]:
    """Distance from the truth, NFE, time and memory against dimension, a figure a family."""
    cells = scene.named(dimension_cells(scene.records))
    # Times that others' work has moved are gone from the records already.
    cells.loc[cells["cost_shared"], "peak_memory_bytes"] = float("nan")
    for (family,), part in grouped(cells, ["family"]):
        drawn = _against_dimension(scene, part, _PANELS)
        if drawn is None:
            continue
        figure, shown = drawn
        quality = "kl_to_truth_nats" in shown
        yield Drawn(
            figure,
            "dimension" if cells["family"].nunique() == 1 else f"dimension-{file_name(family)}",
            f"{'KL, ' if quality else ''}NFE, time and memory against dimension: {family}",
            f"Of a training step, a density and a sample of one batch {_whose(part)}. NFE of a "
            "discrete flow counts its conditioners. Only continuous flows evaluate networks in the "
            "backward pass. The density of a flow that estimates it is that of one probe."
            f"{_kl(part) if quality else ''} Markers of one dimension lie side by side. "
            f"{_bars(scene)}",
        )


def deviation_by_dimension(scene: Scene) -> Iterable[Drawn]:
    """Deviation of the estimators against dimension, a figure a family."""
    cells = scene.named(dimension_cells(scene.records))
    for (family,), part in grouped(cells, ["family"]):
        drawn = _against_dimension(scene, part, _DEVIATIONS, height=_DEVIATION_HEIGHT)
        if drawn is None:
            continue
        yield Drawn(
            drawn[0],
            "deviation-against-dimension"
            + ("" if cells["family"].nunique() == 1 else f"-{file_name(family)}"),
            f"Deviation of the estimators against dimension: {family}",
            "Standard deviation over draws of the estimator's noise at fixed test points, root "
            f"of the mean variance, {_whose(part)}: of the trace at the start of the flow, and of "
            f"log p(x). Markers of one dimension lie side by side. {_bars(scene)}",
        )


def _bars(scene: Scene) -> str:
    return (
        f"Error bars: {scene.interval}; one that would leave its panel is cut there. {LOG_INTERVAL}"
    )


def _whose(cells: pd.DataFrame) -> str:
    """Whether the flows were trained, for a caption."""
    trained = cells["trained"]
    if trained.all():
        return "of trained flows"
    if not trained.any():
        return "of untrained flows"
    untrained = ", ".join(dict.fromkeys(cells.loc[~trained, "contestant"]))
    return f"of trained flows, but of untrained ones for {untrained}"


def _kl(cells: pd.DataFrame) -> str:
    """How the KL divergence was computed, for a caption."""
    known = cells[cells["kl_to_truth_nats"].notna()]
    quadrature = known["kl_by_quadrature"]
    if quadrature.all():
        return " KL: by quadrature."
    if not quadrature.any():
        return " KL: mean over test points."
    where = ", ".join(f"{d:g}" for d in sorted(known.loc[quadrature, "dimension"].unique()))
    return f" KL: by quadrature for D = {where}, elsewhere the mean over test points."


def _against_dimension(
    scene: Scene, cells: pd.DataFrame, wanted: Panels, *, height: float = PANEL_HEIGHT
) -> tuple[Figure, list[str]] | None:
    """A panel for each measure that the cells have, and which these are."""
    # A line joins cells of one setting only.
    by = ["contestant", "setting", "dimension"]
    data = replicates(cells, by, [measure for measure, _, _ in wanted])
    present = [
        (measure, label, factor)
        for measure, label, factor in wanted
        if (data[measure].fillna(0) > 0).any()
    ]
    if not present:
        return None
    lines = [
        (name, points)
        for name in scene.present(data["contestant"])
        for _, points in grouped(data[data["contestant"] == name], ["setting"])
        if (points[[measure for measure, _, _ in present]] > 0).any(axis=None)
    ]
    # Side by side, and all within a tenth of their dimension.
    apart = min(1.045, 1.2 ** (1 / max(1, len(lines) - 1)))
    places = [apart ** (place - (len(lines) - 1) / 2) for place in range(len(lines))]
    figure, axes = panels(len(present), height=height)
    for ax, (measure, label, factor) in zip(axes, present, strict=True):
        whole_number_axis(ax, data["dimension"])
        _lines(
            ax,
            [
                (points.assign(dimension=points["dimension"] * place), scene.looks[name])
                for (name, points), place in zip(lines, places, strict=True)
            ],
            "dimension",
            measure,
            "dimension D",
            label,
            factor,
        )
    names = scene.present(name for name, _ in lines)
    legend(figure, handles({name: scene.looks[name] for name in names}, line=True))
    return figure, [measure for measure, _, _ in present]


def _lines(
    ax: Axes,
    lines: Sequence[tuple[pd.DataFrame, Look]],
    x: str,
    measure: str,
    x_label: str,
    label: str,
    factor: float,
    also: Iterable[float] = (),
) -> None:
    """Lines of one measure on logarithmic axes; ``also``: what else must be within the panel.

    Only a distance may be zero or below, by chance: its axis is linear where one is.
    """
    lines = [
        (points.assign(**{measure: points[measure] * factor}).dropna(subset=measure), look)
        for points, look in lines
    ]
    signed = measure == "kl_to_truth_nats" and any((p[measure] <= 0).any() for p, _ in lines)
    # Scales and limits come first: seaborn takes means on the scale that it finds.
    if not signed:
        lines = [(points[points[measure] > 0], look) for points, look in lines]
        bounds = [
            log_centre_and_bounds(group)
            for points, _ in lines
            for _, group in points.groupby(x)[measure]
        ]
        log_axis(ax.yaxis, [*also, *within_reach(bounds)])
    for points, look in lines:
        if not points.empty:
            draw_line(ax, points, x, measure, look)
    ax.set_xlabel(x_label)
    ax.set_ylabel(label)


def deviation_by_bottleneck(scene: Scene) -> Iterable[Drawn]:
    """Deviation of the estimators against bottleneck width, a figure a series."""
    cells = scene.named(bottleneck_cells(scene.records))
    measures = [measure for measure, _, _ in _DEVIATIONS]
    several = cells["series"].nunique() > 1
    for number, (_, part) in enumerate(grouped(cells, ["series"]), start=1):
        data = replicates(part, ["noise", "bottleneck"], measures)
        narrow = data[data["bottleneck"].notna()].sort_values("bottleneck", kind="stable")
        full = data[data["bottleneck"].isna()]
        if not (narrow[measures].fillna(0) > 0).any(axis=None):
            continue
        # A line is no contestant here but a kind of noise, over contestants of several widths: it
        # has the flow's own look, and the second kind that of a variant.
        noises = list(dict.fromkeys(data["noise"]))
        first = part.iloc[0]
        own = looks([first["flow_name"]])[first["flow_name"]]
        look_of = {
            noise: Look(own.colour, own.marker, filled=i == 0, dashes=dashes(i))
            for i, noise in enumerate(noises)
        }
        figure, axes = panels(len(_DEVIATIONS), height=_DEVIATION_HEIGHT)
        for ax, (measure, label, factor) in zip(axes, _DEVIATIONS, strict=True):
            reference = {
                noise: log_centre_and_bounds(group.dropna())[0]
                for noise, group in full[full[measure] > 0].groupby("noise")[measure]
            }
            for noise, value in reference.items():
                # Grey, not the flow's colour: a reference, without a bottleneck.
                ax.axhline(value, color=_GREY, lw=1, ls=look_of[noise].line, zorder=1)
            lines = [(narrow[narrow["noise"] == noise], look_of[noise]) for noise in noises]
            whole_number_axis(ax, narrow["bottleneck"])
            also = reference.values()
            _lines(ax, lines, "bottleneck", measure, "bottleneck width", label, factor, also)
        entries = handles(
            {f"{first['flow_name']}, {noise} noise": look for noise, look in look_of.items()},
            line=True,
        )
        entries += [
            Line2D([], [], color=_GREY, lw=1, ls=look_of[noise].line, label=words)
            for noise in dict.fromkeys(full.loc[(full[measures] > 0).any(axis=1), "noise"])
            for words in [f"no bottleneck, {noise} noise"]
        ]
        legend(figure, entries)
        label = f", {first['setting_label']}" if first["setting_label"] else ""
        missing = "" if len(full) else " No full-width flow was run under the same setting."
        yield Drawn(
            figure,
            "deviation-against-bottleneck" + (f"-{number}" if several else ""),
            f"Deviation of the estimators against bottleneck width: {first['dataset']} "
            f"(D = {first['dimension']:g}){label}",
            "Standard deviation over draws of the estimator's noise at fixed test points, root "
            f"of the mean variance, {_whose(part)}. Horizontal: the same flow without a "
            f"bottleneck, whose noise has the data's dimension.{missing} {_bars(scene)}",
        )
