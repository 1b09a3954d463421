"""Which flow fits a user's own table: its cells, and what their records answer.

Each system of vectors is trained at two sizes for the same wall-clock time. The flows are compared
row by row of the test split: what two densities of one row differ by varies less than either.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import flows
from benchmarks import measures
from benchmarks.report import figures
from benchmarks.report.groups import grouped, values_by_seed
from benchmarks.report.notes import machine_notes, option_notes
from benchmarks.report.records import Records
from benchmarks.report.statistics import Interval, paired_difference
from benchmarks.report.table import Entry, Section, Table, number
from benchmarks.store import Store, write_atomically
from benchmarks.studies.base import Study
from datasets import DataError, Dataset, Standardisation

__all__ = ["CONTESTANTS", "STUDY", "check", "contestants", "document", "keep_best", "ranking"]

LEAST_ROWS = 100
TEST_ROWS = 5000
"""Test rows at most: the exact density of a continuous flow is dear."""
LEAST_VARIANCE = 1e-10
"""Of a standardised column given those before it; float32 resolves no less than about 1e-14."""
TRAINING_PART = 0.6
"""Of the time asked for; the rest goes to starts, validations, test densities and timings."""

_PERCEPTRONS: tuple[dict[str, Any], ...] = ({"hidden": [64, 64]}, {"hidden": [128, 128]})


def _layers(small: int, large: int) -> tuple[dict[str, Any], dict[str, Any]]:
    one, other = _PERCEPTRONS
    return {"layers": small, **one}, {"layers": large, **other}


CONTESTANTS: dict[str, tuple[float, tuple[dict[str, Any], ...]]] = {
    "ffjord": (1e-2, tuple({**size, "atol": 1e-4, "rtol": 1e-4} for size in _PERCEPTRONS)),
    "ffjord-fm": (3e-3, tuple({**size, "atol": 1e-4, "rtol": 1e-4} for size in _PERCEPTRONS)),
    "realnvp": (3e-3, _layers(4, 10)),
    "glow": (3e-3, ({"steps": 4, "hidden": [64, 64]}, {"steps": 10, "hidden": [128, 128]})),
    "nice": (3e-3, _layers(4, 8)),
    "maf": (3e-3, _layers(3, 8)),
    "maf-mog": (3e-3, _layers(3, 8)),
    "iaf": (3e-3, _layers(2, 4)),
    "rqnsf-c": (3e-3, _layers(4, 8)),
    "rqnsf-ar": (3e-3, _layers(3, 6)),
}
"""Entries of the vector flows that can be trained on data, each with its learning rate and its two
sizes."""


def contestants() -> list[dict[str, Any]]:
    """The flows as a matrix file has them: the suite's at two sizes, plugins' as they come."""
    own = [
        {"name": name, **size, "budget": {"learning_rate": rate}}
        for name, (rate, sizes) in CONTESTANTS.items()
        for size in sizes
    ]
    return [*own, *({"name": name} for name, entry in flows.ENTRIES.items() if entry.origin)]


def check(data: Dataset, path: str) -> None:
    """Refuse a table on which no choice can be made.

    Raises:
        DataError: if it has too few rows, one column, or a column that others determine.
    """
    rows = sum(len(part) for part in (data.train, data.validation, data.test))
    if data.dimension < 2:
        raise DataError(
            f"{path} has one column of numbers that vary, {data.columns[0].name!r}: flows model "
            "what several columns have to do with each other, so two are needed"
        )
    if rows < LEAST_ROWS:
        raise DataError(
            f"{path} has {rows} rows: a choice takes {LEAST_ROWS}, of which a tenth validates and "
            "a tenth tests"
        )
    factor, failed = torch.linalg.cholesky_ex(torch.as_tensor(data.train).double().T.cov())
    given_others = factor.diagonal().square()
    singular = int(failed) - 1 if failed else int(given_others.argmin())
    if failed or given_others[singular] < LEAST_VARIANCE:
        name = data.columns[singular].name
        raise DataError(
            f"{path}: column {name!r} follows from the columns before it, so that the density has "
            f"no bound; leave it out with --drop-column {name!r}"
        )


def document(
    data: Dataset, options: Mapping[str, Any], seconds: float, seeds: Sequence[int]
) -> dict[str, Any]:
    """The matrix of a choice on a table: the data set's options, the seconds of each training."""
    families = ["quality", "pointwise", "time"]
    if data.dimension == 2:
        families.append("pictures")
    more = {"test_rows": TEST_ROWS} if len(data.test) > TEST_ROWS else {}
    return {
        "name": STUDY.name,
        "description": STUDY.title,
        "seeds": list(seeds),
        "measures": families,
        "budget": {
            "steps": None,
            "seconds": seconds,
            "validate_every": 50,
            "validation_rows": 2000,
        },
        "study": [
            {
                "name": "flows",
                "flows": contestants(),
                "datasets": [{"name": "table", **options, **more}],
            }
        ],
    }


# -- what the records answer --------------------------------------------------------------------


@dataclass(frozen=True)
class Ranked:
    """A contestant's place.

    Attributes:
        name: of the contestant.
        nll: mean negative log-density of the test rows, nats, with 1.96 standard errors over them.
        behind: by how much that is above the best, with 1.96 standard errors of the difference of
            the test rows' densities.
        over_seeds: the same difference, seed by seed.
        cells: its cells; empty for the Gaussian.
    """

    name: str
    nll: Interval
    behind: Interval
    over_seeds: Interval
    cells: pd.DataFrame

    @property
    def apart(self) -> bool:
        """Whether it is told from the best by the test rows, and by the seeds where several ran."""
        by_rows, seeds = self.behind.excludes_zero, self.over_seeds
        return by_rows and (seeds.n < 2 or seeds.excludes_zero)


IN_COMPANY = "§"
GAUSSIAN = "full-covariance Gaussian"


def ranking(records: Records) -> list[Ranked]:
    """The contestants that lost no seed, and a Gaussian, the best first; empty without records.

    The densities of a row are averaged over the seeds before rows are compared. Rows of several
    tables, whose folders are reported together, are not comparable: then it is empty too.
    """
    if _tables(records) > 1:
        return []
    cells = records.cells.assign(contestant=records.names(records.cells))
    rows: dict[str, np.ndarray[Any, Any]] = {}
    groups = {str(name): group for (name,), group in grouped(cells, ["contestant"])}
    for name, group in groups.items():
        if (group["status"] != "ok").any():
            continue
        kept = [records.store_of[key].arrays(key) for key in group["key"]]
        if all("test_log_prob" in arrays for arrays in kept):
            found = np.stack([arrays["test_log_prob"] for arrays in kept])
            rows[name] = found.mean(0, dtype=np.float64)
            rows[GAUSSIAN] = kept[0]["gaussian_log_prob"].astype(np.float64)
    if not rows:
        return []
    order = sorted(rows, key=lambda name: -float(rows[name].mean()))
    best = order[0]
    groups[GAUSSIAN] = cells.iloc[:0]
    scores = {name: values_by_seed(groups[name], "nll_nats") for name in order}
    return [
        Ranked(
            name,
            _over_rows(-rows[name]),
            _over_rows(rows[best] - rows[name]),
            paired_difference(scores[name], scores[best]),
            groups[name],
        )
        for name in order
    ]


def _tables(records: Records) -> int:
    """How many tables the cells are of, by what their test rows hold."""
    known = [name for name in ("dataset", "data_hash.test") if name in records.raw]
    return len(records.raw[records.raw["status"] == "ok"][known].drop_duplicates())


def _over_rows(values: np.ndarray[Any, Any]) -> Interval:
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return Interval(float(values.mean()), 1.96 * error, len(values))


def table(records: Records) -> list[Table]:
    """The contestants in the order of their fit, how sure it is, and what each costs."""
    ranked = ranking(records)
    if not ranked:
        return []
    several = any(item.over_seeds.n > 1 for item in ranked)
    costs = [measures.column(name) for name in ("log_prob_seconds", "sample_seconds")]
    head = ["flow", "NLL [nats]", "behind the best [nats]"]
    head += ["the same over seeds [nats]"] if several else []
    head += ["verdict", "parameters", "training steps", "density [ms]", "sample [ms]"]
    # The times as they were measured: those taken in company have a mark here.
    raw = records.raw.set_index("key")
    lines, data = [], []
    for place, item in enumerate(ranked):
        mine = raw.loc[item.cells["key"]]
        means = {
            name: _mean(mine, name)
            for name in ("parameters", "steps", "log_prob_exact_seconds", *(c.name for c in costs))
        }
        exact = means.pop("log_prob_exact_seconds")
        if math.isfinite(exact):
            means["log_prob_seconds"] = exact
        mark = IN_COMPANY if item.cells["cost_shared"].any() else ""
        verdict = "best" if place == 0 else "behind" if item.apart else "cannot be told apart"
        line = [
            Entry(item.name, bold=place == 0),
            number(item.nll.mean, item.nll.half_width, decimals=3),
            number(item.behind.mean, item.behind.half_width, decimals=3)
            if place
            else Entry("0", numeric=True),
        ]
        if several:
            seeds = item.over_seeds
            line.append(number(seeds.mean if place else math.nan, seeds.half_width, decimals=3))
        line.append(Entry(verdict, bold=place == 0))
        line += [number(means[name], decimals=0) for name in ("parameters", "steps")]
        times = [number(means[column.name] * column.factor) for column in costs]
        line += [dataclasses.replace(entry, mark=mark) if mark else entry for entry in times]
        lines.append(line)
        data.append(
            {
                "flow": item.name,
                "nll_nats": item.nll.mean,
                "nll_nats_half_width": item.nll.half_width,
                "behind_nats": item.behind.mean,
                "behind_nats_half_width": item.behind.half_width,
                "behind_nats_over_seeds": item.over_seeds.mean,
                "behind_nats_over_seeds_half_width": item.over_seeds.half_width,
                "verdict": verdict,
                **means,
            }
        )
    return [
        Table(
            name="choice",
            title="Flows in the order of their fit to the test rows",
            columns=head,
            sections=[Section("", lines)],
            notes=_notes(records, ranked),
            data=pd.DataFrame(data),
        )
    ]


def _notes(records: Records, ranked: Sequence[Ranked]) -> list[str]:
    ok = records.ok
    rows, seeds = ranked[0].nll.n, sorted(set(ok["seed"]))
    notes = [
        f"NLL: mean negative log-density of the {rows:,} test rows, standardised; ±: 1.96 standard "
        "errors over them.",
        "Behind the best: the mean over test rows of the difference of the log-densities to the "
        "best flow's; ±: 1.96 standard errors of that difference, row by row.",
    ]
    if len(seeds) > 1:
        notes.append(
            f"Densities are the mean over {len(seeds)} seeds; told apart is what both the rows and "
            "the seeds (95 % Student t interval, paired) tell from the best."
        )
    else:
        notes.append(
            "One seed a flow: how much other initial weights would change, nothing here says; "
            "--seeds 0-2 trains three times."
        )
    notes += [
        "The best is chosen on the rows on which it is scored, among "
        f"{len(ranked)}: where others cannot be told from it, its score flatters by as much. No "
        "correction is made for the number of flows.",
        "Each flow has one learning rate, set beforehand for its system: tuned, places may change.",
        f"Density and sample: milliseconds for a batch of {_only(ok['budget.batch_size'])} rows, "
        "alone on the machine; the density is the exact one up to 64 columns.",
    ]
    if ok["cost_shared"].any():
        notes.append(
            f"{IN_COMPANY}: timed while others used the machine, and so too long; shown here alone."
        )
    if "data_remarks" in ok:
        notes += [f"The data: {text}." for text in sorted(set(ok["data_remarks"]) - {""})]
    shared = int(ok["training_shared"].sum())
    if shared:
        notes.append(
            f"While {shared} of {len(ok)} flows trained, others used the machine: equal seconds "
            "then were not equal work."
        )
    return [*notes, *machine_notes(ok), *option_notes(records, ok)]


def _mean(cells: pd.DataFrame, name: str) -> float:
    return float(cells[name].mean()) if name in cells and len(cells) else math.nan


def _only(values: pd.Series[Any]) -> str:
    return " or ".join(f"{value:g}" for value in sorted(set(values)))


def finding(records: Records) -> str | None:
    """Which flow fits best, how sure that is, and whether a Gaussian would do."""
    if _tables(records) > 1:
        return "These folders hold choices for several tables: report on each by itself."
    ranked = ranking(records)
    flows_ = [item for item in ranked if item.name != GAUSSIAN]
    if len(flows_) < 2:
        return None
    best = ranked[0]
    nll = _words(best.nll)
    parts = [f"{best.name} fits best: NLL {nll} nats over {best.nll.n:,} test rows"]
    gaussian = next(item for item in ranked if item.name == GAUSSIAN)
    if best is not gaussian:
        parts.append(f"{_words(gaussian.behind)} below a Gaussian's")
    tied = [item.name for item in ranked[1:] if not item.apart]
    others = [item for item in ranked[1:] if item.apart]
    if tied:
        parts.append(f"not to be told from it: {', '.join(tied)}")
    if others:
        parts.append(f"the next is {others[0].name}, {_words(others[0].behind)} nats behind")
    if best.over_seeds.n < 2:
        parts.append("one seed: over initial weights there is no interval")
    return f"{'; '.join(parts)}."


def _words(interval: Interval) -> str:
    entry = number(interval.mean, interval.half_width, decimals=3)
    return f"{entry.text} ± {entry.plus_minus}"


def usage(records: Records) -> str | None:
    """Python that loads the best flow and takes rows as they stand in the user's file."""
    folder = _folder(records)
    if folder is None or not (folder / "best.pt").exists():
        return None
    path = Path(str(records.ok["dataset.path"].iloc[0]))
    return f"""\
import datasets, flows, torch

flow = flows.load({str(folder / "best.pt")!r}, "cpu")
table = datasets.Standardisation.load({str(folder / "columns.json")!r})
x = table.forward({str(path)!r})  # or a DataFrame with the same columns
with torch.no_grad():
    log_density = flow.log_prob(x, exact=True) + table.log_abs_det  # nats, in the file's units
rows = table.inverse(flow.sample(1000))  # a DataFrame
"""


def _folder(records: Records) -> Path | None:
    folders = {store.directory for store in records.store_of.values()}
    return folders.pop() if len(folders) == 1 else None


def keep_best(records: Records, data: Dataset, store: Store) -> str | None:
    """Put the weights of the best flow, and how its rows are standardised, into the folder.

    Of several seeds the one with the best validation.

    Returns:
        What the best flow is called; None where no flow gave a result.
    """
    ranked = [item for item in ranking(records) if len(item.cells)]
    for item in ranked:
        best = item.cells.sort_values("validation_nll_nats", kind="stable").iloc[0]
        found = [*store.directory.glob(f"cells/*/*/{best['key']}.pt")]
        if found:
            write_atomically(store.directory / "best.pt", found[0].read_bytes())
            text = Standardisation(data.columns).to_json()
            write_atomically(store.directory / "columns.json", text.encode())
            return item.name
    return None


def pictures(scene: figures.Scene) -> Iterator[figures.Drawn]:
    """Curves of the six best flows, densities in two dimensions, fit against cost."""
    best = [item for item in ranking(scene.records) if len(item.cells)][:6]
    keys = [key for item in best for key in item.cells["key"]]
    cells = scene.records.cells
    records = dataclasses.replace(scene.records, cells=cells[cells["key"].isin(keys)])
    few = dataclasses.replace(scene, records=records)
    yield from figures.learning(few)
    yield from figures.densities(few)
    yield from figures.trade_offs(scene)


STUDY = Study(
    name="choose",
    title="Which flow fits this table",
    answers="which flow fits the table best after equal time, how sure that is, and what it costs",
    tables=(table,),
    figures=(pictures,),
    finding=finding,
    usage=usage,
)
"""No study of the catalog: its cells are made for a table of the user's."""
