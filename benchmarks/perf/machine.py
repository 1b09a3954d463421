"""Where a history is measured, and who else computes there."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.allocator import ALLOCATOR
from benchmarks.environment import (
    OthersWork,
    describe_environment,
    gpu_processes,
    matrix_products,
)
from benchmarks.perf.project import PerformanceError
from flows.products import VARIABLE

__all__ = ["Company", "Machine"]


@dataclass
class Company:
    """Whether others computed here while asv did.

    Attributes:
        gpu: at any time another process than the benchmark computed on the GPU.
        cpu: other processes worked, see :class:`benchmarks.environment.OthersWork`.
    """

    gpu: bool = False
    cpu: bool = False


@dataclass(frozen=True)
class Machine:
    """Where a history is measured. What differs here is never drawn as one line.

    Attributes:
        name: of the history; ends in the GPU's model where there is one.
        facts: as asv keeps them; no host name, no kernel.
        uuid: of the GPU; empty without one.
        environment: variables that processes which measure here are started with; commits that are
            compared get their memory alike and multiply by the same library.
    """

    name: str
    facts: dict[str, str]
    uuid: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def here(cls, name: str | None) -> Machine:
        """The machine that runs this.

        Args:
            name: what to call it; by default after its cores.

        Raises:
            PerformanceError: if the name will not do.
        """
        # In a process of its own: this one must not occupy the GPU while others are timed on it.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            found, uuid, products = pool.submit(_describe).result()
        name = name or f"cpu-{found['cpu_cores']}core"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise PerformanceError(
                f"machine name {name!r}: letters, digits, '.', '_' and '-' are allowed"
            )
        suffix = "-".join(re.findall(r"[a-z0-9]+", found.get("gpu", "").lower()))
        if suffix and not name.endswith(suffix):
            name = f"{name}-{suffix}"
        system, _, architecture = found["platform"].partition(" ")
        facts = {
            "machine": name,
            "os": system,
            "arch": architecture,
            "cpu": found["machine"],
            "num_cpu": str(found["cpu_cores"]),
            "ram": f"{found['memory_bytes'] / 2**30:.0f} GiB",
            "gpu": found.get("gpu", "none"),
            "torch": found["torch"].partition("+")[0],
        }
        return cls(name, facts, uuid, {**ALLOCATOR, VARIABLE: products})

    @contextlib.contextmanager
    def watched(self) -> Iterator[Company]:
        """Watch who else computes while a block runs asv.

        Raises:
            PerformanceError: if somebody computes on the GPU already.
        """
        company, done = Company(), threading.Event()

        def watch() -> None:
            while not done.wait(1.0):
                # One process is the benchmark that is running.
                company.gpu |= gpu_processes(self.uuid) > 1

        thread = threading.Thread(target=watch, daemon=True)
        if self.facts["gpu"] != "none":
            if gpu_processes(self.uuid):
                raise PerformanceError(
                    f"another process computes on the {self.facts['gpu']}: times would be those of "
                    "both, and are not saved. Run again when it is free"
                )
            thread.start()
        try:
            with OthersWork(torch.device("cpu"), threads=1) as others:
                yield company
            company.cpu = others.shared
        finally:
            done.set()
            if thread.is_alive():
                thread.join()


def _describe() -> tuple[dict[str, Any], str, str]:
    """The environment, the GPU's uuid and the setting of the library of matrix products."""
    cuda = torch.cuda.is_available()
    uuid = str(getattr(torch.cuda.get_device_properties(0), "uuid", "")) if cuda else ""
    found = describe_environment(torch.device("cuda" if cuda else "cpu"))
    return found, uuid, matrix_products().setting
