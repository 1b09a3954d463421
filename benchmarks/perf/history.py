"""What asv measured: read, compared, said in words."""

from __future__ import annotations

import ast
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Change", "Value", "changes", "explain", "read", "show", "sorted_by_size", "steps"]

# A regular expression to how much worse, as a fraction, counts as a regression: asv's own setting.
Thresholds = Mapping[str, float]
DEFAULT_THRESHOLD = 0.1


@dataclass(frozen=True)
class Value:
    """What one commit gave in one benchmark with its parameters.

    Attributes:
        machine: name of the machine's history.
        facts: the machine, its GPU, torch and Python, in words.
        benchmark: name, as ``families.LogProb.time_log_prob``.
        version: of the benchmark.
        parameters: in words, as ``flow = maf, dimension = 2``.
        call: name and parameters as asv writes them.
        unit: of the values.
        commit: full hash.
        value: the median of the samples; NaN if the benchmark failed.
        best: the least sample; the value itself where there are no samples.
    """

    machine: str
    facts: str
    benchmark: str
    version: str
    parameters: str
    call: str
    unit: str
    commit: str
    value: float
    best: float

    @property
    def line(self) -> tuple[str, ...]:
        """The same for what is compared and drawn as one line."""
        return self.machine, self.facts, self.benchmark, self.version, self.call

    @property
    def is_time(self) -> bool:
        """Whether it is measured with a clock, and so never twice the same."""
        return self.unit == "seconds"

    @property
    def pattern(self) -> str:
        """What asv's ``--bench`` takes for it alone; may stand in single quotes."""
        return f"^{re.escape(self.call)}$".replace("'", ".")

    def __str__(self) -> str:
        return show(self.value, self.unit)


def show(value: float, unit: str) -> str:
    """A value with its unit, for reading.

    Example:
        >>> show(0.0123, "seconds"), show(6291456, "bytes"), show(26.0, "evaluations")
        ('12.3 ms', '6 MiB', '26 evaluations')
    """
    if math.isnan(value):
        return "failed"
    scales = {
        "seconds": [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")],
        "bytes": [(2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")],
    }
    for scale, name in scales.get(unit, []):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {name}"
    return f"{value:.0f} {unit}" if float(value).is_integer() else f"{value:.4g} {unit}"


def read(results: Path) -> list[Value]:
    """Every value in asv's folder of results, line by line; what was skipped is left out."""
    from asv.results import iter_results
    from asv.util import load_json

    path = results / "benchmarks.json"
    described: dict[str, Any] = load_json(str(path)) if path.is_file() else {}
    found = []
    for result in iter_results(str(results)) if described else ():
        facts = ", ".join(
            f"{name} {result.params[name]}"
            for name in ("cpu", "gpu", "torch", "python")
            if result.params.get(name)
        )
        for name in result.get_all_result_keys() & described.keys():
            # The commit's own parameters, which may be others than today's.
            params = result.get_result_params(name)
            rows = zip(
                itertools.product(*params),
                result.get_result_value(name, params),
                result.get_result_samples(name, params),
                strict=True,
            )
            for words, value, samples in rows:
                # asv's NaN: skipped; its None: failed.
                if value is not None and math.isnan(value):
                    continue
                median = math.nan if value is None else value
                named = zip(described[name]["param_names"], words, strict=False)
                found.append(
                    Value(
                        machine=result.params["machine"],
                        facts=facts,
                        benchmark=name,
                        version=str(result.benchmark_version.get(name)),
                        parameters=", ".join(f"{n} = {word.strip(chr(39))}" for n, word in named),
                        call=f"{name}({', '.join(words)})" if words else name,
                        unit=described[name]["unit"],
                        commit=result.commit_hash,
                        value=median,
                        best=min(samples) if samples else median,
                    )
                )
    return sorted(found, key=lambda value: value.line)


# -- comparing --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A difference between two commits past the threshold, the fraction that was exceeded."""

    before: Value
    after: Value
    threshold: float

    @property
    def worse(self) -> bool:
        """Whether it is a regression: lower is better throughout."""
        return math.isnan(self.after.value) or self.after.value > self.before.value

    @property
    def ratio(self) -> float:
        """After over before; infinite where there is no such number."""
        ratio = self.after.value / self.before.value if self.before.value else math.inf
        return math.inf if math.isnan(ratio) else ratio

    def sentence(self) -> str:
        """What changed, from what to what."""
        new = self.after
        where = f"{new.benchmark} ({new.parameters})" if new.parameters else new.benchmark
        if math.isnan(new.value):
            return f"{where} fails; it gave {self.before} before"
        if math.isnan(self.before.value):
            return f"{where} works again: {new}"
        return (
            f"{where}: {self.before} -> {new}, {self.ratio:.3g} times as much "
            f"(threshold {1 + self.threshold:.3g})"
        )


def threshold(benchmark: str, thresholds: Thresholds) -> float:
    """The fraction for a benchmark: that of the first pattern that matches.

    Example:
        >>> threshold("harness.Loading.time_load", {".*time_.*": 0.25})
        0.25
    """
    matching = (f for pattern, f in thresholds.items() if re.match(pattern, benchmark))
    return next(matching, DEFAULT_THRESHOLD)


def changes(
    before: Iterable[Value], after: Iterable[Value], thresholds: Thresholds
) -> list[Change]:
    """Differences past the threshold between two commits, both ways.

    A time has changed only if both its median and its best sample have: other work on the machine
    moves the one, a lucky moment the other, a change of the code moves both.
    """
    old = {value.line: value for value in before}
    pairs = [(old[value.line], value) for value in after if value.line in old]
    found = [Change(a, b, threshold(b.benchmark, thresholds)) for a, b in pairs]
    return [change for change in found if _is_past(change)]


def _is_past(change: Change) -> bool:
    low, high = change.before, change.after
    if math.isnan(low.value) or math.isnan(high.value):
        return math.isnan(low.value) != math.isnan(high.value)
    if not change.worse:
        low, high = high, low
    margins = [(low.value, high.value), (low.best, high.best)]
    return all(b > a + change.threshold * abs(a) for a, b in margins)


def steps(line: Sequence[Value], thresholds: Thresholds) -> list[Change]:
    """Changes past the threshold from one measured commit to the next, the oldest first.

    A time that is back where it was at the commit after that was the machine's doing.
    """
    found = []
    level = line[0]
    for value, later in itertools.zip_longest(line[1:], line[2:]):
        change = changes([level], [value], thresholds)
        if change and value.is_time and later is not None:
            still = changes([level], [later], thresholds)
            if [c.worse for c in change] != [c.worse for c in still]:
                continue
        found += change
        level = value
    return found


def sorted_by_size(found: Iterable[Change]) -> tuple[list[Change], list[Change]]:
    """Regressions, the worst first, and gains, the greatest first."""
    ordered = sorted(found, key=lambda change: change.ratio)
    worse = [change for change in reversed(ordered) if change.worse]
    return worse, [change for change in ordered if not change.worse]


def explain(benchmark: str, suite: Path) -> str:
    """What a benchmark does, by the docstring of its class, and where it is defined."""
    module, name, _ = benchmark.split(".")
    path = suite / f"{module}.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            text = (ast.get_docstring(node) or "").partition("\n")[0]
            return f"{text} ({'/'.join(path.parts[-4:])}:{node.lineno})"
    return str(path)
