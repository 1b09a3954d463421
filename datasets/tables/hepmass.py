"""HEPMASS: simulated particle collisions, as the MAF paper prepares them.

Papamakarios et al. 2017 (arXiv:1705.07057, appendix), in the form of their published code:
collisions that produce the new particle (class 1), mass 1000; standardised with the training file;
features in which a value recurs are dropped; the last tenth of training is validation.
"""

from __future__ import annotations

from collections.abc import Sequence

from datasets.base import Array, DataCorrupt, Entry, Published
from datasets.files.recognise import starting_with
from datasets.files.sources import CC_BY, UCI, File, Form, Source
from datasets.stored import StoredConfig
from datasets.tables.maf import MAF, MAF_ARCHIVE
from datasets.tables.steps import read_csv, standardise

__all__ = ["HepmassConfig", "prepare_hepmass"]

SOURCE = Source(
    (
        Form(
            "csv",
            (
                File(
                    "1000_train.csv.gz",
                    starting_with(b"", "1000_train.csv"),
                    (f"{UCI}/00347/1000_train.csv.gz",),
                    patterns=("*1000_train.csv*",),
                ),
                File(
                    "1000_test.csv.gz",
                    starting_with(b"", "1000_test.csv"),
                    (f"{UCI}/00347/1000_test.csv.gz",),
                    patterns=("*1000_test.csv*",),
                ),
            ),
        ),
        Form("archive", (MAF_ARCHIVE,)),
    ),
    CC_BY,
    f"UCI 347, Baldi et al. 2016, arXiv:1601.07913; {MAF}",
)

FEATURES = 27


def prepare_hepmass(train: Array, test: Array) -> list[Array]:
    """Choose class and features, standardise, split.

    Args:
        train: rows of label and features, shape ``(n, 28)``.
        test: the same, shape ``(n, 28)``, or 29 with a stray last column, as published.

    Returns:
        Train, validation and test, float32.

    Raises:
        DataCorrupt: if no row is of class 1.
    """
    signal = train[train[:, 0] == 1, 1 : 1 + FEATURES]
    unseen = test[test[:, 0] == 1, 1 : 1 + FEATURES]
    if not (len(signal) > 1 and len(unseen)):
        raise DataCorrupt("hepmass: no row has the label 1 in its first column")
    # Discrete features are told by their smallest value occurring more than five times.
    kept = (signal == signal.min(axis=0)).sum(axis=0) <= 5
    start = len(signal) - int(0.1 * len(signal))
    return standardise(
        [signal[:start, kept], signal[start:, kept], unseen[:, kept]], signal[:, kept], ddof=1
    )


class HepmassConfig(StoredConfig):
    """HEPMASS: 315,123 / 35,013 / 174,987 rows of 21 columns.

    The test split is a file of its own at the source, and so stays what it is in every ``split``.
    """

    kind = "tabular"
    stored_as = "hepmass"
    origin = SOURCE
    split_sizes = (315_123, 35_013, 174_987)
    columns = 21
    test_is_published = True

    def prepare(self) -> Sequence[Array]:
        with self.located().opened("1000_train.csv", "1000_test.csv") as (train, test):
            return prepare_hepmass(
                read_csv(train, columns=FEATURES + 1, header=True),
                read_csv(test, columns=(FEATURES + 1, FEATURES + 2), header=True),
            )


ENTRIES = [
    Entry(
        "hepmass",
        HepmassConfig,
        "particle collisions, 21 columns, as the MAF paper prepares it",
        "UCI 347; Papamakarios et al. 2017, arXiv:1705.07057",
        published=Published(-27.93, 0.02, 0.02, "HEPMASS"),
    )
]
