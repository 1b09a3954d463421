"""Taking single files out of large archives."""

from __future__ import annotations

import contextlib
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from datasets.base import DataCorrupt
from datasets.files import folder
from datasets.files.untrusted import open_plain, reading

__all__ = ["extracted", "members"]

LARGEST = 2**33
"""Bytes that a tar archive may unpack to: the largest that is read has 4 GB."""
_ENTRY = 1 << 20
"""Bytes of one header with all its extensions; what is longer is no name."""


class _Entry(tarfile.TarInfo):
    """A header that is read no further than a name can be long."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        # Names and attributes of the entry that follows are read whole, whatever their size.
        extension = self.type in (
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
        )
        if extension and self.size > _ENTRY:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc, no-any-return]


def members(
    path: Path, wanted: Callable[[str], bool], largest: int
) -> Iterator[tuple[str, IO[bytes]]]:
    """Files in a tar archive, compressed by gzip or not, in their order.

    Args:
        path: of the archive.
        wanted: tells by its name whether a file is.
        largest: bytes that one may have.

    Yields:
        Name and content.

    Raises:
        DataCorrupt: if the archive is damaged, unpacks to more than any that is known, or a file
            that is wanted is larger than it may be.
    """
    with (
        reading(path, "archive"),
        open_plain(path, LARGEST) as stream,
        tarfile.open(fileobj=stream, mode="r:", tarinfo=_Entry) as archive,
    ):
        for member in archive:
            # The archive would keep what it has told: of millions of headers, gigabytes.
            archive.members = []  # type: ignore[attr-defined]
            if not (member.isreg() and wanted(member.name)):
                continue
            if member.size > largest:
                raise ValueError(f"{member.name} has {member.size:,} bytes, at most {largest:,}")
            if (source := archive.extractfile(member)) is not None:
                yield member.name, source


@contextlib.contextmanager
def extracted(archive: Path, *ends: str, largest: int = LARGEST) -> Iterator[list[Path]]:
    """Members of a tar archive as files, for as long as the block runs.

    Args:
        archive: a tar file, compressed by gzip or not.
        *ends: ends of the members' names, the name of the folder included where it matters.
        largest: bytes of one member.

    Yields:
        A path for each, in a temporary folder within the data folder: the members are large.

    Raises:
        DataCorrupt: if the archive is damaged, or a member is not there or too large.
    """
    with tempfile.TemporaryDirectory(prefix=".extract-", dir=folder.write_folder()) as temporary:
        paths = {end: Path(temporary) / end.replace("/", "_") for end in ends}
        missing = set(ends)

        def wanted(name: str) -> bool:
            return any(f"/{name}".endswith(f"/{end}") for end in missing)

        # In the order of the archive: going back in a compressed one means starting again.
        for name, source in members(archive, wanted, largest):
            end = next(end for end in missing if f"/{name}".endswith(f"/{end}"))
            with reading(archive, "archive"), paths[end].open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            missing.remove(end)
            if not missing:
                break
        if missing:
            raise DataCorrupt(f"{archive} holds no {' and no '.join(sorted(missing))}")
        yield [paths[end] for end in ends]
