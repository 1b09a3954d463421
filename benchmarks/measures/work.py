"""How much a flow computes: network evaluations, counted where they happen."""

from __future__ import annotations

import functools

import torch

from benchmarks.evaluation import evaluation_mode
from benchmarks.measures.base import Column, Family
from benchmarks.measures.subject import Subject
from benchmarks.measures.time import exact_actions
from flows import Meter

# Whole for a discrete flow, a mean over batches for an adaptive solver.
_count = functools.partial(Column, sort="count", digits=1, interval=False, table="cost")
COLUMNS = (
    _count(
        "nfe_train_forward",
        "network evaluations of a training step's forward pass, mean of batches",
        heading="NFE train, forward",
        axis="NFE, forward pass",
    ),
    _count(
        "nfe_train_backward",
        "network evaluations of its backward pass (adjoint or recomputation)",
        heading="NFE train, backward",
        axis="NFE, backward pass",
    ),
    _count(
        "nfe_log_prob",
        "network evaluations of the log-density of a test batch, no gradient",
        heading="NFE log_prob",
    ),
    _count(
        "nfe_log_prob_exact",
        "the same with the exact trace, where the plain log-density is an estimate and the "
        "dimension D is 64 at most; each of these evaluations costs D products with the Jacobian, "
        "one of the estimate's a single one",
        heading="NFE log_prob, exact",
    ),
    _count("nfe_sample", "network evaluations of a batch of samples", heading="NFE sample"),
)

BATCHES = 4


def measure(subject: Subject) -> dict[str, float]:
    """Network evaluations of the trained flow, at the cell's batch size."""
    flow, size = subject.flow, subject.cell.budget.batch_size
    batches = iter(subject.batches("work"))
    generator = subject.generator("work: estimator")
    forward = backward = 0
    for _ in range(BATCHES):
        x, _ = next(batches)
        with Meter() as meter:
            flow.loss(x, generator=generator).backward()
        forward += meter.forward
        backward += meter.backward
    flow.zero_grad(set_to_none=True)
    with evaluation_mode(flow), torch.no_grad():
        with Meter() as density:
            flow.log_prob(subject.test_points(size), generator=generator)
        with Meter() as sampling:
            flow.sample(size, generator=generator)
        with Meter() as exact:
            for action in exact_actions(subject).values():
                action()
    found = {
        "nfe_train_forward": forward / BATCHES,
        "nfe_train_backward": backward / BATCHES,
        "nfe_log_prob": density.forward,
        "nfe_sample": sampling.forward,
    }
    if exact.forward:
        found["nfe_log_prob_exact"] = exact.forward
    return found


ENTRIES = [
    Family(
        "work",
        "network evaluations: of a training step, a density, a sample",
        stage="quality",
        version=1,
        columns=COLUMNS,
        measure=measure,
        place=20,
        by_default=True,
    )
]
