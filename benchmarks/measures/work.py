"""How much a flow computes: network evaluations, counted where they happen."""

from __future__ import annotations

import torch

from benchmarks.measures.subject import Subject
from benchmarks.measures.time import exact_actions
from benchmarks.train import evaluation_mode
from flows import Meter

STAGE = "quality"
VERSION = 1
COLUMNS = {
    "nfe_train_forward": "network evaluations of a training step's forward pass, mean of batches",
    "nfe_train_backward": "network evaluations of its backward pass (adjoint or recomputation)",
    "nfe_log_prob": "network evaluations of the log-density of a test batch, no gradient",
    "nfe_log_prob_exact": "the same with the exact trace, where the plain log-density is an "
    "estimate and the dimension D is 64 at most; each of these evaluations costs D products with "
    "the Jacobian, one of the estimate's a single one",
    "nfe_sample": "network evaluations of a batch of samples",
}

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
