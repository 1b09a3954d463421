"""Where data come from: how a set's file states addresses, checksums, licence and citation.

A data set can be had in several forms (the original files, a well-known repackaging, a file that
a user made); each form is a set of files that together suffice. :func:`locate` looks for each
form in turn in the data folder, and recognises a file by what is in it, so that names matter only
where nothing is known of the content.

Every sha256 here was computed from a file at hand. An MD5 is the one that others publish for a file
that was not (the Zenodo record of the archive; torchvision for CIFAR-10 and Omniglot). Where there
is neither, what is read is checked by its shape and by what is published about it.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.base import DataCorrupt, DataMissing
from datasets.files import folder
from datasets.files.archive import extracted
from datasets.files.recognise import Recogniser, npz_arrays

__all__ = [
    "CC_BY",
    "EMBEDDED",
    "UCI",
    "File",
    "Form",
    "Located",
    "Source",
    "array_form",
    "locate",
]


@dataclass(frozen=True)
class File:
    """One file of a form.

    Attributes:
        name: under which a download is kept.
        recognise: tells by the content whether a file is this one.
        addresses: mirrors, tried in order; none if it cannot be downloaded.
        checksum: of the file as downloaded, where known: ``sha256:...`` or ``md5:...``.
        size: of the download in bytes, roughly where no checksum is known.
        patterns: other names under which it is usual; all files are tried, these first.
    """

    name: str
    recognise: Recogniser
    addresses: tuple[str, ...] = ()
    checksum: str | None = None
    size: int | None = None
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Form:
    """Files that together suffice for a data set.

    Attributes:
        name: tells a data set's module how to read them.
        files: all of which are needed.
    """

    name: str
    files: tuple[File, ...]

    @property
    def downloadable(self) -> bool:
        """Whether every file has an address."""
        return all(file.addresses for file in self.files)

    @property
    def size(self) -> int:
        """Bytes to download, roughly; 0 where nobody has told."""
        return sum(file.size or 0 for file in self.files)


def array_form(name: str, arrays: Mapping[str, tuple[tuple[int, ...], str]], pattern: str) -> Form:
    """The form ``npz``: one archive of NumPy.

    Args:
        name: of the file.
        arrays: shape and :func:`datasets.base.array_hash` of each that it holds, by its name.
        pattern: other names under which the file is usual.
    """
    shapes = {array: shape for array, (shape, _) in arrays.items()}
    hashes = {array: digest for array, (_, digest) in arrays.items()}
    return Form("npz", (File(name, npz_arrays(shapes, hashes), patterns=(pattern,)),))


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        forms: in the order of preference.
        licence: under which the data may be used.
        citation: whom to name.
        advice: what a user can do to have it, where that is not obvious.
        embedded: the file that ships with the project, if one does; there are no forms then.
    """

    forms: tuple[Form, ...]
    licence: str
    citation: str
    advice: str = ""
    embedded: Path | None = None

    @property
    def download(self) -> Form | None:
        """The form that can be downloaded, if any; rather one whose size is known."""
        forms = [form for form in self.forms if form.downloadable]
        return next((form for form in forms if form.size), forms[0] if forms else None)


EMBEDDED = Path(__file__).parent.parent / "embedded"
"""Of the files that ship with the project."""

CC_BY = "CC BY 4.0"
UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases"


@dataclass(frozen=True)
class Located:
    """A form of a data set that is there, whole.

    Attributes:
        form: its name.
        paths: of its files, in the table's order.
    """

    form: str
    paths: tuple[Path, ...]

    @contextlib.contextmanager
    def opened(self, *members: str) -> Iterator[Sequence[Path]]:
        """The files; of the form ``archive`` these members of it, for as long as the block runs."""
        if self.form != "archive":
            yield self.paths
            return
        with extracted(self.paths[0], *members) as paths:
            yield paths


def locate(name: str, source: Source) -> Located:
    """Find the files of a data set in the data folder.

    Raises:
        DataMissing: with what to do.
        DataCorrupt: if a file of a right name is there, with wrong content, and no other serves.
    """
    candidates = list(folder.files())
    rejected: list[DataCorrupt] = []
    for form in source.forms:
        found = [_find(file, candidates, rejected) for file in form.files]
        if all(path is not None for path in found):
            return Located(form.name, tuple(path for path in found if path is not None))
    if rejected:
        raise DataCorrupt(
            f"{name}: no file serves, though there is one of the name: "
            + "; ".join(str(error) for error in rejected)
        )
    raise DataMissing(_how_to_get(name, source))


def _find(file: File, candidates: list[Path], rejected: list[DataCorrupt]) -> Path | None:
    named = [
        path
        for path in candidates
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in (file.name, *file.patterns))
    ]
    for path in named:
        try:
            file.recognise(path)
        except DataCorrupt as error:
            rejected.append(error)
        else:
            return path
    for path in candidates:
        if path not in named:
            try:
                file.recognise(path)
            except (DataCorrupt, OSError):
                continue
            return path
    return None


def _how_to_get(name: str, source: Source) -> str:
    form = source.download
    ways = []
    if form is not None:
        size = f" ({form.size / 1e6:.1f} MB)" if form.size else ""
        ways.append(f"run `ffjord-bench data fetch {name}`{size}")
    files = " or ".join(" and ".join(file.name for file in form.files) for form in source.forms)
    ways.append(f"put {files} into a data folder")
    message = f"{name} is not here: {', or '.join(ways)}"
    if source.advice:
        message += f" ({source.advice})"
    searched = ", ".join(map(str, folder.search_path()))
    return f"{message}. Searched: {searched}; {folder.VARIABLE} names other folders."
