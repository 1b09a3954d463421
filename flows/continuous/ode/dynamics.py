"""Dynamics of continuous flows: time-dependent networks f(t, z) with dz/dt = f(t, z).

Every kind of layer here is, at a given time, an affine map: a *time-dependent affine layer* gives
its effective weight and shift at time ``t``, and the rest is a plain multilayer perceptron. This
costs one scaled copy of the weights an evaluation, which is less than scaling the activations
whenever the batch is larger than the layer is wide, and it lets one hand-written rule for values
and Jacobian products serve all kinds.

The kinds are those of the official code of FFJORD (Grathwohl et al. 2018, arXiv:1810.01367);
s is the logistic function, a, b, c, d and V are learned:

============  ==========================================
ignore        W x + b, whatever the time
concat        W x + b + a t
concat_v2     W x + b + (a t + c)
squash        (W x + b) * s(a t + c)
concatsquash  (W x + b) * s(a t + c) + d t
blend         (1 - t) (W x + b) + t (V x + c)
hyper         W(t) x + b(t), both made by a network of t
============  ==========================================
"""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from flows.activations import NONLINEARITIES

__all__ = [
    "LAYERS",
    "Activation",
    "DenseDynamics",
    "LayerKind",
    "TimeAffine",
    "hidden_widths",
]

LayerKind = Literal["ignore", "concat", "concat_v2", "squash", "concatsquash", "blend", "hyper"]
Activation = Literal["tanh", "softplus", "elu", "swish", "square"]
"""Names of the nonlinearities that dynamics may have."""


class TimeAffine(nn.Module, abc.ABC):
    """An affine layer whose weight and shift depend on time.

    Args:
        inputs: number of input features.
        outputs: number of output features.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.outputs = outputs

    @abc.abstractmethod
    def affine(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The layer at time ``t``.

        Args:
            t: one time, shape ``()``, or several, shape ``(s,)``.

        Returns:
            Weight, shape ``(outputs, inputs)``, and shift, shape ``(outputs,)``; for several times
            both with ``s`` in front.
        """

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Apply the layer at time ``t`` to ``x``, shape ``(n, inputs)``."""
        weight, shift = self.affine(t)
        return functional.linear(x, weight, shift)


class Ignore(TimeAffine):
    """``W x + b``, whatever the time."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.linear = nn.Linear(inputs, outputs)

    def affine(self, t: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = self.linear.weight, self.linear.bias
        return weight.expand(*t.shape, *weight.shape), bias.expand(*t.shape, *bias.shape)


class Concat(TimeAffine):
    """``W [t; x] + b``: time is one more input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.linear = nn.Linear(inputs + 1, outputs)

    def affine(self, t: Tensor) -> tuple[Tensor, Tensor]:
        weight = self.linear.weight[:, 1:]
        shift = self.linear.bias + self.linear.weight[:, 0] * t[..., None]
        return weight.expand(*t.shape, *weight.shape), shift


class ConcatV2(TimeAffine):
    """``W x + b + (a t + c)``: time shifts the output."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.linear = nn.Linear(inputs, outputs)
        self.shift = nn.Linear(1, outputs)

    def affine(self, t: Tensor) -> tuple[Tensor, Tensor]:
        weight = self.linear.weight
        return weight.expand(*t.shape, *weight.shape), self.linear.bias + self.shift(t[..., None])


class Squash(TimeAffine):
    """``(W x + b) * sigmoid(a t + c)``: time gates the output."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.linear = nn.Linear(inputs, outputs)
        self.gate = nn.Linear(1, outputs)

    def affine(self, t: Tensor) -> tuple[Tensor, Tensor]:
        gate = torch.sigmoid(self.gate(t[..., None]))
        return self.linear.weight * gate[..., None], self.linear.bias * gate


class ConcatSquash(TimeAffine):
    """``(W x + b) * sigmoid(a t + c) + d t``: time gates and shifts the output."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.linear = nn.Linear(inputs, outputs)
        self.gate = nn.Linear(1, outputs)
        self.shift = nn.Linear(1, outputs, bias=False)

    def affine(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t[..., None]
        gate = torch.sigmoid(self.gate(t))
        return self.linear.weight * gate[..., None], self.linear.bias * gate + self.shift(t)


class Blend(TimeAffine):
    """``(1 - t) (W x + b) + t (V x + c)``: from one layer to another as time goes from 0 to 1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.start = nn.Linear(inputs, outputs)
        self.end = nn.Linear(inputs, outputs)

    def affine(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t[..., None]
        return (
            torch.lerp(self.start.weight, self.end.weight, t[..., None]),
            torch.lerp(self.start.bias, self.end.bias, t),
        )


class Hyper(TimeAffine):
    """``W(t) x + b(t)``: a network of time, 1-8-(inputs + 1) outputs with tanh, makes both.

    The official code has the same hypernetwork. Its last layer is scaled here so that a fresh
    layer has weights of the size that ``nn.Linear`` would give it, without which a wide network
    starts with dynamics too stiff to solve.
    """

    WIDTH = 8

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.hidden = nn.Linear(1, self.WIDTH)
        self.made = nn.Linear(self.WIDTH, (inputs + 1) * outputs)
        with torch.no_grad():
            for parameter in self.made.parameters():
                parameter.div_(math.sqrt(inputs))

    def affine(self, t: Tensor) -> tuple[Tensor, Tensor]:
        made = self.made(torch.tanh(self.hidden(t[..., None])))
        weight = made[..., self.outputs :].reshape(*t.shape, self.outputs, self.inputs)
        return weight, made[..., : self.outputs]


LAYERS: dict[str, type[TimeAffine]] = {
    "ignore": Ignore,
    "concat": Concat,
    "concat_v2": ConcatV2,
    "squash": Squash,
    "concatsquash": ConcatSquash,
    "blend": Blend,
    "hyper": Hyper,
}
"""Kinds of time-dependent layers, by the official code's names."""


def hidden_widths(hidden: Sequence[int], bottleneck: int | None) -> tuple[int, ...]:
    """Widths of the hidden layers of dynamics with or without a bottleneck.

    With a bottleneck of width k the stack runs down to it and back in mirror image, as in the
    network of Figure 4 of Grathwohl et al. 2018 (arXiv:1810.01367).

    Example:
        >>> hidden_widths((64, 64, 128), 5)
        (64, 64, 128, 5, 128, 64, 64)
        >>> hidden_widths((64, 64), None)
        (64, 64)
    """
    widths = tuple(hidden)
    return widths if bottleneck is None else (*widths, bottleneck, *reversed(widths))


class DenseDynamics(nn.Module):
    """A time-dependent multilayer perceptron from R^D to R^D.

    Args:
        dimension: D.
        hidden: widths of the hidden layers; with a bottleneck, of those above it.
        layers: kind of the layers.
        activation: nonlinearity after each layer but the last.
        bottleneck: width k of a layer in the middle, f = g(h(z)) with h of k outputs, see
            :func:`hidden_widths`; None for none.
        context_features: width of a context, concatenated to the input of the first layer.
        residual: whether the velocity is the network's value minus the state.
    """

    def __init__(
        self,
        dimension: int,
        hidden: Sequence[int],
        *,
        layers: LayerKind = "concatsquash",
        activation: Activation = "tanh",
        bottleneck: int | None = None,
        context_features: int = 0,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.dimension = dimension
        self.residual = residual
        self.bottleneck = bottleneck
        self.activation = activation
        widths = hidden_widths(hidden, bottleneck)
        # Layers up to and including the bottleneck make h, the rest g.
        self.narrow_depth = len(hidden) + 1
        sizes = (dimension + context_features, *widths, dimension)
        self.stack = nn.ModuleList(
            LAYERS[layers](inputs, outputs) for inputs, outputs in itertools.pairwise(sizes)
        )

    def affine(self, t: Tensor) -> list[Tensor]:
        """Weight and shift of each layer at one or several times, see :meth:`TimeAffine.affine`."""
        return [tensor for layer in self.stack for tensor in cast(TimeAffine, layer).affine(t)]

    def narrow(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        """``h(z)`` of f = g(h(z)): up to the bottleneck, ``(n, D)`` to ``(n, k)``."""
        x = z if context is None else torch.cat([z, context], 1)
        return self._run(t, x, 0, self.narrow_depth)

    def widen(self, t: Tensor, h: Tensor) -> Tensor:
        """``g(h)`` of f = g(h(z)): from the bottleneck on, ``(n, k)`` to ``(n, D)``."""
        return self._run(t, h, self.narrow_depth, len(self.stack))

    def forward(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The velocity dz/dt; with ``residual``, what is to become it by subtracting ``z``.

        Args:
            t: time, shape ``()``.
            z: state, shape ``(n, D)``.
            context: shape ``(n, context_features)``, or None.

        Returns:
            Shape ``(n, D)``, in units of the state per unit of time.
        """
        x = z if context is None else torch.cat([z, context], 1)
        return self._run(t, x, 0, len(self.stack))

    def _run(self, t: Tensor, x: Tensor, first: int, last: int) -> Tensor:
        activate = NONLINEARITIES[self.activation].pure
        for index in range(first, last):
            x = self.stack[index](t, x)
            if index + 1 < len(self.stack):
                x = activate(x)
        return x
