"""Where a measurement was made: versions, machine, commit, and who else used it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import psutil
import torch

from benchmarks.errors import BenchError
from flows import InputError
from flows.continuous import kernels
from flows.processor import processor
from flows.products import Products, chosen_products

__all__ = [
    "LIBRARIES",
    "OthersWork",
    "describe_environment",
    "git_state",
    "gpu_processes",
    "matrix_products",
    "process_peak_bytes",
    "version_of",
]

COMMON = ("torch", "numpy", "scipy", "pandas", "ffjord-bench")
"""Distributions that take part in every measurement."""

LIBRARIES = (
    "torchdiffeq",
    "nflows",
    "zuko",
    "normflows",
    "torchflows",
    "jax",
    "jaxlib",
    "diffrax",
    "flowjax",
)
"""Those that take part where they were imported: each cell has a process of its own, which imports
the libraries of its contestants alone. Named like their modules."""


@cache
def git_state() -> dict[str, str | bool]:
    """Commit of the checkout that this code runs from, and whether it has changes.

    Empty if the code does not run from a git checkout.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return {}
    try:
        commit = _git(root, "rev-parse", "HEAD")
        # Records of runs are no change of the code.
        changed = _git(root, "status", "--porcelain", "--", "flows", "datasets", "benchmarks")
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"git_commit": commit, "git_dirty": bool(changed)}


def _git(root: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


def describe_environment(device: torch.device) -> dict[str, float | int | str | bool | None]:
    """Versions and machine, flat, for a record.

    Of :data:`LIBRARIES` those are named that this process has imported. ``machine`` is the same
    for all machines with one kind of processor, and other for others; ``matrix_products`` says
    which library multiplies large float32 matrices on the CPU, and ``kernels`` what compiles the
    kernels of small dense dynamics there, ``none`` where torch does their work.

    Args:
        device: on which the cell runs; CUDA facts are given for a CUDA device only, and these two
            for the CPU only.

    Raises:
        BenchError: if a variable that sets one of them is wrong.
    """
    cpu = processor()
    found: dict[str, float | int | str | bool | None] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "machine": cpu.label,
        "cpu": cpu.name,
        "cpu_family": cpu.family,
        "cpu_model": cpu.model,
        "cpu_stepping": cpu.stepping,
        "cpu_vector_extensions": " ".join(cpu.vector_extensions),
        "cpu_level2_bytes": cpu.level2_bytes,
        "cpu_level3_bytes": cpu.level3_bytes,
        "cpu_cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        **git_state(),
    }
    for package in (*COMMON, *(name for name in LIBRARIES if name in sys.modules)):
        found[package.replace("-", "_")] = version_of(package)
    if device.type == "cuda" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "driver": _driver(),
        }
    if device.type == "cpu":
        found["matrix_products"] = matrix_products().label
        found["kernels"] = _kernels()
    return found


def matrix_products() -> Products:
    """Which library multiplies large float32 matrices on the CPU, in this process.

    Raises:
        BenchError: if the variable that sets it is wrong.
    """
    try:
        return chosen_products()
    except InputError as error:
        raise BenchError(str(error)) from error


def _kernels() -> str:
    try:
        return kernels.in_use()
    except InputError as error:
        raise BenchError(str(error)) from error


def version_of(package: str) -> str | None:
    """The installed version of a distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _nvidia_smi(query: str) -> list[str]:
    try:
        answer = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"],
            check=True,
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def _driver() -> str | None:
    lines = _nvidia_smi("--query-gpu=driver_version")
    return lines[0] if lines else None


def gpu_processes(uuid: str = "") -> int:
    """How many processes compute on a GPU, on any without its uuid, as far as the driver tells."""
    return sum(uuid in line for line in _nvidia_smi("--query-compute-apps=gpu_uuid,pid"))


def process_peak_bytes() -> int | None:
    """Peak resident memory of this process (VmHWM) in bytes; None where the system has none.

    Not ``ru_maxrss``, which a child inherits from its parent.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


class OthersWork:
    """Notices whether other processes worked while a block ran.

    Counted are the CPU seconds of the whole machine, those that other virtual machines took from
    it included, less those of this process and of its children that were waited for.

    Args:
        device: where the block computes.
        threads: how many cores it uses.

    Attributes:
        shared: after the block: other processes used :data:`LEAST_SHARE` of so many cores or
            more, or the GPU.
    """

    LEAST_SHARE = 0.1
    """What others have to use of the block's cores. That is what a median over repeats does not
    hide any more if they use the same cores; on a quiet machine the system's own work stays below
    it on two cores."""

    def __init__(self, device: torch.device, threads: int) -> None:
        self.device = device
        self.threads = threads
        self.shared = False

    def __enter__(self) -> OthersWork:
        self._wall = time.perf_counter()
        self._busy = _busy_seconds()
        self._own = _own_seconds()
        return self

    def __exit__(self, *error: object) -> None:
        wall = time.perf_counter() - self._wall
        own = _own_seconds() - self._own
        others = _busy_seconds() - self._busy - own
        # The kernel counts in ticks of 10 ms, each kind of work apart: a short block says nothing
        # below a few of them.
        self.shared = others > self.LEAST_SHARE * wall * self.threads + 0.05
        if self.device.type == "cuda":
            # Another job on another GPU is none of this one's.
            uuid = str(torch.cuda.get_device_properties(self.device).uuid)
            self.shared |= gpu_processes(uuid) > 1


def _own_seconds() -> float:
    """CPU seconds of this process and of its children that were waited for."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def _busy_seconds() -> float:
    """CPU seconds that the whole machine has spent working."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # Linux counts a guest's time in user and nice already.
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle - guest)
