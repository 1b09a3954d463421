"""The contract that every data set of the suite keeps.

A :class:`DatasetConfig` holds typed options; its ``load`` gives a :class:`Dataset`: three splits,
the preprocessing from what is stored to what a flow models, and the truth where it is known. Three
kinds of sets derive from it: those that are drawn from a known density (:mod:`datasets.sampling`),
those that are read from known files (:mod:`datasets.stored`), and those that a user's own files
make (:mod:`datasets.own`).

``raw``
    what a split stores: float32 rows, already standardised where the literature does so, or the
    integers of an image.
``x``
    what a flow models: ``raw`` after :class:`Preprocessing` (dequantisation, logit).

All randomness of a data set (splits, noise, toy samples) comes from generators named by the set
and the purpose (:func:`named_seed`), never from a global one, so that a name and its options
stand for the same numbers on every machine.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

if TYPE_CHECKING:
    from datasets.files.sources import Source

__all__ = [
    "KINDS",
    "SPLITS",
    "Array",
    "Column",
    "DataCorrupt",
    "DataError",
    "DataMissing",
    "Dataset",
    "DatasetConfig",
    "Entry",
    "Preprocessing",
    "Published",
    "Split",
    "Truth",
    "array_hash",
    "named_generator",
    "named_seed",
]

Split = Literal["train", "validation", "test"]
Kind = Literal["toy", "family", "tabular", "image"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SPLITS: tuple[Split, ...] = get_args(Split)
Array = np.ndarray[Any, np.dtype[Any]]


class DataError(Exception):
    """Any error about data that a user can mend; the base of the others."""


class DataMissing(DataError, FileNotFoundError):
    """A file of a data set is not there; the message says which one and where to get it."""

    def __str__(self) -> str:
        return str(self.args[0])


class DataCorrupt(DataError, ValueError):
    """A file of a data set is not what it should be; the message names file and difference."""


def named_seed(*names: object) -> int:
    """A 63-bit seed that depends on names alone, the same on every machine.

    Example:
        >>> named_seed("power", "minute noise") == named_seed("power", "minute noise")
        True
    """
    text = "/".join(map(str, names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def named_generator(*names: object) -> np.random.Generator:
    """NumPy's PCG64 from :func:`named_seed` of the names."""
    return np.random.Generator(np.random.PCG64(named_seed(*names)))


def array_hash(array: Array) -> str:
    """sha256 of an array's dtype, shape and values, so that drifted data are noticed."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class Preprocessing(abc.ABC):
    """An invertible map from what is stored to what a flow models."""

    @abc.abstractmethod
    def forward(
        self, raw: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Stored values to model values.

        Args:
            raw: shape ``(n, *event_shape)``, of the stored dtype.
            generator: source of the dequantisation noise, on whichever device: one on the CPU
                gives the same noise to every device. None for torch's global one of the device
                of ``raw``.

        Returns:
            ``x``, float32, shape ``(n, *event_shape)``, and ``log |det dx/draw|`` in nats, shape
            ``(n,)``: what is to be added to a flow's ``log_prob(x)`` for the density of ``raw``
            (for integers: of ``raw`` + U[0, 1), which bounds their log-probability from below;
            Theis et al. 2015, arXiv:1511.01844, section 3.1).
        """

    @abc.abstractmethod
    def inverse(self, x: Tensor) -> Tensor:
        """Model values to stored ones, as floats (integers + U[0, 1) for images)."""


class Identity(Preprocessing):
    """Nothing to do: the stored values are what is modelled."""

    def forward(
        self, raw: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return raw, raw.new_zeros(len(raw))

    def inverse(self, x: Tensor) -> Tensor:
        return x


class Truth:
    """The true density of a data set, where it is known.

    Args:
        log_prob: points ``(n, *event_shape)`` in float64 to nats ``(n,)``, in the coordinates
            that a flow models.
        entropy_nats: the differential entropy, or a function that computes it; it is called
            when :attr:`entropy_nats` is first read, so that loading does not pay for a
            quadrature that nobody asks for.

    Attributes:
        log_prob: as given.

    Example:
        >>> Truth(lambda x: -x[:, 0], lambda: 1.0).entropy_nats
        1.0
    """

    def __init__(
        self,
        log_prob: Callable[[Tensor], Tensor],
        entropy_nats: float | Callable[[], float],
    ) -> None:
        self.log_prob = log_prob
        self._entropy_nats = entropy_nats

    @cached_property
    def entropy_nats(self) -> float:
        """The differential entropy in nats: the best mean NLL that any model can have."""
        given = self._entropy_nats
        return float(given() if callable(given) else given)


@dataclass(frozen=True)
class Column:
    """One column of a user's own table: ``stored = (value - mean) / deviation``.

    Attributes:
        name: in the file, or ``"column 1"`` and so on where it has none.
        mean: of the training rows of split 0, in the file's units, noise included.
        deviation: their standard deviation.
        spacing: of a discrete column, the width of the uniform noise on ``[0, spacing)`` that was
            added to its values; None for a continuous one.
    """

    name: str
    mean: float
    deviation: float
    spacing: float | None = None


@dataclass(frozen=True, repr=False)
class Dataset:
    """Three splits, how to preprocess them, and the truth where it is known.

    Attributes:
        name: the catalog's name.
        kind: ``toy`` (2-D), ``family`` (of any dimension), ``tabular`` or ``image``.
        event_shape: shape of one datum.
        train, validation, test: stored values, shape ``(n, *event_shape)``, float32 or uint8.
        preprocessing: from stored values to what a flow models.
        levels: for images the number of grey levels, for bits/dim; None otherwise.
        truth: the true density; None where nobody knows it.
        hashes: :func:`array_hash` of each split, by its name; of a user's own files the sha256
            too, as ``train_file`` and so on.
        columns: of a user's own table, how its values were standardised; empty otherwise.
        remarks: what was done to a user's own data or is wrong with them, in sentences for the
            record and the report.
    """

    name: str
    kind: Kind
    event_shape: tuple[int, ...]
    train: Array
    validation: Array
    test: Array
    preprocessing: Preprocessing = field(default_factory=Identity)
    levels: int | None = None
    truth: Truth | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[Column, ...] = ()
    remarks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        rows = " / ".join(f"{len(self.split(split)):,}" for split in SPLITS)
        return f"<Dataset {self.name}: {self.kind}, event shape {self.event_shape}, {rows} rows>"

    @property
    def dimension(self) -> int:
        """Number of scalars in one datum."""
        return int(np.prod(self.event_shape))

    def split(self, name: Split) -> Array:
        """Stored values of a split, shape ``(n, *event_shape)``."""
        found: Array = getattr(self, name)
        return found


MAX_ROWS = 10**8
"""Of a training split: what fits into the memory of large machines, in two dimensions."""


class DatasetConfig(BaseModel, abc.ABC):
    """Options of one data set. Strict: an unknown option or another type is an error.

    The options that every set has choose rows and never change a row's values: whatever is
    standardised is so with the whole set's moments, those of split 0, as in the literature. The NLL
    of any number of training rows and of any split is therefore that of the same stored values.

    Attributes:
        rows: size of the training split; None for all rows that it has. It shrinks this split
            alone: validation and test are the whole set's, so that scores at several sizes are of
            the same points. The rows of a smaller number are the first of a larger one's.
        test_rows: size of the test split, where all of it is too dear to evaluate; None for all.
            It does not depend on ``rows`` either. The first of the split, or where a published
            order may be no random one, a random choice that is always the same.
        version: of the set's defaults. Raised by hand when the default of an option changes in
            value, since what has its default does not stand in a cell's key.
        split: which division into the three splits; 0 is the published one, or the one that has
            always been this set's. Any other number draws anew, from a seed that the set and the
            number name: other samples of the same density, or all rows of a table shuffled
            together and cut at the same sizes. Where the test split is published as such it
            stays, and training and validation rows alone are shuffled; a set for which neither is
            right refuses the option.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: ClassVar[Kind]
    version: ClassVar[int] = 1

    rows: PositiveInt | None = Field(None, description="size of the training split; None for all")
    test_rows: PositiveInt | None = Field(
        None, description="size of the test split, whatever the rows; None for all"
    )
    split: NonNegativeInt = Field(0, description="which division; 0 is the published or usual one")

    @model_validator(mode="after")
    def _within_sizes(self) -> Self:
        train, _, test = self.sizes()
        if self.rows is not None and self.rows > MAX_ROWS:
            raise ValueError(f"rows = {self.rows} is more than {MAX_ROWS}")
        if self.rows is not None and train is not None and self.rows > train:
            raise ValueError(f"rows = {self.rows} of a training split of {train}")
        if self.test_rows is not None and test is not None and self.test_rows > test:
            raise ValueError(f"test_rows = {self.test_rows} of a test split of {test}")
        return self

    @abc.abstractmethod
    def sizes(self) -> tuple[int | None, int | None, int | None]:
        """Rows of the whole training, validation and test split.

        None where that is for a user to say, or for a user's file.
        """

    def files(self) -> Source | None:
        """Where its files come from; None for what is drawn, and for a user's own files."""
        return None

    @abc.abstractmethod
    def whole(self, name: str) -> Dataset:
        """The data set of this ``split`` with all its rows; otherwise as :meth:`load`."""

    def part(self, rows: Array, count: int, purpose: Split) -> Array:
        """The rows that a smaller split consists of, the first of those of a larger one.

        Args:
            rows: of the whole split, shape ``(n, *event_shape)``.
            count: how many, fewer than ``n``.
            purpose: the split's name.
        """
        return rows[:count]

    def load(self, name: str) -> Dataset:
        """Make the data set of that name.

        Raises:
            DataMissing: if a file is not there.
            DataCorrupt: if a file is not what it should be.
            DataError: if an option has a value that the set cannot have.
        """
        dataset = self.whole(name)
        wanted: dict[Split, int | None] = {"train": self.rows, "test": self.test_rows}
        for split, count in wanted.items():
            rows = dataset.split(split)
            if count is not None and count > len(rows):
                option = "rows" if split == "train" else "test_rows"
                raise DataError(f"{name}: {option} = {count}, but the split has {len(rows)}")
            if count is not None and count < len(rows):
                part = self.part(rows, count, split)
                hashes = {**dataset.hashes, split: array_hash(part)}
                changed: dict[str, Any] = {split: part, "hashes": hashes}
                dataset = dataclasses.replace(dataset, **changed)
        return dataset


def make_dataset(
    name: str,
    kind: Kind,
    splits: Sequence[Array],
    *,
    hashes: Mapping[str, str] | None = None,
    **more: Any,
) -> Dataset:
    """A data set from its train, validation and test arrays.

    Args:
        name: the catalog's name.
        kind: of data set.
        splits: train, validation, test.
        hashes: :func:`array_hash` of each split, where already known; else they are computed.
        **more: other attributes of :class:`Dataset`.
    """
    known = dict(hashes or {})
    for split, array in zip(SPLITS, splits, strict=True):
        known.setdefault(split, array_hash(array))
    train, validation, test = splits
    shape = tuple(train.shape[1:])
    return Dataset(name, kind, shape, train, validation, test, hashes=known, **more)


@dataclass(frozen=True)
class Published:
    """A published score of the Gaussian baseline.

    All are of Papamakarios et al. 2017, arXiv:1705.07057, table 1, first row.

    Attributes:
        log_likelihood: mean over the test set, nats.
        bar: two standard errors over test points, as printed.
        tolerance: how far a faithful data set may score from it, nats: the bar, or 1 where the
            sample is another.
        of: the data set that it was computed for.
    """

    log_likelihood: float
    bar: float
    tolerance: float
    of: str


@dataclass(frozen=True)
class Entry:
    """A named data set, as the file of the set states it in its list ``ENTRIES``.

    Attributes:
        name: as given in a matrix file.
        config_class: the class of its typed options.
        summary: one line for ``list datasets``.
        source: where it comes from: paper, repository or archive.
        options: what differs from the config's defaults.
        hashes: :func:`array_hash` of the splits in split 0, where the files were at hand: made of
            integer draws, sums in a fixed order and divisions, so the same on every machine.
            ``data verify`` compares with them.
        published: the published score of the Gaussian baseline, where there is one.
        origin: where an entry from outside the project comes from, with its version or the hash
            of its file; empty for the project's own. Set by :func:`datasets.registry.add`.
    """

    name: str
    config_class: type[DatasetConfig]
    summary: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    hashes: Mapping[Split, str] = field(default_factory=dict)
    published: Published | None = None
    origin: str = ""

    @property
    def kind(self) -> Kind:
        """``toy``, ``family``, ``tabular`` or ``image``: that of its config."""
        return self.config_class.kind

    @property
    def config(self) -> DatasetConfig:
        """The typed options as they are if nothing is changed."""
        return self.config_class.model_validate(dict(self.options))
