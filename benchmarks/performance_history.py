"""What asv measured: read, compared, and put on one page that needs nothing else."""

from __future__ import annotations

import ast
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

__all__ = ["Change", "Line", "Point", "Series", "Thresholds", "changes", "draw", "load", "page"]


@dataclass(frozen=True)
class Series:
    """One benchmark with its parameters: what is one line in a history.

    Attributes:
        benchmark: name, as ``families.LogProb.time_log_prob``.
        names: of the parameters.
        values: of the parameters, as asv writes them.
        unit: of the results.
        version: results of different versions are not compared.
    """

    benchmark: str
    names: tuple[str, ...]
    values: tuple[str, ...]
    unit: str
    version: str

    @property
    def is_time(self) -> bool:
        """Whether it is measured with a clock, and so never twice the same."""
        return self.unit == "seconds"

    @property
    def parameters(self) -> str:
        """The parameters in words, as ``flow = maf, dimension = 2``."""
        pairs = zip(self.names, self.values, strict=True)
        return ", ".join(f"{name} = {value.strip(chr(39))}" for name, value in pairs)

    @property
    def pattern(self) -> str:
        """What asv's ``--bench`` takes for it alone."""
        name = self.benchmark
        if self.values:
            name += f"({', '.join(self.values)})"
        # Without single quotes, so that it can stand between them on a command line.
        escaped = re.sub(r"([.()+*?\[\]|^$\\])", r"\\\1", name).replace("'", ".")
        return f"^{escaped}$"


@dataclass(frozen=True)
class Point:
    """What one commit gave.

    Attributes:
        commit: full hash.
        value: the median of the samples; None if the benchmark failed.
        best: the least sample; the value itself where there are no samples.
    """

    commit: str
    value: float | None
    best: float | None


class Thresholds:
    """How much worse counts as a regression, by patterns of names.

    Args:
        patterns: regular expression to fraction, as asv's ``regressions_thresholds``.
    """

    DEFAULT = 0.1

    def __init__(self, patterns: Mapping[str, float]) -> None:
        self._patterns = patterns

    def of(self, benchmark: str) -> float:
        """The fraction for a benchmark: that of the first pattern that matches.

        Example:
            >>> Thresholds({".*time_.*": 0.25}).of("harness.Loading.time_load")
            0.25
        """
        for pattern, fraction in self._patterns.items():
            if re.match(pattern, benchmark):
                return fraction
        return self.DEFAULT


@dataclass(frozen=True)
class Change:
    """A difference between two commits past the threshold.

    Attributes:
        series: what changed.
        before, after: the values.
        threshold: the fraction that was exceeded.
    """

    series: Series
    before: Point
    after: Point
    threshold: float

    @property
    def worse(self) -> bool:
        """Whether it is a regression: lower is better throughout."""
        if self.after.value is None or self.before.value is None:
            return self.after.value is None
        return self.after.value > self.before.value

    @property
    def ratio(self) -> float:
        """After over before; infinite where there is no such number."""
        if not self.before.value or self.after.value is None:
            return math.inf
        return self.after.value / self.before.value

    def sentence(self) -> str:
        """What changed, from what to what."""
        series = self.series
        where = f"{series.benchmark} ({series.parameters})" if series.values else series.benchmark
        if self.after.value is None:
            return f"{where} fails; it gave {show(self.before.value, series.unit)} before"
        if self.before.value is None:
            return f"{where} works again: {show(self.after.value, series.unit)}"
        return (
            f"{where}: {show(self.before.value, series.unit)} -> "
            f"{show(self.after.value, series.unit)}, {self.ratio:.3g} times as much "
            f"(threshold {1 + self.threshold:.3g})"
        )


def show(value: float | None, unit: str) -> str:
    """A value with its unit, for reading.

    Example:
        >>> show(0.0123, "seconds"), show(6291456, "bytes"), show(26.0, "evaluations")
        ('12.3 ms', '6 MiB', '26 evaluations')
    """
    if value is None:
        return "failed"
    scales = {
        "seconds": [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")],
        "bytes": [(2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")],
    }
    for scale, name in scales.get(unit, []):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {name}"
    number = f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"
    return f"{number} {unit}"


# -- reading and comparing --------------------------------------------------------------------


def read(results: Path, machine: str, commit: str) -> dict[Series, Point]:
    """What a machine measured on a commit; what was skipped is left out."""
    from asv.results import iter_results_for_machine_and_hash

    described = _described(results)
    found: dict[Series, Point] = {}
    if (results / machine).is_dir():
        for result in iter_results_for_machine_and_hash(str(results), machine, commit):
            found |= _points(result, described)
    return found


def _described(results: Path) -> dict[str, Any]:
    from asv.util import load_json

    path = results / "benchmarks.json"
    described: dict[str, Any] = load_json(str(path)) if path.is_file() else {}
    return described


def _points(result: Any, described: Mapping[str, Any]) -> dict[Series, Point]:
    found: dict[Series, Point] = {}
    for name in result.get_all_result_keys():
        if name not in described:
            continue
        # The commit's own parameters, which may be others than today's.
        params = result.get_result_params(name)
        values = result.get_result_value(name, params)
        samples = result.get_result_samples(name, params)
        for place, combination in enumerate(itertools.product(*params)):
            value = values[place]
            if value is not None and math.isnan(value):
                continue
            series = Series(
                benchmark=name,
                names=tuple(described[name]["param_names"]),
                values=tuple(combination),
                unit=described[name]["unit"],
                version=str(result.benchmark_version.get(name)),
            )
            least = min(samples[place]) if samples and samples[place] else value
            found[series] = Point(result.commit_hash, value, least)
    return found


def changes(
    before: Mapping[Series, Point], after: Mapping[Series, Point], thresholds: Thresholds
) -> list[Change]:
    """Differences past the threshold between two commits, both ways.

    A time has changed only if both its median and its best sample have: other work on the machine
    moves the one, a lucky moment the other, a change of the code moves both.
    """
    found = []
    for series, new in after.items():
        old = before.get(series)
        if old is None:
            continue
        change = Change(series, old, new, thresholds.of(series.benchmark))
        if old.value is None or new.value is None:
            if (old.value is None) != (new.value is None):
                found.append(change)
            continue
        assert old.best is not None
        assert new.best is not None
        worse = new.value > old.value
        pairs = [(old.value, new.value), (old.best, new.best)]
        lows_and_highs = pairs if worse else [(high, low) for low, high in pairs]
        if all(high > low + change.threshold * abs(low) for low, high in lows_and_highs):
            found.append(change)
    return found


def explain(benchmark: str, suite: Path) -> str:
    """What a benchmark does, by the docstring of its class, and where it is defined."""
    module, _, rest = benchmark.partition(".")
    path = suite / f"{module}.py"
    place = f"benchmarks/perf/{module}.py"
    if not path.is_file():
        return place
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == rest.partition(".")[0]:
            text = (ast.get_docstring(node) or "").partition("\n")[0]
            return f"{text} ({place}:{node.lineno})"
    return place


# -- the history ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One benchmark on one machine, over commits.

    Attributes:
        machine: name of the machine's history.
        facts: the machine, its GPU and torch, in words: what differs here is another line.
        series: the benchmark.
        points: by commit, the oldest first.
    """

    machine: str
    facts: str
    series: Series
    points: tuple[Point, ...]


def load(results: Path, order: Mapping[str, int]) -> list[Line]:
    """Every line of the histories in a folder.

    Args:
        results: asv's folder of results.
        order: commit to place; commits that are not in it are left out.
    """
    from asv.results import iter_results

    described = _described(results)
    lines: dict[tuple[str, str, Series], list[Point]] = defaultdict(list)
    for result in iter_results(str(results)):
        if result.commit_hash not in order:
            continue
        facts = ", ".join(
            f"{name} {result.params[name]}"
            for name in ("cpu", "gpu", "torch", "python")
            if result.params.get(name)
        )
        for series, point in _points(result, described).items():
            lines[result.params["machine"], facts, series].append(point)
    return [
        Line(machine, facts, series, tuple(sorted(points, key=lambda p: order[p.commit])))
        for (machine, facts, series), points in sorted(
            lines.items(), key=lambda item: (item[0][0], item[0][1], item[0][2].benchmark)
        )
    ]


def steps(line: Line, thresholds: Thresholds) -> list[Change]:
    """Changes past the threshold from one measured commit to the next.

    A time that is back where it was at the commit after that was the machine's doing.
    """

    def compare(old: Point, new: Point) -> list[Change]:
        return changes({line.series: old}, {line.series: new}, thresholds)

    found = []
    level = line.points[0]
    for place, point in enumerate(line.points[1:], start=1):
        change = compare(level, point)
        if change and line.series.is_time and place + 1 < len(line.points):
            after_that = compare(level, line.points[place + 1])
            if [c.worse for c in change] != [c.worse for c in after_that]:
                continue
        found += change
        level = point
    return found


def page(lines: Sequence[Line], subjects: Mapping[str, str], thresholds: Thresholds) -> str:
    """The history as one HTML page without scripts, with every picture inside.

    Args:
        lines: from :func:`load`.
        subjects: commit to short hash and subject.
        thresholds: what counts as a change.
    """
    body: list[str] = []
    for (machine, facts), group in itertools.groupby(
        lines, lambda line: (line.machine, line.facts)
    ):
        body += _machine(machine, facts, list(group), subjects, thresholds)
    return _PAGE.replace("BODY", "\n".join(body))


def _machine(
    machine: str,
    facts: str,
    lines: Sequence[Line],
    subjects: Mapping[str, str],
    thresholds: Thresholds,
) -> list[str]:
    commits = list(dict.fromkeys(p.commit for line in lines for p in line.points))
    found = [change for line in lines for change in steps(line, thresholds)]
    worse = sorted((c for c in found if c.worse), key=lambda c: -c.ratio)
    better = sorted((c for c in found if not c.worse), key=lambda c: c.ratio)
    body = [
        f"<h2>{escape(machine)}</h2>",
        f"<p>{escape(facts)}; {len(commits)} commits</p>",
    ]
    for title, kind, listed in (("Regressions", "worse", worse), ("Gains", "better", better)):
        body.append(f"<h3>{title}</h3>")
        if not listed:
            body.append("<p>none past the thresholds</p>")
            continue
        body.append(f'<ul class="{kind}">')
        body += [
            f"<li>{escape(change.sentence())}<br>"
            f"<small>between {escape(subjects[change.before.commit])} and "
            f"{escape(subjects[change.after.commit])}</small></li>"
            for change in listed
        ]
        body.append("</ul>")
    body.append("<h3>Every line</h3>")
    for name, group in itertools.groupby(lines, lambda line: line.series.benchmark):
        body.append(f"<h4>{escape(name)}</h4><table>")
        body.append("<tr><th>parameters<th>first<th>last<th>last / first<th></tr>")
        body += [_row(line, subjects, thresholds) for line in group]
        body.append("</table>")
    return body


def _row(line: Line, subjects: Mapping[str, str], thresholds: Thresholds) -> str:
    values = [p.value for p in line.points if p.value is not None]
    unit = line.series.unit
    first, last = (values[0], values[-1]) if values else (None, None)
    ratio = f"{last / first:.3g}" if first and last is not None else ""
    cells = [escape(text) for text in (line.series.parameters, show(first, unit), show(last, unit))]
    cells += [ratio, _sparkline(line, subjects, thresholds)]
    return "<tr>" + "".join(f"<td>{cell}" for cell in cells) + "</tr>"


WIDTH, HEIGHT, MARGIN = 240, 36, 6


def _sparkline(line: Line, subjects: Mapping[str, str], thresholds: Thresholds) -> str:
    """The values over commits, from zero; regressions red, gains green."""
    present = [point for point in line.points if point.value is not None]
    if not present:
        return ""
    top = max(max(abs(point.value or 0.0) for point in present), 1e-300)
    marks = {
        change.after.commit: "worse" if change.worse else "better"
        for change in steps(line, thresholds)
    }
    step = (WIDTH - 2 * MARGIN) / max(1, len(line.points) - 1)
    dots, path = [], []
    for place, point in enumerate(line.points):
        if point.value is None:
            continue
        x = MARGIN + place * step
        y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * max(point.value, 0.0) / top
        path.append(f"{x:.1f},{y:.1f}")
        title = f"{show(point.value, line.series.unit)} at {subjects[point.commit]}"
        dots.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" class="{marks.get(point.commit, "")}">'
            f"<title>{escape(title)}</title></circle>"
        )
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img">'
        f'<polyline points="{" ".join(path)}"/>{"".join(dots)}</svg>'
    )


_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>ffjord-bench: performance over time</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem;
       padding: 0 1rem; color: #222; background: #fff; }
table { border-collapse: collapse; margin-bottom: 1rem; }
th, td { text-align: left; padding: 0 1rem 0 0; border-bottom: 1px solid #ddd; }
th { font-weight: 600; }
td + td, th + th { white-space: nowrap; }
svg { display: block; }
polyline { fill: none; stroke: #888; stroke-width: 1; }
circle { fill: #555; }
circle.worse { fill: #c1272d; }
circle.better { fill: #00803a; }
ul.worse li::marker { color: #c1272d; }
ul.better li::marker { color: #00803a; }
small { color: #666; }
</style>
<h1>Performance over time</h1>
<p>What the suite in <code>benchmarks/perf</code> measured on commits of this project, from the
records in <code>results/asv</code>. Lower is better throughout; each small picture starts at zero
and has a dot a commit, the oldest on the left; rest on a dot for its value. Red and green: past the
threshold in <code>asv.conf.json</code> from one measured commit to the next, in the median and in
the best sample, and for times not back again at the commit after that. Times on the CPU are
processor times of one thread.</p>
BODY
</html>
"""


# -- the picture ------------------------------------------------------------------------------


# Benchmark, what its parameters must be, title, label of the axis in the units of the reports.
_PANELS: list[tuple[str, dict[str, str], str, str]] = [
    (
        "families.TrainingStep.time_training_step",
        {"dimension": "16", "device": "'cpu'"},
        "256 rows of 16",
        "training step [ms]",
    ),
    (
        "families.LogProb.time_log_prob",
        {"dimension": "16", "device": "'cpu'"},
        "256 rows of 16",
        "density of a batch [ms]",
    ),
    (
        "families.Memory.track_peak_memory",
        {"device": "'cpu'"},
        "training steps",
        "peak tensor memory [MiB]",
    ),
    ("training.SmallBudget.track_nll", {}, "after 60 steps", "NLL [nats]"),
]
_SCALES = {"seconds": 1e3, "bytes": 2.0**-20}


def draw(lines: Sequence[Line], path: Path) -> None:
    """The main lines of the machine with most commits as an SVG.

    Args:
        lines: from :func:`load`; not empty.
        path: where to write it.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    from benchmarks.report.style import looks

    machine = max(
        {line.machine for line in lines},
        key=lambda name: (max(len(x.points) for x in lines if x.machine == name), name),
    )
    order = list(
        dict.fromkeys(
            point.commit
            for line in sorted(lines, key=lambda line: -len(line.points))
            if line.machine == machine
            for point in line.points
        )
    )
    drawn = [
        [(line, flow) for line in lines if (flow := _flow_of(line, machine, name, fixed))]
        for name, fixed, _, _ in _PANELS
    ]
    # One look a flow in all panels, the reports' own.
    look_of = looks(flow for panel in drawn for _, flow in panel)
    # Fixed names inside the file, and no date: the same history gives the same bytes.
    with mpl.rc_context({"svg.hashsalt": "ffjord-bench", "font.size": 9}):
        figure = Figure(figsize=(10, 6.4), layout="constrained")
        handles = {}
        for axes, panel, (name, _, title, label) in zip(
            figure.subplots(2, 2).flat, drawn, _PANELS, strict=True
        ):
            for line, flow in panel:
                present = [p for p in line.points if p.value is not None]
                scale, look = _SCALES.get(line.series.unit, 1.0), look_of[flow]
                (handles[flow],) = axes.plot(
                    [order.index(point.commit) for point in present],
                    [(point.value or 0.0) * scale for point in present],
                    color=look.colour,
                    marker=look.marker,
                    markersize=4 * look.size,
                    label=flow,
                )
            axes.set_title(title, fontsize=9)
            axes.set_ylabel(label)
            axes.set_xticks(range(len(order)), [commit[:7] for commit in order], rotation=45)
            if name != "training.SmallBudget.track_nll":
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(LogFormatter())
                axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
            axes.grid(alpha=0.3)
        if handles:
            ordered = [handles[flow] for flow in look_of if flow in handles]
            figure.legend(handles=ordered, loc="outside right center", frameon=False)
        figure.suptitle(f"ffjord-bench over its commits, machine {machine}", fontsize=10)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def _flow_of(line: Line, machine: str, benchmark: str, fixed: Mapping[str, str]) -> str:
    """The flow that a line of the picture is of; empty if it is no line of that panel."""
    named = dict(zip(line.series.names, line.series.values, strict=True))
    if line.machine != machine or line.series.benchmark != benchmark:
        return ""
    if any(named.get(parameter) != value for parameter, value in fixed.items()):
        return ""
    return named["flow"].strip("'")
