"""Reading what may be damaged or made to do harm: typed errors, and no memory that is only claimed.

A header may state any size, and a small archive may unpack to any. Everything here reads piece by
piece what is there, compares sizes that are stated with those that are possible before anything
is allocated by them, and stops at a bound.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import psutil
from PIL import Image

from datasets.base import Array, DataCorrupt, DataError

__all__ = [
    "Stored",
    "check_room",
    "npy",
    "npz",
    "open_plain",
    "read_at_most",
    "read_image",
    "reading",
    "room",
]

_GZIP = b"\x1f\x8b"
_PIECE = 1 << 20
DEFLATED_AT_MOST = 1032
"""Times that deflate can make its input shorter: 258 bytes by two bits (zlib's notes on bombs)."""
_IMAGES = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def room() -> int:
    """Bytes that a file may unpack to: half of the memory that is free now."""
    return int(psutil.virtual_memory().available) // 2


def check_room(size: int) -> None:
    """Refuse what would not fit.

    Raises:
        ValueError: if so many bytes are more than :func:`room`.
    """
    if size > room():
        raise ValueError(f"it unpacks to {size:,} bytes, more than half of the free memory")


@contextlib.contextmanager
def reading(path: Path, form: str) -> Iterator[None]:
    """Whatever a library makes of damaged bytes inside the block becomes one error.

    Raises:
        DataCorrupt: that the file is no complete ``form`` ("array"), for every exception but those
            that name file and fault already.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # A parser raises whatever the bytes happen to mean.
        said = str(error)[:500] or type(error).__name__
        raise DataCorrupt(f"{path} is no complete {form} ({said})") from error


def read_at_most(stream: IO[bytes], size: int) -> bytearray:
    """What a stream holds, up to so many bytes; memory grows with what is there."""
    found = bytearray()
    while len(found) < size and (piece := stream.read(min(_PIECE, size - len(found)))):
        found += piece
    return found


class _Bounded(io.BufferedIOBase):
    """A stream that ends in an error after so many bytes, and reads piece by piece."""

    def __init__(self, stream: IO[bytes], at_most: int) -> None:
        self._stream = stream
        self._at_most = at_most

    def read(self, size: int | None = -1, /) -> bytes:
        left = self._at_most - self._stream.tell()
        wanted = left + 1 if size is None or size < 0 else min(size, left + 1)
        found = bytes(read_at_most(self._stream, wanted))
        if len(found) > left:
            raise ValueError(f"it unpacks to more than {self._at_most:,} bytes")
        return found

    read1 = read

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()
        super().close()


def open_plain(path: Path, at_most: int | None = None) -> IO[bytes]:
    """Open a file for reading; one compressed by gzip is decompressed on the way.

    Args:
        path: of the file.
        at_most: bytes that may come out of it, beyond which reading raises ValueError; half of
            the free memory unless given.
    """
    with path.open("rb") as stream:
        compressed = stream.read(2) == _GZIP
    opened = gzip.GzipFile(path) if compressed else path.open("rb")
    bounded = _Bounded(cast(IO[bytes], opened), room() if at_most is None else at_most)
    return cast(IO[bytes], bounded)


# -- arrays of NumPy ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """An array in a file, of which the header alone was read.

    Attributes:
        shape: as its header states it, no more than the file has room for.
        read: gives the array.
    """

    shape: tuple[int, ...]
    read: Callable[[], Array]


def npy(path: Path) -> Stored:
    """The array in a file of NumPy.

    Raises:
        DataCorrupt: if the file is damaged, or holds objects; when it is read, too.
    """

    def read() -> Array:
        with reading(path, ".npy file"), path.open("rb") as stream:
            header = _header(stream, path.stat().st_size)
            check_room(header.size)
            return _values(stream, header)

    with reading(path, ".npy file"), path.open("rb") as stream:
        return Stored(_header(stream, path.stat().st_size).shape, read)


@contextlib.contextmanager
def npz(path: Path) -> Iterator[Mapping[str, Stored]]:
    """The arrays in an archive of NumPy by their names, for as long as the block runs.

    Raises:
        DataCorrupt: if the archive is damaged, an array states a size that it cannot have, or
            what a reader in the block meets is damaged.
    """
    with reading(path, ".npz file"), zipfile.ZipFile(path) as archive:

        def stored(member: zipfile.ZipInfo) -> Stored:
            with archive.open(member) as stream:
                shape = _header(stream, member.file_size).shape

            def read() -> Array:
                with archive.open(member) as stream:
                    return _values(stream, _header(stream, member.file_size))

            return Stored(shape, read)

        found = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        for member in found:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{member.filename} is compressed as NumPy never does")
            if member.file_size > DEFLATED_AT_MOST * member.compress_size:
                raise ValueError(f"{member.filename} cannot unpack to what it states")
        check_room(sum(member.file_size for member in found))
        yield {member.filename.removesuffix(".npy"): stored(member) for member in found}


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    order: Any
    dtype: np.dtype[Any]
    size: int


def _header(stream: IO[bytes], length: int) -> _Header:
    """The header at the start of an array's bytes.

    Args:
        stream: at its start; left behind the header.
        length: of all that there is to read.

    Raises:
        ValueError: if it is none, states another length, or an array of objects.
    """
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"its header has the unusual version {version}")
    if dtype.hasobject:
        raise ValueError("it holds Python objects, no numbers")
    if any(length < 0 for length in shape):
        raise ValueError(f"its header states the shape {shape}")
    size = math.prod(shape) * dtype.itemsize
    there = length - stream.tell()
    if size != there:
        raise ValueError(
            f"its header states {shape} of {dtype}, {size:,} bytes, where there are {there:,}"
        )
    return _Header(shape, "F" if fortran else "C", dtype, size)


def _values(stream: IO[bytes], header: _Header) -> Array:
    found = read_at_most(stream, header.size)
    if len(found) != header.size:
        raise ValueError(f"it ends after {len(found):,} of {header.size:,} bytes")
    if header.size == 0:
        return np.zeros(header.shape, header.dtype)
    return np.frombuffer(found, header.dtype).reshape(header.shape, order=header.order)


# -- images ---------------------------------------------------------------------------------------


def read_image(
    source: IO[bytes], mode: str | None = None, at_most: tuple[int, int] | None = None
) -> Image.Image:
    """An image, decoded.

    Args:
        source: its bytes.
        mode: to which it is converted; None for its own.
        at_most: width and height that it may have; None for any that fits into half of the
            free memory.

    Raises:
        ValueError: if it is larger; what Pillow raises, if it is damaged.
    """
    with warnings.catch_warnings():
        # The sizes are looked at below, before a pixel is decoded.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        # Of an image by a harmless name Pillow would run Ghostscript, if it is in PostScript.
        with Image.open(source, formats=_IMAGES) as image:
            width, height = image.size
            if at_most is not None and (width > at_most[0] or height > at_most[1]):
                raise ValueError(f"it has {width} x {height} pixels, at most {at_most}")
            check_room(4 * width * height)
            image.load()
            return image.copy() if mode is None else image.convert(mode)
