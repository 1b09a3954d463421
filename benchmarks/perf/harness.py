"""What stands around the flows: loading data, planning a matrix, writing a report."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import datasets

from .common import Timed

if TYPE_CHECKING:
    from benchmarks.store import Store

LARGE = """
name = "large"
seeds = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
[[study]]
flows = [{ name = "ffjord", bottleneck = [2, 4, 8, 16, 32], noise = ["gaussian", "rademacher"] }]
datasets = [{ name = "gaussian", dimension = [2, 4, 8, 16, 32] }]
"""

SMALL = """
name = "small"
seeds = [0, 1]
[[study]]
flows = ["ffjord", "maf"]
datasets = ["8gaussians", { name = "gaussian", dimension = [2, 8] }]
"""


class Loading(Timed):
    """A data set from its name to three splits."""

    params = (["8gaussians", "gaussian", "power", "optdigits"],)
    param_names = ("dataset",)

    def setup(self, dataset: str) -> None:
        try:
            datasets.entry(dataset)
        except datasets.UnknownDataset as error:
            raise NotImplementedError(f"this commit has no data set {dataset!r}") from error

    def time_load(self, dataset: str) -> None:
        datasets.load(dataset)


class Planning(Timed):
    """A matrix file to 500 cells and their keys."""

    def setup(self) -> None:
        self.path = matrix_file(LARGE)

    def teardown(self) -> None:
        self.path.unlink()

    def time_load_matrix(self) -> None:
        from benchmarks.matrix import load_matrix

        assert len({cell.key for cell in load_matrix(str(self.path)).cells}) == 500


class Report(Timed):
    """Tables, figures and page of twelve records."""

    repeat = (3, 3, 5.0)
    warmup_time = 0.0

    def setup(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.store = filled_store(Path(self.folder.name, "run"))

    def teardown(self) -> None:
        self.folder.cleanup()

    def time_write_report(self) -> None:
        from benchmarks.report import write_report

        write_report([self.store], Path(self.folder.name, "report"))


def matrix_file(text: str) -> Path:
    """A matrix file of that text.

    Raises:
        NotImplementedError: if the commit has no matrices yet.
    """
    try:
        import benchmarks.matrix  # noqa: F401
    except ImportError as error:
        raise NotImplementedError("this commit has no matrices") from error
    with tempfile.NamedTemporaryFile("w", suffix=".toml", delete=False) as file:
        file.write(text)
    return Path(file.name)


def filled_store(folder: Path) -> Store:
    """A folder of records of made-up numbers, which only a report's speed depends on.

    Raises:
        NotImplementedError: if the commit has no reports yet.
    """
    try:
        import benchmarks.report  # noqa: F401
        from benchmarks.matrix import load_matrix
        from benchmarks.store import Record, Store
    except ImportError as error:
        raise NotImplementedError("this commit has no reports") from error
    path = matrix_file(SMALL)
    cells = load_matrix(str(path)).cells
    path.unlink()
    store = Store(folder)
    for place, cell in enumerate(cells):
        dimension = cell.dataset_options.get("dimension", 2)
        store.write(
            Record(
                key=cell.key,
                cell=cell,
                flow_label=cell.flow_label,
                dataset_label=cell.dataset_label,
                dataset_kind="gaussian" if cell.dataset == "gaussian" else "toy",
                dimension=dimension,
                status="ok",
                measures={
                    "nll_nats": 2.5 + 0.01 * place,
                    "nll_nats_stderr": 0.02,
                    "parameters": 10_000,
                    "train_step_seconds": 0.01,
                    "train_step_seconds_q25": 0.009,
                    "train_step_seconds_q75": 0.011,
                    "peak_memory_bytes": 1_000_000,
                },
            )
        )
    return store
