"""Densities and samples of 2-D sets, so that the report needs neither data nor model."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.evaluation import evaluation_mode
from benchmarks.measures.base import Column, Family
from benchmarks.measures.subject import Subject

COLUMNS = (
    Column(
        "density_integral",
        "integral of the model's density over the picture's square, which holds all training data "
        "with a margin of a quarter; 1 unless mass lies outside",
        heading="integral of the density",
    ),
)

GRID = 120
SAMPLES = 4000


def measure(subject: Subject) -> dict[str, float]:
    """Leaves ``grid_x, grid_y, log_density, truth_log_density, samples, data`` as arrays."""
    flow, dataset = subject.flow, subject.dataset
    if dataset.event_shape != (2,):
        return {}
    data = np.asarray(dataset.train, dtype=np.float64)
    centre = (data.max(0) + data.min(0)) / 2
    half = 1.25 * float((data.max(0) - data.min(0)).max()) / 2
    axes = [torch.linspace(c - half, c + half, GRID, dtype=torch.float64) for c in centre]
    y, x = torch.meshgrid(axes[1], axes[0], indexing="ij")
    points = torch.stack([x.flatten(), y.flatten()], 1)
    generator = subject.generator("pictures")
    with evaluation_mode(flow), torch.no_grad():
        log_density = flow.log_prob(points.to(flow.device, flow.dtype), exact=True)
        samples = flow.sample(SAMPLES, generator=generator)
    log_density = log_density.double().cpu().reshape(GRID, GRID)
    subject.arrays |= {
        "grid_x": axes[0].numpy().astype(np.float32),
        "grid_y": axes[1].numpy().astype(np.float32),
        "log_density": log_density.numpy().astype(np.float32),
        "samples": samples.float().cpu().numpy(),
        "data": np.asarray(dataset.test[:SAMPLES], dtype=np.float32),
    }
    if dataset.truth is not None:
        truth = dataset.truth.log_prob(points).reshape(GRID, GRID)
        subject.arrays["truth_log_density"] = truth.numpy().astype(np.float32)
    area = (2 * half / (GRID - 1)) ** 2
    return {"density_integral": float(log_density.exp().sum()) * area}


ENTRIES = [
    Family(
        "pictures",
        "densities and samples of 2-D sets, for the report's panels",
        stage="quality",
        version=1,
        columns=COLUMNS,
        measure=measure,
        place=45,
        by_default=True,
    )
]
