"""Where data lie on disk: the folders that are searched, and the one that is written to.

The environment variable ``FFJORD_BENCH_DATA`` names a folder, or several (separated as in
``PATH``); the platform's cache folder always comes last. Files that a user supplies may lie
anywhere in them, up to two folders deep. Downloads and prepared arrays go to the first folder
that can be written to, so that a shared read-only folder can come first.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import platformdirs
from filelock import FileLock

from datasets.base import DataError

__all__ = ["DOWNLOADS", "PREPARED", "VARIABLE", "files", "locked", "search_path", "write_folder"]

VARIABLE = "FFJORD_BENCH_DATA"
DOWNLOADS = "downloads"
PREPARED = "prepared"
_DEPTH = 2


def search_path() -> list[Path]:
    """The folders in which data are looked for, in order; some may not exist."""
    given = [
        Path(part).expanduser() for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part
    ]
    return list(dict.fromkeys([*given, Path(platformdirs.user_cache_dir("ffjord-bench"))]))


def _writable(folder: Path) -> bool:
    """Whether files can be made in a folder, which may have to be made itself."""
    for existing in (folder, *folder.parents):
        if existing.exists():
            # The superuser may write where the mode forbids it; that is no invitation.
            mode_allows = bool(existing.stat().st_mode & 0o222)
            return existing.is_dir() and mode_allows and os.access(existing, os.W_OK | os.X_OK)
    return False


def write_folder() -> Path:
    """The first folder of the search path that can be written to, made if need be.

    Raises:
        DataError: if there is none.
    """
    for folder in search_path():
        if _writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            return folder
    tried = ", ".join(map(str, search_path()))
    raise DataError(f"no folder to write data to (tried {tried}): set {VARIABLE} to one")


def files() -> Iterator[Path]:
    """Every file in the search path that could be a source, nearest first, by name."""
    for root in search_path():
        yield from _files(root, _DEPTH)


def _files(folder: Path, depth: int) -> Iterator[Path]:
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return
    # A download that is under way ends in .part.
    yield from (path for path in found if path.is_file() and path.suffix not in (".part", ".lock"))
    if depth:
        for path in found:
            if path.is_dir() and path.name != PREPARED:
                yield from _files(path, depth - 1)


def locked(path: Path) -> contextlib.AbstractContextManager[object]:
    """Wait for a lock file, and hold it until the block that follows ends.

    Args:
        path: of the lock file, which stays. Should the process die, the operating system lets go
            of the lock.

    Returns:
        To be used with ``with``; it holds nothing where the file system has no locks.

    Raises:
        OSError: if the file cannot be made.
    """
    lock = FileLock(path)
    try:
        lock.acquire()
    except NotImplementedError:
        return contextlib.nullcontext()
    held = contextlib.ExitStack()
    held.callback(lock.release)
    return held
