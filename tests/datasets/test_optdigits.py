import numpy as np
import torch

import datasets
from datasets.base import named_seed
from datasets.gaussian_baseline import gaussian_baseline
from datasets.preprocessing import bits_per_dim


def test_splits() -> None:
    data = datasets.load("optdigits")
    assert data.event_shape == (1, 8, 8)
    assert data.dimension == 64
    assert data.levels == 17
    assert (len(data.train), len(data.validation), len(data.test)) == (3441, 382, 1797)
    assert data.train.dtype == np.uint8
    assert int(data.train.max()) == 16
    assert data.hashes == datasets.load("optdigits").hashes


def test_the_test_split_is_ucis() -> None:
    """Its first image is the zero that opens optdigits.tes and scikit-learn's digits."""
    first = datasets.load("optdigits").test[0, 0]
    assert first[0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert first[7].tolist() == [0, 0, 6, 13, 10, 0, 0, 0]


def test_no_image_is_lost_or_doubled_by_the_split() -> None:
    data = datasets.load("optdigits")
    both = np.concatenate([data.train, data.validation]).reshape(3823, 64)
    with np.load(datasets.images.optdigits.FILE) as stored:  # type: ignore[attr-defined]
        source = stored["x"][:3823].reshape(3823, 64)
    assert np.array_equal(np.sort(both, axis=0), np.sort(source, axis=0))
    assert {row.tobytes() for row in both} == {row.tobytes() for row in source}


def test_preprocessed_values_are_finite_and_repeatable() -> None:
    data = datasets.load("optdigits")
    raw = torch.as_tensor(data.test[:100])
    seed = named_seed("optdigits", "evaluation")
    x, log_abs_det = data.preprocessing.forward(raw, torch.Generator().manual_seed(seed))
    again, _ = data.preprocessing.forward(raw, torch.Generator().manual_seed(seed))
    assert torch.isfinite(x).all()
    assert torch.isfinite(log_abs_det).all()
    assert torch.equal(x, again)


def test_gaussian_baseline_beats_the_uniform_density() -> None:
    nll, error = gaussian_baseline(datasets.load("optdigits"))
    assert bits_per_dim(nll, 64) < np.log2(17)
    assert 0 < error < 1
