"""Discrete flows compile as one graph, forward and backward, and stay what they are."""

from __future__ import annotations

import pytest
import torch

import flows

SYSTEMS: list[tuple[str, tuple[int, ...], dict[str, int]]] = [
    ("nice", (5,), {}),
    ("realnvp", (5,), {}),
    ("glow", (5,), {}),
    ("maf", (5,), {}),
    ("maf-mog", (5,), {}),
    ("rqnsf-c", (5,), {}),
    ("rqnsf-ar", (5,), {}),
    ("glow-image", (1, 8, 8), {"steps": 1, "channels": 8}),
    ("realnvp-image", (1, 8, 8), {"blocks": 1, "channels": 8}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "event_shape", "options"), SYSTEMS)
def test_compiles_as_one_graph(
    name: str, event_shape: tuple[int, ...], options: dict[str, int]
) -> None:
    """``fullgraph=True`` fails on anything that depends on values or leaves the graph."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    flow = flows.build(name, event_shape, **options)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    flow.eval()
    x = torch.randn(16, *event_shape, generator=torch.Generator().manual_seed(0))
    expected = flow(x)
    expected.sum().backward()
    gradients = {key: value.grad for key, value in flow.named_parameters()}
    flow.zero_grad(set_to_none=True)
    # Traced forward and backward; which code is generated from the graph is torch's affair.
    compiled = torch.compile(flow, fullgraph=True, backend="aot_eager")
    measured = compiled(x)
    measured.sum().backward()
    torch.testing.assert_close(measured, expected, atol=1e-4, rtol=1e-4)
    for key, parameter in flow.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key], atol=1e-2, rtol=1e-3)
