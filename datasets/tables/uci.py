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
from pydantic import Field

from datasets.base import Array, DataCorrupt, Entry, named_generator
from datasets.files.recognise import content, starting_with
from datasets.files.sources import CC_BY, UCI, File, Form, Source, array_form, locate
from datasets.files.untrusted import npz
from datasets.stored import StoredConfig, check_sizes
from datasets.tables.steps import check_finite, read_csv, standardised_splits, uncorrelated

__all__ = ["UciConfig", "prepare_table"]

_REGRESSION = (
    "https://raw.githubusercontent.com/treforevans/uci_datasets/"
    "f0737523712fe66a1640e4b980b927e8490b58eb/uci_datasets"
)


SHAPES = {
    "magic": (19_020, 10),
    "protein": (45_730, 10),
    "keggundirected": (63_608, 28),
    "parkinsons": (5_875, 21),
}
"""Of the tables as they come."""


def _arrays(name: str, file: str, digest: str) -> Form:
    return array_form(file, {"x": (SHAPES[name], digest)}, f"*{name}*.npz")


def _regression(
    name: str, text: tuple[str, bytes], download: tuple[str, int], digest: str, citation: str
) -> Source:
    """One of the tables of the package uci_datasets: its text, its download, its array."""
    csv = File(
        f"{name}-data.csv.gz",
        content(*text),
        (f"{_REGRESSION}/{name}/data.csv.gz",),
        *download,
        patterns=("data.csv*", f"*{name}*.csv*"),
    )
    return Source(
        (Form("csv", (csv,)), _arrays(name, f"uci_{name}.npz", digest)),
        CC_BY,
        f"{citation}; as prepared by the uci_datasets package of T. Evans",
    )


SOURCES = {
    "magic": Source(
        (
            Form(
                "csv",
                (
                    File(
                        "magic04.data",
                        starting_with(b"28.7967,16.0021,2.6449,", "magic04.data"),
                        (f"{UCI}/magic/magic04.data",),
                        size=1_478_000,
                    ),
                ),
            ),
            _arrays(
                "magic",
                "magic_gamma.npz",
                "b06b59c2835ec124bcdb1daa0207773f884c4983212f698e295a7995d89f6944",
            ),
        ),
        CC_BY,
        "UCI 159, Bock 2004, doi:10.24432/C52C8B",
    ),
    "protein": _regression(
        "protein",
        (
            "6ccb1a6bf7e7ba40febe2b8226779cb62e4ca2fa4d193bdec8538c6b5f991ec5",
            b"4356.8,201.65,-0.076162,",
        ),
        ("sha256:f709d0107c3ee90ab019b9e5d77fc2ae182158958cb70b1903236a51334fd01b", 1_621_214),
        "910ec19e3741b7c5e9c400099a590a0b94755f961706e76870b0910f4da18276",
        "UCI 265, Rana 2013",
    ),
    "keggundirected": _regression(
        "keggundirected",
        (
            "8659e2c3a0acb334ab5859e7e7ce288974e152acf5f0d96e13ff8f8283e937e9",
            b"5.8974,-2.3094,-0.4319,-",
        ),
        ("sha256:117419270e50f581df18bf996ffc8b6bf1bb76c9f3640331ac9d6e64cff63d4e", 2_913_718),
        "67ac8197352e58252449665158b5b67322947bab9464e2961b90cc11035f2482",
        "UCI 221, Naeem and Asghar 2011",
    ),
    "parkinsons": _regression(
        "parkinsons",
        (
            "514813c9ae91ea070cb6eafcac612db990ea26cf631eb29e9457fbdd4a75f4bd",
            b"-20.494,7.1951,-0.31779,",
        ),
        ("sha256:d20ffd9c9e5053a03fff0b770e7b0e076bf856a34538198303c897b6cc6addde", 334_059),
        "26e02a1e5d98adf366e489e794cb6bd66ffbd299fe41823a015448ca27a9f96d",
        "UCI 189, Tsanas and Little 2009",
    ),
}

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
    return standardised_splits(rows)


def _distinct(rows: Array) -> Array:
    """The rows that repeat no earlier one, in their order."""
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)]


def _is_continuous(column: Array) -> bool:
    _, count = np.unique(column, return_counts=True)
    return len(count) >= 0.05 * len(column) and int(count.max()) <= 0.02 * len(column)


def _read(table: str) -> Array:
    found = locate(table, SOURCES[table])
    path = found.paths[0]
    if found.form == "npz":
        with npz(path) as arrays:
            rows = check_finite(arrays["x"].read().astype(np.float64), path)
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
    """A table of the UCI repository."""

    kind = "tabular"
    in_random_order = True

    table: Literal["magic", "protein", "keggundirected", "parkinsons"] = Field(
        "magic", description="which one"
    )

    def sizes(self) -> tuple[int, int, int]:
        return SIZES[self.table][0]

    def files(self) -> Source:
        return SOURCES[self.table]

    def source(self) -> str:
        return self.table

    def prepare(self) -> Sequence[Array]:
        splits = prepare_table(_read(self.table), named_generator("uci", self.table, "shuffle"))
        sizes, dimension = SIZES[self.table]
        check_sizes(self.table, splits, sizes, dimension)
        return splits


ENTRIES = [
    Entry(
        "magic",
        UciConfig,
        "showers in a gamma telescope, 10 columns",
        "UCI 159, Bock 2004",
        {"table": "magic"},
        hashes={
            "train": "4dfd5b139ae1cbd4029efc262f76fe15904953b8f456850cca50b64e39e2e648",
            "validation": "b083b1aa84b1821286ac969dbdefd4c5b0334d9f2dc46b780807e9a622274421",
            "test": "60f08440e002e2d378bc8b69362324c7fa64e6a284a9850c15bfbed5488975f8",
        },
    ),
    Entry(
        "protein",
        UciConfig,
        "properties of protein structures, 8 columns",
        "UCI 265, Rana 2013",
        {"table": "protein"},
        hashes={
            "train": "9b2ae4aa90b1358d47062cbf615e518e39c492e6d1aee281874c6afbd0a2b347",
            "validation": "a6b1668dd9574a5486767c016fd3411c8bba87931095a395232473dd864dfc8f",
            "test": "2b85077d637f1d3f3b7f262ab93de8d5cb96bf16c35fc4b8e1133bc011e06035",
        },
    ),
    Entry(
        "keggundirected",
        UciConfig,
        "metabolic networks, 10 columns",
        "UCI 221, Naeem and Asghar 2011",
        {"table": "keggundirected"},
        hashes={
            "train": "b1f0aaeeb833a76088939225ece3c4c4509df704b7613c06a5f8279ec4e24524",
            "validation": "1aaef0b2c30b3fee93deb9e9aed691003052896dc6181a832d320ded4ba168a2",
            "test": "55024c57ebea2bb5fb92abd316e9e0033b0ee8e705e01c7587b894063145e3bc",
        },
    ),
    Entry(
        "parkinsons",
        UciConfig,
        "recordings of patients' voices, 14 columns",
        "UCI 189, Tsanas and Little 2009",
        {"table": "parkinsons"},
        hashes={
            "train": "8911398d403b4712badecb39781fed0f3e46dec797984859ece72e9e31549fef",
            "validation": "551fdde598bc427403b331d33b1e3f6df9945ded882634024ca5e109b89e3aba",
            "test": "f07c3bb456fe6ffac813a95cfc16f3d2a51d52f288b7f3c372bf82cbf938c915",
        },
    ),
]
