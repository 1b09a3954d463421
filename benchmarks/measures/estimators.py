"""Estimators of the trace at equal numbers of Jacobian products: variance and time of each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.evaluation import evaluation_mode
from benchmarks.measures.base import Column, Family
from benchmarks.measures.closed_form import WIDEST, matrices
from benchmarks.measures.subject import Subject
from benchmarks.measures.time import clock, median_seconds
from flows.continuous.base import ContinuousFlow
from flows.continuous.ode.estimators import ESTIMATORS, Estimator, exact_trace

PRODUCTS = (1, 3, 12, 48)
"""Jacobian products a row that each estimator may spend."""
WORDS = {
    "gaussian": "Gaussian probes",
    "rademacher": "Rademacher probes",
    "bottleneck_gaussian": "Gaussian probes in the bottleneck's space",
    "bottleneck_rademacher": "Rademacher probes in the bottleneck's space",
    "hutch_plus_plus": "Hutch++",
    "control_variate": "control variate",
}
"""Every estimator by its name, as a report says it."""

_seconds_column = functools.partial(Column, sort="time", unit="ms", factor=1e3)
COLUMNS = (
    *(
        column
        for name, words in WORDS.items()
        for count in PRODUCTS
        for column in (
            Column(
                f"trace_variance_{name}_{count}",
                f"variance of the trace's estimate by {words} from {count} Jacobian products a "
                "row, over draws at fixed test points and the start of the flow, mean of the "
                "points, nats squared per unit of time squared",
                unit="nats²/time²",
                heading=f"{words}, {count}",
            ),
            _seconds_column(
                f"trace_estimate_seconds_{name}_{count}",
                "seconds of that estimate for a batch of the cell's size, one evaluation of the "
                "dynamics included, by automatic differentiation, median",
                heading=f"{words}, {count}",
            ),
        )
    ),
    _seconds_column(
        "trace_exact_seconds",
        "seconds of the exact trace likewise, by one product a dimension",
        heading="exact trace",
    ),
)

DRAWS = 32
# Numbers in the matrices of all rows together: fewer rows where these are large.
ENTRIES_IN_ALL = 2**27
REPEATS = 5


def measure(subject: Subject) -> dict[str, float]:
    """Variance and time of each estimator that the products suffice for; nothing for others."""
    flow = subject.flow
    dimension = flow.event_shape.numel()
    if not isinstance(flow, ContinuousFlow) or dimension > WIDEST:
        return {}
    rows = min(subject.cell.budget.batch_size, ENTRIES_IN_ALL // dimension**2)
    x = subject.test_points(rows)
    generator = subject.generator("estimators")
    spaces = {"": False} | ({"bottleneck_": True} if flow.noise_width < dimension else {})
    found: dict[str, float] = {}
    with evaluation_mode(flow), torch.no_grad():
        for prefix, narrow in spaces.items():
            # Variances by the whole matrices: the same numbers, sooner.
            matrix = torch.cat(list(matrices(flow, x, narrow=narrow)))
            like = matrix[:, 0]
            if not narrow:
                found["trace_exact_seconds"] = _seconds(
                    lambda: exact_trace(flow.vector_jacobians(x, narrow=False), x.flatten(1)),
                    subject.device,
                )
            for name, (estimate, fewest) in ESTIMATORS.items():
                for count in PRODUCTS:
                    # With as many products as there are dimensions the trace is exact.
                    if prefix + name not in WORDS or not fewest(*like.shape) <= count < dimension:
                        continue
                    run = _Run(flow, x, matrix, narrow, estimate, count, generator)
                    end = f"{prefix}{name}_{count}"
                    found[f"trace_variance_{end}"] = run.variance()
                    found[f"trace_estimate_seconds_{end}"] = _seconds(run.once, subject.device)
    return found


@dataclass(frozen=True)
class _Run:
    """One estimator with so many products, on a batch whose matrices ``(n, w, w)`` are known."""

    flow: ContinuousFlow
    x: Tensor
    matrix: Tensor
    narrow: bool
    estimate: Estimator
    products: int
    generator: torch.Generator

    def once(self) -> None:
        """An estimate as it would be made: an evaluation of the dynamics and products by it."""
        product = self.flow.vector_jacobians(self.x, narrow=self.narrow)
        self.estimate(product, self.matrix[:, 0], self.products, self.generator)

    def variance(self) -> float:
        """Over draws, mean of the rows."""
        draws = [
            self.estimate(self._known, self.matrix[:, 0], self.products, self.generator)
            for _ in range(DRAWS)
        ]
        return float(torch.stack(draws).double().var(0).mean())

    def _known(self, vectors: Tensor) -> Tensor:
        return torch.bmm(vectors.transpose(0, 1), self.matrix).transpose(0, 1)


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    clock(action, device)
    return median_seconds(action, device, REPEATS)


ENTRIES = [
    Family(
        "estimators",
        "variance and time of estimators of the trace at equal numbers of Jacobian products",
        stage="cost",
        version=1,
        columns=COLUMNS,
        measure=measure,
        place=40,
    )
]
