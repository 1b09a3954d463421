"""Downloads that resume, try every mirror, and leave nothing half done in place.

`pooch <https://www.fatiando.org/pooch>`_ checks the sum and moves a whole file into place; the
part that it does not have, going on where a broken download stopped, is a downloader given to it.
"""

from __future__ import annotations

import errno
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pooch
import requests
from tqdm import tqdm

from datasets.base import DataCorrupt, DataError
from datasets.files import folder
from datasets.files.sources import File

__all__ = ["DownloadFailed", "download"]

_BLOCK = 1 << 16

# pooch tells of every file on standard error; the progress bar says as much.
pooch.get_logger().setLevel(logging.WARNING)


class DownloadFailed(DataError, ConnectionError):
    """No mirror gave the file; the message has the reason of each."""


class _Resume:
    """A downloader for pooch that keeps what it has in ``<name>.part`` and goes on from there.

    Args:
        part: where the unfinished download lies between attempts.
        progress: whether to show a bar on standard error.
        timeout: seconds without a byte after which the connection counts as lost.
        attempts: how often to go on in one call.
        wait: seconds before the second attempt; doubled before each one after it.
    """

    def __init__(
        self, part: Path, *, progress: bool, timeout: float, attempts: int, wait: float
    ) -> None:
        self.part = part
        self.progress = progress
        self.timeout = timeout
        self.attempts = attempts
        self.wait = wait

    def __call__(
        self, url: str, output_file: str, pooch: Any, check_only: bool | None = False
    ) -> bool | None:
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.wait * 2 ** (attempt - 1))
            try:
                self._go_on(url)
            except requests.HTTPError as error:
                status = 0 if error.response is None else error.response.status_code
                if status < 500 and status not in (408, 429):
                    raise  # Asking again would not help.
                lost: Exception = error
            except (
                requests.ConnectionError,
                requests.Timeout,
                requests.exceptions.ChunkedEncodingError,
            ) as error:
                lost = error
            else:
                shutil.move(self.part, output_file)
                return None
        raise lost

    def _go_on(self, url: str) -> None:
        """Fetch what is missing of the file.

        Raises:
            requests.RequestException: if that did not succeed; what came is kept.
        """
        have = self.part.stat().st_size if self.part.exists() else 0
        # The bytes as they are: a compressed transfer could not be resumed.
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                # Whole already, or longer than the file is: which of the two, the sum tells.
                total = response.headers.get("Content-Range", "").rpartition("/")[2]
                if total == str(have):
                    return
                self.part.unlink()
                raise requests.ConnectionError("the unfinished download is longer than the file")
            response.raise_for_status()
            resumed = response.status_code == requests.codes.partial_content
            start = have if resumed else 0
            length = response.headers.get("Content-Length")
            total_bytes = start + int(length) if length is not None else None
            bar = tqdm(
                total=total_bytes,
                initial=start,
                desc=self.part.name.removesuffix(".part"),
                unit="B",
                unit_scale=True,
                disable=None if self.progress else True,
            )
            with bar, self.part.open("ab" if resumed else "wb") as stream:
                for block in response.iter_content(_BLOCK):
                    stream.write(block)
                    bar.update(len(block))
        if total_bytes is not None and self.part.stat().st_size < total_bytes:
            raise requests.ConnectionError("the server closed the connection before the end")


def download(
    file: File,
    *,
    progress: bool = True,
    timeout: float = 30.0,
    attempts: int = 5,
    wait: float = 1.0,
) -> Path:
    """Download one file of the table into the data folder.

    Args:
        file: with its mirrors, which are tried in order.
        progress: whether to show a bar, if standard error is a terminal.
        timeout: seconds without a byte after which a connection counts as lost.
        attempts: for each mirror, how often to go on after a loss.
        wait: seconds before the second attempt, doubled before each one after it.

    Returns:
        Where it lies now, recognised by its content.

    Raises:
        DownloadFailed: if no mirror gave the right file; what came of it is kept, and the next
            call goes on from there.
        DataError: if the disk is full or the folder cannot be written to.
    """
    target = folder.write_folder() / folder.DOWNLOADS
    try:
        target.mkdir(exist_ok=True)
        lock = folder.locked(target / f"{file.name}.lock")
    except OSError as error:
        raise DataError(f"{target} cannot be written to: {error}") from error
    with lock:
        if (whole := target / file.name).exists():
            # Another process may have fetched it while this one waited.
            try:
                file.recognise(whole)
            except DataCorrupt:
                whole.unlink()
            else:
                return whole
        part = target / f"{file.name}.part"
        resume = _Resume(part, progress=progress, timeout=timeout, attempts=attempts, wait=wait)
        return _from_mirrors(file, target, resume)


def _from_mirrors(file: File, target: Path, downloader: _Resume) -> Path:
    reasons = []
    for url in file.addresses:
        try:
            return _retrieve(url, file, target, downloader)
        except requests.RequestException as error:
            reasons.append(f"{url}: {error}")
        except DataCorrupt as error:
            # Going on from wrong bytes would never give right ones.
            downloader.part.unlink(missing_ok=True)
            reasons.append(f"{url}: {error}")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(
                    f"the disk of {target} is full: free some space, or set {folder.VARIABLE} to "
                    "another folder; the download goes on where it stopped"
                ) from error
            raise DataError(f"{target} cannot be written to: {error}") from error
    raise DownloadFailed(f"{file.name} could not be downloaded: " + "; ".join(reasons))


def _retrieve(url: str, file: File, target: Path, downloader: Callable[..., bool | None]) -> Path:
    try:
        found = pooch.retrieve(
            url, known_hash=file.checksum, fname=file.name, path=target, downloader=downloader
        )
    except requests.RequestException:
        raise
    except ValueError as error:
        # pooch's first sentence has both sums; the rest is advice.
        raise DataCorrupt(str(error).partition(". ")[0]) from error
    path = Path(found)
    try:
        file.recognise(path)
    except DataCorrupt:
        path.unlink()
        raise
    return path
