"""Published numbers, read from ``literature.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

__all__ = ["Literature", "Published", "Source", "literature"]

ErrorOver = Literal["test points", "runs", "none"]


@dataclass(frozen=True)
class Source:
    """Where a number comes from.

    Attributes:
        short: authors and year.
        text: authors, year, title.
        address: of the paper.
        read: how the number was obtained: from the paper, or in a secondary copy.
    """

    short: str
    text: str
    address: str
    read: str


@dataclass(frozen=True)
class Published:
    """One published number, in the report's own measure: lower is better.

    Attributes:
        model: as its source names it.
        flow: the name of our contestant of the same system; empty if there is none.
        dataset: the name of our data set.
        measure: ``nll_nats`` or ``bits_per_dim``.
        value: the negative of the log-likelihood, or bits/dim.
        error: as printed; None if the source prints none.
        error_over: what the error is over.
        source: where it comes from.
    """

    model: str
    flow: str
    dataset: str
    measure: Literal["nll_nats", "bits_per_dim"]
    value: float
    error: float | None
    error_over: ErrorOver
    source: Source


@dataclass(frozen=True)
class Literature:
    """All that ``literature.toml`` holds.

    Attributes:
        published: every number.
        dataset_notes: by data set, how ours may differ from the published one.
    """

    published: tuple[Published, ...]
    dataset_notes: Mapping[str, str]

    def of(self, dataset: str, measure: str) -> list[Published]:
        """The numbers of one data set in one measure, in the file's order."""
        return [
            item for item in self.published if (item.dataset, item.measure) == (dataset, measure)
        ]


@cache
def literature() -> Literature:
    """Read the published numbers.

    Example:
        >>> [(p.model, p.value) for p in literature().of("power", "nll_nats") if p.flow == "ffjord"]
        [('FFJORD', -0.46)]
    """
    raw = tomllib.loads((Path(__file__).parent / "literature.toml").read_text(encoding="utf-8"))
    sources = {name: Source(**fields) for name, fields in raw["source"].items()}
    published = []
    for kind, measure, sign in (("tabular", "nll_nats", -1), ("image", "bits_per_dim", 1)):
        for entry in raw[kind]:
            about = {key: entry[key] for key in ("model", "error_over")}
            source = sources[entry["source"]]
            for dataset, numbers in entry.items():
                if not isinstance(numbers, list):
                    continue
                value, *error = numbers
                published.append(
                    Published(
                        flow=entry.get("flow", ""),
                        dataset=dataset,
                        measure=measure,  # type: ignore[arg-type]
                        value=sign * value,
                        error=error[0] if error else None,
                        source=source,
                        **about,
                    )
                )
    notes = {name: fields["note"] for name, fields in raw["dataset"].items()}
    return Literature(tuple(published), notes)
