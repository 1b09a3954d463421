"""Further real tables: MAGIC, protein, keggundirected and parkinsons, all prepared alike.

The literature on flows has no figures for these, so the steps are this project's own, in the
spirit of Papamakarios et al. 2017 (arXiv:1705.07057, appendix), who drop discrete columns and
near copies of others lest a density has no bound:

1. a column goes in which fewer than 5 % of the distinct rows have values of their own, or in which
   one value holds for more than 2 % of them;
2. of columns that correlate by more than 0.98 the first goes, as in GAS;
3. rows that now repeat an earlier one go;
4. the rest is shuffled; the last tenth is the test split, a tenth of what remains validation;
5. train and validation serve to standardise.

Inputs and target are taken together. Values that recur remain, above all in keggundirected:
compare flows there, not densities with those of other sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from datasets.base import Array, DataCorrupt, named_seed
from datasets.recognise import DAMAGE
from datasets.sources import locate
from datasets.stored import StoredConfig
from datasets.tables import (
    check_finite,
    check_sizes,
    read_csv,
    split_off,
    standardise,
    uncorrelated,
)

__all__ = ["UciConfig", "prepare_table"]

SHAPES = {
    "magic": (19_020, 10),
    "protein": (45_730, 10),
    "keggundirected": (63_608, 28),
    "parkinsons": (5_875, 21),
}
"""Of the tables as they come."""

SIZES = {
    "magic": ((15_314, 1_701, 1_890), 10),
    "protein": ((35_656, 3_961, 4_401), 8),
    "keggundirected": ((10_902, 1_211, 1_345), 10),
    "parkinsons": ((4_760, 528, 587), 14),
}
"""Of the splits, and their number of columns."""


def prepare_table(rows: Array, random: np.random.Generator) -> list[Array]:
    """The steps above.

    Args:
        rows: float64, shape ``(n, columns)``.
        random: shuffles.

    Returns:
        Train, validation and test, float32.
    """
    rows = _distinct(rows)
    kept = [i for i, column in enumerate(rows.T) if _is_continuous(column)]
    rows = rows[:, kept]
    rows = _distinct(rows[:, uncorrelated(rows)])
    rows = rows[random.permutation(len(rows))]
    splits = split_off(rows)
    return standardise(splits, rows[: len(splits[0]) + len(splits[1])])


def _distinct(rows: Array) -> Array:
    """The rows that repeat no earlier one, in their order."""
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)]


def _is_continuous(column: Array) -> bool:
    _, count = np.unique(column, return_counts=True)
    return len(count) >= 0.05 * len(column) and int(count.max()) <= 0.02 * len(column)


def _read(table: str) -> Array:
    found = locate(table)
    path = found.paths[0]
    if found.form == "npz":
        try:
            with np.load(path) as arrays:
                rows = check_finite(arrays["x"].astype(np.float64), path)
        except DAMAGE as error:
            raise DataCorrupt(f"{path} is no complete .npz file ({error})") from error
    elif table == "magic":
        # Its last column is a letter, the class.
        rows = read_csv(path, columns=SHAPES[table][1], header=False, take=SHAPES[table][1])
    else:
        rows = read_csv(path, columns=SHAPES[table][1], header=False)
    if rows.shape != SHAPES[table]:
        raise DataCorrupt(f"{path} should hold {SHAPES[table]} numbers, not {rows.shape}")
    # The same numbers in every form: the archives have MAGIC in single precision.
    return rows.astype(np.float32).astype(np.float64) if table == "magic" else rows


class UciConfig(StoredConfig):
    """A table of the UCI repository.

    Attributes:
        table: which one.
    """

    kind = "tabular"
    in_random_order = True

    table: Literal["magic", "protein", "keggundirected", "parkinsons"] = "magic"

    def sizes(self) -> tuple[int, int, int]:
        return SIZES[self.table][0]

    def source(self) -> str:
        return self.table

    def prepare(self) -> Sequence[Array]:
        seed = named_seed("uci", self.table, "shuffle")
        splits = prepare_table(_read(self.table), np.random.Generator(np.random.PCG64(seed)))
        sizes, dimension = SIZES[self.table]
        check_sizes(self.table, splits, sizes, dimension)
        return splits
