"""A continuous flow's way from noise to data: densities and samples in between, for pictures."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.evaluation import evaluation_mode
from benchmarks.measures.base import Column, Family
from benchmarks.measures.subject import Subject
from flows import Flow
from flows.continuous.ffjord import FFJORD
from flows.continuous.transform import ContinuousTransform

COLUMNS = (
    Column(
        "path_integral_error",
        "largest |1 - integral| of the densities on the way from noise to data over the picture's "
        "square, beyond which mass may lie",
    ),
)

TIMES = 17
GRID = 80
SAMPLES = 800


def measure(subject: Subject) -> dict[str, float]:
    """Leaves ``path_times, path_x, path_y, path_log_density, path_samples`` as arrays.

    Times run from noise to data, as parts of the way. Only of FFJORD of one block over two
    dimensions: between its ends the state is a point of the same plane.
    """
    flow, dataset = subject.flow, subject.dataset
    if not _has_path(flow) or dataset.event_shape != (2,):
        return {}
    data = np.asarray(dataset.train, dtype=np.float64)
    # What holds the data and the noise.
    low, high = np.minimum(data.min(0), -3.0), np.maximum(data.max(0), 3.0)
    half = 1.05 * float((high - low).max()) / 2
    axes = [torch.linspace(c - half, c + half, GRID, dtype=torch.float64) for c in (low + high) / 2]
    y, x = torch.meshgrid(axes[1], axes[0], indexing="ij")
    points = torch.stack([x.flatten(), y.flatten()], 1).to(flow.device, flow.dtype)
    z = flow.base.sample(SAMPLES, generator=subject.generator("path"))
    parts = np.linspace(0.0, 1.0, TIMES)
    densities, samples = [], []
    before = 0.0
    with evaluation_mode(flow), torch.no_grad():
        for part in parts.tolist():
            z = partway(flow, z, before, part)[0]
            before = part
            latent, log_abs_det = partway(flow, points, part, 0.0)
            densities.append(flow.base.log_prob(latent) + log_abs_det)
            samples.append(z)
    log_density = torch.stack(densities).double().cpu().reshape(TIMES, GRID, GRID)
    found: dict[str, np.ndarray[Any, Any]] = {
        "path_times": parts.astype(np.float32),
        "path_x": axes[0].numpy().astype(np.float32),
        "path_y": axes[1].numpy().astype(np.float32),
        "path_log_density": log_density.numpy().astype(np.float16),
        "path_samples": torch.stack(samples).float().cpu().numpy().astype(np.float16),
    }
    subject.arrays |= found
    area = (2 * half / (GRID - 1)) ** 2
    integrals = log_density.exp().sum((1, 2)) * area
    return {"path_integral_error": float((1 - integrals).abs().max())}


def _has_path(flow: Flow) -> bool:
    return isinstance(flow, FFJORD) and len(flow.blocks) == 1 and not len(flow.norms)


def partway(flow: Flow, z: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
    """Follow FFJORD's block over a part of the way from noise (0) to data (1).

    Args:
        flow: of one block.
        z: states at ``start``, shape ``(n, 2)``.
        start: from 0 to 1.
        end: likewise.

    Returns:
        States at ``end``, and log-determinants, ``(n,)``.
    """
    assert isinstance(flow, FFJORD)
    block = cast(ContinuousTransform, flow.blocks[0])
    whole = float(block.end_time)
    return block.between(z, (1 - start) * whole, (1 - end) * whole)


ENTRIES = [
    Family(
        "path",
        "FFJORD's way from noise to data in two dimensions, for the report's frames",
        stage="quality",
        version=1,
        columns=COLUMNS,
        measure=measure,
        place=48,
    )
]
