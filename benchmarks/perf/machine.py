"""Where a history is measured, and who else computes there."""

from __future__ import annotations

import multiprocessing
import re
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
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

__all__ = ["Machine", "Watch"]


def _describe() -> tuple[dict[str, Any], str, str]:
    """The environment, the GPU's uuid and the setting of the library of matrix products."""
    cuda = torch.cuda.is_available()
    uuid = str(getattr(torch.cuda.get_device_properties(0), "uuid", "")) if cuda else ""
    found = describe_environment(torch.device("cuda" if cuda else "cpu"))
    return found, uuid, matrix_products().setting


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
        gpu = found.get("gpu", "none")
        suffix = "-".join(re.findall(r"[a-z0-9]+", gpu.lower())) if "gpu" in found else ""
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
            "gpu": gpu,
            "torch": found["torch"].partition("+")[0],
        }
        return cls(name, facts, uuid, {**ALLOCATOR, VARIABLE: products})

    @property
    def has_gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.facts["gpu"] != "none"


class Watch(OthersWork):
    """Who else works here while asv runs benchmarks in processes of their own.

    Entering it raises PerformanceError if somebody computes on the GPU already.

    Attributes:
        shared: after the block: other processes worked, see :class:`OthersWork`; never the GPU.
        gpu_shared: at any time: another process than the benchmark computed on the GPU.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(torch.device("cpu"), threads=1)
        self.gpu_shared = False
        self._machine = machine
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self) -> None:
        while not self._done.wait(1.0):
            # One process is the benchmark that is running.
            self.gpu_shared |= gpu_processes(self._machine.uuid) > 1

    def __enter__(self) -> Watch:
        if self._machine.has_gpu:
            if gpu_processes(self._machine.uuid):
                raise PerformanceError(
                    f"another process computes on the {self._machine.facts['gpu']}: times would "
                    "be those of both, and are not saved. Run again when it is free"
                )
            self._thread.start()
        super().__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        self._done.set()
        if self._machine.has_gpu:
            self._thread.join()
