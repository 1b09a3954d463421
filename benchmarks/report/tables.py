"""The tables of cost, of sweeps and of failures, and all tables together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from benchmarks.report.comparison import comparison_tables, published_table
from benchmarks.report.notes import (
    ESTIMATED,
    INTERVAL,
    Remarks,
    contestant,
    machine_notes,
    replication_notes,
    shared_notes,
    training_words,
)
from benchmarks.report.ratios import ratio_table
from benchmarks.report.records import (
    Records,
    describe_setting,
    grouped,
    plain,
    series_of,
    summarise,
)
from benchmarks.report.regularizers import regularizer_table
from benchmarks.report.table import Entry, Section, Table, number
from flows.continuous.ode.dynamics import hidden_widths

__all__ = [
    "bottleneck_cells",
    "bottleneck_table",
    "comparison_tables",
    "contestant",
    "cost_table",
    "dimension_cells",
    "dimension_table",
    "every_table",
    "failures_table",
    "published_table",
]

MILLI, MEBI = 1e3, 2.0**-20
IN_COMPANY = "§"


@dataclass(frozen=True)
class _Column:
    """A measure as a column: its heading, the factor to the heading's unit, its digits."""

    measure: str
    heading: str
    factor: float = 1.0
    decimals: int | None = None
    interval: bool = True


_NFE = (
    _Column("nfe_train_forward", "NFE train, forward", interval=False),
    _Column("nfe_train_backward", "NFE train, backward", interval=False),
    _Column("nfe_log_prob", "NFE log_prob", interval=False),
    _Column("nfe_log_prob_exact", "NFE log_prob, exact", interval=False),
    _Column("nfe_sample", "NFE sample", interval=False),
)
_TIME = (
    _Column("train_step_seconds", "train step [ms]", MILLI),
    _Column("log_prob_seconds", "log_prob [ms]", MILLI),
    _Column("log_prob_exact_seconds", "log_prob, exact [ms]", MILLI),
    _Column("sample_seconds", "sample [ms]", MILLI),
)
_MEMORY = _Column("peak_memory_bytes", "peak memory [MiB]", MEBI, interval=False)
_TRAINING = _Column("train_seconds", "training [s]")
_PARAMETERS = _Column("parameters", "parameters", decimals=0, interval=False)
_KL = _Column("kl_to_truth_nats", "KL to the truth [nats]", decimals=3)
_DEVIATION = (
    _Column("trace_std", "trace std [nats/time]"),
    _Column("log_prob_std", "log p std [nats]"),
)


def every_table(records: Records) -> list[Table]:
    """All tables that the records have something for; the failures always."""
    tables = [*comparison_tables(records)]
    makers = (
        published_table,
        cost_table,
        ratio_table,
        dimension_table,
        bottleneck_table,
        regularizer_table,
    )
    for make in makers:
        table = make(records)
        if table is not None:
            tables.append(table)
    return [*tables, failures_table(records)]


# -- cost ---------------------------------------------------------------------------------------


def _entries(row: pd.Series[float], columns: Sequence[_Column]) -> list[Entry]:
    entries = []
    for column in columns:
        half_width = row[f"{column.measure}_half_width"] if column.interval else math.nan
        decimals = column.decimals
        if column.measure.startswith("nfe"):
            # Counts: whole for a discrete flow, a mean over batches for an adaptive solver.
            decimals = 0 if float(row[column.measure]).is_integer() else 1
        entry = number(
            row[column.measure] * column.factor, half_width * column.factor, decimals=decimals
        )
        if math.isfinite(row[column.measure]):
            entry = replace(entry, mark=_mark(row, column.measure))
        entries.append(entry)
    return entries


def _mark(row: pd.Series[float], measure: str) -> str:
    if measure in ("log_prob_seconds", "nfe_log_prob") and row["estimated"]:
        return ESTIMATED
    return IN_COMPANY if measure == "train_seconds" and row["training_shared"] else ""


def _estimated(cells: pd.DataFrame) -> pd.Series[bool]:
    """Whether ``log_prob`` is an estimate unless asked for exactly: of cells."""
    found = cells["density_estimated"] | cells["log_prob_exact_seconds"].notna()
    found |= cells["nfe_log_prob_exact"].notna() | cells["log_prob_std"].notna()
    if "flow.trace" in cells:
        found |= cells["flow.trace"] == "hutchinson"
    return found


def _summary(cells: pd.DataFrame, by: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
    """As :func:`summarise`, with what a row says of its cells beside the numbers.

    Adds ``trained``, ``estimated`` and ``training_shared``.
    """
    data = summarise(cells, by, measures)
    groups = [group[group["status"] == "ok"] for _, group in grouped(cells, by)]
    data["trained"] = [bool(group["trained"].all()) for group in groups]
    data["estimated"] = [bool(_estimated(group).any()) for group in groups]
    data["training_shared"] = [bool(group["training_shared"].any()) for group in groups]
    return data


def _first(remarks: Remarks, row: pd.Series[float]) -> Entry:
    """A row's contestant, with a word where it was not trained."""
    flow, label = str(row["flow"]), str(row["setting_label"])
    return remarks.entry(flow, label, remark="" if row["trained"] else "untrained")


def _kept(data: pd.DataFrame, columns: Sequence[_Column]) -> list[_Column]:
    """The columns that some row has a value for."""
    return [column for column in columns if data[column.measure].notna().any()]


def _cost_notes(cells: pd.DataFrame, columns: Sequence[_Column]) -> list[str]:
    """How times and counts of a table were taken, where, and which are missing."""
    ok = cells[cells["status"] == "ok"]
    shown = {column.measure for column in columns}
    timed = bool(shown & {column.measure for column in _TIME})
    notes = []
    if timed:
        notes.append(
            "Times: medians of repeated calls with the device to themselves, then the mean over "
            f"seeds; {_batches(ok)}; {training_words(ok)}."
        )
    notes.append(INTERVAL)
    if shown & {column.measure for column in _NFE}:
        notes.append(
            "NFE: network evaluations, of the dynamics for a continuous flow, of the conditioners "
            f"for a discrete one; {training_words(ok)}."
        )
    if _MEMORY.measure in shown:
        notes.append("Peak memory: of the tensors alive in a training step.")
    if shown & {"log_prob_seconds", "nfe_log_prob"} and _estimated(ok).any():
        exact = shown & {"log_prob_exact_seconds", "nfe_log_prob_exact"}
        notes.append(
            f"{ESTIMATED}: of the density's estimate, from one probe unless the flow's options say "
            "otherwise. The tested NLL is exact up to 64 dimensions and costs "
            + ("what stands under exact." if exact else "more: these records do not say how much.")
        )
    if "train_seconds" in shown:
        note = "Training: seconds of all steps, evaluation apart."
        if ok["training_shared"].any():
            note += (
                f" {IN_COMPANY}: in {int(ok['training_shared'].sum())} of {len(ok)} cells others "
                "used the machine meanwhile: as a time of its own it says little."
            )
        notes.append(note)
    notes += shared_notes(ok)
    if timed:
        notes += machine_notes(ok)
    return notes


def _batches(cells: pd.DataFrame) -> str:
    sizes = sorted(set(cells["budget.batch_size"].dropna())) if "budget.batch_size" in cells else []
    if not sizes:
        return "a call is one batch"
    return f"a call is one batch of {' or '.join(f'{size:g}' for size in sizes)}"


def cost_table(records: Records) -> Table | None:
    """Time, work, memory and parameters of each flow, a section a data set."""
    columns: list[_Column] = [*_TIME, *_NFE, _MEMORY, _PARAMETERS, _TRAINING]
    measures = [column.measure for column in columns]
    quartiles = [f"{c.measure}_{q}" for c in _TIME for q in ("q25", "q75")]
    more = [*quartiles, "first_step_seconds", "process_peak_bytes", "peak_memory_reserved_bytes"]
    more.append("matmul_flops_per_second")
    by = ["dataset", "flow", "setting", "setting_label"]
    data = _summary(records.ok, by, [*measures, *more])
    # What every trained cell has says nothing of cost by itself.
    costs = [c.measure for c in columns if c not in (_PARAMETERS, _TRAINING)]
    if not data[costs].notna().any(axis=None):
        return None
    data = data[data[costs].notna().any(axis=1)]
    columns = _kept(data, columns)
    remarks = Remarks(records)
    sections = [
        Section(
            dataset,
            [[_first(remarks, row), *_entries(row, columns)] for _, row in group.iterrows()],
        )
        for (dataset,), group in grouped(data, ["dataset"])
    ]
    dropped = [f"{measure}_half_width" for measure in more]
    return Table(
        name="cost",
        title="Cost of a training step, a density and a sample",
        columns=["flow", *(column.heading for column in columns)],
        sections=sections,
        notes=[*_cost_notes(records.ok, columns), *remarks.notes],
        data=data.drop(columns=[*dropped, "setting_label"]),
    )


# -- sweeps -------------------------------------------------------------------------------------


def dimension_cells(records: Records) -> pd.DataFrame:
    """The cells of a sweep over dimension: one flow, one family of data, several dimensions.

    Adds the column ``family``: the data set's name with those options that differ, its dimension
    and its split apart.
    """
    cells = records.cells
    cells = cells[cells["dimension"].notna() & (cells["dataset_kind"] == "gaussian")]
    options = [
        name
        for name in cells.columns
        if name.startswith("dataset.")
        and name not in ("dataset.dimension", "dataset.split")
        and cells[name].nunique() > 1
    ]
    family = [
        ", ".join([name, *map(describe_setting, options, map(plain, row))])
        for name, row in zip(
            cells["dataset_name"], cells[options].itertuples(index=False), strict=True
        )
    ]
    cells = cells.assign(family=family)
    groups = cells.groupby(["flow", "family", "setting"])["dimension"]
    return cells[groups.transform("nunique") > 1] if len(cells) else cells


def dimension_table(records: Records) -> Table | None:
    """Quality, estimator deviation and cost of each flow against dimension."""
    cells = dimension_cells(records)
    columns: list[_Column] = [
        _KL,
        *_DEVIATION,
        *_NFE[:2],
        *_TIME,
        _MEMORY,
        _PARAMETERS,
    ]
    by = ["family", "dimension", "flow", "setting", "setting_label"]
    data = _summary(cells, by, [column.measure for column in columns])
    data = data.sort_values(["family", "dimension"], kind="stable")
    columns = _kept(data, columns)
    if not columns:
        return None
    families = data["family"].nunique()
    remarks = Remarks(records)
    sections = [
        Section(
            f"D = {dimension:g}" + (f" ({family})" if families > 1 else ""),
            [[_first(remarks, row), *_entries(row, columns)] for _, row in group.iterrows()],
        )
        for (family, dimension), group in grouped(data, ["family", "dimension"])
    ]
    return Table(
        name="dimension",
        title=("Quality and cost" if _KL in columns else "Cost")
        + " against dimension, on data of known entropy",
        columns=["flow", *(column.heading for column in columns)],
        sections=sections,
        notes=[
            *_cost_notes(cells, columns),
            *_deviation_notes(columns),
            *_divergence_notes(cells, columns),
            *remarks.notes,
        ],
        data=data.drop(columns="setting_label"),
    )


def _deviation_notes(columns: Sequence[_Column]) -> list[str]:
    if not {c.measure for c in columns} & {"trace_std", "log_prob_std"}:
        return []
    return [
        "Trace std and log p std: over draws of the estimator's noise at fixed test points, the "
        "root of the mean variance; the first at the start of the flow, per unit of its time."
    ]


def _divergence_notes(cells: pd.DataFrame, columns: Sequence[_Column]) -> list[str]:
    """How the distance to the truth was computed, and over what its intervals are."""
    if _KL not in columns:
        return []
    ok = cells[(cells["status"] == "ok") & cells[_KL.measure].notna()]
    way = (
        "by quadrature in two dimensions, elsewhere the mean over the test split"
        if ok["kl_by_quadrature"].any()
        else "the mean of log truth - log model over the test split"
    )
    return [f"KL to the truth: {way}; of trained flows alone.", *replication_notes(ok)]


def bottleneck_cells(records: Records) -> pd.DataFrame:
    """The cells of a sweep over bottleneck width, and the full-width cells to compare them with.

    A bottleneck is a hidden layer more: the full-width network of a narrow one has the hidden
    layers that are left without it (64-64 for 64-k-64).

    Adds the column ``series``: the hidden layers without the bottleneck and all other options of
    the flow but the noise, with data set and setting. Full-width cells have NaN in ``bottleneck``.
    """
    cells = records.cells
    series = series_of(cells, ("flow.bottleneck", "flow.noise", "flow.hidden"))
    cells = cells.assign(
        series=[f"{a}|{b}" for a, b in zip(series, _wide_layers(cells), strict=True)]
    )
    narrow = set(cells.loc[cells["bottleneck"].notna(), "series"])
    cells = cells[cells["series"].isin(narrow)]
    return cells.sort_values(
        ["dataset", "flow_name", "noise", "bottleneck"], kind="stable", na_position="last"
    )


def _wide_layers(cells: pd.DataFrame) -> list[str]:
    """The widths of each flow's hidden layers but the bottleneck."""
    if "flow.hidden" not in cells:
        return [""] * len(cells)
    found = []
    for hidden, bottleneck in zip(cells["flow.hidden"], cells["bottleneck"], strict=True):
        widths = plain(hidden)
        if math.isfinite(bottleneck) and widths != "none":
            half = [int(width) for width in widths.split("-")]
            layers = list(hidden_widths(half, int(bottleneck)))
            del layers[len(half)]
            widths = "-".join(map(str, layers))
        found.append(widths)
    return found


def bottleneck_table(records: Records) -> Table | None:
    """Estimator deviation, cost and quality against bottleneck width and noise."""
    cells = bottleneck_cells(records)
    columns: list[_Column] = [
        *_DEVIATION,
        _KL,
        _Column("nll_nats", "NLL [nats]", decimals=3),
        *_NFE[:2],
        *_TIME,
        _MEMORY,
        _PARAMETERS,
    ]
    by = ["dataset", "flow_name", "noise", "bottleneck", "dimension", "series", "setting"]
    by += ["setting_label"]
    data = _summary(cells, by, [column.measure for column in columns])
    data["flow"] = [group["flow"].iloc[0] for _, group in grouped(cells, by)]
    columns = _kept(data, columns)
    if data["kl_to_truth_nats"].notna().all():
        # The NLL says no more than the distance to the truth; the CSV has both.
        columns = [column for column in columns if column.measure != "nll_nats"]
    if data.empty or not columns:
        return None
    several = (
        data["flow_name"].nunique() > 1 or data.groupby("dataset")["series"].nunique().max() > 1
    )
    remarks = Remarks(records)

    def head(row: pd.Series[float]) -> list[Entry]:
        width = row["bottleneck"]
        wide = Entry("full", numeric=True)
        layer = number(width, decimals=0) if math.isfinite(width) else wide
        layer = replace(layer, remark="" if row["trained"] else "untrained")
        # The options of the sweep stand in columns of their own.
        who = contestant(str(row["flow_name"]), str(row["setting_label"]))
        first = replace(remarks.entry(str(row["flow"])), text=who)
        return [*([first] if several else []), Entry(str(row["noise"])), layer]

    sections = [
        Section(
            f"{dataset} (D = {group['dimension'].iloc[0]:g})",
            [[*head(row), *_entries(row, columns)] for _, row in group.iterrows()],
        )
        for (dataset,), group in grouped(data, ["dataset"])
    ]
    return Table(
        name="bottleneck",
        title="Estimator deviation and cost against bottleneck width",
        columns=[
            *(["flow"] if several else []),
            "noise",
            "bottleneck",
            *(column.heading for column in columns),
        ],
        sections=sections,
        notes=[
            "Bottleneck: width of the layer in whose space the noise is drawn; full: none, the "
            "noise has the data's dimension, and the other hidden layers are the same.",
            *_deviation_notes(columns),
            *_cost_notes(cells, columns),
            *_divergence_notes(cells, columns),
            *remarks.notes,
        ],
        data=data.drop(columns=["setting_label", "series"]),
    )


# -- failures -----------------------------------------------------------------------------------

# A message longer than this is cut in the tables for reading; the CSV has all of it.
_MESSAGE = 160


def failures_table(records: Records) -> Table:
    """Every cell that did not end well, and why; says so if there is none."""
    bad = records.cells[records.cells["status"] != "ok"]
    rows = []
    for _, cell in bad.iterrows():
        reason = " ".join(str(cell["reason"]).split())
        if len(reason) > _MESSAGE:
            reason = reason[: _MESSAGE - 1].rstrip() + "…"
        rows.append(
            [
                Entry(contestant(records.short[cell["flow"]], cell["setting_label"])),
                Entry(cell["dataset"]),
                number(float(cell["seed"]), decimals=0),
                Entry(cell["status"]),
                Entry(reason or "no reason recorded"),
            ]
        )
    total = len(records.cells)
    count = f"{len(bad)} of {total} cells" if len(bad) else f"None of {total} cells failed"
    names = ["flow", "dataset", "seed", "setting", "status", "reason", "key"]
    return Table(
        name="failures",
        title="Cells without a result" if len(bad) else "Cells without a result: none",
        columns=["flow", "data set", "seed", "status", "why"],
        sections=[Section("", rows)],
        notes=[f"{count}." if not len(bad) else f"{count} gave no result."],
        data=bad[names].reset_index(drop=True),
    )
