"""Files that are damaged, or made to do harm: one error, and neither memory nor a crash."""

import contextlib
import gzip
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import datasets
from datasets.base import DataCorrupt, DataError
from datasets.files import archive, cache, untrusted
from datasets.files.arrays import read_array, read_frame
from datasets.files.cache import cached_splits, prepared_folders
from datasets.files.recognise import content, npy_array, npz_arrays, tar_members
from datasets.files.unpickle import load_frame, load_plain
from datasets.images import cifar10, mnist, omniglot
from datasets.images.own import read_folder
from datasets.tables.bsds300_style import read_images

MEGABYTE = 2**20


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """No more memory than the small files of these tests have any use for."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * MEGABYTE


@pytest.fixture
def frugal() -> Iterator[None]:
    """The same for a whole test."""
    with little_memory():
        yield


def header(shape: tuple[int, ...], kind: str = "<f8") -> bytes:
    stream = io.BytesIO()
    described = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue()


def zipped(path: Path, name: str, data: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(name, data)


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> None:
    """An archive whose headers may state other sizes than the members have."""
    blocks = b""
    for entry, data in members:
        blocks += entry.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)
    path.write_bytes(gzip.compress(blocks + bytes(1024)))


def entry(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.type = size, kind
    return made


# -- pickles --------------------------------------------------------------------------------------


def opcodes(text: str) -> bytes:
    """A global of a pickle: module and name."""
    module, name = text.rsplit(".", 1)
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def pointers() -> bytes:
    """An array of objects whose pointers are bytes of the file; its type says that it has none."""
    kind = opcodes("numpy.dtype") + b"(U\x02O8I0\nI1\ntR"
    kind += b"(I3\nU\x01|NNNI-1\nI-1\nI0\ntb"
    values = b"\x41" * 16
    array = opcodes("numpy._core.multiarray._reconstruct") + opcodes("numpy.ndarray")
    array += b"(I0\ntU\x01b\x87R(I1\n(I2\nt" + kind + b"I00\nU" + bytes([16]) + values + b"tb"
    return b"\x80\x02}U\x04data" + array + b"s."


def nested_key() -> bytes:
    return b"\x80\x02}" + b")" + b"\x85" * 300_000 + b"K\x01s."


HOSTILE_PICKLES = {
    "pointers from bytes": pointers(),
    "a key nested without end": nested_key(),
    "a place in the memo": b"\x80\x02]r\xf0\xff\xff\xff.",
    "a length": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.",
    "bytes of a count": b"\x80\x02}U\x04data"
    + opcodes("numpy._core.numeric._frombuffer")
    + b"(J\xff\xff\xff\x7f"
    + opcodes("numpy.dtype")
    + b"(U\x02u1I0\nI1\ntRJ\xff\xff\xff\x7fU\x01CtRs.",
    "a shape": b"\x80\x02}U\x04data"
    + opcodes("numpy._core.numeric._frombuffer")
    + b"(U\x03abc"
    + opcodes("numpy.dtype")
    + b"(U\x02u1I0\nI1\ntR(L1099511627776L\ntU\x01CtRs.",
    "a codec": b"\x80\x02" + opcodes("_codecs.encode") + b"(X\x01\x00\x00\x00aU\x03zip\x74R.",
    "code": b"\x80\x02" + opcodes("os.system") + b"(U\x04true\x74R.",
}


@pytest.mark.usefixtures("frugal")
@pytest.mark.parametrize("name", HOSTILE_PICKLES)
@pytest.mark.parametrize("load", [load_plain, load_frame])
def test_a_pickle_does_no_harm(load: Callable[[Any], Any], name: str) -> None:
    with pytest.raises(DataCorrupt):
        load(io.BytesIO(HOSTILE_PICKLES[name]))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol_and_order_come_through(protocol: int) -> None:
    random = np.random.default_rng(0)
    for array in (
        random.integers(256, size=(4, 5), dtype=np.uint8),
        np.asfortranarray(random.standard_normal((3, 4))),
        random.standard_normal(5).astype(">f4"),
    ):
        found = load_plain(io.BytesIO(pickle.dumps({b"data": array}, protocol)))[b"data"]
        np.testing.assert_array_equal(found, array)


# -- arrays ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("frugal")
@pytest.mark.parametrize(
    ("shape", "kind"), [((10**12,), "<f8"), ((2**40, 2**40), "<f8"), ((-1, 5), "<f8"), ((3,), "|O")]
)
def test_an_array_is_no_larger_than_its_file(
    shape: tuple[int, ...], kind: str, tmp_path: Path
) -> None:
    data = header(shape, kind) + bytes(400)
    npy, npz = tmp_path / "x.npy", tmp_path / "x.npz"
    npy.write_bytes(data)
    zipped(npz, "x.npy", data)
    for read in (
        lambda: read_array(npy, None, (1, 2)),
        lambda: read_array(npz, None, (1, 2)),
        lambda: npy_array(shape)(npy),
        lambda: npz_arrays({"x": shape})(npz),
    ):
        with pytest.raises(DataCorrupt, match=r"x\.np[yz] is no complete \.np[yz] file"):
            read()


@pytest.mark.usefixtures("frugal")
def test_an_archive_of_arrays_cannot_unpack_to_more_than_is_possible(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    zipped(path, "x.npy", header((2**40,)) + bytes(100))
    # The sizes that the archive's two tables state, to agree with the array's header.
    data, due = bytearray(path.read_bytes()), 2**31
    size = struct.pack("<I", len(header((2**40,))) + 100)
    data = data.replace(size, struct.pack("<I", due))
    path.write_bytes(data)
    with pytest.raises(DataCorrupt, match="cannot unpack to what it states"):
        read_array(path, None, (1,))


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two megabytes to spare."""
    monkeypatch.setattr(untrusted, "room", lambda: MEGABYTE)


@pytest.mark.usefixtures("little_room", "frugal")
def test_what_does_not_fit_into_memory_is_refused(tmp_path: Path) -> None:
    zeros = np.zeros((2**20, 4))
    text, npy, npz = tmp_path / "a.csv.gz", tmp_path / "a.npy", tmp_path / "a.npz"
    text.write_bytes(gzip.compress(b"1,2\n" * MEGABYTE))
    np.save(npy, zeros)
    np.savez_compressed(npz, x=zeros)
    for path in (text, npy, npz):
        with pytest.raises(DataCorrupt, match=f"{path.name} is no complete .* unpacks to"):
            read_frame(path)


@pytest.mark.usefixtures("frugal")
def test_hdf5_states_no_more_than_it_stores(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "x.h5"
    for make, message in (
        (lambda file: file.create_dataset("x", (10**6, 10**6), "f8"), "of which 0 are stored"),
        (
            lambda file: file.create_dataset("x", (9, 9), "f8", external=[("/etc/passwd", 0, 648)]),
            "lies in other files",
        ),
        (lambda file: file.create_dataset("x", data=[["a"]], dtype=h5py.string_dtype()), "no num"),
    ):
        with h5py.File(path, "w") as made:
            make(made)
        with pytest.raises(DataCorrupt, match=message):
            read_array(path, None, (2,))


# -- archives, images, texts ----------------------------------------------------------------------


@pytest.mark.usefixtures("frugal")
def test_a_batch_of_cifar_has_a_size(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    tar(path, (entry("cifar-10-batches-py/data_batch_1", 2**32), b""))
    with pytest.raises(DataCorrupt, match=r"data_batch_1 has 4,294,967,296 bytes, at most"):
        cifar10.read_pickles(path)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_name_in_an_archive_has_an_end(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "data.tar.gz"
    tar(path, (entry("name", 2**31, kind), bytes(80 * MEGABYTE)))
    for read in (cifar10.read_pickles, tar_members("a", largest=2**30), read_images):
        with little_memory(), pytest.raises(DataCorrupt, match="a header of 2,147,483,648 bytes"):
            read(path)


def test_an_archive_unpacks_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.tar.gz"
    tar(path, (entry("unasked", 3 * MEGABYTE), bytes(3 * MEGABYTE)), (entry("a", 1), b"a"))
    recognise = tar_members("a", largest=2**30)
    recognise(path)
    monkeypatch.setattr(archive, "LARGEST", MEGABYTE)
    with pytest.raises(DataCorrupt):
        recognise(path)


def test_a_compressed_file_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">III", 2, 2, 2) + bytes(8)))
    assert mnist.read_idx(path).shape == (2, 2, 2)
    stated = bytes([0, 0, 8, 3]) + struct.pack(">III", 2**31, 2**31, 2**31)
    path.write_bytes(gzip.compress(stated + bytes(80 * MEGABYTE)))
    monkeypatch.setattr(untrusted, "room", lambda: MEGABYTE)
    with little_memory(), pytest.raises(DataCorrupt, match="more than 1,048,576 bytes"):
        mnist.read_idx(path)
    zeros = huge(tmp_path)
    with little_memory(), pytest.raises(DataCorrupt, match="more than"):
        content("0" * 64, bytes(2))(zeros)


def huge(folder: Path) -> Path:
    """A gzip file of 300 MB in 300 kB."""
    path = folder / "zeros.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for _ in range(300):
            stream.write(bytes(MEGABYTE))
    return path


def png(width: int, height: int) -> bytes:
    """A small image that states another size."""
    stream = io.BytesIO()
    Image.new("RGB", (2, 2)).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.usefixtures("frugal", "little_room")
@pytest.mark.parametrize("size", [(60_000, 60_000), (12_000, 10_000), (2**30, 2)])
def test_an_image_is_looked_at_before_it_is_decoded(size: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(*size))
    with pytest.raises(DataCorrupt, match=r"a\.png is no complete image"):
        read_folder(tmp_path)
    path = tmp_path / "images_background.zip"
    zipped(path, "images_background/a/b/0_1.png", png(*size))
    with pytest.raises(DataCorrupt, match="is no complete archive of images"):
        omniglot.read_characters([path])


def test_an_image_runs_no_interpreter(tmp_path: Path) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n\nshowpage\n"
    )
    with pytest.raises(DataCorrupt, match="cannot identify image file"):
        read_folder(tmp_path)


def test_an_archive_without_images_is_told(tmp_path: Path) -> None:
    path = tmp_path / "images_background.zip"
    zipped(path, "readme", b"nothing")
    with pytest.raises(DataCorrupt, match="hold no image"):
        omniglot.read_characters([path])


# -- the cache ------------------------------------------------------------------------------------


def splits() -> list[np.ndarray]:
    return [np.full((n, 2), n, np.float32) for n in (8, 3, 4)]


def made_up() -> tuple[Path, list[np.ndarray]]:
    found, _ = cached_splits("made-up", {}, splits)
    (folder,) = prepared_folders("made-up")
    return folder, found


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b"null",
        b"3",
        b"{}",
        b'{"hashes": []}',
        b'{"hashes": {"train": "a"}}',
        b'{"hashes": {"train": 1, "validation": 2, "test": 3}}',
        b"[" * 100_000,
        b"\xff\xfe",
        b"",
    ],
)
def test_a_manifest_of_another_shape_is_made_again(text: bytes) -> None:
    folder, _ = made_up()
    (folder / "manifest.json").write_bytes(text)
    _, found = made_up()
    assert all(map(np.array_equal, found, splits()))


def test_a_bit_that_flips_on_the_disk_is_noticed_by_the_next_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, _ = made_up()
    path = folder / "train.npy"
    data = bytearray(path.read_bytes())
    data[-2] ^= 4
    path.chmod(0o644)
    status = path.stat()
    path.write_bytes(data)
    # A disk changes no time. What this process has verified, the next one has not.
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    monkeypatch.setattr(cache, "_verified", {})
    _, found = made_up()
    assert all(map(np.array_equal, found, splits()))


def test_a_process_hashes_a_split_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up()
    monkeypatch.setattr(cache, "_verified", {})
    hashed: list[int] = []
    hash_of = cache.array_hash

    def counted(array: np.ndarray) -> str:
        hashed.append(len(array))
        return hash_of(array)

    monkeypatch.setattr(cache, "array_hash", counted)
    for _ in range(3):
        made_up()
    assert hashed == [8, 3, 4]


@pytest.mark.parametrize("shape", [(10**12, 2), (8, 2)])
@pytest.mark.usefixtures("frugal")
def test_a_split_of_another_form_is_made_again(shape: tuple[int, ...]) -> None:
    folder, _ = made_up()
    kind = "<f4" if shape[0] > 8 else "|O"
    (folder / "train.npy").write_bytes(header(shape, kind) + bytes(64))
    _, found = made_up()
    assert all(map(np.array_equal, found, splits()))


def test_damage_that_cannot_be_mended_is_named() -> None:
    folder, _ = made_up()
    (folder / "train.npy").write_bytes(b"damaged")

    def gone() -> list[np.ndarray]:
        raise datasets.DataMissing("made-up is not here")

    with pytest.raises(DataCorrupt, match=r"train\.npy .*cannot be made again: made-up is not"):
        cached_splits("made-up", {}, gone)


# -- whatever damage ------------------------------------------------------------------------------


def numbers() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((20, 3))


def in_npy() -> tuple[str, bytes]:
    stream = io.BytesIO()
    np.save(stream, numbers())
    return "x.npy", stream.getvalue()


def in_npz() -> tuple[str, bytes]:
    stream = io.BytesIO()
    np.savez_compressed(stream, x=numbers())
    return "x.npz", stream.getvalue()


def in_text() -> tuple[str, bytes]:
    lines = "\n".join(",".join(map(repr, row)) for row in numbers().tolist())
    return "x.csv.gz", gzip.compress(lines.encode())


def in_hdf5() -> tuple[str, bytes]:
    h5py = pytest.importorskip("h5py")
    stream = io.BytesIO()
    with h5py.File(stream, "w") as made:
        made.create_dataset("x", data=numbers(), compression="gzip")
    return "x.h5", stream.getvalue()


def in_idx() -> tuple[str, bytes]:
    head = bytes([0, 0, 8, 3]) + struct.pack(">III", 4, 5, 6)
    return "x.gz", gzip.compress(head + bytes(range(120)))


def in_tar() -> tuple[str, bytes]:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as made:
        for i, name in enumerate(cifar10.BATCHES):
            batch = pickle.dumps({b"data": np.full((2, 3072), i, np.uint8), b"labels": [0, 1]}, 2)
            made.addfile(entry(f"cifar-10-batches-py/{name}", len(batch)), io.BytesIO(batch))
    return "x.tar.gz", stream.getvalue()


def in_zip() -> tuple[str, bytes]:
    stream, image = io.BytesIO(), io.BytesIO()
    Image.new("1", (105, 105)).save(image, "PNG")
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr("images_background/a/b/0_1.png", image.getvalue())
    return "x.zip", stream.getvalue()


def in_image() -> tuple[str, bytes]:
    stream = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(stream, "PNG")
    return "x.png", stream.getvalue()


def in_pickle() -> tuple[str, bytes]:
    return "x.pickle", pickle.dumps({b"data": numbers(), b"names": ["a", "b"]}, 2)


FORMATS: list[tuple[Callable[[], tuple[str, bytes]], Callable[[Path], object]]] = [
    (in_npy, read_frame),
    (in_npz, read_frame),
    (in_text, read_frame),
    (in_hdf5, read_frame),
    (in_idx, mnist.read_idx),
    (in_tar, cifar10.read_pickles),
    (in_zip, lambda path: omniglot.read_characters([path])),
    (in_image, lambda path: read_folder(path.parent)),
    (in_pickle, lambda path: load_plain(io.BytesIO(path.read_bytes()))),
    (in_pickle, lambda path: load_frame(io.BytesIO(path.read_bytes()))),
]


@pytest.mark.parametrize(("make", "read"), FORMATS)
@given(
    flips=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4
    ),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
)
@settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_damaged_bytes_are_read_or_refused(
    make: Callable[[], tuple[str, bytes]],
    read: Callable[[Path], object],
    flips: list[tuple[float, int]],
    kept: float,
    tmp_path: Path,
) -> None:
    """Of some formats a flipped byte makes another value; of none does it make another error."""
    name, data = make()
    damaged = bytearray(data)
    for place, change in flips:
        damaged[int(place * len(damaged))] ^= change
    path = tmp_path / name
    path.write_bytes(damaged[: int(kept * len(damaged))])
    with contextlib.suppress(DataError):
        read(path)
