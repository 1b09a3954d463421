"""What is at hand, getting what is not, and checking what there is: `data list|fetch|verify`.

Sets are named as in the catalog; a name that it does not have raises UnknownDataset.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from datasets import registry
from datasets.base import SPLITS, DataCorrupt, DataError, DataMissing, Dataset, array_hash
from datasets.files.cache import CacheWarning, prepared_folders
from datasets.files.download import download
from datasets.files.sources import locate
from datasets.gaussian_baseline import gaussian_baseline
from datasets.own import OwnConfig

__all__ = ["Check", "State", "Status", "Verification", "fetch", "status", "verify"]

State = Literal["generated", "embedded", "present", "corrupt", "downloadable", "user-supplied"]


@dataclass(frozen=True)
class Status:
    """Whether a data set is at hand, and how to have it.

    Attributes:
        name: the catalog's name.
        state: ``generated`` (drawn when loaded), ``embedded`` (ships with the project),
            ``present`` (files were found, or the prepared splits), ``corrupt`` (a file of the right
            name has the wrong content), ``downloadable``, or ``user-supplied`` (nobody has an
            address for it).
        paths: of the files found.
        bytes: of the files found, or of the download, roughly; None where unknown or nothing.
        licence: under which the data may be used; None for what is generated.
        citation: whom to name.
        advice: for what is not there or corrupt, what to do.
    """

    name: str
    state: State
    paths: tuple[Path, ...] = ()
    bytes: int | None = None
    licence: str | None = None
    citation: str = ""
    advice: str = ""


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        what: in words.
        ok: whether it holds.
        detail: what was found, and what was due.
    """

    what: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Verification:
    """Everything that was checked of one data set.

    Attributes:
        name: the catalog's name.
        checks: in order; empty if the data set is not here.
        missing: why nothing could be checked, and what to do; None if the data set is here.
    """

    name: str
    checks: Sequence[Check] = field(default_factory=tuple)
    missing: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the data set is here and every check holds."""
        return self.missing is None and all(check.ok for check in self.checks)


def status(name: str) -> Status:
    """Whether a data set is at hand.

    Example:
        >>> status("moons").state, status("power").state
        ('generated', 'embedded')
    """
    entry = registry.entry(name)
    config = entry.config
    if isinstance(config, OwnConfig):
        return Status(name, "user-supplied", citation=entry.source, advice=config.advice(name))
    source = config.files()
    if source is None:
        return Status(name, "generated", citation=entry.source)

    def status_of(state: State, paths: tuple[Path, ...], size: int | None, advice: str) -> Status:
        return Status(name, state, paths, size, source.licence, source.citation, advice)

    if source.embedded is not None:
        return status_of("embedded", (source.embedded,), source.embedded.stat().st_size, "")
    try:
        paths = locate(name, source).paths
    except DataError as error:
        if prepared := prepared_folders(name):
            # The files have gone, but what was made of them is enough.
            files = [path for folder in prepared for path in folder.glob("*.npy")]
            size = sum(path.stat().st_size for path in files)
            return status_of("present", tuple(prepared), size, "")
        if isinstance(error, DataCorrupt):
            return status_of("corrupt", (), None, str(error))
        form = source.download
        state: State = "user-supplied" if form is None else "downloadable"
        return status_of(state, (), form.size or None if form is not None else None, str(error))
    return status_of("present", paths, sum(path.stat().st_size for path in paths), "")


def fetch(name: str, *, progress: bool = True) -> tuple[Path, ...]:
    """Get the files of a data set, unless they are there.

    Args:
        name: of the set.
        progress: whether to show a bar, if standard error is a terminal.

    Returns:
        The files; none for a data set that is generated.

    Raises:
        DataMissing: if the data set has no address; the message says what to do.
        DownloadFailed: if no mirror gave a file.
        DataError: if it cannot be written.
    """
    found = status(name)
    if found.state in ("generated", "embedded", "present"):
        return found.paths
    source = registry.entry(name).config.files()
    form = source.download if source is not None else None
    if form is None:
        raise DataMissing(found.advice)
    return tuple(download(file, progress=progress) for file in form.files)


def verify(name: str) -> Verification:
    """Check a data set from its files to the splits that a flow is given.

    The files by their content, the prepared splits by their hashes, both those noted when they were
    made and, where they are known, those that they must have; the values by their range, and for
    tables the Gaussian baseline next to the published one.
    """
    checks: list[Check] = []
    found = status(name)
    if found.state == "corrupt":
        return Verification(name, [Check("files", False, found.advice)])
    if found.state == "present":
        files = ", ".join(map(str, found.paths))
        checks.append(Check("files", True, f"found: {files}"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CacheWarning)
            dataset = registry.load(name)
    except DataMissing as error:
        return Verification(name, checks, missing=str(error))
    except DataError as error:
        return Verification(name, [*checks, Check("loading", False, str(error))])
    checks.append(_check_hashes(dataset))
    checks.extend(_check_content(dataset))
    checks.append(_check_values(dataset))
    checks.extend(_check_baseline(dataset))
    return Verification(name, checks)


def _check_hashes(dataset: Dataset) -> Check:
    """Every value is read again."""
    changed = [
        str(getattr(dataset.split(split), "filename", split))
        for split in SPLITS
        if array_hash(dataset.split(split)) != dataset.hashes[split]
    ]
    if changed:
        detail = f"changed since they were made: {', '.join(changed)}; delete them"
    else:
        sizes = " / ".join(f"{len(dataset.split(split)):,}" for split in SPLITS)
        detail = f"{sizes} rows, hashes as noted when they were made"
    return Check("splits", not changed, detail)


def _check_content(dataset: Dataset) -> list[Check]:
    """The prepared splits against those of this project, where they are known."""
    due = registry.entry(dataset.name).hashes
    if not due:
        return []
    wrong = [
        f"{split} has the sha256 {dataset.hashes[split]} where {expected} is due"
        for split, expected in due.items()
        if dataset.hashes[split] != expected
    ]
    detail = "; ".join(wrong) or "every split has the sha256 that is known of it"
    return [Check("content", not wrong, detail)]


def _check_values(dataset: Dataset) -> Check:
    for split in SPLITS:
        values = dataset.split(split)
        if dataset.levels is not None:
            if int(values.max()) >= dataset.levels:
                return Check("values", False, f"{split} holds {values.max()} of {dataset.levels}")
        elif not np.isfinite(values).all():
            return Check("values", False, f"{split} holds NaN or infinity")
    held = "finite" if dataset.levels is None else f"within {dataset.levels} levels"
    return Check("values", True, f"all {held}")


def _check_baseline(dataset: Dataset) -> list[Check]:
    """The Gaussian's score, next to the published one, or to the entropy where that is known."""
    if dataset.kind == "image":
        return []
    nll, error = gaussian_baseline(dataset)
    text = f"log-likelihood of a Gaussian {-nll:.2f} +- {2 * error:.2f} nats"
    if dataset.truth is not None:
        # No model can be better than the entropy, but by chance.
        entropy = dataset.truth.entropy_nats
        ok = nll > entropy - 5 * error
        return [Check("baseline", ok, f"{text}; minus the entropy is {-entropy:.2f}")]
    published = registry.entry(dataset.name).published
    if published is None:
        return [Check("baseline", bool(np.isfinite(nll)), f"{text}; none is published")]
    ok = abs(-nll - published.log_likelihood) <= published.tolerance
    score = f"{published.log_likelihood} +- {published.bar} ({published.of})"
    return [Check("baseline", ok, f"{text}; published {score}")]
