"""Data sets that are read from files: tables, and those made of images."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from datasets.base import (
    Array,
    DataCorrupt,
    Dataset,
    DatasetConfig,
    Split,
    make_dataset,
    named_generator,
)
from datasets.files.cache import Splits, cached_splits
from datasets.files.sources import Located, Source, locate
from datasets.preprocessing import Dequantize

__all__ = ["ImageConfig", "StoredConfig", "check_sizes"]


def check_sizes(name: str, splits: Sequence[Array], sizes: Sequence[int], dimension: int) -> None:
    """Refuse splits that are not those of the literature.

    Raises:
        DataCorrupt: if a size differs: the source is not the published one.
    """
    found = [split.shape for split in splits]
    due = [(size, dimension) for size in sizes]
    if found != due:
        raise DataCorrupt(
            f"{name}: the splits should have shapes {due}, they have {found}: "
            "the source is not the published one"
        )


class StoredConfig(DatasetConfig):
    """Options of a set that is prepared from files, once, and then opened from the cache.

    Attributes:
        stored_as: name of what is stored: of the cache's folders, and of the seeds.
        origin: where its files come from.
        split_sizes: rows of the training, validation and test split.
        columns: of a table; checked with the sizes, for another source makes other splits.
        version: of the recipe; a change of what it makes raises it.
        test_is_published: whether the test split is one of its own at the source. It then is the
            same in every ``split``, and training and validation rows alone are shuffled.
        in_random_order: whether the rows of a split are known to lie in random order, so that the
            first of them are a fair part. Those of other sets are drawn, always the same.
        kept: whether the prepared splits are put into the cache.
    """

    stored_as: ClassVar[str]
    origin: ClassVar[Source | None] = None
    split_sizes: ClassVar[tuple[int, int, int]]
    columns: ClassVar[int | None] = None
    version: ClassVar[int] = 1
    test_is_published: ClassVar[bool] = False
    in_random_order: ClassVar[bool] = False
    kept: ClassVar[bool] = True

    def source(self) -> str:
        """As :attr:`stored_as`, where options choose between several sets."""
        return self.stored_as

    def files(self) -> Source | None:
        return self.origin

    def located(self) -> Located:
        """The files, found in the data folder.

        Raises:
            DataMissing: with what to do.
            DataCorrupt: if a file of a right name is there, with wrong content.
        """
        source = self.files()
        assert source is not None
        return locate(self.source(), source)

    def sizes(self) -> tuple[int, int, int]:
        return self.split_sizes

    @abc.abstractmethod
    def prepare(self) -> Sequence[Array]:
        """Train, validation and test of split 0, from the files."""

    def prepare_split(self) -> Sequence[Array]:
        """Train, validation and test of another split: those of split 0, shuffled together."""
        splits, _ = self._splits(self.source(), {}, self.prepare)
        return self._shuffled(splits)

    def attributes(self) -> dict[str, Any]:
        """Further attributes of the :class:`Dataset`."""
        return {}

    def whole(self, name: str) -> Dataset:
        attributes = self.attributes()
        source = self.source()
        if self.split:
            splits, hashes = self._splits(
                f"{source}-split{self.split}", {"split": self.split}, self.prepare_split
            )
        else:
            splits, hashes = self._splits(source, {}, self.prepare)
        return make_dataset(name, self.kind, splits, hashes=hashes, **attributes)

    def _splits(
        self, name: str, more: Mapping[str, Any], prepare: Callable[[], Sequence[Array]]
    ) -> Splits:
        def checked() -> Sequence[Array]:
            splits = prepare()
            if self.columns is not None:
                check_sizes(self.source(), splits, self.sizes(), self.columns)
            return splits

        if not self.kept:
            return list(checked()), {}
        return cached_splits(name, {"set": self.source(), "version": self.version, **more}, checked)

    def _shuffled(self, splits: Sequence[Array]) -> list[Array]:
        random = self._random("split", self.split)
        pooled = splits[:2] if self.test_is_published else splits
        rows = np.concatenate(pooled)
        rows = rows[random.permutation(len(rows))]
        cuts = np.cumsum([len(split) for split in pooled])[:-1]
        return [*np.split(rows, cuts), *splits[len(pooled) :]]

    def part(self, rows: Array, count: int, purpose: Split) -> Array:
        if self.in_random_order:
            return rows[:count]
        return rows[self._random("part", purpose).permutation(len(rows))[:count]]

    def _random(self, *purpose: object) -> np.random.Generator:
        return named_generator(self.source(), *purpose)


Alpha = Annotated[
    float | None,
    Field(description="of the logit that follows the noise on the levels; none for no logit"),
]
"""See :class:`datasets.preprocessing.Dequantize`."""


class ImageConfig(StoredConfig):
    """Options of a set of images, stored as the integers 0 to ``levels - 1``.

    Attributes:
        levels: number of grey levels, or of those of a colour.
    """

    kind = "image"

    levels: ClassVar[int]

    alpha: Alpha = 1e-6

    def shuffled(self, images: Array) -> list[Array]:
        """The splits of images that are published in one array, ``(n, height, width)``."""
        images = images[self._random("shuffle").permutation(len(images)), None]
        return np.split(images, np.cumsum(self.split_sizes)[:-1])

    def attributes(self) -> dict[str, Any]:
        return {"preprocessing": Dequantize(self.levels, self.alpha), "levels": self.levels}
