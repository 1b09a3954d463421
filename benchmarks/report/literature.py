"""Published numbers, read from ``literature.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
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
    """

    short: str
    text: str
    address: str


@dataclass(frozen=True)
class Published:
    """One published number, in the report's own measure: lower is better.

    Attributes:
        model: as its source names it.
        flows: catalog names of our contestants of the same system; empty if there are none.
        dataset: the name of our data set.
        measure: ``nll_nats`` or ``bits_per_dim``.
        value: the negative of the log-likelihood, or bits/dim.
        error: as printed; None if the source prints none.
        error_over: what the error is over.
        recipe: whose training of which configuration it is.
        source: where it comes from.
        read: how it was obtained for this project.
    """

    model: str
    flows: tuple[str, ...]
    dataset: str
    measure: Literal["nll_nats", "bits_per_dim"]
    value: float
    error: float | None
    error_over: ErrorOver
    recipe: str
    source: Source
    read: str

    def is_of(self, contestants: Collection[str]) -> bool:
        """Whether one of some contestants is of this system, a library's of that name included."""
        systems = {name.rpartition("/")[2] for name in contestants}
        return not systems.isdisjoint(self.flows)


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
        >>> power = literature().of("power", "nll_nats")
        >>> [(p.model, p.value, p.flows) for p in power if p.is_of({"ffjord"})]
        [('FFJORD', -0.46, ('ffjord', 'ffjord-power'))]
    """
    raw = tomllib.loads((Path(__file__).parent / "literature.toml").read_text(encoding="utf-8"))
    sources, reads = {}, {}
    for name, fields in raw["source"].items():
        reads[name] = fields.pop("read")
        sources[name] = Source(**fields)
    published = []
    for kind, measure, sign in (("tabular", "nll_nats", -1), ("image", "bits_per_dim", 1)):
        for entry in raw[kind]:
            about = {key: entry[key] for key in ("model", "error_over", "recipe")}
            numbers = {k: v for k, v in entry.items() if isinstance(v, list) and k != "flows"}
            for dataset, (value, *error) in numbers.items():
                published.append(
                    Published(
                        flows=tuple(f.format(dataset=dataset) for f in entry.get("flows", [])),
                        dataset=dataset,
                        measure=measure,  # type: ignore[arg-type]
                        value=sign * value,
                        error=error[0] if error else None,
                        source=sources[entry["source"]],
                        read=entry.get("read", reads[entry["source"]]),
                        **about,
                    )
                )
    notes = {name: fields["note"] for name, fields in raw["dataset"].items()}
    return Literature(tuple(published), notes)
