"""How well a flow models the data: log-likelihood of the test split, distance to the truth."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from benchmarks.evaluation import evaluation_mode, log_density
from benchmarks.measures.base import Column, Family
from benchmarks.measures.subject import EXACT_UP_TO_DIMENSION, Subject
from benchmarks.quadrature import RARE, Divergence, kullback_leibler
from datasets.gaussian_baseline import gaussian_baseline
from datasets.preprocessing import bits_per_dim
from flows import FlowError

_nats = functools.partial(Column, sort="quality", unit="nats")
COLUMNS = (
    _nats(
        "nll_nats",
        "mean negative log-likelihood of the test split, nats; for images of the dequantised "
        "integers",
        heading="NLL",
        axis="test NLL",
        digits=3,
    ),
    _nats("nll_nats_stderr", "its standard error over test points, nats"),
    _nats(
        "nll_median_nats",
        "median of the same terms, nats",
        heading="median NLL",
        digits=3,
    ),
    Column(
        "nll_largest_share",
        "of what the terms above the median add to it in the mean, the part that the largest 1 in "
        "1000 of all terms carry, from 0 to 1; 0.008 where they are normal: near 1 the mean is "
        "that of a few rows",
        sort="quality",
    ),
    Column(
        "outside_fraction",
        "part of the first 10,000 test rows that pass some layer outside the region in which it is "
        "learned, such as a spline's box; for flows with such a region",
        sort="quality",
    ),
    Column(
        "density_estimated",
        "whether the test density is itself an unbiased estimate (one noise draw)",
        sort="flag",
    ),
    Column(
        "bits_per_dim",
        "the same per dimension in bits, images only",
        sort="quality",
        heading="bits/dim",
        axis="test bits/dim",
        digits=3,
    ),
    Column(
        "bits_per_dim_stderr",
        "its standard error over test points, bits",
        sort="quality",
        unit="bits/dim",
    ),
    _nats(
        "kl_to_truth_nats",
        "Kullback-Leibler divergence of the model from the true density, nats, where that is "
        "known: by quadrature in two dimensions, over all but the millionth of the true mass with "
        "the least density, else the mean over the test split",
        heading="KL to the truth",
        digits=3,
    ),
    _nats(
        "kl_to_truth_nats_stderr",
        "its standard error over test points, nats; not by quadrature",
    ),
    Column("kl_by_quadrature", "whether it is by quadrature", sort="flag"),
    _nats(
        "kl_quadrature_error_nats",
        "a bound on the quadrature's error, as far as the difference of two rules is one, nats",
    ),
    _nats(
        "kl_rare_nats",
        f"what of it comes from the points of least true density that hold {RARE:g} of the true "
        "mass, to a tenth or so, by quadrature, nats",
    ),
    _nats("kl_to_truth_test_nats", "mean of log truth - log model over the test split, nats"),
    _nats("kl_to_truth_test_nats_stderr", "its standard error over test points, nats"),
    Column(
        "truth_entropy_nats",
        "entropy of the true density, nats: the least NLL possible",
        unit="nats",
    ),
    Column(
        "gaussian_nll_nats",
        "NLL of a full-covariance Gaussian fitted to the training split, nats",
        unit="nats",
    ),
)

LARGEST_SHARE = 1000
OUTSIDE_ROWS = 10_000


def measure(subject: Subject) -> dict[str, float | bool]:
    """Log-likelihood of the test split, in every unit that applies."""
    dataset, flow = subject.dataset, subject.flow
    exact = dataset.dimension <= EXACT_UP_TO_DIMENSION
    x, log_prob = subject.test_log_prob
    n = len(log_prob)
    nll, stderr = -float(log_prob.mean()), float(log_prob.std()) / math.sqrt(n)
    gaussian_nll, _ = gaussian_baseline(dataset)
    found: dict[str, float | bool] = {
        "nll_nats": nll,
        "nll_nats_stderr": stderr,
        "nll_median_nats": float(np.median(-log_prob)),
        "nll_largest_share": largest_share(-log_prob),
        "density_estimated": flow.traits.density == "estimated" and not exact,
        "gaussian_nll_nats": gaussian_nll,
    }
    if dataset.levels is not None:
        found["bits_per_dim"] = bits_per_dim(nll, dataset.dimension)
        found["bits_per_dim_stderr"] = bits_per_dim(stderr, dataset.dimension)
    with evaluation_mode(flow), torch.no_grad():
        outside = flow.outside_fraction(x[:OUTSIDE_ROWS].to(flow.device))
    if outside is not None:
        found["outside_fraction"] = outside
    if dataset.truth is not None:
        gap = dataset.truth.log_prob(x.double()) - log_prob
        mean, stderr = float(gap.mean()), float(gap.std()) / math.sqrt(n)
        found |= {"kl_to_truth_test_nats": mean, "kl_to_truth_test_nats_stderr": stderr}
        divergence = _divergence(subject, x)
        found["kl_by_quadrature"] = divergence is not None
        if divergence is None:
            found |= {"kl_to_truth_nats": mean, "kl_to_truth_nats_stderr": stderr}
        else:
            found["kl_to_truth_nats"] = divergence.nats
            found["kl_quadrature_error_nats"] = divergence.error
            found["kl_rare_nats"] = divergence.rare
        found["truth_entropy_nats"] = dataset.truth.entropy_nats
    return found


def largest_share(terms: Tensor) -> float:
    """What the largest 1 in 1000 terms carry of what lies above the median.

    Args:
        terms: shape ``(n,)``.

    Returns:
        The sum of ``term - median`` over the largest ``ceil(n / 1000)`` terms as a part of the sum
        over all terms above the median; 0 where none is.

    Example:
        >>> largest_share(torch.tensor([0.0, 0.0, 0.0, 1.0, 3.0]))
        0.75
    """
    excess = (terms - float(np.median(terms))).clamp(min=0)
    total = float(excess.sum())
    largest = excess.topk(math.ceil(len(terms) / LARGEST_SHARE)).values
    return float(largest.sum()) / total if total > 0 else 0.0


def _divergence(subject: Subject, data: Tensor) -> Divergence | None:
    """The divergence from the truth by quadrature; None where there is none.

    That is in other than two dimensions, and where the model has no finite density at a point where
    the truth has mass, or a solver finds none.
    """
    flow, truth = subject.flow, subject.dataset.truth
    if truth is None or subject.dataset.event_shape != (2,):
        return None
    log_prob = functools.partial(log_density, flow, exact=True)
    try:
        found = kullback_leibler(truth.log_prob, log_prob, data)
    except FlowError:
        return None
    return found if math.isfinite(found.nats) else None


ENTRIES = [
    Family(
        "quality",
        "log-likelihood of the test split, distance to the truth where it is known",
        stage="quality",
        version=1,
        columns=COLUMNS,
        measure=measure,
        place=10,
        by_default=True,
    )
]
