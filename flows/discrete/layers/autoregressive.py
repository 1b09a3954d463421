"""Masked autoregressive conditioners (MADE), and their inverse computed unit by unit.

MADE: Masked autoencoder for distribution estimation (Germain, Gregor, Murray and Larochelle 2015,
arXiv:1502.03509). Input ``i`` has degree ``i`` (from 1 to D in the layer's order), each hidden
unit a degree ``d``: it sees inputs and units of degree at most ``d``; the parameters of feature
``i`` see units of degree below ``i``.

Hidden units are sorted by degree. In the sequential direction a unit then is computed once, when
the last feature that it sees becomes known: a sweep over the features costs about one pass
through the network, where the naive inverse costs D passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from flows.activations import Activation, activation, pure_activation
from flows.base import InputError, Traits
from flows.dense import Stairs, dense, dense_stack
from flows.discrete.layers.elementwise import Elementwise
from flows.discrete.layers.transform import Transform
from flows.meter import tick

__all__ = [
    "AUTOREGRESSIVE_TRAITS",
    "INVERSE_AUTOREGRESSIVE_TRAITS",
    "MADE",
    "Autoregressive",
    "Inverse",
]

AUTOREGRESSIVE_TRAITS = Traits(
    density="exact",
    density_passes="1",
    sample_passes="D",
    jacobian="triangular",
)
INVERSE_AUTOREGRESSIVE_TRAITS = Traits(
    density="exact",
    density_passes="D",
    sample_passes="1",
    jacobian="triangular",
)


Mask = np.ndarray[tuple[int, int], np.dtype[np.bool_]]

# Rows of a weight that are multiplied at once, with the columns before their last free weight, and
# what part of a weight that may come to, to be worth it.
_STEP = 128
_MOST_PART = 0.8


class MaskedLinear(nn.Linear):
    """A linear layer on columns, ``(inputs, n)``, in which some weights are held at zero.

    Args:
        mask: True where a weight is free, shape ``(outputs, inputs)``.
    """

    def __init__(self, mask: Mask) -> None:
        outputs, inputs = mask.shape
        super().__init__(inputs, outputs)
        self.stairs = _stairs(mask)
        self.mask: Tensor
        self.register_buffer("mask", torch.tensor(mask).to(self.weight), persistent=False)

    def masked(self) -> tuple[Tensor, Tensor]:
        """The weight as it acts, and the bias."""
        return self.weight * self.mask, self.bias

    def forward(self, input: Tensor) -> Tensor:
        return dense(*self.masked(), input)


def _stairs(mask: Mask) -> Stairs:
    """A mask's rows, some at a time, each with how many of the first columns they see."""
    outputs, inputs = mask.shape
    found: list[tuple[int, int, int]] = []
    for start in range(0, outputs, _STEP):
        rows = mask[start : start + _STEP]
        seen = np.flatnonzero(rows.any(0))
        if len(seen):
            found.append((start, start + len(rows), int(seen[-1]) + 1))
    multiplied = sum((stop - start) * width for start, stop, width in found)
    return found if multiplied < _MOST_PART * outputs * inputs else [(0, outputs, inputs)]


class MADE(nn.Module):
    """From a vector to P parameters a feature, of which feature ``i`` sees only those before it.

    Degrees of hidden units are spread evenly (MADE draws them at random). With a context there
    are units of degree zero too, so that the first feature depends on the context through the
    whole network. The last layer starts at zero.

    Args:
        dimension: D.
        context_features: width of the context, which every unit sees; 0 for none.
        hidden: widths of the hidden layers.
        parameter_count: P.
        nonlinearity: after each hidden layer.
        reverse: whether the order is from the last feature to the first.
        residual: whether the hidden layers form residual blocks: after the first layer each two
            are a block ``h + W2 f(W1 f(h))``, as in :class:`flows.networks.ResidualNetwork`.
        dropout: probability with which a unit inside a residual block is dropped in training.

    Raises:
        InputError: without hidden layers.
    """

    def __init__(
        self,
        dimension: int,
        context_features: int,
        hidden: Sequence[int],
        parameter_count: int,
        nonlinearity: Activation,
        reverse: bool = False,
        residual: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not hidden:
            raise InputError("a masked conditioner needs at least one hidden layer")
        assert not residual or (len(hidden) % 2 == 1 and len(set(hidden)) == 1)
        self.residual = residual
        self.dropout = dropout
        self.dimension = dimension
        self.parameter_count = parameter_count
        self.reverse = reverse
        self._nonlinearity: Activation = nonlinearity
        features = list(range(1, dimension + 1))
        degrees = features[::-1] if reverse else features
        # Units of the highest degree, D, would serve no feature, those of degree 0 only the
        # context (or, where there is just one feature, nothing but its bias).
        lowest = 0 if context_features or dimension == 1 else 1
        hidden_degrees = [
            [lowest + unit * (dimension - lowest) // width for unit in range(width)]
            for width in hidden
        ]
        # How many units of each hidden layer have a degree of at most d, for d = 0 ... D - 1.
        self.counts = [
            [sum(unit <= degree for unit in layer) for degree in range(dimension)]
            for layer in hidden_degrees
        ]
        self.hidden = nn.ModuleList()
        before = np.array(degrees)
        for layer in hidden_degrees:
            after = np.array(layer)
            self.hidden.append(MaskedLinear(after[:, None] >= before))
            before = after
        mask = np.array(degrees)[:, None] > before
        self.last = MaskedLinear(np.tile(mask, (parameter_count, 1)))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.context = (
            nn.Linear(context_features, hidden[0], bias=False) if context_features else None
        )

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        """``(D, n)`` to parameters ``(P, D, n)``; the context is ``(context_features, n)``."""
        tick()
        layers = [_masked(layer) for layer in (*self.hidden, self.last)]
        value = x
        if self.context is not None:
            # To the network the context is so many more inputs, which all units see.
            weight, bias = layers[0]
            layers[0] = torch.cat((weight, self.context.weight), 1), bias
            value = torch.cat((value, _given(context)))
        if not self.residual:
            stairs = [_linear(layer).stairs for layer in (*self.hidden, self.last)]
            # Every unit of the first layer sees the context, which is behind what it sees.
            stairs[0] = [(0, *layers[0][0].shape)]
            value = dense_stack(layers, self._nonlinearity, value, stairs)
        else:
            trunk = None
            for index, layer in enumerate(layers[:-1]):
                value, trunk = self._activate(index, dense(*layer, value), trunk)
            value = dense(*layers[-1], value)
        return value.view(self.parameter_count, self.dimension, -1)

    def _activate(
        self, index: int, value: Tensor, trunk: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """What a hidden layer hands on, and the trunk of the residual network so far.

        Args:
            index: of the layer.
            value: what its linear map gave; may be overwritten.
            trunk: the sum of the blocks before; None without residual connections.
        """
        if not self.residual:
            return activation(self._nonlinearity)(value), None
        if index % 2 == 1:
            value = activation(self._nonlinearity)(value)
            if self.dropout:
                value = functional.dropout(value, self.dropout, self.training)
            return value, trunk
        if trunk is not None:
            value = trunk + value
        if index == len(self.hidden) - 1:
            return value, value
        return pure_activation(self._nonlinearity)(value), value

    def sweep(
        self,
        like: Tensor,
        context: Tensor | None,
        step: Callable[[int, Tensor], Tensor],
    ) -> Tensor:
        """Make a vector feature by feature, each from the parameters that those before it give.

        Args:
            like: a tensor of shape ``(D, n)``, whose dtype and device the result gets.
            context: shape ``(context_features, n)``, or None.
            step: from the index of a feature and its parameters, ``(P, n)``, to its values,
                ``(n,)``; called in the layer's order.

        Returns:
            The vector, shape ``(D, n)``.
        """
        # Each weight is used once: one evaluation, however many steps it is spread over.
        tick()
        first, *deeper = (_masked(layer) for layer in self.hidden)
        first_weight, first_bias = first
        offset = None if self.context is None else self.context.weight @ _given(context)
        last_weight, last_bias = _masked(self.last)
        # (P D, units) to (D, P, units): the rows of a feature side by side.
        last_weight = last_weight.unflatten(0, (self.parameter_count, -1)).transpose(0, 1)
        last_bias = last_bias.unflatten(0, (self.parameter_count, -1)).T.unsqueeze(2)
        if self.reverse:
            first_weight = first_weight.flip(1)
            last_weight, last_bias = last_weight.flip(0), last_bias.flip(0)
        last_weight = last_weight.contiguous()

        known = _Rows(like, self.dimension)
        units = [_Rows(like, counts[-1]) for counts in self.counts]
        for turn in range(self.dimension):
            # Units that see the features known so far and no others.
            below, trunk = known, None
            for index, (layer, counts) in enumerate(zip(units, self.counts, strict=True)):
                start, stop = layer.count, counts[turn]
                if stop > start:
                    weight, bias = (first_weight, first_bias) if index == 0 else deeper[index - 1]
                    new = _affine(
                        weight[start:stop, : below.count], bias[start:stop, None], below.rows()
                    )
                    if index == 0 and offset is not None:
                        new = new + offset[start:stop]
                    new, trunk = self._activate(index, new, trunk)
                    layer.append(new)
                below = layer
            parameters = _affine(last_weight[turn, :, : below.count], last_bias[turn], below.rows())
            feature = self.dimension - 1 - turn if self.reverse else turn
            known.append(step(feature, parameters).unsqueeze(0))
        result = known.rows()
        return result.flip(0) if self.reverse else result


def _linear(layer: nn.Module) -> MaskedLinear:
    assert isinstance(layer, MaskedLinear)
    return layer


def _masked(layer: nn.Module) -> tuple[Tensor, Tensor]:
    return _linear(layer).masked()


def _given(context: Tensor | None) -> Tensor:
    assert context is not None
    return context


def _affine(weight: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
    """``weight @ rows + bias``, also where there are no rows yet."""
    if rows.shape[0] == 0:
        return bias.expand(-1, rows.shape[1]).clone()
    return torch.addmm(bias, weight, rows)


class _Rows:
    """Rows that become known one after the other.

    Without gradients they are written into one buffer; with them they are concatenated, as
    autograd needs each state of the rows as it was.

    Args:
        like: a tensor of shape ``(D, n)``.
        capacity: how many rows there will be.
    """

    def __init__(self, like: Tensor, capacity: int) -> None:
        self.count = 0
        self._buffer = like.new_empty(0 if torch.is_grad_enabled() else capacity, like.shape[1])

    def append(self, rows: Tensor) -> None:
        stop = self.count + len(rows)
        if torch.is_grad_enabled():
            self._buffer = torch.cat((self._buffer, rows))
        else:
            self._buffer[self.count : stop] = rows
        self.count = stop

    def rows(self) -> Tensor:
        return self._buffer[: self.count]


class Autoregressive(Transform):
    """A masked autoregressive layer: ``forward`` in one pass, ``inverse`` feature by feature.

    Args:
        made: the conditioner.
        elementwise: what is done with its parameters.
    """

    def __init__(self, made: MADE, elementwise: Elementwise) -> None:
        super().__init__()
        self.made = made
        self.elementwise = elementwise

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        z, log_derivative = self.elementwise.encode(x, self.made(x, context))
        return z, x.new_zeros(()) if log_derivative is None else log_derivative.sum(0)

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        log_derivatives = []

        def step(feature: int, parameters: Tensor) -> Tensor:
            x, log_derivative = self.elementwise.decode(z[feature], parameters)
            if log_derivative is not None:
                log_derivatives.append(log_derivative)
            return x

        x = self.made.sweep(z, context, step)
        return x, torch.stack(log_derivatives).sum(0) if log_derivatives else z.new_zeros(())

    def outside(self, x: Tensor) -> Tensor | None:
        found = self.elementwise.outside(x)
        return None if found is None else found.any(0)


class Inverse(Transform):
    """A layer the other way round; what was one pass takes D, and the reverse.

    Args:
        transform: the layer.
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.transform.inverse(x, context)

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = self.transform(z, context)
        return result

    def outside(self, x: Tensor) -> Tensor | None:
        # The region is the same on both sides of a layer.
        return self.transform.outside(x)
