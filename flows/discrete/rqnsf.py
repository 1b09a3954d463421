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
from flows.discrete.transforms import ChainFlow, LULinear, Transform, dimension_of
from flows.networks import MLP, Activation, ResidualNetwork

__all__ = ["RQNSFAutoregressiveConfig", "RQNSFCouplingConfig"]


class _RQNSFConfig(FlowConfig):
    """What both forms share.

    Attributes:
        layers: number of spline layers.
        hidden: widths of each conditioner's hidden layers; with residual blocks, one width.
        activation: of the conditioners.
        bins: number of bins of a spline.
        tail_bound: half width of the interval on which a spline acts.
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
    tail_bound: PositiveFloat = 3.0
    residual_blocks: NonNegativeInt = 0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    linear: bool = False

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
        spline = RationalQuadratic(self.bins, self.tail_bound)
        transforms: list[Transform]
        if self.linear:
            transforms = []
            for _ in range(self.layers):
                transforms.append(LULinear(dimension))
                transforms.append(HalfCoupling(dimension, context_features, network, spline))
            transforms.append(LULinear(dimension))
        else:
            transforms = [Couplings(dimension, context_features, self.layers, network, spline)]
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
        spline = RationalQuadratic(self.bins, self.tail_bound)
        hidden = self.hidden
        if self.residual_blocks:
            # The first layer, and two a block.
            hidden = self.hidden * (2 * self.residual_blocks + 1)
        transforms: list[Transform] = []
        for layer in range(self.layers):
            if self.linear:
                transforms.append(LULinear(dimension))
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
