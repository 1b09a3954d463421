"""Measures of the estimators' noise against closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_measures import measured, subject

from benchmarks.measures.closed_form import matrices
from benchmarks.measures.gradient import gradients
from benchmarks.train import evaluation_mode
from flows.continuous.base import ContinuousFlow
from flows.continuous.ode.trace import hutchinson_variance


@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
@pytest.mark.parametrize("more", [{}, {"bottleneck": 3}, {"probes": 2}], ids=str)
def test_trace_and_density_vary_as_the_closed_forms_say(noise: str, more: dict[str, Any]) -> None:
    of = subject(
        "ffjord", "gaussian", {"hidden": (16,), "noise": noise, **more}, dimension=6, rows=2000
    )
    # 128 points of 64 and of 16 draws each. With larger weights the matrices change on the way.
    with torch.no_grad():
        for parameter in of.flow.parameters():
            parameter.mul_(2)
    found, expected = measured("variance", of), measured("closed-form", of)
    assert expected["trace_std_closed_form"] == pytest.approx(found["trace_std"], rel=0.06)
    assert expected["log_prob_std_closed_form"] == pytest.approx(found["log_prob_std"], rel=0.08)


def test_a_single_random_sign_is_exact() -> None:
    """E J e = J where e is 1 or -1: neither the trace nor the gradient varies."""
    options = {"hidden": (8,), "bottleneck": 1, "noise": "rademacher"}
    of = subject("ffjord", "gaussian", options, dimension=4, rows=2000)
    assert set(measured("closed-form", of).values()) == {0.0}
    found = measured("gradient", of)
    assert found["gradient_std"] < 1e-5 * found["gradient_std_batches"]


def test_the_gradients_spread_shrinks_with_the_probes() -> None:
    """To half with four, up to the chance of 16 draws; and it is a part of that of batches."""
    found = [
        measured(
            "gradient",
            subject("ffjord", "gaussian", {"hidden": (8,), "probes": n}, dimension=8, rows=2000),
        )
        for n in (1, 4)
    ]
    ratio = found[1]["gradient_std"] / found[0]["gradient_std"]
    assert ratio == pytest.approx(0.5, rel=0.3)
    assert found[0]["gradient_std"] < found[0]["gradient_std_batches"]


def test_without_noise_the_spread_is_that_of_batches() -> None:
    of = subject("ffjord", "8gaussians", {"hidden": (8,), "trace": "exact"}, rows=2000)
    found = measured("gradient", of)
    assert "gradient_std" not in found
    batches = iter(of.batches("gradient"))
    next(batches)
    with evaluation_mode(of.flow):
        rows = torch.stack(
            [*gradients(of.flow, (next(batches)[0] for _ in range(16)), of.generator("none"))]
        )
    assert found["gradient_std_batches"] == pytest.approx(float(rows.var(0).sum().sqrt()))
    square = float(rows.mean(0).square().sum() - rows.var(0).sum() / 16)
    assert found["gradient_norm"] == pytest.approx(max(0.0, square) ** 0.5)


def test_estimators_vary_as_the_closed_forms_of_their_matrices_say() -> None:
    of = subject("ffjord", "gaussian", {"hidden": (16,), "bottleneck": 4}, dimension=13, rows=2000)
    found = measured("estimators", of)
    assert isinstance(of.flow, ContinuousFlow)
    x = of.test_points(of.cell.budget.batch_size)
    for prefix, narrow in (("", False), ("bottleneck_", True)):
        with evaluation_mode(of.flow), torch.no_grad():
            matrix = torch.cat(list(matrices(of.flow, x, narrow=narrow)))
        for noise in ("gaussian", "rademacher"):
            expected = float(hutchinson_variance(matrix, noise).mean())  # type: ignore[arg-type]
            for count in (1, 3, 12):
                variance = found[f"trace_variance_{prefix}{noise}_{count}"]
                # 32 rows of 32 draws.
                assert variance == pytest.approx(expected / count, rel=0.25)
                assert found[f"trace_estimate_seconds_{prefix}{noise}_{count}"] > 0
    # The matrix has a rank of four, which is the sketch of twelve products.
    assert found["trace_variance_hutch_plus_plus_12"] < 1e-8 * found["trace_variance_gaussian_12"]
    # With 48 products the trace of 13 dimensions is exact three times over.
    assert not any(name.endswith("_48") for name in found)
