"""Telling by its content whether a file is the one that a data set needs.

A recogniser is a function of a path that returns if the file is right and raises
:class:`DataCorrupt` with the difference if not. It looks at cheap things first (size, first
bytes, headers), for it may be tried on every file of a folder.
"""

from __future__ import annotations

import ast
import functools
import gzip
import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, cast

import numpy as np

from datasets.base import DataCorrupt, array_hash

__all__ = [
    "Recogniser",
    "content",
    "npy_array",
    "npz_arrays",
    "open_plain",
    "starting_with",
    "tar_members",
    "whole_file",
    "zip_members",
]

Recogniser = Callable[[Path], None]

_GZIP = b"\x1f\x8b"
# What reading a damaged file of one of these formats can raise.
DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    SyntaxError,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
)


def open_plain(path: Path) -> IO[bytes]:
    """Open a file for reading; one compressed by gzip is decompressed on the way."""
    with path.open("rb") as stream:
        compressed = stream.read(2) == _GZIP
    return cast(IO[bytes], gzip.open(path)) if compressed else path.open("rb")


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
        try:
            with open_plain(path) as stream:
                if stream.read(len(start)) != start:
                    raise DataCorrupt(f"{path} starts with other bytes than {start!r}")
                stream.seek(0)
                found = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
                if found != sha256:
                    raise DataCorrupt(
                        f"the content of {path} has the sha256 {found} where {sha256} is due: "
                        "it is damaged, or something else of the same form"
                    )
        except (OSError, EOFError, zlib.error) as error:
            raise DataCorrupt(f"{path} cannot be read to its end ({error}): truncated?") from error

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
        try:
            with open_plain(path) as stream:
                found = stream.read(len(start))
        except DAMAGE as error:
            raise DataCorrupt(f"{path} cannot be read ({error})") from error
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
        try:
            found = _npz_shapes(path)
            for name, shape in shapes.items():
                if found.get(name) != shape:
                    raise DataCorrupt(
                        f"{path} should hold an array {name!r} of shape {shape}; it holds {found}"
                    )
            if hashes:
                with np.load(path) as arrays:
                    for name, expected in hashes.items():
                        if array_hash(arrays[name]) != expected:
                            raise DataCorrupt(f"array {name!r} of {path} has other values")
        except DataCorrupt:
            raise
        except DAMAGE as error:
            raise DataCorrupt(f"{path} is no complete .npz file ({error})") from error

    return recognise


def npy_array(shape: tuple[int, ...]) -> Recogniser:
    """A NumPy file with an array of a certain shape.

    Args:
        shape: of the array.
    """

    def recognise(path: Path) -> None:
        if path.suffix != ".npy":
            raise DataCorrupt(f"{path} is no .npy file")
        try:
            found = np.load(path, mmap_mode="r").shape
        except DAMAGE as error:
            raise DataCorrupt(f"{path} is no complete .npy file ({error})") from error
        if found != shape:
            raise DataCorrupt(f"{path} should hold an array of shape {shape}, not {found}")

    return recognise


def _npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays in an archive, from their headers alone."""
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                preamble = stream.read(10)
                if preamble[:6] != b"\x93NUMPY":
                    continue
                # Versions above 1 have a length of four bytes, of which two are read already.
                if preamble[6] == 1:
                    length = int.from_bytes(preamble[8:10], "little")
                else:
                    length = int.from_bytes(preamble[8:10] + stream.read(2), "little")
                header = ast.literal_eval(stream.read(length).decode("latin1"))
            shapes[member.removesuffix(".npy")] = tuple(header["shape"])
    return shapes


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
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    missing -= {end for end in ends if member.name.endswith(end)}
                    if not missing:
                        return
        except DAMAGE as error:
            raise DataCorrupt(f"{path} is no complete tar archive ({error})") from error
        raise DataCorrupt(f"{path} holds no {' and no '.join(sorted(missing))}")

    return recognise


def zip_members(start: str, count: int) -> Recogniser:
    """A zip archive with so many PNG images in one folder.

    Args:
        start: the folder, what every image's name begins with.
        count: how many.
    """

    def recognise(path: Path) -> None:
        if path.suffix != ".zip":
            raise DataCorrupt(f"{path} is no .zip file")
        try:
            names = _zip_names(path, path.stat().st_mtime_ns)
        except DAMAGE as error:
            raise DataCorrupt(f"{path} is no complete zip archive ({error})") from error
        found = sum(name.startswith(start) and name.endswith(".png") for name in names)
        if found != count:
            raise DataCorrupt(f"{path} holds {found} images in {start} where {count} are due")

    return recognise


@functools.lru_cache(maxsize=8)
def _zip_names(path: Path, changed: int) -> tuple[str, ...]:
    with zipfile.ZipFile(path) as archive:
        return tuple(archive.namelist())
