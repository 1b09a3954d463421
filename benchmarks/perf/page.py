"""The history as one page that needs nothing else, with its main lines as a picture."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from benchmarks import report
from benchmarks.perf.history import Change, Thresholds, Value, sorted_by_size, steps
from benchmarks.report.style import looks, new_figure, rc
from benchmarks.report.svg import save
from benchmarks.report.table import Entry, Section, Table, as_html

__all__ = ["draw", "tables", "write"]

BARS = "▁▂▃▄▅▆▇█"
FAILED, MISSING = "✗", "·"

# Benchmark, a regular expression of its parameters, title, label, and scale to the reports' units.
_ROWS = r"flow = (\S+), dimension = 16, device = cpu"
PANELS = (
    (
        "families.TrainingStep.time_training_step",
        _ROWS,
        "256 rows of 16",
        "training step [ms]",
        1e3,
    ),
    ("families.LogProb.time_log_prob", _ROWS, "256 rows of 16", "density of a batch [ms]", 1e3),
    (
        *("families.Memory.track_peak_memory", r"flow = (\S+), device = cpu"),
        *("eight training steps", "peak tensor memory [MiB]", 2.0**-20),
    ),
    ("training.SmallBudget.track_nll", r"flow = (\S+)", "after 60 steps", "NLL [nats]", 1.0),
)


def write(
    values: Sequence[Value], subjects: Mapping[str, str], thresholds: Thresholds, out: Path
) -> Path:
    """Write ``summary.html``, its picture as ``summary.svg``, all values as ``summary.csv``.

    Args:
        values: from :func:`benchmarks.perf.history.read`; not empty.
        subjects: each commit's full hash to its short one and its subject, the oldest first.
        thresholds: what counts as a change.
        out: folder of the page.

    Returns:
        The page's path.
    """
    frame = pd.DataFrame(map(dataclasses.asdict, values))
    frame.to_csv(out / "summary.csv", index=False, lineterminator="\n")
    with mpl.rc_context(rc()):
        svg = save(draw(frame, list(subjects)), out, "summary")
    machines = []
    for (machine, facts), group in itertools.groupby(values, lambda v: (v.machine, v.facts)):
        own = list(group)
        commits = {commit: subjects[commit] for commit in subjects if commit in _commits(own)}
        shown = [
            {"title": table.title, "html": Markup(as_html(table)), "notes": table.notes}
            for table in tables(own, list(commits), thresholds)
        ]
        machines.append(
            {"name": machine, "facts": facts, "commits": list(commits.values()), "tables": shown}
        )
    # The reports' own looks.
    folders = [Path(__file__).parent, Path(report.__file__).parent / "templates"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders), autoescape=True, undefined=jinja2.StrictUndefined
    )
    picture = "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode("ascii")
    text = environment.get_template("summary.html.jinja").render(machines=machines, picture=picture)
    path = out / "summary.html"
    path.write_text(text, encoding="utf-8")
    return path


def _commits(values: Sequence[Value]) -> set[str]:
    return {value.commit for value in values}


def tables(values: Sequence[Value], commits: Sequence[str], thresholds: Thresholds) -> list[Table]:
    """What changed on a machine, the largest first, and every line, by benchmark.

    Args:
        values: of the machine, from :func:`benchmarks.perf.history.read`.
        commits: its commits, the oldest first.
        thresholds: what counts as a change.
    """
    found: list[Change] = []
    sections: dict[str, list[list[Entry]]] = {}
    newest = {value.benchmark: value.version for value in values}
    for (_, _, name, version, _), group in itertools.groupby(values, lambda value: value.line):
        line = sorted(group, key=lambda value: commits.index(value.commit))
        changed = steps(line, thresholds)
        found += changed
        title = name if version == newest[name] else f"{name}, as version {version} measured it"
        sections.setdefault(title, []).append(_row(line, commits, changed))
    worse, better = sorted_by_size(found)
    nothing = [[Entry("none past the thresholds"), *[Entry("")] * 6]]
    return [
        Table(
            name="changes",
            title="Regressions and gains",
            columns=(
                *("benchmark", "parameters", "before", "after", "after / before"),
                *("threshold", "commits"),
            ),
            sections=[
                Section("Regressions", list(map(_change, worse)) or nothing),
                Section("Gains", list(map(_change, better)) or nothing),
            ],
        ),
        Table(
            name="lines",
            title="Every line",
            columns=(
                *("parameters", "first", "last", "last / first", f"{len(commits)} commits"),
                "past the threshold, times as much",
            ),
            sections=[Section(title, rows) for title, rows in sections.items()],
            notes=(
                f"Bars start at zero, a commit each, the oldest on the left; {FAILED}: failed, "
                f"{MISSING}: not measured.",
            ),
        ),
    ]


def _change(change: Change) -> list[Entry]:
    ratio = f"{change.ratio:.3g}" if math.isfinite(change.ratio) else ""
    numbers = [str(change.before), str(change.after), ratio]
    return [
        Entry(change.after.benchmark),
        Entry(change.after.parameters),
        *(Entry(text, numeric=True) for text in (*numbers, f"{1 + change.threshold:.3g}")),
        Entry(f"{change.before.commit[:7]} to {change.after.commit[:7]}"),
    ]


def _row(line: Sequence[Value], commits: Sequence[str], changed: Sequence[Change]) -> list[Entry]:
    present = [value for value in line if not math.isnan(value.value)] or line
    first, last = present[0], present[-1]
    ratio = f"{last.value / first.value:.3g}" if first.value else ""
    return [
        Entry(line[0].parameters),
        *(Entry(text, numeric=True) for text in (str(first), str(last), ratio)),
        Entry(bars({value.commit: value.value for value in line}, commits)),
        Entry("; ".join(f"{c.ratio:.3g} at {c.after.commit[:7]}" for c in changed)),
    ]


def bars(values: Mapping[str, float], commits: Sequence[str]) -> str:
    """Values over commits as bars from zero, one character each.

    Example:
        >>> bars({"a": 0.0, "b": 2.0, "c": math.nan, "e": 4.0}, ["a", "b", "c", "d", "e"])
        '▁▄✗·█'
    """
    top = max((abs(value) for value in values.values() if not math.isnan(value)), default=0) or 1

    def bar(commit: str) -> str:
        if commit not in values:
            return MISSING
        value = values[commit]
        return FAILED if math.isnan(value) else BARS[max(0, round(8 * value / top) - 1)]

    return "".join(map(bar, commits))


def draw(frame: pd.DataFrame, order: Sequence[str]) -> Figure:
    """The main lines of the machine with most commits.

    Args:
        frame: the values, a row each.
        order: commits, the oldest first.
    """
    machine = str(frame.groupby("machine")["commit"].nunique().idxmax())
    frame = frame[frame["machine"] == machine]
    commits = [commit for commit in order if commit in set(frame["commit"])]
    frame = frame.assign(place=frame["commit"].map(commits.index)).sort_values("place")
    flow_of = [
        frame["parameters"].where(frame["benchmark"] == name).str.extract(f"^{words}$")[0]
        for name, words, *_ in PANELS
    ]
    # One look a flow in all panels, the reports' own.
    look_of = looks(flow for flows in flow_of for flow in flows.dropna().unique())
    handles: dict[str, Any] = {}
    figure = new_figure(10, 6.4)
    for axes, flows, (_, _, title, label, scale) in zip(
        figure.subplots(2, 2).flat, flow_of, PANELS, strict=True
    ):
        for (_, _, name), line in frame.groupby(["facts", "version", flows.rename("flow")]):
            flow = str(name)
            look = look_of[flow]
            (handles[flow],) = axes.plot(
                line["place"],
                line["value"] * scale,
                color=look.colour,
                marker=look.marker,
                markersize=4 * look.size,
                label=flow,
            )
        axes.set_title(title)
        axes.set_ylabel(label)
        axes.set_xticks(range(len(commits)), [commit[:7] for commit in commits], rotation=45)
        if scale != 1.0:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())
            axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    if handles:
        ordered = [handles[flow] for flow in look_of if flow in handles]
        figure.legend(handles=ordered, loc="outside right center")
    figure.suptitle(f"ffjord-bench over its commits, machine {machine}")
    return figure
