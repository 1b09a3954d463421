"""Prepared splits on disk: memory-mapped, checked, never half written.

The splits of a data set are made once and kept as ``.npy`` files in
``<data folder>/prepared/<name>-<key>/``, with a manifest of their hashes. A folder appears
whole or not at all: it is written under a temporary name, every file is forced to the disk, and
then it is renamed. A lock file keeps two processes from making the same one; should one die, the
operating system lets go of its lock.

A split is opened as a copy-on-write memory map: nothing is read before it is used, processes
share the pages, and writing to an array changes neither the file nor another process's view.

The values are hashed when they are written, and again by each process that opens them, once: bits
that changed on the disk, whatever the file's time says, are noticed, and the splits made again.
This reads every page of the map once (BSDS300, the largest, has 328 MB), at a core's speed of
sha256.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, field_validator

from datasets.base import SPLITS, Array, DataCorrupt, DataError, DataMissing, Split, array_hash
from datasets.files import folder
from datasets.files.untrusted import reading

__all__ = ["CacheWarning", "Splits", "cached_splits", "prepared_folders"]

_MANIFEST = "manifest.json"


class CacheWarning(UserWarning):
    """Prepared arrays could not be kept; they are right, and will be made again next time."""


Splits = tuple[list[Array], dict[str, str]]
"""Train, validation and test, and their hashes by the split's name."""


_verified: dict[Path, tuple[tuple[int, ...], str]] = {}
"""Files that this process has hashed: which file it was then, and its hash."""


def _hash(path: Path, array: Array) -> str:
    """The hash of an opened file's array, computed once a process for each file."""
    status = path.stat()
    stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if _verified.get(path, ((), ""))[0] != stamp:
        _verified[path] = (stamp, array_hash(array))
    return _verified[path][1]


class _Manifest(BaseModel):
    """What is noted beside the splits."""

    hashes: dict[Split, str]

    @field_validator("hashes")
    @classmethod
    def _of_all(cls, hashes: dict[Split, str]) -> dict[Split, str]:
        if hashes.keys() != set(SPLITS):
            raise ValueError(f"hashes of {', '.join(hashes) or 'nothing'}")
        return hashes


def cached_splits(
    name: str, recipe: Mapping[str, Any], prepare: Callable[[], Sequence[Array]]
) -> Splits:
    """The splits from the cache, or prepared and put there.

    Args:
        name: of the data set.
        recipe: what the arrays depend on: the recipe's version, options, the content of sources.
        prepare: makes train, validation and test; called if the cache does not have them.

    Returns:
        The splits and their hashes. If the cache cannot be written, because the disk is full for
        example, the splits are in memory and a :class:`CacheWarning` says why.
    """
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    name = f"{name}-{key[:12]}"
    damaged: list[DataCorrupt] = []
    for root in folder.search_path():
        with _collecting(damaged):
            if (found := _open(root / folder.PREPARED / name)) is not None:
                return found
    try:
        root = folder.write_folder() / folder.PREPARED
        root.mkdir(exist_ok=True)
        lock = folder.locked(root / f"{name}.lock")
    except (OSError, DataError) as error:
        return _in_memory(prepare, error)
    target = root / name
    with lock:
        with _collecting(damaged):
            # Another process may have made it while this one waited.
            if (found := _open(target)) is not None:
                return found
        shutil.rmtree(target, ignore_errors=True)
        try:
            splits = [np.ascontiguousarray(split) for split in prepare()]
        except DataMissing as error:
            if damaged:
                raise DataCorrupt(f"{damaged[0]}, and it cannot be made again: {error}") from error
            raise
        try:
            _write(target, splits)
        except OSError as error:
            # Without locks, another process may just have put the same folder there.
            if (found := _open(target)) is None:
                return _in_memory(lambda: splits, error)
        else:
            found = _open(target)
    if found is None:
        raise DataError(f"{target} vanished after it was written: is something deleting it?")
    return found


@contextlib.contextmanager
def _collecting(damaged: list[DataCorrupt]) -> Iterator[None]:
    try:
        yield
    except DataCorrupt as error:
        damaged.append(error)


def prepared_folders(name: str) -> list[Path]:
    """Where the splits of a data set lie prepared, of whichever options."""
    pattern = re.compile(re.escape(name) + "-[0-9a-f]{12}")
    return [
        path.parent
        for root in folder.search_path()
        for path in sorted((root / folder.PREPARED).glob(f"*/{_MANIFEST}"))
        if pattern.fullmatch(path.parent.name)
    ]


def _in_memory(prepare: Callable[[], Sequence[Array]], error: Exception) -> Splits:
    splits = [np.ascontiguousarray(split) for split in prepare()]
    warnings.warn(
        f"prepared data could not be kept ({error}); free some space, or set "
        f"{folder.VARIABLE} to a folder that can be written to",
        CacheWarning,
        stacklevel=4,
    )
    return splits, _hashes(splits)


def _hashes(splits: Sequence[Array]) -> dict[str, str]:
    return dict(zip(SPLITS, map(array_hash, splits), strict=True))


def _open(path: Path) -> Splits | None:
    """Map the splits of a folder; None if it is not there.

    Raises:
        DataCorrupt: if a file is not what the manifest says.
    """
    try:
        text = (path / _MANIFEST).read_bytes()
    except OSError:
        return None  # Not there, or out of reach: another folder may have it.
    with reading(path / _MANIFEST, "manifest"):
        hashes = {
            str(name): found for name, found in _Manifest.model_validate_json(text).hashes.items()
        }
    splits: list[Array] = []
    for split in SPLITS:
        file = path / f"{split}.npy"
        with reading(file, "split"):
            array = np.lib.format.open_memmap(file, mode="c")
            found = _hash(file, array)
        if found != hashes[split]:
            raise DataCorrupt(f"{file} has changed since it was written")
        splits.append(array)
    return splits, hashes


def _write(target: Path, splits: Sequence[Array]) -> None:
    """Make a folder of splits appear whole or not at all."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for name, split in zip(SPLITS, splits, strict=True):
            with (temporary / f"{name}.npy").open("wb") as stream:
                np.save(stream, split)
                stream.flush()
                os.fsync(stream.fileno())
        hashes = _hashes(splits)
        with (temporary / _MANIFEST).open("w") as stream:
            json.dump({"hashes": hashes}, stream, indent=2)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o755)
        temporary.rename(target)
        parent = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
