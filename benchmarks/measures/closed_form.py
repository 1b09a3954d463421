"""How noisy a trace estimate must be: its closed form, from whole matrices at the same points."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.measures.base import Column, Family
from benchmarks.measures.subject import Subject
from benchmarks.measures.variance import POINTS
from benchmarks.train import evaluation_mode
from flows.continuous.base import ContinuousFlow
from flows.continuous.ode.trace import hutchinson_variance, unit_vectors
from flows.continuous.options import ContinuousConfig

COLUMNS = (
    Column(
        "trace_std_closed_form",
        "what trace_std estimates, by the closed form of the variance, 2 ||S||^2 of Gaussian noise "
        "and 2 (||S||^2 - sum S_ii^2) of Rademacher noise, over the number of probes; S is the "
        "symmetric part of the matrix in the space of the noise; the same points, nats per unit of "
        "time",
        unit="nats/time",
        heading="trace std, closed form",
        axis="std of the trace estimate",
    ),
)

WIDEST = 1024
"""Matrices of more rows are left out: each takes as many products."""
ENTRIES_AT_ONCE = 2**24


def matrices(flow: ContinuousFlow, x: Tensor, *, narrow: bool | None = None) -> Iterator[Tensor]:
    """The matrices whose traces the first block takes at time 0, some rows of ``x`` at a time.

    Args:
        flow: whose vectors ``v^T M`` give them.
        x: shape ``(n, *event_shape)``.
        narrow: as :meth:`ContinuousFlow.vector_jacobians` takes it.

    Yields:
        Shape ``(rows, width, width)``.
    """
    width = flow.event_shape.numel() if narrow is False else flow.noise_width
    for some in x.split(max(1, ENTRIES_AT_ONCE // width**2)):
        product = flow.vector_jacobians(some, narrow=narrow)
        yield product(unit_vectors(len(some), width, like=some)).transpose(0, 1)


def measure(subject: Subject) -> dict[str, float]:
    """The closed form for flows of our own whose trace is estimated; nothing for others."""
    flow = subject.flow
    if not isinstance(flow, ContinuousFlow) or flow.traits.density != "estimated":
        return {}
    if flow.noise_width > WIDEST:
        return {}
    assert isinstance(flow.config, ContinuousConfig)
    with evaluation_mode(flow), torch.no_grad():
        variances = [
            hutchinson_variance(found.double(), flow.config.noise)
            for found in matrices(flow, subject.test_points(POINTS))
        ]
    return {
        "trace_std_closed_form": float((torch.cat(variances).mean() / flow.config.probes).sqrt())
    }


ENTRIES = [
    Family(
        "closed-form",
        "the spread that the trace's estimator must have, by its closed form",
        stage="quality",
        version=1,
        columns=COLUMNS,
        measure=measure,
        place=31,
    )
]
