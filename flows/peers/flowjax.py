"""Discrete flows of the library FlowJAX (Ward), in JAX: its own, as they are.

``coupling_flow`` and ``masked_autoregressive_flow`` with the widths of ours; a density and a loss
with its gradients are one compiled function each (:mod:`flows.peers.jax`). Its own, and left:

* Between layers the dimensions are permuted at random (reversed where there are two), not reversed.
* Affine layers scale by a softplus of at least 0.01, which is 1 at first.
* A spline learns its slopes at both ends of its box as well, 3 bins + 1 numbers a dimension where
  ours has 3 bins - 1, and goes on outside with slope 1.
* Samples of a masked autoregressive flow take D passes a layer, with their log-determinant D + 1.

The layers are a loop over stacked weights, which compiles in the time of one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.dlpack import from_dlpack

from flows.base import Flow
from flows.meter import tick
from flows.peers.base import PeerConfig, entries, load
from flows.peers.jax import InJax, Operation, Work, load_jax

__all__ = ["ENTRIES", "FlowjaxConfig"]


class FlowjaxConfig(PeerConfig):
    """A flow of FlowJAX; see :class:`flows.peers.base.PeerConfig`."""

    def _build(self, event_shape: Sequence[int], dimension: int) -> Flow:
        self._one_width("FlowJAX")
        load_jax()
        load("flowjax", extra="jax")
        return _Flowjax(event_shape, self)


class _Flowjax(InJax):
    def __init__(self, event_shape: Sequence[int], config: FlowjaxConfig) -> None:
        super().__init__(event_shape)
        self.config = config
        self.traits = config.traits
        seed = int(torch.randint(2**31, ()))
        self.weights, self.constants = nn.ParameterDict(), nn.Module()
        for name, leaf in _leaves(_bijection(config, self.dimension, seed)).items():
            tensor = from_dlpack(leaf).clone()
            if tensor.is_floating_point():
                self.weights[name] = tensor.to(torch.get_default_dtype())
            else:
                # Permutations and masks.
                self.constants.register_buffer(name, tensor)

    def _encode_vector(
        self, x: Tensor, context: Tensor | None, *, exact: bool, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        z, log_abs_det = self._call("encode", x)
        return z, log_abs_det

    def _decode_vector(
        self, z: Tensor, context: Tensor | None, *, exact: bool, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        x, log_abs_det = self._call("decode", z)
        return x, log_abs_det

    def _sample_from(self, z: Tensor, context: Tensor | None) -> Tensor:
        (x,) = self._call("sample", z.flatten(1))
        return x.reshape(z.shape)

    def _loss_in_one(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        operation = _operation(self.config, self.dimension, "encode")
        return operation.loss(*self._tensors(), [x], functools.partial(self._report, "encode"))

    def _call(self, direction: str, value: Tensor) -> tuple[Tensor, ...]:
        operation = _operation(self.config, self.dimension, direction)
        report = functools.partial(self._report, direction)
        return operation.call(*self._tensors(), [value], report)

    def _tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return dict(self.weights.named_parameters()), dict(self.constants.named_buffers())

    def _report(self, direction: str, counts: Mapping[str, Any], work: Work) -> None:
        if work == "gradient":
            return
        passes = {
            "encode": 1,
            "decode": self.dimension + 1 if self.traits.sample_passes == "D" else 1,
            "sample": self.dimension if self.traits.sample_passes == "D" else 1,
        }[direction]
        tick(passes * self.config.layers)


# -- in JAX -------------------------------------------------------------------------------------


def _bijection(config: FlowjaxConfig, dimension: int, seed: int) -> Any:
    """The library's bijection from latents to data, a tree of arrays."""
    jax, flowjax = load_jax(), load("flowjax.flows")
    splines = config.system in ("rqnsf-c", "rqnsf-ar")
    transformer = None
    if splines:
        # So many inner knots make one bin more.
        transformer = load("flowjax.bijections").RationalQuadraticSpline(
            knots=config.bins - 1, interval=config.tail_bound
        )
    make = (
        flowjax.coupling_flow
        if config.system in ("realnvp", "rqnsf-c")
        else flowjax.masked_autoregressive_flow
    )
    return make(
        jax.random.key(seed),
        base_dist=load("flowjax.distributions").StandardNormal((dimension,)),
        transformer=transformer,
        flow_layers=config.layers,
        nn_width=config.hidden[0],
        nn_depth=len(config.hidden),
    ).bijection


def _leaves(bijection: Any) -> dict[str, Any]:
    """The arrays of a bijection by name."""
    jax, equinox = load_jax(), load("equinox")
    found = jax.tree_util.tree_leaves_with_path(equinox.filter(bijection, equinox.is_array))
    return {jax.tree_util.keystr(path, simple=True, separator="_"): leaf for path, leaf in found}


@functools.cache
def _operation(config: FlowjaxConfig, dimension: int, direction: str) -> Operation:
    """All layers, of rows ``(n, D)``: a direction with its log-determinants, or samples alone."""
    jax, equinox, paramax = load_jax(), load("equinox"), load("paramax")
    # What is not an array is the same for every seed.
    with jax.enable_x64(False):
        arrays, rest = equinox.partition(_bijection(config, dimension, 0), equinox.is_array)
    names = list(_leaves(arrays))
    structure = jax.tree.structure(arrays)

    def function(parameters: Any, constants: Any, values: Any) -> Any:
        given = {**parameters, **constants}
        filled = jax.tree.unflatten(structure, [given[name] for name in names])
        bijection = paramax.unwrap(equinox.combine(filled, rest))
        if direction == "sample":
            return (jax.vmap(bijection.transform)(values),), {}
        follow = (
            bijection.inverse_and_log_det
            if direction == "encode"
            else bijection.transform_and_log_det
        )
        return jax.vmap(follow)(values), {}

    return Operation(function)


ENTRIES = entries(
    FlowjaxConfig,
    "flowjax",
    "Ward, github.com/danielward27/flowjax; compiled by JAX",
)
