"""Test quality against what a step, a density or a sample costs."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from benchmarks import measures
from benchmarks.measures import Column
from benchmarks.report.figures.panels import (
    LOG_INTERVAL,
    among_others,
    centre_and_bounds,
    handles,
    legend,
    log_axis,
    log_centre_and_bounds,
    out_of_sight,
    panels,
    within_reach,
)
from benchmarks.report.figures.scene import Drawn, Scene
from benchmarks.report.groups import grouped, replicates

__all__ = ["trade_offs", "with_exact_densities"]

_COSTS = (
    ("train_step_seconds", "quality-against-training-cost"),
    ("log_prob_seconds", "quality-against-density-cost"),
    ("sample_seconds", "quality-against-sampling-cost"),
)
_EXACT = "log_prob_exact_seconds"


def trade_offs(scene: Scene) -> Iterable[Drawn]:
    """A figure for each cost, of the trained flows, a panel a data set."""
    cells = scene.named(scene.records.cells)
    cells = cells[cells["trained"] & cells["nll_nats"].notna()]
    for name, files in _COSTS:
        cost = measures.column(name)
        timed = cells[cells[name].notna()]
        # Families sweep the dimension; they are shown only if there is nothing else.
        real = timed[timed["dataset_kind"] != "family"]
        timed, said = timed if real.empty else real, ""
        if name == "log_prob_seconds":
            timed, said = with_exact_densities(timed)
        if not timed.empty:
            yield _figure(scene, timed, cost, files, said)


def with_exact_densities(cells: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The cells with the time of the density that their NLL is of, and what the caption says.

    Where a flow's density is estimated, ``log_prob_seconds`` is that of one probe; up to 64
    dimensions the NLL is exact, and so is ``log_prob_exact_seconds``.
    """
    times = cells["log_prob_seconds"].copy()
    exact = cells[_EXACT] if _EXACT in cells else pd.Series(math.nan, index=cells.index)
    estimated = pd.Series(False, index=cells.index)
    if "density_estimated" in cells:
        estimated = cells["density_estimated"].map(lambda value: value is True or value == 1)
    how: dict[str, list[str]] = {}
    for (dataset, name), group in grouped(cells, ["dataset", "contestant"]):
        rows = group.index
        if estimated[rows].any():
            words = "time and NLL are both of the estimate by one probe"
        elif exact[rows].notna().all():
            times[rows] = exact[rows]
            words = "the time of the exact density, as the NLL is exact"
        elif _has_probes(group):
            words = (
                "the time of the estimate by one probe, although the NLL is exact, which takes "
                "longer"
            )
        else:
            continue
        how.setdefault(words, []).append(f"{name} on {dataset}")
    said = "".join(f" Of {', '.join(whose)}: {words}." for words, whose in how.items())
    return cells.assign(log_prob_seconds=times), said


def _has_probes(group: pd.DataFrame) -> bool:
    """Whether the density of a contestant is estimated when nobody asks for an exact one."""
    if (group[["trace_std", "log_prob_std"]] > 0).any(axis=None):
        return True
    # Every flow with an estimator has the option which; "exact" is the one without noise.
    return "flow.trace" in group and bool(
        (group["flow.trace"].notna() & (group["flow.trace"] != "exact")).any()
    )


def _figure(scene: Scene, cells: pd.DataFrame, cost: Column, files: str, said: str) -> Drawn:
    datasets = list(dict.fromkeys(cells["dataset"]))
    figure, axes = panels(len(datasets))
    above: list[str] = []
    for ax, dataset in zip(axes, datasets, strict=True):
        within = cells[cells["dataset"] == dataset]
        image = within["bits_per_dim"].notna().all()
        measure = measures.column("bits_per_dim" if image else "nll_nats")
        data = replicates(within, ["contestant"], [measure.name, cost.name])
        points = [
            (
                log_centre_and_bounds(group[cost.name].dropna() * cost.factor),
                centre_and_bounds(group[measure.name]),
                scene.looks[contestant],
                contestant,
            )
            for (contestant,), group in grouped(data, ["contestant"])
        ]
        log_axis(ax.xaxis, within_reach([time for time, *_ in points]))
        above += [f"{item} on {dataset}" for item in among_others(ax, points)]
        ax.set_title(dataset)
        ax.set_xlabel(cost.label)
        ax.set_ylabel(measure.label)
    present = scene.present(cells["contestant"])
    legend(figure, handles({name: scene.looks[name] for name in present}, line=False))
    return Drawn(
        figure,
        files,
        f"Test quality against cost: {cost.axis}",
        "Down and to the left is better. Cost: median call of the trained flow with the device "
        f"to itself, one batch.{said} Error bars: {scene.interval}; one that would leave its panel "
        f"is cut there. {LOG_INTERVAL}{out_of_sight(above)}",
    )
