"""The three options that every set has: rows, test_rows and split."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
from benchmarks.matrix import load_matrix
from datasets.base import Array, Dataset, DatasetConfig, array_hash, named_seed
from datasets.sampled.banana import Banana
from datasets.sampled.funnel import Funnel
from datasets.sampled.gaussian import Gaussian, random_rotation
from datasets.sampled.mixture import Mixture
from datasets.sampled.student_t import StudentT
from datasets.sampled.toy import SHAPES
from datasets.sampling import Density, SampledConfig
from datasets.stored import StoredConfig
from datasets.tables import bsds300_style

SAMPLED = [*SHAPES, "gaussian", "isotropic", "mixture", "funnel", "student-t", "banana"]
NAMES = ("train", "validation", "test")


class Made(StoredConfig):
    """A table whose row number stands in its first column, in the order of a file."""

    kind = "tabular"
    calls: ClassVar[list[str]] = []

    def sizes(self) -> tuple[int, int, int]:
        return 80, 8, 12

    def source(self) -> str:
        return "made"

    def prepare(self) -> Sequence[Array]:
        self.calls.append("prepared")
        rows = np.arange(300, dtype=np.float32).reshape(100, 3)
        return [rows[:80], rows[80:88], rows[88:]]


class MadeInOrder(Made):
    in_random_order = True


class MadeWithTest(Made):
    test_is_published = True


class MadeAnew(Made):
    kept = False


def sets() -> list[DatasetConfig]:
    """A configuration of each kind; the large tables take the path of the made-up ones."""
    stored = [Made(), MadeInOrder(), MadeWithTest(), MadeAnew(), datasets.configure("optdigits")]
    return [*stored, *(datasets.configure(name) for name in SAMPLED)]


def load(config: DatasetConfig, **options: int) -> Dataset:
    changed = type(config).model_validate({**config.model_dump(), **options})
    return changed.load("a set")


@pytest.mark.parametrize("config", sets(), ids=lambda config: type(config).__name__)
def test_rows_shrink_the_training_split_alone_and_are_nested(config: DatasetConfig) -> None:
    whole = load(config)
    small, larger = load(config, rows=11), load(config, rows=37)
    assert (len(small.train), len(larger.train)) == (11, 37)
    np.testing.assert_array_equal(small.train, larger.train[:11])
    rows = {row.tobytes() for row in whole.train}
    assert {row.tobytes() for row in larger.train} <= rows
    for part in (small, larger):
        assert part.hashes["train"] == array_hash(part.train) != whole.hashes["train"]
        for split in NAMES[1:]:
            np.testing.assert_array_equal(part.split(split), whole.split(split))
            assert part.hashes[split] == whole.hashes[split]
    with_all = load(config, rows=len(whole.train))
    assert with_all.hashes == whole.hashes


@pytest.mark.parametrize("config", sets(), ids=lambda config: type(config).__name__)
def test_test_rows_shrink_the_test_split_alone_whatever_the_rows(config: DatasetConfig) -> None:
    whole, part = load(config), load(config, test_rows=7)
    np.testing.assert_array_equal(part.train, whole.train)
    np.testing.assert_array_equal(part.test, load(config, test_rows=9).test[:7])
    both = load(config, rows=20, test_rows=7)
    assert both.hashes["test"] == part.hashes["test"] == array_hash(part.test)
    assert both.hashes["validation"] == whole.hashes["validation"]


def test_rows_of_a_file_in_order_are_chosen_at_random() -> None:
    """The first tenth of the file would be its beginning alone."""
    numbers = load(Made(), rows=20).train[:, 0] / 3
    assert len(set(numbers)) == 20
    assert numbers.min() < 20
    assert numbers.max() > 60
    assert load(MadeInOrder(), rows=20).train[:, 0].tolist() == [3 * i for i in range(20)]


@pytest.mark.parametrize("name", SAMPLED)
def test_more_rows_than_usual_go_on_where_the_usual_ones_end(name: str) -> None:
    usual = datasets.load(name)
    count = len(usual.train) + 5000
    more = datasets.load(name, rows=count)
    assert len(more.train) == count
    np.testing.assert_array_equal(more.train[: len(usual.train)], usual.train)
    assert not np.array_equal(more.train[-5000:], usual.train[:5000])
    assert len(np.unique(more.train, axis=0)) == count


def density_of(name: str, random: np.random.Generator) -> Density:
    """With the catalog's options, from the classes themselves."""
    two = np.array([10**0.5, 10**-0.5])
    if name in SHAPES:
        return SHAPES[name]()
    if name == "banana":
        return Banana(2, 2.0, 0.75)
    if name == "funnel":
        return Funnel(10, 3.0)
    axes = random_rotation(2, random)
    if name == "mixture":
        return Mixture(axes, 8, 8.0, 1.0)
    if name == "student-t":
        return StudentT(axes, two, 3.0)
    return Gaussian(axes, two if name == "gaussian" else np.ones(2))


@pytest.mark.parametrize("name", SAMPLED)
def test_split_0_of_a_sampled_set_is_one_draw_from_each_named_generator(name: str) -> None:
    """What every record so far was made with."""
    dimension = 10 if name == "funnel" else 2
    family = "gaussian" if name == "isotropic" else name
    names = (name,) if name in SHAPES else (family, dimension)

    def random(purpose: str) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(named_seed(*names, purpose)))

    density = density_of(name, random("rotation"))
    data = datasets.load(name)
    for split, n in zip(
        NAMES, (100_000 if name in SHAPES else 50_000, 10_000, 10_000), strict=True
    ):
        drawn = density.sample(n, random(split)).astype(np.float32)
        np.testing.assert_array_equal(data.split(split), drawn)


@pytest.mark.parametrize("name", SAMPLED)
def test_another_split_of_a_sampled_set_is_another_draw_from_the_same_density(name: str) -> None:
    first, second = datasets.load(name, rows=500), datasets.load(name, rows=500, split=1)
    third = datasets.load(name, rows=500, split=2)
    hashes = [data.hashes[split] for data in (first, second, third) for split in NAMES]
    assert len(set(hashes)) == len(hashes)
    assert datasets.load(name, rows=500, split=1).hashes == second.hashes
    config = datasets.configure(name, {"split": 1})
    assert isinstance(config, SampledConfig)
    assert first.truth is not None
    for x in (first.test, second.test):
        points = torch.from_numpy(x[:100])
        expected = first.truth.log_prob(points)
        torch.testing.assert_close(config.density().log_prob(points), expected, rtol=0, atol=0)


def numbers_of(data: Dataset) -> list[set[float]]:
    return [set(data.split(split)[:, 0].tolist()) for split in NAMES]


@pytest.mark.parametrize("kind", [Made, MadeWithTest, MadeAnew])
def test_another_split_of_a_table_shuffles_the_same_rows(kind: type[Made]) -> None:
    first, second, third = (kind(split=i).load("made") for i in range(3))
    for data in (second, third):
        assert [len(data.split(split)) for split in NAMES] == [80, 8, 12]
        found, before = numbers_of(data), numbers_of(first)
        assert set.union(*found) == set.union(*before)
        assert sum(map(len, found)) == 100
        assert found[0] != before[0]
        assert found[1] != before[1]
        # A published test split is the same in every split.
        assert (found[2] == before[2]) == kind.test_is_published
        assert (data.hashes["test"] == first.hashes["test"]) == kind.test_is_published
    assert numbers_of(second) != numbers_of(third)
    assert kind(split=1).load("made").hashes == second.hashes


def test_another_split_is_kept_beside_the_first() -> None:
    Made.calls.clear()
    for _ in range(2):
        data = Made(split=3).load("made")
        Made().load("made")
    assert Made.calls == ["prepared"]
    assert isinstance(data.train, np.memmap)


def test_other_splits_of_patches_come_from_other_training_images(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of one patch each, told apart by how much lighter their right half is."""
    monkeypatch.setattr(bsds300_style.Bsds300StyleConfig, "split_sizes", (180, 20, 100))
    with tarfile.open(data_folder / "BSDS300-images.tgz", "w:gz") as archive:
        for i in range(300):
            # Two names by which the archive is recognised are among these.
            name = f"test/{101_085 + i}" if i < 100 else f"train/{100_075 + i - 100}"
            pixels = np.zeros((8, 8), np.uint8)
            pixels[:, 4:] = i if i < 100 else i - 100
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "JPEG", quality=100)
            entry = tarfile.TarInfo(f"images/{name}.jpg")
            entry.size = len(stream.getvalue())
            archive.addfile(entry, io.BytesIO(stream.getvalue()))

    def steps(rows: Array) -> Array:
        last = -rows.sum(axis=1, keepdims=True)
        patches = np.concatenate([rows, last], axis=1).reshape(-1, 8, 8)
        return np.sort(256 * (patches[:, :, 4:] - patches[:, :, :4]).mean(axis=(1, 2)))

    first, second = (datasets.load("bsds300-style", split=i) for i in range(2))
    for data in (first, second):
        seen = np.concatenate([data.train, data.validation])
        np.testing.assert_allclose(steps(seen), np.arange(200), atol=2)
        np.testing.assert_allclose(steps(data.test), np.arange(100), atol=2)
    assert np.abs(steps(first.validation) - steps(second.validation)).max() > 5
    # Other noise, so other patches, of the same test images.
    assert first.hashes["test"] != second.hashes["test"]


def test_the_published_patches_have_one_split() -> None:
    with pytest.raises(ValueError, match="bsds300-style"):
        datasets.load("bsds300", split=1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("power", {"rows": 2_000_000}),
        ("power", {"test_rows": 204_929}),
        ("parkinsons", {"rows": 4_761}),
        ("optdigits", {"rows": 3_442}),
        ("moons", {"test_rows": 10_001}),
        ("moons", {"rows": 0}),
        ("moons", {"split": -1}),
    ],
)
def test_rows_that_are_not_there_are_refused_before_anything_is_read(
    name: str, options: dict[str, int]
) -> None:
    (option,) = options
    with pytest.raises(ValueError, match=option):
        datasets.configure(name, options)


def test_splits_are_an_axis_of_a_matrix(tmp_path: Path) -> None:
    path = tmp_path / "splits.toml"
    path.write_text(
        'name = "splits"\n[[study]]\nflows = ["maf"]\nseeds = [0, 1]\n'
        'datasets = [{ name = "power", rows = 20000, split = [0, 1, 2] }]\n'
    )
    cells = load_matrix(str(path)).cells
    assert [cell.dataset_options["split"] for cell in cells].count(2) == 2
    assert len({cell.key for cell in cells}) == 6
    assert {cell.dataset_label for cell in cells} == {
        "power[rows=20000]",
        "power[rows=20000,split=1]",
        "power[rows=20000,split=2]",
    }


@pytest.mark.slow
def test_a_part_of_power_is_standardised_as_the_whole_is() -> None:
    """The values of every size and split are those of the one table, so NLLs compare."""
    whole, part = datasets.load("power"), datasets.load("power", rows=5000, test_rows=2469)
    np.testing.assert_array_equal(part.train, whole.train[:5000])
    np.testing.assert_array_equal(part.test, whole.test[:2469])
    assert [len(part.split(split)) for split in NAMES] == [5000, 184_435, 2469]
    other = datasets.load("power", split=1)
    columns = [np.concatenate([data.split(s) for s in NAMES]) for data in (whole, other)]
    np.testing.assert_array_equal(*(np.sort(rows, axis=0) for rows in columns))
    assert other.hashes["test"] != whole.hashes["test"]
