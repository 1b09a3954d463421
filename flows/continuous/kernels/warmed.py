"""To import this is to have the kernels compiled, or loaded from where compiled code is kept.

It takes some fifteen seconds a dtype once on a machine, and half a second from then on. Whoever
measures times imports it first; processes that are forked from one that has share what it compiled.
It starts no threads, and does nothing where kernels are not in use.
"""

from __future__ import annotations

import torch

from flows.continuous import kernels
from flows.continuous.ode.dynamics import DenseDynamics
from flows.continuous.ode.field import Probes
from flows.continuous.ode.gradient import integrate
from flows.continuous.ode.settings import Settings

__all__: list[str] = []


def _compile(dtype: torch.dtype) -> None:
    from flows.continuous.kernels.evaluator import KernelEvaluator

    z = torch.zeros(1, 1, dtype=dtype)
    # Nobody's random numbers are to be others for it.
    with torch.random.fork_rng([]), torch.enable_grad():
        block = DenseDynamics(1, (1,)).to(dtype)
        evaluator = KernelEvaluator(block, None, Probes(z[None], narrow=False, weight=1.0))
        end, *_ = integrate(evaluator, z, 0.0, 1.0, Settings("euler", steps=1))
        end.sum().backward()


if kernels.in_use() != "none":
    for _dtype in (torch.float32, torch.float64):
        _compile(_dtype)
