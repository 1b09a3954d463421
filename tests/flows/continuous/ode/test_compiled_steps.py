"""A step of the solver, tried as one graph, is the step that it is otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import flows
from flows import Meter
from flows.continuous import kernels
from flows.continuous.ode import forward, gradient


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"blocks": 2, "end_time": 4.0},
        {"solver": "rk4", "steps": 3},
        {"bottleneck": 2, "activation": "softplus", "residual": True},
    ],
)
def test_a_compiled_step_is_one_graph_and_the_same_step(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced without a break; which code is generated from the graph is torch's affair."""
    torch._dynamo.reset()
    # Where there are kernels, a step has no graph to compile.
    monkeypatch.setenv(kernels.VARIABLE, "off")
    traced: dict[Any, Any] = {}

    def as_one_graph(function: Callable[..., Any]) -> Callable[..., Any]:
        if function not in traced:
            traced[function] = torch.compile(
                function, dynamic=False, fullgraph=True, backend="aot_eager"
            )
        made: Callable[..., Any] = traced[function]
        return made

    for module in (forward, gradient):
        monkeypatch.setattr(module, "compiled", as_one_graph)
    torch.manual_seed(0)
    flow = flows.build("ffjord", (4,), hidden=(8, 8), **options).double()
    x = torch.randn(16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for compiled in (False, True):
        flow.zero_grad()
        loss = flow.compiled_loss() if compiled else flow.loss
        with Meter() as meter:
            value = loss(x, generator=torch.Generator().manual_seed(1))
            value.backward()
        gradients = [p.grad.clone() for p in flow.parameters() if p.grad is not None]
        found.append((value.detach(), gradients, repr(meter)))
        # Solves start from the same first step.
        for block in flow.blocks:
            block.fitting_step = None
    assert len(traced) == 2
    torch.testing.assert_close(found[0][:2], found[1][:2], atol=1e-12, rtol=1e-10)
    assert found[0][2] == found[1][2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_a_replayed_step_is_the_same_step() -> None:
    """As a CUDA graph, over several steps of training, within the rounding of float32."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    x = torch.randn(256, 6, generator=torch.Generator().manual_seed(0)).cuda()
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        flow = flows.build("ffjord", (6,), hidden=(32, 32), blocks=2).cuda()
        optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)
        loss = flow.compiled_loss() if compiled else flow.loss
        noise = torch.Generator("cuda").manual_seed(1)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            value = loss(x, generator=noise)
            value.backward()
            optimizer.step()
            losses.append(value.detach().clone())
        found.append(torch.stack(losses))
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=1e-3)
