"""The choice of a library for matrix products: measured once, kept, and settable."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flows import InputError, products
from flows.dense import dense_stack
from flows.linalg import product
from flows.products import LEAST_TERMS, VARIABLE, Products, chosen_products, probe

needs_onednn = pytest.mark.skipif(
    not products.onednn_is_there(), reason="torch has no oneDNN for this processor"
)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process that has not chosen yet, with an empty cache folder and no variable."""
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(products.platformdirs, "user_cache_dir", lambda name: str(tmp_path))
    choose = functools.cache(chosen_products.__wrapped__)
    monkeypatch.setattr(products, "chosen_products", choose)
    monkeypatch.setattr("flows.linalg.chosen_products", choose)
    monkeypatch.setattr(products, "onednn_is_there", lambda: True)
    return tmp_path


def finds(monkeypatch: pytest.MonkeyPatch, found: Products) -> list[Products]:
    """Let the probe find that; what it returns is listed."""
    probes: list[Products] = []

    def probed() -> Products:
        probes.append(found)
        return found

    monkeypatch.setattr(products, "probe", probed)
    return probes


def again() -> Products:
    """The choice of another process."""
    value: Products = chosen_products.__wrapped__()
    return value


@pytest.mark.parametrize("choice", [Products(), Products(2**21), Products(10**8)])
def test_a_choice_is_what_its_setting_says(choice: Products) -> None:
    assert Products.parse(choice.setting) == choice


@pytest.mark.parametrize("setting", ["onednn", "onednn:many", "onednn:1000", "openblas", "mkl:1"])
def test_what_is_no_setting_is_refused_by_name(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv(VARIABLE, setting)
    with pytest.raises(InputError, match=VARIABLE):
        products.chosen_products()


def test_onednn_cannot_be_set_where_it_is_not(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "onednn_is_there", lambda: False)
    assert again() == Products()
    monkeypatch.setenv(VARIABLE, "onednn:2097152")
    with pytest.raises(InputError, match="no oneDNN"):
        again()


def test_the_variable_is_obeyed_and_nothing_measured(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes = finds(monkeypatch, Products())
    monkeypatch.setenv(VARIABLE, "onednn:4194304")
    assert products.chosen_products() == Products(2**22)
    assert not probes
    assert not list(fresh.rglob("*"))


def test_the_first_process_measures_for_all(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probes = finds(monkeypatch, Products(2**23))
    assert products.chosen_products() == products.chosen_products() == Products(2**23)
    finds(monkeypatch, Products())
    assert again() == Products(2**23)
    assert len(probes) == 1
    (kept,) = (path for path in fresh.rglob("*") if path.is_file())
    assert kept.read_text() == "onednn:8388608"


@pytest.mark.parametrize("damage", [b"", b"onednn:", b"\xff\xfe", b"onednn:12"])
def test_a_damaged_file_is_measured_anew(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    finds(monkeypatch, Products(2**22))
    path = products._kept_at()
    path.parent.mkdir()
    path.write_bytes(damage)
    assert again() == Products(2**22)
    assert path.read_text() == "onednn:4194304"
    assert list(path.parent.iterdir()) == [path]


def test_of_two_processes_that_measure_at_once_the_first_decides(fresh: Path) -> None:
    path = products._kept_at()
    assert products._keep(path, Products(2**22)) == Products(2**22)
    assert products._keep(path, Products()) == Products(2**22)
    assert list(path.parent.iterdir()) == [path]


def test_without_a_folder_to_write_to_each_measures(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fresh / "products").write_text("a file where the folder would be")
    probes = finds(monkeypatch, Products(2**22))
    assert again() == again() == Products(2**22)
    assert len(probes) == 2


def test_other_processors_and_versions_have_files_of_their_own(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = products._kept_at()
    monkeypatch.setattr(torch, "__version__", "3.0")
    assert products._kept_at() != here


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        ((0.5, 0.5, 0.5, 0.5), 2**21),
        ((-1.0, 0.05, 0.3, 0.5), 2**23),
        # The larger ones decide: what wins at one size only, by chance, is not taken.
        ((0.5, 0.5, 0.02, 0.5), 2**25),
        ((0.5, 0.5, 0.5, 0.05), None),
        ((-0.3, -0.2, -0.1, -0.1), None),
    ],
)
def test_onednn_is_taken_from_where_it_clearly_wins(
    monkeypatch: pytest.MonkeyPatch, saved: tuple[float, ...], expected: int | None
) -> None:
    by_size = dict(zip(products._SIZES, saved, strict=True))
    monkeypatch.setattr(products, "_seconds", lambda width, rows: (1.0, 1.0 - by_size[width, rows]))
    assert probe() == Products(expected)


@needs_onednn
def test_the_probe_leaves_no_trace() -> None:
    """It is not counted, not cast, and leaves the number of threads."""
    threads = torch.get_num_threads()
    running = threading.active_count()
    with (
        torch.no_grad(),
        torch.autocast("cpu", dtype=torch.bfloat16),
        FlopCounterMode(display=False) as counter,
    ):
        found = probe()
    assert counter.get_total_flops() == 0
    assert found.onednn_from is None or found.onednn_from >= LEAST_TERMS
    assert torch.get_num_threads() == threads
    assert threading.active_count() == running


def refuse() -> Products:
    raise AssertionError("the choice was asked for")


@pytest.mark.parametrize(
    ("width", "dtype"), [(32, torch.float32), (160, torch.float64)], ids=["small", "float64"]
)
def test_the_choice_is_asked_for_by_large_products_only(
    monkeypatch: pytest.MonkeyPatch, width: int, dtype: torch.dtype
) -> None:
    monkeypatch.setattr("flows.linalg.chosen_products", refuse)
    square = torch.ones(width, width, dtype=dtype)
    shift = torch.ones(width, dtype=dtype)
    product(square, square)
    product(square, square, shift)
    dense_stack([(square, shift)], "relu", square)
    large = torch.ones(160, 160)
    with pytest.raises(AssertionError, match="asked for"):
        product(large, large)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_stack_never_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.linalg.chosen_products", refuse)
    square, shift = torch.ones(160, 160), torch.ones(160)

    def stack(columns: torch.Tensor) -> torch.Tensor:
        return dense_stack([(square, shift)], "relu", columns)

    compiled: Callable[[torch.Tensor], torch.Tensor] = torch.compile(stack, backend="eager")
    torch.testing.assert_close(compiled(square), square @ square + 1)


@pytest.mark.slow
@needs_onednn
def test_processes_with_one_setting_agree_to_the_last_bit() -> None:
    program = (
        "import hashlib, torch, flows.linalg as d; torch.manual_seed(0); torch.set_num_threads(1)\n"
        "a = d.product(torch.randn(150, 150), torch.randn(150, 150))\n"
        "print(hashlib.sha256(a.numpy().tobytes()).hexdigest())"
    )

    environment = {**os.environ, VARIABLE: "onednn:2097152"}
    words = [sys.executable, "-c", program]
    first, second = (
        subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first == second
