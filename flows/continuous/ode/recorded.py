"""Functions over buffers that stay where they are, recorded once as CUDA graphs and replayed.

What a solve does again and again, an attempted step and the gradient of a step, is written as a
function of no arguments: what it reads and what it leaves are tensors of its own, its *buffers*.
:mod:`flows.continuous.ode.on_device` copies inputs in and results out. So the host issues one
replay instead of some hundred kernels, and on a CPU the same code runs as it stands, which is how
it is tested.

A record serves all evaluators of one structure and shape: the blocks of a flow have one in common.
The first time that a key is met nothing is recorded: much is solved once and never again, such as
the last batch of a split. Where recording fails the solve goes on without; :data:`refused` says
why. All graphs share one pool of memory for what is between buffers, as they are replayed one
after the other on one stream: solves in several threads at once are not provided for.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from flows.continuous.ode.evaluator import Evaluator

__all__ = ["Recorder", "as_graph", "fresh_inputs", "layout", "recorded", "refused", "using"]

Recorder = Callable[[Callable[[], None]], Callable[[], None]]
"""From a function over buffers to one that does the same."""

MOST = 64
"""So many records are kept, the last used ones."""

refused: dict[Hashable, str] = {}
"""Why a key could not be recorded."""

_records: OrderedDict[Hashable, Any] = OrderedDict()
_chosen: list[Recorder | None] = []


def recorded(key: Hashable, device: torch.device, make: Callable[[Recorder], Any]) -> Any | None:
    """What ``make`` makes of a recorder, from the second time on that a key is met; or None.

    Args:
        key: what two calls have in common that may share a record.
        device: where the buffers are.
        make: allocates buffers and hands functions over them to the recorder.
    """
    recorder = _recorder(device)
    if recorder is None or key in refused:
        return None
    key = key, recorder
    if key not in _records:
        _records[key] = None
        while len(_records) > MOST:
            _records.popitem(last=False)
        return None
    _records.move_to_end(key)
    if _records[key] is None:
        try:
            _records[key] = make(recorder)
        except RuntimeError as error:
            refused[key[0]] = str(error)
            del _records[key]
            return None
    return _records[key]


def _recorder(device: torch.device) -> Recorder | None:
    if _chosen:
        return _chosen[-1]
    return as_graph if device.type == "cuda" else None


@contextlib.contextmanager
def using(recorder: Recorder | None) -> Iterator[None]:
    """Have functions recorded by this one, on any device; None for none at all."""
    _chosen.append(recorder)
    try:
        yield
    finally:
        _chosen.pop()


def fresh_inputs(evaluator: Evaluator) -> list[Tensor]:
    """Buffers for an evaluator's inputs, which want a gradient where these do."""
    return [
        torch.zeros(one.shape, dtype=one.dtype, device=one.device, requires_grad=one.requires_grad)
        for one in evaluator.inputs()
    ]


def layout(tensors: Sequence[Tensor]) -> Hashable:
    """What has to agree of tensors that are copied into the same buffers."""
    return tuple((one.shape, one.dtype, one.requires_grad) for one in tensors)


WARM_UP = 2
"""Runs before the recording, in which libraries get their workspaces and kernels are compiled."""


def as_graph(function: Callable[[], None]) -> Callable[[], None]:
    """The function as a CUDA graph, captured on a stream of its own, after it has run there."""
    stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            function()
    current.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=_pool(), stream=stream):
        function()
    return graph.replay


@cache
def _pool() -> Any:
    return torch.cuda.graph_pool_handle()
