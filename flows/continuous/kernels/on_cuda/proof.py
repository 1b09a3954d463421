"""Where the kernels are used: what they are made for, once they have agreed with torch there."""

from __future__ import annotations

from collections.abc import Hashable
from typing import cast

import torch
from torch import Tensor

from flows.continuous.kernels.on_cuda.evaluator import TritonEvaluator, padded
from flows.continuous.ode import on_device
from flows.continuous.ode.dense import DenseEvaluator
from flows.continuous.ode.dynamics import DenseDynamics, TimeAffine
from flows.continuous.ode.evaluator import Problem
from flows.continuous.ode.settings import Settings
from flows.continuous.ode.tableaus import coefficients

__all__ = ["covers", "made_for", "refused"]

WIDEST = 64
"""Of a layer, in numbers, padded to a power of two: its weights are to fit the shared memory."""

MOST_PROBES = 8
"""The value goes through the network once more with each of the probes' tangents."""

refused: dict[Hashable, str] = {}
"""Why the kernel is not used for a structure that it is made for."""

_proven: set[Hashable] = set()


def covers(dense: DenseEvaluator, z: Tensor) -> bool:
    """Whether the kernel can, and should, stand for an evaluator from an initial state on."""
    probes, tensors = dense.probes, (z, *dense.tensors)
    if not on_device.applies(z) or not made_for(dense):
        return False
    if any(one.dtype != torch.float32 or one.device != z.device for one in tensors):
        return False
    key = dense.structure, None if probes is None else len(probes.vectors), z.device
    if key not in _proven and key not in refused:
        try:
            reason = _differs(dense, z)
        except Exception as error:
            # A compiler may fail in any way, and torch's path is there.
            reason = f"{type(error).__name__}: {error}"
        if reason is None:
            _proven.add(key)
        else:
            refused[key] = reason
    return key in _proven


def made_for(dense: DenseEvaluator) -> bool:
    """Whether the kernel has what the evaluator needs."""
    dynamics, probes = dense.held.module, dense.probes
    if type(dynamics) is not DenseDynamics or dense.depth < 2 or dense.tangent_order[0]:
        return False
    layers = [cast(TimeAffine, layer) for layer in dynamics.stack]
    widest = max(max(layer.inputs, layer.outputs) for layer in layers)
    return padded(widest) <= WIDEST and (probes is None or len(probes.vectors) <= MOST_PROBES)


AGREEMENT = 1e-4
"""Relative, of numbers in single precision after six evaluations."""


@torch.no_grad()
def _differs(dense: DenseEvaluator, z: Tensor) -> str | None:
    """How the kernel's step differs from torch's, by more than rounding; None if it does not."""
    kernel = TritonEvaluator(
        cast(DenseDynamics, dense.held.module), dense.context, dense.probes, dense.regularizers
    )
    settings = Settings()
    weights = coefficients(settings.solver, z.dtype, z.device)
    problem = Problem(settings, weights, tuple(z.shape), dense.integrals)
    y = torch.zeros(problem.size, dtype=z.dtype, device=z.device)
    y[: problem.z_size] = z.reshape(-1)
    numbers = torch.tensor([0.1, *settings.tableau.evaluated], dtype=z.dtype).to(z.device)
    dt, times = numbers[0], 0.1 * numbers[1:]
    rate = torch.zeros_like(y)
    steps = [one.step(problem, one.moments(times), y, rate, dt) for one in (kernel, dense)]
    velocities = steps[1].rate[: settings.tableau.used - 1, : problem.z_size].contiguous()
    q_bar = z.new_ones(dense.integrals, len(z)) if dense.integrals else None
    flat = z.reshape(-1)
    compared = []
    for one, step in zip((kernel, dense), steps, strict=True):
        # A pull asks for the first stage, and not for the last.
        moments = one.moments(torch.cat([times.new_zeros(1), times[:-1]]))
        bar, shares = one.pull_step(problem, moments, dt, flat, velocities, flat, q_bar)
        # Of all stages; the context's is in a place of each way's own.
        parts = [part.reshape(-1) for share in shares for part in share[:-1] if part is not None]
        compared.append({**step._asdict(), "gradient": bar, "weights' gradient": torch.cat(parts)})
    for name, true in compared[1].items():
        mine = compared[0][name]
        finite = true.isfinite().all()
        off = (mine - true).abs().max() / true.abs().max().clamp(min=1e-30)
        # The error is a difference of near numbers.
        wrong = off > AGREEMENT * (100 if name == "square" else 1)
        if any(on_device.read((finite & (wrong | off.isnan()))[None])):
            return f"{name} is off by {off.item():.1e}"
    return None
