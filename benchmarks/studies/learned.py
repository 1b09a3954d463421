"""What flows of several libraries learn at equal architecture."""

from __future__ import annotations

from benchmarks.report import figures, tables
from benchmarks.report.findings import in_words
from benchmarks.report.groups import grouped, values_by_seed
from benchmarks.report.records import Records
from benchmarks.report.statistics import difference
from benchmarks.studies.base import Study

# Eight seeds, paired by data order: what three seeds leave open. Each contestant and seed is trained
# at every rate, and the one that validates best is tested.
_SMALL = """
seeds = [0, 1, 2, 3, 4, 5, 6, 7]
measures = ["quality"]

[budget]
steps = 1000
batch_size = 256
learning_rate = [1e-3, 3e-3, 1e-2]
validation_rows = 5000

[[study]]
name = "realnvp"
flows = [
    { name = ["realnvp", "nflows/realnvp", "zuko/realnvp", "normflows/realnvp", "torchflows/realnvp"], layers = 10, hidden = [100, 100] },
]
datasets = [{ name = "power", rows = 100000, test_rows = 12346 }, "magic", "8gaussians", "checkerboard"]

[[study]]
name = "maf"
flows = [
    { name = ["maf", "nflows/maf", "zuko/maf", "normflows/maf", "torchflows/maf"], layers = 5, hidden = [100, 100] },
]
datasets = [{ name = "power", rows = 100000, test_rows = 12346 }, "magic", "8gaussians", "checkerboard"]
"""


def finding(records: Records) -> str | None:
    """Ours less the best of the libraries, system by system and set by set, paired by seed."""
    cells = records.ok[records.ok["trained"]]
    cells = cells.assign(system=cells["flow_name"].str.rpartition("/")[2])
    said = []
    for (dataset, system), group in grouped(cells, ["dataset", "system"]):
        values = {
            name: found
            for (name,), mine in grouped(group, ["flow_name"])
            if len(found := values_by_seed(mine, "nll_nats"))
        }
        ours = values.pop(system, None)
        if ours is None or not values:
            continue
        best = min(values, key=lambda name: float(values[name].mean()))
        lead = difference(ours, values[best])
        said.append(f"{system} less {best} on {dataset} {in_words(lead, 'nats')}")
    return (
        f"NLL of ours less the lowest mean of the libraries: {'; '.join(said)}." if said else None
    )


ENTRIES = [
    Study(
        name="learned",
        title="what our discrete flows and those of nflows, zuko, normflows and torchflows learn on POWER, MAGIC and two toys at equal architecture, each at its best rate",
        answers="whether the same system learns the same in other libraries, each contestant at its best rate",
        small=_SMALL,
        tables=(tables.comparison, tables.published),
        figures=(figures.learning,),
        finding=finding,
        place=40,
    )
]
