"""Every flow of vectors on tables, beside what is published."""

from __future__ import annotations

from benchmarks.report import figures, tables
from benchmarks.report.findings import in_words
from benchmarks.report.groups import grouped, values_by_seed
from benchmarks.report.records import Records
from benchmarks.report.statistics import Interval, difference
from benchmarks.studies.base import Study

_SMALL = """
seeds = [0, 1, 2]
measures = ["quality", "work"]

# The table that ships with the project. The published networks at equal steps, few of them: far from converged. Learning rates are near
# those that `quick-rates` chooses.
[budget]
steps = 400
batch_size = 256
learning_rate = 3e-3
validate_every = 100
validation_rows = 1000

[[study]]
name = "power"
flows = [
    { name = "ffjord-power", budget = { learning_rate = 1e-2 } },
    "realnvp-5", "realnvp-10", "glow", "nice", "made", "maf-5", "maf-10", "maf-mog-5", "iaf",
    "rqnsf-c-power", "rqnsf-ar-power",
]
datasets = [{ name = "power", rows = 20000, test_rows = 1000 }]
"""

# Published optimisers: FFJORD's batches of Table 4 and Adam at 1e-3 (official code; its stop after 30
# validations without gain); MAF's paper Adam at 1e-4 and batches of 100; the spline flows cosine
# annealing from 5e-4 and batches of 512. MAF's networks are of 512 for the larger sets.


def _full() -> str:
    blocks = [
        """
seeds = [0, 1, 2]
measures = ["quality", "work", "time", "memory"]

[budget]
steps = 400000
batch_size = 100
learning_rate = 1e-4
schedule = "constant"
clip_norm = 5.0
validate_every = 1000
validation_rows = 20000
patience = 30
"""
    ]
    for preset, data, batch, width in (
        ("power", ("power",), 10_000, 100),
        ("gas", ("gas", "magic", "protein"), 1000, 100),
        ("hepmass", ("hepmass", "parkinsons", "keggundirected"), 10_000, 512),
        ("miniboone", ("miniboone",), 1000, 512),
        ("bsds300", ("bsds300", "bsds300-style"), 10_000, 512),
    ):
        datasets = ", ".join(f'"{name}"' for name in data)
        hidden = f"hidden = [{width}, {width}]"
        blocks.append(f"""
[[study]]
name = "{preset}-ffjord"
flows = ["ffjord-{preset}"]
datasets = [{datasets}]
budget = {{ batch_size = {batch}, learning_rate = 1e-3, validate_every = 200 }}

[[study]]
name = "{preset}-splines"
flows = ["rqnsf-c-{preset}", "rqnsf-ar-{preset}"]
datasets = [{datasets}]
budget = {{ batch_size = 512, learning_rate = 5e-4, schedule = "cosine" }}

[[study]]
name = "{preset}"
flows = [
    {{ name = ["realnvp-5", "realnvp-10", "made", "maf-5", "maf-10", "maf-mog-5"], {hidden} }},
    "glow", "nice", "iaf",
]
datasets = [{datasets}]
""")
    return "".join(blocks)


def finding(records: Records) -> str | None:
    """FFJORD against the best of the others, each trained as its paper says, and its own gap."""
    cells = records.ok[records.ok["trained"]]
    cells = cells.assign(contestant=records.names(cells))
    said = []
    for (dataset,), group in grouped(cells, ["dataset"]):
        values = {
            name: found
            for name, mine in grouped(group, ["flow_name", "contestant"])
            if len(found := values_by_seed(mine, "nll_nats"))
        }
        ours = {name: found for name, found in values.items() if name[0].startswith("ffjord")}
        others = {name: found for name, found in values.items() if name not in ours}
        if len(ours) != 1 or not others:
            continue
        ((_, continuous),) = ours
        best = min(others, key=lambda name: float(others[name].mean()))
        lead = difference(ours[next(iter(ours))], others[best])
        said.append(f"{continuous} less {best[1]} on {dataset} {in_words(lead, 'nats')}")
    if not said:
        return None
    rules = cells.groupby("dataset")["rule"].nunique()
    how = ", under budgets of their own" if (rules > 1).any() else ""
    text = f"NLL of FFJORD less the lowest mean of the discrete flows{how}: {'; '.join(said)}."
    gaps = [
        f"{records.short[row['flow']]} {in_words(gap, 'nats')}"
        for table in tables.gaps(records)
        for _, row in table.data.iterrows()
        if row["model"] == "FFJORD"
        and (gap := Interval(row["gap"], row["ours_half_width_over_seeds"], int(row["seeds"])))
    ]
    return f"{text} Ours less the published number: {'; '.join(gaps)}." if gaps else text


ENTRIES = [
    Study(
        name="tabular",
        title="Every flow of vectors on tables, with its published settings, beside what is "
        "published",
        answers="Tables 2 and 6 of FFJORD (arXiv:1810.01367): test NLL of POWER, GAS, HEPMASS, "
        "MINIBOONE and BSDS300, and how far ours lie from the published numbers",
        small=_SMALL,
        full=_full(),
        tables=(tables.comparison, tables.gaps, tables.published, tables.cost),
        figures=(figures.learning, figures.nfe_growth),
        finding=finding,
        place=22,
    )
]
