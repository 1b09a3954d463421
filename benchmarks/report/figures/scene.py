"""What a figure is made from and what it is: the contestants with their looks, and a drawing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.report.groups import label_order
from benchmarks.report.records import Records
from benchmarks.report.style import Look, flow_order, variant_looks

__all__ = ["Drawn", "Scene", "short_titles"]


@dataclass(frozen=True)
class Drawn:
    """A figure that is to be written.

    Attributes:
        figure: made by :func:`benchmarks.report.figures.panels.panels`, not by pyplot.
        name: of its files.
        title: one line.
        caption: what is shown, and how it was measured.
    """

    figure: Figure
    name: str
    title: str
    caption: str


@dataclass(frozen=True)
class Scene:
    """The records, and how each of their contestants looks in every figure.

    Attributes:
        records: of the section.
        looks: by contestant, as the tables name it: the flow, and what of its options and setting
            differs; in the order of every legend.
        apart: the columns that tell no contestants apart, since a sweep is over them.
    """

    records: Records
    looks: dict[str, Look]
    apart: tuple[str, ...] = ()

    @classmethod
    def of(cls, records: Records, apart: Iterable[str] = ()) -> Scene:
        """The scene of some records.

        Args:
            records: of the section.
            apart: as :meth:`Records.names` takes it.
        """
        apart = tuple(apart)
        cells = records.cells
        rows = set(zip(cells["flow_name"], records.names(cells, apart), strict=True))
        variants: dict[str, list[str]] = {}
        for flow, name in sorted(rows, key=lambda row: (flow_order(row[0]), _order(row[1]))):
            variants.setdefault(flow, []).append(name)
        return cls(records, variant_looks(variants), apart)

    def sweep(self, *apart: str) -> Scene:
        """The scene of a sweep over columns such as ``flow.rtol`` or ``budget.batch_size``.

        Contestants that differ in these alone are one there, with one look and one line.
        """
        return Scene.of(self.records, apart)

    @property
    def interval(self) -> str:
        """What a band or an error bar is, for captions."""
        over = "seeds"
        if self.records.cells["split"].nunique() > 1:
            over = "splits where a data set has several (each the mean over its seeds), else seeds"
        return f"95 % t interval over {over}, where there are two or more"

    def named(self, cells: pd.DataFrame) -> pd.DataFrame:
        """The cells that ended well, with ``contestant`` and with ``line``.

        Cells of one ``line`` differ in data set, seed and what the sweep is over alone.
        """
        cells = cells[cells["status"] == "ok"]
        names = self.records.names(cells, self.apart)
        settings = self.records.settings(cells, self.apart)
        return cells.assign(contestant=names, line=names + "|" + settings)

    def present(self, names: Iterable[str]) -> list[str]:
        """The contestants among these, in the order of every legend."""
        among = set(names)
        return [name for name in self.looks if name in among]


def short_titles(names: Iterable[str]) -> tuple[dict[str, str], str]:
    """What tells contestants apart among each other, for the small panels of one figure.

    Returns:
        A title for each, no two alike, and a sentence for the caption that says what was left out
        of them; empty if nothing was.

    Example:
        >>> short_titles(["maf · steps 5", "glow[k=1]", "glow[k=1,n=2]"])[0]
        {'maf · steps 5': 'maf', 'glow[k=1]': 'glow', 'glow[k=1,n=2]': 'glow, n=2'}
    """
    parts = {name: _parts(name) for name in names}
    titles = {}
    for name, (flow, said) in parts.items():
        others = [set(own) for other, own in parts.values() if other == flow]
        shared = set.intersection(*others)
        titles[name] = ", ".join([flow, *(part for part in said if part not in shared)])
    shortened = [name for name, title in titles.items() if title != name]
    return titles, f" In full: {'; '.join(parts)}." if shortened else ""


def _parts(name: str) -> tuple[str, list[str]]:
    """A contestant's flow, and its options and settings."""
    label, _, settings = name.partition(" · ")
    flow, _, options = label.partition("[")
    said = [*options.removesuffix("]").split(","), *settings.split(", ")]
    return flow, [part for part in said if part]


def _order(contestant: str) -> tuple[tuple[tuple[int, float, str], ...], str]:
    flow, _, label = contestant.partition(" · ")
    return label_order(flow), label
