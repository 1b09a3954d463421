"""FFJORD against implementations that share no code with it, on the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchdiffeq
from torch import Tensor

from flows.continuous.ffjord import FFJORD, FFJORDConfig


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_torchdiffeq_alone_agrees(trace: str) -> None:
    """The equations of the paper written out, with the official code's concatsquash layer."""
    torch.manual_seed(0)
    config = FFJORDConfig.model_validate(
        {"hidden": (8, 8), "trace": trace, "atol": 1e-10, "rtol": 1e-10}
    )
    flow = FFJORD((3,), config=config).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    noise = torch.randn(1, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))[0]
    weights = dict(flow.named_parameters())

    def velocity(t: Tensor, z: Tensor) -> Tensor:
        for index in range(3):
            name = f"blocks.0.dynamics.stack.{index}"
            z = z @ weights[f"{name}.linear.weight"].T + weights[f"{name}.linear.bias"]
            gate = t * weights[f"{name}.gate.weight"][:, 0] + weights[f"{name}.gate.bias"]
            z = z * torch.sigmoid(gate) + t * weights[f"{name}.shift.weight"][:, 0]
            z = torch.tanh(z) if index < 2 else z
        return z

    def augmented(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        z = state[0].detach().requires_grad_(True)
        with torch.enable_grad():
            f = velocity(t, z)
            vectors = [noise] if trace == "hutchinson" else torch.eye(3).double()
            change = torch.zeros(5, dtype=torch.float64)
            for v in vectors:
                v = v.expand(5, 3)
                change = change + (torch.autograd.grad(f, z, v, retain_graph=True)[0] * v).sum(1)
        return f.detach(), change.detach()

    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    start = (x, torch.zeros(5, dtype=torch.float64))
    with torch.no_grad():
        path = torchdiffeq.odeint(augmented, start, times, atol=1e-10, rtol=1e-10)
        normal = torch.distributions.Normal(0, 1)
        theirs = normal.log_prob(path[0][-1]).sum(1) + path[1][-1]
        ours = flow.log_prob(x, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-8)


def test_zuko_agrees() -> None:
    """Zuko's exact-trace transform with our dynamics for its right-hand side."""
    zuko = pytest.importorskip("zuko")
    torch.manual_seed(0)
    options: dict[str, Any] = {"trace": "exact", "atol": 1e-9, "rtol": 1e-9, "hidden": (8, 8)}
    flow = FFJORD((2,), config=FFJORDConfig(**options)).double()
    dynamics = flow.blocks[0].dynamics
    x = torch.randn(6, 2, dtype=torch.float64)
    transform = zuko.transforms.FreeFormJacobianTransform(
        f=lambda t, z: dynamics(t, z),
        t0=0.0,
        t1=1.0,
        phi=tuple(flow.parameters()),
        atol=1e-9,
        rtol=1e-9,
        exact=True,
    )
    theirs, their_change = transform.call_and_ladj(x)
    ours, our_change = flow.encode(x)
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(our_change, their_change, atol=1e-7, rtol=1e-7)
    loss = (ours.sum() + our_change.sum()) - (theirs.sum() + their_change.sum())
    # Equal functions: the gradient of their difference is zero.
    for gradient in torch.autograd.grad(loss, list(flow.parameters())):
        assert gradient.abs().max() < 1e-6
