"""Measures against what is known: closed forms, counted calls, memory of known size."""

import math
import multiprocessing
import os
import time
from typing import Any

import numpy as np
import pytest
import torch

import datasets
import flows
from benchmarks import measures
from benchmarks.environment import OthersWork, describe_environment, process_peak_bytes
from benchmarks.matrix import Cell
from benchmarks.measures.memory import peak_above_start
from benchmarks.measures.ratio import MatmulFlops, opponent
from benchmarks.measures.subject import Subject


def subject(flow: str, dataset: str, flow_options: Any = None, **options: Any) -> Subject:
    config = flows.configure(flow, flow_options)
    data = datasets.configure(dataset, options)
    cell = Cell.model_validate(
        {
            "flow": flow,
            "flow_options": config.model_dump(mode="json"),
            "dataset": dataset,
            "dataset_options": data.model_dump(mode="json"),
            "seed": 0,
            "budget": {"batch_size": 32},
            "measures": list(measures.FAMILIES),
            "device": "cpu",
            "threads": 1,
        }
    )
    loaded = data.load(dataset)
    return Subject(cell, config.build(loaded.event_shape), loaded)


def measured(name: str, of: Subject) -> dict[str, Any]:
    found: dict[str, Any] = measures.family(name).measure(of)
    return found


@pytest.mark.parametrize("name", measures.FAMILIES)
def test_families_declare_what_they_fill(name: str) -> None:
    module = measures.family(name)
    assert module.STAGE in ("quality", "cost")
    for flow in ("ffjord", "maf"):
        of = subject(flow, "8gaussians", {"hidden": (8,)}, rows=2000)
        assert measured(name, of).keys() <= module.COLUMNS.keys()


def test_no_two_families_fill_the_same_column() -> None:
    columns = [column for name in measures.FAMILIES for column in measures.family(name).COLUMNS]
    assert len(columns) == len(set(columns))


def test_quality_of_the_identity_is_that_of_the_standard_normal() -> None:
    """A fresh RealNVP is the identity, so its NLL, and its distance to a known truth, are known."""
    of = subject("realnvp", "gaussian", dimension=3, condition_number=1.0, rows=20_000)
    found = measured("quality", of)
    x = torch.as_tensor(of.dataset.test).double()
    expected = float((0.5 * x.square().sum(1) + 1.5 * math.log(2 * math.pi)).mean())
    assert found["nll_nats"] == pytest.approx(expected, rel=1e-5)
    assert found["kl_to_truth_nats"] == pytest.approx(
        expected + float(of.dataset.truth.log_prob(x).mean()),  # type: ignore[union-attr]
        abs=1e-5,
    )
    assert "bits_per_dim" not in found


def test_bits_per_dim_stand_for_the_same_likelihood() -> None:
    of = subject("realnvp", "optdigits", {"layers": 2, "hidden": (8,)})
    found = measured("quality", of)
    assert found["bits_per_dim"] == pytest.approx(found["nll_nats"] / 64 / math.log(2))
    # A uniform model of 17 levels has log2(17) = 4.09 bits.
    assert 0 < found["bits_per_dim"] < 20


def test_work_counts_what_runs() -> None:
    maf = measured("work", subject("maf", "gaussian", {"layers": 3, "hidden": (8,)}, dimension=5))
    assert maf == {
        "nfe_train_forward": 3,
        "nfe_train_backward": 0,
        "nfe_log_prob": 3,
        # Feature by feature, each weight once: see flows.meter.
        "nfe_sample": 3,
    }
    options = {"hidden": (8,), "gradient": "adjoint"}
    ffjord = measured("work", subject("ffjord", "gaussian", options, dimension=5))
    assert ffjord["nfe_train_forward"] >= 6
    assert ffjord["nfe_train_backward"] >= 6


def test_variance_is_that_of_the_estimator() -> None:
    """At fixed points, from fresh draws by hand."""
    of = subject("ffjord", "gaussian", {"hidden": (16,)}, dimension=6)
    found = measured("variance", of)
    x = of.test_points(128)
    with torch.no_grad():
        draws = torch.stack([of.flow.log_prob(x) for _ in range(64)])
    assert found["log_prob_std"] == pytest.approx(float(draws.var(0).mean().sqrt()), rel=0.25)
    assert found["trace_std"] > 0
    assert measured("variance", subject("maf", "gaussian", {"hidden": (8,)})) == {}


def test_faithfulness_is_small_for_an_exact_inverse_and_follows_the_tolerance() -> None:
    exact = measured("faithfulness", subject("realnvp", "gaussian", dimension=4))
    assert exact["round_trip_error"] < 1e-4
    assert exact["log_det_error_nats"] < 1e-4
    loose, tight = (
        measured(
            "faithfulness",
            subject("ffjord", "gaussian", {"hidden": (16,), "atol": tol, "rtol": tol}, dimension=4),
        )["round_trip_error"]
        for tol in (1e-2, 1e-6)
    )
    assert tight < 1e-4
    assert tight <= loose


def test_pictures_hold_densities_that_integrate_to_one() -> None:
    of = subject("realnvp", "8gaussians", rows=2000)
    found = measured("pictures", of)
    # A fresh flow is a standard normal; the data lie within 4 of the origin.
    assert found["density_integral"] == pytest.approx(1, abs=0.01)
    arrays = of.arrays
    assert arrays["log_density"].shape == (len(arrays["grid_y"]), len(arrays["grid_x"]))
    step = float(arrays["grid_x"][1] - arrays["grid_x"][0])
    assert np.exp(arrays["truth_log_density"]).sum() * step**2 == pytest.approx(1, abs=0.02)
    assert measured("pictures", subject("maf", "gaussian", dimension=3)) == {}


def test_peak_memory_is_exact_for_a_known_program() -> None:
    def program() -> None:
        first = torch.zeros(1_000_000)  # 4 MB
        second = first + 1  # 8 MB
        del first
        third = second * 2  # 8 MB again
        assert third.numel() == 1_000_000

    # Allocations are rounded up to 64 bytes.
    assert peak_above_start(program) == pytest.approx(8_000_000, rel=1e-3)


def test_memory_holds_weights_gradients_and_state_of_adam() -> None:
    of = subject("maf", "gaussian", {"layers": 1, "hidden": (512, 512)}, dimension=8)
    found = measured("memory", of)
    weights = 4 * of.flow.parameter_count
    # Weights, gradients and two moments stay; masks and masked weights add
    # two, and intermediate values of 32 rows are small.
    assert 4 * weights <= found["peak_memory_bytes"] <= 8 * weights
    assert found["process_peak_bytes"] > found["peak_memory_bytes"]


def test_time_has_ordered_quartiles() -> None:
    found = measured("time", subject("maf", "gaussian", {"hidden": (8,)}, dimension=4))
    for name in ("train_step_seconds", "log_prob_seconds", "sample_seconds"):
        assert 0 < found[f"{name}_q25"] <= found[name] <= found[f"{name}_q75"]
    assert isinstance(found["cost_shared"], bool)


def test_timing_leaves_the_weights_where_they_were() -> None:
    of = subject("maf", "gaussian", {"hidden": (8,)}, dimension=4)
    before = [p.detach().clone() for p in of.flow.parameters()]
    measured("time", of)
    for old, new in zip(before, of.flow.parameters(), strict=True):
        torch.testing.assert_close(old, new.detach(), rtol=0, atol=1e-8)


def test_a_flow_is_as_fast_as_itself_and_a_smaller_one_is_faster() -> None:
    options = {"layers": 4, "hidden": (256, 256)}
    of = subject("maf", "gaussian", options, dimension=8)
    document = of.cell.model_dump(mode="json")
    reference = {"flow": "maf", "flow_options": document["flow_options"]}
    of.cell = Cell.model_validate({**document, "reference": reference})
    same = measured("ratio", of)
    assert 0.6 < same["log_prob_ratio"] < 1.6
    assert same["reference"] == of.cell.flow_label
    # Each masked layer of n rows costs 2 n inputs outputs; nothing else multiplies matrices.
    layer = 8 * 256 + 256 * 256 + 256 * 16
    assert same["log_prob_flops"] == 4 * 2 * 32 * layer
    small = {**document["flow_options"], "layers": 1, "hidden": [8]}
    of.cell = Cell.model_validate({**document, "reference": {"flow": "maf", "flow_options": small}})
    assert measured("ratio", of)["log_prob_ratio"] > 1.5
    assert same["log_prob_rejected_flops"] == 0
    seconds = same["log_prob_over_matmul"] * same["log_prob_flops"]
    assert 0 < seconds / same["matmul_flops_per_second"] < 1


def test_rejected_steps_count_as_time_and_not_as_work() -> None:
    """All steps cost the same, but for the first, which two more evaluations choose."""
    torch.manual_seed(0)
    flow = flows.build("ffjord", (2,), hidden=(16,), layers="ignore", trace="exact")
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(12)
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    with flows.Meter() as meter, torch.no_grad(), MatmulFlops() as counter:
        flow.log_prob(x)
    assert meter.rejected > 0
    assert meter.forward == 2 + 6 * (meter.accepted + meter.rejected)
    share = meter.rejected / (meter.accepted + meter.rejected)
    assert share > 10 / meter.forward
    assert counter.rejected / counter.total == pytest.approx(share, abs=3 / meter.forward)
    with MatmulFlops() as training:
        flow.loss(x).backward()
    assert training.rejected == counter.rejected
    assert training.total > counter.total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_matrix_product_is_counted(dtype: torch.dtype) -> None:
    """By whatever library: an evaluation of the dynamics is 2 n P operations, P the weights."""
    weights = 6 * 64 + 64 * 64 + 64 * 6
    for options in ({}, {"backend": "torchdiffeq"}):
        flow = flows.build("ffjord", (6,), hidden=(64, 64), layers="ignore", **options).to(dtype)
        z = flow.base.sample(100, generator=torch.Generator().manual_seed(0))
        with flows.Meter() as meter, torch.no_grad(), MatmulFlops() as counter:
            flow._sample_from(z, None)
        assert counter.total == meter.forward * 2 * 100 * weights


def test_contestants_with_the_same_parameters_are_timed_on_the_same_weights() -> None:
    """The peers hold theirs under the names of ours: the solvers meet one problem."""
    pytest.importorskip("zuko")
    of = subject("zuko/ffjord", "gaussian", {"hidden": (8,), "atol": 1e-4}, dimension=2)
    with torch.no_grad():
        for parameter in of.flow.parameters():
            parameter.mul_(2)
    document = of.cell.model_dump(mode="json")
    options = flows.configure("ffjord", {"hidden": (8,), "atol": 1e-4}).model_dump(mode="json")
    reference = {"flow": "ffjord", "flow_options": options}
    of.cell = Cell.model_validate({**document, "reference": reference})
    made = opponent(of)
    assert made is not None
    for own, other in zip(of.flow.parameters(), made.flow.parameters(), strict=True):
        assert torch.equal(own, other)
    found = measured("ratio", of)
    assert found["train_step_ratio"] > 0
    assert found["peak_memory_ratio"] > 0


def test_environment_names_versions_and_machine() -> None:
    found = describe_environment(torch.device("cpu"))
    assert str(found["torch"]).startswith(torch.__version__.split("+")[0])
    assert found["cpu_cores"]
    assert "gpu" not in found
    peak = process_peak_bytes()
    assert peak is None or peak > 50_000_000


def test_work_of_others_is_noticed() -> None:
    """A process that keeps every core busy is seen; our own work is not taken for another's."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    busy = [context.Process(target=_spin, args=(stop,)) for _ in range(os.cpu_count() or 1)]
    for process in busy:
        process.start()
    try:
        time.sleep(0.5)
        with OthersWork(torch.device("cpu")) as others:
            time.sleep(1.0)
        assert others.shared
    finally:
        stop.set()
        for process in busy:
            process.join()


def _spin(stop: Any) -> None:
    while not stop.is_set():
        sum(range(10_000))
