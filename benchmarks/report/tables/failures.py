"""Every cell that gave no result, and why."""

from __future__ import annotations

from benchmarks.report.groups import contestant
from benchmarks.report.records import Records
from benchmarks.report.table import Entry, Section, Table, number

__all__ = ["failures", "shortened"]

_MESSAGE = 160


def shortened(reason: str, most: int) -> str:
    """A reason on one line of so many letters at most."""
    line = " ".join(reason.split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def failures(records: Records) -> list[Table]:
    """Every cell that did not end well, and why; says so if there is none."""
    bad = records.cells[records.cells["status"] != "ok"]
    rows = []
    for _, cell in bad.iterrows():
        reason = shortened(str(cell["reason"]), _MESSAGE)
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
    table = Table(
        name="failures",
        title="Cells without a result" if len(bad) else "Cells without a result: none",
        columns=["flow", "data set", "seed", "status", "why"],
        sections=[Section("", rows)],
        notes=[f"{count}." if not len(bad) else f"{count} gave no result."],
        data=bad[names].reset_index(drop=True),
    )
    return [table]
