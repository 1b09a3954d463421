"""A user's own table of numbers: checked, dequantised where discrete, divided, standardised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from datasets.base import SPLITS, Array, Column, DataError, Dataset, Entry, Split, make_dataset
from datasets.files.arrays import numbers, read_frame, without
from datasets.own import OwnConfig

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Discreteness", "OwnTableConfig", "discreteness"]

# A value that more than this part of the rows share, and this many of them, is no chance.
_COMMON = 0.02
_COMMON_ROWS = 10

# Standard deviations beyond these overflow when they are squared, or underflow.
_SMALLEST, _LARGEST = 1e-150, 1e150


@dataclass(frozen=True)
class Discreteness:
    """What is known of the values of a column that is not, or not throughout, continuous.

    Attributes:
        values: how many there are.
        whole: whether all are whole numbers.
        spacing: the smallest distance between two of them; None if the column is continuous but
            for values that many rows share.
        shared: the part of the rows that share such a value.
    """

    values: int
    whole: bool
    spacing: float | None
    shared: float


def discreteness(column: Array) -> Discreteness | None:
    """Tell a discrete column, of which a flow's density would have no bound.

    It is discrete if all values are whole numbers, or if they are few: on average two rows or more
    have the same value. Values that more than 2 % of the rows (and ten of them) share do not count
    where the others are many: a rain gauge that is mostly dry is continuous but for its zeros, and
    no noise of one width mends it.

    Args:
        column: float64, shape ``(n,)``, finite.

    Returns:
        None for a continuous column, and for a constant one.

    Example:
        >>> discreteness(np.array([0.0, 0.5, 0.5, 2.0, 0.0, 2.0])).spacing
        0.5
        >>> discreteness(np.array([3.0, 5.0, 9.0])).spacing
        2.0
        >>> discreteness(np.array([0.1, 0.25, 0.3])) is None
        True
    """
    values, counts = np.unique(column, return_counts=True)
    if len(values) < 2:
        return None
    whole = bool((values == np.round(values)).all())
    common = counts > max(_COMMON * len(column), _COMMON_ROWS)
    rest = counts[~common]
    with np.errstate(over="ignore"):
        gaps = np.diff(values)
    if whole or 2 * len(rest) <= rest.sum():
        # Decimal fractions that should be equal may differ in their last bits.
        spacing = float(gaps[gaps > 1e-12 * np.abs(values).max()].min(initial=np.inf))
        if np.isfinite(spacing):
            return Discreteness(len(values), whole, spacing, 0.0)
    if common.any():
        return Discreteness(len(values), whole, None, float(counts[common].sum() / len(column)))
    return None


class OwnTableConfig(OwnConfig):
    """Your own table: CSV, TSV, Parquet, NPY, NPZ or HDF5, one row a datum.

    Columns that are constant in the training rows are dropped. A column of whole numbers or of few
    values is discrete, and the likelihood of a flow has no bound there: uniform noise on
    ``[0, spacing)`` is added to it, the same in every split. The rest is standardised by mean and
    standard deviation of the training rows of split 0, so that a row has the same values in every
    split. What was dropped or changed is in :attr:`datasets.base.Dataset.remarks`, the moments in
    :attr:`datasets.base.Dataset.columns`.
    """

    kind = "tabular"
    example = "my.csv"

    drop_columns: list[str] = Field(
        default=[], description="names of columns to leave out, text for example"
    )
    missing: Literal["refuse", "drop"] = Field(
        "refuse", description='"drop" leaves out rows with a value that is missing or infinite'
    )
    dequantise: bool = Field(
        True, description="noise for discrete columns; if false, they are refused"
    )

    def read(self, path: Path) -> pd.DataFrame:
        """The table of a file, without the columns that are to be left out, as float64."""
        frame = without(read_frame(path, self.array), self.drop_columns, path)
        if frame.shape[1] == 0:
            raise DataError(f"{path} has no column left")
        for name in frame.columns:
            frame[name] = numbers(frame[name], path)
        return frame

    def whole(self, name: str) -> Dataset:
        import pandas as pd

        remarks: list[str] = []
        paths = self.paths(name)
        frames: dict[Split, pd.DataFrame] = {}
        for split, path in paths.items():
            frame = self.read(path)
            if list(frame.columns) != list(frames.get("train", frame).columns):
                raise DataError(
                    f"{path} has the columns {', '.join(frame.columns)}, "
                    f"but {self.path} has {', '.join(frames['train'].columns)}"
                )
            frames[split] = self._complete(frame, path, remarks)
        table = pd.concat(list(frames.values()), ignore_index=True)
        counts = {split: len(frame) for split, frame in frames.items()}
        seen = self.divide(counts, 0)["train"]
        columns: list[Column] = []
        standard: list[Array] = []
        constant: list[str] = []
        noisy: dict[str, Discreteness] = {}
        for column in table.columns:
            values = table[column].to_numpy()
            if values[seen].min() == values[seen].max():
                constant.append(column)
                continue
            if (values[1:] == values[:-1] + 1).all():
                remarks.append(
                    f"column {column!r} numbers the rows: drop_columns = [{column!r}] leaves it out"
                )
            found = discreteness(values)
            spacing = None if found is None else found.spacing
            if found is not None and spacing is None:
                remarks.append(
                    f"column {column!r}: {100 * found.shared:.1f} % of the rows share a few "
                    "values, the others are continuous: the density has no bound there"
                )
            if found is not None and spacing is not None:
                noisy[column] = found
                values = values + spacing * self._random("noise", column).random(len(values))
            columns.append(_moments(column, values[seen], spacing, self.path))
            standard.append((values - columns[-1].mean) / columns[-1].deviation)
        if not columns:
            raise DataError(f"{self.path}: every column is constant in the training rows")
        if noisy and not self.dequantise:
            raise DataError(
                f"{self.path}: the density of a discrete column has no bound: "
                f"{'; '.join(_described(column, found) for column, found in noisy.items())}; "
                f"dequantise = true adds noise, drop_columns = {list(noisy)} leaves them out"
            )
        remarks += [
            f"{_described(column, found)}: uniform noise on [0, {found.spacing:g}) was added"
            for column, found in noisy.items()
        ]
        if constant:
            remarks.append(f"constant columns were dropped: {', '.join(map(repr, constant))}")
        rows = np.stack(standard, axis=1).astype(np.float32)
        division = self.divide(counts, self.split)
        return make_dataset(
            name,
            self.kind,
            [rows[division[split]] for split in SPLITS],
            hashes=self.file_hashes(paths),
            columns=tuple(columns),
            remarks=tuple(remarks),
        )

    def _complete(self, frame: pd.DataFrame, path: Path, remarks: list[str]) -> pd.DataFrame:
        """The rows without a missing or infinite value."""
        bad = ~np.isfinite(frame.to_numpy())
        if not bad.any():
            return frame
        incomplete = bad.any(axis=1)
        if self.missing == "refuse":
            row, position = (int(index) for index in np.argwhere(bad)[0])
            column = frame.columns[position]
            raise DataError(
                f"{path}, row {row + 1}, column {column!r}: {frame.iloc[row, position]!s} "
                f"({int(incomplete.sum())} of {len(frame)} rows have such a value); "
                f'missing = "drop" leaves these rows out, drop_columns = [{column!r}] the column'
            )
        remarks.append(
            f"{int(incomplete.sum())} of {len(frame)} rows of {path.name} were dropped for a value "
            "that is missing or infinite"
        )
        kept: pd.DataFrame = frame.drop(index=frame.index[incomplete])
        return kept


def _moments(name: str, seen: Array, spacing: float | None, path: str) -> Column:
    """Mean and standard deviation of a column's training values, where they can be had."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        mean, deviation = float(seen.mean()), float(seen.std())
    if not (_SMALLEST < deviation < _LARGEST):
        raise DataError(
            f"{path}, column {name!r}: values from {seen.min():g} to {seen.max():g} cannot be "
            f"standardised; rescale it, or leave it out with drop_columns = [{name!r}]"
        )
    return Column(name, mean, deviation, spacing)


def _described(column: str, found: Discreteness) -> str:
    return f"column {column!r} has {found.values} {'whole ' if found.whole else ''}values"


ENTRIES = [
    Entry(
        "table",
        OwnTableConfig,
        "your own table of numbers: path = a CSV, TSV, Parquet, NPY, NPZ or HDF5 file",
        "your own file",
    )
]
