"""Python's threads in compiled code: how they start, and how they wait for one another.

Numba's own threads bear neither a fork nor several callers. These live as long as one call, whose
compiled code lets the others run.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from flows.continuous.kernels.compiled import compiled

__all__ = ["meet", "share_out"]

Array = NDArray[Any]

# More than ever meet.
_EVERYONE = 1 << 62

_give_way = types.ExternalFunction(
    "SwitchToThread" if os.name == "nt" else "sched_yield", types.int32()
)


@intrinsic
def _added(typing, counter, amount):  # type: ignore[no-untyped-def]
    """Add to the first number of an array as one indivisible act, and give what it was."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        array, amount = arguments
        place = context.make_array(signature.args[0])(context, builder, array).data
        return builder.atomic_rmw("add", place, amount, "seq_cst")

    return types.int64(counter, types.int64), generate


@compiled
def meet(meeting: Array, number: int, workers: int) -> None:
    """Wait until all workers have come to their meeting of a number, the first being 1."""
    if workers == 1:
        return
    _added(meeting, 1)
    while _added(meeting, 0) < number * workers:
        _give_way()


def share_out(workers: int, call: Callable[[Array, int], None]) -> None:
    """Call with a meeting place and its number for each worker, the first one in this thread."""
    meeting = np.zeros(1, np.int64)
    others = [threading.Thread(target=call, args=(meeting, one)) for one in range(1, workers)]
    try:
        for other in others:
            other.start()
        call(meeting, 0)
    except BaseException:
        # Nobody is to wait for those who do not come.
        meeting[0] = _EVERYONE
        raise
    finally:
        for other in others:
            if other.ident is not None:
                other.join()
