"""An environment of asv that shows a commit's checkout and downloads nothing.

asv's own virtual environments start by downloading pip, wheel and more, and then torch. This one
is bare: a ``.pth`` file puts the checkout of the commit first, and behind it the packages that
are installed where asv runs. asv loads this file as a plugin, see ``asv.conf.json``.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

from asv.environment import Environment
from asv.machine import MachineCollection
from asv.util import UserError

__all__ = ["Checkout"]

# asv keeps the machine's description in the home folder, for all of a user's projects; this one's
# lies here, where `perf` writes it. asv loads plugins in the folder of its configuration.
_MACHINE_FILE = Path(".asv", "machine.json").resolve()
MachineCollection.get_machine_file_path = staticmethod(lambda: str(_MACHINE_FILE))


class Checkout(Environment):  # type: ignore[misc]
    """A virtual environment for the running Python, with the checkout of one commit at a time."""

    tool_name = "checkout"

    def __init__(self, conf: Any, python: str, requirements: Any, variables: Any) -> None:
        # asv's base class takes these two from its subclass.
        self._python = python
        self._requirements = requirements
        super().__init__(conf, python, requirements, variables)

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
            UserError: if asv's Python is another one than was asked for, or has no torch.
        """
        if not self.matches(self._python):
            raise UserError(
                f"commits are measured with the Python that runs asv, "
                f"{sysconfig.get_python_version()}, not {self._python}"
            )
        if importlib.util.find_spec("torch") is None:
            raise UserError(f"asv runs in {sys.prefix}, which has no torch: run it from .venv")
        super().create()
        shared = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
        (packages,) = Path(self._path, "lib").glob("python*/site-packages")
        # Only the folders themselves: .pth files inside them, such as that of an editable
        # installation of this project, are not read.
        (packages / "measured.pth").write_text("\n".join([self._build_root, *shared]) + "\n")

    def _setup(self) -> None:
        venv.create(self._path, with_pip=False, symlinks=True)

    def run(self, args: list[str], **kwargs: Any) -> Any:
        """Run Python in the environment."""
        return self.run_executable("python", args, **kwargs)
