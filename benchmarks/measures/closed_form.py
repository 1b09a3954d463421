"""How noisy trace and log p must be: closed forms, from whole matrices at the same points.

With noise e fixed over a solve, as FFJORD has it, the estimate of log p is e^T A e with A the
integral of the matrices over time: the state's way does not depend on the noise. So the variances
of :mod:`flows.continuous.ode.trace` hold for both, with the symmetric part of the matrix at the
start, and of A.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.evaluation import evaluation_mode
from benchmarks.measures.base import Column, Family
from benchmarks.measures.subject import Subject
from benchmarks.measures.variance import POINTS
from flows.continuous.base import ContinuousFlow
from flows.continuous.ffjord import FFJORD
from flows.continuous.ode.field import Field
from flows.continuous.ode.trace import hutchinson_variance, unit_vectors

_FORMULA = (
    "by the closed form of the variance, 2 ||S||^2 of Gaussian noise and 2 (||S||^2 - sum S_ii^2) "
    "of Rademacher noise, over the number of probes, at the same points; S is the symmetric part "
    "of the matrix whose trace is taken, in the space of the noise"
)
COLUMNS = (
    Column(
        "trace_std_closed_form",
        f"what trace_std estimates, {_FORMULA}; nats per unit of time",
        unit="nats/time",
        heading="trace std, closed form",
        axis="std of the trace estimate",
    ),
    Column(
        "log_prob_std_closed_form",
        f"what log_prob_std estimates, {_FORMULA}, integrated; vector flows of one block; nats",
        unit="nats",
        heading="log p std, closed form",
        axis="std of log p",
    ),
)

WIDEST = 1024
"""Matrices of more rows are left out: each takes as many products."""
ENTRIES_AT_ONCE = 2**24
STEPS = 16
"""Of Simpson's rule over the time, and twice as many of Runge and Kutta's for the state."""


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


def integrated_matrices(flow: FFJORD, x: Tensor) -> Iterator[Tensor]:
    """The integrals of the matrices over the time of the only block, some rows at a time.

    Args:
        flow: of one block, without moving norms.
        x: shape ``(n, D)``.

    Yields:
        Shape ``(rows, width, width)``.
    """
    (block,) = flow.blocks
    field = Field(block.dynamics, None, None)  # type: ignore[arg-type]
    width, narrow = flow.noise_width, block.bottleneck is not None
    times = torch.linspace(0, float(block.end_time), 2 * STEPS + 1).to(x)  # type: ignore[arg-type]
    h = times[1]
    weights = torch.tensor([1.0, *[4.0, 2.0] * (STEPS - 1), 4.0, 1.0]).to(x) * h / 3
    for z in x.flatten(1).split(max(1, ENTRIES_AT_ONCE // width**2)):
        vectors = unit_vectors(len(z), width, like=z)
        total = z.new_zeros(width, len(z), width)
        for t, weight in zip(times, weights, strict=True):
            total += weight * field.vector_jacobians(t, z, narrow=narrow)(vectors)
            a = field.velocity(t, z)
            b = field.velocity(t + h / 2, z + h / 2 * a)
            c = field.velocity(t + h / 2, z + h / 2 * b)
            d = field.velocity(t + h, z + h * c)
            z = z + h / 6 * (a + 2 * b + 2 * c + d)
        yield total.transpose(0, 1)


def measure(subject: Subject) -> dict[str, float]:
    """The closed forms for flows of our own whose trace is estimated; nothing for others."""
    flow = subject.flow
    if not isinstance(flow, ContinuousFlow) or flow.traits.density != "estimated":
        return {}
    if flow.noise_width > WIDEST:
        return {}
    x = subject.test_points(POINTS)
    found = {"trace_std_closed_form": matrices(flow, x)}
    if isinstance(flow, FFJORD) and len(flow.blocks) == 1 and not len(flow.norms):
        found["log_prob_std_closed_form"] = integrated_matrices(flow, x)
    with evaluation_mode(flow), torch.no_grad():
        return {name: _deviation(flow, parts) for name, parts in found.items()}


def _deviation(flow: ContinuousFlow, parts: Iterator[Tensor]) -> float:
    noise, probes = flow.config.noise, flow.config.probes
    variances = torch.cat([hutchinson_variance(part.double(), noise) for part in parts])
    return float((variances.mean() / probes).sqrt())


ENTRIES = [
    Family(
        "closed-form",
        "the spread that the estimates of the trace and of log p must have, by closed forms",
        stage="quality",
        version=1,
        columns=COLUMNS,
        measure=measure,
        place=31,
    )
]
