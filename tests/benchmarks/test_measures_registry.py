"""Families of measures: found, ordered, refused, and shown by their columns' own words."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import measures
from benchmarks.errors import BadEntry, MatrixError
from benchmarks.matrix import load_matrix
from benchmarks.measures import Column, Family
from benchmarks.report import tables
from benchmarks.report.records import gather
from benchmarks.store import Store

EXAMPLES = Path(__file__).parents[1] / "examples"
GOOD = Family("mine", "mine", "quality", 1, (Column("mine", "mine, nats"),), lambda subject: {})


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_families_run_in_the_stated_order() -> None:
    default = ["quality", "work", "variance", "faithfulness", "pictures", "time", "memory", "ratio"]
    order = [*default, "machine"]
    assert [name for name in measures.FAMILIES if name in order] == order
    measures.add(
        [
            GOOD,
            dataclasses.replace(
                GOOD, name="cost", stage="cost", columns=(Column("other", "other"),)
            ),
        ],
        "my.py",
    )
    order = [*default[:5], "mine", *default[5:], "cost", "machine"]
    assert [name for name in measures.FAMILIES if name in order] == order
    assert measures.family("mine").origin == "my.py"


def test_a_new_family_orphans_no_record() -> None:
    before = [cell.key for cell in load_matrix("quick").cells]
    measures.add([GOOD], "my.py")
    assert [cell.key for cell in load_matrix("quick").cells] == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"name": "time"},
            r"the name 'time' is taken by the measure of benchmarks\.measures\.time",
        ),
        ({"name": "Mine"}, "attribute name: must be of small letters"),
        ({"summary": ""}, "attribute summary: must be a text"),
        ({"stage": "both"}, "attribute stage: must be 'quality' or 'cost', not 'both'"),
        ({"version": "1"}, "attribute version: must be a whole number"),
        ({"measure": None}, "attribute measure: must be a function"),
        ({"columns": ()}, "attribute columns: must be a tuple"),
        ({"columns": ("nll",)}, "number 1 is 'nll', which is no measures.Column"),
        ({"columns": (Column("nll_nats", "x"),)}, "the column 'nll_nats' is taken by quality"),
        ({"columns": (Column("steps", "x"),)}, "the column 'steps' is taken by every record"),
        ({"columns": (Column("mine", "x"), Column("mine", "x"))}, "'mine' is there twice"),
        ({"columns": (Column("mine", " "),)}, "'mine' needs a meaning"),
        ({"columns": (Column("mine", "x", sort="odd"),)}, "sort must be one of"),  # type: ignore[arg-type]
        (
            {"columns": (Column("mine", "x", sort="flag", table="cost"),)},
            "a flag is no column of a table",
        ),
    ],
)
def test_a_wrong_family_is_refused(change: dict[str, Any], message: str) -> None:
    before = dict(measures.FAMILIES)
    with pytest.raises(BadEntry, match=rf"my\.py: .*{message}"):
        measures.add([dataclasses.replace(GOOD, **change)], "my.py")
    assert before == measures.FAMILIES


def test_what_is_no_list_of_families_is_refused() -> None:
    with pytest.raises(BadEntry, match=r"my\.py: ENTRIES must be a list"):
        measures.add(GOOD, "my.py")  # type: ignore[arg-type]
    with pytest.raises(BadEntry, match=r"holds 'mine', which is no measures\.Family"):
        measures.add(["mine"], "my.py")  # type: ignore[list-item]


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(MatrixError, match="no measure is called 'tiem'; did you mean 'time'"):
        measures.family("tiem")


def test_the_example_measures_the_distance_of_samples(tmp_path: Path) -> None:
    """A fresh RealNVP is the identity, and samples what the data are: the distance is small."""
    from test_measures import subject

    found = {}
    for condition in (1.0, 100.0):
        of = subject("realnvp", "gaussian", dimension=3, condition_number=condition, rows=20_000)
        (value,) = example("sliced_wasserstein").measure(of).values()
        found[condition] = value
    assert found[1.0] < 0.06
    assert found[100.0] > 3 * found[1.0]


def test_new_columns_are_shown_without_touching_the_report(tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parent / "report"))
    from synthetic_records import make_record

    measures.add(example("sliced_wasserstein").ENTRIES, "sliced_wasserstein.py")
    energy = Column(
        "energy_joules",
        "energy of a step, J",
        unit="mJ",
        heading="energy",
        factor=1e3,
        table="cost",
    )
    measures.add([dataclasses.replace(GOOD, stage="cost", columns=(energy,))], "my.py")
    store = Store(tmp_path)
    for flow, distance in (("maf", 0.1), ("glow", 0.2)):
        values = {"sliced_wasserstein": distance, "energy_joules": 0.25, "nll_nats": 1.0}
        store.write(make_record(flow, measures=values))
    records = gather([store])
    of = {table.name: table for table in tables.comparison(records)}
    own = of["sliced_wasserstein"]
    assert own.title == "Sliced Wasserstein distance (lower is better)"
    assert [row[-1].text for row in own.sections[0].rows] == ["0.200", "0.100"]
    (cost,) = tables.cost(records)
    assert cost.columns == ["flow", "energy [mJ]"]
    assert [row[1].text for row in cost.sections[0].rows] == ["250", "250"]
    assert any(note == "energy: energy of a step, J." for note in cost.notes)
