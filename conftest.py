"""What every test and doctest starts from: one thread, a fixed seed, no luck with memory."""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch

# Without a device Triton's kernels run in its interpreter, which it decides when it is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from flows.continuous.kernels import numba_is_there, triton_is_there
from flows.products import VARIABLE

# The examples in docstrings are looked for in every module, and these cannot be imported then.
collect_ignore_glob = [] if numba_is_there() else ["flows/continuous/kernels/*"]
collect_ignore_glob += [] if triton_is_there() else ["flows/continuous/kernels/on_cuda/*"]

# Tests run in several processes at once; a thread each keeps them out of each other's way.
torch.set_num_threads(1)
# Fills memory that nobody has written to with NaN, so that a result that depends on it is seen.
torch.use_deterministic_algorithms(True)
# XLA is to compile fast: what it compiles here runs once or twice.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)
# The same products on every machine, also in the processes that tests start.
os.environ[VARIABLE] = "mkl"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: workers that take whole files end together.

    A test takes the seconds that its mark ``slow`` says, five if it says none; others next to none.
    """
    seconds: Counter[Path] = Counter()
    for item in items:
        mark = item.get_closest_marker("slow")
        seconds[item.path] += 0.01 if mark is None else mark.kwargs.get("seconds", 5.0)
    items.sort(key=lambda item: -seconds[item.path])
