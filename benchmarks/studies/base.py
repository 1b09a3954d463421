"""What a study is: cells to run, and what they are to answer."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.errors import MatrixError

if TYPE_CHECKING:
    from benchmarks.report.figures import Drawn, Scene
    from benchmarks.report.records import Records
    from benchmarks.report.table import Table

__all__ = ["PROFILES", "Profile", "Study"]

Profile = Literal["small", "full"]
PROFILES: tuple[Profile, ...] = ("small", "full")


@dataclass(frozen=True)
class Study:
    """A question and how it is answered, as a file of studies states it in its list ``ENTRIES``.

    Attributes:
        name: as ``run`` takes it.
        title: one line, the heading of its section in a report.
        answers: which table or figure of which paper, or which question.
        small: its cells for two cores in minutes: the text of a matrix file
            (:mod:`benchmarks.matrix`) without ``name`` and ``description``.
        full: its cells for a GPU; those of ``small`` if empty.
        tables: each makes tables of the study's records, none where they lack what it takes.
        figures: each draws figures likewise.
        finding: one sentence computed from the records, with its uncertainty; None where they do
            not suffice.
        usage: lines of Python by which a reader goes on with what the finding says, if any.
        includes: of a study that is the union of others, their names; it has nothing of its own.
        place: studies stand in this order, in lists and reports.
        origin: where a study from outside the project comes from, with its version or the hash of
            its file. Set by :func:`benchmarks.studies.add`.
    """

    name: str
    title: str
    answers: str
    small: str = ""
    full: str = ""
    tables: tuple[Callable[[Records], Iterable[Table]], ...] = ()
    figures: tuple[Callable[[Scene], Iterable[Drawn]], ...] = ()
    finding: Callable[[Records], str | None] | None = None
    usage: Callable[[Records], str | None] | None = None
    includes: tuple[str, ...] = ()
    place: int = 50
    origin: str = ""

    def matrix(self, profile: Profile) -> dict[str, Any]:
        """The matrix file of a profile, as :class:`benchmarks.matrix.MatrixFile` takes it.

        Raises:
            MatrixError: if it is no valid TOML.
        """
        try:
            document = tomllib.loads((profile == "full" and self.full) or self.small)
        except tomllib.TOMLDecodeError as error:
            raise MatrixError(f"study {self.name}, {profile}: not valid TOML: {error}") from error
        return {**document, "name": self.name, "description": self.title}
