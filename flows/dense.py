"""Dense layers on columns, and the matrix products behind them.

Features are rows and the batch lies along them, ``(features, n)``. Slices of features are then
contiguous, and matrix products whose feature dimension is small run up to twice as fast on a CPU
as on rows.

torch multiplies float32 matrices on a CPU by MKL, which makes full use of AVX-512 on Intel's
processors only: on one AMD EPYC with AVX-512 it stays at 105 GFLOP/s a core, where oneDNN, which is
in torch as well, reaches 230. Large products take oneDNN where a probe finds it the faster
(:mod:`flows.products`). Its operator knows no derivative, so that of a stack is written here; in
return a stack is one node of autograd's graph, with no more of it kept than its backward pass
needs. Everywhere else (other devices and dtypes, inside ``torch.compile`` and ``torch.func``) and
for small products a stack is made of torch's differentiable operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from flows.products import LEAST_TERMS, by_onednn, chosen_products

__all__ = [
    "Activation",
    "activation",
    "affine",
    "dense",
    "dense_stack",
    "product",
    "pure_activation",
]

Activation = Literal["relu", "tanh", "elu", "silu", "softplus"]
"""Names of the nonlinearities that a config may ask for."""


@dataclass(frozen=True)
class _Nonlinearity:
    """An elementwise function and its derivative.

    Attributes:
        pure: the function; leaves its argument as it is.
        in_place: the function; may overwrite its argument.
        pull_back: from the gradient by the result, which it overwrites, and what was kept, to the
            gradient by the argument.
        keeps_result: whether the result is what is kept, or the argument.
    """

    pure: Callable[[Tensor], Tensor]
    in_place: Callable[[Tensor], Tensor]
    pull_back: Callable[[Tensor, Tensor], Tensor]
    keeps_result: bool


_aten = torch.ops.aten

# What may be overwritten is: to write to memory that is fresh from the system costs several times
# as much as the functions themselves. The derivative of the first three needs only their result.
_NONLINEARITIES: dict[Activation, _Nonlinearity] = {
    "relu": _Nonlinearity(
        torch.relu,
        torch.relu_,
        lambda grad, y: _aten.threshold_backward(grad, y, 0, grad_input=grad),
        True,
    ),
    "tanh": _Nonlinearity(
        torch.tanh,
        torch.tanh_,
        lambda grad, y: _aten.tanh_backward(grad, y, grad_input=grad),
        True,
    ),
    "elu": _Nonlinearity(
        functional.elu,
        lambda value: functional.elu(value, inplace=True),
        lambda grad, y: _aten.elu_backward(grad, 1.0, 1, 1, True, y, grad_input=grad),
        True,
    ),
    "silu": _Nonlinearity(
        functional.silu,
        functional.silu,
        lambda grad, x: _aten.silu_backward(grad, x, grad_input=grad),
        False,
    ),
    "softplus": _Nonlinearity(
        functional.softplus,
        functional.softplus,
        lambda grad, x: _aten.softplus_backward(grad, x, 1, 20, grad_input=grad),
        False,
    ),
}


def activation(name: Activation) -> Callable[[Tensor], Tensor]:
    """The nonlinearity of a name; it may overwrite its argument.

    Args:
        name: one of :data:`Activation`.

    Returns:
        A function of a tensor, elementwise.
    """
    return _NONLINEARITIES[name].in_place


def pure_activation(name: Activation) -> Callable[[Tensor], Tensor]:
    """The nonlinearity of a name; its argument stays what it is."""
    return _NONLINEARITIES[name].pure


def dense(weight: Tensor, bias: Tensor, columns: Tensor) -> Tensor:
    """``weight @ columns + bias``: a linear layer on columns.

    Args:
        weight: shape ``(outputs, inputs)``.
        bias: shape ``(outputs,)``.
        columns: shape ``(inputs, n)``.

    Returns:
        A fresh tensor of shape ``(outputs, n)``.
    """
    # With one layer there is no nonlinearity.
    return dense_stack([(weight, bias)], "relu", columns)


def dense_stack(
    layers: Sequence[tuple[Tensor, Tensor]], nonlinearity: Activation, columns: Tensor
) -> Tensor:
    """Linear layers on columns with a nonlinearity between them, and none behind the last.

    Args:
        layers: weight ``(outputs, inputs)`` and bias ``(outputs,)`` of each.
        nonlinearity: its name.
        columns: shape ``(inputs, n)``.

    Returns:
        A fresh tensor of shape ``(outputs, n)``.

    Example:
        >>> layers = [(torch.ones(3, 2), torch.zeros(3)), (torch.ones(1, 3), torch.ones(1))]
        >>> dense_stack(layers, "relu", torch.tensor([[1.0, -1.0], [0.5, 0.5]]))
        tensor([[5.5000, 1.0000]])
    """
    largest = columns.shape[1] * max(weight.numel() for weight, _ in layers)
    if not _takes_onednn(columns, largest):
        return _composed(layers, nonlinearity, columns)
    if not torch.is_grad_enabled():
        return _evaluate(layers, nonlinearity, columns)
    value: Tensor = _DenseStack.apply(
        nonlinearity, columns, *(part for pair in layers for part in pair)
    )
    return value


def _composed(
    layers: Sequence[tuple[Tensor, Tensor]], nonlinearity: Activation, columns: Tensor
) -> Tensor:
    """The stack in torch's differentiable operations."""
    function = activation(nonlinearity)
    value = columns
    for index, (weight, bias) in enumerate(layers):
        value = torch.addmm(bias.unsqueeze(1), weight, function(value) if index else value)
    return value


# -- by oneDNN ---------------------------------------------------------------------------------


def _takes_onednn(columns: Tensor, terms: int) -> bool:
    """Whether a product of so many terms, or a stack with such a one, goes to oneDNN."""
    if (
        terms < LEAST_TERMS
        or columns.dtype != torch.float32
        or columns.device.type != "cpu"
        or torch.compiler.is_compiling()
        or columns.numel() == 0
        or not torch.backends.mkldnn.enabled
        or torch._C._are_functorch_transforms_active()
    ):
        return False
    onednn_from = chosen_products().onednn_from
    return onednn_from is not None and terms >= onednn_from


def product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` by the faster library, for code that writes its derivatives itself.

    Args:
        left: shape ``(m, k)``; may be a transposed view.
        right: shape ``(k, n)``; likewise.

    Returns:
        A fresh tensor of shape ``(m, n)``, of which autograd knows nothing.
    """
    if _takes_onednn(left, left.numel() * right.shape[1]):
        return by_onednn(left, right.t(), None)
    return torch.mm(left, right)


def affine(rows: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    """``rows @ weight.T + shift``, like :func:`product`.

    Args:
        rows: shape ``(n, inputs)``.
        weight: shape ``(outputs, inputs)``.
        shift: shape ``(outputs,)``.

    Returns:
        A fresh tensor of shape ``(n, outputs)``, of which autograd knows nothing.
    """
    if _takes_onednn(rows, len(rows) * weight.numel()):
        return by_onednn(rows, weight, shift)
    return torch.addmm(shift, rows, weight.t())


def _evaluate(
    layers: Sequence[tuple[Tensor, Tensor]],
    nonlinearity: Activation,
    columns: Tensor,
    kept: list[Tensor] | None = None,
) -> Tensor:
    """The stack's value.

    Args:
        layers: as in :func:`dense_stack`.
        nonlinearity: likewise.
        columns: likewise.
        kept: gets what the derivative needs: the input of each layer but the first and, where it
            is not the same, the argument of the nonlinearity that gave it.
    """
    rule = _NONLINEARITIES[nonlinearity]
    value = columns
    for index, (weight, bias) in enumerate(layers):
        if index:
            argument = value
            value = rule.in_place(argument)
            if kept is not None:
                kept.append(value)
                if not rule.keeps_result:
                    kept.append(argument)
        value = product(weight, value).add_(bias.unsqueeze(1))
    return value


class _DenseStack(torch.autograd.Function):
    """A stack by oneDNN with its derivative."""

    @staticmethod
    def forward(ctx: Any, nonlinearity: Activation, columns: Tensor, *parameters: Tensor) -> Tensor:
        layers = list(zip(parameters[::2], parameters[1::2], strict=True))
        kept: list[Tensor] = []
        value = _evaluate(layers, nonlinearity, columns, kept)
        ctx.nonlinearity = nonlinearity
        ctx.count = len(parameters)
        ctx.save_for_backward(columns, *parameters, *kept)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        columns, *saved = ctx.saved_tensors
        parameters, kept = saved[: ctx.count], saved[ctx.count :]
        if torch.is_grad_enabled():
            return None, *_differentiable_gradients(
                ctx.nonlinearity, (columns, *parameters), grad, ctx.needs_input_grad[1:]
            )
        rule = _NONLINEARITIES[ctx.nonlinearity]
        inputs = [columns, *(kept if rule.keeps_result else kept[::2])]
        arguments = kept if rule.keeps_result else kept[1::2]
        gradients: list[Tensor | None] = []
        for index in reversed(range(len(inputs))):
            needs_weight, needs_bias = ctx.needs_input_grad[2 * index + 2 : 2 * index + 4]
            gradients.append(grad.sum(1) if needs_bias else None)
            gradients.append(product(grad, inputs[index].t()) if needs_weight else None)
            if index:
                grad = rule.pull_back(
                    product(parameters[2 * index].t(), grad), arguments[index - 1]
                )
        first = product(parameters[0].t(), grad) if ctx.needs_input_grad[1] else None
        return None, first, *reversed(gradients)


def _differentiable_gradients(
    nonlinearity: Activation,
    arguments: tuple[Tensor, ...],
    grad: Tensor,
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of a stack that can be differentiated again: from its value, computed anew."""
    columns, *parameters = arguments
    layers = list(zip(parameters[::2], parameters[1::2], strict=True))
    value = _composed(layers, nonlinearity, columns)
    wanted = [argument for argument, need in zip(arguments, needed, strict=True) if need]
    found = iter(torch.autograd.grad(value, wanted, grad, create_graph=True))
    return [next(found) if need else None for need in needed]
