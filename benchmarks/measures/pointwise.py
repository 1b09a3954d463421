"""The log-density of each test row, so that flows can be compared row by row."""

from __future__ import annotations

import numpy as np

from benchmarks.measures.base import Column, Family
from benchmarks.measures.subject import Subject
from datasets.gaussian_baseline import gaussian_log_prob

COLUMNS = (Column("test_rows", "rows of the test split", sort="count", interval=False),)


def measure(subject: Subject) -> dict[str, int]:
    """Leaves ``test_log_prob`` and ``gaussian_log_prob`` as arrays, in nats, shape ``(n,)``."""
    _, log_prob = subject.test_log_prob
    gaussian = gaussian_log_prob(subject.dataset)
    subject.arrays |= {
        "test_log_prob": log_prob.numpy().astype(np.float32),
        "gaussian_log_prob": gaussian.numpy().astype(np.float32),
    }
    return {"test_rows": len(log_prob)}


ENTRIES = [
    Family(
        "pointwise",
        "log-density of each test row, kept beside the record",
        stage="quality",
        version=1,
        columns=COLUMNS,
        measure=measure,
        place=12,
    )
]
