"""How well a flow models the data: log-likelihood of the test split."""

from __future__ import annotations

import math

from benchmarks.measures.subject import Subject
from benchmarks.train import evaluate
from datasets.gaussian_baseline import gaussian_baseline
from datasets.preprocessing import bits_per_dim

STAGE = "quality"
VERSION = 1
COLUMNS = {
    "nll_nats": "mean negative log-likelihood of the test split, nats; for images of the "
    "dequantised integers",
    "nll_nats_stderr": "its standard error over test points, nats",
    "density_estimated": "whether the test density is itself an unbiased estimate (one noise draw)",
    "bits_per_dim": "the same per dimension in bits, images only",
    "bits_per_dim_stderr": "its standard error over test points, bits",
    "kl_to_truth_nats": "mean of log truth - log model over the test split, nats, where the true "
    "density is known",
    "kl_to_truth_nats_stderr": "its standard error over test points, nats",
    "truth_entropy_nats": "entropy of the true density, nats: the least NLL possible",
    "gaussian_nll_nats": "NLL of a full-covariance Gaussian fitted to the training split, nats",
}

# An exact trace costs D products with the Jacobian. Up to here the test density is exact, as in
# the official evaluation of tabular sets (up to D = 63); beyond it one unbiased draw is used, as
# there for images.
EXACT_UP_TO_DIMENSION = 64


def measure(subject: Subject) -> dict[str, float | bool]:
    """Log-likelihood of the test split, in every unit that applies."""
    dataset, flow = subject.dataset, subject.flow
    exact = dataset.dimension <= EXACT_UP_TO_DIMENSION
    x, log_prob = evaluate(flow, dataset, "test", exact=exact)
    n = len(log_prob)
    nll, stderr = -float(log_prob.mean()), float(log_prob.std()) / math.sqrt(n)
    gaussian_nll, _ = gaussian_baseline(dataset)
    found: dict[str, float | bool] = {
        "nll_nats": nll,
        "nll_nats_stderr": stderr,
        "density_estimated": flow.traits.density == "estimated" and not exact,
        "gaussian_nll_nats": gaussian_nll,
    }
    if dataset.levels is not None:
        found["bits_per_dim"] = bits_per_dim(nll, dataset.dimension)
        found["bits_per_dim_stderr"] = bits_per_dim(stderr, dataset.dimension)
    if dataset.truth is not None:
        gap = dataset.truth.log_prob(x.double()) - log_prob
        found["kl_to_truth_nats"] = float(gap.mean())
        found["kl_to_truth_nats_stderr"] = float(gap.std()) / math.sqrt(n)
        found["truth_entropy_nats"] = dataset.truth.entropy_nats
    return found
