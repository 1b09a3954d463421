"""Reading tables that users supply, bad ones above all, and the recipes made of them."""

import dataclasses
import gzip
import hashlib
import io
import pickle
import sys
import tarfile
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import datasets
from datasets.base import DataCorrupt, DataMissing
from datasets.files import sources
from datasets.files.recognise import starting_with
from datasets.files.unpickle import load_frame
from datasets.stored import check_sizes
from datasets.tables import bsds300, gas, hepmass, maf, miniboone, uci
from datasets.tables.steps import read_csv, split_off, standardised_splits, uncorrelated

GOOD = "a,b,c\n1,2,3\n4,5,6\n7,8,9.5\n"


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


# -- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_a_good_table(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(gzip.compress(GOOD.encode()) if compress else GOOD.encode())
    expected = [[1, 2, 3], [4, 5, 6], [7, 8, 9.5]]
    assert read_csv(path, columns=3, header=True).tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("5", "five", 1), r"line 3, column 2: 'five' is no number"),
        (GOOD.replace("5", "", 1), r"line 3, column 2: nan is no number"),
        (GOOD.replace("5", "inf", 1), r"line 3, column 2: inf is no number"),
        (GOOD.replace("\n", ",0\n"), r"4 columns where 3 are due"),
        ("a,b\n1,2\n", r"2 columns where 3 are due"),
        ("", r"no complete table"),
        (GOOD + '"open', r"no complete table"),
    ],
)
def test_a_bad_table_is_refused_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(DataCorrupt, match=message) as caught:
        read_csv(path, columns=3, header=True)
    assert str(path) in str(caught.value)


def test_a_truncated_compressed_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress((GOOD * 500).encode())[:-20])
    with pytest.raises(DataCorrupt, match="no complete table"):
        read_csv(path, columns=3, header=True)


def test_near_copies_of_columns_are_dropped_from_the_left(random: np.random.Generator) -> None:
    a, b = random.standard_normal((2, 500))
    rows = np.stack([a, b, a + 1e-3 * b, -b, 2 * a], axis=1)
    # 0, 2 and 4 are alike; the first two of them go. An opposite is not a copy.
    assert uncorrelated(rows) == [1, 3, 4]


def test_sizes_other_than_the_published_ones_are_refused() -> None:
    splits = split_off(np.zeros((100, 3)))
    check_sizes("set", splits, (81, 9, 10), 3)
    with pytest.raises(DataCorrupt, match="not the published"):
        check_sizes("set", splits, (80, 10, 10), 3)


# -- GAS ------------------------------------------------------------------------------------------


def gas_table(random: np.random.Generator, rows: int = 400) -> pd.DataFrame:
    """Eight independent sensors, two near copies and the three columns that are dropped."""
    sensors = random.standard_normal((rows, 8))
    copies = sensors[:, :2] + 1e-3 * random.standard_normal((rows, 2))
    values = np.concatenate([random.random((rows, 3)), copies, sensors], axis=1)
    return pd.DataFrame(values, columns=["Time", "Meth", "Eth", *(f"s{i}" for i in range(10))])


def old_pickle(table: pd.DataFrame) -> bytes:
    """The table as pandas of the published file's time pickled it: axes, blocks, items."""
    modules = {
        name: types.ModuleType(name)
        for name in ("pandas.core.frame", "pandas.core.internals", "pandas.core.index")
    }

    class Stub:
        def __setstate__(self, state: object) -> None:
            raise AssertionError("the pickle is read without the classes it names")

    def stub(module: str, name: str) -> type:
        made = type(name, (Stub,), {"__module__": module, "__qualname__": name})
        setattr(modules[module], name, made)
        return made

    frame = stub("pandas.core.frame", "DataFrame")
    manager = stub("pandas.core.internals", "BlockManager")
    index = stub("pandas.core.index", "Index")

    def new_index(kind: type, parts: dict[str, object]) -> object:
        raise AssertionError("the pickle is read without the functions it names")

    new_index.__module__, new_index.__qualname__ = "pandas.core.index", "_new_Index"
    modules["pandas.core.index"]._new_Index = new_index  # type: ignore[attr-defined]

    columns = np.array(list(table.columns), dtype=object)
    values = np.ascontiguousarray(table.to_numpy().T)

    class Pickler(pickle.Pickler):
        def reducer_override(self, item: object) -> object:
            if isinstance(item, index):
                return (new_index, (index, item.parts))
            if isinstance(item, manager):
                return (manager, (), item.parts)
            if isinstance(item, frame):
                return (frame, (), {"_data": item.manager, "_typ": "dataframe"})
            return NotImplemented

    def make(kind: type, **attributes: object) -> object:
        made = kind()
        made.__dict__.update(attributes)
        return made

    names = make(index, parts={"data": columns, "name": None})
    numbers = make(index, parts={"data": np.arange(len(table)), "name": None})
    blocks = make(manager, parts=([names, numbers], [values], [names], {}))
    stream = io.BytesIO()
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        Pickler(stream, protocol=2).dump(make(frame, manager=blocks))
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return stream.getvalue()


def test_a_pickle_of_an_old_pandas_is_read(random: np.random.Generator) -> None:
    table = gas_table(random)
    columns = load_frame(io.BytesIO(old_pickle(table)))
    assert list(columns) == list(table.columns)
    np.testing.assert_array_equal(np.stack(list(columns.values()), axis=1), table.to_numpy())


class Malice:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (print, ("the pickle ran",))


def test_a_pickle_that_would_run_something_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataCorrupt, match=r"builtins\.print"):
        load_frame(io.BytesIO(pickle.dumps(Malice())))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("harm", [lambda data: data[:500], lambda data: b"no pickle"])
def test_a_damaged_pickle_is_refused(
    harm: Callable[[bytes], bytes], random: np.random.Generator
) -> None:
    with pytest.raises(DataCorrupt, match="DataFrame"):
        load_frame(io.BytesIO(harm(old_pickle(gas_table(random)))))


def test_gas_recipe(random: np.random.Generator) -> None:
    table = gas_table(random)
    train, validation, test = gas.prepare_gas(dict(table.items()))
    assert [len(train), len(validation), len(test)] == [324, 36, 40]
    # The near copies stand first, so they go, and the original eight stay.
    kept = table.iloc[:, 5:]
    expected = ((kept - kept.mean()) / kept.std()).to_numpy()
    np.testing.assert_allclose(np.concatenate([train, validation, test]), expected, atol=1e-6)
    assert train.dtype == np.float32


def test_gas_without_a_column_is_refused(random: np.random.Generator) -> None:
    with pytest.raises(DataCorrupt, match="Meth"):
        gas.prepare_gas(dict(gas_table(random).drop(columns="Meth").items()))


def archive(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as made:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            made.addfile(entry, io.BytesIO(data))


@pytest.fixture
def small_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published archive has one sum; here any archive of the name will do."""
    some = dataclasses.replace(maf.MAF_ARCHIVE, recognise=starting_with(b"", "data.tar"))
    for name in ("gas", "hepmass", "miniboone", "bsds300"):
        config = datasets.entry(name).config_class
        source = datasets.configure(name).files()
        assert source is not None
        forms = [form for form in source.forms if form.name != "archive"]
        changed = dataclasses.replace(source, forms=(*forms, sources.Form("archive", (some,))))
        monkeypatch.setattr(config, "origin", changed)


@pytest.mark.parametrize("name", ["gas", "hepmass", "miniboone", "bsds300"])
def test_another_archive_than_the_published_one_is_refused(name: str, data_folder: Path) -> None:
    path = data_folder / "data.tar.gz"
    archive(path, {"data/power/data.npy": b"0"})
    found = hashlib.md5(path.read_bytes()).hexdigest()
    due = "9b9c9b0375315ad270eba4ce80c093ab"
    with pytest.raises(DataCorrupt, match=f"data.tar.gz has the md5 {found} where {due} is due"):
        datasets.load(name)


@pytest.mark.usefixtures("small_archive")
@pytest.mark.parametrize("form", ["pickle", "archive"])
def test_gas_from_each_form(
    form: str,
    data_folder: Path,
    random: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gas.GasConfig, "split_sizes", (324, 36, 40))
    data = old_pickle(gas_table(random))
    if form == "pickle":
        (data_folder / "gas").mkdir()
        (data_folder / "gas" / "ethylene_CO.pickle").write_bytes(data)
    else:
        archive(data_folder / "data.tar.gz", {"data/gas/ethylene_CO.pickle": data})
    loaded = datasets.load("gas")
    assert loaded.event_shape == (8,)
    assert loaded.hashes == datasets.load("gas").hashes
    assert not list(data_folder.glob(".extract-*"))


def test_gas_of_another_size_is_refused(data_folder: Path, random: np.random.Generator) -> None:
    (data_folder / "ethylene_CO.pickle").write_bytes(old_pickle(gas_table(random)))
    with pytest.raises(DataCorrupt, match="not the published"):
        datasets.load("gas")


@pytest.mark.usefixtures("small_archive")
def test_an_archive_without_the_member_is_refused(data_folder: Path) -> None:
    archive(data_folder / "data.tar.gz", {"data/power/data.npy": b"0"})
    with pytest.raises(DataCorrupt, match=r"ethylene_CO\.pickle"):
        datasets.load("gas")


@pytest.mark.usefixtures("small_archive")
def test_a_truncated_archive_is_refused(data_folder: Path, random: np.random.Generator) -> None:
    path = data_folder / "data.tar.gz"
    archive(path, {"data/gas/ethylene_CO.pickle": random.bytes(100_000)})
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(DataCorrupt, match="no complete archive"):
        datasets.load("gas")


@pytest.mark.parametrize(
    "name", ["gas", "hepmass", "miniboone", "bsds300", "bsds300-style", "magic"]
)
def test_what_is_not_there_is_said_with_what_to_do(name: str, data_folder: Path) -> None:
    with pytest.raises(DataMissing, match=f"data fetch {name}") as caught:
        datasets.load(name)
    assert str(data_folder) in str(caught.value)
    source = datasets.configure(name).files()
    assert source is not None
    assert source.forms[0].files[0].name in str(caught.value)


# -- HEPMASS --------------------------------------------------------------------------------------


def hepmass_rows(random: np.random.Generator, n: int) -> np.ndarray:
    """Labels and 27 features, of which the first six are discrete."""
    rows = random.standard_normal((n, 28))
    rows[:, 0] = random.integers(2, size=n)
    rows[:, 1:7] = random.integers(3, size=(n, 6))
    return rows


def test_hepmass_recipe(random: np.random.Generator) -> None:
    train, unseen = hepmass_rows(random, 1000), hepmass_rows(random, 400)
    stray = np.concatenate([unseen, np.full((400, 1), 7.0)], axis=1)
    splits = hepmass.prepare_hepmass(train, stray)
    signal = train[train[:, 0] == 1, 7:]
    count = len(signal)
    assert [len(split) for split in splits] == [
        count - int(0.1 * count),
        int(0.1 * count),
        int((unseen[:, 0] == 1).sum()),
    ]
    mean, deviation = signal.mean(axis=0), signal.std(axis=0, ddof=1)
    np.testing.assert_allclose(np.concatenate(splits[:2]), (signal - mean) / deviation, atol=1e-5)
    expected = (unseen[unseen[:, 0] == 1, 7:] - mean) / deviation
    np.testing.assert_allclose(splits[2], expected, atol=1e-5)


def csv_of(rows: np.ndarray, names: list[str]) -> bytes:
    return pd.DataFrame(rows, columns=names).to_csv(index=False).encode()


NAMES = ["# label", *(f"f{i}" for i in range(27))]


@pytest.mark.usefixtures("small_archive")
@pytest.mark.parametrize("form", ["csv", "csv.gz", "archive"])
def test_hepmass_from_each_form(
    form: str,
    data_folder: Path,
    random: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = hepmass_rows(random, 1000)
    test = np.concatenate([hepmass_rows(random, 400), np.full((400, 1), 7.0)], axis=1)
    sizes = [len(split) for split in hepmass.prepare_hepmass(train, test)]
    monkeypatch.setattr(hepmass.HepmassConfig, "split_sizes", tuple(sizes))
    files = {
        "1000_train.csv": csv_of(train, NAMES),
        "1000_test.csv": csv_of(test, [*NAMES, "mass"]),
    }
    if form == "archive":
        members = {f"data/hepmass/{name}": data for name, data in files.items()}
        archive(data_folder / "data.tar.gz", members)
    else:
        for name, data in files.items():
            packed = gzip.compress(data) if form == "csv.gz" else data
            (data_folder / (name + ".gz" * (form == "csv.gz"))).write_bytes(packed)
    loaded = datasets.load("hepmass")
    assert loaded.event_shape == (21,)
    assert len(loaded.test) == sizes[2]


def test_hepmass_with_text_in_it_is_refused(data_folder: Path, random: np.random.Generator) -> None:
    data = csv_of(hepmass_rows(random, 50), NAMES)
    (data_folder / "1000_test.csv").write_bytes(data)
    lines = data.decode().splitlines()
    lines[10] = "one" + lines[10][3:]
    (data_folder / "1000_train.csv").write_text("\n".join(lines))
    with pytest.raises(DataCorrupt, match=r"1000_train\.csv, line 11, column 1: 'one"):
        datasets.load("hepmass")


def test_hepmass_without_signal_is_refused(random: np.random.Generator) -> None:
    rows = hepmass_rows(random, 50)
    rows[:, 0] = 0
    with pytest.raises(DataCorrupt, match="label"):
        hepmass.prepare_hepmass(rows, rows)


# -- MINIBOONE ------------------------------------------------------------------------------------


def test_miniboone_recipe(random: np.random.Generator) -> None:
    rows = random.standard_normal((200, 43)) * 3 + 5
    splits = standardised_splits(rows)
    assert [len(split) for split in splits] == [162, 18, 20]
    seen = rows[:180]
    expected = (rows - seen.mean(axis=0)) / seen.std(axis=0)
    np.testing.assert_allclose(np.concatenate(splits), expected, atol=1e-5)


def particle_text(random: np.random.Generator, signal: int = 40, background: int = 20) -> str:
    rows = random.standard_normal((signal + background, 50))
    rows[3, 0] = -999
    lines = ["  ".join(f"{value:.6e}" for value in row) for row in rows]
    return f" {signal}  {background}\n" + "\n".join(lines) + "\n"


def test_miniboone_text(tmp_path: Path, random: np.random.Generator) -> None:
    path = tmp_path / "MiniBooNE_PID.txt"
    path.write_text(particle_text(random))
    rows = miniboone.read_particle_text(path)
    # Forty events of signal less the outlier, fifty columns less seven.
    assert rows.shape == (39, 43)
    every = np.loadtxt(path, skiprows=1)
    assert rows[0].tolist() == np.delete(every[0], [5, 13, 22, 26, 34, 44, 45]).tolist()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda text: text[: len(text) // 3], "truncated|counts and numbers"),
        (lambda text: "<html>" + text, "counts and numbers"),
        (lambda text: text.replace("e+00", "e+00 1", 1), "counts and numbers|50 numbers"),
    ],
)
def test_bad_miniboone_texts_are_refused(
    tmp_path: Path, random: np.random.Generator, harm: Callable[[str], str], message: str
) -> None:
    path = tmp_path / "MiniBooNE_PID.txt"
    path.write_text(harm(particle_text(random)))
    with pytest.raises(DataCorrupt, match=message):
        miniboone.read_particle_text(path)


def test_miniboone_with_nan_is_refused(data_folder: Path, random: np.random.Generator) -> None:
    rows = random.standard_normal((36_488, 43))
    rows[17, 3] = np.nan
    np.save(data_folder / "data.npy", rows)
    with pytest.raises(DataCorrupt, match=r"row 17, column 4"):
        datasets.load("miniboone")


def test_an_array_of_another_shape_is_refused(data_folder: Path) -> None:
    np.save(data_folder / "miniboone.npy", np.zeros((1523, 43)))
    with pytest.raises(DataCorrupt, match=r"\(36488, 43\), not \(1523, 43\)"):
        datasets.load("miniboone")


def test_the_published_array_is_recognised_by_shape(
    data_folder: Path, random: np.random.Generator
) -> None:
    """Any array will do that has the shape; the sizes of its splits are those of the paper."""
    np.save(data_folder / "whatever.npy", random.standard_normal((36_488, 43)))
    loaded = datasets.load("miniboone")
    assert [len(loaded.split(s)) for s in ("train", "validation", "test")] == [
        29_556,
        3_284,
        3_648,
    ]


# -- BSDS300 --------------------------------------------------------------------------------------


def write_patches(path: Path, names: tuple[str, ...] = ("train", "validation", "test")) -> None:
    h5py = pytest.importorskip("h5py")
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as made:
        for name, size in zip(names, (100, 5, 25), strict=False):
            made[name] = random.standard_normal((size, 63))


@pytest.mark.usefixtures("small_archive")
@pytest.mark.parametrize("form", ["hdf5", "archive"])
def test_bsds300_from_each_form(
    form: str, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bsds300.Bsds300Config, "split_sizes", (100, 5, 25))
    path = tmp_path / "BSDS300.hdf5"
    write_patches(path)
    if form == "hdf5":
        path.rename(data_folder / "BSDS300.hdf5")
    else:
        archive(data_folder / "data.tar.gz", {"data/BSDS300/BSDS300.hdf5": path.read_bytes()})
    loaded = datasets.load("bsds300")
    assert loaded.event_shape == (63,)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (100, 5, 25)


def test_bad_hdf5_files_are_refused(data_folder: Path) -> None:
    path = data_folder / "BSDS300.hdf5"
    write_patches(path, ("train", "test"))
    with pytest.raises(DataCorrupt, match="three splits"):
        datasets.load("bsds300")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataCorrupt, match="no complete HDF5"):
        datasets.load("bsds300")
    path.write_bytes(b"<html>")
    with pytest.raises(DataCorrupt, match="starts with"):
        datasets.load("bsds300")


def test_bsds300_without_h5py_says_what_to_install(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_patches(data_folder / "BSDS300.hdf5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(datasets.DataError, match="pip install h5py"):
        datasets.load("bsds300")


# -- further tables -------------------------------------------------------------------------------


def test_further_tables_recipe(random: np.random.Generator) -> None:
    n = 1000
    continuous = random.standard_normal((n, 3))
    copy = continuous[:, 2] * 2 + 1e-4 * random.standard_normal(n)
    discrete = random.integers(10, size=n)
    spiked = np.where(random.random(n) < 0.1, 0.0, random.standard_normal(n))
    rows = np.column_stack([continuous, copy, discrete, spiked])
    rows = np.concatenate([rows, rows[:100]])
    splits = uci.prepare_table(rows, np.random.default_rng(1))
    assert [len(split) for split in splits] == [810, 90, 100]
    assert splits[0].shape[1] == 3
    seen = np.concatenate(splits[:2])
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(seen.std(axis=0), 1, atol=1e-5)
    assert len(np.unique(np.concatenate(splits), axis=0)) == n


def test_a_table_with_changed_values_is_refused(data_folder: Path) -> None:
    np.savez(data_folder / "magic_gamma.npz", x=np.zeros((19_020, 10), np.float32))
    with pytest.raises(DataCorrupt, match="other values"):
        datasets.load("magic")


def test_a_truncated_archive_of_arrays_is_refused(data_folder: Path) -> None:
    path = data_folder / "uci_protein.npz"
    np.savez(path, x=np.zeros((45_730, 10)))
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(DataCorrupt, match=r"no complete \.npz"):
        datasets.load("protein")


@pytest.mark.parametrize("harm", ["short", "text"])
def test_a_bad_magic_text_is_refused(data_folder: Path, harm: str) -> None:
    first = "28.7967,16.0021,2.6449,0.3918,0.1982,27.7004,22.011,-8.2027,40.092,81.8828,g\n"
    other = first if harm == "short" else first.replace("40.092", "forty")
    (data_folder / "magic04.data").write_text(first + other)
    message = "should hold" if harm == "short" else "'forty' is no number"
    with pytest.raises(DataCorrupt, match=message):
        datasets.load("magic")
