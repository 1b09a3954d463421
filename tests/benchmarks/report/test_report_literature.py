"""Published numbers: complete, of the right sign, with source and kind of error."""

from __future__ import annotations

from benchmarks.report.literature import literature


def test_every_number_says_what_its_error_is_over() -> None:
    published = literature().published
    assert len(published) > 60
    for item in published:
        assert item.error_over in ("test points", "runs", "none")
        assert (item.error is None) == (item.error_over == "none")
        assert item.source.address.startswith("https://arxiv.org/abs/")
        assert item.source.read


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
