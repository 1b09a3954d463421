"""Samples of flows of images, with test images: the report needs neither data nor model."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.evaluation import evaluation_mode
from benchmarks.measures.base import Column, Family
from benchmarks.measures.subject import Subject
from datasets.preprocessing import Dequantize

COLUMNS = (
    Column(
        "samples_finite_fraction",
        "part of the samples' values that are finite; a picture shows others as black",
        heading="finite samples",
    ),
)

SAMPLES = 36


def measure(subject: Subject) -> dict[str, float]:
    """Leaves ``image_samples, image_data``, ``(n, channels, height, width)``, ``image_levels``."""
    flow, dataset = subject.flow, subject.dataset
    preprocessing = dataset.preprocessing
    if len(dataset.event_shape) != 3 or not isinstance(preprocessing, Dequantize):
        return {}
    with evaluation_mode(flow), torch.no_grad():
        x = flow.sample(SAMPLES, generator=subject.generator("image samples")).cpu()
    finite = x.isfinite()
    levels = preprocessing.inverse(x.double()).nan_to_num(0.0).floor()
    levels = torch.where(finite, levels, 0.0).clamp(0, preprocessing.levels - 1)
    subject.arrays |= {
        "image_samples": levels.to(torch.uint8).numpy(),
        "image_data": np.asarray(dataset.test[:SAMPLES], dtype=np.uint8),
        "image_levels": np.asarray(preprocessing.levels),
    }
    return {"samples_finite_fraction": float(finite.double().mean())}


ENTRIES = [
    Family(
        "image-samples",
        "samples of flows of images beside test images, for the report's grids",
        stage="quality",
        version=1,
        columns=COLUMNS,
        measure=measure,
        place=46,
    )
]
