"""Conditioner networks that several systems share.

A conditioner computes the parameters of a transformation from what it may see. The last layer
of each starts at zero, so that a fresh flow is the identity.

The dense networks work on columns: features are rows and the batch lies along them, ``(features,
n)``. Slices of features are then contiguous, and matrix products whose feature dimension is
small run up to twice as fast on a CPU as on rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MLP", "Activation", "ResidualNetwork", "activation", "dense", "pure_activation"]

Activation = Literal["relu", "tanh", "elu", "silu", "softplus"]
"""Names of the nonlinearities that a config may ask for."""

# The first three overwrite their argument, the fresh output of a linear layer: autograd needs
# only their result, and a write to new memory costs as much as the function itself.
_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "tanh": torch.tanh_,
    "elu": lambda value: functional.elu(value, inplace=True),
    "silu": functional.silu,
    "softplus": functional.softplus,
}


def activation(name: Activation) -> Callable[[Tensor], Tensor]:
    """The nonlinearity of a name; it may overwrite its argument.

    Args:
        name: one of :data:`Activation`.

    Returns:
        A function of a tensor, elementwise.
    """
    return _ACTIVATIONS[name]


# Where the argument is needed again, as at a residual connection.
_PURE_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "elu": functional.elu,
    "silu": functional.silu,
    "softplus": functional.softplus,
}


def pure_activation(name: Activation) -> Callable[[Tensor], Tensor]:
    """The nonlinearity of a name; its argument stays what it is."""
    return _PURE_ACTIVATIONS[name]


def dense(layer: nn.Linear, columns: Tensor) -> Tensor:
    """A linear layer on columns, ``(inputs, n)`` to ``(outputs, n)``."""
    return torch.addmm(layer.bias.unsqueeze(1), layer.weight, columns)


class MLP(nn.Module):
    """A multilayer perceptron whose last layer starts at zero.

    Args:
        inputs: number of inputs.
        hidden: widths of the hidden layers.
        outputs: number of outputs.
        nonlinearity: after each hidden layer.

    Example:
        >>> MLP(3, (16, 16), 4, "relu")(torch.ones(3, 5)).abs().max().item()
        0.0
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int], outputs: int, nonlinearity: Activation
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        self.hidden = nn.ModuleList(
            nn.Linear(before, after) for before, after in itertools.pairwise(widths)
        )
        self.last = nn.Linear(widths[-1], outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self._nonlinearity: Activation = nonlinearity

    def forward(self, value: Tensor) -> Tensor:
        """``(inputs, n)`` to ``(outputs, n)``."""
        nonlinearity = activation(self._nonlinearity)
        for layer in self.hidden:
            assert isinstance(layer, nn.Linear)
            value = nonlinearity(dense(layer, value))
        return dense(self.last, value)


class ResidualNetwork(nn.Module):
    """A residual network with pre-activation blocks, whose last layer starts at zero.

    The conditioner of Neural Spline Flows (arXiv:1906.04032, section 5 and appendix B): a linear
    layer, blocks ``h + W2 f(W1 f(h))``, a linear layer.

    Args:
        inputs: number of inputs.
        width: of all hidden layers.
        outputs: number of outputs.
        blocks: number of residual blocks.
        nonlinearity: f.
        dropout: probability with which a unit inside a block is dropped in training.

    Example:
        >>> ResidualNetwork(3, 16, 4, 2, "relu")(torch.ones(3, 5)).shape
        torch.Size([4, 5])
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        outputs: int,
        blocks: int,
        nonlinearity: Activation,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.last = nn.Linear(width, outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.dropout = dropout
        self._nonlinearity: Activation = nonlinearity

    def forward(self, value: Tensor) -> Tensor:
        """``(inputs, n)`` to ``(outputs, n)``."""
        pure, in_place = pure_activation(self._nonlinearity), activation(self._nonlinearity)
        value = dense(self.first, value)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            assert isinstance(inner, nn.Linear)
            assert isinstance(outer, nn.Linear)
            change = in_place(dense(inner, pure(value)))
            if self.dropout:
                change = functional.dropout(change, self.dropout, self.training)
            value = value + dense(outer, change)
        return dense(self.last, value)
