"""What is measured of a trained flow, one family a file.

A family is a module with

``STAGE``
    ``quality``: may share the machine with other cells, or ``cost``: has it alone.
``VERSION``
    raised by hand when its numbers no longer compare with those before; :mod:`benchmarks.versions`
``COLUMNS``
    each column that it fills, with what it means and its unit.
``measure(subject) -> dict``
    the columns' values for a trained flow; a column that does not apply is left out.

Modules are imported when first needed, so that planning a run does not load them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType

__all__ = ["FAMILIES", "complete", "family", "of_stage"]

FAMILIES: dict[str, str] = {
    "quality": "log-likelihood of the test split, distance to the truth where it is known",
    "work": "network evaluations: of a training step, a density, a sample",
    "variance": "spread of the estimators of the trace and of the log-density",
    "faithfulness": "how exactly the flow is inverted, how its density integrates",
    "pictures": "densities and samples of 2-D sets, for the report's panels",
    "time": "seconds of a training step, a density, a sample",
    "memory": "peak memory of a training step",
    "ratio": "times over those of a reference, in interleaved pairs, and over those of the "
    "matrix products alone",
    # Last: the first training step of a process and its peak memory are not to see it.
    "machine": "what a large matrix product reaches here; in every cell whose cost is measured",
}
"""Every family with what it is for, in the order in which they run."""


def complete(chosen: Iterable[str]) -> tuple[str, ...]:
    """All families that are measured where these are chosen, in order.

    Example:
        >>> complete(["time", "quality"])
        ('quality', 'time', 'machine')
    """
    chosen = set(chosen)
    wanted = {*of_stage(chosen, "quality"), *of_stage(chosen, "cost")}
    return tuple(name for name in FAMILIES if name in wanted)


def of_stage(chosen: Iterable[str], stage: str) -> list[str]:
    """The families to be measured in a stage, in order.

    Args:
        chosen: a cell's families. What the machine can do is measured with the cost of any.
        stage: ``quality`` or ``cost``.

    Example:
        >>> of_stage(("quality", "time"), "cost")
        ['time', 'machine']
    """
    names = {name for name in chosen if stage == family(name).STAGE}
    if names and stage == "cost":
        names.add("machine")
    return [name for name in FAMILIES if name in names]


def family(name: str) -> ModuleType:
    """The module of a family."""
    return importlib.import_module(f"benchmarks.measures.{name}")
