"""Every test of the data room has a data folder of its own; real data are asked for by name."""

import os
from pathlib import Path

import pytest

from datasets.files import folder

# As the user set it when the tests began: where real data are, if anywhere.
REAL = os.environ.get(folder.VARIABLE)


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, and nothing of this machine's own behind it."""
    path = tmp_path / "data"
    path.mkdir()
    monkeypatch.setenv(folder.VARIABLE, str(path))
    cache = str(tmp_path / "platform")
    monkeypatch.setattr(folder.platformdirs, "user_cache_dir", lambda name: cache)
    return path


@pytest.fixture(scope="session")
def prepared_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what is made of real data is kept for the whole run."""
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def real_data(data_folder: Path, prepared_once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders that the user's variable names, for reading alone."""
    if REAL is None:
        pytest.skip(f"{folder.VARIABLE} is not set: no real data to test with")
    monkeypatch.setenv(folder.VARIABLE, os.pathsep.join([str(prepared_once), REAL]))
