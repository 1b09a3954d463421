"""Base of the sets that a user's own files make."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from datasets.base import (
    SPLITS,
    Array,
    DataError,
    DataMissing,
    DatasetConfig,
    Split,
    named_generator,
)

__all__ = ["OwnConfig"]


class OwnConfig(DatasetConfig):
    """A set made of a user's own files: one that is divided, or one for each split.

    Attributes:
        path: of the file whose rows are divided, or of the training rows alone; relative to the
            folder in which one works.
        validation_path: of the validation rows, in the same form; without one they are a
            fraction of the rows of ``path``, drawn at random.
        test_path: of the test rows, likewise.
        validation_fraction: of the rows of ``path``, where they serve.
        test_fraction: likewise.
        array: which array of a file that holds several.
        split: which division of the rows of ``path``; none where both other splits are files.
    """

    example: ClassVar[str]

    path: str = Field("", description="the file, or that of the training rows alone")
    validation_path: str | None = Field(None, description="the validation rows' own file")
    test_path: str | None = Field(None, description="the test rows' own file")
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="of the rows of path, without a validation_path"
    )
    test_fraction: float = Field(
        0.1, gt=0, lt=1, description="of the rows of path, without a test_path"
    )
    array: str | None = Field(None, description="which array of a file that holds several")

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.split and self.validation_path is not None and self.test_path is not None:
            raise ValueError(
                f"split = {self.split} draws validation or test rows from path, but both are files"
            )
        drawn = sum(self._fractions().values())
        if drawn >= 1:
            raise ValueError(f"fractions of {drawn:g} leave no row for training")
        return self

    def _fractions(self) -> dict[Split, float]:
        """Of the splits that are drawn from the rows of ``path``."""
        fractions: dict[Split, float] = {}
        if self.validation_path is None:
            fractions["validation"] = self.validation_fraction
        if self.test_path is None:
            fractions["test"] = self.test_fraction
        return fractions

    def advice(self, name: str) -> str:
        """What to write so that the set is there."""
        return f'{name} is made of your own file: {{ name = "{name}", path = "{self.example}" }}'

    def sizes(self) -> tuple[None, None, None]:
        return None, None, None

    def paths(self, name: str) -> dict[Split, Path]:
        """The files by the split that they serve, ``path`` as that of ``train``.

        Raises:
            DataMissing: if no path is given, or a file is not there.
        """
        if not self.path:
            raise DataMissing(self.advice(name))
        given = dict(zip(SPLITS, (self.path, self.validation_path, self.test_path), strict=True))
        paths = {
            split: Path(path).expanduser() for split, path in given.items() if path is not None
        }
        for path in paths.values():
            # A pipe would be waited for.
            if not (path.is_file() or path.is_dir()):
                raise DataMissing(f"{name}: there is no {path.absolute()}; correct its path")
        return paths

    def divide(self, counts: Mapping[Split, int], split: int) -> dict[Split, Array]:
        """Which rows each split has.

        Args:
            counts: rows of each file, in the order of :meth:`paths`.
            split: which division.

        Returns:
            For each split the positions of its rows among those of all files, one after another.

        Raises:
            DataError: if a split is left without rows.
        """
        total = counts["train"]
        order = self._random("split", split).permutation(total)
        found: dict[Split, Array] = {}
        for drawn, fraction in self._fractions().items():
            count = round(fraction * total)
            found[drawn], order = order[:count], order[count:]
        found["train"] = order
        start = total
        for given, count in counts.items():
            if given != "train":
                found[given] = np.arange(start, start + count)
                start += count
        for purpose in SPLITS:
            if len(found[purpose]) < 2:
                raise DataError(
                    f"{self.path} has {total} rows, which leave {len(found[purpose])} for "
                    f"{purpose}: at least two are needed"
                )
        return found

    def part(self, rows: Array, count: int, purpose: Split) -> Array:
        return rows[self._random("part", purpose).permutation(len(rows))[:count]]

    def _random(self, *purpose: object) -> np.random.Generator:
        """Named by the purpose, not by the path: a file may move."""
        return named_generator("own", *purpose)

    @staticmethod
    def file_hashes(paths: Mapping[Split, Path]) -> dict[str, str]:
        """The sha256 of each file, or of a folder's files with their names, as ``train_file``."""
        return {
            f"{split}_file": _sha256_if_changed(path, _signature(path))
            for split, path in paths.items()
        }

    @classmethod
    def file_contents(cls, options: Mapping[str, Any]) -> dict[str, str]:
        """The options among these that name a file that is there, with the sha256 of what it holds.

        Args:
            options: as JSON has them.
        """
        return {
            option: _sha256_if_changed(path, _signature(path))
            for option in ("path", "validation_path", "test_path")
            if (value := options.get(option)) and (path := Path(value).expanduser()).exists()
        }

    @abc.abstractmethod
    def read(self, path: Path) -> object:
        """What a file holds."""


def _signature(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a file or of a folder's files: what changes when they do."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(str(file.absolute()), file.stat()) for file in files if file.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


@lru_cache(maxsize=256)
def _sha256_if_changed(path: Path, signature: tuple[tuple[str, int, int], ...]) -> str:
    """A file's hash, computed once a process for each state of it."""
    return _sha256(path)


def _sha256(path: Path) -> str:
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()}\0{_sha256(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
