"""How noisy the training gradient is: over draws of the estimator's noise, and over batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from benchmarks.evaluation import evaluation_mode
from benchmarks.measures.base import Column, Family
from benchmarks.measures.subject import Subject
from flows import Flow

COLUMNS = (
    Column(
        "gradient_std",
        "standard deviation of the training loss's gradient over draws of the trace's noise, the "
        "batch fixed, at the cell's batch size: the root of the variances summed over all "
        "parameters; flows whose density is estimated; nats per unit of a parameter",
        heading="gradient std, noise",
        axis="std of the training gradient",
    ),
    Column(
        "gradient_std_batches",
        "the same over batches and noise together, as the optimiser sees it",
        heading="gradient std, batches and noise",
        axis="std over batches and noise",
    ),
    Column(
        "gradient_norm",
        "length of the mean of these gradients over batches, what their spread adds to its square "
        "taken off; 0 where the spread hides it",
        heading="gradient norm",
    ),
)

DRAWS = 16


def measure(subject: Subject) -> dict[str, float]:
    """Spread of the gradient of the loss, in evaluation mode: no statistic of a batch moves."""
    flow = subject.flow
    generator = subject.generator("gradient: estimator")
    batches = iter(subject.batches("gradient"))
    fixed, _ = next(batches)
    found = {}
    with evaluation_mode(flow):
        if flow.traits.density == "estimated":
            _, variance = moments(gradients(flow, [fixed] * DRAWS, generator))
            found["gradient_std"] = math.sqrt(variance)
        fresh = (next(batches)[0] for _ in range(DRAWS))
        mean, variance = moments(gradients(flow, fresh, generator))
    found["gradient_std_batches"] = math.sqrt(variance)
    found["gradient_norm"] = math.sqrt(max(0.0, float(mean.square().sum()) - variance / DRAWS))
    return found


def gradients(
    flow: Flow, batches: Iterable[Tensor], generator: torch.Generator
) -> Iterator[Tensor]:
    """The gradient of the training loss at each batch, all parameters in one vector, float64."""
    parameters = [p for p in flow.parameters() if p.requires_grad]
    for x in batches:
        loss = flow.loss(x, generator=generator)
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        yield torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).flatten().double()
                for p, g in zip(parameters, grads, strict=True)
            ]
        )


def moments(vectors: Iterable[Tensor]) -> tuple[Tensor, float]:
    """Mean of some vectors, and the sum of their entries' variances (n - 1), in one pass.

    Welford 1962, Note on a method for calculating corrected sums of squares and products.

    Example:
        >>> mean, variance = moments(torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]))
        >>> mean.tolist(), variance
        ([2.0, 1.0], 4.0)
    """
    mean, squares, n = torch.zeros(()), torch.zeros(()), 0
    for n, vector in enumerate(vectors, start=1):
        step = vector - mean
        mean = mean + step / n
        squares = squares + (step * (vector - mean)).sum()
    return mean, float(squares) / (n - 1)


ENTRIES = [
    Family(
        "gradient",
        "spread of the training gradient over the estimator's noise, and over batches",
        stage="quality",
        version=1,
        columns=COLUMNS,
        measure=measure,
        place=32,
    )
]
