"""What the regularisers of continuous flows save, and what they cost."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd

from benchmarks.report.groups import grouped, values_by_seed
from benchmarks.report.notes import (
    Remarks,
    machine_notes,
    option_notes,
    replication_notes,
    shared_notes,
)
from benchmarks.report.records import Records
from benchmarks.report.statistics import Interval, paired_difference, t_interval
from benchmarks.report.table import Entry, Section, Table, number
from flows.continuous.options import REGULARIZERS

__all__ = ["regularizer_cells", "regularizers"]

# The measures that a regulariser is to lower: name, heading, factor to the heading's unit.
_COST = (
    ("nfe_training", "NFE a step, whole training", 1.0),
    ("nfe_train_step", "NFE a step, trained", 1.0),
    ("nfe_log_prob", "NFE log_prob", 1.0),
    ("nfe_sample", "NFE sample", 1.0),
    ("train_step_seconds", "train step [ms]", 1e3),
)


def regularizer_cells(records: Records) -> pd.DataFrame:
    """The cells trained with regularisers whose twins without any are there, and those twins.

    Twins share all but the regularisers' weights: flow, data set, setting, seed. Adds the columns
    ``series``, which twins share, ``regularized``, and the NFE of a training step with both passes
    together: ``nfe_training`` over all of the training, ``nfe_train_step`` with the trained flow.
    """
    cells = records.ok[records.ok["trained"]]
    weights = [f"flow.{name}" for name in REGULARIZERS if f"flow.{name}" in cells.columns]
    above_zero = cells[weights].apply(pd.to_numeric, errors="coerce").gt(0).any(axis=1)
    cells = cells.assign(
        series=records.series(cells, weights),
        regularized=above_zero.astype(bool),
        nfe_training=cells["train_nfe"] / cells["steps"],
        nfe_train_step=cells["nfe_train_forward"] + cells["nfe_train_backward"],
    )
    twins = [
        group
        for _, group in grouped(cells, ["series", "split", "seed"])
        if group["regularized"].nunique() > 1
    ]
    return pd.concat(twins).sort_index() if twins else cells.iloc[:0]


def regularizers(records: Records) -> list[Table]:
    """Each regularised flow against the same flow without, paired by seed."""
    cells = regularizer_cells(records)
    measured = [item for item in _COST if cells[item[0]].notna().any()]
    if cells.empty:
        return []
    sections, data = [], []
    few = False
    remarks = Remarks(records)
    for (dataset, label), within in grouped(cells, ["dataset", "setting_label"]):
        rows = []
        decimals = 3 if within["nll_nats"].abs().median() < 100 else 2
        for _, twins in grouped(within, ["series"]):
            plain = twins[~twins["regularized"]]
            row = [
                remarks.entry(plain["flow"].iloc[0]),
                number(_mean(plain, "nll_nats"), decimals=decimals),
                Entry(""),
            ]
            for measure, _, factor in measured:
                row += [_amount(measure, _mean(plain, measure) * factor), Entry("")]
            rows.append(row)
            for (flow,), group in grouped(twins[twins["regularized"]], ["flow"]):
                change = paired_difference(
                    values_by_seed(group, "nll_nats"), values_by_seed(plain, "nll_nats")
                )
                seeds, all_seeds = group["seed"].nunique(), plain["seed"].nunique()
                fewer = f"seeds {seeds} of {all_seeds}" if seeds < all_seeds else ""
                few |= bool(fewer)
                row = [
                    remarks.entry(flow, remark=fewer),
                    number(_mean(group, "nll_nats"), decimals=decimals),
                    _signed(number(change.mean, change.half_width, decimals=decimals)),
                ]
                numbers = {
                    "dataset": dataset,
                    "flow": flow,
                    "without": plain["flow"].iloc[0],
                    "setting": group["setting"].iloc[0],
                    "paired_seeds": seeds,
                    "nll_nats": _mean(group, "nll_nats"),
                    "nll_nats_increase": change.mean,
                    "nll_nats_increase_half_width": change.half_width,
                }
                for measure, _, factor in measured:
                    saved, share = _saved(group, plain, measure)
                    row += [
                        _amount(measure, _mean(group, measure) * factor),
                        _saving(measure, saved, share, factor),
                    ]
                    numbers |= {
                        measure: _mean(group, measure),
                        f"{measure}_saved": saved.mean,
                        f"{measure}_saved_half_width": saved.half_width,
                        f"{measure}_saved_percent": share.mean,
                        f"{measure}_saved_percent_half_width": share.half_width,
                    }
                rows.append(row)
                data.append(numbers)
        sections.append(Section(f"{dataset} · {label}" if label else dataset, rows))
    timed = "train_step_seconds" in [item[0] for item in measured]
    columns = ["flow", "NLL [nats]", "increase"]
    for _, heading, _ in measured:
        columns += [heading, "saved"]
    table = Table(
        name="regularizers",
        title="What regularisers save: network evaluations, at what loss of likelihood",
        columns=columns,
        sections=sections,
        notes=[
            *_notes(cells, few=few, timed=timed),
            *option_notes(records, cells),
            *remarks.notes,
        ],
        data=pd.DataFrame(data),
    )
    return [table]


def _notes(cells: pd.DataFrame, *, few: bool, timed: bool) -> list[str]:
    notes = [
        "Each flow with regularisers (their weights in its name) against the nearest one above "
        "it without: the same options, data, budget and seeds. NLL: of the test split, without the "
        "regularisers' terms.",
        "Increase and saved: differences paired by seed, the saved also in percent of the flow "
        "without; ± is the half-width of a 95 % Student t interval over seeds, and where there is "
        "none a single seed was compared. A negative saving is a loss.",
        "NFE: evaluations of the dynamics; of a training step forward and backward together, the "
        "mean over all of the training, and with the trained flow. "
        "Density and sample are computed without regularisers, a training step with them: "
        "an evaluation then takes longer"
        + (", so that fewer of them may still be a slower step." if timed else "."),
    ]
    notes += [*replication_notes(cells), *shared_notes(cells)]
    if timed:
        notes += machine_notes(cells)
    if few:
        notes.append(
            "Seeds 1 of 3, and the like: so many of the seeds of the flow without were compared, "
            "and the differences are not those of the means shown."
        )
    return notes


def _mean(cells: pd.DataFrame, measure: str) -> float:
    return t_interval(values_by_seed(cells, measure).to_list()).mean


def _saved(group: pd.DataFrame, plain: pd.DataFrame, measure: str) -> tuple[Interval, Interval]:
    """What a group saves against its twins, paired by seed: in the measure's unit, in percent."""
    less, more = values_by_seed(group, measure), values_by_seed(plain, measure)
    share = 100 * (more - less) / more
    return paired_difference(more, less), t_interval(share.dropna().to_list())


def _amount(measure: str, value: float) -> Entry:
    return number(value, decimals=1 if measure.startswith("nfe") else None)


def _saving(measure: str, saved: Interval, share: Interval, factor: float) -> Entry:
    decimals = 1 if measure.startswith("nfe") else None
    entry = number(saved.mean * factor, saved.half_width * factor, decimals=decimals)
    if not math.isfinite(share.mean):
        return entry
    percent = number(share.mean, share.half_width, decimals=0)
    spread = f" ± {percent.plus_minus}" if percent.plus_minus else ""
    return replace(entry, remark=f"{percent.text}{spread} %")


def _signed(entry: Entry) -> Entry:
    """A difference with its sign where it is positive."""
    positive = entry.text[:1].isdigit() and any(digit in entry.text for digit in "123456789")
    return replace(entry, text=f"+{entry.text}") if positive else entry
