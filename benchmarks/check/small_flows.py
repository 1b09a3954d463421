"""Small flows for the checks of :mod:`benchmarks.check.flow`, and what their values are held to.

Networks are shrunk for speed by the names of the options (:data:`SMALLER`, and widths under
``hidden``); what an entry cannot model (a vector, an image, a context) it refuses with an
InputError, and the check does not apply. Tolerances follow the traits: a flow that integrates an
ODE is as exact as its solver.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

import flows
from benchmarks.check import DoesNotApply, expect
from flows import Flow, InputError
from flows.base import draw_normal

# What :func:`shrunk` is given.
WIDTH = 16
SMALLER: dict[str, Any] = {
    "layers": 3,
    "steps": 3,
    "blocks": 1,
    "rank": 3,
    "channels": 8,
    "levels": 2,
    "atol": 1e-8,
    "rtol": 1e-8,
}
VECTORS = [(2,), (5,)]
IMAGES = [(1, 4, 4), (1, 8, 8), (3, 8, 8)]
SOME = [(5,), (1, 4, 4), (3, 8, 8)]
# Scalars in an event whose Jacobian an adaptive solver can be asked for.
FEW = 16


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shrunk(name: str, values: Mapping[str, Any], width: int) -> dict[str, Any]:
    """Options that make an entry's networks small.

    Args:
        name: of the entry.
        values: of options, taken where the entry has one of that name and type.
        width: of hidden layers, of which there stay as many as there are.
    """
    config = flows.configure(name)
    options = {
        option: value
        for option, value in values.items()
        if type(getattr(config, option, None)) is type(value)
    }
    if isinstance(widths := getattr(config, "hidden", None), tuple):
        options["hidden"] = (width,) * len(widths)
    return options


def smaller(name: str) -> dict[str, Any]:
    options = shrunk(name, SMALLER, WIDTH)
    # The battery has images of 8 x 8 and vectors; dropout is random and tested elsewhere.
    if hasattr(flows.configure(name), "dropout"):
        options["dropout"] = 0.0
    return options


def built(
    name: str, event_shape: tuple[int, ...], context_features: int = 0, **options: Any
) -> Flow:
    """A flow with fresh weights; skipped where the system has no such events."""
    torch.manual_seed(0)
    try:
        return flows.build(name, event_shape, context_features, **options)
    except InputError as refusal:
        raise DoesNotApply(str(refusal)) from refusal


def modelled(name: str, event_shapes: Iterable[tuple[int, ...]]) -> list[Flow]:
    """Small flows of those events that the system models."""
    found = []
    for event_shape in event_shapes:
        with contextlib.suppress(DoesNotApply):
            found.append(built(name, event_shape, **smaller(name)))
    return found


def fresh(name: str, event_shape: tuple[int, ...], context_features: int = 0) -> Flow:
    """A small untrained flow in evaluation mode."""
    flow = built(name, event_shape, context_features, **smaller(name))
    if integrates(flow) and flow.event_shape.numel() > FEW:
        raise DoesNotApply("the exact trace of so many scalars takes an adaptive solver too long")
    return flow.eval()


def stirred(
    name: str, event_shape: tuple[int, ...], context_features: int = 0, scale: float = 0.3
) -> Flow:
    """A flow whose parameters are off their fresh values, as training would leave them."""
    flow = fresh(name, event_shape, context_features)
    noise = generator(1)
    with torch.no_grad():
        for parameter in flow.parameters():
            # Of a matrix or kernel, by how many numbers go into one.
            inputs = parameter[0].numel() if parameter.ndim > 1 else parameter.numel()
            draw = draw_normal(parameter.shape, like=parameter, generator=noise)
            parameter.add_(scale / math.sqrt(inputs) * draw)
    return flow.double()


def inputs(flow: Flow, n: int) -> tuple[Tensor, Tensor | None]:
    source = generator(2)
    x = draw_normal((n, *flow.event_shape), like=flow.base.anchor, generator=source)
    if flow.context_features == 0:
        return x, None
    context = draw_normal((n, flow.context_features), like=x, generator=source)
    return x, context


def integrates(flow: Flow) -> bool:
    return "solver" in (flow.traits.density_passes, flow.traits.sample_passes)


def tolerance(flow: Flow) -> float:
    return 1e-5 if integrates(flow) else 1e-9


def has_density(flow: Flow) -> bool:
    return flow.traits.density_passes != "none"


def has_samples(flow: Flow) -> bool:
    return flow.traits.sample_passes != "none"


def needs_density(flow: Flow) -> None:
    if not has_density(flow):
        raise DoesNotApply("the density of given data is NotInvertible")


def needs_samples(flow: Flow) -> None:
    if not has_samples(flow):
        raise DoesNotApply("sampling is NotInvertible")


def close(one: Tensor, other: Tensor, allowed: float = 0.0) -> None:
    """Expect equal values, up to so much, absolute and relative together."""
    torch.testing.assert_close(one, other, atol=allowed, rtol=allowed)


def finite(values: Tensor, what: str) -> None:
    expect(bool(values.isfinite().all()), f"{what} is not finite")


def has_gradient(key: str, parameter: Tensor) -> None:
    gradient = parameter.grad
    expect(gradient is not None, f"{key} has no gradient")
    assert gradient is not None
    finite(gradient, f"the gradient of {key}")
    expect(bool((gradient != 0).any()), f"the gradient of {key} is zero")


def output(flow: Flow) -> Tensor:
    """Log-densities, or where there are none decoded values; deterministic."""
    x, context = inputs(flow, 4)
    if has_density(flow):
        return flow.log_prob(x, context, exact=True)
    return flow.decode(x, context, exact=True)[0]


def grid(flow: Flow, points: int = 241) -> tuple[Tensor, Tensor]:
    """Points of a square grid and the probability that the flow gives each cell."""
    reach = 8.0
    if has_samples(flow):
        # Some bases have longer tails than the normal.
        reach = max(reach, 1.5 * flow.sample(1000, generator=generator()).abs().max().item())
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = flow.log_prob(x, exact=True).exp()
    return x, density * (axis[1] - axis[0]) ** 2
