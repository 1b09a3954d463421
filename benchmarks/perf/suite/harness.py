"""What stands around the flows: loading data, planning a matrix, writing a report."""

from __future__ import annotations

import tempfile
from pathlib import Path

import datasets

from .common import Timed, matrix

CELLS = """
name = "cells"
seeds = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
[[study]]
flows = [{ name = "ffjord", bottleneck = [2, 4, 8, 16, 32], noise = ["gaussian", "rademacher"] }]
datasets = [{ name = "gaussian", dimension = [2, 4, 8, 16, 32] }]
"""

RECORDED = """
name = "recorded"
seeds = [0, 1]
[[study]]
flows = ["ffjord", "maf"]
datasets = ["8gaussians", { name = "gaussian", dimension = [2, 8] }]
"""


class Loading(Timed):
    """A data set from its name to three splits."""

    version = "2"
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

    version = "2"

    def time_load_matrix(self) -> None:
        assert len({cell.key for cell in matrix(CELLS).cells}) == 500


class Report(Timed):
    """Tables, figures and page of twelve records of made-up numbers."""

    version = "2"
    repeat = (3, 3, 5.0)
    warmup_time = 0.0

    def setup(self) -> None:
        cells = matrix(RECORDED).cells
        from benchmarks.store import Record, Store

        self.folder = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.folder.name, "run"))
        for place, cell in enumerate(cells):
            record = Record(
                key=cell.key,
                cell=cell,
                flow_label=cell.flow_label,
                dataset_label=cell.dataset_label,
                dataset_kind="gaussian" if cell.dataset == "gaussian" else "toy",
                dimension=cell.dataset_options.get("dimension", 2),
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
            self.store.write(record)

    def teardown(self) -> None:
        self.folder.cleanup()

    def time_write_report(self) -> None:
        from benchmarks.report import write_report

        write_report([self.store], Path(self.folder.name, "report"))
