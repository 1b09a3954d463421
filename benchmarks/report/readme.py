"""The parts of README that records give.

They stand between markers, an HTML comment each, and are written anew whenever the report of the
reference is made::

    <!-- generated: NAME -->
    what the function of that name in BLOCKS makes
    <!-- end -->

What no record gives is said to be missing, in the place where it would stand.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import datasets
from benchmarks.errors import StoreError
from benchmarks.report import ReportSummary
from benchmarks.report.groups import contestant, grouped, plain
from benchmarks.report.records import Records
from benchmarks.report.table import Entry, Section, Table, as_markdown, number
from benchmarks.report.tables import gaps
from benchmarks.studies import STUDIES

__all__ = ["BLOCKS", "COMMANDS", "Material", "filled"]

COMMANDS = "commands.json"
"""In the folder of the reference: how long README's commands take, by ``make reference-times``."""

_BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Material:
    """What blocks are made of.

    Attributes:
        summary: of the report of the reference, which has been written.
        root: the checkout.
    """

    summary: ReportSummary
    root: Path

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Every cell of every study once, with the column ``study``: the first that has it."""
        parts = [part.cells.assign(study=study.name) for study, part in self.summary.sections]
        cells = pd.concat(parts, ignore_index=True).copy()
        return cells.drop_duplicates(["key", "machine"])

    def table(self, study: str, name: str) -> str:
        """A Markdown link to a table of the report; its bare name if there is none."""
        written = {path.name for path in self.summary.paths}
        for file in (f"{study}-{name}.md", f"{name}.md"):
            if file in written:
                return f"[{study}](results/report/tables/{file})"
        return study


def filled(text: str, material: Material) -> str:
    """A text with its blocks as the records give them.

    Raises:
        StoreError: if a marker is without its end, or names no block.
    """
    blocks = _BLOCK.findall(text)
    if not len(blocks) == text.count("<!-- generated:") == text.count("<!-- end -->"):
        raise StoreError("README: each `<!-- generated: NAME -->` needs its `<!-- end -->`")
    if unknown := [name for _, name, _, _ in blocks if name not in BLOCKS]:
        raise StoreError(f"README: no block is called {unknown[0]!r}; there are {[*BLOCKS]}")

    def block(found: re.Match[str]) -> str:
        return f"{found[1]}{BLOCKS[found[2]](material).strip()}\n{found[4]}"

    return _BLOCK.sub(block, text)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Entry]]) -> str:
    """A table without caption."""
    table = Table(name="", title="", columns=columns, sections=[Section("", rows)])
    return as_markdown(table).split("\n\n", 1)[1]


# -- the blocks ---------------------------------------------------------------------------------


def _answer(material: Material) -> str:
    """Who wins at which cost: the first screen of the page."""
    text = " ".join(material.summary.sentences)
    if (drawn := material.summary.picture) is None:
        return text
    return f"{text}\n\n![{drawn.title}](results/report/{drawn.name}.svg)"


def _results(material: Material) -> str:
    """What was trained on a whole training set, beside what is published."""
    rows, shown = [], set()
    links: dict[str, None] = {}
    for study, records in material.summary.sections:
        for row, hours in _gaps(records):
            place = (row["dataset"], row["flow"], row["setting"], row["model"], row["source"])
            if place in shown:
                continue
            shown.add(place)
            links[material.table(study.name, "gaps")] = None
            unit = "nats" if row["measure"] == "nll_nats" else "bits/dim"
            ours, width = row["ours"], row["ours_half_width_over_seeds"]
            rows.append(
                [
                    Entry(f"{row['dataset']}, {unit}"),
                    Entry(contestant(row["flow"], row["setting"])),
                    number(row["seeds"], decimals=0),
                    number(hours),
                    number(ours, width, decimals=3),
                    number(row["published"], decimals=2),
                    number(row["gap"], width, decimals=3),
                    Entry(f"{row['model']}, {row['source']}"),
                ]
            )
    if not rows:
        return (
            "No record in `results/reference` is of a flow that was trained on the whole of a "
            "training set with published numbers: `ffjord-bench run power --profile full` makes "
            "them."
        )
    columns = ["data, unit", "flow", "seeds", "hours", "ours", "published", "gap", "published as"]
    return (
        _table(columns, rows)
        + "\nTest NLL, lower is better; gap: ours less the published number; ±: 95 % interval over "
        "our seeds; hours: of training, a run. Rules of training and kinds of published errors: "
        f"{', '.join(links)}."
    )


def _gaps(records: Records) -> Iterator[tuple[dict[str, Any], float]]:
    """Rows of the table of gaps with the hours of a training, of whole training sets alone."""
    cells = records.cells
    if "dataset.rows" in cells:
        cells = cells[cells["dataset.rows"].isna()]
    if cells.empty:
        return
    whole = records.only(cells["key"].str.partition("@")[0].to_list())
    for table in gaps(whole):
        for row in table.data.to_dict("records"):
            mine = whole.ok
            mine = mine[(mine["dataset"] == row["dataset"]) & (mine["flow"] == row["flow"])]
            mine = mine[mine["setting_label"] == row["setting"]]
            yield (
                {str(key): value for key, value in row.items()},
                mine["train_seconds"].mean() / 3600,
            )


_TIMES = {
    "train_step_ratio": "training step",
    "log_prob_ratio": "density",
    "sample_ratio": "sample",
}


def _speed(material: Material) -> str:
    """How long the fastest library takes, over ours, system by system."""
    rows = []
    links: dict[str, None] = {}
    for study, records in material.summary.sections:
        if "reference" not in records.ok:
            continue
        cells = records.ok[records.ok["reference"].notna()]
        cells = cells.assign(library=[_library(cell) for _, cell in cells.iterrows()])
        cells = cells[cells["library"].astype(bool)]
        if cells.empty:
            continue
        cells = cells.assign(system=cells["reference"].str.partition("[")[0])
        place = [column for column in ("device", "machine", "environment.gpu") if column in cells]
        for (system, trained, *_), group in grouped(cells, ["system", "trained", *place]):
            links[material.table(study.name, "ratios")] = None
            rows.append(
                [
                    Entry(system),
                    Entry("trained" if trained else "untrained"),
                    Entry(_place(group)),
                    *(_fastest(group, measure) for measure in _TIMES),
                ]
            )
    if not rows:
        return (
            "No record in `results/reference` times our flows beside other libraries': "
            "`ffjord-bench run backends` and `ffjord-bench run libraries` make them."
        )
    columns = ["system", "weights", "on", *_TIMES.values()]
    return (
        _table(columns, rows)
        + "\nTime of the fastest other library over ours, above 1 where ours is faster: geometric "
        "mean over the cases measured (data sets, widths, batches), their range, and which library "
        "was the fastest in most of them. Each pair ran in turn in one process. Every library and "
        f"case: {', '.join(links)}."
    )


def _library(cell: pd.Series[Any]) -> str:
    """Whose flow a cell with a reference is; empty for ours, and for what does less than ours."""
    library, slash, _ = str(cell["flow_name"]).partition("/")
    if cell.get("flow.trace_gradient") is False:
        return ""
    if slash:
        return library
    return "torchdiffeq" if cell.get("flow.backend") == "torchdiffeq" else ""


def _fastest(cells: pd.DataFrame, measure: str) -> Entry:
    """The ratio of the fastest library, over cases."""
    best: list[float] = []
    names: list[str] = []
    case = ["dataset", "reference", "budget.batch_size", "budget.compile"]
    for _, group in grouped(cells[cells[measure].notna()], case):
        flows = grouped(group, ["library", "flow"])
        ratio, name = min((float(mine[measure].mean()), str(name)) for (name, _), mine in flows)
        best.append(ratio)
        names.append(name)
    if not best:
        return number(math.nan)
    mean = number(float(np.exp(np.mean(np.log(best)))), decimals=2).text
    most = max(dict.fromkeys(names), key=names.count)
    span = f"{min(best):.2f} to {max(best):.2f}, " if len(best) > 1 else ""
    return Entry(mean, remark=f"{span}{most}", numeric=True)


def _place(cells: pd.DataFrame) -> str:
    """The device of some cells, which is one."""
    first = cells.iloc[0]
    gpu = plain(first.get("environment.gpu"))
    if first["device"] != "cpu":
        return gpu if gpu != "none" else str(first["device"])
    threads = sorted({int(value) for value in cells["threads"]})
    return f"CPU, {' or '.join(map(str, threads))} thread{'' if threads == [1] else 's'}"


def _runs(material: Material) -> str:
    """What ran where, for how long, at which commit."""
    rows = []
    place = ["device", "machine", "environment.gpu"]
    for study, records in material.summary.sections:
        cells = records.cells
        cells = cells.assign(**{name: np.nan for name in place if name not in cells})
        for _, group in grouped(cells, place):
            stages = group[["quality_stage_seconds", "cost_stage_seconds"]].sum(axis=1, min_count=1)
            ended = int((group["status"] == "ok").sum())
            rows.append(
                [
                    Entry(study.name),
                    Entry(f"{ended} of {len(group)}", numeric=True),
                    number(stages.sum(min_count=1) / 3600, decimals=2),
                    Entry(_place(group)),
                    Entry(plain(group["machine"].iloc[0])),
                    Entry(_commits(group)),
                ]
            )
    columns = ["study", "cells that ended well", "hours", "on", "machine", "commit"]
    return _table(columns, rows) + (
        "\nHours: of all cells, one after the other, with what was measured after training. Plus: "
        "the code had changes that were not committed."
    )


def _commits(cells: pd.DataFrame) -> str:
    """The commits that cells ran at; with a plus where the code had changes beside it."""
    if "environment.git_commit" not in cells:
        return "none"
    dirty = cells.get("environment.git_dirty", pd.Series(False, index=cells.index))
    names = [
        plain(commit)[:7] + ("+" if changed is True else "")
        for commit, changed in zip(cells["environment.git_commit"], dirty, strict=True)
    ]
    return ", ".join(dict.fromkeys(names))


def _commands(material: Material) -> str:
    """How long the two commands take."""
    path = material.root / "results" / "reference" / COMMANDS
    if not path.is_file():
        return "How long they take has not been measured yet (`make reference-times`)."
    found = json.loads(path.read_bytes())
    times = ", ".join(
        f"`{name}` {seconds / 60:.0f} minutes" for name, seconds in found["seconds"].items()
    )
    return (
        f"Measured from a fresh clone on {found['cpu_cores']} cores of {found['machine']} at "
        f"{found['git_commit'][:7]}: {times}."
    )


def _limits(material: Material) -> str:
    """What no record shows."""
    cells = material.cells
    ok = cells[cells["status"] == "ok"]
    here = {study.name for study, _ in material.summary.sections}
    lines = []
    on_gpu = ok[ok["device"] == "cuda"]
    if on_gpu.empty:
        lines.append("No GPU has taken part: every record is of a CPU.")
    else:
        gpus = ", ".join(dict.fromkeys(plain(name) for name in on_gpu["environment.gpu"]))
        names = ", ".join(dict.fromkeys(on_gpu["study"]))
        lines.append(f"On a GPU ({gpus}) ran: {names}. All else is of a CPU.")
    trained = set(ok.loc[ok["trained"], "dataset_name"])
    missing = [
        entry.name
        for entry in datasets.ENTRIES.values()
        if entry.kind in ("tabular", "image")
        and entry.name not in ("table", "images")
        and entry.name not in trained
    ]
    if missing:
        lines.append(f"No flow has been trained on {', '.join(missing)}.")
    studies = [name for name, study in STUDIES.items() if not study.includes and name not in here]
    if studies:
        lines.append(f"Studies without a record: {', '.join(studies)}.")
    if len(ok) < len(cells):
        lines.append(
            f"{len(cells) - len(ok)} of {len(cells)} cells gave no result: "
            "[why](results/report/tables/failures.md)."
        )
    return "\n".join(f"- {line}" for line in lines)


BLOCKS: dict[str, Callable[[Material], str]] = {
    "answer": _answer,
    "results": _results,
    "speed": _speed,
    "runs": _runs,
    "commands": _commands,
    "limits": _limits,
}
"""What each block is made by."""
