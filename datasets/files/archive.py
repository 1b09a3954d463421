"""Taking single files out of large archives."""

from __future__ import annotations

import contextlib
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from datasets.base import DataCorrupt
from datasets.files import folder
from datasets.files.recognise import DAMAGE

__all__ = ["extracted"]


@contextlib.contextmanager
def extracted(archive: Path, *ends: str) -> Iterator[list[Path]]:
    """Members of a tar archive as files, for as long as the block runs.

    Args:
        archive: a tar file, compressed or not.
        *ends: ends of the members' names, the name of the folder included where it matters.

    Yields:
        A path for each, in a temporary folder within the data folder: the members are large.

    Raises:
        DataCorrupt: if the archive is damaged, or a member is not there.
    """
    with tempfile.TemporaryDirectory(prefix=".extract-", dir=folder.write_folder()) as temporary:
        paths = {end: Path(temporary) / end.replace("/", "_") for end in ends}
        missing = set(ends)
        try:
            # As a stream: going back in a compressed archive means starting again.
            with tarfile.open(archive, "r|*") as stream:
                for member in stream:
                    end = next(
                        (end for end in missing if f"/{member.name}".endswith(f"/{end}")), None
                    )
                    source = stream.extractfile(member) if end is not None else None
                    if end is None or source is None:
                        continue
                    with paths[end].open("wb") as target:
                        shutil.copyfileobj(source, target, 1 << 20)
                    missing.remove(end)
                    if not missing:
                        break
        except DAMAGE as error:
            raise DataCorrupt(f"{archive} is no complete archive ({error})") from error
        if missing:
            raise DataCorrupt(f"{archive} holds no {' and no '.join(sorted(missing))}")
        yield [paths[end] for end in ends]
