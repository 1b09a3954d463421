"""Whatever a matrix file holds: cells, or an error that says what is wrong; never a traceback."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.cell import Budget
from benchmarks.errors import BenchError
from benchmarks.matrix import MatrixFile, Study, load_matrix
from benchmarks.select import filter_cells, parse_seeds
from benchmarks.studies import study

EXAMPLES = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def toml(value: Any) -> str:
    """A value as TOML, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool | str):
        return json.dumps(value)
    return str(value)


words = st.sampled_from(
    ["maf", "realnvp", "ffjord", "power", "8gaussians", "table", "", "x" * 5000]
)
numbers = st.one_of(
    st.integers(-3, 40),
    st.integers(),
    st.sampled_from([10**12, 2**63, 10**100]),
    st.floats(),
)
scalars = st.one_of(words, st.text(max_size=8), st.booleans(), numbers)
options = st.sampled_from(
    ["name", "layers", "hidden", "rows", "split", "path", "atol", "budget", "no_option"]
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(options, words), inner, max_size=3)
    ),
    max_leaves=6,
)
budgets = st.dictionaries(st.sampled_from([*Budget.model_fields, "typo"]), values, max_size=3)
items = st.one_of(
    words,
    st.builds(lambda a, b: {"name": a, **b}, words, st.dictionaries(options, values, max_size=3)),
)


def table(model: Any, usual: Any) -> Any:
    """A table that is right but for a few of its keys."""
    changes = st.dictionaries(st.sampled_from([*model.model_fields, "typo"]), values, max_size=2)
    return st.builds(lambda right, wrong: {**right, **wrong}, usual, changes)


studies = table(
    Study,
    st.fixed_dictionaries(
        {"flows": st.lists(items, max_size=3), "datasets": st.lists(items, max_size=2)},
        optional={"budget": budgets, "reference": items},
    ),
)
files = table(
    MatrixFile,
    st.fixed_dictionaries(
        {"name": st.just("fuzz"), "study": st.lists(studies, max_size=2)},
        optional={"budget": budgets},
    ),
)


def check(text: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz.toml"
        path.write_bytes(text)
        try:
            matrix = load_matrix(str(path))
        except BenchError as refusal:
            error = refusal
        else:
            error = None
    if error is not None:
        assert error.exit_code == 2
        assert 0 < len(str(error)) < 20_000
        return
    assert matrix.cells
    for cell in matrix.cells:
        assert len(cell.key) == 16
        assert str(cell)


@pytest.mark.slow
@EXAMPLES
@given(files)
def test_any_table_is_cells_or_an_error(document: dict[str, Any]) -> None:
    lines = [f"{json.dumps(name)} = {toml(value)}" for name, value in document.items()]
    check("\n".join(lines).encode("utf-8", "surrogatepass"))


QUICK = f'name = "quick"\n{study("quick").small}'.encode()


@EXAMPLES
@given(
    st.lists(
        st.tuples(st.integers(0, len(QUICK)), st.integers(0, 3), st.binary(max_size=3)), max_size=6
    )
)
def test_any_damage_to_a_file_is_an_error_or_none(edits: list[tuple[int, int, bytes]]) -> None:
    text = QUICK
    for start, length, new in edits:
        text = text[:start] + new + text[start + length :]
    check(text)


@EXAMPLES
@given(st.text(st.sampled_from("0123456789-, ²x"), max_size=12))
def test_any_seeds_are_seeds_or_an_error(text: str) -> None:
    try:
        seeds = parse_seeds(text)
    except BenchError:
        return
    assert len(set(seeds)) == len(seeds) > 0


@pytest.mark.parametrize("text", ["²", "=", ";;=", "flow=", "flow=" + "x" * 5000, "flow=[[["])
def test_any_filter_is_cells_or_an_error(text: str, tiny: Path) -> None:
    matrix = load_matrix(str(tiny))
    try:
        assert filter_cells(matrix, text) == []
    except BenchError:
        return
