"""Neural spline flows: rational-quadratic splines by coupling and autoregressive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from flows.base import Flow, InputError
from flows.config import FlowConfig, Widths
from flows.discrete.coupling import COUPLING_TRAITS, Couplings, HalfCoupling
from flows.discrete.made import MADE, Autoregressive
from flows.discrete.maf import MAF_TRAITS
from flows.discrete.spline import RationalQuadratic
from flows.discrete.transforms import (
    ChainFlow,
    LULinear,
    MinMaxScale,
    Transform,
    dimension_of,
)
from flows.networks import MLP, Activation, ResidualNetwork

__all__ = ["RQNSFAutoregressiveConfig", "RQNSFCouplingConfig"]


# The box of a spline that follows the data. It holds the latents as well: a standard normal puts
# 6e-5 of a coordinate's mass outside 4 (2.7e-3 outside 3, which costs 0.17 nats in 63 dimensions).
_BOUND = 4.0
# How much wider than a batch's range what the box holds is.
_MARGIN = 1.5


class _RQNSFConfig(FlowConfig):
    """What both forms share.

    Attributes:
        layers: number of spline layers.
        hidden: widths of each conditioner's hidden layers; with residual blocks, one width.
        activation: of the conditioners.
        bins: number of bins of a spline.
        tail_bound: half width B of the box [-B, B] on which a spline acts, outside of which it is
            the identity. None (the default) has the box follow the data: ``initialize`` sets a
            fixed scale in front that maps the range of its batch, with a margin, into a box of
            half width 4 (with ``linear``, in front of each layer). A number is a box that knows
            nothing of the data, as in the paper's experiments.
        residual_blocks: number of residual blocks of a conditioner; 0 for a multilayer
            perceptron.
        dropout: probability with which a unit inside a residual block is dropped in training.
        linear: whether an LU-parameterised linear map precedes each layer, and one follows the
            last, as in the paper's experiments; without, halves or orders alternate.
    """

    layers: PositiveInt = 5
    hidden: Widths = (64, 64)
    activation: Activation = "relu"
    bins: PositiveInt = 8
    tail_bound: PositiveFloat | None = None
    residual_blocks: NonNegativeInt = 0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    linear: bool = False

    @property
    def _spline(self) -> RationalQuadratic:
        bound = _BOUND if self.tail_bound is None else self.tail_bound
        return RationalQuadratic(self.bins, bound)

    def _box(self, dimension: int) -> list[Transform]:
        """What brings the data into a spline's box: nothing where the box is a given one."""
        return [MinMaxScale(dimension, _BOUND, _MARGIN)] if self.tail_bound is None else []

    def _check(self) -> None:
        if self.residual_blocks and len(self.hidden) != 1:
            raise InputError(
                f"a residual conditioner has one width: give hidden = [{self.hidden[0]}], "
                f"or residual_blocks = 0; got hidden = {list(self.hidden)}"
            )


class RQNSFCouplingConfig(_RQNSFConfig):
    """Neural spline flow by coupling, RQ-NSF (C).

    Neural Spline Flows (Durkan, Bekasov, Murray and Papamakarios 2019, arXiv:1906.04032),
    sections 3 and 5.1. Unlike the authors' code the logits of a spline are not divided by the
    square root of the conditioner's width; the last layer starts at zero instead.

    Example:
        >>> import torch
        >>> flow = RQNSFCouplingConfig(layers=2).build(event_shape=(3,))
        >>> flow.log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> Flow:
        self._check()

        def network(inputs: int, outputs: int) -> nn.Module:
            if self.residual_blocks:
                return ResidualNetwork(
                    inputs,
                    self.hidden[0],
                    outputs,
                    self.residual_blocks,
                    self.activation,
                    self.dropout,
                )
            return MLP(inputs, self.hidden, outputs, self.activation)

        dimension = dimension_of(event_shape)
        spline = self._spline
        transforms: list[Transform] = []
        if self.linear:
            for _ in range(self.layers):
                transforms.append(LULinear(dimension))
                transforms += self._box(dimension)
                transforms.append(HalfCoupling(dimension, context_features, network, spline))
            transforms.append(LULinear(dimension))
        else:
            transforms += self._box(dimension)
            transforms.append(Couplings(dimension, context_features, self.layers, network, spline))
        return ChainFlow(event_shape, context_features, transforms, COUPLING_TRAITS)


class RQNSFAutoregressiveConfig(_RQNSFConfig):
    """Autoregressive neural spline flow, RQ-NSF (AR); see :class:`RQNSFCouplingConfig`.

    Example:
        >>> flow = RQNSFAutoregressiveConfig(layers=2).build(event_shape=(3,))
        >>> flow.sample(5).shape
        torch.Size([5, 3])
    """

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> Flow:
        self._check()
        dimension = dimension_of(event_shape)
        spline = self._spline
        hidden = self.hidden
        if self.residual_blocks:
            # The first layer, and two a block.
            hidden = self.hidden * (2 * self.residual_blocks + 1)
        transforms: list[Transform] = []
        for layer in range(self.layers):
            if self.linear:
                transforms.append(LULinear(dimension))
            if self.linear or layer == 0:
                transforms += self._box(dimension)
            made = MADE(
                dimension,
                context_features,
                hidden,
                spline.parameter_count,
                self.activation,
                reverse=not self.linear and layer % 2 == 1,
                residual=self.residual_blocks > 0,
                dropout=self.dropout,
            )
            transforms.append(Autoregressive(made, spline))
        if self.linear:
            transforms.append(LULinear(dimension))
        return ChainFlow(event_shape, context_features, transforms, MAF_TRAITS)
