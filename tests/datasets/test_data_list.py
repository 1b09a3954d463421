"""What `data list` and `data verify` are told, and what each set must state."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import datasets
from datasets import registry
from datasets.base import Split
from datasets.files import fetch
from datasets.files.cache import prepared_folders
from datasets.files.recognise import npz_arrays
from datasets.files.sources import File, Form, Source
from datasets.tables import uci

STATES = {
    "moons": "generated",
    "funnel": "generated",
    "power": "embedded",
    "optdigits": "embedded",
    "gas": "downloadable",
    "mnist": "downloadable",
}


@pytest.mark.parametrize("name", STATES)
def test_states_in_an_empty_folder(name: str) -> None:
    status = fetch.status(name)
    assert status.state == STATES[name]
    assert status.citation
    if status.state != "generated":
        assert status.licence


def test_every_source_has_what_a_user_must_know() -> None:
    for entry in registry.ENTRIES.values():
        source = entry.config.files()
        if source is None:
            continue
        assert source.licence
        assert source.citation
        assert (source.download is None) == (source.embedded is not None)
        for form in source.forms:
            for file in form.files:
                assert all(url.startswith(("https://", "http://")) for url in file.addresses)
                if file.checksum is not None:
                    algorithm, _, digest = file.checksum.partition(":")
                    assert len(digest) == {"sha256": 64, "md5": 32}[algorithm]


@pytest.mark.parametrize("name", list(registry.ENTRIES))
def test_every_entry_has_a_config(name: str) -> None:
    config = registry.configure(name)
    assert config.model_dump() == type(config).model_validate(config.model_dump()).model_dump()


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    for ask in (fetch.status, fetch.fetch, fetch.verify):
        with pytest.raises(datasets.UnknownDataset, match="'power'"):
            ask("powr")


@pytest.mark.parametrize("name", ["checkerboard", "student-t", "optdigits"])
def test_verify_of_what_is_always_there(name: str) -> None:
    found = fetch.verify(name)
    assert found.ok
    assert {"splits", "values"} <= {check.what for check in found.checks}


def test_verify_of_what_is_not_there_says_what_to_do() -> None:
    found = fetch.verify("gas")
    assert not found.ok
    assert found.missing is not None
    assert "data fetch gas" in found.missing


def expect(monkeypatch: pytest.MonkeyPatch, name: str, hashes: Mapping[Split, str]) -> None:
    changed = dataclasses.replace(registry.ENTRIES[name], hashes=hashes)
    monkeypatch.setitem(registry.ENTRIES, name, changed)


@pytest.fixture
def small_magic(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of 100 rows that goes under the name of a real one."""
    rows = np.random.default_rng(0).standard_normal((100, 4))
    path = data_folder / "small.npz"
    np.savez(path, x=rows)
    file = File("small.npz", npz_arrays({"x": (100, 4)}))
    monkeypatch.setitem(uci.SOURCES, "magic", Source((Form("npz", (file,)),), "CC0", "nobody"))
    monkeypatch.setitem(uci.SHAPES, "magic", (100, 4))
    monkeypatch.setitem(uci.SIZES, "magic", ((81, 9, 10), 4))
    expect(monkeypatch, "magic", {})
    return path


def test_verify_of_a_file(small_magic: Path) -> None:
    found = fetch.verify("magic")
    assert found.ok, found
    assert str(small_magic) in found.checks[0].detail
    assert found.checks[-1].what == "baseline"


def test_what_is_prepared_stays_when_the_file_goes(small_magic: Path) -> None:
    first = datasets.load("magic")
    small_magic.unlink()
    assert fetch.status("magic").state == "present"
    assert fetch.status("magic").paths == tuple(prepared_folders("magic"))
    assert datasets.load("magic").hashes == first.hashes
    assert fetch.verify("magic").ok


def test_verify_sees_a_changed_bit_that_the_stamps_do_not_show(small_magic: Path) -> None:
    """A disk that rots leaves size and time as they were; what made the splits is gone."""
    datasets.load("magic")
    small_magic.unlink()
    (made,) = prepared_folders("magic")
    path = made / "test.npy"
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    found = fetch.verify("magic")
    assert not found.ok
    assert any(str(path) in check.detail for check in found.checks if not check.ok)


def test_verify_of_a_corrupt_file(small_magic: Path) -> None:
    small_magic.write_bytes(small_magic.read_bytes()[:-200])
    assert fetch.status("magic").state == "corrupt"
    found = fetch.verify("magic")
    assert not found.ok
    assert "small.npz" in found.checks[0].detail


@pytest.mark.parametrize("name", ["magic", "optdigits"])
def test_verify_holds_the_splits_to_their_known_hashes(
    name: str, small_magic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole files of the right form, and yet not the splits that records were made with."""
    hashes = datasets.load(name).hashes
    expect(monkeypatch, name, hashes)
    assert next(check for check in fetch.verify(name).checks if check.what == "content").ok
    expect(monkeypatch, name, {**hashes, "test": "0" * 64})
    found = fetch.verify(name)
    assert not found.ok
    (wrong,) = [check for check in found.checks if not check.ok]
    assert wrong.detail == f"test has the sha256 {hashes['test']} where {'0' * 64} is due"


def test_verify_of_a_file_that_makes_other_splits(
    small_magic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(uci.SIZES, "magic", ((80, 10, 10), 4))
    found = fetch.verify("magic")
    assert not found.ok
    assert "not the published" in found.checks[-1].detail
