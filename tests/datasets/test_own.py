"""One's own tables and images: what is made of them, and what is said of bad ones."""

import gzip
import hashlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import datasets
from benchmarks.matrix import load_matrix
from datasets import DataError, DataMissing
from datasets.files import fetch
from datasets.tables.own import discreteness

NAMES: tuple[datasets.Split, ...] = ("train", "validation", "test")


@pytest.fixture
def values() -> np.ndarray:
    random = np.random.default_rng(0)
    return random.standard_normal((200, 3)) @ random.standard_normal((3, 3)) * 4 + 7


def frame(values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(values, columns=list("abc"[: values.shape[1]]))


@pytest.fixture
def csv(tmp_path: Path, values: np.ndarray) -> Path:
    path = tmp_path / "my.csv"
    frame(values).to_csv(path, index=False)
    return path


def load(path: Path, name: str = "table", **options: Any) -> datasets.Dataset:
    return datasets.load(name, path=str(path), **options)


def pooled(data: datasets.Dataset) -> np.ndarray:
    return np.concatenate([data.split(split) for split in NAMES])


def in_order(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T)]


# -- tables ------------------------------------------------------------------------------------


def test_a_table_is_divided_and_standardised_with_train_statistics(
    csv: Path, values: np.ndarray
) -> None:
    data = load(csv)
    assert (data.kind, data.event_shape) == ("tabular", (3,))
    assert [len(data.split(split)) for split in NAMES] == [160, 20, 20]
    np.testing.assert_allclose(data.train.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(data.train.std(axis=0), 1, atol=1e-6)
    assert [column.name for column in data.columns] == ["a", "b", "c"]
    mean = np.array([column.mean for column in data.columns])
    deviation = np.array([column.deviation for column in data.columns])
    back = pooled(data).astype(np.float64) * deviation + mean
    np.testing.assert_allclose(in_order(back), in_order(values), atol=1e-5)
    assert data.remarks == ()
    assert data.hashes["train_file"] == hashlib.sha256(csv.read_bytes()).hexdigest()
    assert data.hashes == load(csv).hashes


def test_another_split_has_the_same_values_in_other_places(csv: Path) -> None:
    first, second = load(csv), load(csv, split=1)
    assert first.hashes["test"] != second.hashes["test"]
    np.testing.assert_array_equal(in_order(pooled(first)), in_order(pooled(second)))
    part = load(csv, rows=50, test_rows=5)
    assert (len(part.train), len(part.test)) == (50, 5)
    np.testing.assert_array_equal(part.train[:20], load(csv, rows=20).train)
    assert part.hashes["train_file"] == first.hashes["train_file"]


def test_fractions(csv: Path) -> None:
    data = load(csv, validation_fraction=0.25, test_fraction=0.5)
    assert [len(data.split(split)) for split in NAMES] == [50, 50, 100]


def test_given_files_are_the_splits(tmp_path: Path, csv: Path, values: np.ndarray) -> None:
    test = tmp_path / "test.csv"
    frame(values[:30] + 1).to_csv(test, index=False)
    data = load(csv, test_path=str(test))
    assert [len(data.split(split)) for split in NAMES] == [180, 20, 30]
    assert {"train_file", "test_file"} <= data.hashes.keys()
    mean, deviation = np.array([(c.mean, c.deviation) for c in data.columns]).T
    np.testing.assert_allclose(data.test * deviation + mean, values[:30] + 1, atol=1e-5)
    other = load(csv, test_path=str(test), split=1)
    np.testing.assert_array_equal(other.test, data.test)
    assert other.hashes["validation"] != data.hashes["validation"]
    both = load(csv, test_path=str(test), validation_path=str(test))
    assert [len(both.split(split)) for split in NAMES] == [200, 30, 30]
    with pytest.raises(ValueError, match=r"split = 1 draws .* but both are files"):
        load(csv, test_path=str(test), validation_path=str(test), split=1)
    renamed = tmp_path / "renamed.csv"
    frame(values).rename(columns={"c": "d"}).to_csv(renamed, index=False)
    with pytest.raises(DataError, match=r"renamed\.csv has the columns a, b, d, but .*a, b, c"):
        load(csv, test_path=str(renamed))


def write_hdf5(path: Path, values: np.ndarray) -> None:
    with h5py.File(path, "w") as stored:
        stored["group/x"] = values
        stored["labels"] = np.arange(len(values))


WRITERS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "my.csv": lambda path, values: frame(values).to_csv(path, index=False),
    "plain.csv": lambda path, values: frame(values).to_csv(path, index=False, header=False),
    "my.tsv": lambda path, values: frame(values).to_csv(path, index=False, sep="\t"),
    "my.csv.gz": lambda path, values: path.write_bytes(
        gzip.compress(frame(values).to_csv(index=False).encode())
    ),
    "my.npy": lambda path, values: np.save(path, values),
    "my.npz": lambda path, values: np.savez(path, x=values, labels=np.arange(len(values))),
    "my.h5": write_hdf5,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_holds_the_same_numbers(
    name: str, tmp_path: Path, csv: Path, values: np.ndarray
) -> None:
    path = tmp_path / name
    WRITERS[name](path, values)
    for split in NAMES:
        np.testing.assert_array_equal(load(path).split(split), load(csv).split(split))


def test_parquet_where_pyarrow_is_there(tmp_path: Path, csv: Path, values: np.ndarray) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "my.parquet"
    frame(values).to_parquet(path)
    np.testing.assert_array_equal(load(path).train, load(csv).train)


def test_a_table_as_pandas_writes_it(tmp_path: Path, csv: Path, values: np.ndarray) -> None:
    """Columns without names are called 0, 1, 2; the index is an unnamed column."""
    pd.DataFrame(values).to_csv(tmp_path / "unnamed.csv", index=False)
    unnamed = load(tmp_path / "unnamed.csv")
    assert [column.name for column in unnamed.columns] == ["0", "1", "2"]
    np.testing.assert_array_equal(unnamed.train, load(csv).train)
    frame(values).to_csv(tmp_path / "index.csv")
    (first, _) = load(tmp_path / "index.csv").remarks
    assert first.startswith("column 'Unnamed: 0' numbers the rows: drop_columns = ['Unnamed: 0']")


def test_types_of_columns(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path = tmp_path / "MY.NPY"
    with path.open("wb") as stream:
        np.save(stream, random.random((50, 2)) < 0.5)
    assert [column.spacing for column in load(path).columns] == [1.0, 1.0]
    np.save(tmp_path / "my.npy", random.random((50, 2)).astype(np.float16))
    assert load(tmp_path / "my.npy").event_shape == (2,)
    np.save(tmp_path / "my.npy", np.array([["a", "b"]] * 30))
    with pytest.raises(DataError, match="row 1, column 'column 1': 'a' is no number"):
        load(tmp_path / "my.npy")


@pytest.mark.parametrize(("name", "library"), [("my.parquet", "pyarrow"), ("my.h5", "h5py")])
def test_a_library_that_is_not_there_is_named(
    name: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(DataError, match=f"{name} needs {library}: pip install {library}"):
        load(tmp_path / name)


def test_constant_columns_are_dropped_and_named(tmp_path: Path, values: np.ndarray) -> None:
    table = frame(values).assign(same=3.5, b=1)
    table.to_csv(tmp_path / "my.csv", index=False)
    data = load(tmp_path / "my.csv")
    assert [column.name for column in data.columns] == ["a", "c"]
    assert data.remarks == ("constant columns were dropped: 'b', 'same'",)
    table[["b", "same"]].to_csv(tmp_path / "dull.csv", index=False)
    with pytest.raises(DataError, match="every column is constant"):
        load(tmp_path / "dull.csv")


def test_discrete_columns_get_noise_of_their_spacing(tmp_path: Path, values: np.ndarray) -> None:
    random = np.random.default_rng(1)
    table = frame(values)
    table["b"] = 2 * random.integers(5, size=200)
    table["c"] = random.integers(8, size=200) / 10
    table.to_csv(tmp_path / "my.csv", index=False)
    data = load(tmp_path / "my.csv")
    assert [column.spacing for column in data.columns[:2]] == [None, 2.0]
    assert data.columns[2].spacing == pytest.approx(0.1)
    assert data.remarks == (
        "column 'b' has 5 whole values: uniform noise on [0, 2) was added",
        "column 'c' has 8 values: uniform noise on [0, 0.1) was added",
    )
    mean, deviation = np.array([(c.mean, c.deviation) for c in data.columns]).T
    back = pooled(data).astype(np.float64) * deviation + mean
    # The noise does not move a value to its neighbour, and no two values are the same any more.
    np.testing.assert_array_equal(
        np.sort(np.floor(back[:, 1] / 2 + 1e-6)), np.sort(table["b"].to_numpy() // 2)
    )
    assert len(np.unique(data.train[:, 1])) == len(data.train)
    assert data.hashes == load(tmp_path / "my.csv").hashes
    with pytest.raises(DataError, match="'b' has 5 whole values; column 'c' has 8 values; dequan"):
        load(tmp_path / "my.csv", dequantise=False)


def test_what_is_discrete() -> None:
    random = np.random.default_rng(0)
    continuous = random.standard_normal(1000)
    assert discreteness(continuous) is None
    assert discreteness(np.full(5, 1.5)) is None
    # A resolution that makes values recur is one, whole or not.
    coarse = discreteness(np.round(continuous, 1))
    assert coarse is not None
    assert coarse.spacing == pytest.approx(0.1)
    assert discreteness(np.round(continuous, 6)) is None
    # Sums that differ in their last bits are the same values.
    bits = discreteness(np.array([0.1 + 0.2, 0.3, 0.5, 0.5, 0.3, 0.3]))
    assert bits is not None
    assert bits.spacing == pytest.approx(0.2)
    unique = discreteness(np.arange(100.0))
    assert unique is not None
    assert (unique.whole, unique.spacing) == (True, 1.0)


def test_a_value_that_many_rows_share_is_told(tmp_path: Path, values: np.ndarray) -> None:
    values[:60, 1] = 0.0
    frame(values).to_csv(tmp_path / "my.csv", index=False)
    data = load(tmp_path / "my.csv")
    (remark,) = data.remarks
    assert remark.startswith("column 'b': 30.0 % of the rows share a few values")
    assert data.columns[1].spacing is None


def test_missing_values(tmp_path: Path, values: np.ndarray) -> None:
    values[4, 1], values[7, 2], values[9, 0] = np.nan, np.inf, -np.inf
    path = tmp_path / "my.csv"
    frame(values).to_csv(path, index=False)
    expected = r"my\.csv, row 5, column 'b': nan \(3 of 200 rows .*missing = \"drop\".*\['b'\]"
    with pytest.raises(DataError, match=expected):
        load(path)
    data = load(path, missing="drop")
    assert sum(len(data.split(split)) for split in NAMES) == 197
    (remark,) = data.remarks
    assert remark.startswith("3 of 200 rows of my.csv were dropped")
    with pytest.raises(DataError, match="row 8, column 'c': inf"):
        load(path, drop_columns=["a", "b"])


def test_text_is_refused(tmp_path: Path, values: np.ndarray) -> None:
    table = frame(values).astype(object)
    table.loc[2, "c"] = "n. k."
    path = tmp_path / "my.csv"
    table.to_csv(path, index=False)
    for missing in ("refuse", "drop"):
        with pytest.raises(DataError, match=r"row 3, column 'c': 'n\. k\.' is no .*\['c'\] leaves"):
            load(path, missing=missing)
    assert load(path, drop_columns=["c"]).event_shape == (2,)
    with pytest.raises(DataError, match="no column 'cc'; did you mean 'c'"):
        load(path, drop_columns=["cc"])
    with pytest.raises(DataError, match="no column 'other': a, b, c"):
        load(path, drop_columns=["other"])
    with pytest.raises(DataError, match="no column left"):
        load(path, drop_columns=["a", "b", "c"])


def saved(save: Callable[[Any], object]) -> bytes:
    stream = io.BytesIO()
    save(stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("my.csv", b"", "no complete table"),
        ("my.csv", b"a,b\n1,2,3\n4,5,6\n", "no complete table"),
        ("my.csv", b"a,b\n1,2\n4,5,6\n", "no complete table"),
        ("my.csv", b"a,b\n1,2\n4\n", "row 2, column 'b': nan"),
        # No time in it, which would be part of the name of the test.
        ("my.csv.gz", gzip.compress(b"a,b\n1.5,2.5\n", mtime=0)[:-9], "no complete table"),
        ("my.csv", b"a,b\n1.5,2.5\n3.5,4.5\n", "has 2 rows, which leave 0 for validation"),
        ("my.csv", b"day\n2020-01-01\n", "'2020-01-01' is no number"),
        ("my.xlsx", b"PK", r"a table is one of \.csv, \.tsv, \.parquet"),
        ("my.npy", b"\x93NUMPY", "no complete .*file"),
        ("my.npy", saved(lambda f: np.save(f, np.zeros(3))), "no array of 2 dimensions"),
        ("my.npy", saved(lambda f: np.save(f, np.zeros((9, 2), complex))), "0j.* is no number"),
        ("my.npz", b"PK", "no complete .*file"),
        (
            "my.npz",
            saved(lambda f: np.savez(f, x=np.zeros((9, 2)), y=np.zeros((9, 1)))),
            r"holds x \(9, 2\), y \(9, 1\); say which with array = 'x'",
        ),
        ("my.h5", b"\x89HDF\r\n\x1a\n", "no complete .*file"),
        ("my.csv", b"a\n" + b"1e308\n-1.5e308\n" * 9, "column 'a': .*cannot be standardised"),
        ("my.csv", b"a\n" + b"1e-300\n2e-300\n3.5e-300\n" * 9, "column 'a': .*cannot be stand"),
    ],
)
def test_bad_tables_are_told_in_words(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path / name)
    assert name in str(caught.value)


def test_array_chooses(tmp_path: Path, csv: Path, values: np.ndarray) -> None:
    path = tmp_path / "my.npz"
    np.savez(path, x=values, y=values[:, :1])
    np.testing.assert_array_equal(load(path, array="x").train, load(csv).train)
    with pytest.raises(DataError, match=r"no array 'z'; it holds x \(200, 3\), y"):
        load(path, array="z")


def test_options_that_cannot_be(csv: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"fractions of 1\.1 leave no row"):
        load(csv, validation_fraction=0.5, test_fraction=0.6)
    with pytest.raises(DataError, match="rows = 161, but the split has 160"):
        load(csv, rows=161)
    with pytest.raises(DataError, match="test_rows = 21, but the split has 20"):
        load(csv, test_rows=21)
    with pytest.raises(DataMissing, match=r"there is no .*nowhere\.csv; correct its path"):
        load(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("name", ["table", "images"])
def test_without_a_path_one_is_told_what_to_write(name: str) -> None:
    with pytest.raises(DataMissing, match=rf'{{ name = "{name}", path = "my\.\w+" }}'):
        datasets.load(name)
    assert fetch.status(name).state == "user-supplied"
    assert "path = " in fetch.status(name).advice
    with pytest.raises(DataMissing, match="path = "):
        fetch.fetch(name)
    assert fetch.verify(name).missing is not None


def test_a_matrix_file_takes_them(csv: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\n[[study]]\nflows = ["maf"]\ndatasets = '
        f'[{{ name = "table", path = "{csv}", drop_columns = ["c"], split = [0, 1] }}]\n'
    )
    first, second = load_matrix(str(path)).cells
    assert first.dataset_label == f"table[path={csv},drop_columns=c]"
    assert second.dataset_config().load("table").event_shape == (2,)


# -- images ------------------------------------------------------------------------------------


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(40, 6, 5, 3), dtype=np.uint8)


def write_folder(folder: Path, pictures: np.ndarray) -> Path:
    for i, picture in enumerate(pictures):
        path = folder / f"part-{i % 2}" / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_a_folder_of_images(tmp_path: Path, pictures: np.ndarray) -> None:
    folder = write_folder(tmp_path / "mine", pictures)
    data = load(folder, "images")
    assert (data.kind, data.event_shape, data.levels) == ("image", (3, 6, 5), 256)
    assert [len(data.split(split)) for split in NAMES] == [32, 4, 4]
    channels_first = pictures.transpose(0, 3, 1, 2)
    assert {x.tobytes() for x in pooled(data)} == {x.tobytes() for x in channels_first}
    x, log_abs_det = data.preprocessing.forward(
        torch.from_numpy(data.test), torch.Generator().manual_seed(0)
    )
    assert x.isfinite().all()
    assert log_abs_det.isfinite().all()
    Image.fromarray(pictures[0, ::-1].copy()).save(folder / "part-0" / "000.png")
    assert load(folder, "images").hashes["train_file"] != data.hashes["train_file"]


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 3, 1, 2), None])
def test_an_array_of_images(
    axes: tuple[int, ...] | None, tmp_path: Path, pictures: np.ndarray
) -> None:
    array = pictures[..., 0] if axes is None else pictures.transpose(axes)
    np.savez(tmp_path / "my.npz", x=array % 16, labels=np.arange(40))
    data = load(tmp_path / "my.npz", "images", levels=16, alpha=None)
    assert data.event_shape == ((1 if axes is None else 3), 6, 5)
    expected = (pictures[..., :1] if axes is None else pictures).transpose(0, 3, 1, 2) % 16
    assert {x.tobytes() for x in pooled(data)} == {x.tobytes() for x in expected}
    given = load(tmp_path / "my.npz", "images", test_path=str(tmp_path / "my.npz"))
    assert [len(given.split(split)) for split in NAMES] == [36, 4, 40]


def test_black_and_white_images_are_grey(tmp_path: Path) -> None:
    for i in range(20):
        Image.new("1", (4, 4), i % 2).save(tmp_path / f"{i}.png")
    data = load(tmp_path, "images")
    assert data.event_shape == (1, 4, 4)
    assert set(np.unique(data.train)) == {0, 255}


def test_bad_images_are_told_in_words(tmp_path: Path, pictures: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"holds no image; one ends in \.png"):
        load(tmp_path, "images")
    folder = write_folder(tmp_path / "mine", pictures)
    odd = folder / "part-1" / "odd.png"
    Image.fromarray(pictures[0, :4]).save(odd)
    with pytest.raises(DataError, match=r"odd\.png has the shape \(3, 4, 5\), but .*000\.png"):
        load(folder, "images")
    Image.fromarray(pictures[0]).convert("RGBA").save(odd)
    with pytest.raises(DataError, match=r"odd\.png is of the mode RGBA"):
        load(folder, "images")
    odd.write_bytes(odd.read_bytes()[:60])
    with pytest.raises(DataError, match=r"odd\.png is no complete image"):
        load(folder, "images")


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.full((9, 4, 4), 17, np.uint8), {"levels": 17}, "image 1: the value 17 is none of 0 to"),
        (np.full((9, 4, 4), -1), {}, "image 1: the value -1"),
        (np.zeros((9, 4, 4)), {}, "holds float64: images are integers"),
        (np.zeros((9, 2, 4, 5), int), {}, "neither the second nor the last axis"),
        (np.zeros((9, 4), int), {}, "no array of 3 or 4 dimensions"),
        (np.zeros((4, 4, 4), int), {}, "leave 0 for validation"),
    ],
)
def test_bad_arrays_of_images_are_told_in_words(
    array: np.ndarray, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "my.npy", array)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "my.npy", "images", **options)


def test_images_of_other_sizes_and_formats_are_refused(
    tmp_path: Path, pictures: np.ndarray
) -> None:
    np.save(tmp_path / "my.npy", pictures)
    np.save(tmp_path / "test.npy", pictures[:, :4])
    with pytest.raises(DataError, match=r"test\.npy have the shape \(3, 4, 5\), those of"):
        load(tmp_path / "my.npy", "images", test_path=str(tmp_path / "test.npy"))
    (tmp_path / "my.gif").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match="images are a folder, or a file"):
        load(tmp_path / "my.gif", "images")


def test_a_data_set_says_in_a_line_what_it_is(csv: Path) -> None:
    assert repr(load(csv)) == "<Dataset table: tabular, event shape (3,), 160 / 20 / 20 rows>"
