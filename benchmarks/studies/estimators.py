"""Estimators of the trace at equal Jacobian products and per second, and whether it matters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from benchmarks.measures.estimators import PRODUCTS, WORDS
from benchmarks.report.figures import Drawn, Scene
from benchmarks.report.figures.panels import (
    LOG_INTERVAL,
    draw_line,
    file_name,
    handles,
    legend,
    log_axis,
    log_centre_and_bounds,
    panels,
    spread,
    whole_number_axis,
    within_reach,
)
from benchmarks.report.findings import in_words
from benchmarks.report.groups import grouped, plain, values_by_seed, without_options
from benchmarks.report.notes import machine_notes, option_notes, replication_notes, shared_notes
from benchmarks.report.records import Records
from benchmarks.report.statistics import Interval, paired_difference, t_interval
from benchmarks.report.style import Look, dashes
from benchmarks.report.table import Entry, Section, Table, number
from benchmarks.studies.base import Study

_SMALL = """
seeds = [0, 1, 2]

[budget]
steps = 100
batch_size = 256
learning_rate = 1e-2
validate_every = 20
validation_rows = 500

[[study]]
name = "variance"
flows = [{ name = "ffjord", atol = 1e-3, rtol = 1e-3 }]
datasets = [
    { name = "gaussian", dimension = [2, 8, 32, 128], test_rows = 2000 },
    { name = "mixture", dimension = [8, 32, 128], test_rows = 2000 },
]
measures = ["estimators"]

# Its noise may be drawn in a space of eight dimensions.
[[study]]
name = "bottleneck"
flows = [{ name = "ffjord", atol = 1e-3, rtol = 1e-3, hidden = [64], bottleneck = 8 }]
datasets = [{ name = "mixture", dimension = [32, 128], test_rows = 2000 }]
measures = ["estimators"]

[[study]]
name = "equal-steps"
flows = [{ name = "ffjord", atol = 1e-3, rtol = 1e-3, trace = ["hutchinson", "exact"] }]
datasets = [
    { name = "power", rows = 20000, test_rows = 2469 },
    { name = "mixture", dimension = 16, test_rows = 2000 },
]
measures = ["quality", "gradient"]
budget = { steps = 150 }

[[study]]
name = "equal-time"
flows = [{ name = "ffjord", atol = 1e-3, rtol = 1e-3, trace = ["hutchinson", "exact"] }]
datasets = [
    { name = "power", rows = 20000, test_rows = 2469 },
    { name = "mixture", dimension = 16, test_rows = 2000 },
]
measures = ["quality", "gradient"]
budget = { steps = 100000, seconds = 8.0 }
"""

_FULL = """
seeds = [0, 1, 2]

[budget]
steps = 2000
batch_size = 256
learning_rate = 1e-3
validate_every = 200
validation_rows = 2000

[[study]]
name = "variance"
flows = [{ name = "ffjord", hidden = [256, 256, 256] }]
datasets = [
    { name = "gaussian", dimension = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] },
    { name = "mixture", dimension = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] },
]
measures = ["estimators"]

[[study]]
name = "bottleneck"
flows = [{ name = "ffjord", hidden = [256], bottleneck = 8 }]
datasets = [{ name = "mixture", dimension = [16, 32, 64, 128, 256, 512, 1024] }]
measures = ["estimators"]

[[study]]
name = "equal-steps"
flows = [{ name = "ffjord-power", trace = ["hutchinson", "exact"] }]
datasets = ["power"]
measures = ["quality", "gradient"]
budget = { steps = 20000, batch_size = 1000 }

[[study]]
name = "equal-steps-mixture"
flows = [{ name = "ffjord", hidden = [256, 256, 256], trace = ["hutchinson", "exact"] }]
datasets = [{ name = "mixture", dimension = [16, 64] }]
measures = ["quality", "gradient"]
budget = { steps = 20000 }

[[study]]
name = "equal-time"
flows = [{ name = "ffjord-power", trace = ["hutchinson", "exact"] }]
datasets = ["power"]
measures = ["quality", "gradient"]
budget = { steps = 1000000, seconds = 3600.0, batch_size = 1000 }

[[study]]
name = "equal-time-mixture"
flows = [{ name = "ffjord", hidden = [256, 256, 256], trace = ["hutchinson", "exact"] }]
datasets = [{ name = "mixture", dimension = [16, 64] }]
measures = ["quality", "gradient"]
budget = { steps = 1000000, seconds = 1800.0 }
"""

_OF_ESTIMATES = [
    *("key", "contestant", "family", "dimension", "seed", "estimator", "products"),
    *("variance", "seconds", "exact_seconds", "one_probe"),
]
# Of a variance over that of one probe: a hundred units of rounding of a float32, squared.
_ROUNDING = 1e-10


def estimates(records: Records) -> pd.DataFrame:
    """What was measured of each estimator, a row a cell, estimator and number of products.

    Returns:
        Columns ``key, contestant, family, dimension, seed, estimator, products, variance,
        seconds, exact_seconds``, the last two NaN where others used the device.
    """
    cells = records.ok.sort_values("dimension", kind="stable")
    # What bounds the training of other cells of the study is none of these contestants' names.
    names = records.names(cells, ("budget.steps", "budget.seconds"))
    rows = [
        {
            "key": cell["key"],
            "contestant": name,
            "family": cell["dataset_name"],
            "dimension": cell["dimension"],
            "seed": cell["seed"],
            "estimator": estimator,
            "products": products,
            "variance": cell[f"trace_variance_{estimator}_{products}"],
            "seconds": cell[f"trace_estimate_seconds_{estimator}_{products}"],
            "exact_seconds": cell["trace_exact_seconds"],
            "one_probe": cell["trace_variance_gaussian_1"],
        }
        for name, (_, cell) in zip(names, cells.iterrows(), strict=True)
        for estimator in WORDS
        for products in PRODUCTS
    ]
    found = pd.DataFrame(rows, columns=_OF_ESTIMATES)
    found = found[found["variance"].notna()]
    # What rounding leaves of nothing is no variance.
    exact = found["variance"] <= _ROUNDING * found.pop("one_probe")
    found = found.assign(variance=found["variance"].mask(exact, 0.0))
    return found.assign(
        # Over Gaussian probes of the same cell: as many as there are products, and one.
        at_equal_products=_over(found, found["variance"], ["key", "products"]),
        per_second=_over(found, found["variance"] * found["seconds"], ["key"]),
    )


def _over(found: pd.DataFrame, value: pd.Series[float], keys: list[str]) -> pd.Series[float]:
    """Values over those of Gaussian probes of the same keys, of the fewest where there are more."""
    reference = found["estimator"] == "gaussian"
    base = value[reference].groupby([found.loc[reference, key] for key in keys]).first()
    index = pd.MultiIndex.from_frame(found[keys]) if len(keys) > 1 else found[keys[0]]
    return pd.Series(value.to_numpy() / base.reindex(index).to_numpy(), index=found.index)


def _logs(values: pd.Series[float]) -> Interval:
    """The t interval of the logarithms; of a zero, which has none, no interval."""
    if (values == 0).all() and len(values):
        return Interval(-math.inf, math.nan, len(values))
    return t_interval(list(np.log(values[values > 0])))


def _in_figures(value: float) -> str:
    """Three figures, or a power of ten.

    Example:
        >>> _in_figures(0.5), _in_figures(0.00000342)
        ('0.500', '3.4e-6')
    """
    return (
        number(value).text if value >= 1e-3 or value == 0 else f"{value:.1e}".replace("e-0", "e-")
    )


def _ratio_entry(found: Interval) -> Entry:
    """A geometric mean with the ends of its interval."""
    if found.n == 0:
        return number(math.nan)
    text = _in_figures(math.exp(found.mean))
    if not math.isfinite(found.half_width):
        return Entry(text, numeric=True)
    ends = [_in_figures(math.exp(found.mean + side * found.half_width)) for side in (-1, 1)]
    return Entry(text, remark=f"{ends[0]} to {ends[1]}", numeric=True)


def _times(found: Interval) -> str:
    """A geometric mean with its interval, in words."""
    if found.mean == -math.inf:
        return "0, exact to rounding,"
    entry = _ratio_entry(found)
    over = f"{entry.remark}, {found.n} seeds" if entry.remark else "one seed: no interval"
    return f"{entry.text} ({over})"


def table(records: Records) -> Iterator[Table]:
    """Variance at equal products, and variance times seconds, over those of Gaussian probes."""
    found = estimates(records)
    if found.empty:
        return
    cells = records.ok
    measured = cells[cells["trace_variance_gaussian_1"].notna()]
    counts = [count for count in PRODUCTS if (found["products"] == count).any()]
    for name, title, note in (
        (
            "at_equal_products",
            "Variance of the trace's estimate over that of Gaussian probes, at equal Jacobian products",
            "Above 1: Gaussian probes, as many as there are products, vary less.",
        ),
        (
            "per_second",
            "Variance times seconds over that of one Gaussian probe",
            "Below 1: the same variance in less time than by more Gaussian probes, of which each "
            "takes the time of the first. With many products a batch's are computed together.",
        ),
    ):
        if not found[name].notna().any():
            continue
        sections, data = [], []
        for (contestant, family, dimension), part in grouped(
            found, ["contestant", "family", "dimension"]
        ):
            lines = []
            for (estimator,), group in grouped(part, ["estimator"]):
                row: dict[str, object] = {
                    "contestant": contestant,
                    "family": family,
                    "dimension": dimension,
                    "estimator": estimator,
                }
                line = [Entry(WORDS[estimator])]
                for count in counts:
                    mine = group[group["products"] == count]
                    logs = _logs(mine[name].dropna())
                    line.append(_ratio_entry(logs))
                    row |= {
                        f"{name}_{count}": math.exp(logs.mean),
                        f"{name}_{count}_log_half_width": logs.half_width,
                        f"variance_{count}": mine["variance"].mean(),
                        f"seconds_{count}": mine["seconds"].mean(),
                        f"seeds_{count}": logs.n,
                    }
                lines.append(line)
                data.append(row)
            sections.append(Section(f"{contestant} on {family}, D = {dimension:g}", lines))
        yield Table(
            name=f"estimators-{name.replace('_', '-')}",
            title=title,
            columns=["estimator", *(f"{count} product{'s' * (count > 1)}" for count in counts)],
            sections=sections,
            notes=[
                f"{note} Over draws of the noise at fixed test points and the start of the "
                "trained flow, mean of the points; geometric mean over seeds, in brackets the 95 % "
                "t interval of the logarithms. 0: exact to rounding; a dash: the products do not "
                "suffice, or are as many as the exact trace takes.",
                "Hutch++ spends a third each on its sketch, on the trace of its range, and on "
                "probes of the rest; the control variate one on the mean matrix of the batch, more "
                "where that has more dimensions than the batch has rows.",
                *(shared_notes(measured) if name == "per_second" else []),
                *(machine_notes(measured) if name == "per_second" else []),
                *option_notes(records, measured),
            ],
            data=pd.DataFrame(data),
        )


# -- the figure ---------------------------------------------------------------------------------

_COLOURS = {
    "gaussian": "#000000",
    "rademacher": "#0072B2",
    "bottleneck_gaussian": "#E69F00",
    "bottleneck_rademacher": "#D55E00",
    "hutch_plus_plus": "#009E73",
    "control_variate": "#CC79A7",
}
_LOOKS = {
    name: Look(_COLOURS[name], "os^vDp"[place], dashes=dashes(place))
    for place, name in enumerate(WORDS)
}


def figure(scene: Scene) -> Iterable[Drawn]:
    """Variance against Jacobian products and against seconds, a column a dimension."""
    found = estimates(scene.records)
    found = found[found["variance"] > 0]
    for (contestant, name), part in grouped(found, ["contestant", "family"]):
        sizes = spread(part.loc[part["products"] > 1, "dimension"], most=4)
        if not sizes:
            continue
        timed = part["seconds"].notna().any()
        drawing, axes = panels(len(sizes) * (2 if timed else 1), columns=len(sizes))
        for place, size in enumerate(sizes):
            here = part[part["dimension"] == size]
            _panel(axes[place], here, "products")
            axes[place].set_title(f"D = {size:g}")
            if not timed:
                continue
            ax = axes[len(sizes) + place]
            _panel(ax, here, "seconds")
            seconds = here.drop_duplicates("key")["exact_seconds"].dropna()
            if len(seconds):
                ax.axvline(1e3 * log_centre_and_bounds(seconds)[0], color="#777777", ls=":", lw=1.2)
        present = [estimator for estimator in WORDS if (part["estimator"] == estimator).any()]
        entries = handles({WORDS[each]: _LOOKS[each] for each in present}, line=True)
        if timed:
            entries.append(Line2D([], [], color="#777777", ls=":", lw=1.2, label="exact trace"))
        legend(drawing, entries)
        yield Drawn(
            drawing,
            file_name(f"estimators {contestant} {name}"),
            f"Variance of estimators of the trace: {contestant} on {name}",
            "Over draws of the noise at fixed test points and the start of the trained flow, mean "
            "of the points: above against the Jacobian products a row"
            + (
                ", below against the time of an estimate for a batch, geometric mean over seeds. "
                "Dotted: the time of the exact trace, whose variance is zero; right of it nothing "
                "else is worth while."
                if timed
                else "."
            )
            + " Estimates that are exact are not drawn. "
            f"Error bars: {scene.interval}. {LOG_INTERVAL}",
        )


def _panel(ax: Axes, points: pd.DataFrame, x: str) -> None:
    points = points.copy()
    if x == "seconds":
        points = points[points["seconds"] > 0]
        if points.empty:
            return
        # The seeds of a point share one place.
        logs = np.log(1e3 * points["seconds"])
        keys = [points["estimator"], points["products"]]
        points["seconds"] = np.exp(logs.groupby(keys).transform("mean"))
        log_axis(ax.xaxis, points["seconds"])
        ax.set_xlabel("time of an estimate [ms]")
    else:
        whole_number_axis(ax, PRODUCTS)
        ax.set_xlabel("Jacobian products")
    bounds = [
        log_centre_and_bounds(group)
        for _, group in points.groupby(["estimator", "products"])["variance"]
    ]
    log_axis(ax.yaxis, within_reach(bounds))
    for estimator, look in _LOOKS.items():
        mine = points[points["estimator"] == estimator].sort_values("products")
        if not mine.empty:
            draw_line(ax, mine, x, "variance", look)
    ax.set_ylabel("variance [nats²/time²]")


# -- whether it matters -------------------------------------------------------------------------


def _pairs(records: Records) -> list[tuple[str, str, pd.DataFrame, pd.DataFrame]]:
    """Data set, what is equal, and the cells of one probe and of the exact trace."""
    cells = records.ok[records.ok["trained"] & records.ok["nll_nats"].notna()]
    if "flow.trace" not in cells:
        return []
    found = []
    cells = cells.assign(series=records.series(cells, ("flow.trace",)))
    for (dataset, _), group in grouped(cells, ["dataset", "series"]):
        probe, exact = (group[group["flow.trace"] == way] for way in ("hutchinson", "exact"))
        if probe.empty or exact.empty:
            continue
        seconds = plain(group["budget.seconds"].iloc[0]) if "budget.seconds" in group else "none"
        steps = plain(group["budget.steps"].iloc[0])
        equal = f"{steps} steps" if seconds == "none" else f"{seconds} s"
        name = without_options(dataset, ["rows", "test_rows"])
        found.append((name, equal, probe, exact))
    return found


def matters(records: Records) -> Iterator[Table]:
    """The NLL after equal steps and equal time with the exact trace, and with one probe."""
    lines, data = [], []
    pairs = _pairs(records)
    for dataset, equal, probe, exact in pairs:
        nll = [values_by_seed(each, "nll_nats") for each in (probe, exact)]
        gain = paired_difference(*nll)
        means = [t_interval(each.to_list()) for each in nll]
        steps = [float(values_by_seed(each, "steps").mean()) for each in (probe, exact)]
        noise = values_by_seed(probe, "gradient_std") / values_by_seed(
            probe, "gradient_std_batches"
        )
        share = t_interval((100 * noise.dropna() ** 2).to_list())
        lines.append(
            [
                Entry(dataset),
                Entry(equal),
                *(number(each.mean, each.half_width, decimals=3) for each in means),
                number(gain.mean, gain.half_width, decimals=3),
                *(number(each, decimals=0) for each in steps),
                number(share.mean, share.half_width),
            ]
        )
        data.append(
            {
                "dataset": dataset,
                "equal": equal,
                "nll_nats_one_probe": means[0].mean,
                "nll_nats_exact": means[1].mean,
                "gain_of_exact_nats": gain.mean,
                "gain_of_exact_nats_half_width": gain.half_width,
                "paired_seeds": gain.n,
                "steps_one_probe": steps[0],
                "steps_exact": steps[1],
                "noise_share_of_gradient_variance_percent": share.mean,
            }
        )
    if not lines:
        return
    cells = pd.concat([each for _, _, *both in pairs for each in both])
    shared = int(cells.loc[cells["budget.steps"].notna(), "training_shared"].sum())
    yield Table(
        name="estimators-matter",
        title="Does the noise of the trace matter? One probe against the exact trace",
        columns=[
            "data",
            "equal",
            "NLL, one probe [nats]",
            "NLL, exact [nats]",
            "gain of the exact trace [nats]",
            "steps, one probe",
            "steps, exact",
            "noise's part of the gradient's variance [%]",
        ],
        sections=[Section("", lines)],
        notes=[
            "Gain: the NLL with one probe less that with the exact trace, paired by seed; ± is the "
            "half-width of a 95 % Student t interval over seeds. NLL: of the test split, by the "
            "exact trace for both. Steps: of the weights that are tested.",
            "The noise's part: of the variance of the training gradient over batches and noise, "
            "what noise alone gives at a fixed batch, with the weights trained by one probe.",
            *(
                [
                    f"In {shared} of {len(cells)} cells others used the machine during training: "
                    "what a bound in seconds gave them then means less."
                ]
                if shared
                else []
            ),
            *replication_notes(cells),
        ],
        data=pd.DataFrame(data),
    )


def finding(records: Records) -> str | None:
    """Which estimator varies least, at equal products and per second, and whether it matters."""
    parts = []
    found = estimates(records)
    for name, words, over in (
        ("at_equal_products", "the least variance", "as many Gaussian probes"),
        ("per_second", "the least variance times seconds", "one Gaussian probe"),
    ):
        told = []
        # Where dimensions are most, and so are products.
        for (contestant, family), part in grouped(found, ["contestant", "family"]):
            widest = part[part["dimension"] == part["dimension"].max()]
            count = int(widest["products"].max())
            widest = widest[(widest["products"] == count) & widest[name].notna()]
            logs = {
                estimator: _logs(group[name])
                for (estimator,), group in grouped(widest, ["estimator"])
            }
            if len(logs) > 1:
                best = min(logs, key=lambda estimator: logs[estimator].mean)
                told.append(
                    f"{WORDS[best]} for {contestant} on {family} (D = {part['dimension'].max():g}, "
                    f"{count} products), {_times(logs[best])} times that of {over}"
                )
        if told:
            parts.append(f"{words} comes from {', '.join(told)}")
    gains = [
        f"{in_words(gain, 'nats')} on {dataset} after {equal}"
        for dataset, equal, probe, exact in _pairs(records)
        if (
            gain := paired_difference(
                values_by_seed(probe, "nll_nats"), values_by_seed(exact, "nll_nats")
            )
        ).n
    ]
    if gains:
        parts.append(f"the exact trace instead of one probe gains {', '.join(gains)}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else None


ENTRIES = [
    Study(
        name="estimators",
        title="estimators of the trace at equal Jacobian products and per second, and whether their noise matters for the likelihood",
        answers="whether FFJORD's estimator could vary less at the same cost, and whether that would matter",
        small=_SMALL,
        full=_FULL,
        tables=(table, matters),
        figures=(figure,),
        finding=finding,
        place=29,
    )
]
