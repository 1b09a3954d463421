"""Data sets that are read from files: tables, and those made of images."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from datasets.base import Array, Dataset, DatasetConfig, Split, make_dataset, named_generator
from datasets.files.cache import Splits, cached_splits
from datasets.preprocessing import Dequantize

__all__ = ["ImageConfig", "StoredConfig"]


class StoredConfig(DatasetConfig):
    """Options of a set that is prepared from files, once, and then opened from the cache.

    Attributes:
        version: of the recipe; a change of what it makes raises it.
        test_is_published: whether the test split is one of its own at the source. It then is the
            same in every ``split``, and training and validation rows alone are shuffled.
        in_random_order: whether the rows of a split are known to lie in random order, so that the
            first of them are a fair part. Those of other sets are drawn, always the same.
        kept: whether the prepared splits are put into the cache.
    """

    version: ClassVar[int] = 1
    test_is_published: ClassVar[bool] = False
    in_random_order: ClassVar[bool] = False
    kept: ClassVar[bool] = True

    @abc.abstractmethod
    def source(self) -> str:
        """Name of what is stored: of the cache's folders, and of the seeds."""

    @abc.abstractmethod
    def prepare(self) -> Sequence[Array]:
        """Train, validation and test of split 0, from the files.

        Raises:
            DataMissing: if a file is not there.
            DataCorrupt: if a file is not what it should be.
        """

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
        if not self.kept:
            return list(prepare()), {}
        return cached_splits(name, {"set": self.source(), "version": self.version, **more}, prepare)

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


class ImageConfig(StoredConfig):
    """Options of a set of images, stored as the integers 0 to ``levels - 1``.

    Attributes:
        levels: number of grey levels, or of those of a colour.
        alpha: of the logit, see :class:`datasets.preprocessing.Dequantize`; None for none.
    """

    kind = "image"

    levels: ClassVar[int]

    alpha: float | None = 1e-6

    def attributes(self) -> dict[str, Any]:
        return {"preprocessing": Dequantize(self.levels, self.alpha), "levels": self.levels}
