"""Who is at work on which cell, so that runners on any number of machines share one folder.

In it lie::

    runners/<name>      a runner; its time is moved while it lives, and it is gone when it has ended
    claims/<key>.<n>    a link to the name of the runner that has the cell, and how often such a
                        runner was lost before; without a name: put back by the one that had it

Of a cell's claims the one with the highest number counts. To take a cell, and to put it back, is to
make the next link, which of several runners one can, and then to remove the one before. The number
falls back only when the cell has a record, which is why whoever has taken a cell reads its record
again.

A runner is dead at once for its own machine, where the system lets go of its lock when it and all
of its cells have ended; for other machines it is when it has not been heard of for
:data:`LEASE_SECONDS`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from benchmarks.store import Store

__all__ = [
    "LEASE_SECONDS",
    "MOST_LOSSES",
    "Runner",
    "holders",
    "is_running",
    "sweep",
    "with_runner",
]

BEAT_SECONDS = 15.0
"""Between two signs of life of a runner."""
LEASE_SECONDS = 120.0
"""Without a sign of life, after which a runner of another machine is dead. Clients of a network
file system may see a file's time a minute late."""
MOST_LOSSES = 5
"""How often in a row a cell may lose its runner without having kept anything of its work."""


@dataclass(frozen=True)
class Claim:
    """Of a cell: who has it, empty if it was put back, and how many runners it has lost."""

    number: int
    runner: str
    losses: int


class Runner:
    """A process that runs cells, and what it has taken; to be entered.

    Args:
        store: the folder that it shares with others.

    Attributes:
        name: of it, unlike any other's.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._path = _runners(store) / self.name
        self._held: dict[str, Claim] = {}
        self._numbers: dict[str, int] = {}
        self._living: dict[str, bool] = {}
        self._beaten = 0.0

    def __enter__(self) -> Runner:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _claims(self._store).mkdir(parents=True, exist_ok=True)
        # Under another name until it is locked: it is never there and dead.
        temporary = self._path.with_name(f".{self.name}.tmp")
        self._lock = temporary.open("w")
        self._lock.write(_machine())
        self._lock.flush()
        with contextlib.suppress(OSError):
            fcntl.flock(self._lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        temporary.replace(self._path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            for key in list(self._held):
                self.put_back(key)
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._lock.close()

    def beat(self) -> bool:
        """Give a sign of life, if it is time, and whether it was; to be called every second."""
        if time.monotonic() - self._beaten < BEAT_SECONDS:
            return False
        self._beaten = time.monotonic()
        # Made again, if it was taken for dead. Without the folder the run has ended anyway.
        with contextlib.suppress(FileNotFoundError):
            self._path.touch()
        return True

    def look(self) -> None:
        """See what others have; :meth:`take` goes by that."""
        self._numbers, self._living = _numbers(self._store), {self.name: True}

    def take(self, key: str) -> bool:
        """Take a cell; whether nobody else has it."""
        number, losses = self._numbers.get(key, 0), 0
        if number:
            before = _read(self._store, key, number)
            if before is None or self._lives(before.runner):
                return False
            losses = _losses(self._store, key, before)
        path = _path(self._store, key, number + 1)
        try:
            path.symlink_to(f"{self.name}:{losses}")
        except FileExistsError:
            return False
        if _numbers(self._store).get(key) != number + 1:
            # Others had it since the look. A link goes only when there is a later one.
            path.unlink(missing_ok=True)
            return False
        self._held[key] = Claim(number + 1, self.name, losses)
        if number:
            _path(self._store, key, number).unlink(missing_ok=True)
        return True

    def losses(self, key: str) -> int:
        """How many runners a cell that was taken has lost in a row."""
        return self._held[key].losses

    def holds(self, key: str) -> bool:
        """Whether a cell that was taken is still this runner's: it may have been taken for dead."""
        return _read(self._store, key, self._held[key].number) == self._held[key]

    def put_back(self, key: str) -> None:
        """Leave a cell to whoever comes."""
        number = self._held.pop(key).number
        # Unless another has taken it for lost, or the folder is gone.
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            _path(self._store, key, number + 1).symlink_to(":0")
        _path(self._store, key, number).unlink(missing_ok=True)

    def done(self, key: str) -> None:
        """A cell has its record."""
        if claim := self._held.pop(key, None):
            _path(self._store, key, claim.number).unlink(missing_ok=True)

    def _lives(self, name: str) -> bool:
        if name not in self._living:
            self._living[name] = _is_alive(self._store, name)
        return self._living[name]


@contextlib.contextmanager
def with_runner(store: Store, name: str) -> Iterator[None]:
    """A process of a cell: while it is in the block, its runner is not dead for their machine."""
    try:
        file = (_runners(store) / name).open() if name else None
    except OSError:
        file = None
    with file or contextlib.nullcontext():
        if file is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_SH)
        yield


def holders(store: Store) -> dict[str, bool]:
    """The cells that a runner has taken, and whether it lives."""
    living = {"": False}
    found: dict[str, bool] = {}
    for key, number in _numbers(store).items():
        claim = _read(store, key, number)
        if claim is None or not claim.runner:
            continue
        if claim.runner not in living:
            living[claim.runner] = _is_alive(store, claim.runner)
        found[key] = living[claim.runner]
    return found


def is_running(store: Store, key: str) -> bool:
    """Whether a living runner has a cell."""
    return holders(store).get(key, False)


def sweep(store: Store, finished: set[str]) -> None:
    """Remove what dead runners have left: themselves, and claims of cells that have a record."""
    for key, number in _numbers(store).items():
        if key in finished:
            _path(store, key, number).unlink(missing_ok=True)
    if _runners(store).is_dir():
        for path in _runners(store).iterdir():
            if not path.name.startswith(".") and not _is_alive(store, path.name):
                path.unlink(missing_ok=True)


# -- files ------------------------------------------------------------------------------------


def _runners(store: Store) -> Path:
    return store.directory / "runners"


def _claims(store: Store) -> Path:
    return store.directory / "claims"


def _path(store: Store, key: str, number: int) -> Path:
    return _claims(store) / f"{key}.{number}"


def _numbers(store: Store) -> dict[str, int]:
    """The number that counts of each cell's claims."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError), os.scandir(_claims(store)) as entries:
        for entry in entries:
            if match := re.fullmatch(r"(\w+)\.(\d+)", entry.name):
                found[match[1]] = max(found.get(match[1], 0), int(match[2]))
    return found


def _read(store: Store, key: str, number: int) -> Claim | None:
    """A claim; None if it is gone, or no claim."""
    try:
        runner, _, losses = _path(store, key, number).readlink().name.rpartition(":")
        return Claim(number, runner, int(losses))
    except (OSError, ValueError):
        return None


def _losses(store: Store, key: str, before: Claim) -> int:
    """How many runners a cell has lost in a row, of which none kept anything of its work."""
    if not before.runner:
        return 0
    with contextlib.suppress(OSError):
        taken = _path(store, key, before.number).lstat().st_mtime
        for suffix in (".checkpoint", ".json"):
            with contextlib.suppress(FileNotFoundError):
                if store.pending(key, suffix).stat().st_mtime > taken:
                    return 0
    return before.losses + 1


def _is_alive(store: Store, name: str) -> bool:
    path = _runners(store) / name
    if not name or not path.is_file():
        return False
    with contextlib.suppress(OSError), path.open("r+") as file:
        try:
            # Its own lock and those of its cells are shared ones.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        if file.read() == _machine():
            return False
    with contextlib.suppress(OSError):
        return _now(store) - path.stat().st_mtime < LEASE_SECONDS
    return False


def _now(store: Store) -> float:
    """What time it is for the file system; for this machine, if nothing can be written there."""
    probe = _runners(store) / f".{secrets.token_hex(4)}.tmp"
    try:
        probe.touch()
        found = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        return time.time()
    return found


def _machine() -> str:
    """A machine since it was started."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else ''}"
