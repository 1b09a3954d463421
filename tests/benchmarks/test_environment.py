"""Where a measurement was made, and who else used the machine meanwhile."""

import multiprocessing
import os
import subprocess
import sys
import time
from importlib.metadata import version
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import environment
from benchmarks.environment import (
    OthersWork,
    describe_environment,
    process_peak_bytes,
    version_of,
)
from benchmarks.errors import BenchError
from flows.continuous import kernels
from flows.processor import Processor
from flows.products import VARIABLE, Products, chosen_products

CPU = torch.device("cpu")


def test_environment_names_versions_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = Processor("A CPU", 25, 17, 1, ("avx2", "avx512f"), 2**20, 2**25)
    monkeypatch.setattr(environment, "processor", lambda: kind)
    found = describe_environment(CPU)
    assert str(found["torch"]).startswith(torch.__version__.split("+")[0])
    assert found["cpu_cores"]
    assert found["machine"] == "A CPU (25-17-1), AVX-512, L2 1 MiB, L3 32 MiB"
    assert (found["cpu_family"], found["cpu_model"], found["cpu_stepping"]) == (25, 17, 1)
    assert found["cpu_vector_extensions"] == "avx2 avx512f"
    assert (found["cpu_level2_bytes"], found["cpu_level3_bytes"]) == (2**20, 2**25)
    assert "gpu" not in found
    peak = process_peak_bytes()
    assert peak is None or peak > 50_000_000


def test_libraries_are_named_where_they_took_part(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment.LIBRARIES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    found = describe_environment(CPU)
    assert found["scipy"] == version_of("scipy")
    assert not found.keys() & {*environment.LIBRARIES}
    monkeypatch.setitem(sys.modules, "nflows", ModuleType("nflows"))
    assert describe_environment(CPU)["nflows"] == version_of("nflows")


def test_planning_and_common_code_import_no_library_of_a_contestant() -> None:
    """What a cell's process has imported is therefore its contestants'."""
    code = (
        "import sys, importlib\n"
        "from benchmarks.run.server import PRELOAD\n"
        "importlib.import_module(PRELOAD)\n"
        "from benchmarks.environment import LIBRARIES\n"
        "print([name for name in LIBRARIES if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_in_it_names_this_one_machine() -> None:
    assert os.uname().nodename not in map(str, describe_environment(CPU).values())


@pytest.mark.parametrize(
    ("choice", "words"), [(Products(2**22), "oneDNN from 2**22 terms"), (Products(), "MKL")]
)
def test_environment_says_what_multiplies_matrices(
    monkeypatch: pytest.MonkeyPatch, choice: Products, words: str
) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(environment, "chosen_products", lambda: choice)
    assert describe_environment(CPU)["matrix_products"] == words


def test_a_wrong_setting_of_the_products_is_an_error_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environment, "chosen_products", chosen_products.__wrapped__)
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(BenchError, match=f"{VARIABLE} = 'fast'"):
        describe_environment(CPU)


@pytest.mark.parametrize(
    ("threads", "others", "shared"),
    [(1, 0.9, False), (1, 1.2, True), (4, 1.2, False), (4, 4.2, True), (1, 0.0, False)],
)
def test_a_tenth_of_the_cores_in_use_counts_as_shared(
    monkeypatch: pytest.MonkeyPatch, threads: int, others: float, shared: bool
) -> None:
    """Ten seconds in which others work so many, and we ourselves all the time."""
    monkeypatch.setattr(environment.time, "perf_counter", iter([100.0, 110.0]).__next__)
    monkeypatch.setattr(environment, "_own_seconds", iter([5.0, 15.0]).__next__)
    monkeypatch.setattr(environment, "_busy_seconds", iter([50.0, 60.0 + others]).__next__)
    with OthersWork(CPU, threads) as work:
        pass
    assert work.shared is shared


def test_a_few_ticks_in_a_short_block_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.time, "perf_counter", iter([0.0, 0.05]).__next__)
    monkeypatch.setattr(environment, "_own_seconds", iter([0.0, 0.05]).__next__)
    monkeypatch.setattr(environment, "_busy_seconds", iter([0.0, 0.1]).__next__)
    with OthersWork(CPU, 1) as work:
        pass
    assert not work.shared


def test_work_of_others_is_noticed() -> None:
    """A process that keeps every core busy is seen."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    begun = context.Semaphore(0)
    busy = [context.Process(target=_spin, args=(begun, stop)) for _ in range(os.cpu_count() or 1)]
    for process in busy:
        process.start()
    try:
        for _ in busy:
            begun.acquire()
        with OthersWork(CPU, 1) as others:
            time.sleep(1.0)
        assert others.shared
    finally:
        stop.set()
        for process in busy:
            process.join()


def test_children_that_were_waited_for_are_our_own() -> None:
    before = environment._own_seconds()
    program = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-S", "-c", program], check=True)
    assert environment._own_seconds() - before > 0.25


def test_environment_says_what_the_kernels_are_compiled_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = f"numba {version('numba')}" if kernels.numba_is_there() else "none"
    assert describe_environment(CPU)["kernels"] == expected
    monkeypatch.setenv(kernels.VARIABLE, "off")
    assert describe_environment(CPU)["kernels"] == "none"
    monkeypatch.setenv(kernels.VARIABLE, "perhaps")
    with pytest.raises(BenchError, match=kernels.VARIABLE):
        describe_environment(CPU)


def _spin(begun: Any, stop: Any) -> None:
    begun.release()
    while not stop.is_set():
        sum(range(10_000))


def test_the_choice_is_not_made_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Products:
        raise AssertionError("the choice was asked for")

    monkeypatch.setattr(environment, "chosen_products", refuse)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not {"matrix_products", "kernels"} & set(describe_environment(torch.device("cuda")))


@pytest.mark.parametrize(("where", "shared"), [("GPU-one", True), ("GPU-two", False)])
def test_a_job_on_another_gpu_is_none_of_this_ones(
    monkeypatch: pytest.MonkeyPatch, where: str, shared: bool
) -> None:
    """Of two processes one is this one, on GPU one; the other is on the GPU of the parameter."""
    monkeypatch.setattr(environment, "_nvidia_smi", lambda query: ["GPU-one, 1", f"{where}, 2"])
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="one")
    )
    monkeypatch.setattr(environment, "_busy_seconds", lambda: 0.0)
    with OthersWork(torch.device("cuda"), 1) as work:
        pass
    assert work.shared is shared
