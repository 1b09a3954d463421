"""What a flow can do (FFJORD, arXiv:1810.01367, Table 1): what it claims, and what running it says.

The claims are the flow's ``traits``. Each is checked on the flow as it is given, untrained or not,
and on one layer it says most: a chain of layers has a Jacobian without zeros, whatever the form of
each layer's.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.evaluation import evaluation_mode
from benchmarks.measures.base import Column, Family
from benchmarks.measures.subject import Subject
from flows import Flow, Meter, NotInvertible

_count = functools.partial(Column, sort="count", interval=False)
COLUMNS = (
    Column("claims_training_on_data", "whether the flow's traits say so", sort="flag"),
    Column(
        "claimed_sample_passes",
        "network passes of a sample, one after the other, by the flow's traits",
        sort="text",
    ),
    Column(
        "claimed_density",
        "whether the density is exact or estimated, by the flow's traits",
        sort="text",
    ),
    Column(
        "claimed_jacobian",
        "form to which a layer's Jacobian is restricted, by the flow's traits",
        sort="text",
    ),
    Column(
        "gradient_step_gain",
        "how far a step against the gradient lowers the loss of a training batch, a part of what "
        "the gradient promises, by the difference of a step each way: 1 where the gradient is the "
        "loss's own; nothing where there is no density of data",
        heading="gain of a gradient step",
        digits=4,
    ),
    _count(
        "sample_operations",
        "torch operations of a batch of samples, however many samples it has",
        heading="operations of a sample",
    ),
    Column(
        "sample_operations_growth",
        "how many times as many they are in four times as many dimensions: near 1 where samples "
        "take one pass, near 4 where they take one a dimension",
        heading="growth of operations, 4 D",
        digits=2,
        interval=False,
    ),
    Column(
        "sample_nfe_growth",
        "the same of network evaluations, of which an autoregressive flow that keeps what it has "
        "computed takes no more in more dimensions",
        heading="growth of NFE, 4 D",
        digits=2,
        interval=False,
    ),
    Column(
        "log_prob_redrawn_gap_nats",
        "largest difference of two log-densities of one point that share all but the noise, nats: "
        "0 where the density is exact",
        unit="nats",
        heading="density, redrawn",
        digits=4,
    ),
    Column(
        "log_det_jacobian_error_nats",
        "largest difference between the log-determinant (of exact traces) and that of the Jacobian "
        "that automatic differentiation finds, nats",
        unit="1e-6 nats",
        heading="log-determinant against autograd",
        factor=1e6,
        digits=2,
    ),
    _count("jacobian_entries", "entries of the Jacobian, D squared"),
    _count(
        "jacobian_zero_entries",
        "of these, how many are zero at every point for random weights",
        heading="zero entries of the Jacobian",
    ),
    _count(
        "jacobian_constant_entries",
        "of these, how many are the same at every point for random weights, zeros among them",
        heading="constant entries",
    ),
    _count(
        "jacobian_rank",
        "largest rank, over random weights, of the difference of two points' Jacobians less the "
        "multiple of the identity that leaves the least: D or D - 1 for a free-form one",
        heading="rank of its changes",
    ),
)

POINTS = 16
WEIGHTS = 8
SAMPLES = 16
# Of the dimension for the growth of a sample's work.
TIMES = 4
# Fresh flows are often the identity, which has no structure.
SPREAD = 0.3
# The nats that a step is to gain: small beside the loss's curvature, large beside rounding.
PROMISED = 1e-3
# Below this, of the largest entry, is rounding.
NOTHING = 1e-9
# Looser: an eigenvalue of several eigenvectors is found to half of the digits.
RANK_TOLERANCE = 1e-6


class _Operations(TorchDispatchMode):
    """Counts torch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def measure(subject: Subject) -> dict[str, float | bool | str]:
    """Claims and checks; a direction that the flow does not have leaves its columns out."""
    traits = subject.flow.traits
    found: dict[str, float | bool | str] = {
        "claims_training_on_data": traits.trains_on_data,
        "claimed_sample_passes": traits.sample_passes,
        "claimed_density": traits.density,
        "claimed_jacobian": traits.jacobian,
    }
    with evaluation_mode(subject.flow):
        for check in (_training, _sampling, _density, _log_determinant, _jacobian):
            try:
                found |= check(subject)
            except NotInvertible:
                continue
    return found


def _training(subject: Subject) -> dict[str, float]:
    """A step along the gradient, and one against it, on a copy."""
    flow = copy.deepcopy(subject.flow)
    x, _ = next(iter(subject.batches("abilities")))
    parameters = [p for p in flow.parameters() if p.requires_grad]

    def loss() -> Tensor:
        return flow.loss(x, generator=subject.generator("abilities: noise"))

    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    pairs = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    square = sum(float(gradient.double().square().sum()) for _, gradient in pairs)
    if not square > 0:
        return {"gradient_step_gain": math.nan}

    def after(step: float) -> float:
        kept = [parameter.detach().clone() for parameter, _ in pairs]
        with torch.no_grad():
            for parameter, gradient in pairs:
                parameter.sub_(step * gradient)
            value = float(loss())
            for (parameter, _), before in zip(pairs, kept, strict=True):
                parameter.copy_(before)
        return value

    size = PROMISED / square
    return {"gradient_step_gain": (after(-size) - after(size)) / (2 * PROMISED)}


def _sampling(subject: Subject) -> dict[str, float]:
    """A sample's work in the data's dimensions and in several times as many."""
    (dimension,) = subject.flow.event_shape if len(subject.flow.event_shape) == 1 else (0,)
    here = _work(subject.flow, subject)
    if not dimension:
        return {"sample_operations": here[0]}
    larger = subject.cell.contestant.config().build((TIMES * dimension,))
    larger.to(subject.device, subject.flow.dtype).eval()
    there = _work(larger, subject)
    growth = {"sample_operations_growth": there[0] / here[0]}
    if here[1]:
        growth["sample_nfe_growth"] = there[1] / here[1]
    return {"sample_operations": here[0], **growth}


def _work(flow: Flow, subject: Subject) -> tuple[int, int]:
    """Operations and network evaluations of a batch of samples."""
    with Meter() as meter, _Operations() as operations:
        flow.sample(SAMPLES, generator=subject.generator("abilities: samples"))
    return operations.count, meter.forward


def _density(subject: Subject) -> dict[str, float]:
    x = subject.test_points(POINTS)
    with torch.no_grad():
        first, second = (
            subject.flow.log_prob(x, generator=subject.generator(f"abilities: draw {draw}"))
            for draw in range(2)
        )
    return {"log_prob_redrawn_gap_nats": float((first - second).abs().max())}


def _log_determinant(subject: Subject) -> dict[str, float]:
    with torch.no_grad():
        reported = _direction(subject.flow)(subject.test_points(POINTS))[1]
    found = torch.linalg.slogdet(_jacobians(subject.flow, subject.test_points(POINTS)))[1]
    return {"log_det_jacobian_error_nats": float((reported - found).abs().max())}


def _jacobian(subject: Subject) -> dict[str, float]:
    """What of the Jacobian stays the same, over random weights around the flow's own."""
    flow = copy.deepcopy(subject.flow)
    own = [parameter.detach().clone() for parameter in flow.parameters()]
    generator = subject.generator("abilities: weights")
    x = subject.test_points(POINTS)
    d = x[0].numel()
    largest = changes = x.new_zeros(d, d)
    rank = 0
    for _ in range(WEIGHTS):
        with torch.no_grad():
            for parameter, before in zip(flow.parameters(), own, strict=True):
                noise = torch.randn(
                    before.shape, generator=generator, device=x.device, dtype=x.dtype
                )
                parameter.copy_(before + SPREAD * noise)
        found = _jacobians(flow, x)
        moved = found[1:] - found[:1]
        largest = torch.maximum(largest, found.abs().amax(0))
        changes = torch.maximum(changes, moved.abs().amax(0))
        rank = max(rank, int(_rank(moved).max()))
    nothing = NOTHING * largest.max()
    return {
        "jacobian_entries": d**2,
        "jacobian_zero_entries": int((largest <= nothing).sum()),
        "jacobian_constant_entries": int((changes <= nothing).sum()),
        "jacobian_rank": rank,
    }


def _rank(matrices: Tensor) -> Tensor:
    """The least rank that a multiple of the identity leaves of matrices ``(n, D, D)``, ``(n,)``.

    Only a multiple by an eigenvalue lowers the rank, or none at all.
    """
    eigenvalues = torch.linalg.eigvals(matrices).real
    shifts = torch.cat((eigenvalues, torch.zeros_like(eigenvalues[:, :1])), 1)
    identity = torch.eye(matrices.shape[1], dtype=matrices.dtype, device=matrices.device)
    left = matrices[:, None] - shifts[..., None, None] * identity
    # Relative to the matrix itself: of what is left there may be nothing.
    size = torch.linalg.matrix_norm(matrices)[:, None]
    least: Tensor = torch.linalg.matrix_rank(left, atol=RANK_TOLERANCE * size).amin(1)
    return least


def _direction(flow: Flow) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The way to latents, or the one that there is."""
    if flow.traits.density_passes == "none":
        return lambda z: flow.decode(z, exact=True)
    return lambda x: flow.encode(x, exact=True)


def _jacobians(flow: Flow, x: Tensor) -> Tensor:
    """Of each datum, shape ``(n, D, D)``, by automatic differentiation."""
    x = x.detach().requires_grad_()
    z = _direction(flow)(x)[0].flatten(1)
    rows = [
        torch.autograd.grad(z[:, row].sum(), x, retain_graph=True)[0].flatten(1)
        for row in range(z.shape[1])
    ]
    return torch.stack(rows, 1)


ENTRIES = [
    Family(
        "abilities",
        "what a flow can do: training, sampling, exact densities, a free Jacobian, by running it",
        stage="quality",
        version=1,
        columns=COLUMNS,
        measure=measure,
        place=47,
    )
]
