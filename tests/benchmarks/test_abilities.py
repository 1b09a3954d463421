"""What flows can do, by running them: forms of Jacobians, gradients, log-determinants, samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import datasets
import flows
from benchmarks import measures
from benchmarks.cell import Cell
from benchmarks.measures.subject import Subject
from benchmarks.tune import NotApplicable, fresh_flow

D = 8


def cell_of(flow: str, training: int = 0, **options: Any) -> Cell:
    return Cell.model_validate(
        {
            "flow": flow,
            "flow_options": flows.configure(flow, options).model_dump(mode="json"),
            "dataset": "gaussian",
            "dataset_options": datasets.configure(
                "gaussian", {"dimension": D, "rows": 2000}
            ).model_dump(mode="json"),
            "seed": 0,
            "budget": {"batch_size": 32, "steps": training},
            "measures": ["abilities"],
            "device": "cpu",
            "threads": 1,
            "dtype": "float64",
        }
    )


def subject(flow: str, **options: Any) -> Subject:
    cell = cell_of(flow, **options)
    dataset = cell.dataset_config().load("gaussian")
    return Subject(cell, fresh_flow(cell, dataset), dataset)


def measured(of: Subject) -> dict[str, Any]:
    return dict(measures.family("abilities").measure(of))


# What a coupling leaves: (D/2)(D - 1) entries of the half that stays, and of the other half what
# lies beside its diagonal. An autoregressive layer leaves a triangle; its first feature has a
# scale of its own that nothing changes, as a spline has not.
COUPLING = D // 2 * (D - 1) + D // 2 * (D // 2 - 1)
TRIANGLE = D * (D - 1) // 2


@pytest.mark.parametrize(
    ("flow", "options", "zero", "constant", "rank"),
    [
        ("ffjord", {"hidden": (16,)}, 0, 0, D),
        ("realnvp", {"layers": 1}, COUPLING, COUPLING + D // 2, D // 2),
        # The linear map before the coupling hides its zeros, and its rank stays.
        ("glow", {"steps": 1}, 0, D * D // 2, D // 2),
        ("maf", {"layers": 1}, TRIANGLE, TRIANGLE + 1, D - 1),
        ("iaf", {"layers": 1}, TRIANGLE, TRIANGLE + 1, D - 1),
        ("planar", {"layers": 1}, 0, 0, 1),
        # A multiple of the identity, and what moves the centre's direction.
        ("radial", {"layers": 1}, 0, 0, 2),
        ("sylvester", {"layers": 1, "rank": 3}, 0, 0, 3),
    ],
)
def test_a_layers_jacobian_has_the_form_that_its_system_gives_it(
    flow: str, options: dict[str, Any], zero: int, constant: int, rank: int
) -> None:
    found = measured(subject(flow, **options))
    assert found["jacobian_entries"] == D**2
    assert found["jacobian_zero_entries"] == zero
    assert found["jacobian_constant_entries"] == constant
    assert found["jacobian_rank"] == rank
    assert found["log_det_jacobian_error_nats"] < 1e-6


def test_a_gradient_that_is_not_the_losss_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    of = subject("realnvp", layers=2, hidden=(8,))
    assert measured(of)["gradient_step_gain"] == pytest.approx(1, abs=1e-4)
    honest = type(of.flow).loss

    def doubled(self: flows.Flow, x: Tensor, **options: Any) -> Tensor:
        loss = honest(self, x, **options)
        return 2 * loss - loss.detach()

    # Twice the gradient promises four times the gain of the same step, and gives twice.
    monkeypatch.setattr(type(of.flow), "loss", doubled)
    assert measured(of)["gradient_step_gain"] == pytest.approx(0.5, abs=1e-4)


def test_a_wrong_log_determinant_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    of = subject("maf", layers=1, hidden=(8,))
    honest = type(of.flow).encode

    def wrong(self: flows.Flow, x: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        z, log_abs_det = honest(self, x, **options)
        return z, log_abs_det + 0.25

    monkeypatch.setattr(type(of.flow), "encode", wrong)
    assert measured(of)["log_det_jacobian_error_nats"] == pytest.approx(0.25)


def test_samples_of_one_pass_take_no_more_operations_in_more_dimensions() -> None:
    coupling = measured(subject("realnvp", layers=2, hidden=(8,)))
    assert coupling["sample_operations_growth"] == 1
    assert coupling["sample_nfe_growth"] == 1
    autoregressive = measured(subject("maf", layers=1))
    # One step after the other for each feature, but each weight is used once.
    assert autoregressive["sample_operations_growth"] == pytest.approx(4, abs=0.2)
    assert autoregressive["sample_nfe_growth"] == 1


def test_an_estimated_density_differs_from_draw_to_draw() -> None:
    assert measured(subject("cnf-exact", hidden=(8,)))["log_prob_redrawn_gap_nats"] == 0
    assert measured(subject("ffjord", hidden=(8,)))["log_prob_redrawn_gap_nats"] > 0


def test_a_flow_without_a_density_of_data_is_measured_untrained_and_never_trained() -> None:
    found = measured(subject("planar", layers=1))
    assert found["claims_training_on_data"] is False
    assert not {"gradient_step_gain", "log_prob_redrawn_gap_nats"} & found.keys()
    assert found["sample_operations_growth"] == 1
    cell = cell_of("planar", training=5)
    with pytest.raises(NotApplicable, match="planar cannot be trained on data"):
        fresh_flow(cell, cell.dataset_config().load("gaussian"))


def test_the_flow_is_left_as_it_was() -> None:
    of = subject("realnvp", layers=2, hidden=(8,))
    before = {name: value.clone() for name, value in of.flow.state_dict().items()}
    measured(of)
    after = of.flow.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
