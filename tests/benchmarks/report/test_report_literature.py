"""Published numbers: complete, of the right sign, with source and kind of error."""

from __future__ import annotations

import datasets
import flows
from benchmarks.report.literature import literature


def test_every_flow_and_data_set_is_in_the_catalog() -> None:
    for item in literature().published:
        for name in item.flows:
            flows.entry(name)
        kind = datasets.entry(item.dataset).kind
        assert kind == ("image" if item.measure == "bits_per_dim" else "tabular")
    for name in literature().dataset_notes:
        datasets.entry(name)


def test_published_rows_reach_the_presets() -> None:
    def models(dataset: str, measure: str, contestant: str) -> set[str]:
        return {i.model for i in literature().of(dataset, measure) if i.is_of({contestant})}

    for dataset in ("power", "gas", "hepmass", "miniboone", "bsds300"):
        assert models(dataset, "nll_nats", f"ffjord-{dataset}") == {"FFJORD"}
        assert models(dataset, "nll_nats", f"rqnsf-c-{dataset}") == {"RQ-NSF (coupling)"}
        assert models(dataset, "nll_nats", f"rqnsf-ar-{dataset}") == {"RQ-NSF (autoregressive)"}
        assert models(dataset, "nll_nats", "made") == {"MADE"}
        assert models(dataset, "nll_nats", "maf-mog-5") == {"MAF MoG (5)"}
    # The settings of one data set are not those of another.
    assert not models("gas", "nll_nats", "ffjord-power")
    assert models("power", "nll_nats", "realnvp-10") == {"Real NVP (10)"}
    assert models("power", "nll_nats", "realnvp") == {"Real NVP (5)", "Real NVP (10)"}
    assert models("power", "nll_nats", "zuko/realnvp") == {"Real NVP (5)", "Real NVP (10)"}
    for name in ("realnvp-image", "glow-image", "ffjord-image"):
        assert models("mnist", "bits_per_dim", name)
        assert models("cifar10", "bits_per_dim", name)
    assert models("mnist", "bits_per_dim", "ffjord-mnist") == {"FFJORD, single flow"}
    multiscale = {"FFJORD, multi-scale"}
    assert models("cifar10", "bits_per_dim", "ffjord-cifar10-multiscale") == multiscale


def test_one_name_of_several_recipes_is_told_apart() -> None:
    power = literature().of("power", "nll_nats")
    glow = {item.model: item.value for item in power if item.is_of({"glow"})}
    assert glow == {"Glow, FFJORD paper's run": -0.17, "Glow, NSF paper's run": -0.42}
    assert len({(item.model, item.recipe) for item in power}) == len(power)


def test_every_tabular_set_has_the_gaussian() -> None:
    for dataset in ("power", "gas", "hepmass", "miniboone", "bsds300"):
        found = {item.model: item for item in literature().of(dataset, "nll_nats")}
        assert found["Gaussian"].error_over == "test points"
        # It is the worst of all that is listed.
        assert found["Gaussian"].value == max(item.value for item in found.values())


def test_every_number_says_what_its_error_is_over() -> None:
    published = literature().published
    assert len(published) > 60
    for item in published:
        assert item.error_over in ("test points", "runs", "none")
        assert (item.error is None) == (item.error_over == "none")
        assert item.source.address.startswith("https://arxiv.org/abs/")
        assert item.read
        assert item.recipe


def test_log_likelihoods_become_nll() -> None:
    power = {item.model: item for item in literature().of("power", "nll_nats")}
    assert power["Gaussian"].value == 7.74
    assert power["FFJORD"].value == -0.46
    assert power["FFJORD"].error_over == "runs"
    assert power["MAF (10)"].error_over == "test points"
    hepmass = {item.model: item for item in literature().of("hepmass", "nll_nats")}
    assert hepmass["RQ-NSF (autoregressive)"].value == 14.01


def test_bits_per_dim_stay_positive() -> None:
    images = [item for item in literature().published if item.measure == "bits_per_dim"]
    assert images
    assert all(0.5 < item.value < 8 for item in images)
