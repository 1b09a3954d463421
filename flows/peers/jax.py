"""How the flows of libraries in JAX keep the contract: functions of JAX as operations of torch.

Parameters are torch's and lie where torch put them: JAX reads that memory (DLPack, without a copy
on the CPU), so that one optimiser trains every contestant. A direction of a flow, all its layers or
blocks with their solves, is one function that ``jax.jit`` compiles for each shape, dtype and mode.

* :meth:`Operation.loss` computes the loss and its gradients together, in one such function, as a
  training loop in JAX does. This is what training calls.
* :meth:`Operation.call` is differentiable by all that goes in, once; its backward pass, a second
  function, computes the forward one anew.

Both return when the results are there: torch may change the parameters in place right after.

JAX is imported when the first flow is built, by the process that needs it. A process that was
forked from one without JAX is as good as a fresh one.
"""

from __future__ import annotations

import abc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack
from torch.utils.weak import WeakTensorKeyDictionary

from flows.base import InputError, Loss, VectorFlow
from flows.peers.base import load

__all__ = ["InJax", "Operation", "Work", "load_jax"]

Work = Literal["value", "value again", "gradient"]
"""What an operation has computed: its value; in a backward pass its value anew; a gradient."""
Report = Callable[[Mapping[str, Any], Work], None]
"""What is called with the counts of an operation, arrays, and with what it has computed."""


def load_jax() -> Any:
    """Import JAX, with as many threads as torch has in this process.

    A computation runs in the thread that calls it, and with one thread in no other. (The flag
    ``xla_cpu_multi_thread_eigen=false`` does not reach that: independent parts of a computation
    still run side by side.) Where JAX is in use already its threads stay as they are.

    Raises:
        MissingLibrary: if it is not installed.
    """
    if "jax" in sys.modules:
        return sys.modules["jax"]
    jax = load("jax", extra="jax")
    # Nothing here runs on a GPU, and JAX would take most of the memory of one.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    # XLA takes the size of its pool from there, once, when it is first used.
    before = os.environ.get("NPROC")
    os.environ["NPROC"] = str(torch.get_num_threads())
    try:
        jax.devices()
    finally:
        if before is None:
            del os.environ["NPROC"]
        else:
            os.environ["NPROC"] = before
    return jax


class Operation:
    """A pure function of JAX as an operation of torch.

    Args:
        function: of parameters by name, constants by name, and inputs one by one, all arrays; gives
            a tuple of arrays and a dict of counts. For :meth:`loss` the tuple is latents ``(n, D)``
            and log-determinants ``(n,)``.
    """

    def __init__(self, function: Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]) -> None:
        jax = load_jax()

        def pull_back(parameters: Any, constants: Any, cotangents: Any, *inputs: Any) -> Any:
            _, pull, counts = jax.vjp(
                lambda parameters, *inputs: function(parameters, constants, *inputs),
                parameters,
                *inputs,
                has_aux=True,
            )
            return pull(cotangents), counts

        def loss(parameters: Any, constants: Any, *inputs: Any) -> Any:
            (z, log_abs_det), counts = function(parameters, constants, *inputs)
            log_normal = jax.scipy.stats.norm.logpdf(z).sum(1)
            return -(log_normal + log_abs_det).mean(), counts

        def loss_and_gradients(*arguments: Any) -> Any:
            (value, counts), gradients = jax.value_and_grad(loss, has_aux=True)(*arguments)
            return (value, gradients), counts

        self.value = jax.jit(function)
        self.pull_back = jax.jit(pull_back)
        self.loss_and_gradients = jax.jit(loss_and_gradients)

    def call(
        self,
        parameters: Mapping[str, Tensor],
        constants: Mapping[str, Tensor],
        inputs: Sequence[Tensor],
        report: Report,
    ) -> tuple[Tensor, ...]:
        """The function's results, differentiable once by parameters and inputs.

        Args:
            parameters: by name.
            constants: by name; not differentiated.
            inputs: one by one.
            report: is handed the counts of what ran.
        """
        results: tuple[Tensor, ...] = _Call.apply(
            self, list(parameters), constants, report, *parameters.values(), *inputs
        )
        return results

    def loss(
        self,
        parameters: Mapping[str, Tensor],
        constants: Mapping[str, Tensor],
        inputs: Sequence[Tensor],
        report: Report,
    ) -> Tensor:
        """The mean negative log-density under the standard normal, differentiable by parameters.

        Args are those of :meth:`call`.
        """
        result: Tensor = _Loss.apply(
            self, list(parameters), constants, inputs, report, *parameters.values()
        )
        return result


class _Call(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        operation: Operation,
        names: Sequence[str],
        constants: Mapping[str, Tensor],
        report: Report,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.operation, ctx.names, ctx.constants, ctx.report = operation, names, constants, report
        ctx.save_for_backward(*tensors)
        results, counts = _run(
            operation.value,
            dict(zip(names, tensors, strict=False)),
            constants,
            *tensors[len(names) :],
        )
        report(counts, "value")
        return tuple(results)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        (parameters, *inputs), counts = _run(
            ctx.operation.pull_back,
            dict(zip(ctx.names, tensors, strict=False)),
            ctx.constants,
            cotangents,
            *tensors[len(ctx.names) :],
        )
        ctx.report(counts, "value again")
        ctx.report(counts, "gradient")
        return None, None, None, None, *(parameters[name] for name in ctx.names), *inputs


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        operation: Operation,
        names: Sequence[str],
        constants: Mapping[str, Tensor],
        inputs: Sequence[Tensor],
        report: Report,
        *parameters: Tensor,
    ) -> Tensor:
        (value, gradients), counts = _run(
            operation.loss_and_gradients,
            dict(zip(names, parameters, strict=True)),
            constants,
            *inputs,
        )
        ctx.report, ctx.counts = report, counts
        ctx.save_for_backward(*(gradients[name] for name in names))
        report(counts, "value")
        loss: Tensor = value
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
        ctx.report(ctx.counts, "gradient")
        gradients = torch._foreach_mul(ctx.saved_tensors, cotangent)
        return None, None, None, None, None, *gradients


def _run(
    function: Callable[..., Any],
    parameters: Mapping[str, Tensor],
    constants: Mapping[str, Tensor],
    *inputs: Any,
) -> tuple[Any, Mapping[str, Any]]:
    """Call a compiled function of parameters, constants and inputs (tensors, or tuples of them).

    Returns:
        Results as tensors, and counts as they are; all of them are there.
    """
    jax = load_jax()
    double = any(tensor.dtype == torch.float64 for tensor in parameters.values())
    # Float64 is off in JAX unless asked for. The rest of the process is left as it is.
    with jax.enable_x64(double):
        results, counts = jax.block_until_ready(
            function(_shared(parameters), _shared(constants), *jax.tree.map(_array, inputs))
        )
        return jax.tree.map(from_dlpack, results), counts


def _array(tensor: Tensor) -> Any:
    """An array over a tensor's memory; a copy where JAX cannot take that as it is."""
    return load_jax().dlpack.from_dlpack(tensor.detach().contiguous())


_arrays = WeakTensorKeyDictionary()
"""Arrays by the tensors whose memory they are."""


def _shared(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arrays over the memory of tensors that stay, each made once: that takes longer than a call.

    An array keeps its memory alive, so that the address tells whether it is still the tensor's.
    """
    found = {}
    for name, tensor in tensors.items():
        array = _arrays.get(tensor)
        if array is None or array.unsafe_buffer_pointer() != tensor.data_ptr():
            array = _array(tensor)
            _arrays[tensor] = array
        found[name] = array
    return found


class InJax(VectorFlow):
    """A flow whose directions are operations of JAX, on the CPU.

    Raises:
        InputError: where it is moved to another device. There JAX would read parameters in memory
            that torch's stream may still be writing.
    """

    in_torch = False

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # All of a module's moves come through here.
        super()._apply(fn, recurse)
        if self.device.type != "cpu":
            raise InputError(f"flows of JAX run on the CPU only, not on {self.device.type}")
        return self

    @abc.abstractmethod
    def _loss_in_one(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """The loss of rows ``(n, D)`` by :meth:`Operation.loss`."""

    def loss(
        self, x: Tensor, context: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        if x.requires_grad or len(x) == 0 or not torch.is_grad_enabled():
            return super().loss(x, context, generator=generator)
        self._check(x, context, "x")
        return self._loss_in_one(x.flatten(1), generator)

    def compiled_loss(self) -> Loss:
        """:meth:`loss`, which is compiled as it is."""
        return self.loss
