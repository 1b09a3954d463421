"""Compiled kernels for dense dynamics on a CPU: fewer, larger calls whose data stay in the cache.

At a given time dense dynamics are a plain network, and one batch's points know nothing of each
other between two decisions about a step's size. So a *panel* of 32 points goes through everything
that an attempted step asks of it, all stages with value, Jacobian products and error, in one
compiled call; and once more, backwards, for the gradient. In the order of their reading:

==============  ===================================================================
blocks          matrix products of panels, in registers
activations     nonlinearities with two derivatives
network         a panel through a network, forwards and backwards
steps           a Runge-Kutta step of all panels, and its gradient
layers          the layers' weights as functions of time
panels          rows of a batch to panels and back
march           a solve, attempt by attempt: torch's tensors in and out
compiled        how functions are compiled, and where that is kept
==============  ===================================================================

They need Numba (the extra ``fast``); without it, and where ``march.covers`` says no, torch does the
same.
"""

from __future__ import annotations

import importlib.util

__all__ = ["numba_is_there"]


def numba_is_there() -> bool:
    """Whether the other modules of this package can be imported."""
    return importlib.util.find_spec("numba") is not None
