"""The real sets, where the user's data folder has them; otherwise skipped, with the reason.

`FFJORD_BENCH_DATA=... pytest tests/datasets/test_real_data.py`
"""

import os

import numpy as np
import pytest
import torch

import datasets
from datasets.files import fetch, folder
from datasets.gaussian_baseline import gaussian_baseline
from datasets.tables.steps import standardised_splits

SHAPES = {
    "gas": [(852_174, 8), (94_685, 8), (105_206, 8)],
    "hepmass": [(315_123, 21), (35_013, 21), (174_987, 21)],
    "miniboone": [(29_556, 43), (3_284, 43), (3_648, 43)],
    "bsds300": [(1_000_000, 63), (50_000, 63), (250_000, 63)],
    "bsds300-style": [(1_000_000, 63), (50_000, 63), (250_000, 63)],
    "magic": [(15_314, 10), (1_701, 10), (1_890, 10)],
    "protein": [(35_656, 8), (3_961, 8), (4_401, 8)],
    "keggundirected": [(10_902, 10), (1_211, 10), (1_345, 10)],
    "parkinsons": [(4_760, 14), (528, 14), (587, 14)],
    "mnist": [(50_000, 1, 28, 28), (10_000, 1, 28, 28), (10_000, 1, 28, 28)],
    "fashion-mnist": [(50_000, 1, 28, 28), (10_000, 1, 28, 28), (10_000, 1, 28, 28)],
    "cifar10": [(45_000, 3, 32, 32), (5_000, 3, 32, 32), (10_000, 3, 32, 32)],
    "omniglot": [(26_293, 1, 28, 28), (2_921, 1, 28, 28), (3_246, 1, 28, 28)],
    "freyfaces": [(1_565, 1, 28, 20), (200, 1, 28, 20), (200, 1, 28, 20)],
}
# None where there is no data folder to look for them in.
SETS = [*SHAPES] if folder.VARIABLE in os.environ else []


def loaded(name: str) -> datasets.Dataset:
    try:
        return datasets.load(name)
    except datasets.DataMissing:
        pytest.skip(f"{name} is not in the data folder")


def test_every_source_is_tested_here() -> None:
    assert set(SHAPES) == {
        name
        for name, entry in datasets.ENTRIES.items()
        if (source := entry.config.files()) is not None and source.forms
    }


@pytest.mark.slow
@pytest.mark.usefixtures("real_data")
@pytest.mark.parametrize("name", SETS)
def test_shapes_and_values(name: str) -> None:
    data = loaded(name)
    splits = [data.train, data.validation, data.test]
    assert [split.shape for split in splits] == SHAPES[name]
    if data.kind == "tabular":
        assert data.train.dtype == np.float32
        assert np.isfinite(data.train).all()
    else:
        assert data.train.dtype == np.uint8
        assert data.levels is not None
        assert int(data.train.max()) < data.levels
    x, log_abs_det = data.preprocessing.forward(
        torch.from_numpy(data.test[:50]), torch.Generator().manual_seed(0)
    )
    assert torch.isfinite(x).all()
    assert torch.isfinite(log_abs_det).all()


@pytest.mark.slow
@pytest.mark.usefixtures("real_data")
@pytest.mark.parametrize("name", SETS)
def test_verify(name: str) -> None:
    loaded(name)
    found = fetch.verify(name)
    assert found.ok, found


@pytest.mark.slow
@pytest.mark.usefixtures("real_data")
@pytest.mark.parametrize("name", [name for name in SETS if datasets.entry(name).published])
def test_gaussian_baseline_agrees_with_the_published_one(name: str) -> None:
    """Papamakarios et al. 2017, table 1; within a nat where the sample is another."""
    published = datasets.entry(name).published
    assert published is not None
    nll, error = gaussian_baseline(loaded(name))
    assert abs(-nll - published.log_likelihood) <= published.tolerance
    assert 2 * error == pytest.approx(published.bar, abs=0.05, rel=0.1)


@pytest.mark.usefixtures("real_data")
def test_cifar10_has_the_published_means() -> None:
    data = loaded("cifar10")
    together = np.concatenate([data.train, data.validation])
    means = together.mean(axis=(0, 2, 3)) / 255
    np.testing.assert_allclose(means, [0.49139968, 0.48215841, 0.44653091], atol=1e-8)
    assert data.train[0, :, 0, 0].tolist() == [59, 62, 63]


@pytest.mark.usefixtures("real_data")
def test_the_first_rows_of_miniboone_take_the_same_steps() -> None:
    """A published part of the array, too short for a result, long enough for the steps."""
    path = next((p for p in folder.files() if p.name == "miniboone_first1523.npz"), None)
    if path is None:
        pytest.skip("miniboone_first1523.npz is not in the data folder")
    with np.load(path) as arrays:
        rows = arrays["x"]
    splits = standardised_splits(rows)
    assert [split.shape for split in splits] == [(1234, 43), (137, 43), (152, 43)]
    seen = np.concatenate(splits[:2])
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(seen.std(axis=0), 1, atol=1e-4)


def test_a_second_load_of_power_makes_and_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.load("power")
    monkeypatch.setattr(np, "save", lambda *_: pytest.fail("it was made again"))
    data = datasets.load("power")
    for split in (data.train, data.validation, data.test):
        assert isinstance(split, np.memmap)
        assert torch.from_numpy(split).data_ptr() == split.ctypes.data
