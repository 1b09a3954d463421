"""What asv is told of this project: the environment of a commit, and the machine.

asv (https://asv.readthedocs.io) checks out each commit, runs the suite on it and keeps the results;
its own commands do all of it. ``asv.conf.json`` names this file, which asv loads first.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import re
import sys
import sysconfig
import venv
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from asv.environment import Environment
from asv.machine import Machine
from asv.util import UserError

from benchmarks.allocator import ALLOCATOR

__all__ = ["Checkout", "describe", "load"]


class Checkout(Environment):  # type: ignore[misc]
    """A virtual environment for the running Python, with the checkout of one commit at a time.

    asv's own start by downloading pip, wheel and more, and then torch. This one is bare: a ``.pth``
    file puts the checkout first, and behind it the packages that are installed where asv runs.

    Attributes:
        gpu: uuid of the GPU that is measured on; empty without one.
    """

    tool_name = "checkout"
    gpu = ""

    def __init__(self, conf: Any, python: str, requirements: Any, variables: Any) -> None:
        from benchmarks.environment import version_of

        # asv's base class takes these two from its subclass. By the version of torch, which stands
        # in its name, results of two versions are kept apart.
        self._python = python
        self._requirements = {**requirements, "torch": str(version_of("torch")).partition("+")[0]}
        super().__init__(conf, python, self._requirements, variables)

    @classmethod
    def matches(cls, python: str) -> bool:
        """Whether this is the Python that asv runs with: installed packages are bound to it."""
        return python == sysconfig.get_python_version()

    def check_presence(self) -> bool:
        """Whether the environment is there and its Python is still that of asv."""
        python = Path(self._path, "bin", "python")
        return python.exists() and python.resolve() == Path(sys.executable).resolve()

    def create(self) -> None:
        """Create the environment if it is missing, and say where its packages lie.

        Raises:
            UserError: if asv's Python is another one than was asked for, or has no torch, or if
                there are changes that are not committed and so would not be measured.
        """
        from benchmarks.environment import git_state

        if not self.matches(self._python):
            raise UserError(
                f"commits are measured with the Python that runs asv, "
                f"{sysconfig.get_python_version()}, not {self._python}"
            )
        if importlib.util.find_spec("torch") is None:
            raise UserError(f"asv runs in {sys.prefix}, which has no torch: run it from .venv")
        if git_state().get("git_dirty"):
            raise UserError(
                "code is changed that is not committed. asv measures commits, which are without "
                "these changes: commit or stash them. `asv run --quick -E existing` runs the tree "
                "as it is"
            )
        super().create()
        shared = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
        (packages,) = Path(self._path, "lib").glob("python*/site-packages")
        # Only the folders themselves: .pth files inside them, such as that of an editable
        # installation of this project, are not read.
        (packages / "measured.pth").write_text("\n".join([self._build_root, *shared]) + "\n")

    def _setup(self) -> None:
        venv.create(self._path, with_pip=False, symlinks=True)

    def run(self, args: list[str], **kwargs: Any) -> Any:
        """Run Python in the environment, as asv does before it measures a commit.

        Raises:
            UserError: if another process computes on the GPU.
        """
        from benchmarks.environment import gpu_processes

        if self.gpu and gpu_processes(self.gpu):
            raise UserError(
                "another process computes on the GPU: times would be those of both. Run again when "
                "it is free"
            )
        return self.run_executable("python", args, **kwargs)


def describe() -> tuple[dict[str, str], str, str]:
    """The machine as records name it, its GPU's uuid, its setting of the matrix products' library.

    What differs in the first is never drawn as one line; it holds no host name.
    """
    import torch

    from benchmarks.environment import describe_environment, matrix_products

    cuda = torch.cuda.is_available()
    uuid = str(getattr(torch.cuda.get_device_properties(0), "uuid", "")) if cuda else ""
    found = describe_environment(torch.device("cuda" if cuda else "cpu"))
    gpu = str(found.get("gpu", "none"))
    words = re.findall(r"[a-z0-9]+", gpu.lower()) if cuda else []
    system, _, architecture = str(found["platform"]).partition(" ")
    facts = {
        "machine": "-".join([f"cpu-{found['cpu_cores']}core", *words]),
        "os": system,
        "arch": architecture,
        "cpu": str(found["machine"]),
        "num_cpu": str(found["cpu_cores"]),
        "ram": f"{float(found['memory_bytes'] or 0) / 2**30:.0f} GiB",
        "gpu": gpu,
    }
    return facts, uuid, matrix_products().setting


def load(machine_name: str | None = None, **_: object) -> Machine:
    """The machine that runs this, for asv, which else asks its user and keeps it in the home."""
    from flows.products import VARIABLE

    # In a process of its own: this one must not occupy the GPU while others are timed on it.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        facts, Checkout.gpu, products = pool.submit(describe).result()
    # Commits that are compared get their memory alike, and multiply by the same library.
    for name, value in {**ALLOCATOR, VARIABLE: products}.items():
        os.environ.setdefault(name, value)
    machine = Machine()
    vars(machine).update(facts, machine=machine_name or facts["machine"])
    return machine


Machine.load = load
