"""Readers of the image sets, on small files of the same form, good and bad."""

import gzip
import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

import datasets
from datasets.base import DataCorrupt, DataError, DataMissing, array_hash
from datasets.files.recognise import content
from datasets.files.sources import File, Form, Source
from datasets.images import cifar10, freyfaces, mnist, omniglot
from datasets.tables.bsds300_style import patches_of, read_images


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def tar(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> None:
    with tarfile.open(path, mode) as made:  # type: ignore[call-overload]
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            made.addfile(entry, io.BytesIO(data))


def encoded(array: np.ndarray, form: str = "PNG", mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(stream, form)
    return stream.getvalue()


# -- MNIST and Fashion-MNIST ----------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_is_read(
    tmp_path: Path, random: np.random.Generator, pack: Callable[[bytes], bytes]
) -> None:
    images = random.integers(256, size=(5, 4, 3), dtype=np.uint8)
    path = tmp_path / "images"
    path.write_bytes(pack(idx(images)))
    np.testing.assert_array_equal(mnist.read_idx(path), images)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda data: data[:-1], "59 values"),
        (lambda data: data + b"0", "61 values"),
        (lambda data: b"<html>" + data, "no idx file"),
        (lambda data: b"", "no idx file"),
        (lambda data: gzip.compress(data)[:-12], "truncated"),
    ],
)
def test_bad_idx_files_are_refused(
    tmp_path: Path, random: np.random.Generator, harm: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / "images"
    path.write_bytes(harm(idx(random.integers(256, size=(5, 4, 3), dtype=np.uint8))))
    with pytest.raises(DataCorrupt, match=message):
        mnist.read_idx(path)


@pytest.fixture
def small_mnist(
    data_folder: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> list[np.ndarray]:
    """Two files of a few images under other names, and a table that knows their content."""
    parts = [random.integers(256, size=(n, 28, 28), dtype=np.uint8) for n in (60, 10)]
    files = []
    for i, images in enumerate(parts):
        data = idx(images)
        sha256 = hashlib.sha256(data).hexdigest()
        files.append(File(f"part-{i}.gz", content(sha256, data[:8]), ("http://127.0.0.1:9/",)))
        (data_folder / f"found-elsewhere-{i}").write_bytes(gzip.compress(data) if i else data)
    source = Source((Form("idx", tuple(files)),), "CC0", "nobody")
    monkeypatch.setitem(mnist.SOURCES, "mnist", source)
    monkeypatch.setattr(mnist.MnistConfig, "split_sizes", (50, 10, 10))
    return parts


def test_mnist_is_recognised_by_content_alone(small_mnist: list[np.ndarray]) -> None:
    data = datasets.load("mnist")
    assert (data.event_shape, data.levels) == ((1, 28, 28), 256)
    np.testing.assert_array_equal(data.train[:, 0], small_mnist[0][:50])
    np.testing.assert_array_equal(data.validation[:, 0], small_mnist[0][50:])
    np.testing.assert_array_equal(data.test[:, 0], small_mnist[1])
    part = datasets.load("mnist", rows=25)
    assert (len(part.train), len(part.validation), len(part.test)) == (25, 10, 10)


def test_the_logit_is_an_option_of_one_and_the_same_cache(small_mnist: list[np.ndarray]) -> None:
    plain, logit = datasets.load("mnist", alpha=None), datasets.load("mnist", alpha=0.05)
    assert plain.hashes == logit.hashes
    raw = torch.as_tensor(plain.test)
    seed = torch.Generator().manual_seed(0)
    assert float(plain.preprocessing.forward(raw, seed)[0].max()) <= 1
    assert float(logit.preprocessing.forward(raw, seed)[0].max()) > 1
    with pytest.raises(DataError, match="alpha"):
        datasets.load("mnist", alpha=0.7)


def test_changed_images_are_refused(small_mnist: list[np.ndarray], data_folder: Path) -> None:
    small_mnist[0][0, 0, 0] ^= 1
    (data_folder / "found-elsewhere-0").unlink()
    (data_folder / "part-0.gz").write_bytes(idx(small_mnist[0]))
    with pytest.raises(DataCorrupt, match=r"has the sha256 \w{64} where \w{64} is due"):
        datasets.load("mnist")


def test_half_of_a_form_is_missing_data(small_mnist: list[np.ndarray], data_folder: Path) -> None:
    (data_folder / "found-elsewhere-1").unlink()
    with pytest.raises(DataMissing, match=r"part-0\.gz and part-1\.gz"):
        datasets.load("mnist")


# -- CIFAR-10 -------------------------------------------------------------------------------------


@pytest.fixture
def batches(random: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Six batches of four images, which the loader is told to expect."""
    made = [random.integers(256, size=(4, 3, 32, 32), dtype=np.uint8) for _ in range(6)]
    hashes = array_hash(np.concatenate(made[:5])), array_hash(made[5])
    monkeypatch.setattr(cifar10, "HASHES", hashes)
    monkeypatch.setattr(cifar10.Cifar10Config, "split_sizes", (18, 2, 4))
    return made


def as_pickles(batches: list[np.ndarray]) -> dict[str, bytes]:
    return {
        f"cifar-10-batches-py/{name}": pickle.dumps(
            {b"data": batch.reshape(-1, 3072), b"labels": [0] * len(batch)}, protocol=2
        )
        for name, batch in zip(cifar10.BATCHES, batches, strict=True)
    }


def as_pngs(batches: list[np.ndarray]) -> dict[str, bytes]:
    return {
        f"package/{name}.png": encoded(batch.transpose(0, 2, 3, 1).reshape(-1, 1024, 3))
        for name, batch in zip(cifar10.BATCHES, batches, strict=True)
    }


def test_cifar10_from_its_own_archive(data_folder: Path, batches: list[np.ndarray]) -> None:
    tar(data_folder / "cifar-10-python.tar.gz", as_pickles(batches))
    data = datasets.load("cifar10")
    assert data.event_shape == (3, 32, 32)
    np.testing.assert_array_equal(data.train, np.concatenate(batches[:5])[:18])
    np.testing.assert_array_equal(data.test, batches[5])


def test_cifar10_from_pngs_is_the_same(tmp_path: Path, batches: list[np.ndarray]) -> None:
    tar(tmp_path / "images.tgz", as_pngs(batches))
    for found, made in zip(cifar10.read_pngs(tmp_path / "images.tgz"), batches, strict=True):
        np.testing.assert_array_equal(found, made)


def test_other_images_are_not_cifar10(data_folder: Path, batches: list[np.ndarray]) -> None:
    batches[0][0] = 0
    tar(data_folder / "cifar-10-python.tar.gz", as_pickles(batches))
    with pytest.raises(DataCorrupt, match="other images"):
        datasets.load("cifar10")


def test_bad_archives_of_cifar10_are_refused(tmp_path: Path, batches: list[np.ndarray]) -> None:
    path = tmp_path / "archive.tgz"
    members = as_pickles(batches)
    tar(path, {name: data for name, data in members.items() if "batch_3" not in name})
    with pytest.raises(DataCorrupt, match="no data_batch_3"):
        cifar10.read_pickles(path)
    tar(path, {**members, "cifar-10-batches-py/data_batch_3": pickle.dumps([1])})
    with pytest.raises(DataCorrupt, match="data_batch_3: a pickled list"):
        cifar10.read_pickles(path)
    tar(path, members)
    path.write_bytes(path.read_bytes()[:30_000])
    with pytest.raises(DataCorrupt, match="no complete archive"):
        cifar10.read_pickles(path)
    pngs = as_pngs(batches)
    tar(path, {**pngs, "package/test_batch.png": pngs["package/test_batch.png"][:500]})
    with pytest.raises(DataCorrupt, match="test_batch is no complete image"):
        cifar10.read_pngs(path)
    tar(path, {**pngs, "package/test_batch.png": encoded(np.zeros((4, 30, 3), np.uint8))})
    with pytest.raises(DataCorrupt, match="30 pixels wide"):
        cifar10.read_pngs(path)


# -- Omniglot and Frey faces ----------------------------------------------------------------------


def test_omniglot_is_reduced_and_ordered(tmp_path: Path, random: np.random.Generator) -> None:
    """Every 105 / 28 th pixel, of two archives whose alphabets interleave."""
    images = random.random((4, 105, 105)) > 0.5
    names = [
        ("background", "Angelic/character01/0001_01"),
        ("background", "Korean/character01/0003_01"),
        ("evaluation", "Avesta/character02/0002_02"),
        ("evaluation", "Zulu/character01/0004_01"),
    ]
    for part in ("background", "evaluation"):
        with zipfile.ZipFile(tmp_path / f"{part}.zip", "w") as archive:
            for image, (where, name) in zip(images, names, strict=True):
                if where == part:
                    archive.writestr(f"images_{part}/{name}.png", encoded(image))
    found = omniglot.read_characters([tmp_path / "background.zip", tmp_path / "evaluation.zip"])
    nearest = ((np.arange(28) + 0.5) * 105 / 28).astype(int)
    expected = images[:, nearest][:, :, nearest].astype(np.uint8) * 255
    np.testing.assert_array_equal(found, expected[[0, 2, 1, 3]])


def test_bad_omniglot_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "images_background.zip"
    path.write_bytes(b"PK nothing")
    with pytest.raises(DataCorrupt, match="no complete archive"):
        omniglot.read_characters([path])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images_background/Angelic/character01/0001_01.png", b"no image")
    with pytest.raises(DataCorrupt, match="no complete archive"):
        omniglot.read_characters([path])


def test_freyfaces_from_matlab(
    data_folder: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = random.integers(256, size=(10, 28, 20), dtype=np.uint8)
    monkeypatch.setattr(freyfaces, "HASH", array_hash(frames))
    monkeypatch.setattr(freyfaces.FreyfacesConfig, "split_sizes", (6, 2, 2))
    path = data_folder / "frey_rawface.mat"
    scipy.io.savemat(path, {"ff": frames.reshape(10, 560).T})
    data = datasets.load("freyfaces")
    assert data.event_shape == (1, 28, 20)
    together = np.concatenate([data.train, data.validation, data.test])[:, 0]
    assert {frame.tobytes() for frame in together} == {frame.tobytes() for frame in frames}


@pytest.mark.parametrize("harm", ["key", "cut", "other"])
def test_bad_matlab_files_are_refused(
    data_folder: Path, random: np.random.Generator, harm: str
) -> None:
    path = data_folder / "frey_rawface.mat"
    frames = random.integers(256, size=(560, 10), dtype=np.uint8)
    scipy.io.savemat(path, {"gg" if harm == "key" else "ff": frames})
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataCorrupt, match="other frames" if harm == "other" else "'ff'"):
        datasets.load("freyfaces")


# -- patches of images ----------------------------------------------------------------------------


def test_images_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    grey = {name: np.full((9, 12, 3), 10 * i, np.uint8) for i, name in enumerate("abc")}
    tar(
        tmp_path / "images.tar",
        {
            "BSDS300/images/train/b.jpg": encoded(grey["b"], "JPEG"),
            "BSDS300/images/train/a.jpg": encoded(grey["a"], "JPEG"),
            "BSDS300/images/test/c.jpg": encoded(grey["c"], "JPEG"),
            "BSDS300/README": b"text",
        },
        "w",
    )
    train, test = read_images(tmp_path / "images.tar")
    assert [int(image[0, 0]) for image in train + test] == [0, 10, 20]
    assert train[0].shape == (9, 12)


def test_patches_lie_in_their_image() -> None:
    """An image that grows to the right: noise and mean gone, the slope remains in each row."""
    ramp = np.tile(np.arange(0, 200, 4, dtype=np.uint8), (40, 1))
    patches = patches_of([ramp, ramp], 501, np.random.default_rng(0))
    assert patches.shape == (501, 63)
    assert patches.dtype == np.float32
    last = -patches.sum(axis=1, dtype=np.float64)
    whole = np.concatenate([patches, last[:, None]], axis=1).reshape(-1, 8, 8)
    slope = whole.mean(axis=(0, 1))
    np.testing.assert_allclose(np.diff(slope), 4 / 256, atol=5e-4)
    noise = whole - whole.mean(axis=(0, 1))
    assert noise.std() == pytest.approx(np.sqrt(1 / 12) / 256, rel=0.05)


def test_a_truncated_archive_of_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    data = encoded(np.zeros((50, 50, 3), np.uint8), "JPEG")
    tar(path, {"train/a.jpg": data, "train/b.jpg": data[:200]}, "w")
    with pytest.raises(DataCorrupt, match="no complete archive"):
        read_images(path)
