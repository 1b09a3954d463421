"""What a training step holds in memory, and how large a batch fits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks import measures
from benchmarks.report.figures import Drawn, Scene
from benchmarks.report.figures.against import lines
from benchmarks.report.figures.panels import (
    handles,
    legend,
    log_axis,
    panels,
    whole_number_axis,
)
from benchmarks.report.findings import in_words
from benchmarks.report.groups import grouped
from benchmarks.report.notes import machine_notes
from benchmarks.report.records import Records
from benchmarks.report.statistics import CONFIDENCE, Interval, Line, line_through
from benchmarks.report.table import Entry, Section, Table, number
from benchmarks.studies.base import Study

_BLOCKS = """
# Work and memory of a training step do not depend on what was learned. FFJORD takes steps of equal
# length, so that its evaluations are set and not found.
[[study]]
name = "evaluations"
flows = [{{ name = "ffjord", solver = "rk4", steps = {steps}, gradient = ["checkpoint", "adjoint", "backprop"]{network} }}]
datasets = [{data}]

[[study]]
name = "depth"
flows = [
    {{ name = "ffjord", solver = "rk4", steps = 8, blocks = [2, 4, 8], gradient = ["checkpoint", "adjoint", "backprop"]{network} }},
    {{ name = "realnvp", layers = [4, 8, 16, 32] }},
    {{ name = ["maf", "rqnsf-c"], layers = [2, 5, 10, 20] }},
]
datasets = [{data}]
"""
_BATCH = """
[[study]]
name = "batch-{batch}"
flows = [
    {{ name = "ffjord", solver = "rk4", steps = 8, gradient = ["checkpoint", "adjoint", "backprop"]{network} }},
    {{ name = ["realnvp", "glow", "maf", "rqnsf-c"] }},
]
datasets = [{data}]
budget = {{ batch_size = {batch} }}
"""


def _matrix(usual: int, batches: tuple[int, ...], steps: list[int], data: str, network: str) -> str:
    head = f"""
seeds = [0]
measures = ["work", "memory"]
budget = {{ steps = 0, batch_size = {usual} }}
"""
    whole = _BLOCKS.format(steps=steps, data=data, network=network)
    for batch in batches:
        whole += _BATCH.format(batch=batch, data=data, network=network)
    return head + whole


_SMALL = _matrix(
    256,
    (64, 256, 1024, 4096),
    [2, 4, 8, 16, 32],
    '{ name = "gaussian", dimension = 8, rows = 8192 }',
    "",
)
# The network of MINIBOONE in the paper's Table 4.
_FULL = _matrix(
    1024,
    (256, 1024, 4096, 16384, 65536),
    [2, 4, 8, 16, 32, 64, 128],
    '{ name = "gaussian", dimension = 43, rows = 65536 }',
    ', hidden = [860, 860], activation = "softplus", layers = "concat"',
)

_PEAK = "peak_memory_bytes"
_APART = ("flow.steps", "flow.blocks", "flow.layers", "budget.batch_size")


@dataclass(frozen=True)
class _Sweep:
    """One of the three things that memory is measured against.

    Attributes:
        name: of its section.
        column: of the cells.
        apart: the options that it is over.
        label: of the axis.
    """

    name: str
    column: str
    apart: tuple[str, ...]
    label: str


_NFE = _Sweep("evaluations", "nfe", ("flow.steps",), "NFE of the forward pass")
_ROWS = _Sweep("batch", "rows", ("budget.batch_size",), "rows of a batch")
_DEPTH = _Sweep("depth", "depth", ("flow.blocks", "flow.layers"), "blocks or layers")


def cells_of(records: Records, sweep: _Sweep) -> pd.DataFrame:
    """The cells of a sweep, with ``nfe``, ``rows``, ``depth`` and ``contestant``.

    What tensors take does not depend on what else runs, so cells that shared the device count.
    """
    cells = records.ok[records.ok[_PEAK].notna()]
    cells = cells.assign(
        nfe=cells["nfe_train_forward"],
        rows=_numbers(cells, "budget.batch_size"),
        depth=_numbers(cells, "flow.blocks").fillna(_numbers(cells, "flow.layers")),
        contestant=records.names(cells, _APART),
    )
    if sweep is _NFE:
        # The evaluations of a discrete flow are its depth.
        cells = cells[_numbers(cells, "flow.blocks").notna()]
    cells = cells.assign(series=records.series(cells, sweep.apart))
    several = cells.groupby("series")[sweep.column].transform("nunique") > 1
    return cells[several] if len(cells) else cells


def _numbers(cells: pd.DataFrame, name: str) -> pd.Series[float]:
    if name not in cells:
        return pd.Series(math.nan, index=cells.index)
    return pd.to_numeric(cells[name], errors="coerce").astype(float)


def _fits(records: Records, sweep: _Sweep) -> list[tuple[str, pd.DataFrame, Line]]:
    """For each contestant of a sweep its points, means over seeds, and the line through them."""
    found = []
    for (name, _), group in grouped(cells_of(records, sweep), ["contestant", "series"]):
        points = group.groupby(sweep.column)[[_PEAK]].mean().reset_index()
        line = line_through(points[sweep.column].to_list(), points[_PEAK].to_list())
        if line is not None:
            if sweep is not _ROWS:
                points["rows"] = float(group["rows"].iloc[0])
            found.append((str(name), points, line))
    return found


# -- tables -------------------------------------------------------------------------------------


def growth(records: Records) -> list[Table]:
    """How the peak memory of a training step grows, a section for each thing that it grows with."""
    sections, data = [], []
    for sweep in (_NFE, _ROWS, _DEPTH):
        rows = []
        for name, points, line in _fits(records, sweep):
            x, y = points[sweep.column], points[_PEAK] / 2**20
            slope = line.slope_interval
            exponent = _exponent(x, y)
            rows.append(
                [
                    Entry(name),
                    Entry(f"{x.min():,g} to {x.max():,g}"),
                    number(y.iloc[0]),
                    number(y.iloc[-1]),
                    number(slope.mean / 2**10, slope.half_width / 2**10, decimals=2),
                    number(exponent.mean, exponent.half_width, decimals=2),
                ]
            )
            data.append(
                {
                    "against": sweep.name,
                    "contestant": name,
                    "from": x.min(),
                    "to": x.max(),
                    "points": len(x),
                    "bytes_each": slope.mean,
                    "bytes_each_half_width": slope.half_width,
                    "bytes_at_zero": line.intercept,
                    "exponent": exponent.mean,
                    "exponent_half_width": exponent.half_width,
                }
            )
        if rows:
            sections.append(Section(f"against {sweep.label}", rows))
    if not sections:
        return []
    return [
        Table(
            name="memory-growth",
            title="How the peak memory of a training step grows",
            columns=["flow", "from, to", "least [MiB]", "most [MiB]", "each [KiB]", "exponent"],
            sections=sections,
            notes=[
                "Each: what one evaluation, row, block or layer more takes, by a line through all "
                "sizes (least squares of relative errors). Exponent: slope of the logarithms, 1 "
                "where memory is in proportion and 0 where it stays. "
                "± is the half-width of the 95 % interval of the fit, which says how straight the "
                "line is; the memory itself does not vary by chance. Two sizes have no interval.",
                *_of_what(records),
            ],
            data=pd.DataFrame(data),
        )
    ]


def _exponent(x: pd.Series[float], y: pd.Series[float]) -> Interval:
    """The slope of the logarithms."""
    fit = stats.linregress(np.log(x.to_numpy(dtype=float)), np.log(y.to_numpy(dtype=float)))
    n = len(x)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 2)) if n > 2 else math.nan
    return Interval(float(fit.slope), quantile * float(fit.stderr), n)


def budgets(records: Records) -> list[float]:
    """Up to three memories in bytes, powers of two, that most contestants' sweeps reach."""
    ranges = [(points[_PEAK].min(), points[_PEAK].max()) for _, points, _ in _fits(records, _ROWS)]
    if not ranges:
        return []
    top = max(high for _, high in ranges)
    sizes = [2.0**power for power in range(20, 50) if 2.0**power <= top]
    held = {size: sum(low <= size <= high for low, high in ranges) for size in sizes}
    best = sorted((size for size in sizes if held[size]), key=lambda size: (-held[size], -size))
    return sorted(best[:3])


def largest_batch(records: Records) -> list[Table]:
    """The largest batch in a given memory, interpolated."""
    sizes = budgets(records)
    rows: list[list[Entry]] = []
    data: list[dict[str, str | float]] = []
    for name, points, line in _fits(records, _ROWS):
        row, numbers = [Entry(name)], dict[str, str | float](contestant=name)
        for size in sizes:
            entry, interval = _fitting(points, line, size)
            row.append(entry)
            numbers |= {
                f"rows_in_{size / 2**20:g}_mib": interval.mean,
                f"rows_in_{size / 2**20:g}_mib_half_width": interval.half_width,
            }
        rows.append(row)
        data.append(numbers)
    if not rows or not sizes:
        return []
    return [
        Table(
            name="largest-batch",
            title="Rows of the largest batch whose training step fits a given memory",
            columns=["flow", *(f"in {_bytes(size)}" for size in sizes)],
            sections=[Section("", rows)],
            notes=[
                "By the line of memory against the batch's rows, within the sizes that were "
                "measured: more than, or fewer than, the largest or smallest of these stand where "
                "the memory lies beyond. ± is the half-width of the 95 % interval of the "
                "prediction, from the distances of the sizes measured from the line.",
                *_of_what(records),
            ],
            data=pd.DataFrame(data),
        )
    ]


def _fitting(points: pd.DataFrame, line: Line, size: float) -> tuple[Entry, Interval]:
    """How many rows fit, as far as they were measured."""
    nothing = Interval(math.nan, math.nan, len(points))
    if size > points[_PEAK].max():
        return Entry(f"more than {points['rows'].max():,g}", numeric=True), nothing
    if size < points[_PEAK].min():
        return Entry(f"fewer than {points['rows'].min():,g}", numeric=True), nothing
    interval = line.where(size)
    return number(interval.mean, interval.half_width, decimals=0), interval


def _bytes(size: float) -> str:
    return f"{size / 2**30:g} GiB" if size >= 2**30 else f"{size / 2**20:g} MiB"


def _of_what(records: Records) -> list[str]:
    return [
        "Peak memory: of the tensors alive in a training step, weights and optimiser included, "
        "the data set apart. Of FFJORD in steps of equal length, of untrained flows: what is held "
        "does not depend on the weights.",
        *machine_notes(records.cells),
    ]


# -- figure -------------------------------------------------------------------------------------


def figure(scene: Scene) -> Iterator[Drawn]:
    """Peak memory of a training step against evaluations, batch and depth."""
    scene = scene.sweep(*_APART)
    column = measures.column(_PEAK)
    sweeps = [(sweep, cells_of(scene.records, sweep)) for sweep in (_NFE, _ROWS, _DEPTH)]
    sweeps = [(sweep, cells) for sweep, cells in sweeps if not cells.empty]
    if not sweeps:
        return
    drawn, axes = panels(len(sweeps), height=2.6)
    present = []
    for ax, (sweep, cells) in zip(axes, sweeps, strict=True):
        if sweep is _DEPTH:
            # The layers of one system fall between those of another: no tick at each.
            log_axis(ax.xaxis, cells[sweep.column])
        else:
            whole_number_axis(ax, cells[sweep.column])
        found = [
            (points.sort_values(sweep.column), scene.looks[name])
            for (name, _), points in grouped(cells, ["contestant", "series"])
        ]
        lines(ax, found, sweep.column, column, sweep.label)
        present += cells["contestant"].to_list()
    names = scene.present(present)
    legend(drawn, handles({name: scene.looks[name] for name in names}, line=True))
    yield Drawn(
        drawn,
        "memory",
        "Peak memory of a training step against NFE, batch and depth",
        "Of the tensors alive in a training step, the data set apart. Of FFJORD in steps of equal "
        "length. Depth: blocks of a continuous flow, layers of a discrete one.",
    )


# -- finding ------------------------------------------------------------------------------------


def finding(records: Records) -> str | None:
    """What an evaluation more takes under each gradient, and the largest batch."""
    grown = [
        f"{in_words(_each_row(points, line), 'KiB', digits=2, over='sizes')} with {name}"
        for name, points, line in _fits(records, _NFE)
        if line.freedom > 0
    ]
    if not grown:
        return None
    text = f"A row's memory grows with each evaluation by {', '.join(grown)}."
    sizes = budgets(records)
    if sizes:
        fits = []
        for name, points, line in _fits(records, _ROWS):
            entry, interval = _fitting(points, line, sizes[-1])
            if math.isfinite(interval.half_width):
                fits.append(f"{entry.text} ± {entry.plus_minus} of {name}")
            else:
                fits.append(f"{entry.text} of {name}")
        text += f" In {_bytes(sizes[-1])} fit batches of {', '.join(fits)}."
    return text


def _each_row(points: pd.DataFrame, line: Line) -> Interval:
    """KiB that one evaluation more takes for one row of the batch."""
    slope, unit = line.slope_interval, 2**10 * float(points["rows"].iloc[0])
    return Interval(slope.mean / unit, slope.half_width / unit, slope.n)


ENTRIES = [
    Study(
        name="memory",
        title="peak memory of a training step against evaluations, batch and depth",
        answers="whether the adjoint's memory stays as evaluations grow (FFJORD, arXiv:1810.01367, "
        "section 3.2), what checkpoints and backpropagation take instead, and which batch fits",
        small=_SMALL,
        full=_FULL,
        tables=(growth, largest_batch),
        figures=(figure,),
        finding=finding,
        place=61,
    )
]
