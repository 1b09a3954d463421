"""What dimension and bottleneck width do to quality, cost and the estimators."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from matplotlib.lines import Line2D

from benchmarks import measures
from benchmarks.report.figures.against import against, bars, lines, whose
from benchmarks.report.figures.panels import (
    file_name,
    handles,
    legend,
    log_centre_and_bounds,
    panels,
    whole_number_axis,
)
from benchmarks.report.figures.scene import Drawn, Scene
from benchmarks.report.groups import grouped, replicates
from benchmarks.report.style import Look, dashes, looks
from benchmarks.report.sweeps import bottleneck_cells, dimension_cells

__all__ = ["deviation_by_bottleneck", "deviation_by_dimension", "dimension"]

_PANELS = (
    "kl_to_truth_nats",
    "nfe_train_forward",
    "nfe_train_backward",
    "train_step_seconds",
    "log_prob_seconds",
    "sample_seconds",
    "peak_memory_bytes",
)
_DEVIATIONS = ("trace_std", "log_prob_std")
_DEVIATION_HEIGHT = 2.5
_DIMENSION = "dimension D"
_GREY = "#555555"


def dimension(scene: Scene) -> Iterable[Drawn]:
    """Distance from the truth, NFE, time and memory against dimension, a figure a family."""
    cells = scene.named(dimension_cells(scene.records))
    # Times that others' work has moved are gone from the records already.
    cells.loc[cells["cost_shared"], "peak_memory_bytes"] = float("nan")
    for (family,), part in grouped(cells, ["family"]):
        drawn = against(scene, part, "dimension", _PANELS, x_label=_DIMENSION)
        if drawn is None:
            continue
        figure, shown = drawn
        quality = "kl_to_truth_nats" in shown
        yield Drawn(
            figure,
            "dimension" if cells["family"].nunique() == 1 else f"dimension-{file_name(family)}",
            f"{'KL, ' if quality else ''}NFE, time and memory against dimension: {family}",
            f"Of a training step, a density and a sample of one batch {whose(part)}. NFE of a "
            "discrete flow counts its conditioners. Only continuous flows evaluate networks in the "
            "backward pass. The density of a flow that estimates it is that of one probe."
            f"{_kl(part) if quality else ''} Markers of one dimension lie side by side. "
            f"{bars(scene)}",
        )


def deviation_by_dimension(scene: Scene) -> Iterable[Drawn]:
    """Deviation of the estimators against dimension, a figure a family."""
    cells = scene.named(dimension_cells(scene.records))
    for (family,), part in grouped(cells, ["family"]):
        drawn = against(
            scene,
            part,
            "dimension",
            _DEVIATIONS,
            x_label=_DIMENSION,
            height=_DEVIATION_HEIGHT,
        )
        if drawn is None:
            continue
        yield Drawn(
            drawn[0],
            "deviation-against-dimension"
            + ("" if cells["family"].nunique() == 1 else f"-{file_name(family)}"),
            f"Deviation of the estimators against dimension: {family}",
            "Standard deviation over draws of the estimator's noise at fixed test points, root "
            f"of the mean variance, {whose(part)}: of the trace at the start of the flow, and of "
            f"log p(x). Markers of one dimension lie side by side. {bars(scene)}",
        )


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


def deviation_by_bottleneck(scene: Scene) -> Iterable[Drawn]:
    """Deviation of the estimators against bottleneck width, a figure a series."""
    cells = scene.named(bottleneck_cells(scene.records))
    several = cells["series"].nunique() > 1
    for number, (_, part) in enumerate(grouped(cells, ["series"]), start=1):
        data = replicates(part, ["noise", "bottleneck"], _DEVIATIONS)
        narrow = data[data["bottleneck"].notna()].sort_values("bottleneck", kind="stable")
        full = data[data["bottleneck"].isna()]
        if not (narrow[list(_DEVIATIONS)].fillna(0) > 0).any(axis=None):
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
        for ax, measure in zip(axes, _DEVIATIONS, strict=True):
            reference = {
                noise: log_centre_and_bounds(group.dropna())[0]
                for noise, group in full[full[measure] > 0].groupby("noise")[measure]
            }
            for noise, value in reference.items():
                # Grey, not the flow's colour: a reference, without a bottleneck.
                ax.axhline(value, color=_GREY, lw=1, ls=look_of[noise].line, zorder=1)
            each = [(narrow[narrow["noise"] == noise], look_of[noise]) for noise in noises]
            whole_number_axis(ax, narrow["bottleneck"])
            column = measures.column(measure)
            lines(ax, each, "bottleneck", column, "bottleneck width", also=reference.values())
        entries = handles(
            {f"{first['flow_name']}, {noise} noise": look for noise, look in look_of.items()},
            line=True,
        )
        entries += [
            Line2D([], [], color=_GREY, lw=1, ls=look_of[noise].line, label=words)
            for noise in dict.fromkeys(full.loc[(full[list(_DEVIATIONS)] > 0).any(axis=1), "noise"])
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
            f"of the mean variance, {whose(part)}. Horizontal: the same flow without a "
            f"bottleneck, whose noise has the data's dimension.{missing} {bars(scene)}",
        )
