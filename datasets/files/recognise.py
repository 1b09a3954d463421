"""Telling by its content whether a file is the one that a data set needs.

A recogniser is a function of a path that returns if the file is right and raises
:class:`DataCorrupt` with the difference if not. It looks at cheap things first (size, first
bytes, headers), for it may be tried on every file of a folder.
"""

from __future__ import annotations

import functools
import hashlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from datasets.base import DataCorrupt, array_hash
from datasets.files.archive import members
from datasets.files.untrusted import npy, npz, open_plain, reading

__all__ = [
    "Recogniser",
    "content",
    "npy_array",
    "npz_arrays",
    "starting_with",
    "tar_members",
    "whole_file",
    "zip_members",
]

Recogniser = Callable[[Path], None]

CONTENT = 2**28
"""Bytes that a file known by its whole content may unpack to: the largest has 47 MB."""


def whole_file(checksum: str, size: int | None = None, name: str = "") -> Recogniser:
    """A file of which every byte is known.

    Args:
        checksum: of the file, as ``sha256:...`` or ``md5:...``.
        size: in bytes, where known.
        name: the end of the file's name; where the size is not known, without this too many files
            would be read.
    """
    algorithm, _, due = checksum.partition(":")

    def recognise(path: Path) -> None:
        if not path.name.endswith(name):
            raise DataCorrupt(f"{path} is not called {name}")
        status = path.stat()
        if size is not None and status.st_size != size:
            kind = "truncated" if status.st_size < size else "another file"
            raise DataCorrupt(f"{path} has {status.st_size} bytes where {size} are due: {kind}")
        found = _file_digest(path, algorithm, status.st_size, status.st_mtime_ns)
        if found != due:
            raise DataCorrupt(
                f"{path} has the {algorithm} {found} where {due} is due: "
                "it is damaged, or another file"
            )

    return recognise


@functools.lru_cache(maxsize=64)
def _file_digest(path: Path, algorithm: str, size: int, changed: int) -> str:
    """Of a file's bytes; several sets come from one large archive, which is read once."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def content(sha256: str, start: bytes) -> Recogniser:
    """A file whose content is known, compressed by gzip or not.

    Args:
        sha256: of the content after decompression.
        start: the content's first bytes.
    """

    def recognise(path: Path) -> None:
        with reading(path, "file"), open_plain(path, CONTENT) as stream:
            if stream.read(len(start)) != start:
                raise DataCorrupt(f"{path} starts with other bytes than {start!r}")
            stream.seek(0)
            found = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        if found != sha256:
            raise DataCorrupt(
                f"the content of {path} has the sha256 {found} where {sha256} is due: "
                "it is damaged, or something else of the same form"
            )

    return recognise


def starting_with(start: bytes, name: str) -> Recogniser:
    """A file, of a known name, of which no more is known than its first bytes.

    Args:
        start: the content's first bytes, after decompression.
        name: the end of the file's name; without this, too many files would do.
    """

    def recognise(path: Path) -> None:
        if not path.name.removesuffix(".gz").endswith(name):
            raise DataCorrupt(f"{path} is not called {name}")
        with reading(path, "file"), open_plain(path) as stream:
            found = stream.read(len(start))
        if found != start:
            raise DataCorrupt(f"{path} starts with {found!r} where {start!r} is due")

    return recognise


def npz_arrays(
    shapes: Mapping[str, tuple[int, ...]], hashes: Mapping[str, str] | None = None
) -> Recogniser:
    """A NumPy archive that holds certain arrays.

    Args:
        shapes: of the arrays, by name; others may be there as well.
        hashes: :func:`array_hash` of arrays, where known.
    """

    def recognise(path: Path) -> None:
        if path.suffix != ".npz":
            raise DataCorrupt(f"{path} is no .npz file")
        with npz(path) as arrays:
            found = {name: array.shape for name, array in arrays.items()}
            for name, shape in shapes.items():
                if found.get(name) != shape:
                    raise DataCorrupt(
                        f"{path} should hold an array {name!r} of shape {shape}; it holds {found}"
                    )
            for name, expected in (hashes or {}).items():
                if array_hash(arrays[name].read()) != expected:
                    raise DataCorrupt(f"array {name!r} of {path} has other values")

    return recognise


def npy_array(shape: tuple[int, ...]) -> Recogniser:
    """A NumPy file with an array of a certain shape."""

    def recognise(path: Path) -> None:
        if path.suffix != ".npy":
            raise DataCorrupt(f"{path} is no .npy file")
        found = npy(path).shape
        if found != shape:
            raise DataCorrupt(f"{path} should hold an array of shape {shape}, not {found}")

    return recognise


def tar_members(*ends: str, largest: int) -> Recogniser:
    """A tar archive, compressed or not, named so.

    Args:
        *ends: ends of the names of members that must be there; the archive is read as far as
            needed to see them all.
        largest: size in bytes above which a file is not read at all.
    """

    def recognise(path: Path) -> None:
        if not path.name.endswith((".tar", ".tar.gz", ".tgz")):
            raise DataCorrupt(f"{path} is not called .tar, .tar.gz or .tgz")
        if path.stat().st_size > largest:
            raise DataCorrupt(f"{path} is larger than {largest} bytes: another archive")
        missing = set(ends)

        def wanted(name: str) -> bool:
            return any(name.endswith(end) for end in missing)

        for name, _ in members(path, wanted, largest):
            missing -= {end for end in missing if name.endswith(end)}
            if not missing:
                return
        raise DataCorrupt(f"{path} holds no {' and no '.join(sorted(missing))}")

    return recognise


def zip_members(start: str, count: int) -> Recogniser:
    """A zip archive with so many PNG images in the folder that their names start with."""

    def recognise(path: Path) -> None:
        if path.suffix != ".zip":
            raise DataCorrupt(f"{path} is no .zip file")
        with reading(path, "zip archive"):
            names = _zip_names(path, path.stat().st_mtime_ns)
        found = sum(name.startswith(start) and name.endswith(".png") for name in names)
        if found != count:
            raise DataCorrupt(f"{path} holds {found} images in {start} where {count} are due")

    return recognise


@functools.lru_cache(maxsize=8)
def _zip_names(path: Path, changed: int) -> tuple[str, ...]:
    with zipfile.ZipFile(path) as archive:
        return tuple(archive.namelist())
