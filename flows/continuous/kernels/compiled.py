"""Functions that Numba compiles, and where the compiled code is kept.

Numba keeps what it compiled beside the source and looks at one file's date to tell whether it is
still good; the functions here call one another across files. So it is kept in a folder that is
named by the hash of all these files and of the solver's control, of which parts are compiled in: in
the user's cache folder, or where ``NUMBA_CACHE_DIR`` says. What was compiled of other sources is
never met.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any, TypeVar

import numba
import platformdirs
from numba import types
from numba.extending import intrinsic

from flows.continuous.ode import control

__all__ = ["compiled", "in_order", "whole_vectors"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

# What may be assumed of arithmetic. Not that numbers are finite: NaN has to arrive.
_ARITHMETIC = {"contract", "reassoc", "nsz", "arcp"}


def _folder() -> Path:
    """Where compiled code is kept; shared by all processes."""
    sources = hashlib.sha256()
    for path in (*sorted(Path(__file__).parent.glob("*.py")), Path(control.__file__)):
        # The others compile nothing.
        if path.stem not in ("__init__", "evaluator", "warmed"):
            sources.update(path.read_bytes())
    name = f"{numba.__version__}-{sources.hexdigest()[:16]}"
    base = numba.config.CACHE_DIR or Path(platformdirs.user_cache_dir("ffjord-bench")) / "kernels"
    return Path(base) / name


_FOLDER = str(_folder())


def compiled(function: _Function, arithmetic: Set[str] = _ARITHMETIC) -> _Function:
    """The function, compiled when it is first called with arguments of some types.

    It holds no lock of the interpreter's, and starts no threads.
    """
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = _FOLDER
    try:
        made: _Function = numba.njit(
            function, cache=True, nogil=True, error_model="numpy", fastmath=set(arithmetic)
        )
    finally:
        numba.config.CACHE_DIR = before
    return made


def in_order(function: _Function) -> _Function:
    """The same, of a function whose sums are to be taken in the order in which they stand."""
    return compiled(function, _ARITHMETIC - {"reassoc"})


@intrinsic
def whole_vectors(typing):  # type: ignore[no-untyped-def]
    """Have the loops of a function made of the processor's widest vectors.

    LLVM takes half of a register of AVX-512, for the sake of processors that slow down at more.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        # No attribute that llvmlite knows by name.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate
