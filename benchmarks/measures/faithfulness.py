"""How exactly a flow is what it claims to be: inverse and log-determinant."""

from __future__ import annotations

import torch

from benchmarks.evaluation import evaluation_mode
from benchmarks.measures.base import Column, Family
from benchmarks.measures.subject import Subject
from flows import NotInvertible

COLUMNS = (
    Column(
        "round_trip_error",
        "largest |x - decode(encode(x))| over fixed test points, in model units",
        heading="round trip error",
    ),
    Column(
        "log_det_error_nats",
        "largest |log-determinant of encode + that of decode| over them, exact traces, nats",
        unit="nats",
        heading="log-determinant error",
    ),
)

POINTS = 256


def measure(subject: Subject) -> dict[str, float]:
    """Errors of the round trip; nothing for a flow that lacks a direction."""
    flow = subject.flow
    x = subject.test_points(POINTS)
    exact = subject.dataset.dimension <= 64
    generator = subject.generator("faithfulness")
    try:
        with evaluation_mode(flow), torch.no_grad():
            z, forward = flow.encode(x, exact=exact, generator=generator)
            back, backward = flow.decode(z, exact=exact, generator=generator)
    except NotInvertible:
        return {}
    found = {"round_trip_error": float((back - x).abs().max())}
    if exact or flow.traits.density == "exact":
        found["log_det_error_nats"] = float((forward + backward).abs().max())
    return found


ENTRIES = [
    Family(
        "faithfulness",
        "how exactly the flow is inverted, how its density integrates",
        stage="quality",
        version=1,
        columns=COLUMNS,
        measure=measure,
        place=40,
        by_default=True,
    )
]
