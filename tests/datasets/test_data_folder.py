import os
from pathlib import Path

import pytest

from datasets.base import DataError
from datasets.files import folder


def test_search_path_is_that_of_the_variable_and_then_the_platforms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(folder.VARIABLE, os.pathsep.join(["/one", "/two", "/one"]))
    assert folder.search_path() == [Path("/one"), Path("/two"), tmp_path / "platform"]
    monkeypatch.delenv(folder.VARIABLE)
    assert folder.search_path() == [tmp_path / "platform"]


def test_a_read_only_folder_is_searched_but_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own" / "deep"
    shared.mkdir()
    (shared / "file").touch()
    shared.chmod(0o555)
    monkeypatch.setenv(folder.VARIABLE, os.pathsep.join([str(shared), str(own)]))
    assert folder.write_folder() == own
    assert own.is_dir()
    assert shared / "file" in list(folder.files())


def test_nowhere_to_write_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "blocked"
    blocked.touch()
    monkeypatch.setattr(folder.platformdirs, "user_cache_dir", lambda name: str(blocked))
    monkeypatch.setenv(folder.VARIABLE, str(blocked / "below"))
    with pytest.raises(DataError, match=folder.VARIABLE):
        folder.write_folder()


def test_files_are_found_two_folders_deep_and_unfinished_ones_are_not(data_folder: Path) -> None:
    names = ["a.npz", "x/b.npz", "x/y/c.npz", "x/y/z/d.npz", "e.part", "prepared/f.npy"]
    for name in names:
        path = data_folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = [path.relative_to(data_folder).as_posix() for path in folder.files()]
    assert found == ["a.npz", "x/b.npz", "x/y/c.npz"]
