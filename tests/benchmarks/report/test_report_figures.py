"""Figures: looks that tell contestants apart, intervals that fit their axes, what captions say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy import stats
from synthetic_records import make_record

from benchmarks.report.figures.curves import learning
from benchmarks.report.figures.densities import densities
from benchmarks.report.figures.panels import log_centre_and_bounds
from benchmarks.report.figures.scene import Drawn, Scene
from benchmarks.report.figures.sweeps import dimension
from benchmarks.report.figures.trade_offs import trade_offs
from benchmarks.report.groups import replicates
from benchmarks.report.records import gather
from benchmarks.store import Record, Store

T_2 = 4.302652729911275  # Student's t, two-sided 95 %, 2 degrees of freedom.
TWENTY = [
    library + system
    for system in ("realnvp", "maf", "rqnsf-c", "rqnsf-ar")
    for library in ("", "nflows/", "zuko/", "normflows/", "torchflows/")
]


def scene_of(directory: Path, *records: Record) -> Scene:
    store = Store(directory)
    for record in records:
        store.write(record)
        end = record.measures.get("nll_nats")
        if end is not None:
            rows = [
                {"step": step, "seconds": 0.1 * step, "validation_nll_nats": end + 1 / (1 + step)}
                for step in range(0, 50, 10)
            ]
            path = store.path(record.cell, ".curve.jsonl")
            path.write_text("\n".join(map(json.dumps, rows)))
    return Scene.of(gather([store]))


def trained(flow: str = "maf", seed: int = 0, **measures: Any) -> Record:
    """A trained flow on 8gaussians; ``more`` among the measures is of the cell."""
    more = measures.pop("more", {})
    usual = {
        "nll_nats": 3.0,
        "steps": 200,
        "train_step_seconds": 0.01,
        "log_prob_seconds": 0.002,
        "sample_seconds": 0.003,
    }
    return make_record(flow, seed=seed, measures=usual | measures, **more)


def swept(flow: str, size: int, seed: int = 0, **measures: Any) -> Record:
    more = measures.pop("more", {})
    return make_record(
        flow,
        "gaussian",
        seed,
        measures={"steps": 200, "train_step_seconds": 0.01 * size} | measures,
        dataset_options={"dimension": size},
        dataset_label=f"gaussian[dimension={size}]",
        dimension=size,
        **more,
    )


def named(drawn: Iterable[Drawn]) -> dict[str, Drawn]:
    return {item.name: item for item in drawn}


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def panel(drawn: Drawn, label: str) -> Axes:
    (found,) = [ax for ax in drawn.figure.axes if ax.get_ylabel().startswith(label)]
    return found


def look_of(line: Any) -> tuple[object, ...]:
    return (
        to_hex(line.get_color()),
        str(line.get_marker()),
        to_hex(line.get_markerfacecolor()),
        str(line.get_linestyle()),
        str(line._dash_pattern),
    )


# -- looks --------------------------------------------------------------------------------------


def test_twenty_contestants_look_different_in_one_figure_and_alike_in_all(tmp_path: Path) -> None:
    records = []
    for place, flow in enumerate(TWENTY):
        hidden = {"flow_options": {"hidden": [512]}, "flow_label": f"{flow}[hidden=512]"}
        for more in [{}, hidden] if flow.endswith("maf") else [{}]:
            score = {"nll_nats": 1 + 0.1 * place, "train_step_seconds": 0.01 + 0.001 * place}
            records.append(trained(flow, more=more, **score))
            records += [swept(flow, d, nfe_train_forward=5, more=more) for d in (2, 8)]
    scene = scene_of(tmp_path, *records)
    contestants = set(scene.looks)
    assert len(contestants) == 25
    (curves,) = learning(scene)
    (sweep,) = dimension(scene)
    cost = named(trade_offs(scene))["quality-against-training-cost"]
    for drawn in (curves, sweep, cost):
        assert contestants <= set(labels(drawn.figure))

    def in_legend(drawn: Drawn) -> dict[str, tuple[object, ...]]:
        return {
            line.get_label(): look_of(line)
            for legend in drawn.figure.legends
            for line in legend.get_lines()
            if line.get_label() in contestants
        }

    assert len(set(in_legend(curves).values())) == 25
    assert in_legend(curves) == in_legend(sweep)
    # What is in the legend is what is drawn.
    lines = [line for line in curves.figure.axes[0].get_lines() if line.get_marker() != "None"]
    assert {look_of(line) for line in lines} == set(in_legend(curves).values())
    # Points have no line: colour, marker and filling tell them apart.
    assert len({look[:3] for look in in_legend(cost).values()}) == 25
    marks = [line for line in cost.figure.axes[0].get_lines() if line.get_marker() not in "|_"]
    assert {look_of(line)[:3] for line in marks} == {look[:3] for look in in_legend(cost).values()}


# -- intervals ----------------------------------------------------------------------------------


def test_a_logarithmic_axis_has_the_interval_of_the_logarithms(tmp_path: Path) -> None:
    # The t interval of the values themselves would reach below zero.
    seconds = (0.001, 0.01, 0.1)
    records = [
        swept("maf", d, seed, train_step_seconds=s)
        for d in (2, 8)
        for seed, s in enumerate(seconds)
    ]
    (drawn,) = dimension(scene_of(tmp_path, *records))
    ax = panel(drawn, "training step")
    assert ax.get_yscale() == "log"
    (line,) = [
        line for line in ax.get_lines() if len(line.get_ydata()) == 2 and line.get_marker() == "D"
    ]
    assert line.get_ydata() == pytest.approx([10.0, 10.0])
    factor = math.exp(T_2 * math.log(10) / math.sqrt(3))
    (bars,) = ax.collections
    for low, high in (segment[:, 1] for segment in bars.get_segments()):
        assert (low, high) == pytest.approx((10 / factor, 10 * factor))
    assert "of the logarithms" in drawn.caption
    assert "geometric" in drawn.caption


def test_log_interval_against_scipy() -> None:
    values = [1.0, 2.0, 8.0, 3.0]
    centre, low, high = log_centre_and_bounds(values)
    logs = np.log(values)
    expected = stats.t.interval(0.95, 3, logs.mean(), stats.sem(logs))
    assert centre == pytest.approx(stats.gmean(values))
    assert (low, high) == pytest.approx(tuple(np.exp(expected)))
    assert math.isnan(log_centre_and_bounds([2.0])[1])


def test_points_have_intervals_in_both_directions(tmp_path: Path) -> None:
    times, scores = (0.001, 0.002, 0.004), (3.0, 3.1, 3.4)
    records = [
        trained(seed=seed, train_step_seconds=time, nll_nats=nll)
        for seed, (time, nll) in enumerate(zip(times, scores, strict=True))
    ]
    found = named(trade_offs(scene_of(tmp_path, *records)))
    ax = found["quality-against-training-cost"].figure.axes[0]
    across, along = ax.collections
    (x,), (y,) = across.get_segments(), along.get_segments()
    factor = math.exp(T_2 * math.log(2) / math.sqrt(3))
    assert x[:, 0] == pytest.approx([2 / factor, 2 * factor])
    half = T_2 * np.std(scores, ddof=1) / math.sqrt(3)
    assert y[:, 1] == pytest.approx([np.mean(scores) - half, np.mean(scores) + half])


def test_splits_repeat_and_seeds_of_one_split_are_one_value() -> None:
    cells = pd.DataFrame(
        {
            "split": [0, 0, 1, 1],
            "seed": [0, 1, 0, 1],
            "nll_nats": [1.0, 3.0, 4.0, 6.0],
            "contestant": "maf",
        }
    )
    values = replicates(cells, ["contestant"], ["nll_nats"])
    assert values["nll_nats"].to_list() == [2.0, 5.0]
    alone = replicates(cells[cells["split"] == 0], ["contestant"], ["nll_nats"])
    assert alone["nll_nats"].to_list() == [1.0, 3.0]


def test_captions_say_what_intervals_are_over(tmp_path: Path) -> None:
    def of(split: int) -> Record:
        return trained(
            nll_nats=3.0 + split,
            more={"dataset_options": {"split": split}, "dataset_label": "8gaussians"},
        )

    (one,) = learning(scene_of(tmp_path / "one", of(0)))
    assert "interval over seeds" in one.caption
    (two,) = learning(scene_of(tmp_path / "two", of(0), of(1)))
    assert "interval over splits" in two.caption
    # The band is the interval of two values: it is there although there is one seed.
    assert len(two.figure.axes[0].collections) == 1


# -- what may be shown ----------------------------------------------------------------------------


def pictures() -> dict[str, Any]:
    grid = np.linspace(-1, 1, 4)
    return {
        "grid_x": grid,
        "grid_y": grid,
        "log_density": np.zeros((4, 4)),
        "samples": np.zeros((5, 2)),
    }


def test_untrained_flows_are_in_no_figure_of_quality(tmp_path: Path) -> None:
    cost = {"train_step_seconds": 0.02, "kl_to_truth_nats": 5.0, "nll_nats": 9.0, "steps": 0}
    untrained = [swept("glow", d, more={"steps": 0}, **cost) for d in (2, 8)]
    untrained.append(trained("glow", more={"steps": 0}, steps=0))
    scene = scene_of(tmp_path, *untrained)
    store = scene.records.store_of[scene.records.cells["key"].iloc[0]]
    for record in untrained:
        store.write_arrays(record.cell, pictures())
    for make in (learning, densities, trade_offs):
        assert not list(make(scene))
    (drawn,) = dimension(scene)
    assert not any("KL" in ax.get_ylabel() for ax in drawn.figure.axes)
    assert "KL" not in drawn.title + drawn.caption
    assert "of untrained flows" in drawn.caption

    both = scene_of(
        tmp_path,
        *untrained,
        trained("maf"),
        *(swept("maf", d, kl_to_truth_nats=0.1) for d in (2, 8)),
    )
    store.write_arrays(trained("maf").cell, pictures())
    (density,) = densities(both)
    assert [ax.get_title() for ax in density.figure.axes if "maf" in ax.get_title()]
    assert not [ax.get_title() for ax in density.figure.axes if "glow" in ax.get_title()]
    (curves,) = learning(both)
    assert "glow" not in labels(curves.figure)
    (drawn,) = dimension(both)
    assert "but of untrained ones for glow" in drawn.caption
    (points,) = [line for line in panel(drawn, "KL").get_lines() if line.get_marker() in "D^"]
    assert points.get_marker() == "D"


def test_shared_cells_are_in_no_figure_of_time_or_memory(tmp_path: Path) -> None:
    shared = {"cost_shared": True, "peak_memory_bytes": 2**20, "nfe_train_forward": 8}
    records = [swept("maf", d, **shared) for d in (2, 8)]
    records.append(trained(cost_shared=True, log_prob_exact_seconds=0.1))
    scene = scene_of(tmp_path, *records)
    (drawn,) = dimension(scene)
    assert [ax.get_ylabel() for ax in drawn.figure.axes] == ["NFE, forward pass"]
    assert not list(trade_offs(scene))


@pytest.mark.parametrize(("shared", "said"), [(True, "in 1 of 2 runs"), (False, "may run beside")])
def test_shared_training_is_said(tmp_path: Path, shared: bool, said: str) -> None:
    records = [trained(seed=0, training_shared=False), trained(seed=1, training_shared=shared)]
    (drawn,) = learning(scene_of(tmp_path, *records))
    assert said in drawn.caption


@pytest.mark.parametrize(
    ("measures", "seconds", "said"),
    [
        ({"log_prob_exact_seconds": 0.05, "density_estimated": False}, 0.05, "exact density"),
        ({"density_estimated": False}, 0.002, "by one probe, although the NLL is exact"),
        ({"density_estimated": True}, 0.002, "time and NLL are both of the estimate"),
    ],
)
def test_density_cost_is_of_the_density_that_was_scored(
    tmp_path: Path, measures: dict[str, Any], seconds: float, said: str
) -> None:
    records = [trained("ffjord", trace_std=0.3, **measures), trained("maf", nll_nats=3.2)]
    drawn = named(trade_offs(scene_of(tmp_path, *records)))
    density = drawn["quality-against-density-cost"]
    assert "Of ffjord on 8gaussians: " in density.caption
    assert said in density.caption
    assert "maf" not in density.caption
    marks = [line for line in density.figure.axes[0].get_lines() if line.get_marker() not in "|_"]
    assert sorted(line.get_xdata()[0] for line in marks) == pytest.approx(
        sorted([seconds * 1e3, 2.0])
    )
    assert "probe" not in drawn["quality-against-training-cost"].caption


@pytest.mark.parametrize(
    ("quadrature", "said"),
    [
        ((True, True), "KL: by quadrature."),
        ((True, False), "by quadrature for D = 2, elsewhere the mean over test points"),
        ((None, None), "KL: mean over test points."),
    ],
)
def test_how_the_divergence_was_computed_is_said(
    tmp_path: Path, quadrature: Sequence[bool | None], said: str
) -> None:
    records = [
        swept("maf", d, kl_to_truth_nats=0.1, **({} if by is None else {"kl_by_quadrature": by}))
        for d, by in zip((2, 8), quadrature, strict=True)
    ]
    (drawn,) = dimension(scene_of(tmp_path, *records))
    assert said in drawn.caption
    assert panel(drawn, "KL").get_yscale() == "log"


def test_a_divergence_below_zero_is_shown(tmp_path: Path) -> None:
    records = [swept("maf", d, kl_to_truth_nats=value) for d, value in ((2, -0.01), (8, 0.1))]
    (drawn,) = dimension(scene_of(tmp_path, *records))
    ax = panel(drawn, "KL")
    assert ax.get_yscale() == "linear"
    (line,) = [line for line in ax.get_lines() if line.get_marker() == "D"]
    assert list(line.get_ydata()) == [-0.01, 0.1]
