"""The contract of datasets/base.py as checks of any entry of a data set.

Sets that are read from files are loaded whole; a set whose files are not there raises DataMissing.
"""

from __future__ import annotations

import math
import pickle
import random
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

import datasets
from benchmarks.check import Check, DoesNotApply, collector, expect
from datasets.base import KINDS, SPLITS, Array, array_hash

__all__ = ["CHECKS"]

CHECKS: list[Check] = []
promise = collector(CHECKS)

FEW = 50


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loaded(name: str, **options: Any) -> datasets.Dataset:
    """A data set; where it refuses an option the check does not apply."""
    try:
        return _load(datasets.entry(name).config_class, name, tuple(options.items()))
    except datasets.DataMissing:
        raise
    except (ValidationError, datasets.DataError) as refusal:
        if not options:
            raise
        raise DoesNotApply(str(refusal)) from refusal


@lru_cache(maxsize=8)
def _load(config_class: type, name: str, options: tuple[tuple[str, Any], ...]) -> datasets.Dataset:
    """Loaded once for all checks; the class tells entries of one name apart."""
    return datasets.load(name, **dict(options))


@promise()
def splits_hold_events_of_one_shape(name: str) -> None:
    """Three splits hold rows of one event shape: finite float32, or uint8 below the levels."""
    data = loaded(name)
    expect(data.kind in KINDS, f"kind is {data.kind!r}, not one of {KINDS}")
    expect(len(data.event_shape) > 0 and min(data.event_shape) > 0, f"{data.event_shape}")
    for split in SPLITS:
        rows = data.split(split)
        expect(len(rows) > 1, f"{split} has {len(rows)} rows")
        expect(
            rows.shape[1:] == data.event_shape,
            f"{split} has events of shape {rows.shape[1:]}, the set {data.event_shape}",
        )
        if data.levels is None:
            expect(rows.dtype == np.float32, f"{split} is {rows.dtype}, not float32")
            expect(bool(np.isfinite(rows).all()), f"{split} has values that are not finite")
        else:
            expect(rows.dtype == np.uint8, f"{split} is {rows.dtype}, not uint8")
            largest = int(rows.max())
            expect(largest < data.levels, f"{split} has {largest} of {data.levels} levels")


@promise()
def hashes_are_those_of_the_values(name: str) -> None:
    """The hash of each split is that of its values, and no two are equal."""
    data = loaded(name)
    for split in SPLITS:
        expect(
            data.hashes.get(split) == array_hash(data.split(split)),
            f"that of {split} is not",
        )
    expect(len({data.hashes[split] for split in SPLITS}) == len(SPLITS), "two splits are equal")


def _global_states() -> tuple[bytes, ...]:
    others = np.random.get_state(), random.getstate()  # noqa: NPY002
    return torch.get_rng_state().numpy().tobytes(), *map(pickle.dumps, others)


@promise()
def loading_again_gives_the_same(name: str) -> None:
    """Loading again gives the same values, whatever the global generators do."""
    first = loaded(name)
    before = _global_states()
    again = datasets.load(name)
    expect(_global_states() == before, "a global generator was used")
    for split in SPLITS:
        expect(first.hashes[split] == again.hashes[split], f"{split} is another")


def _is_nested(part: Array, whole: Array) -> bool:
    rows = whole.reshape(len(whole), -1)
    return all(bool((rows == row).all(1).any()) for row in part.reshape(len(part), -1))


@promise()
def rows_shrink_the_training_split_alone(name: str) -> None:
    """Fewer rows are the first of more; validation and test stay the whole set's."""
    whole = loaded(name)
    larger, small = loaded(name, rows=20), loaded(name, rows=7)
    expect(len(small.train) == 7, f"rows = 7 gives {len(small.train)}")
    expect(np.array_equal(small.train, larger.train[:7]), "the first 7 of 20 rows are others")
    expect(_is_nested(larger.train, whole.train), "there are rows that the whole split has not")
    for split in SPLITS[1:]:
        same = np.array_equal(small.split(split), whole.split(split))
        expect(same, f"{split} depends on rows")


@promise()
def test_rows_shrink_the_test_split_alone(name: str) -> None:
    """Fewer test rows are the first of more, whatever the rows; the rest stays."""
    whole, both = loaded(name), loaded(name, rows=20, test_rows=7)
    part, more = loaded(name, test_rows=7), loaded(name, test_rows=9)
    expect(len(part.test) == 7, f"test_rows = 7 gives {len(part.test)}")
    expect(np.array_equal(part.test, more.test[:7]), "the first 7 of 9 test rows are others")
    expect(np.array_equal(part.test, both.test), "the test rows depend on rows")
    expect(np.array_equal(part.train, whole.train), "the training rows depend on test_rows")


@promise()
def another_split_is_another_division(name: str) -> None:
    """Another split has other training rows, of the same shape and as many, again the same."""
    first, second = loaded(name), loaded(name, split=1)
    again = datasets.load(name, split=1)
    expect(second.hashes["train"] != first.hashes["train"], "split = 1 has the same training rows")
    for split in SPLITS:
        same = second.split(split).shape == first.split(split).shape
        expect(same, f"{split} has another shape")
        expect(second.hashes[split] == again.hashes[split], f"{split} of split 1 is another again")


@promise()
def preprocessing_is_undone_by_its_inverse(name: str) -> None:
    """Stored values come back from model values, which are finite float32."""
    data = loaded(name)
    raw = torch.from_numpy(np.array(data.test[:FEW]))
    x, log_abs_det = data.preprocessing.forward(raw, generator())
    expect(x.dtype == torch.float32, f"model values are {x.dtype}")
    expect(x.shape == raw.shape, f"their shape is {tuple(x.shape)}")
    expect(log_abs_det.shape == (len(raw),), "the log-determinant is not one number a row")
    expect(bool(x.isfinite().all() and log_abs_det.isfinite().all()), "values are not finite")
    back = data.preprocessing.inverse(x)
    if data.levels is None:
        torch.testing.assert_close(back, raw.to(back.dtype), atol=1e-4, rtol=1e-4)
    else:
        # Integers come back with their dequantisation noise.
        noise = back - raw
        inside = (noise > -1e-2) & (noise < 1 + 1e-2)
        expect(bool(inside.all()), f"noise is from {noise.min():.3g} to {noise.max():.3g}")


@promise()
def preprocessing_has_autograds_log_determinant(name: str) -> None:
    """The log-determinant is that of the Jacobian, as automatic differentiation has it."""
    data = loaded(name)
    if data.dimension > 200:
        raise DoesNotApply("the Jacobian of so many numbers takes long")
    raw = torch.from_numpy(np.array(data.test[:3]))
    x, log_abs_det = data.preprocessing.forward(raw, generator())
    for row, change in zip(x.double(), log_abs_det, strict=True):

        def inverse(value: torch.Tensor) -> torch.Tensor:
            return data.preprocessing.inverse(value[None])[0]

        jacobian = torch.autograd.functional.jacobian(inverse, row)
        size = data.dimension
        truth = -torch.linalg.slogdet(jacobian.reshape(size, size)).logabsdet
        torch.testing.assert_close(change.double(), truth, atol=1e-3 * size, rtol=1e-3)


@promise()
def preprocessing_noise_comes_from_the_generator(name: str) -> None:
    """With a generator preprocessing repeats."""
    data = loaded(name)
    raw = torch.from_numpy(np.array(data.test[:FEW]))
    first, second = (data.preprocessing.forward(raw, generator(3))[0] for _ in range(2))
    expect(torch.equal(first, second), "values of equal generators differ")


def _with_truth(name: str) -> tuple[datasets.Dataset, datasets.Truth]:
    data = loaded(name)
    if data.truth is None:
        raise DoesNotApply("nobody knows its density")
    return data, data.truth


@promise()
def entropy_is_the_mean_nll_of_the_test_rows(name: str) -> None:
    """The true entropy is the mean NLL of the test rows under the true density."""
    data, truth = _with_truth(name)
    nll = -truth.log_prob(torch.from_numpy(np.array(data.test)).double())
    expect(nll.shape == (len(data.test),), f"log_prob has shape {tuple(nll.shape)}")
    expect(nll.dtype == torch.float64, f"log_prob is {nll.dtype}, not float64")
    expect(bool(nll.isfinite().all()), "test rows have no density")
    error = float(nll.std()) / math.sqrt(len(nll))
    difference = abs(float(nll.mean()) - truth.entropy_nats)
    # A uniform density has no spread at all.
    expect(
        difference < 5 * error + 1e-4,
        f"mean NLL {float(nll.mean()):.4f}, entropy {truth.entropy_nats:.4f} nats, "
        f"standard error {error:.4f}",
    )


@promise()
def density_in_the_plane_integrates_to_one(name: str) -> None:
    """In two dimensions the true density integrates to one."""
    data, truth = _with_truth(name)
    if data.event_shape != (2,):
        raise DoesNotApply("it is not in the plane")
    # Cubes spread a uniform grid over the far tails; midpoints, since an edge has no value.
    reach = 1.2 * max(float(np.abs(data.train).max()), 3.0)
    points = 500
    step = 2 * reach ** (1 / 3) / points
    s = -(reach ** (1 / 3)) + step * (torch.arange(points, dtype=torch.float64) + 0.5)
    x, weight = s**3, 3 * s**2 * step
    mass = 0.0
    for rows, row_weight in zip(x.split(100), weight.split(100), strict=True):
        density = truth.log_prob(torch.cartesian_prod(rows, x)).exp().reshape(len(rows), points)
        mass += float(row_weight @ density @ weight)
    expect(abs(mass - 1) < 2e-2, f"the integral is {mass:.4f}")
