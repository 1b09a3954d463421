"""What comes from outside the project: how it is found, refused, recorded, and read without it."""

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import call

import datasets
import flows
from benchmarks import plugins
from benchmarks.cell import Cell
from benchmarks.errors import PluginError
from benchmarks.matrix import load_matrix
from benchmarks.run import process
from benchmarks.run.process import Pending, Task, record_of
from benchmarks.store import Record, Stale, Store
from benchmarks.versions import versions_of

DATA = '''
"""A square, uniform."""

import math

import torch

from datasets import Entry, SampledConfig


class Square:
    def sample(self, n, random):
        return random.random((n, 2))

    def log_prob(self, x):
        inside = ((x >= 0) & (x < 1)).all(1)
        return torch.where(inside, 0.0, -math.inf).double()

    def entropy(self):
        return 0.0


class SquareConfig(SampledConfig):
    kind = "toy"

    def density(self):
        return Square()

    def seed_names(self):
        return ("square",)


ENTRIES = [Entry("square", SquareConfig, "a uniform square", "made up")]
'''

FLOW = '''
"""A shift of each feature."""
import torch
import flows
from flows import Entry, FlowConfig, Traits

TRAITS = Traits(density="exact", density_passes="1", sample_passes="1", jacobian="triangular")


class Shift(flows.Flow):
    def __init__(self, event_shape):
        super().__init__(event_shape)
        self.traits = TRAITS
        self.shift = torch.nn.Parameter(0.1 * torch.randn(self.event_shape))
        self.log_scale = torch.nn.Parameter(0.1 * torch.randn(self.event_shape))

    def _encode(self, x, context, *, exact, generator):
        return (x - self.shift) * self.log_scale.exp(), self.log_scale.sum().expand(len(x))

    def _decode(self, z, context, *, exact, generator):
        return z * (-self.log_scale).exp() + self.shift, -self.log_scale.sum().expand(len(z))


class ShiftConfig(FlowConfig):
    """A shift of each feature."""

    @property
    def traits(self):
        return TRAITS

    def build(self, event_shape, context_features=0):
        if context_features:
            raise flows.InputError("takes no context")
        return Shift(event_shape)


ENTRIES = [Entry("shift", ShiftConfig, "a shift", "made up")]
'''


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    path = tmp_path / "square.py"
    path.write_text(DATA)
    return path


def forget() -> None:
    """As in another process."""
    for plugin in plugins.loaded():
        del plugins._LOADED[plugin.source]
    datasets.ENTRIES.pop("square", None)


# -- loading ----------------------------------------------------------------------------------


def test_a_file_brings_its_entries_and_their_origin(data_file: Path) -> None:
    found = plugins.load(str(data_file))
    assert found.origin.startswith("square.py, sha256 ")
    assert len(found.origin.rpartition(" ")[2]) == 16
    assert datasets.entry("square").origin == found.origin
    assert datasets.load("square", rows=10).train.shape == (10, 2)
    # Twice, by whatever path, is once.
    assert plugins.load(str(data_file.parent / "." / "square.py")) is found
    assert plugins.load("square.py", folder=data_file.parent) is found
    assert plugins.loaded() == (found,)


def test_a_module_without_a_distribution_is_known_by_its_file(
    data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_file.rename(data_file.with_name("a_square_module.py"))
    monkeypatch.syspath_prepend(data_file.parent)
    assert plugins.load("a_square_module").origin.startswith("a_square_module.py, sha256 ")
    assert "square" in datasets.ENTRIES


def test_an_installed_distribution_is_found(
    data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_file.rename(data_file.with_name("another_square_module.py"))
    info = data_file.parent / "squares-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: squares\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[ffjord_bench.datasets]\nx = another_square_module\n")
    (info / "top_level.txt").write_text("another_square_module\n")
    monkeypatch.syspath_prepend(data_file.parent)
    importlib.invalidate_caches()
    plugins.load_installed()
    assert datasets.entry("square").origin == "another_square_module, squares 1.2"
    # One that is broken says whose it is.
    (data_file.parent / "another_square_module.py").write_text("ENTRIES = []")
    forget()
    del sys.modules["another_square_module"]
    with pytest.raises(PluginError, match=r"installed distribution squares, entry point 'x' of "):
        plugins.load_installed()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"there is no such file"),
        ("x = (\n", r"line 1: '\(' was never closed"),
        ("\n\nraise ValueError('no')\n", r"line 3: ValueError: no"),
        ("import no_such_module\n", r"line 1: No module named 'no_such_module'"),
        ("x = 1\n", r"needs a list ENTRIES"),
        ("ENTRIES = []\n", r"needs a list ENTRIES"),
        ("ENTRIES = [1]\n", r"item 1 of ENTRIES is 1, which is none of .*datasets\.Entry"),
        (DATA.replace('"square"', '"8gaussians"'), r"the name '8gaussians' is taken by ToyConfig"),
        (DATA.replace('"made up"', "None"), r"entry 'square', attribute source: must be a text"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str | None, message: str, capsys: Any) -> None:
    path = tmp_path / "wrong.py"
    if text is not None:
        path.write_text(text)
    before = dict(datasets.ENTRIES)
    with pytest.raises(PluginError, match=message):
        plugins.load(str(path))
    assert before == datasets.ENTRIES
    assert plugins.loaded() == ()
    code, _, err = call("list", "datasets", "--plugin", path, capsys=capsys)
    assert code == 2
    assert str(path) in err


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(PluginError, match=r"no_such\.module: there is no such module; a file"):
        plugins.load("no_such.module")


# -- at the command line and in a matrix ------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_option_stands_anywhere_on_the_line(data_file: Path, place: int, capsys: Any) -> None:
    words: list[object] = ["list", "datasets"]
    code, out, _ = call(*words[:place], "--plugin", data_file, *words[place:], capsys=capsys)
    assert code == 0
    assert "a uniform square" in out


def test_every_command_takes_plugins(capsys: Any) -> None:
    for words in ("run", "status", "collect", "report", "data list", "list flows", "describe"):
        code, out, _ = call(*words.split(), "--help", capsys=capsys)
        assert code == 0
        assert "--plugin" in out


MATRIX = """
name = "mine"
plugins = ["{plugin}"]
measures = ["quality"]
[budget]
steps = 2
[[study]]
flows = [{{ name = "realnvp", layers = 2, hidden = [8] }}]
datasets = [{{ name = "square", rows = 100, test_rows = 100 }}]
"""


@pytest.fixture
def matrix_file(data_file: Path) -> Path:
    path = data_file.parent / "mine.toml"
    path.write_text(MATRIX.format(plugin=data_file.name))
    return path


def test_a_matrix_names_plugins_beside_itself(matrix_file: Path) -> None:
    (cell,) = load_matrix(str(matrix_file)).cells
    assert cell.dataset == "square"
    matrix_file.write_text(MATRIX.format(plugin="nowhere.py"))
    with pytest.raises(PluginError, match=r"mine\.toml: plugins: .*nowhere\.py: there is no such"):
        load_matrix(str(matrix_file))


# -- in cells and records ---------------------------------------------------------------------


def test_an_edited_file_makes_its_cells_new_and_their_records_stale(
    matrix_file: Path, data_file: Path, tmp_path: Path
) -> None:
    (cell,) = load_matrix(str(matrix_file)).cells
    origin = versions_of(cell)["origin.dataset"]
    store = Store(tmp_path / "run")
    store.write(record_of(cell, "ok", pending=PENDING))
    (row,) = store.frame().to_dict("records")
    assert row["origin.dataset"] == origin
    assert row["version.dataset"] == 1
    data_file.write_text(DATA + "# edited\n")
    forget()
    (edited,) = load_matrix(str(matrix_file)).cells
    assert edited.key != cell.key
    assert edited.identity == cell.identity
    ((stale,), present) = store.records()[1], versions_of(edited)
    assert isinstance(stale, Stale)
    assert stale.why == f"measured by square of {origin}, now {present['origin.dataset']}"


PENDING = Pending(dimension=2, learning_rate=1e-3, measures={"nll_nats": 2.5}, data_hashes={})


def test_records_are_read_where_the_plugin_is_not(
    matrix_file: Path, tmp_path: Path, capsys: Any
) -> None:
    matrix = load_matrix(str(matrix_file))
    (cell,) = matrix.cells
    store = Store(tmp_path / "run")
    store.write_plan(matrix)
    store.write(record_of(cell, "ok", pending=PENDING))
    origin = versions_of(cell)["origin.dataset"]
    forget()
    records, left_out = store.records()
    assert left_out == []
    assert [record.versions["origin.dataset"] for record in records] == [origin]
    code, out, _ = call("status", store.directory, capsys=capsys)
    assert code == 0
    assert "ok        1" in out
    code, out, _ = call("collect", store.directory, capsys=capsys)
    assert code == 0
    assert str(origin) in out
    code, out, err = call("report", store.directory, capsys=capsys)
    assert code == 0, err
    # A record that failed is shown by what is known of it.
    store.discard(cell)
    store.write(record_of(cell, "error", "it did not work"))
    code, out, _ = call("status", store.directory, capsys=capsys)
    assert "square" in out
    assert "it did not work" in out


def test_a_cells_process_loads_what_its_runner_had(matrix_file: Path, tmp_path: Path) -> None:
    (cell,) = load_matrix(str(matrix_file)).cells
    _ = cell.key
    task = Task(cell, "quality", tmp_path / "run")
    assert [plugin.source for plugin in task.plugins] == [str(matrix_file.with_name("square.py"))]
    forget()
    process._run_logged(task, Store(task.directory))
    record = Store(task.directory).read(cell)
    assert isinstance(record, Record)
    assert record.status == "ok", record.reason
    assert record.versions == versions_of(cell)


def test_a_file_that_changes_in_the_run_ends_its_cells(
    matrix_file: Path, data_file: Path, tmp_path: Path
) -> None:
    (cell,) = load_matrix(str(matrix_file)).cells
    _ = cell.key, cell.dataset_label
    task = Task(cell, "quality", tmp_path / "run")
    data_file.write_text(DATA + "# edited\n")
    forget()
    with pytest.raises(PluginError, match="was changed"):
        plugins.restore(task.plugins)


@pytest.mark.slow
@pytest.mark.parametrize("edit", [False, True])
def test_a_run_with_a_plugin(matrix_file: Path, tmp_path: Path, edit: bool) -> None:
    """From the command line, in processes of their own."""
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "run", matrix_file, "--out", tmp_path / "run"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 cells: 1 ok" in done.stdout
    if edit:
        path = matrix_file.with_name("square.py")
        path.write_text(path.read_text() + "# edited\n")
    again = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks",
            "run",
            matrix_file,
            "--out",
            tmp_path / "run",
            "--dry-run",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"{int(edit)} cells to run" in again.stdout


def test_a_cell_of_the_projects_own_has_no_origin(cell: Cell) -> None:
    assert not [name for name in versions_of(cell) if name.startswith("origin.")]


@pytest.mark.skipif(not hasattr(flows, "registry"), reason="flows have no registry yet")
def test_a_file_may_hold_a_flow_and_a_data_set(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "both.py"
    path.write_text(
        f"{DATA}\nDATA = ENTRIES\n{FLOW}\nENTRIES = ENTRIES + DATA\n".replace(
            "from datasets import Entry, ", "from datasets import Entry as DataEntry, "
        ).replace('[Entry("square"', '[DataEntry("square"')
    )
    matrix = tmp_path / "both.toml"
    text = MATRIX.format(plugin="both.py").replace(
        '{ name = "realnvp", layers = 2, hidden = [8] }', '"shift"'
    )
    matrix.write_text(text)
    (cell,) = load_matrix(str(matrix)).cells
    found = versions_of(cell)
    assert found["origin.flow"] == found["origin.dataset"] == plugins.loaded()[0].origin
    code, out, _ = call("list", "flows", "--plugin", path, capsys=capsys)
    assert code == 0
    assert "a shift" in out
