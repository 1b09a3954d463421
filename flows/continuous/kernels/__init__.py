"""Compiled kernels for dense dynamics on a CPU: fewer, larger calls whose data stay in the cache.

At a given time dense dynamics are a plain network, and one batch's points know nothing of each
other but the size of a step. So a *panel* of 32 points goes through everything that an attempted
step asks of it, all stages with value, Jacobian products and error, before the next one does; and
a whole solve with its control is one compiled call, as is its gradient. In the order of reading:

==============  ===================================================================
blocks          matrix products of panels, in registers
activations     nonlinearities with two derivatives
layers          the layers' weights as functions of time, and the gradient of these
network         a panel through a network, forwards and backwards
threads         Python's threads in compiled code, and how they wait for one another
steps           a solve of all panels, step by step, and its gradient
evaluator       the solver's right-hand side made of these; torch's tensors in and out
compiled        how functions are compiled, and where that is kept
warmed          has it all compiled when it is imported
==============  ===================================================================

They need Numba (the extra ``fast``). Without it, where the evaluator finds a case not covered, and
where the environment variable ``FFJORD_BENCH_KERNELS`` is ``off``, torch does the same to rounding.
On CUDA ``on_cuda`` has a step's kernel, which Triton compiles; ``off`` is for it as well.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from functools import cache

from flows.base import InputError

__all__ = ["VARIABLE", "allowed", "in_use", "numba_is_there", "triton_is_there"]

VARIABLE = "FFJORD_BENCH_KERNELS"


def numba_is_there() -> bool:
    """Whether the other modules of this package can be imported."""
    return importlib.util.find_spec("numba") is not None


def triton_is_there() -> bool:
    """Whether ``on_cuda`` can be imported; torch's builds for CUDA bring it along."""
    return importlib.util.find_spec("triton") is not None


@cache
def _version() -> str:
    return f"numba {importlib.metadata.version('numba')}" if numba_is_there() else "none"


def in_use() -> str:
    """What compiles the kernels, by name and version; ``none`` where torch does their work.

    Raises:
        InputError: if the variable is set to anything but ``on`` and ``off``.
    """
    return _version() if allowed() else "none"


def allowed() -> bool:
    """Whether kernels may do torch's work.

    Raises:
        InputError: if the variable is set to anything but ``on`` and ``off``.
    """
    setting = os.environ.get(VARIABLE, "on")
    if setting not in ("on", "off"):
        raise InputError(f"{VARIABLE} must be on or off, got {setting!r}")
    return setting == "on"
