"""Matrix files: their products, their keys, and what is said of a wrong one."""

import json
from pathlib import Path

import pytest

from benchmarks.cell import Budget, Cell
from benchmarks.errors import MatrixError
from benchmarks.matrix import load_matrix
from benchmarks.select import filter_cells, parse_seeds
from benchmarks.studies import PROFILES, STUDIES, Profile


def write(folder: Path, study: str, top: str = 'name = "m"') -> str:
    path = folder / "m.toml"
    path.write_text(f"{top}\n[[study]]\n{study}\n")
    return str(path)


def test_cells_are_the_product_of_the_axes(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        flows = ["realnvp", { name = "maf", layers = [2, 3], hidden = [[8], [8, 8]] }]
        datasets = ["8gaussians", { name = "gaussian", dimension = [2, 8, 32] }]
        seeds = [0, 1]
        """,
    )
    cells = load_matrix(path).cells
    assert len(cells) == (1 + 2 * 2) * (1 + 3) * 2
    assert len({cell.key for cell in cells}) == len(cells)
    assert {cell.flow_label for cell in cells} == {
        "realnvp",
        "maf[layers=2,hidden=8]",
        "maf[layers=3,hidden=8]",
        "maf[layers=2,hidden=8-8]",
        "maf[layers=3,hidden=8-8]",
    }


def test_a_list_of_names_is_an_axis(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        flows = [{ name = ["maf", "realnvp"], layers = [2, 3] }]
        datasets = [{ name = ["8gaussians", "moons"], rows = 500 }]
        """,
    )
    found = {(cell.flow_label, cell.dataset_label) for cell in load_matrix(path).cells}
    assert len(found) == 8
    assert ("maf[layers=3]", "moons[rows=500]") in found


def test_a_reference_is_one_flow(tmp_path: Path) -> None:
    path = write(tmp_path, f'{GOOD}\nreference = {{ name = "maf", layers = 3 }}')
    (cell,) = load_matrix(path).cells
    assert cell.reference is not None
    assert cell.reference.label == "maf[layers=3]"
    several = write(tmp_path, f'{GOOD}\nreference = {{ name = "maf", layers = [3, 4] }}')
    with pytest.raises(MatrixError, match="reference: one flow was expected"):
        load_matrix(several)


def test_a_flat_list_is_the_value_of_an_option_that_takes_one(tmp_path: Path) -> None:
    path = write(tmp_path, 'flows = [{ name = "maf", hidden = [8, 4] }]\ndatasets = ["8gaussians"]')
    (cell,) = load_matrix(path).cells
    assert cell.flow_options["hidden"] == [8, 4]


def test_key_depends_on_what_determines_the_result_and_on_nothing_else(tmp_path: Path) -> None:
    plain = write(tmp_path, 'flows = ["maf"]\ndatasets = ["8gaussians"]')
    (first,) = load_matrix(plain).cells
    spelled = write(
        tmp_path,
        """
        datasets = [{ name = "8gaussians", rows = 100000 }]
        measures = [
            "ratio", "memory", "time", "quality", "work", "variance", "faithfulness", "pictures"
        ]
        flows = ["maf"]
        name = "another name"
        """,
    )
    (same,) = load_matrix(spelled).cells
    assert same.key == first.key
    for change in (
        {"seed": 1},
        {"threads": 2},
        {"dtype": "float64"},
        {"budget": {"steps": 7}},
        {"flow_options": {**first.flow_options, "layers": 3}},
    ):
        changed = Cell.model_validate({**first.model_dump(), **change})
        assert changed.key != first.key


def test_cells_survive_json(tmp_path: Path) -> None:
    cells = load_matrix("quick").cells
    again = [Cell.model_validate_json(cell.model_dump_json()) for cell in cells]
    assert [cell.key for cell in again] == [cell.key for cell in cells]


def test_a_cell_in_two_studies_is_one_cell(tmp_path: Path) -> None:
    block = 'flows = ["maf"]\ndatasets = ["8gaussians"]'
    path = write(tmp_path, f'name = "a"\n{block}\n[[study]]\nname = "b"\n{block}')
    matrix = load_matrix(path)
    assert len(matrix.cells) == 1
    assert matrix.studies == {"a": [matrix.cells[0].key], "b": [matrix.cells[0].key]}


def test_a_study_changes_the_budget_in_part(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'flows = ["maf"]\ndatasets = ["8gaussians"]\nbudget = { steps = 7 }',
        top='name = "m"\n[budget]\nbatch_size = 99',
    )
    (cell,) = load_matrix(path).cells
    assert (cell.budget.steps, cell.budget.batch_size) == (7, 99)


def test_the_budget_of_a_flow_counts_most(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        flows = [
            "maf",
            { name = ["realnvp", "glow"], budget = { learning_rate = 3e-3, patience = 4 } },
            { name = "nice", layers = [2, 3], budget = { learning_rate = [1e-2, 1e-3] } },
        ]
        datasets = ["8gaussians"]
        budget = { steps = 7, learning_rate = 1e-2 }
        """,
        top='name = "m"\n[budget]\nbatch_size = 99\nlearning_rate = [0.1, 1]',
    )
    found = {
        cell.flow_label: (cell.budget.learning_rate, cell.learning_rates, cell.budget.patience)
        for cell in load_matrix(path).cells
    }
    assert found == {
        "maf": (1e-2, (), None),
        "realnvp": (3e-3, (), 4),
        "glow": (3e-3, (), 4),
        "nice[layers=2]": (1e-3, (1e-3, 1e-2), None),
        "nice[layers=3]": (1e-3, (1e-3, 1e-2), None),
    }
    assert {(c.budget.steps, c.budget.batch_size) for c in load_matrix(path).cells} == {(7, 99)}


@pytest.mark.parametrize("place", ["matrix", "study"])
def test_a_list_of_learning_rates_is_one_tuned_cell(tmp_path: Path, place: str) -> None:
    def cell_of(rates: str) -> Cell:
        if place == "matrix":
            path = write(tmp_path, GOOD, top=f'name = "m"\n[budget]\nlearning_rate = {rates}')
        else:
            path = write(tmp_path, f"{GOOD}\nbudget = {{ learning_rate = {rates} }}")
        (cell,) = load_matrix(path).cells
        return cell

    tuned = cell_of("[1e-3, 3e-3, 1e-2]")
    assert tuned.learning_rates == (1e-3, 3e-3, 1e-2)
    assert isinstance(tuned.budget.learning_rate, float)
    # Order is no part of a grid; its rates are.
    assert cell_of("[1e-2, 1e-3, 3e-3]").key == tuned.key
    assert cell_of("[1e-3, 1e-2]").key != tuned.key
    assert cell_of("1e-3").key != tuned.key
    assert tuned.at_rate(1e-2).key == cell_of("1e-2").key
    assert Cell.model_validate_json(tuned.model_dump_json()) == tuned


GOOD = 'flows = ["maf"]\ndatasets = ["8gaussians"]'


@pytest.mark.parametrize(
    ("study", "top", "message"),
    [
        (
            'flows = ["mfa"]\ndatasets = ["8gaussians"]',
            'name = "m"',
            r"study -> 1 -> flows -> 1: no flow is called 'mfa'; did you mean 'maf'",
        ),
        (
            'flows = ["maf"]\ndatasets = ["8gausians"]',
            'name = "m"',
            r"datasets -> 1: .*'8gausians'; did you mean '8gaussians'",
        ),
        (
            'flows = [{ name = "maf", layer = 2 }]\ndatasets = ["power"]',
            'name = "m"',
            r"maf -> layer: unknown key; did you mean 'layers'",
        ),
        (
            'flows = [{ name = "maf", layers = "two" }]\ndatasets = ["power"]',
            'name = "m"',
            r"layers: Input should be a valid integer, got 'two'",
        ),
        (
            'flows = [{ name = "maf", layers = 2.5 }]\ndatasets = ["power"]',
            'name = "m"',
            r"layers: Input should be a valid integer",
        ),
        (
            'flows = [{ name = "maf", layers = -1 }]\ndatasets = ["power"]',
            'name = "m"',
            r"layers: Input should be greater than 0, got -1",
        ),
        (
            'flows = [{ layers = 2 }]\ndatasets = ["power"]',
            'name = "m"',
            r"flows -> 1: expected a table with a name",
        ),
        (
            f"{GOOD}\nmeasures = ['tme']",
            'name = "m"',
            r"measures: no measure is called 'tme'; did you mean 'time'",
        ),
        (
            f"{GOOD}\nbudget = {{ step = 3 }}",
            'name = "m"',
            r"study -> 1 -> budget -> step: unknown key; did you mean 'steps'",
        ),
        (
            f"{GOOD}\nbudget = {{ batch_size = 0 }}",
            'name = "m"',
            r"batch_size: Input should be greater than 0",
        ),
        (
            f"{GOOD}\nseed = [1]",
            'name = "m"',
            r"study -> 1 -> seed: unknown key; did you mean 'seeds'",
        ),
        (
            f"{GOOD}\nbudget = {{ learning_rate = [] }}",
            'name = "m"',
            r"study -> 1 -> budget -> learning_rate: a grid has two learning rates or more",
        ),
        (
            f"{GOOD}\nbudget = {{ learning_rate = [1e-3] }}",
            'name = "m"',
            r"learning_rate: a grid has .* got \[0.001\]; write a single one without brackets",
        ),
        (
            f"{GOOD}\nbudget = {{ learning_rate = [1e-3, 1e-2, 1e-3] }}",
            'name = "m"',
            r"budget -> learning_rate -> 3: 0.001 is there already",
        ),
        *(
            (
                f"{GOOD}\nbudget = {{ learning_rate = [1e-3, {value}] }}",
                'name = "m"',
                r"budget -> learning_rate -> 2: a learning rate is a number above 0, got ",
            )
            for value in ("0", "-1e-3", "true", "'1e-2'", "[1e-2]")
        ),
        *(
            (f"{GOOD}\n{line}", top, message)
            for line, top, message in (
                ("budget = { seconds = inf }", 'name = "m"', "seconds: numbers must be finite"),
                (
                    "budget = { learning_rate = [1e-3, nan] }",
                    'name = "m"',
                    "numbers must be",
                ),
                (
                    "",
                    f'name = "m"\nseeds = [{10**30}]',
                    "seeds -> 1: integers have at",
                ),
                ("", f'name = "m"\nthreads = {10**12}', "threads: Input should be less than or eq"),
                ("", f'name = "m"\nthreads = {"9" * 5000}', "not valid TOML"),
                ("", f'name = "{"m" * 5000}"', "a text has at most 4096 characters, this one 5000"),
                ("", f'name = "{"m" * 200}"', "a matrix's name has at most 100 bytes"),
                ("", f'name = "m"\n{"k" * 5000} = 1', "a name has at most 100 characters"),
                ("", f'name = "m"\nbudget = {{ a = {"[" * 50}{"]" * 50} }}', "nested more than 20"),
                ("", f'name = "m"\nbudget = {{ a = {"[" * 9000}{"]" * 9000} }}', "not valid TOML"),
                (
                    "",
                    f'name = "m"\nseeds = {list(range(150_000))}',
                    "makes 150,000 cells",
                ),
            )
        ),
        *(
            (f"flows = {flows}\ndatasets = {datasets}", 'name = "m"', message)
            for flows, datasets, message in (
                ("[{ name = [] }]", '["power"]', "flows -> 1 -> name: an empty list"),
                ('[{ name = "maf", layers = [] }]', '["power"]', "maf -> layers: an empty list"),
                ('[{ name = "maf", no_option = [] }]', '["power"]', "no_option: an empty list"),
                ('["maf"]', '[{ name = "power", rows = [] }]', "power -> rows: an empty list"),
                ('["maf"]', f'[{{ name = "power", rows = {10**12} }}]', "is more than 100000000"),
            )
        ),
        (
            f"{GOOD}\nbudget = {{ batch_size = [64, 128] }}",
            'name = "m"',
            r"study -> 1 -> budget -> batch_size: only learning_rate may be a list in a budget",
        ),
        (
            f"{GOOD}\nbudget = {{ steps = 0, learning_rate = [1e-3, 1e-2] }}",
            'name = "m"',
            r"budget -> learning_rate: a grid of rates needs training, and steps = 0 has none",
        ),
        (
            GOOD,
            'name = "m"\nbudget = { learning_rate = [1e-3, 0] }',
            r"m.toml: budget -> learning_rate -> 2: a learning rate is a number above 0, got 0",
        ),
        (
            GOOD,
            'name = "m"\nbudget = { step = 3 }',
            r"m.toml: budget -> step: unknown key; did you mean 'steps'",
        ),
        (
            'flows = ["maf", { name = "glow", budget = { step = 3 } }]\ndatasets = ["power"]',
            'name = "m"',
            r"study -> 1 -> flows -> 2 -> budget -> step: unknown key; did you mean 'steps'",
        ),
        (
            'flows = [{ name = "maf", budget = 3 }]\ndatasets = ["power"]',
            'name = "m"',
            r"flows -> 1 -> budget: expected a table such as .*, got 3",
        ),
        (
            'flows = ["maf"]\ndatasets = [{ name = "power", budget = { steps = 3 } }]',
            'name = "m"',
            r"power -> budget: unknown key",
        ),
        ("flows = []\ndatasets = []", 'name = "m"', r"flows: List should have at least 1 item"),
        ('datasets = ["power"]', 'name = "m"', r"study -> 1 -> flows: is missing"),
        (GOOD, "", r"name: is missing"),
        (GOOD, 'name = "../m"', r"name: Value error, a matrix's name"),
        (GOOD, "name = ", r"not valid TOML: .*line 1"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, study: str, top: str, message: str) -> None:
    path = write(tmp_path, study, top)
    with pytest.raises(MatrixError, match=message) as caught:
        load_matrix(path)
    assert all(line.startswith(path) for line in str(caught.value).splitlines())


def test_an_unbounded_budget_is_refused() -> None:
    # TOML has no null: the only way to a budget without bound is through the API.
    with pytest.raises(ValueError, match="needs a bound"):
        Budget.model_validate({"steps": None})


@pytest.mark.parametrize("rates", [(1e-3,), (1e-2, 1e-3), (1e-3, 1e-3), (3e-3, 1e-2)])
def test_a_tuned_cell_has_one_form(tmp_path: Path, rates: tuple[float, ...]) -> None:
    (cell,) = load_matrix(write(tmp_path, GOOD)).cells
    assert cell.budget.learning_rate == 1e-3
    with pytest.raises(ValueError, match=r"a grid of|the least rate of its grid"):
        Cell.model_validate({**cell.model_dump(), "learning_rates": rates})


def test_unknown_matrix_is_answered_with_the_nearest() -> None:
    with pytest.raises(MatrixError, match="no study is called 'quik'; did you mean 'quick'"):
        load_matrix("quik")
    with pytest.raises(MatrixError, match=r"there is no matrix file nowhere\.toml"):
        load_matrix("nowhere.toml")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", STUDIES)
def test_studies_resolve(name: str, profile: Profile) -> None:
    matrix = load_matrix(name, profile=profile)
    assert matrix.name == name
    assert matrix.description
    assert matrix.cells
    json.loads(matrix.model_dump_json())


def test_filter_keeps_what_it_names() -> None:
    matrix = load_matrix("quick")
    kept = filter_cells(matrix, "flow=ffjord,maf;dataset=power")
    assert kept
    assert {cell.flow for cell in kept} == {"ffjord", "maf"}
    assert {cell.dataset for cell in kept} == {"power"}
    label = next(cell.flow_label for cell in matrix.cells if "," in cell.flow_label)
    assert {cell.flow_label for cell in filter_cells(matrix, f"flow={label}")} == {label}
    assert filter_cells(matrix, "") == matrix.cells
    assert {cell.seed for cell in filter_cells(matrix, "seed=0,2")} == {0, 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flw=maf", "'flw' is no axis; did you mean 'flow'"),
        ("flow", "is no axis"),
        ("flow=mfa", "has no flow 'mfa'; did you mean 'maf'"),
        ("dataset=powr", "has no dataset 'powr'; did you mean 'power'"),
        ("seed=17", "has no seed '17'"),
        ("study=comparisn", "did you mean 'comparison'"),
    ],
)
def test_a_wrong_filter_is_explained(text: str, message: str) -> None:
    with pytest.raises(MatrixError, match=message):
        filter_cells(load_matrix("quick"), text)


@pytest.mark.parametrize(
    "text", ["", "a", "3-1", "1-", "-2", "1;2", "²", "1-²", "0-3000000", "9" * 5000, "1,0-100000"]
)
def test_wrong_seeds_are_refused(text: str) -> None:
    with pytest.raises(MatrixError, match="seeds"):
        parse_seeds(text)
