"""Records that look like those of the matrix ``quick``, made up from formulas.

They test how a report is made; nothing in them was measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cell import Budget, Cell
from benchmarks.report.records import Records
from benchmarks.report.sections import ANYTHING
from benchmarks.report.table import Table
from benchmarks.report.tables import failures
from benchmarks.store import Record, Status, Store

FLOWS = ("ffjord", "realnvp", "glow", "maf")
_KINDS = {
    "8gaussians": ("toy", 2),
    "checkerboard": ("toy", 2),
    "power": ("tabular", 6),
    "optdigits": ("image", 64),
}
# NLL that a flow ends with, and the optimum and the Gaussian's score of each data set.
_ENDS = {"ffjord": 0.12, "realnvp": 0.35, "glow": 0.31, "maf": 0.22}
_OPTIMUM = {"8gaussians": 2.85, "checkerboard": 2.77, "power": 1.2, "optdigits": 92.0}
_GAUSSIAN = {"8gaussians": 3.9, "checkerboard": 3.66, "power": 7.74, "optdigits": 118.0}


def make_record(
    flow: str = "maf",
    dataset: str = "8gaussians",
    seed: int = 0,
    *,
    measures: dict[str, Any] | None = None,
    status: Status = "ok",
    reason: str = "",
    flow_options: dict[str, Any] | None = None,
    dataset_options: dict[str, Any] | None = None,
    flow_label: str | None = None,
    dataset_label: str | None = None,
    kind: str | None = None,
    dimension: int | None = None,
    environment: dict[str, Any] | None = None,
    steps: int = 200,
    device: str = "cpu",
) -> Record:
    """One record; what is not given is as in ``quick``."""
    cell = Cell(
        flow=flow,
        flow_options=flow_options or ({"noise": "gaussian"} if flow == "ffjord" else {}),
        dataset=dataset,
        dataset_options=dataset_options or {},
        seed=seed,
        budget=Budget(steps=steps, batch_size=256),  # type: ignore[call-arg]
        measures=("quality",),
        device=device,  # type: ignore[arg-type]
        threads=1,
    )
    usual_kind, usual_dimension = _KINDS.get(dataset, ("family", 2))
    return Record(
        key=cell.key,
        cell=cell,
        flow_label=flow_label or flow,
        dataset_label=dataset_label or dataset,
        dataset_kind=kind or usual_kind,
        dimension=dimension or usual_dimension,
        status=status,
        reason=reason,
        measures=measures or {},
        environment=environment
        or {
            "torch": "2.13.0",
            "python": "3.11.9",
            "cpu": "Example CPU @ 2.00GHz",
            "machine": "Example CPU @ 2.00GHz, 25-17-1, AVX-512, 1 MiB / 32 MiB",
            "cpu_vector_extensions": "AVX2, AVX-512",
            "matrix_products": "MKL",
            "memory_bytes": 16 * 2**30,
            "git_commit": "0123456789abcdef",
            "git_dirty": False,
        },
    )


def write_quick(directory: Path, *, seeds: int = 3) -> Store:
    """A folder like that of ``quick``: comparison, dimension sweep, bottleneck sweep."""
    store = Store(directory)
    for seed in range(seeds):
        for flow in FLOWS:
            for dataset, (_, dimension) in _KINDS.items():
                optimum = _OPTIMUM[dataset]
                record = _learned(flow, dataset, seed, dimension, optimum, _GAUSSIAN[dataset])
                store.write(record)
                _write_curve(store, record, flow, optimum, seed)
                if dimension == 2:
                    store.write_arrays(record.cell, _pictures(flow, dataset, seed))
    for record in _sweeps(min(seeds, 2)):
        store.write(record)
        _write_curve(store, record, record.cell.flow, record.measures["truth_entropy_nats"], 0)
    return store


def _learned(
    flow: str,
    dataset: str,
    seed: int,
    dimension: int,
    optimum: float,
    gaussian: float,
    **more: Any,
) -> Record:
    random = np.random.default_rng(abs(hash_of(flow, dataset, seed, str(more))))
    scale = 1.0 if dimension < 10 else 3.0
    nll = optimum + _ENDS[flow] * scale + 0.02 * scale * random.standard_normal()
    continuous = flow == "ffjord"
    width = more.get("flow_options", {}).get("bottleneck")
    noise = more.get("flow_options", {}).get("noise", "gaussian")
    step = (0.09 if continuous else 0.008) * (1 + dimension / 40) * (1 + 0.03 * random.random())
    sampling = {"ffjord": 0.03, "realnvp": 0.003, "glow": 0.004, "maf": 0.0022 * dimension}[flow]
    sampling *= 1 + 0.05 * random.random()
    measures: dict[str, Any] = {
        "nll_nats": nll,
        "nll_nats_stderr": 0.011,
        "nll_median_nats": nll - 0.1,
        "nll_largest_share": 0.03,
        "validation_nll_nats": nll + 0.01,
        "density_estimated": False,
        "learning_rate": 1e-2,
        "gaussian_nll_nats": gaussian,
        "parameters": {"ffjord": 9_225, "realnvp": 53_000, "glow": 61_280, "maf": 70_400}[flow]
        + 64 * dimension,
        "steps": 200,
        "best_step": 200,
        "skipped_steps": 0,
        "train_seconds": 200 * step,
        "nfe_train_forward": 26 + dimension / 8 if continuous else 8,
        "nfe_train_backward": 20 + dimension / 8 if continuous else 0,
        "nfe_log_prob": 26 + dimension / 8 if continuous else 8,
        "nfe_sample": {"ffjord": 26, "maf": 5 * dimension}.get(flow, 8),
        "peak_memory_bytes": (2.0 + 0.06 * dimension) * (3 if continuous else 2) * 2**20,
        "process_peak_bytes": 420 * 2**20,
        "round_trip_error": 1e-5,
        "cost_shared": False,
        "training_shared": False,
        "matmul_flops_per_second": 1e11,
        "first_step_seconds": 3 * step,
    }
    for name, value in (
        ("train_step_seconds", step),
        ("log_prob_seconds", step / 4),
        ("sample_seconds", sampling),
    ):
        measures |= {name: value, f"{name}_q25": 0.95 * value, f"{name}_q75": 1.1 * value}
    if dataset == "optdigits":
        measures |= {
            "bits_per_dim": nll / dimension / np.log(2),
            "bits_per_dim_stderr": 0.011 / dimension / np.log(2),
        }
    elif dataset != "power":
        measures |= {
            "truth_entropy_nats": optimum,
            "kl_to_truth_nats": nll - optimum,
            "kl_to_truth_test_nats": nll - optimum,
            "kl_to_truth_test_nats_stderr": 0.004,
        }
        # In two dimensions by quadrature, which has no error over test points.
        measures |= (
            {"kl_by_quadrature": True} if dimension == 2 else {"kl_to_truth_nats_stderr": 0.004}
        )
    if continuous:
        space = min(width or dimension, dimension)
        spread = 0.2 * np.sqrt(dimension) * np.sqrt(dimension / space)
        spread *= 0.8 if noise == "rademacher" else 1.0
        spread *= 1 + 0.06 * random.standard_normal()
        measures |= {"trace_std": spread, "log_prob_std": 0.3 * spread}
        exact = step / 4 * dimension
        measures |= {
            "log_prob_exact_seconds": exact,
            "log_prob_exact_seconds_q25": 0.95 * exact,
            "log_prob_exact_seconds_q75": 1.1 * exact,
            "nfe_log_prob_exact": 26 + dimension / 8,
        }
    return make_record(flow, dataset, seed, measures=measures, dimension=dimension, **more)


def _sweeps(seeds: int) -> Iterator[Record]:
    for seed in range(seeds):
        for dimension in (2, 8, 32):
            on = {
                "dataset": "gaussian",
                "optimum": 0.9 * dimension,
                "gaussian": 0.9 * dimension + 0.01,
                "dataset_options": {"dimension": dimension},
                "dataset_label": f"gaussian[dimension={dimension}]",
                "dimension": dimension,
                "seed": seed,
                "steps": 100,
            }
            for flow in FLOWS:
                yield _learned(flow, **on)  # type: ignore[arg-type]
        for width in (2, 8, 32):
            for noise in ("gaussian", "rademacher"):
                label = f"ffjord[hidden=64,bottleneck={width}"
                label += ",noise=rademacher]" if noise == "rademacher" else "]"
                yield _learned(
                    "ffjord",
                    **on,  # type: ignore[arg-type]
                    flow_options={"hidden": [64], "bottleneck": width, "noise": noise},
                    flow_label=label,
                )
        # Without the bottleneck, the layers above and below it remain.
        for noise in ("gaussian", "rademacher"):
            label = "ffjord[hidden=64-64"
            label += ",noise=rademacher]" if noise == "rademacher" else "]"
            yield _learned(
                "ffjord",
                **on,  # type: ignore[arg-type]
                flow_options={"hidden": [64, 64], "noise": noise},
                flow_label=label,
            )


def _write_curve(store: Store, record: Record, flow: str, optimum: float, seed: int) -> None:
    end = float(record.measures["nll_nats"])  # type: ignore[arg-type]
    pace = float(record.measures["train_step_seconds"])  # type: ignore[arg-type]
    start = 30 + 5 * abs(optimum)
    lines = []
    for step in range(0, 201, 25):
        nll = end + (start - end) * np.exp(-step / (18 + 2 * seed + len(flow)))
        row = {
            "step": step,
            "seconds": pace * step * (1 + 0.05 * seed),
            "train_nll_nats": nll - 0.02,
            "validation_nll_nats": nll,
            "nfe_forward": 14 + 6 * (step // 50) if flow == "ffjord" else 8,
            "nfe_backward": 14 + 3 * (step // 50) if flow == "ffjord" else 0,
        }
        lines.append(json.dumps(row))
    path = store.path(record.cell, ".curve.jsonl")
    path.write_text("\n".join(lines) + "\n")


def _pictures(flow: str, dataset: str, seed: int) -> dict[str, Any]:
    grid = np.linspace(-4, 4, 100, dtype=np.float32)
    x, y = np.meshgrid(grid, grid)
    random = np.random.default_rng(seed)
    if dataset == "8gaussians":
        angles = np.arange(8) * np.pi / 4
        centres = 2.0 * np.stack([np.cos(angles), np.sin(angles)], 1)
        width = 0.18
    else:
        cells = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
        centres = np.array(cells, dtype=float) * 1.5 - 2.25
        width = 0.4
    blur = width * (1 + 2 * _ENDS[flow])

    def log_density(spread: float) -> Any:
        squared = (x[..., None] - centres[:, 0]) ** 2 + (y[..., None] - centres[:, 1]) ** 2
        density = np.exp(-0.5 * squared / spread**2).mean(-1) / (2 * np.pi * spread**2)
        return np.log(density + 1e-30).astype(np.float32)

    def draw(spread: float) -> Any:
        chosen = centres[random.integers(len(centres), size=2000)]
        return (chosen + spread * random.standard_normal((2000, 2))).astype(np.float32)

    return {
        "grid_x": grid,
        "grid_y": grid,
        "log_density": log_density(blur),
        "truth_log_density": log_density(width),
        "samples": draw(blur),
        "data": draw(width),
    }


def every_table(records: Records) -> list[Table]:
    """All that is shown of cells of no study."""
    return [table for make in (*ANYTHING.tables, failures) for table in make(records)]


def hash_of(*names: object) -> int:
    """A number that depends on the names alone (Python's own hash differs from run to run)."""
    return sum(ord(char) * 31**i for i, char in enumerate("/".join(map(str, names)))) % 2**32
