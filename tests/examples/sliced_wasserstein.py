"""A measure of one's own: how far samples lie from the data."""

from __future__ import annotations

import torch

from benchmarks.measures import Column, Family
from benchmarks.measures.subject import Subject
from benchmarks.train import evaluation_mode

POINTS, DIRECTIONS = 2000, 64


def measure(subject: Subject) -> dict[str, float]:
    """Mean distance of sorted projections (Bonneel et al. 2015, section 3, with p = 1)."""
    data = subject.test_points(POINTS).flatten(1)
    generator = subject.generator("sliced wasserstein")
    with evaluation_mode(subject.flow), torch.no_grad():
        samples = subject.flow.sample(len(data), generator=generator).flatten(1)
    shape = (data.shape[1], DIRECTIONS)
    directions = torch.randn(shape, generator=generator, device=data.device, dtype=data.dtype)
    directions /= directions.norm(dim=0)
    gap = (samples @ directions).sort(0).values - (data @ directions).sort(0).values
    return {"sliced_wasserstein": float(gap.abs().mean())}


COLUMNS = (
    Column(
        "sliced_wasserstein",
        "mean distance between sorted projections of samples and of test points, over directions, "
        "in model units",
        sort="quality",
        heading="Sliced Wasserstein distance",
        table="comparison",
    ),
)
ENTRIES = [
    Family("sliced-wasserstein", "distance of samples", "quality", 1, COLUMNS, measure),
]
