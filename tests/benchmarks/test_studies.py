"""Studies: found, refused, at their profiles, and a section of a report each."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from made_up import made_up_record

from benchmarks import studies
from benchmarks.errors import BadEntry, MatrixError
from benchmarks.matrix import Matrix, load_matrix
from benchmarks.report import write_report
from benchmarks.report.records import gather
from benchmarks.report.sections import ANYTHING, sections_of
from benchmarks.store import Store
from benchmarks.studies import Study

ROOT = Path(__file__).parents[2]
BLOCK = """
[[study]]
flows = ["{flow}"]
datasets = ["8gaussians"]
measures = ["quality"]
"""
MINE = Study("mine", "Mine", "a question", BLOCK.format(flow="maf"))
T_2 = 4.302652729911275  # Student's t, two-sided 95 %, 2 degrees of freedom.


def example() -> list[Study]:
    path = ROOT / "tests" / "examples" / "tolerance.py"
    spec = importlib.util.spec_from_file_location("tolerance", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tolerance"] = module
    spec.loader.exec_module(module)
    found: list[Study] = module.ENTRIES
    return found


def filled(folder: Path, matrix: Matrix, plan: bool = True, **measures: Any) -> Store:
    """A folder of records of a matrix, in which every measure is what is given."""
    store = Store(folder)
    if plan:
        store.write_plan(matrix)
    for cell in matrix.cells:
        values = {
            name: value(cell) if callable(value) else value for name, value in measures.items()
        }
        store.write(made_up_record(cell, values))
    return store


def test_the_projects_own_studies_are_found() -> None:
    assert list(studies.STUDIES)[:2] == ["quick", "quick-rates"]
    assert {"backends", "libraries", "learned", "learning", "regularizers"} <= {*studies.STUDIES}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "quick"}, "the name 'quick' is taken by a study, the project's own"),
        ({"name": "a study"}, "attribute name: must be of small letters"),
        ({"title": ""}, "attribute title: must be a text"),
        ({"answers": " "}, "attribute answers: must be a text"),
        ({"small": "seeds = ["}, "attribute small: not valid TOML"),
        ({"small": {"seeds": [0]}}, "attribute small: must be the text of a matrix file"),
        ({"small": 'name = "mine"'}, "attribute small: name: the study has these itself"),
        ({"small": ""}, "cells of its own, or includes others"),
        ({"includes": ("quick",)}, "cells of its own, or includes others"),
        ({"small": "", "includes": ("quik",)}, "'quik', which is not there; did you mean 'quick'"),
        ({"tables": ("cost",)}, "attribute tables: 'cost' is no function"),
        ({"figures": [print]}, "attribute figures: must be a tuple"),
        ({"finding": "FFJORD wins"}, "attribute finding: 'FFJORD wins' is no function"),
    ],
)
def test_a_wrong_study_is_refused(change: dict[str, Any], message: str) -> None:
    before = dict(studies.STUDIES)
    with pytest.raises(BadEntry, match=rf"my\.py: .*{message}"):
        studies.add([dataclasses.replace(MINE, **change)], "my.py")
    assert before == studies.STUDIES


def test_a_union_of_unions_is_refused() -> None:
    union = Study("union", "Union", "all", includes=("quick", "learning"))
    studies.add([union], "my.py")
    with pytest.raises(BadEntry, match="includes 'union', which is a union itself"):
        studies.add([dataclasses.replace(union, name="more", includes=("union",))], "my.py")


# -- cells --------------------------------------------------------------------------------------


def test_the_profile_is_that_of_the_device_unless_it_is_chosen(tiny: Path) -> None:
    full = BLOCK.format(flow="maf") + BLOCK.format(flow="glow")
    studies.add([dataclasses.replace(MINE, full=full)], "my.py")

    def flows(**options: Any) -> list[str]:
        return [cell.flow for cell in load_matrix("mine", **options).cells]

    assert flows() == ["maf"]
    assert flows(device="cuda") == ["maf", "glow"]
    assert flows(profile="full") == ["maf", "glow"]
    assert flows(device="cuda", profile="small") == ["maf"]
    # A study of one profile has it everywhere; a matrix file has none.
    assert len(load_matrix("quick", profile="full").cells) == len(load_matrix("quick").cells)
    with pytest.raises(MatrixError, match="a matrix file has no profiles"):
        load_matrix(str(tiny), profile="full")


def test_errors_in_a_study_say_which_and_in_which_profile() -> None:
    studies.add([dataclasses.replace(MINE, full=BLOCK.format(flow="mfa"))], "my.py")
    with pytest.raises(MatrixError, match="study mine, full: study -> 1 -> flows"):
        load_matrix("mine", profile="full")


def test_a_union_has_the_cells_of_its_parts_each_once() -> None:
    other = Study("other", "Other", "?", BLOCK.format(flow="maf") + BLOCK.format(flow="glow"))
    studies.add([MINE, other, Study("both", "Both", "all", includes=("mine", "other"))], "my.py")
    both = load_matrix("both")
    assert [cell.flow for cell in both.cells] == ["maf", "glow"]
    assert list(both.studies) == ["mine/study-1", "other/study-1", "other/study-2"]
    maf, glow = (cell.key for cell in both.cells)
    assert studies.keys_by_study(both) == {"mine": [maf], "other": [maf, glow]}
    assert studies.keys_by_study(load_matrix("mine")) == {"mine": [maf]}
    assert [part.name for part in studies.parts("both")] == ["mine", "other"]


# -- reports ------------------------------------------------------------------------------------


def test_a_union_is_reported_a_section_a_study(tmp_path: Path) -> None:
    other = Study("other", "Other", "?", BLOCK.format(flow="glow"))
    union = Study("both", "Both", "all", includes=("mine", "other"), place=0)
    shown = {"tables": ANYTHING.tables, "finding": lambda records: f"{len(records.cells)} cells."}
    studies.add([dataclasses.replace(each, **shown) for each in (MINE, other)] + [union], "my.py")  # type: ignore[arg-type]
    store = filled(tmp_path / "run", load_matrix("both"), nll_nats=1.0)
    found = sections_of(gather([store]))
    assert [(study.name, list(part.cells["flow"])) for study, part in found] == [
        ("mine", ["maf"]),
        ("other", ["glow"]),
    ]
    summary = write_report([store], tmp_path / "out")
    names = {path.name for path in summary.paths}
    # Files of several sections say whose they are; what failed is said once.
    assert {"mine-comparison.md", "other-comparison.md", "failures.md"} <= names
    page = summary.paths[0].read_text()
    for name in ("mine", "other"):
        section = page[page.index(f'<section id="{name}">') :]
        assert section.index('<p class="finding">1 cells.</p>') < section.index("<table")


def test_cells_of_no_study_have_a_section_of_their_own(tmp_path: Path, tiny: Path) -> None:
    studies.add([MINE], "my.py")
    stores = [
        filled(tmp_path / "a", load_matrix("mine"), nll_nats=1.0),
        filled(tmp_path / "b", load_matrix(str(tiny)), nll_nats=1.0),
        filled(tmp_path / "c", load_matrix("learning"), plan=False, nll_nats=1.0),
    ]
    found = sections_of(gather(stores))
    assert [(study.name, len(part.cells)) for study, part in found] == [
        ("mine", 1),
        (load_matrix(str(tiny)).name, 2),
        ("cells", len(load_matrix("learning").cells)),
    ]


def test_what_differs_among_other_studies_is_in_no_name(tmp_path: Path) -> None:
    longer = Study("longer", "Longer", "?", "budget = { steps = 7 }" + BLOCK.format(flow="maf"))
    studies.add([MINE, longer], "my.py")
    stores = [
        filled(tmp_path / name, load_matrix(name), nll_nats=1.0) for name in ("mine", "longer")
    ]
    whole = gather(stores)
    assert set(whole.cells["setting_label"]) == {"steps 7", "steps 1000"}
    for _, part in sections_of(whole):
        assert list(part.cells["setting_label"]) == [""]


def test_a_twelfth_study_is_one_file(tmp_path: Path) -> None:
    """The example of CONTRIBUTING.md: its figure, and its finding by hand."""
    studies.add(example(), "tolerance.py")
    matrix = load_matrix("tolerance")
    assert len(matrix.cells) == 9
    growth = (2.0, 2.5, 3.0)

    def nfe(cell: Any) -> float:
        rank = {1e-2: 0.0, 1e-3: 0.5, 1e-4: 1.0}[cell.flow_options["rtol"]]
        return 20 * float(growth[cell.seed] ** rank)

    store = filled(tmp_path / "run", matrix, nfe_train_forward=nfe, nll_nats=3.0)
    summary = write_report([store], tmp_path / "out")
    page = summary.paths[0].read_text()
    (said,) = re.findall(r'<p class="finding">(.*)</p>', page)
    logs = [math.log(value) for value in growth]
    mean = sum(logs) / 3
    width = T_2 * math.sqrt(sum((value - mean) ** 2 for value in logs) / 2 / 3)
    low, middle, high = (math.exp(mean + side * width) for side in (-1, 0, 1))
    assert said == (
        f"A tolerance of 1e-4 takes {middle:.2f} ({low:.2f} to {high:.2f}, 3 seeds) times the NFE "
        "of 1e-2."
    )
    assert '<figure id="figure-tolerance">' in page
    # One line, though each tolerance is a contestant of its own in the tables.
    assert 'role="img" aria-label="Cost of the tolerance"' in page


def test_findings_of_the_committed_records() -> None:
    """Each study says what its records say, or that they do not suffice; never an error."""
    for name in ("learned", "libraries"):
        records = gather([Store(ROOT / "results" / "reference" / name)])
        ((study, part),) = sections_of(records)
        assert study.name == name
        assert study.finding is not None
        said = study.finding(part)
        assert said is None or re.search(r"\d", said)


@pytest.mark.parametrize(("name", "library"), [("backends", "diffrax"), ("libraries", "flowjax")])
def test_jax_is_beside_ours_untrained_and_trained_at_three_sizes_of_a_batch(
    name: str, library: str
) -> None:
    small, full = (load_matrix(name, profile=profile) for profile in ("small", "full"))  # type: ignore[arg-type]
    # What was measured in the small profile counts in the full one.
    assert {cell.key for cell in small.cells} < {cell.key for cell in full.cells}
    for matrix in (small, full):
        mine = [cell for cell in matrix.cells if cell.flow.startswith(f"{library}/")]
        assert all(cell.reference is not None for cell in mine)
        assert {cell.budget.steps > 0 for cell in mine} == {False, True}
        sizes = {cell.budget.batch_size for cell in mine}
        assert {64, 4096} < sizes <= {64, 512, 1000, 4096}
    # torch.compile is asked of ours, of zuko where there is time, and of the reference alike.
    compiled = [
        {cell.flow for cell in matrix.cells if cell.budget.compile} for matrix in (small, full)
    ]
    if name == "libraries":
        assert {"realnvp", "flowjax/realnvp"} <= compiled[0]
        assert compiled[1] - compiled[0] == {"zuko/maf", "zuko/realnvp", "zuko/rqnsf-c"}
    else:
        assert not any(compiled)
