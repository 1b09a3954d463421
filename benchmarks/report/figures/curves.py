"""What happens while a flow is trained: its validation NLL, and its network evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from benchmarks.report.figures.densities import folded
from benchmarks.report.figures.panels import draw_line, handles, legend, log_axis, panels
from benchmarks.report.figures.scene import Drawn, Scene
from benchmarks.report.groups import grouped, replicate_of
from benchmarks.report.records import Records
from benchmarks.report.style import told_apart

__all__ = ["curve_of", "frame", "learning", "nfe_against_loss", "nfe_growth"]

_COLUMNS = ("seconds", "train_nll_nats", "validation_nll_nats", "nfe_forward", "nfe_backward")
Curves = dict[str, dict[str, pd.DataFrame]]
"""By data set and contestant."""


def curve_of(records: Records, cells: pd.DataFrame) -> pd.DataFrame:
    """The curves of one contestant on one data set, at the steps that all of them reached.

    Returns:
        A row a step and replicate, columns ``step, replicate, seconds, train_nll_nats,
        validation_nll_nats, nfe_forward, nfe_backward``; ``seconds`` is the geometric mean over
        replicates. Empty if there is no curve.
    """
    curves = []
    for key, replicate in zip(cells["key"], replicate_of(cells), strict=True):
        curve = records.store_of[key].curve(key)
        if curve.empty or "step" not in curve:
            continue
        missing = {name: np.nan for name in _COLUMNS if name not in curve}
        curve = curve.assign(**missing)[["step", *_COLUMNS]].astype(float)
        curve = curve.replace([np.inf, -np.inf], np.nan).drop_duplicates("step", keep="last")
        curves.append(curve.assign(replicate=replicate))
    if not curves:
        return pd.DataFrame(columns=["step", "replicate", *_COLUMNS])
    steps = set.intersection(*(set(curve["step"]) for curve in curves))
    whole = pd.concat(curves)
    whole = whole[whole["step"].isin(steps)]
    whole = whole.groupby(["step", "replicate"], as_index=False)[list(_COLUMNS)].mean()
    # The replicates of a step share one place on a logarithmic axis.
    with np.errstate(divide="ignore"):
        logs = np.log(whole["seconds"])
    return whole.assign(seconds=np.exp(logs.groupby(whole["step"]).transform("mean")))


def _curves(scene: Scene, cells: pd.DataFrame) -> Curves:
    found: Curves = {}
    for (dataset, name), group in grouped(cells, ["dataset", "contestant"]):
        curve = curve_of(scene.records, group)
        if not curve.empty:
            found.setdefault(dataset, {})[name] = curve
    return found


def _real(scene: Scene) -> pd.DataFrame:
    """The trained cells; families, which sweep the dimension, only if there is nothing else."""
    cells = scene.named(scene.records.cells)
    cells = cells[cells["trained"]]
    other = cells[cells["dataset_kind"] != "family"]
    return cells if other.empty else other


# -- NLL against time ---------------------------------------------------------------------------


def learning(scene: Scene) -> Iterable[Drawn]:
    """Validation NLL against training time, a panel a data set."""
    cells = _real(scene)
    curves: Curves = {}
    for dataset, lines in _curves(scene, cells).items():
        for name, curve in lines.items():
            if curve["validation_nll_nats"].notna().any():
                curves.setdefault(dataset, {})[name] = curve
    if not curves:
        return
    figure, axes = panels(len(curves), height=2.3)
    for ax, (dataset, lines) in zip(axes, curves.items(), strict=True):
        means = []
        for name in scene.present(lines):
            curve = lines[name]
            curve = curve[curve["seconds"] > 0].dropna(subset="validation_nll_nats")
            if curve.empty:
                continue
            draw_line(ax, curve, "seconds", "validation_nll_nats", scene.looks[name], band=True)
            means.append(curve.groupby("step")[["seconds", "validation_nll_nats"]].mean())
        group = cells[cells["dataset"] == dataset]
        entropy, gaussian = (
            float(group[column].mean()) for column in ("truth_entropy_nats", "gaussian_nll_nats")
        )
        frame(ax, [mean["validation_nll_nats"] for mean in means], entropy, gaussian)
        # From where the first curve enters the panel.
        top = ax.get_ylim()[1]
        log_axis(
            ax.xaxis,
            [s for mean in means for s in mean.loc[mean["validation_nll_nats"] <= top, "seconds"]],
        )
        ax.set_title(dataset)
        ax.set_xlabel("training time [s]")
        ax.set_ylabel("validation NLL [nats]")
    references = []
    if cells["truth_entropy_nats"].notna().any():
        references.append(Line2D([], [], color="#222222", ls="--", lw=1, label="entropy (optimum)"))
    if cells["gaussian_nll_nats"].notna().any():
        references.append(Line2D([], [], color="#777777", ls=":", lw=1.2, label="full Gaussian"))
    names = scene.present(name for lines in curves.values() for name in lines)
    looks = {name: scene.looks[name] for name in names}
    legend(figure, [*handles(looks, line=True), *references])
    yield Drawn(
        figure,
        "nll-against-time",
        "Validation NLL against wall time",
        "Lines: mean over seeds, at the steps that every seed reached; band: "
        f"{scene.interval}. Time: seconds of training, evaluation apart, geometric mean over "
        f"seeds. {_company(cells)} The start of a curve may lie above the panel.",
    )


def _company(cells: pd.DataFrame) -> str:
    """What is known of other work on the cores while the flows were trained."""
    shared = 0
    if "training_shared" in cells:
        shared = int(cells["training_shared"].map(lambda value: value is True or value == 1).sum())
    if shared:
        return (
            f"Training shared its cores with others' work in {shared} of {len(cells)} runs: the "
            "cost table, not this axis, ranks speed."
        )
    return "Training may run beside other cells: the cost table, not this axis, ranks speed."


def frame(ax: Axes, curves: Sequence[pd.Series[float]], entropy: float, gaussian: float) -> None:
    """Limits that show where curves end up, and at least the last two thirds of each: untrained
    flows start hundreds of nats above.
    """
    curves = [nll.dropna() for nll in curves]
    ends = [float(nll.min()) for nll in curves]
    later = [float(nll.iloc[len(nll) // 3 :].max()) for nll in curves]
    low = min([*ends, *([entropy] if math.isfinite(entropy) else [])])
    high = max(ends)
    spread = max(high - low, 0.02 * max(1.0, abs(low)))
    top = max(*later, min(max(float(nll.iloc[0]) for nll in curves), high + 2.5 * spread))
    if math.isfinite(gaussian):
        if gaussian < high + 6 * spread:
            top = max(top, gaussian + 0.3 * spread)
        ax.axhline(gaussian, color="#777777", ls=":", lw=1.2, zorder=1)
    if math.isfinite(entropy):
        ax.axhline(entropy, color="#222222", ls="--", lw=1, zorder=1)
    room = 0.06 * (top - low)
    ax.set_ylim(low - room, top + room)


# -- NFE over training --------------------------------------------------------------------------

_PASSES = (("nfe_forward", "NFE, forward pass"), ("nfe_backward", "NFE, backward pass"))


def _of_changing_work(scene: Scene, cells: pd.DataFrame) -> Curves:
    """The curves of flows whose work changes with training, or has a backward pass."""
    curves: Curves = {}
    for dataset, lines in _curves(scene, cells).items():
        for name, curve in lines.items():
            forward, backward = curve["nfe_forward"].dropna(), curve["nfe_backward"].dropna()
            # A discrete flow evaluates the same networks in every step: nothing to see.
            if (len(forward) and forward.max() > forward.min()) or (backward > 0).any():
                curves.setdefault(dataset, {})[name] = curve
    return curves


def nfe_growth(scene: Scene) -> Iterable[Drawn]:
    """NFE of a training step over training, two panels a data set: the two passes."""
    cells = _real(scene)
    cells = cells[cells["bottleneck"].isna()] if cells["bottleneck"].isna().any() else cells
    curves = _of_changing_work(scene, cells)
    if not curves:
        return
    # The two passes of a data set lie beside each other.
    figure, axes = panels(2 * len(curves), columns=2 if len(curves) in (1, 3) else 4)
    for position, (dataset, lines) in enumerate(curves.items()):
        pair = axes[2 * position : 2 * position + 2]
        highest = max(float(c[["nfe_forward", "nfe_backward"]].max().max()) for c in lines.values())
        for ax, (column, words) in zip(pair, _PASSES, strict=True):
            for name in scene.present(lines):
                points = lines[name].dropna(subset=column)
                if points.empty:
                    continue
                draw_line(ax, points, "step", column, scene.looks[name], band=True)
            ax.set_title(folded(str(dataset)))
            # One scale for the two passes of a data set.
            ax.set_ylim(0, 1.12 * highest)
            ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
            ax.set_xlabel("training step")
            ax.set_ylabel(words)
    names = scene.present(name for lines in curves.values() for name in lines)
    legend(figure, handles({name: scene.looks[name] for name in names}, line=True))
    yield Drawn(
        figure,
        "nfe-over-training",
        "NFE over training",
        "Evaluations of the dynamics in a training step, mean since the validation before, then "
        f"over seeds; band: {scene.interval}. Flows whose work does not change with training are "
        "left out.",
    )


# -- NFE against the loss -----------------------------------------------------------------------


def nfe_against_loss(scene: Scene) -> Iterable[Drawn]:
    """Validation loss against all NFE of a training step, over training, a panel a data set."""
    cells = _real(scene)
    curves = _of_changing_work(scene, cells)
    if not curves:
        return
    names = scene.present(name for lines in curves.values() for name in lines)
    looks = told_apart({name: scene.looks[name] for name in names})
    recoloured = any(look != scene.looks[name] for name, look in looks.items())
    said = " All are of one system: here a colour is a variant's." if recoloured else ""
    figure, axes = panels(len(curves), height=2.5)
    for ax, (dataset, lines) in zip(axes, curves.items(), strict=True):
        mine = cells[cells["dataset"] == dataset]
        image = bool((mine["dataset_kind"] == "image").all())
        scale = 1 / (float(mine["dimension"].iloc[0]) * math.log(2)) if image else 1.0
        ends = []
        for name in scene.present(lines):
            look, curve = looks[name], lines[name]
            curve = curve.assign(
                nfe=curve["nfe_forward"] + curve["nfe_backward"].fillna(0),
                loss=curve["validation_nll_nats"] * scale,
            ).dropna(subset=["nfe", "loss"])
            if curve.empty:
                continue
            # A way through the plane, no function of x: in the order of training.
            sns.lineplot(
                data=curve.sort_values(["replicate", "step"], kind="stable"),
                x="nfe",
                y="loss",
                units="replicate",
                estimator=None,
                sort=False,
                ax=ax,
                color=look.colour,
                linestyle=look.line,
                linewidth=1,
                marker=look.marker,
                markersize=3.6 * look.size,
                markerfacecolor=look.face,
                markeredgecolor=look.colour,
                legend=False,
            )
            last = curve[curve["step"] == curve["step"].max()]
            ax.plot(
                last["nfe"],
                last["loss"],
                linestyle="none",
                color=look.colour,
                marker=look.marker,
                markersize=6.6 * look.size,
                markerfacecolor=look.face,
            )
            ends.append(curve.groupby("step")["loss"].mean())
        frame(ax, ends, math.nan, math.nan)
        ax.set_xlim(left=0)
        ax.set_title(dataset)
        ax.set_xlabel("NFE of a training step")
        ax.set_ylabel("validation bits/dim" if image else "validation NLL [nats]")
    legend(figure, handles(looks, line=True))
    yield Drawn(
        figure,
        "nfe-against-loss",
        "Work of a training step against the loss",
        "Each line is one training, from its first validation to the last, the large marker. "
        "Across: evaluations of the dynamics in a training step, both passes and all blocks, mean "
        "since the validation before. Up: the validation loss then; the start of a line may lie "
        f"above the panel. Flows whose work does not change with training are left out.{said}",
    )
