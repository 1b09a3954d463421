import numpy as np
import pytest

import datasets
from datasets.gaussian_baseline import gaussian_baseline
from datasets.tables.power import COLUMNS, PowerConfig, prepare_power


def columns_of(n: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    limits = {"gap": 5000, "volt": 25000, "sm1": 80, "sm2": 80, "sm3": 30, "minute": 1440}
    return {name: random.integers(limits[name], size=n).astype(np.uint16) for name in COLUMNS}


def test_recipe_row_by_row() -> None:
    """The published steps, done literally: rows of eight columns, two of them deleted."""
    n = 1000
    columns = columns_of(n)
    rows = np.stack(
        [
            columns["gap"] / 1000,
            np.zeros(n),
            columns["volt"] / 100,
            np.zeros(n),
            *(columns[name].astype(float) for name in ("sm1", "sm2", "sm3", "minute")),
        ],
        axis=1,
    )
    random = np.random.RandomState(42)
    random.shuffle(rows)
    rows = np.delete(rows, [1, 3], axis=1)
    volt = 0.01 * random.rand(n, 1)
    gap = 0.001 * random.rand(n, 1)
    meters = random.rand(n, 3)
    rows[:, :5] += np.hstack([gap, volt, meters])
    splits = prepare_power(columns)
    assert [len(split) for split in splits] == [810, 90, 100]
    got = np.concatenate(splits).astype(float)
    # Standardised with the first 900 rows; compared here up to that affine map.
    for i in range(5):
        column = (rows[:, i] - rows[:900, i].mean()) / rows[:900, i].std()
        np.testing.assert_allclose(got[:, i], column, atol=1e-5)
    spread, middle = rows[:900, 5].std(), rows[:900, 5].mean()
    noise = got[:, 5] * spread + middle - rows[:, 5]
    # Uniform noise of one minute, in standardised units shifted by its own mean.
    assert 0.85 < float(noise.max() - noise.min()) < 1.1
    assert len(np.unique(np.round(got[:, 5], 5))) > 900


@pytest.mark.slow
def test_gaussian_baseline_of_the_maf_paper() -> None:
    """Table 1 of arXiv:1705.07057: -7.74 +- 0.02, two standard errors."""
    data = datasets.load("power")
    assert (len(data.train), len(data.validation), len(data.test)) == PowerConfig.split_sizes
    assert data.train.dtype == np.float32
    nll, error = gaussian_baseline(data)
    assert nll == pytest.approx(7.742, abs=0.002)
    assert 2 * error == pytest.approx(0.024, abs=0.001)


@pytest.mark.slow
def test_power_is_the_same_on_every_machine() -> None:
    """Integer draws, sums in a fixed order and divisions: no bit may differ, or records drift."""
    assert datasets.load("power").hashes == datasets.entry("power").hashes
