"""What a measure is: a family of columns, and what of each column a report has to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from benchmarks.measures.subject import Subject

__all__ = ["Column", "Family", "Sort", "Stage", "with_quartile_columns"]

Stage = Literal["quality", "cost"]
Sort = Literal["quality", "number", "count", "time", "ratio", "flag", "text"]


@dataclass(frozen=True)
class Column:
    """One measured number, and how a report shows it.

    Attributes:
        name: of the column in the records; where it has a unit it ends in that.
        meaning: one sentence for the reader of a report, with the unit of the stored values.
        sort: ``quality`` is what training is for, of which a flow that was not trained says
            nothing; ``time`` and ``ratio`` (of times) mean nothing where others used the device;
            ``count`` is of things, shown without digits where it is whole; ``number`` is any other
            number; a ``flag`` is so or not, and is not where no record
            says it; ``text``.
        unit: in which it is shown; empty for counts and ratios.
        heading: what a table calls it, without the unit.
        axis: what the axis of a figure calls it, without the unit; the heading if empty.
        factor: from the stored value to the unit shown, such as 1e3 from seconds to ms.
        digits: after the point; None for three significant ones.
        interval: whether its spread over seeds says something: False for what is counted.
        table: the table that it is a column of by itself: ``cost`` (of a training step, a density,
            a sample), or ``comparison`` (a table of its own, contestants by data sets; lower is
            better). Empty for what stands beside others or belongs to one study.
    """

    name: str
    meaning: str
    sort: Sort = "number"
    unit: str = ""
    heading: str = ""
    axis: str = ""
    factor: float = 1.0
    digits: int | None = None
    interval: bool = True
    table: Literal["", "cost", "comparison"] = ""

    @property
    def title(self) -> str:
        """The heading of a table's column, with the unit."""
        return self._with_unit(self.heading or self.name)

    @property
    def label(self) -> str:
        """The label of an axis, with the unit."""
        return self._with_unit(self.axis or self.heading or self.name)

    def _with_unit(self, words: str) -> str:
        return f"{words} [{self.unit}]" if self.unit else words


@dataclass(frozen=True)
class Family:
    """What is measured together, as a file of measures states it in its list ``ENTRIES``.

    Attributes:
        name: as given in a matrix file.
        summary: one line for ``list measures``.
        stage: ``quality`` may share the machine with other cells, ``cost`` has it alone.
        version: raised by hand when its numbers no longer compare with those before
            (:mod:`benchmarks.versions`).
        columns: all that it may fill.
        measure: the columns' values of a trained flow; one that does not apply is left out.
        place: families of a stage run in this order.
        by_default: whether a matrix that names no measures has it. A family that comes later must
            not: it would change the keys of cells that were measured before.
        origin: where a family from outside the project comes from, with its version or the hash of
            its file. Set by :func:`benchmarks.measures.add`.
    """

    name: str
    summary: str
    stage: Stage
    version: int
    columns: tuple[Column, ...]
    measure: Callable[[Subject], Mapping[str, Any]]
    place: int = 50
    by_default: bool = False
    origin: str = ""


def with_quartile_columns(column: Column, lower: str, upper: str) -> tuple[Column, Column, Column]:
    """A column and its quartiles, which stand beside it in the records and in no table.

    Args:
        column: of a median.
        lower: what its lower quartile means.
        upper: what its upper quartile means.
    """
    beside = replace(column, heading="", axis="", table="")
    return (
        column,
        replace(beside, name=f"{column.name}_q25", meaning=lower),
        replace(beside, name=f"{column.name}_q75", meaning=upper),
    )
