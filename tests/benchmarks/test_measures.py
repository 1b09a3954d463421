"""Measures against what is known: closed forms, counted calls, memory of known size."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import datasets
import flows
from benchmarks import measures
from benchmarks.cell import Cell
from benchmarks.measures.memory import peak_above_start
from benchmarks.measures.quality import largest_share
from benchmarks.measures.ratio import MatmulFlops, opponent
from benchmarks.measures.subject import Subject
from flows.products import Products, onednn_is_there


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
    return dict(measures.family(name).measure(of))


@pytest.mark.parametrize("name", measures.FAMILIES)
def test_families_declare_what_they_fill(name: str) -> None:
    declared = {column.name for column in measures.family(name).columns}
    for flow in ("ffjord", "maf"):
        of = subject(flow, "8gaussians", {"hidden": (8,)}, rows=2000)
        assert measured(name, of).keys() <= declared


def test_no_two_families_fill_the_same_column() -> None:
    columns = [column.name for column in measures.columns()]
    assert len(columns) == len(set(columns))


def test_quality_of_the_identity_is_that_of_the_standard_normal() -> None:
    """A fresh RealNVP is the identity, so its NLL, and its distance to a known truth, are known."""
    of = subject("realnvp", "gaussian", dimension=3, condition_number=1.0, rows=20_000)
    found = measured("quality", of)
    x = torch.as_tensor(of.dataset.test).double()
    expected = float((0.5 * x.square().sum(1) + 1.5 * math.log(2 * math.pi)).mean())
    assert found["nll_nats"] == pytest.approx(expected, rel=1e-5)
    assert found["kl_to_truth_nats"] == found["kl_to_truth_test_nats"]
    assert found["kl_to_truth_nats"] == pytest.approx(
        expected + float(of.dataset.truth.log_prob(x).mean()),  # type: ignore[union-attr]
        abs=1e-5,
    )
    # In three dimensions there is no quadrature, and its own column says so.
    assert found["kl_by_quadrature"] is False
    assert found["kl_to_truth_nats_stderr"] == found["kl_to_truth_test_nats_stderr"] > 0
    assert "bits_per_dim" not in found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dataset", ["gaussian", "8gaussians"])
def test_in_two_dimensions_the_divergence_is_by_quadrature(
    dataset: str, dtype: torch.dtype
) -> None:
    """From the standard normal that a fresh flow is: half the second moment less the entropy."""
    options = {"condition_number": 1.0, "dimension": 2} if dataset == "gaussian" else {}
    of = subject("realnvp", dataset, rows=2000, **options)
    of.flow.to(dtype)
    found = measured("quality", of)
    truth = of.dataset.truth
    assert truth is not None
    # Eight centres at radius 4 / 1.414, deviation 0.5 / 1.414.
    square = (16 + 2 * 0.25) / 1.414**2 if dataset == "8gaussians" else 2.0
    expected = square / 2 + math.log(2 * math.pi) - truth.entropy_nats
    assert found["kl_by_quadrature"] is True
    assert "kl_to_truth_nats_stderr" not in found
    assert found["kl_quadrature_error_nats"] < 0.005
    assert found["kl_to_truth_nats"] == pytest.approx(expected, abs=1e-3)
    sampled = found["kl_to_truth_test_nats"]
    assert abs(sampled - expected) < 4 * found["kl_to_truth_test_nats_stderr"] + 1e-6


def test_a_density_that_vanishes_in_places_falls_back_to_the_test_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = subject("realnvp", "gaussian", dimension=2, rows=2000)
    plain = of.flow.log_prob
    reach = float(np.abs(of.dataset.test).max())

    def without_tails(x: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        beyond = x.abs().amax(1) > 1.1 * reach
        return plain(x, *rest, **options).masked_fill(beyond, -math.inf)

    monkeypatch.setattr(of.flow, "log_prob", without_tails)
    found = measured("quality", of)
    assert found["kl_by_quadrature"] is False
    assert found["kl_to_truth_nats"] == found["kl_to_truth_test_nats"]
    assert "kl_quadrature_error_nats" not in found


def test_a_solver_that_fails_in_the_tails_costs_the_quadrature_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = subject("realnvp", "gaussian", dimension=2, rows=2000)

    def failing(*given: Any, **options: Any) -> Any:
        raise flows.FlowError("the step size fell below what the time can resolve")

    monkeypatch.setattr("benchmarks.measures.quality.kullback_leibler", failing)
    found = measured("quality", of)
    assert found["kl_by_quadrature"] is False
    assert math.isfinite(found["kl_to_truth_nats"])


def test_a_row_that_makes_the_mean_shows() -> None:
    """Of standard normal terms the largest thousandth carries the ratio of two densities."""
    normal = torch.distributions.Normal(0.0, 1.0)
    terms = normal.icdf((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    cut = normal.icdf(torch.tensor(0.999, dtype=torch.float64))
    expected = float((normal.log_prob(cut) - normal.log_prob(torch.zeros(()))).exp())
    assert largest_share(terms) == pytest.approx(expected, rel=1e-3)
    # One row far out: 1e6 over a sum of about 0.4 n.
    terms[-1] = 1e6
    assert largest_share(terms) == pytest.approx(1e6 / (1e6 + 0.4 * 1e5), rel=1e-2)
    assert largest_share(torch.ones(50)) == 0


def test_the_median_stands_beside_the_mean() -> None:
    of = subject("realnvp", "gaussian", dimension=3, condition_number=1.0, rows=2000)
    found = measured("quality", of)
    x = torch.as_tensor(of.dataset.test).double()
    terms = 0.5 * x.square().sum(1) + 1.5 * math.log(2 * math.pi)
    assert found["nll_median_nats"] == pytest.approx(float(np.median(terms)), rel=1e-6)
    assert found["nll_largest_share"] == pytest.approx(largest_share(terms), rel=1e-4)


def test_rows_outside_of_what_is_learned_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    of = subject("realnvp", "gaussian", dimension=3, rows=2000)
    assert "outside_fraction" not in measured("quality", of)
    monkeypatch.setattr(
        of.flow, "outside_fraction", lambda x: float((x.abs() > 3).any(1).double().mean())
    )
    expected = (np.abs(of.dataset.test) > 3).any(1).mean()
    assert measured("quality", of)["outside_fraction"] == pytest.approx(expected)


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
    of = subject("ffjord", "gaussian", options, dimension=5)
    ffjord = measured("work", of)
    assert ffjord["nfe_train_forward"] >= 6
    assert ffjord["nfe_train_backward"] >= 6
    with flows.Meter() as meter, torch.no_grad():
        of.flow.eval().log_prob(of.test_points(32), exact=True)
    assert ffjord["nfe_log_prob_exact"] == meter.forward


@pytest.mark.parametrize("name", ["work", "time"])
def test_the_exact_density_is_measured_where_it_is_another(name: str) -> None:
    column = {"work": "nfe_log_prob_exact", "time": "log_prob_exact_seconds"}[name]
    small = {"hidden": (8,)}
    assert column in measured(name, subject("ffjord", "gaussian", small, dimension=2))
    assert column not in measured(name, subject("maf", "gaussian", small, dimension=2))
    exact = {**small, "trace": "exact"}
    assert column not in measured(name, subject("ffjord", "gaussian", exact, dimension=2))
    assert column not in measured(name, subject("ffjord", "gaussian", small, dimension=65))


def test_an_exact_density_costs_as_many_jacobian_products_as_dimensions() -> None:
    """Its matrix products over the estimate's: (D + 1) over 2, at equal evaluations."""
    of = subject("ffjord", "gaussian", {"hidden": (32,), "solver": "rk4"}, dimension=16)
    x = of.test_points(32)
    flops = []
    for exact in (False, True):
        with torch.no_grad(), flows.Meter() as meter, MatmulFlops() as counter:
            of.flow.eval().log_prob(x, exact=exact)
        flops.append(counter.total / meter.forward)
    assert 4 < flops[1] / flops[0] < 17


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


def test_slow_repeats_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def clock(action: object, device: torch.device) -> float:
        calls.append(action)
        return 1.5

    monkeypatch.setattr("benchmarks.measures.time.clock", clock)
    found = measured("time", subject("ffjord", "gaussian", {"hidden": (8,)}, dimension=4))
    assert found["log_prob_exact_seconds"] == 1.5
    # Each of the four three times, and the training step once to warm up.
    assert len(calls) == 3 * 4 + 1


@pytest.mark.slow(seconds=20)
def test_a_compiled_step_multiplies_what_it_does_call_by_call() -> None:
    def found(compile: bool) -> dict[str, Any]:
        options = {"layers": 1, "hidden": (4,)}
        of = subject("realnvp", "gaussian", options, dimension=2, rows=500)
        document = of.cell.model_dump()
        document["budget"]["compile"] = compile
        document["reference"] = {"flow": "realnvp", "flow_options": document["flow_options"]}
        return measured("ratio", replace(of, cell=Cell.model_validate(document)))

    eager, compiled = found(False), found(True)
    assert compiled["train_step_flops"] == eager["train_step_flops"] > 0
    assert compiled["log_prob_flops"] == eager["log_prob_flops"]


def test_what_first_calls_take_longer_is_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[object] = set()

    def clock(action: object, device: torch.device) -> float:
        first = action not in seen
        seen.add(action)
        return 9.0 if first else 1.5

    monkeypatch.setattr("benchmarks.measures.time.clock", clock)
    of = subject("maf", "gaussian", {"hidden": (8,)}, dimension=4)
    # An eager flow compiles nothing: what it takes at first is another matter.
    assert of.form == "eager"
    assert "compile_seconds" not in measured("time", of)
    seen.clear()
    of.flow.in_torch = False  # type: ignore[misc]
    assert of.form == "JAX"
    found = measured("time", of)
    assert found["compile_seconds"] == 3 * (9.0 - 1.5)
    assert found["first_step_seconds"] == 9.0
    # And no repeat among others.
    assert found["log_prob_seconds_q75"] == found["sample_seconds_q75"] == 1.5


def test_what_torch_does_not_compute_it_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    of = subject("maf", "gaussian", {"hidden": (8,)}, dimension=4)
    document = of.cell.model_dump(mode="json")
    reference = {"flow": "maf", "flow_options": document["flow_options"]}
    of.cell = Cell.model_validate({**document, "reference": reference})
    of.flow.in_torch = False  # type: ignore[misc]
    assert "peak_memory_bytes" not in measured("memory", of)
    assert measured("memory", of)["process_peak_bytes"] > 0
    found = measured("ratio", of)
    assert found["train_step_ratio"] > 0
    assert not {"peak_memory_ratio", "train_step_flops", "train_step_over_matmul"} & found.keys()


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
    assert 0 < seconds / measured("machine", of)["matmul_flops_per_second"] < 1


def test_rejected_steps_count_as_time_and_not_as_work() -> None:
    """All steps cost the same, but for the first, which is given one evaluation more."""
    torch.manual_seed(0)
    flow = flows.build("ffjord", (2,), hidden=(16,), layers="ignore", trace="exact")
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(12)
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    with flows.Meter() as meter, torch.no_grad(), MatmulFlops() as counter:
        flow.log_prob(x)
    assert meter.rejected > 0
    assert meter.forward == 1 + 6 * (meter.accepted + meter.rejected)
    share = meter.rejected / (meter.accepted + meter.rejected)
    assert share > 10 / meter.forward
    assert counter.rejected / counter.total == pytest.approx(share, abs=3 / meter.forward)
    with MatmulFlops() as training:
        flow.loss(x).backward()
    assert training.rejected == counter.rejected
    assert training.total > counter.total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("library", ["mkl", "onednn"])
def test_every_matrix_product_is_counted(
    monkeypatch: pytest.MonkeyPatch, library: str, dtype: torch.dtype
) -> None:
    """By whatever library: an evaluation of the dynamics is 2 n P operations, P the weights."""
    if library == "onednn":
        if not onednn_is_there():
            pytest.skip("torch has no oneDNN for this processor")
        monkeypatch.setattr("flows.linalg.LEAST_TERMS", 0)
        monkeypatch.setattr("flows.linalg.chosen_products", lambda: Products(0))
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_rate_of_a_product_is_that_of_the_faster_library(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    of = subject("maf", "gaussian", {"hidden": (8,)}, dimension=4)
    of.flow.to(dtype)
    times = iter([9.0, 9.0, *[2.0, 1.0] * 5] if dtype == torch.float32 else [9.0, *[2.0] * 5])
    monkeypatch.setattr("benchmarks.measures.machine.onednn_is_there", lambda: True)
    monkeypatch.setattr("benchmarks.measures.machine.clock", lambda action, device: next(times))
    least = 1.0 if dtype == torch.float32 else 2.0
    assert measured("machine", of) == {"matmul_flops_per_second": 2 * 1024**3 / least}


def test_the_rate_is_measured_in_every_cell_with_a_cost() -> None:
    for chosen in (["time"], ["memory", "quality"], ["ratio"], ["machine"]):
        assert "machine" in measures.of_stage(chosen, "cost")
        assert "machine" not in measures.of_stage(chosen, "quality")
    assert measures.of_stage(["quality", "work"], "cost") == []
    # It would be the first step's warm-up, and part of the peak.
    assert measures.of_stage(list(measures.FAMILIES), "cost")[-1] == "machine"
