"""How noisy the estimators are: spread over draws of the noise, at fixed inputs."""

from __future__ import annotations

import torch

from benchmarks.evaluation import evaluation_mode
from benchmarks.measures.base import Column, Family
from benchmarks.measures.subject import Subject

COLUMNS = (
    Column(
        "trace_std",
        "standard deviation of the trace estimate over noise draws, at fixed test points and the "
        "start of the flow; root of the mean variance; nats per unit of time",
        unit="nats/time",
        heading="trace std",
        axis="std of the trace estimate",
    ),
    Column(
        "log_prob_std",
        "standard deviation of log p(x) over noise draws, at fixed test points; root of the mean "
        "variance; nats",
        unit="nats",
        heading="log p std",
        axis="std of log p",
    ),
)

POINTS = 128
TRACE_DRAWS = 64
LOG_PROB_DRAWS = 16


def measure(subject: Subject) -> dict[str, float]:
    """Spread of the estimators of a flow whose density is estimated; nothing for others."""
    flow = subject.flow
    if flow.traits.density != "estimated":
        return {}
    x = subject.test_points(POINTS)
    generator = subject.generator("variance")
    with evaluation_mode(flow), torch.no_grad():
        traces = flow.trace_estimates(x, draws=TRACE_DRAWS, generator=generator)
        # All draws in one solve: each row has noise of its own, and all share the solver's steps,
        # so that what differs between the draws of a point is the estimator alone.
        repeated = x.repeat(LOG_PROB_DRAWS, *[1] * len(flow.event_shape))
        log_prob = flow.log_prob(repeated, generator=generator).reshape(LOG_PROB_DRAWS, -1)
    return {
        "trace_std": float(traces.double().var(0).mean().sqrt()),
        "log_prob_std": float(log_prob.double().var(0).mean().sqrt()),
    }


ENTRIES = [
    Family(
        "variance",
        "spread of the estimators of the trace and of the log-density",
        stage="quality",
        version=1,
        columns=COLUMNS,
        measure=measure,
        place=30,
        by_default=True,
    )
]
