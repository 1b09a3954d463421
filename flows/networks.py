"""Conditioner networks that several systems share.

A conditioner computes the parameters of a transformation from what it may see. The last layer
of each starts at zero (or near it), so that a fresh flow is the identity.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MLP", "Activation", "activation"]

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


class MLP(nn.Module):
    """A multilayer perceptron whose last layer starts at zero.

    Args:
        inputs: number of inputs.
        hidden: widths of the hidden layers.
        outputs: number of outputs.
        nonlinearity: after each hidden layer.

    Example:
        >>> MLP(3, (16, 16), 4, "relu")(torch.ones(5, 3)).abs().max().item()
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
        """``(n, inputs)`` to ``(n, outputs)``."""
        nonlinearity = activation(self._nonlinearity)
        for layer in self.hidden:
            value = nonlinearity(layer(value))
        result: Tensor = self.last(value)
        return result
