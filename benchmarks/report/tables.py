"""The tables of the report, from records alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from benchmarks.report.literature import Published, literature
from benchmarks.report.ratios import ratio_table
from benchmarks.report.records import (
    Records,
    describe_setting,
    grouped,
    label_order,
    plain,
    series_of,
    summarise,
    values_by_seed,
)
from benchmarks.report.regularizers import regularizer_table
from benchmarks.report.statistics import Choice, choose_best
from benchmarks.report.style import flow_order
from benchmarks.report.table import DASH, Entry, Section, Table, number

__all__ = [
    "bottleneck_cells",
    "bottleneck_table",
    "comparison_tables",
    "cost_table",
    "dimension_cells",
    "dimension_table",
    "every_table",
    "failures_table",
    "published_table",
]

CLOSE = "†"
MILLI, MEBI = 1e3, 2.0**-20

_INTERVAL = "± is the half-width of a 95 % Student t interval over seeds."
_ONE_SEED = (
    "Where only one seed ended well there is no interval, and nothing tells a difference from "
    "chance."
)


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
    _Column("nfe_sample", "NFE sample", interval=False),
)
_TIME = (
    _Column("train_step_seconds", "train step [ms]", MILLI),
    _Column("log_prob_seconds", "log_prob [ms]", MILLI),
    _Column("sample_seconds", "sample [ms]", MILLI),
)
_MEMORY = _Column("peak_memory_bytes", "peak memory [MiB]", MEBI, interval=False)
_PARAMETERS = _Column("parameters", "parameters", decimals=0, interval=False)
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


def contestant(flow: str, setting_label: str) -> str:
    """How a row is named: the flow, and what of its setting differs from other rows."""
    return f"{flow} · {setting_label}" if setting_label else flow


def _names_note(records: Records, cells: pd.DataFrame) -> list[str]:
    """Which options the names leave out, where all cells of a system share them."""
    left_out = {}
    for name, flow in zip(cells["flow_name"], cells["flow"], strict=True):
        shown = records.short[flow].removeprefix(name).strip("[]").split(",")
        whole = flow.removeprefix(name).strip("[]").split(",")
        hidden = [option for option in whole if option not in shown]
        if hidden:
            left_out[name] = ", ".join(hidden)
    return [f"Every {name} here has {options}." for name, options in left_out.items()]


# -- comparison ---------------------------------------------------------------------------------

# More data sets than this do not fit beside each other.
_DATASETS_A_TABLE = 6
_BLOCKS = (
    ("comparison", ("toy", "tabular"), "nll_nats", "Test NLL in nats (lower is better)"),
    ("images", ("image",), "bits_per_dim", "Test bits/dim of images (lower is better)"),
    (
        "gaussian",
        ("gaussian",),
        "nll_nats",
        "Test NLL in nats on Gaussians of known entropy (lower is better)",
    ),
)


def comparison_tables(records: Records) -> list[Table]:
    """Flows by data sets: tabular and toy sets, images in bits/dim, the Gaussian family."""
    tables = []
    for name, kinds, measure, title in _BLOCKS:
        cells = records.cells[records.cells["dataset_kind"].isin(kinds)]
        # A study that leaves quality out has nothing to say here, unless it failed.
        tried = cells[cells[measure].notna() | (cells["status"] != "ok")]
        datasets = list(dict.fromkeys(tried["dataset"]))
        for first in range(0, len(datasets), _DATASETS_A_TABLE):
            part = datasets[first : first + _DATASETS_A_TABLE]
            suffix = f"-{first // _DATASETS_A_TABLE + 1}" if first else ""
            tables.append(
                _comparison(
                    records, tried[tried["dataset"].isin(part)], part, measure, name + suffix, title
                )
            )
    return tables


def _comparison(
    records: Records,
    cells: pd.DataFrame,
    datasets: Sequence[str],
    measure: str,
    name: str,
    title: str,
) -> Table:
    choices = {
        (dataset, setting): choose_best(
            {flow: values_by_seed(group, measure) for (flow,), group in grouped(within, ["flow"])}
        )
        for (dataset, setting), within in grouped(cells, ["dataset", "setting"])
    }
    by_cell = {
        (dataset, flow, setting): group
        for (dataset, flow, setting), group in grouped(cells, ["dataset", "flow", "setting"])
    }
    # What names a row leaves out what does not differ, so that one row spans data sets whose
    # budgets differ from each other but not within themselves.
    rows_of: dict[tuple[str, str], dict[str, str]] = {}
    ranked = sorted(
        dict.fromkeys(
            zip(
                cells["flow_name"],
                cells["flow"],
                cells["setting_label"],
                strict=True,
            )
        ),
        key=lambda row: (flow_order(row[0]), label_order(records.short[row[1]]), row[2]),
    )
    for _, flow, label in ranked:
        rows_of[flow, label] = {}
    for dataset, flow, setting, label in zip(
        cells["dataset"], cells["flow"], cells["setting"], cells["setting_label"], strict=True
    ):
        rows_of[flow, label][dataset] = setting

    decimals = {d: _decimals(cells.loc[cells["dataset"] == d, measure]) for d in datasets}
    rows, failed, close, single = [], False, False, False
    for (flow, label), setting_of in rows_of.items():
        row = [Entry(contestant(records.short[flow], label))]
        for dataset in datasets:
            setting = setting_of.get(dataset)
            if setting is None:
                row.append(Entry(DASH, numeric=True))
                continue
            group = by_cell[dataset, flow, setting]
            entry = _quality(group, measure, decimals[dataset], choices[dataset, setting], flow)
            failed |= bool(entry.remark)
            close |= entry.mark == CLOSE
            single |= not entry.plus_minus and entry.text[-1:].isdigit()
            row.append(entry)
        rows.append(row)

    notes = [
        "Each number: mean over seeds of the mean over the test split. " + _INTERVAL,
        "Bold: the lowest mean of the column, among the flows that finished every seed which any "
        "of them finished"
        + (" under the same setting." if records.differing else ".")
        + (
            f" {CLOSE}: the difference from it, paired by seed, is not significant at 95 % "
            "(t test, not corrected for the number of flows)."
            if close
            else ""
        ),
    ]
    if single:
        notes.append(_ONE_SEED)
    if cells["truth_entropy_nats"].notna().any():
        notes.append("The entropy is that of the true density; a finite test set may score below.")
    if failed:
        notes.append("In brackets: the seeds that ended well, of those tried; see the failures.")
    notes += _names_note(records, cells)
    sections = [Section("", rows)]
    references = _references(cells, datasets, measure, decimals)
    if references:
        sections.append(Section("References, computed on the same data", references))
    published, said = _published_rows(cells, datasets, measure)
    if published:
        sections.append(Section("Published (other budgets: see the notes)", published))
        notes += said
    return Table(
        name=name,
        title=title,
        columns=["flow", *datasets],
        sections=sections,
        notes=notes,
        data=_comparison_data(cells, measure, choices),
    )


def _decimals(values: pd.Series[float]) -> int:
    """Digits after the point of a column of NLLs, from how large they are."""
    size = values.abs().median()
    return 3 if not size >= 100 else 2 if size < 1000 else 1


def _quality(group: pd.DataFrame, measure: str, decimals: int, choice: Choice, flow: str) -> Entry:
    values = values_by_seed(group, measure)
    tried = group["seed"].nunique()
    if values.empty:
        statuses = list(dict.fromkeys(group.loc[group["status"] != "ok", "status"]))
        return Entry(", ".join(statuses) if statuses else DASH, numeric=True)
    summary = summarise(group, ["flow"], [measure]).iloc[0]
    entry = number(summary[measure], summary[f"{measure}_half_width"], decimals=decimals)
    return replace(
        entry,
        bold=choice.best == flow,
        mark=CLOSE if flow in choice.close else "",
        remark=f"{len(values)}/{tried} seeds" if len(values) < tried else "",
    )


def _references(
    cells: pd.DataFrame, datasets: Sequence[str], measure: str, decimals: dict[str, int]
) -> list[list[Entry]]:
    """The entropy of the data and a full-covariance Gaussian, where known."""
    rows = []
    for label, source in (
        ("entropy of the data (the optimum)", "truth_entropy_nats"),
        ("full-covariance Gaussian", "gaussian_nll_nats"),
    ):
        row = [Entry(label)]
        for dataset in datasets:
            group = cells[(cells["dataset"] == dataset) & (cells["status"] == "ok")]
            value = float(group[source].mean())
            if measure == "bits_per_dim":
                value /= float(group["dimension"].mean()) * math.log(2)
            row.append(number(value, decimals=decimals[dataset]))
        if any(entry.text != DASH for entry in row[1:]):
            rows.append(row)
    return rows


def _published_entry(found: Published) -> Entry:
    entry = number(found.value, math.nan if found.error is None else found.error, decimals=2)
    return replace(entry, remark="" if found.error_over == "none" else found.error_over)


def _published_rows(
    cells: pd.DataFrame, datasets: Sequence[str], measure: str
) -> tuple[list[list[Entry]], list[str]]:
    """Published numbers of the contestants at hand, and how ours differ from them."""
    name_of = dict(zip(cells["dataset"], cells["dataset_name"], strict=True))
    flows = set(cells["flow_name"])
    found = [
        item
        for name in dict.fromkeys(name_of[dataset] for dataset in datasets)
        for item in literature().of(name, measure)
        if item.flow in flows or item.model == "Gaussian"
    ]
    models = dict.fromkeys((item.model, item.source) for item in literature().published)
    rows = []
    for model, source in models:
        mine = {i.dataset: i for i in found if (i.model, i.source) == (model, source)}
        if not mine:
            continue
        row = [Entry(f"{model} ({source.short})")]
        for dataset in datasets:
            item = mine.get(name_of[dataset])
            row.append(_published_entry(item) if item else Entry(DASH, numeric=True))
        rows.append(row)
    notes = []
    if rows:
        notes.append(
            "Published errors are another thing than ours, and say in brackets what they are "
            "over: test points (twice the standard error of one trained model) or runs. How each "
            "number was read, and all others, stand in the table of published numbers."
        )
        for dataset in datasets:
            if any(item.dataset == name_of[dataset] for item in found):
                notes.append(_difference(cells[cells["dataset"] == dataset], dataset))
    return rows, notes


def _difference(cells: pd.DataFrame, dataset: str) -> str:
    """How our column of a data set differs from the published numbers of that name."""
    name = cells["dataset_name"].iloc[0]
    budget = []
    for column in ("budget.steps", "budget.seconds", "budget.nfe", "budget.batch_size"):
        if column in cells and cells[column].notna().any():
            values = sorted(set(cells[column].dropna()))
            budget.append(describe_setting(column, " or ".join(f"{value:g}" for value in values)))
    ours = f"Ours: {dataset}" + (f", {', '.join(budget)}" if budget else "") + "."
    published = "Published: the whole training set, and the budget of each paper."
    note = literature().dataset_notes.get(name, "")
    return f"{name}: {published} {ours} {note}".rstrip()


def _comparison_data(
    cells: pd.DataFrame, measure: str, choices: dict[tuple[str, str], Choice]
) -> pd.DataFrame:
    measures = [measure, f"{measure}_stderr", "truth_entropy_nats", "gaussian_nll_nats"]
    data = summarise(cells, ["dataset", "flow", "setting", "setting_label"], measures)
    picks = [choices[d, s] for d, s in zip(data["dataset"], data["setting"], strict=True)]
    data["best"] = [c.best == flow for c, flow in zip(picks, data["flow"], strict=True)]
    data["close_to_best"] = [flow in c.close for c, flow in zip(picks, data["flow"], strict=True)]
    unused = [f"{m}_half_width" for m in measures[1:]]
    # The standard error over test points is another kind of error: it gets no interval of ours.
    return data.drop(columns=[*unused, "setting_label"]).rename(
        columns={f"{measure}_stderr": f"{measure}_stderr_over_test_points_mean"}
    )


def published_table(records: Records) -> Table | None:
    """Every published number on the data sets at hand, with source and kind of error."""
    rows, data = [], []
    here = dict.fromkeys(records.cells["dataset_name"])
    for name in here:
        for measure, unit in (("nll_nats", "nats"), ("bits_per_dim", "bits/dim")):
            for item in literature().of(name, measure):
                error = number(item.value, item.error or math.nan, decimals=2)
                rows.append(
                    [
                        Entry(name),
                        Entry(item.model),
                        error,
                        Entry(unit),
                        Entry(item.error_over),
                        Entry(
                            f"{item.source.short}, {item.source.address.removeprefix('https://')}"
                        ),
                        Entry(item.source.read),
                    ]
                )
                data.append(
                    {
                        "dataset": name,
                        "model": item.model,
                        "measure": measure,
                        "value": item.value,
                        "error": item.error,
                        "error_over": item.error_over,
                        "source": item.source.text,
                        "address": item.source.address,
                        "read": item.source.read,
                    }
                )
    if not rows:
        return None
    return Table(
        name="published",
        title="Published numbers on these data sets (lower is better)",
        columns=["data set", "model", "value", "unit", "error over", "source", "read in"],
        sections=[Section("", rows)],
        notes=[
            "Log-likelihoods are printed as NLL, their negative. An error over test points is "
            "twice the standard error over the test set of one trained model, one over runs the "
            "spread of repeated training: the two do not compare.",
        ],
        data=pd.DataFrame(data),
    )


# -- cost ---------------------------------------------------------------------------------------


def _entries(row: pd.Series[float], columns: Sequence[_Column]) -> list[Entry]:
    entries = []
    for column in columns:
        half_width = row[f"{column.measure}_half_width"] if column.interval else math.nan
        decimals = column.decimals
        if column.measure.startswith("nfe"):
            # Counts: whole for a discrete flow, a mean over batches for an adaptive solver.
            decimals = 0 if float(row[column.measure]).is_integer() else 1
        entries.append(
            number(
                row[column.measure] * column.factor,
                half_width * column.factor,
                decimals=decimals,
            )
        )
    return entries


def _kept(data: pd.DataFrame, columns: Sequence[_Column]) -> list[_Column]:
    """The columns that some row has a value for."""
    return [column for column in columns if data[column.measure].notna().any()]


def _time_notes(cells: pd.DataFrame) -> list[str]:
    """How the times of a table were taken, and how many are missing for being shared."""
    notes = []
    if cells[[column.measure for column in _TIME]].notna().any(axis=None):
        notes.append(
            "Times: medians of repeated calls on the trained flow that had the device to itself, "
            f"then the mean over seeds; {_batches(cells)}."
        )
    notes += [
        _INTERVAL,
        "NFE: network evaluations, of the dynamics for a continuous flow, of the conditioners for "
        "a discrete one. Peak memory: of the tensors alive in a training step.",
    ]
    ok = cells[cells["status"] == "ok"]
    shared = int(ok["cost_shared"].sum())
    if shared:
        notes.append(
            f"Left out: the times of {shared} of {len(ok)} cells, taken while others used the "
            "device."
        )
    return notes


def _batches(cells: pd.DataFrame) -> str:
    sizes = sorted(set(cells["budget.batch_size"].dropna())) if "budget.batch_size" in cells else []
    if not sizes:
        return "a call is one batch"
    return f"a call is one batch of {' or '.join(f'{size:g}' for size in sizes)}"


def cost_table(records: Records) -> Table | None:
    """Time, work, memory and parameters of each flow, a section a data set."""
    columns: list[_Column] = [*_TIME, *_NFE, _MEMORY, _PARAMETERS]
    measures = [column.measure for column in columns]
    quartiles = [f"{c.measure}_{q}" for c in _TIME for q in ("q25", "q75")]
    more = [*quartiles, "first_step_seconds", "process_peak_bytes", "peak_memory_reserved_bytes"]
    by = ["dataset", "flow", "setting", "setting_label"]
    data = summarise(records.ok, by, [*measures, *more])
    columns = _kept(data, columns)
    if not columns:
        return None
    data = data[data[[c.measure for c in columns]].notna().any(axis=1)]
    sections = [
        Section(
            dataset,
            [
                [
                    Entry(contestant(records.short[row["flow"]], row["setting_label"])),
                    *_entries(row, columns),
                ]
                for _, row in group.iterrows()
            ],
        )
        for (dataset,), group in grouped(data, ["dataset"])
    ]
    dropped = [f"{measure}_half_width" for measure in more]
    return Table(
        name="cost",
        title="Cost of a training step, a density and a sample",
        columns=["flow", *(column.heading for column in columns)],
        sections=sections,
        notes=_time_notes(records.ok),
        data=data.drop(columns=[*dropped, "setting_label"]),
    )


# -- sweeps -------------------------------------------------------------------------------------


def dimension_cells(records: Records) -> pd.DataFrame:
    """The cells of a sweep over dimension: one flow, one family of data, several dimensions.

    Adds the column ``family``: the data set's name with those options that differ, its dimension
    apart.
    """
    cells = records.cells
    cells = cells[cells["dimension"].notna() & (cells["dataset_kind"] == "gaussian")]
    options = [
        name
        for name in cells.columns
        if name.startswith("dataset.") and name != "dataset.dimension" and cells[name].nunique() > 1
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
        _Column("kl_to_truth_nats", "KL to the truth [nats]", decimals=3),
        *_DEVIATION,
        *_NFE[:2],
        *_TIME,
        _MEMORY,
        _PARAMETERS,
    ]
    by = ["family", "dimension", "flow", "setting", "setting_label"]
    data = summarise(cells, by, [column.measure for column in columns])
    data = data.sort_values(["family", "dimension"], kind="stable")
    columns = _kept(data, columns)
    if not columns:
        return None
    families = data["family"].nunique()
    sections = [
        Section(
            f"D = {dimension:g}" + (f" ({family})" if families > 1 else ""),
            [
                [
                    Entry(contestant(records.short[row["flow"]], row["setting_label"])),
                    *_entries(row, columns),
                ]
                for _, row in group.iterrows()
            ],
        )
        for (family, dimension), group in grouped(data, ["family", "dimension"])
    ]
    return Table(
        name="dimension",
        title="Quality and cost against dimension, on Gaussians of known entropy",
        columns=["flow", *(column.heading for column in columns)],
        sections=sections,
        notes=[*_time_notes(cells), *_deviation_notes(columns)],
        data=data.drop(columns="setting_label"),
    )


def _deviation_notes(columns: Sequence[_Column]) -> list[str]:
    if not {c.measure for c in columns} & {"trace_std", "log_prob_std"}:
        return []
    return [
        "Trace std and log p std: over draws of the estimator's noise at fixed test points, the "
        "root of the mean variance; the first at the start of the flow, per unit of its time."
    ]


def bottleneck_cells(records: Records) -> pd.DataFrame:
    """The cells of a sweep over bottleneck width, and the full-width cells to compare them with.

    Adds the column ``series``: all options of the flow but bottleneck and noise, with data set
    and setting. Full-width cells have NaN in ``bottleneck``.
    """
    cells = records.cells
    cells = cells.assign(series=series_of(cells, ("flow.bottleneck", "flow.noise")))
    narrow = set(cells.loc[cells["bottleneck"].notna(), "series"])
    cells = cells[cells["series"].isin(narrow)]
    return cells.sort_values(
        ["dataset", "flow_name", "noise", "bottleneck"], kind="stable", na_position="last"
    )


def bottleneck_table(records: Records) -> Table | None:
    """Estimator deviation, cost and quality against bottleneck width and noise."""
    cells = bottleneck_cells(records)
    columns: list[_Column] = [
        *_DEVIATION,
        _Column("kl_to_truth_nats", "KL to the truth [nats]", decimals=3),
        _Column("nll_nats", "NLL [nats]", decimals=3),
        *_NFE[:2],
        *_TIME,
        _MEMORY,
        _PARAMETERS,
    ]
    by = ["dataset", "flow_name", "noise", "bottleneck", "dimension", "series", "setting"]
    by += ["setting_label"]
    data = summarise(cells, by, [column.measure for column in columns])
    columns = _kept(data, columns)
    if data["kl_to_truth_nats"].notna().all():
        # The NLL says no more than the distance to the truth; the CSV has both.
        columns = [column for column in columns if column.measure != "nll_nats"]
    if data.empty or not columns:
        return None
    several = (
        data["flow_name"].nunique() > 1 or data.groupby("dataset")["series"].nunique().max() > 1
    )

    def head(row: pd.Series[float]) -> list[Entry]:
        width = row["bottleneck"]
        wide = Entry("full", numeric=True)
        first = [number(width, decimals=0) if math.isfinite(width) else wide]
        who = contestant(str(row["flow_name"]), str(row["setting_label"]))
        return [*([Entry(who)] if several else []), Entry(str(row["noise"])), *first]

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
            "noise has the data's dimension.",
            *_deviation_notes(columns),
            *_time_notes(cells),
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
