"""What tables say below themselves, in the same words wherever it applies."""

from __future__ import annotations

import pandas as pd

import flows
from benchmarks.report.groups import contestant, describe_setting, grouped, plain
from benchmarks.report.records import Records
from benchmarks.report.table import Entry

__all__ = [
    "ESTIMATED",
    "INTERVAL",
    "Remarks",
    "conditions",
    "form_notes",
    "machine_notes",
    "option_notes",
    "replication_notes",
    "shared_notes",
    "training_words",
]

ESTIMATED = "†"
"""Marks a density that is estimated, not exact; a note says of which it stands."""

INTERVAL = "± is the half-width of a 95 % Student t interval over seeds."


class Remarks:
    """Footnotes of a table for what the catalog remarks on its flows, a letter each.

    Args:
        records: name the flows.
    """

    def __init__(self, records: Records) -> None:
        self._short = records.short
        self._system_of = records.system_of
        self._letters: dict[str, str] = {}

    def entry(self, flow: str, setting_label: str = "", *, remark: str = "") -> Entry:
        """The first entry of a contestant's row."""
        text = contestant(self._short[flow], setting_label)
        return Entry(text, mark=self._mark(self._system_of[flow]), remark=remark)

    def _mark(self, name: str) -> str:
        try:
            remark = flows.entry(name).remark
        except flows.UnknownFlow:
            return ""
        if not remark:
            return ""
        return self._letters.setdefault(remark, _letter(len(self._letters)))

    @property
    def notes(self) -> list[str]:
        """What the letters stand for."""
        return [f"{letter}: {remark}" for remark, letter in self._letters.items()]


def _letter(position: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[position % 26] * (1 + position // 26)


def option_notes(records: Records, cells: pd.DataFrame, *, rates_shown: bool = False) -> list[str]:
    """What differs between the rows and sections of a table and stands in none of their names.

    Args:
        records: name the contestants.
        cells: those of the table.
        rates_shown: whether the table says the learning rates itself.
    """
    shared: dict[str, dict[str, None]] = {}
    for name, flow in zip(cells["flow_name"], cells["flow"], strict=True):
        shown = records.short[flow].removeprefix(name).strip("[]").split(",")
        whole = flow.removeprefix(name).strip("[]").split(",")
        hidden = [option for option in whole if option not in shown]
        if hidden:
            shared.setdefault(", ".join(hidden), {})[name] = None
    notes = [f"Every {', '.join(names)} here has {options}." for options, names in shared.items()]
    settings = []
    for column in records.setting_columns:
        words = cells[column].map(plain)
        # What differs within a data set stands in the names; what the data are is another matter.
        if words.nunique() > 1 and column not in records.differing and column != "data":
            where = [
                f"{describe_setting(column, str(value))} on {', '.join(dict.fromkeys(of))}"
                for value, of in cells["dataset"].groupby(words, sort=False)
            ]
            settings.append("; ".join(where))
    notes += [f"Settings that differ: {text}." for text in settings]
    if not rates_shown:
        notes += _rates(records, cells)
    return notes


def _rates(records: Records, cells: pd.DataFrame) -> list[str]:
    """The contestants' learning rates, where they differ."""
    trained = cells[cells["learning_rate"].notna()]
    of: dict[str, list[str]] = {}
    for name, group in trained.groupby(records.names(trained), sort=False):
        rates = " or ".join(f"{rate:g}" for rate in sorted(set(group["learning_rate"])))
        of.setdefault(rates, []).append(str(name))
    if len(of) < 2:
        return []
    words = [f"{rates} of {', '.join(names)}" for rates, names in of.items()]
    return [f"Learning rates: {'; '.join(words)}."]


def training_words(cells: pd.DataFrame) -> str:
    """Of what flows the numbers are: trained ones, untrained ones, or both."""
    trained = cells["trained"]
    if trained.all():
        return "of the trained flow"
    if not trained.any():
        return "of the untrained flow (steps = 0)"
    return "of the trained flow, or of the untrained one (steps = 0) where the row says so"


def conditions(rows: pd.DataFrame) -> list[str]:
    """What each row says of its flow beside the name: the form, and whether it was trained.

    Nothing where all rows are eager, and nothing of training where all were trained.

    Args:
        rows: of a table, with ``form`` and ``trained``.
    """
    forms = bool(rows["form"].isin(["compiled", "JAX"]).any())
    training = not rows["trained"].all()
    return [
        ", ".join([form] * forms + ["trained" if trained else "untrained"] * training)
        for form, trained in zip(rows["form"], rows["trained"], strict=True)
    ]


def form_notes(cells: pd.DataFrame) -> list[str]:
    """What the forms are, where some cell is not eager."""
    found = {*cells.loc[cells["status"] == "ok", "form"]}
    if found <= {"eager"}:
        return []
    words = {
        "eager": "Eager: by PyTorch, call by call.",
        "compiled": "Compiled: the training step by torch.compile; density and sample are eager.",
        "JAX": "JAX: all three by jax.jit; torch sees neither its memory nor its matrix products.",
    }
    return [text for form, text in words.items() if form in found]


def machine_notes(cells: pd.DataFrame) -> list[str]:
    """The processors of some cells, and what a large product of matrices reaches on each."""
    ok = cells[cells["status"] == "ok"]
    notes = []
    for (machine, gpu), group in grouped(ok, ["machine", "environment.gpu"]):
        if plain(machine) == "none":
            continue
        parts = [plain(machine)]
        extensions = _known(group, "environment.cpu_vector_extensions")
        if extensions and extensions.lower() not in parts[0].lower():
            parts.append(f"vector extensions {extensions}")
        if plain(gpu) != "none":
            parts.append(f"GPU {plain(gpu)}")
        products = _known(group, "environment.matrix_products")
        if products:
            parts.append(f"matrix products by {products}")
        rates = []
        for (device, dtype, threads), mine in grouped(group, ["device", "dtype", "threads"]):
            rate = mine["matmul_flops_per_second"].median()
            if pd.notna(rate):
                where = (
                    "the GPU"
                    if plain(device) == "cuda"
                    else f"{plain(threads)} thread{'' if plain(threads) == '1' else 's'}"
                )
                rates.append(f"{rate / 1e9:,.0f} GFLOP/s in {plain(dtype)} on {where}")
        if rates:
            parts.append(f"a large product reaches {', '.join(rates)}")
        notes.append(f"Processor: {'; '.join(parts)}.")
    if len(notes) > 1:
        notes.append("Rows of different processors are kept apart: their times do not compare.")
    return notes


def _known(cells: pd.DataFrame, column: str) -> str:
    if column not in cells:
        return ""
    return " or ".join(sorted({plain(value) for value in cells[column].dropna()}))


def shared_notes(cells: pd.DataFrame) -> list[str]:
    """How many times are missing for having been taken in company."""
    ok = cells[cells["status"] == "ok"]
    shared = int(ok["cost_shared"].sum())
    if not shared:
        return []
    return [
        f"Left out: the times of {shared} of {len(ok)} cells, taken while others used the device."
    ]


def replication_notes(cells: pd.DataFrame) -> list[str]:
    """What the intervals are over: seeds of one split, or splits."""
    splits = cells.groupby("dataset", sort=False)["split"].nunique()
    several = splits[splits > 1]
    notes = []
    if len(several) < len(splits):
        notes.append(
            "All seeds share one split of the data"
            + (f" ({', '.join(splits[splits == 1].index)})" if len(several) else "")
            + ": how much another split would change, no interval says."
        )
    if len(several):
        named = ", ".join(f"{name}: {count}" for name, count in several.items())
        notes.append(
            f"Several splits ({named}): averaged over the seeds of each, and the interval is over "
            "the splits' means."
        )
    return notes
