"""Prepared splits on disk: memory-mapped, checked, never half written.

The splits of a data set are made once and kept as ``.npy`` files in
``<data folder>/prepared/<name>-<key>/``, with a manifest of their hashes. A folder appears
whole or not at all: it is written under a temporary name, every file is forced to the disk, and
then it is renamed. A lock file keeps two processes from making the same one; should one die, the
operating system lets go of its lock.

A split is opened as a copy-on-write memory map: nothing is read before it is used, processes
share the pages, and writing to an array changes neither the file nor another process's view.

The values are hashed when they are written, and again when a file's size or time of change is
not what the manifest noted: a damaged or replaced file is noticed, and made again.
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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.base import Array, DataCorrupt, DataError, array_hash
from datasets.files import folder

__all__ = ["CacheWarning", "Splits", "cached_splits", "prepared_folders"]

SPLITS = ("train", "validation", "test")
_MANIFEST = "manifest.json"


class CacheWarning(UserWarning):
    """Prepared arrays could not be kept; they are right, and will be made again next time."""


Splits = tuple[list[Array], dict[str, str]]
"""Train, validation and test, and their hashes by the split's name."""


def _folder_name(name: str, recipe: Mapping[str, Any]) -> str:
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return f"{name}-{key[:12]}"


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


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
    name = _folder_name(name, recipe)
    for root in folder.search_path():
        with contextlib.suppress(DataCorrupt):
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
        with contextlib.suppress(DataCorrupt):
            # Another process may have made it while this one waited.
            if (found := _open(target)) is not None:
                return found
        shutil.rmtree(target, ignore_errors=True)
        splits = [np.ascontiguousarray(split) for split in prepare()]
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


def prepared_folders(name: str) -> list[Path]:
    """Where the splits of a data set lie prepared, of whichever options.

    Args:
        name: of the data set.
    """
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
    return splits, dict(zip(SPLITS, map(array_hash, splits), strict=True))


def _open(path: Path) -> Splits | None:
    """Map the splits of a folder; None if it is not there.

    Raises:
        DataCorrupt: if a file is not what the manifest says.
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
    except OSError:
        return None  # Not there, or out of reach: another folder may have it.
    except ValueError as error:
        raise DataCorrupt(f"{path / _MANIFEST} is damaged: {error}") from error
    splits = []
    for split in SPLITS:
        file = path / f"{split}.npy"
        try:
            array = np.load(file, mmap_mode="c")
            stamp = _stamp(file)
        except (OSError, ValueError, EOFError) as error:
            raise DataCorrupt(f"{file} is damaged: {error}") from error
        if stamp != manifest["stamps"][split] and array_hash(array) != manifest["hashes"][split]:
            raise DataCorrupt(
                f"{file} has changed since it was written: delete {path}, it is made again"
            )
        splits.append(array)
    return splits, dict(manifest["hashes"])


def _write(target: Path, splits: Sequence[Array]) -> None:
    """Make a folder of splits appear whole or not at all."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        stamps = {}
        for name, split in zip(SPLITS, splits, strict=True):
            with (temporary / f"{name}.npy").open("wb") as stream:
                np.save(stream, split)
                stream.flush()
                os.fsync(stream.fileno())
            stamps[name] = _stamp(temporary / f"{name}.npy")
        hashes = dict(zip(SPLITS, map(array_hash, splits), strict=True))
        with (temporary / _MANIFEST).open("w") as stream:
            json.dump({"hashes": hashes, "stamps": stamps}, stream, indent=2)
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
