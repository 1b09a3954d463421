"""Reading and checking tables of numbers that users supply."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.base import Array, DataCorrupt
from datasets.files.untrusted import open_plain, reading

__all__ = [
    "check_finite",
    "read_csv",
    "split_off",
    "standardise",
    "standardised_splits",
    "uncorrelated",
]


def read_csv(
    path: Path, *, columns: int | Sequence[int], header: bool, take: int | None = None
) -> Array:
    """Read a comma-separated table of numbers, compressed by gzip or not.

    Args:
        path: of the file.
        columns: how many there must be, or may be.
        header: whether the first line names the columns.
        take: how many columns to read, from the left; None for all.

    Returns:
        Float64, shape ``(rows, columns)``.

    Raises:
        DataCorrupt: if there are other columns, or a value is missing or no number; the message
            names the line.
    """
    import pandas as pd

    with reading(path, "table"), open_plain(path) as stream:
        table = pd.read_csv(
            stream,
            header=0 if header else None,
            index_col=False,
            usecols=None if take is None else range(take),
            low_memory=False,
        )
    allowed = (columns,) if isinstance(columns, int) else columns
    if table.shape[1] not in allowed:
        due = " or ".join(map(str, allowed))
        raise DataCorrupt(f"{path} has {table.shape[1]} columns where {due} are due")
    for position, column in enumerate(table):
        if not pd.api.types.is_numeric_dtype(table[column]):
            numbers = pd.to_numeric(table[column], errors="coerce")
            row = int(np.flatnonzero(numbers.isna())[0])
            raise DataCorrupt(
                f"{path}, line {row + 1 + header}, column {position + 1}: "
                f"{table[column].iloc[row]!r} is no number"
            )
    return check_finite(table.to_numpy(dtype=np.float64), path, first_line=1 + header)


def check_finite(array: Array, path: Path, first_line: int | None = None) -> Array:
    """Refuse NaN and infinity.

    Args:
        array: shape ``(rows, columns)``.
        path: of the file that it comes from.
        first_line: where the file is a text, the number of its first row's line.

    Raises:
        DataCorrupt: naming the first bad place.
    """
    bad = ~np.isfinite(array)
    if bad.any():
        row, column = (int(index) for index in np.argwhere(bad)[0])
        where = f"row {row}" if first_line is None else f"line {row + first_line}"
        raise DataCorrupt(
            f"{path}, {where}, column {column + 1}: {array[row, column]} is no number"
        )
    return array


def standardise(splits: Sequence[Array], seen: Array, ddof: int = 0) -> list[Array]:
    """Subtract means and divide by standard deviations, then convert to float32.

    Args:
        splits: float64, shape ``(n, columns)`` each.
        seen: the rows whose moments serve.
        ddof: 1 where the literature's code divides by n - 1 (pandas), 0 where by n (NumPy).
    """
    mean, deviation = seen.mean(axis=0), seen.std(axis=0, ddof=ddof)
    return [((split - mean) / deviation).astype(np.float32) for split in splits]


def split_off(rows: Array) -> tuple[Array, Array, Array]:
    """The literature's split: the last tenth is the test set, a tenth of the rest validation.

    Args:
        rows: shape ``(n, columns)``.

    Returns:
        Train, validation and test, views of ``rows``.

    Example:
        >>> [len(split) for split in split_off(np.zeros((36_488, 43)))]
        [29556, 3284, 3648]
    """
    test = len(rows) - len(rows) // 10
    train = test - test // 10
    return rows[:train], rows[train:test], rows[test:]


def standardised_splits(rows: Array) -> list[Array]:
    """Those of :func:`split_off`, float32, standardised with training and validation rows."""
    splits = split_off(rows)
    return standardise(splits, rows[: len(splits[0]) + len(splits[1])])


def uncorrelated(rows: Array) -> list[int]:
    """Which columns are left when near copies of others are dropped, one after another.

    As the code published with the MAF paper does it for GAS: while a column has a correlation above
    0.98 with another, the first such column goes.

    Args:
        rows: shape ``(n, columns)``.

    Returns:
        The kept columns, in their order.
    """
    close = np.corrcoef(rows, rowvar=False) > 0.98
    kept = list(range(rows.shape[1]))
    while True:
        count = close[np.ix_(kept, kept)].sum(axis=1)
        if (count <= 1).all():
            return kept
        del kept[int(np.flatnonzero(count > 1)[0])]
