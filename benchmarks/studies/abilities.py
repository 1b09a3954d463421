"""What each kind of flow can do: Table 1 of the paper, claimed and checked."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from benchmarks.report import tables
from benchmarks.report.groups import grouped
from benchmarks.report.notes import Remarks, option_notes
from benchmarks.report.records import Records
from benchmarks.report.table import DASH, Entry, Section, Table
from benchmarks.studies.base import Study

# One layer of each, whose Jacobian shows its form, in eight dimensions, the least of which a layer
# of two halves and one of eight steps look different.
_HEAD = """
seeds = [0]
dtype = "float64"
measures = ["abilities"]

[budget]
steps = 0
batch_size = 64
"""
_OWN = """
[[study]]
name = "own"
flows = [
    "ffjord",
    "cnf-exact",
    { name = "glow", steps = 1 },
    { name = ["realnvp", "nice", "maf", "iaf", "rqnsf-c", "rqnsf-ar", "planar", "radial"], layers = 1 },
    { name = "sylvester", layers = 1, rank = 2 },
]
datasets = [{ name = "gaussian", dimension = 8, rows = 20000 }]
"""
_PEERS = """
[[study]]
name = "libraries"
flows = [
    "zuko/ffjord",
    "torchflows/ffjord",
    { name = ["nflows/realnvp", "zuko/realnvp", "normflows/realnvp", "torchflows/realnvp"], layers = 1 },
    { name = ["nflows/maf", "zuko/maf", "normflows/maf", "torchflows/maf"], layers = 1 },
]
datasets = [{ name = "gaussian", dimension = 8, rows = 20000 }]
"""

ABILITIES = (
    "trains on data",
    "samples in one pass",
    "exact log-likelihood",
    "free-form Jacobian",
)
"""The columns of Table 1."""

PAPER = {
    "ffjord": (True, True, True, True),
    "realnvp": (True, True, True, False),
    "nice": (True, True, True, False),
    "glow": (True, True, True, False),
    "maf": (True, False, True, False),
    "planar": (False, True, True, False),
    "radial": (False, True, True, False),
    "iaf": (False, True, True, False),
    "sylvester": (False, True, True, False),
}
"""What Table 1 (arXiv:1810.01367) says of them: by their names, and of planar to Sylvester as
"normalizing flows", the row of those that are sampled in one pass."""

# How close to what it should be a number is that confirms.
_GAIN = 0.005
_GROWTH = 2.0
_NATS = 1e-3


@dataclass(frozen=True)
class Verdict:
    """One ability of one flow.

    Attributes:
        found: by running it; None where the measure gave nothing to judge by.
        claimed: by the flow's traits.
        remark: a word on it.
    """

    found: bool | None
    claimed: bool
    remark: str = ""

    @property
    def agrees(self) -> bool:
        """Whether running confirms the claim."""
        return self.found == self.claimed


def verdicts(row: pd.Series[Any]) -> tuple[Verdict, ...]:
    """The abilities of one cell, in the order of :data:`ABILITIES`."""
    gain, growth, nfe_growth, gap, error, constant, rank = (
        float(row[name])
        for name in (
            "gradient_step_gain",
            "sample_operations_growth",
            "sample_nfe_growth",
            "log_prob_redrawn_gap_nats",
            "log_det_jacobian_error_nats",
            "jacobian_constant_entries",
            "jacobian_rank",
        )
    )
    entries = float(row["jacobian_entries"])
    exact = row["claimed_density"] == "exact"
    solves = row["claimed_sample_passes"] == "solver"
    # A single draw is as good as another of what is exact; of what is estimated it is not.
    redrawn = not gap > 0 if exact else gap > 0
    return (
        Verdict(
            math.isfinite(gain) and abs(gain - 1) < _GAIN, bool(row["claims_training_on_data"])
        ),
        Verdict(
            max(growth, 0.0 if math.isnan(nfe_growth) else nfe_growth) < _GROWTH
            if math.isfinite(growth)
            else None,
            row["claimed_sample_passes"] in ("1", "solver"),
            "one solve" if solves else "",
        ),
        Verdict(
            error < _NATS and redrawn if math.isfinite(error) else None,
            True,
            "" if exact else "estimated in training",
        ),
        Verdict(
            constant == 0 and rank >= math.sqrt(entries) - 1 if math.isfinite(entries) else None,
            row["claimed_jacobian"] == "free-form",
            str(row["claimed_jacobian"]) if row["claimed_jacobian"] != "free-form" else "",
        ),
    )


def _judged(records: Records) -> pd.DataFrame:
    """The cells that the measure was taken of, with the name of their contestant."""
    cells = records.ok
    if "claimed_jacobian" not in cells:
        return cells.iloc[:0]
    cells = cells[cells["claimed_jacobian"].notna()]
    return cells.assign(contestant=records.names(cells))


def _together(cells: pd.DataFrame) -> tuple[Verdict, ...]:
    """The verdicts of all seeds: an ability is one that every seed shows."""
    by_seed = [verdicts(row) for _, row in cells.iterrows()]
    together = []
    for same in zip(*by_seed, strict=True):
        found = {verdict.found for verdict in same}
        agreed = found.pop() if len(found) == 1 else None
        together.append(replace(same[0], found=agreed))
    return tuple(together)


def _word(ability: bool | None) -> str:
    return DASH if ability is None else "yes" if ability else "no"


def abilities(records: Records) -> Iterable[Table]:
    """Who can what, as found by running, beside what the paper says."""
    cells = _judged(records)
    if cells.empty:
        return
    remarks = Remarks(records)
    rows, data = [], []
    for (flow, name), group in grouped(cells, ["flow", "contestant"]):
        found = _together(group)
        paper = PAPER.get(str(group["flow_name"].iloc[0]))
        row = [replace(remarks.entry(str(flow)), text=str(name))]
        for verdict in found:
            mark = "" if verdict.agrees else "*"
            row.append(Entry(_word(verdict.found), mark=mark, remark=verdict.remark))
        row.append(Entry(", ".join(map(_word, paper)) if paper else DASH))
        rows.append(row)
        for position, (ability, verdict) in enumerate(zip(ABILITIES, found, strict=True)):
            data.append(
                {
                    "flow": name,
                    "ability": ability,
                    "found": _word(verdict.found),
                    "claimed": _word(verdict.claimed),
                    "paper": _word(paper[position]) if paper else "",
                }
            )
    yield Table(
        name="abilities",
        title="What each flow can do, as found by running it",
        columns=["flow", *ABILITIES, "the same in the paper"],
        sections=[Section("", rows)],
        notes=[
            "Trains on data: a step against the gradient lowers the loss of a batch as far as the "
            f"gradient promises, to {100 * _GAIN:g} %. Samples in one pass: in four times as "
            f"many dimensions they take less than {_GROWTH:g} times as many operations and network "
            "evaluations; one solve of an ODE counts as one, as in the paper. Exact: the "
            f"log-determinant is that of the Jacobian by autograd within {_NATS:g} nats, with the "
            "exact trace where it is estimated in training. Free-form: no entry of the Jacobian "
            "stays as it is over points and random weights, and its changes have full rank, up to "
            "a multiple of the identity.",
            "*: not what the flow's traits say. A dash: nothing to judge by, or seeds that differ.",
            "The paper: Table 1 of arXiv:1810.01367, of the flows that it names, with planar, "
            "radial, inverse autoregressive and Sylvester flows as its 'normalizing flows'; an IAF "
            "can be trained on data, at D passes a density.",
            *option_notes(records, cells),
            *remarks.notes,
        ],
        data=pd.DataFrame(data),
    )


def numbers(records: Records) -> Iterable[Table]:
    """The numbers that it was judged by."""
    cells = _judged(records)
    if cells.empty:
        return []
    return tables.measure_table(
        records,
        cells,
        [
            "gradient_step_gain",
            "sample_operations",
            "sample_operations_growth",
            "sample_nfe_growth",
            "log_prob_redrawn_gap_nats",
            "log_det_jacobian_error_nats",
            "jacobian_zero_entries",
            "jacobian_constant_entries",
            "jacobian_rank",
        ],
        name="abilities-numbers",
        title="What it was judged by",
        beside=["jacobian_entries"],
        notes=[f"The Jacobian has {_entries(cells)} entries; it is of one layer of each flow."],
    )


def _entries(cells: pd.DataFrame) -> str:
    counts = sorted(set(cells["jacobian_entries"].dropna()))
    return " or ".join(f"{count:g}" for count in counts) or "no"


def finding(records: Records) -> str | None:
    """Who can all of it, and whether running confirms what is claimed."""
    cells = _judged(records)
    if cells.empty:
        return None
    found = {name: _together(group) for (name,), group in grouped(cells, ["contestant"])}
    able = [name for name, each in found.items() if all(verdict.found for verdict in each)]
    checks = [verdict for each in found.values() for verdict in each]
    agreed = sum(verdict.agrees for verdict in checks)
    seeds = cells["seed"].nunique()
    have = "has" if len(able) == 1 else "have"
    who = f"{_and(able)} {have}" if able else "none has"
    others = [
        f"{name} ({', '.join(a for a, v in zip(ABILITIES, each, strict=True) if not v.agrees)})"
        for name, each in found.items()
        if not all(verdict.agrees for verdict in each)
    ]
    but = f", all but {'; '.join(others)}" if others else ""
    return (
        f"Of {len(found)} flows {who} all four abilities; running confirms {agreed} of "
        f"{len(checks)} of the flows' traits{but} (weights of {seeds} "
        f"seed{'' if seeds == 1 else 's'})."
    )


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


ENTRIES = [
    Study(
        name="abilities",
        title="Who trains on data, samples in one pass, has exact likelihoods and a free-form "
        "Jacobian",
        answers="Table 1 of FFJORD (arXiv:1810.01367), from the flows' traits and by running them",
        small=_HEAD + _OWN,
        full=_HEAD + _OWN + _PEERS,
        tables=(abilities, numbers),
        finding=finding,
        place=20,
    )
]
