import errno
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.base import array_hash
from datasets.files import cache, folder
from datasets.files.cache import CacheWarning, cached_splits, prepared_folders

RECIPE = {"set": "made-up", "version": 1}


class Recipe:
    """Makes splits, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0
        random = np.random.default_rng(0)
        self.splits = [random.random((n, 3)).astype(np.float32) for n in (80, 8, 12)]

    def __call__(self) -> list[np.ndarray]:
        self.calls += 1
        return self.splits


def same(found: list[np.ndarray], recipe: Recipe) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found, recipe.splits, strict=True))


def test_prepared_once_then_mapped() -> None:
    recipe = Recipe()
    first, hashes = cached_splits("made-up", RECIPE, recipe)
    again, hashes_again = cached_splits("made-up", RECIPE, recipe)
    assert recipe.calls == 1
    assert same(first, recipe)
    assert same(again, recipe)
    assert hashes == hashes_again
    assert hashes["test"] == array_hash(recipe.splits[2])
    assert isinstance(again[0], np.memmap)
    assert [path.name for path in prepared_folders("made-up")] == [
        Path(again[0].filename).parent.name
    ]
    assert prepared_folders("made") == []


def test_another_recipe_has_a_place_of_its_own() -> None:
    recipe = Recipe()
    cached_splits("made-up", RECIPE, recipe)
    cached_splits("made-up", {**RECIPE, "version": 2}, recipe)
    assert recipe.calls == 2


def test_torch_uses_the_map_without_a_copy_or_a_warning() -> None:
    (train, *_), _ = cached_splits("made-up", RECIPE, Recipe())
    tensor = torch.from_numpy(train)
    assert tensor.data_ptr() == train.ctypes.data
    tensor[0, 0] = 99
    (fresh, *_), _ = cached_splits("made-up", RECIPE, Recipe())
    assert fresh[0, 0] != 99


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("harm", [damage, truncate, Path.unlink])
@pytest.mark.parametrize("file", ["train.npy", "manifest.json"])
def test_what_is_damaged_is_made_again(harm: Callable[[Path], None], file: str) -> None:
    recipe = Recipe()
    cached_splits("made-up", RECIPE, recipe)
    (made,) = prepared_folders("made-up")
    if file == "manifest.json" and harm is damage:
        (made / file).write_text("{")
    else:
        harm(made / file)
    if (made / file).exists():
        # Later by as much as the coarsest clock tells apart.
        os.utime(made / file, (0, (made / file).stat().st_mtime + 2))
    found, _ = cached_splits("made-up", RECIPE, recipe)
    assert same(found, recipe)
    assert recipe.calls == 2


def test_a_copied_cache_is_checked_by_its_hashes(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another time of change alone is no reason to prepare again."""
    recipe = Recipe()
    cached_splits("made-up", RECIPE, recipe)
    (made,) = prepared_folders("made-up")
    for path in made.iterdir():
        os.utime(path, (1, 1))
    found, _ = cached_splits("made-up", RECIPE, recipe)
    assert same(found, recipe)
    assert recipe.calls == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_leaves_right_data_and_nothing_half_written(
    number: int, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe()
    written = 0

    def full(descriptor: int) -> None:
        nonlocal written
        written += 1
        if written == 2:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.warns(CacheWarning, match=os.strerror(number)):
        found, hashes = cached_splits("made-up", RECIPE, recipe)
    assert same(found, recipe)
    assert hashes["train"] == array_hash(recipe.splits[0])
    left = [path.name for path in (data_folder / folder.PREPARED).iterdir()]
    assert all(name.endswith(".lock") for name in left)
    monkeypatch.undo()


def test_no_place_to_write_leaves_right_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv(folder.VARIABLE, str(blocked))
    monkeypatch.setattr(folder.platformdirs, "user_cache_dir", lambda name: str(blocked))
    recipe = Recipe()
    with pytest.warns(CacheWarning, match=folder.VARIABLE):
        found, _ = cached_splits("made-up", RECIPE, recipe)
    assert same(found, recipe)


def test_an_error_while_preparing_leaves_nothing(data_folder: Path) -> None:
    def fail() -> list[np.ndarray]:
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        cached_splits("made-up", RECIPE, fail)
    found, _ = cached_splits("made-up", RECIPE, Recipe())
    assert len(found) == 3


def _prepare_slowly(path: str, log: str) -> None:
    os.environ[folder.VARIABLE] = path

    def prepare() -> list[np.ndarray]:
        with Path(log).open("a") as stream:
            stream.write("made\n")
        time.sleep(0.5)
        return Recipe()()

    found, _ = cached_splits("made-up", RECIPE, prepare)
    assert same(found, Recipe())


def test_two_processes_prepare_a_set_once(data_folder: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    workers = [
        context.Process(target=_prepare_slowly, args=(str(data_folder), str(log))) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert log.read_text() == "made\n"


def test_without_locks_the_first_to_finish_wins(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoLocks:
        def __init__(self, path: Path) -> None:
            self.path = path

        def acquire(self) -> None:
            raise NotImplementedError("the file system has no locks")

    monkeypatch.setattr(folder, "FileLock", NoLocks)
    first = Recipe()

    def overtaken() -> list[np.ndarray]:
        cached_splits("made-up", RECIPE, first)
        return Recipe()()

    found, _ = cached_splits("made-up", RECIPE, overtaken)
    assert same(found, first)
    assert isinstance(found[0], np.memmap)
    assert [path.name[0] for path in (data_folder / folder.PREPARED).iterdir()] == ["m"]


def _die_half_way(path: str) -> None:
    os.environ[folder.VARIABLE] = path

    def last_words(descriptor: int) -> None:
        os._exit(9)

    cache.os.fsync = last_words  # type: ignore[assignment]
    cached_splits("made-up", RECIPE, Recipe())


def test_a_process_that_dies_while_writing_is_outlived(data_folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=_die_half_way, args=(str(data_folder),))
    worker.start()
    worker.join()
    assert worker.exitcode == 9
    recipe = Recipe()
    found, _ = cached_splits("made-up", RECIPE, recipe)
    assert same(found, recipe)
    assert recipe.calls == 1


def test_manifest_tells_the_hashes() -> None:
    _, hashes = cached_splits("made-up", RECIPE, Recipe())
    (made,) = prepared_folders("made-up")
    assert json.loads((made / "manifest.json").read_text())["hashes"] == hashes
