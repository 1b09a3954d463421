"""What a solver's tolerance does to a trained flow: a sweep over methods, the weights as they are.

Each setting's densities and samples are held to a reference, the same weights in float64 at a
tolerance of :data:`REFERENCE`, so that what differs is the solver alone and, in the flow's own
dtype, rounding. Traces are exact, so that no noise is in it. The mass that a density integrates to,
Figure 8 of FFJORD's paper (arXiv:1810.01367), is by the trapezoidal rule on a grid.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measures.base import Column, Family
from benchmarks.measures.subject import Subject
from benchmarks.measures.time import median_seconds
from flows import Flow, FlowError, Meter
from flows.continuous.base import ContinuousFlow

__all__ = ["ADAPTIVE", "ENTRIES", "FIXED", "REFERENCE", "SWEEP", "TOLERANCES", "grid"]

REFERENCE = 1e-11
"""Absolute and relative tolerance of the reference, in float64."""
TOLERANCES = tuple(10.0**-power for power in range(1, 9))
ADAPTIVE = ("dopri5", "bosh3", "dopri8")
FIXED = ("rk4", "midpoint", "euler")
STEPS = (1, 2, 4, 8, 16, 32, 64)
POINTS = 512
REPEATS = 3
# A solve of the sweep that takes more evaluations of the dynamics is left out.
MOST_EVALUATIONS = 1000
# Of a grid's side: in one dimension and in two.
GRID = {1: 2001, 2: 97}

SWEEP = (
    "tolerance",
    "steps",
    "nfe",
    "seconds",
    "log_prob_error",
    "log_prob_error_max",
    "sample_error",
    "round_trip_error",
    "mass_error",
)
"""The arrays that are left, a value a setting, as ``solver_<name>`` beside ``solver_method``:
atol = rtol of an adaptive method or the steps of a fixed one (NaN for the other); network
evaluations and seconds (median) of a density of the test points; mean and largest error of
log p, nats; root mean square error of samples of given latents, and the largest error of a round
trip, model units; |1 - integral of p|. NaN where a solve failed."""

COLUMNS = (
    Column(
        "log_prob_error_nats",
        f"mean |log p - that of the same weights in float64 at a tolerance of {REFERENCE:g}| over "
        "fixed test points, with the solver's own settings and exact traces, nats",
        unit="nats",
        heading="error of log p",
    ),
    Column(
        "reference_mass_error",
        "|1 - integral of p| of that reference: what of an error of the mass is the grid's",
        heading="reference's mass error",
    ),
)


def measure(subject: Subject) -> dict[str, float]:
    """Leaves the arrays of :data:`SWEEP`; nothing for a flow that solves nothing."""
    flow = subject.flow
    if not isinstance(flow, ContinuousFlow):
        return {}
    x = subject.test_points(POINTS)
    z = flow.base.sample(POINTS, generator=subject.generator("solver: latents"))
    points, area = grid(x)
    with torch.no_grad(), warnings.catch_warnings():
        # Dear traces are what is asked for.
        warnings.simplefilter("ignore")
        exact = {"atol": REFERENCE, "rtol": REFERENCE, "solver": "dopri5", "backend": "native"}
        best = _with(subject, {**exact, "max_evaluations": 1_000_000}).double()
        log_prob = best.log_prob(x.double(), exact=True)
        samples = best.decode(z.double(), exact=True)[0]
        mass = _mass(best, points, area)

        def errors(one: Flow) -> dict[str, float]:
            # Before it is timed, which warms it up.
            with Meter() as meter:
                found = one.log_prob(x, exact=True)
            gap = (found.double() - log_prob).abs()
            drawn = one.decode(z, exact=True)[0].double()
            back = one.decode(one.encode(x, exact=True)[0], exact=True)[0]
            return {
                "nfe": meter.forward,
                "seconds": median_seconds(
                    lambda: one.log_prob(x, exact=True), subject.device, REPEATS
                ),
                "log_prob_error": float(gap.mean()),
                "log_prob_error_max": float(gap.max()),
                "sample_error": float((drawn - samples).square().mean().sqrt()),
                "round_trip_error": float((back - x).abs().max()),
                "mass_error": abs(1 - _mass(one, points, area)),
            }

        rows = []
        for solver, setting in _settings():
            row: dict[str, Any] = {"method": solver, **dict.fromkeys(SWEEP, math.nan), **setting}
            options = {"solver": solver, "backend": None, "gradient": None}
            if "tolerance" in setting:
                options |= dict.fromkeys(("atol", "rtol"), setting["tolerance"])
            else:
                options["steps"] = setting["steps"]
            with contextlib.suppress(FlowError):
                row |= errors(_with(subject, {**options, "max_evaluations": MOST_EVALUATIONS}))
            rows.append(row)
        own = _with(subject, {}).log_prob(x, exact=True).double() - log_prob
    for name in ("method", *SWEEP):
        subject.arrays[f"solver_{name}"] = np.array([row[name] for row in rows])
    found = {"log_prob_error_nats": float(own.abs().mean())}
    return found if math.isnan(mass) else {**found, "reference_mass_error": abs(1 - mass)}


def _settings() -> list[tuple[str, dict[str, Any]]]:
    adaptive = [(method, {"tolerance": each}) for method in ADAPTIVE for each in TOLERANCES]
    return adaptive + [(method, {"steps": steps}) for method in FIXED for steps in STEPS]


def _with(subject: Subject, options: dict[str, Any]) -> Flow:
    """The flow with other options of the solver: its weights, no regularisers, evaluated."""
    flow = subject.flow
    assert isinstance(flow, ContinuousFlow)
    config = type(flow.config).model_validate(
        {**flow.config.model_dump(), **dict.fromkeys(flow.config.regularizers, 0.0), **options}
    )
    found = config.build(flow.event_shape, flow.context_features).to(flow.device, flow.dtype)
    found.load_state_dict(flow.state_dict())
    return found.eval()


def grid(data: Tensor) -> tuple[Tensor | None, float]:
    """Points of a grid around data, half as wide again on either side, and the area of each.

    Args:
        data: shape ``(n, D)``.

    Returns:
        Shape ``(m, D)``; None in more than two dimensions.

    Example:
        >>> points, area = grid(torch.tensor([[-1.0], [1.0]]))
        >>> points.shape, round(area * (len(points) - 1), 6)
        (torch.Size([2001, 1]), 4.0)
    """
    side = GRID.get(data[0].numel())
    if data.ndim != 2 or side is None:
        return None, math.nan
    low, high = data.amin(0), data.amax(0)
    centre, half = (low + high) / 2, high - low
    unit = torch.linspace(-1, 1, side, dtype=data.dtype, device=data.device)
    axes = [c + h * unit for c, h in zip(centre, half, strict=True)]
    points = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    return points, float((2 * half / (side - 1)).prod())


def _mass(flow: Flow, points: Tensor | None, area: float) -> float:
    """The integral of the density; NaN where there is no grid, or a solve fails."""
    if points is None:
        return math.nan
    try:
        log_prob = flow.log_prob(points.to(flow.dtype), exact=True)
    except FlowError:
        return math.nan
    return float(log_prob.double().exp().sum()) * area


ENTRIES = [
    Family(
        "solver",
        "error, mass, evaluations and time of a density against the solver's tolerance and method",
        # It takes times.
        stage="cost",
        version=1,
        columns=COLUMNS,
        measure=measure,
        place=60,
    )
]
