"""Neural spline flows: rational-quadratic splines by coupling and autoregressive."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from flows.base import Flow, InputError, Traits, dimension_of
from flows.config import Entry, FlowConfig, Widths
from flows.discrete.layers.autoregressive import AUTOREGRESSIVE_TRAITS, MADE, Autoregressive
from flows.discrete.layers.chain import ChainFlow
from flows.discrete.layers.coupling import COUPLING_TRAITS, Couplings
from flows.discrete.layers.linear import LULinear
from flows.discrete.layers.norm import MinMaxScale
from flows.discrete.layers.spline import RationalQuadratic
from flows.discrete.layers.transform import Transform
from flows.networks import MLP, ConditionerActivation, ResidualNetwork

__all__ = ["ENTRIES", "RQNSFAutoregressiveConfig", "RQNSFCouplingConfig"]


# The box of a spline that follows the data. It holds the latents as well: a standard normal puts
# 6e-5 of a coordinate's mass outside 4 (2.7e-3 outside 3, which costs 0.17 nats in 63 dimensions).
_BOUND = 4.0
# How much wider than a batch's range what the box holds is.
_MARGIN = 1.5


class _RQNSFConfig(FlowConfig):
    """What both forms share.

    A spline is the identity outside its box, [-B, B] in each coordinate. Without a ``tail_bound``
    the box follows the data: ``initialize`` sets a fixed scale in front that maps the range of its
    batch, with a margin, into a box of half width 4 (with ``linear``, in front of each layer). A
    number is a box that knows nothing of the data, as in the paper's experiments.
    """

    layers: PositiveInt = Field(default=5, description="number of spline layers")
    hidden: Widths = Field(
        default=(64, 64),
        description="widths of each conditioner's hidden layers; with residual blocks, one width",
    )
    activation: ConditionerActivation = "relu"
    bins: PositiveInt = Field(default=8, description="number of bins of a spline")
    tail_bound: PositiveFloat | None = Field(
        default=None, description="half width of a spline's box; none for one that follows the data"
    )
    residual_blocks: NonNegativeInt = Field(
        default=0, description="residual blocks of a conditioner; 0 for a multilayer perceptron"
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="probability with which a unit of a residual block is dropped in training",
    )
    linear: bool = Field(
        default=False,
        description="whether a linear map precedes each layer and follows the last, as in the "
        "paper's experiments; without, halves or orders alternate",
    )

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> Flow:
        if self.residual_blocks and len(self.hidden) != 1:
            raise InputError(
                f"a residual conditioner has one width: give hidden = [{self.hidden[0]}], "
                f"or residual_blocks = 0; got hidden = {list(self.hidden)}"
            )
        dimension = dimension_of(event_shape)
        spline = RationalQuadratic(self.bins, self.tail_bound or _BOUND)
        box = self.tail_bound is None
        transforms: list[Transform] = []
        for index, make in enumerate(self._layers(dimension, context_features, spline)):
            if self.linear:
                transforms.append(LULinear(dimension))
            if box and (self.linear or index == 0):
                transforms.append(MinMaxScale(dimension, _BOUND, _MARGIN))
            transforms.append(make())
        if self.linear:
            transforms.append(LULinear(dimension))
        return ChainFlow(event_shape, context_features, transforms, self.traits)

    @abc.abstractmethod
    def _layers(
        self, dimension: int, context_features: int, spline: RationalQuadratic
    ) -> list[Callable[[], Transform]]:
        """What makes the spline layers, one by one."""


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

    traits: ClassVar[Traits] = COUPLING_TRAITS

    def _layers(
        self, dimension: int, context_features: int, spline: RationalQuadratic
    ) -> list[Callable[[], Transform]]:
        def network(inputs: int, outputs: int) -> nn.Module:
            seen = inputs + context_features
            if self.residual_blocks:
                return ResidualNetwork(
                    seen,
                    self.hidden[0],
                    outputs,
                    self.residual_blocks,
                    self.activation,
                    self.dropout,
                )
            return MLP(seen, self.hidden, outputs, self.activation)

        if self.linear:
            return [lambda: Couplings(dimension, 1, network, spline)] * self.layers
        # One layer that keeps the halves apart.
        return [lambda: Couplings(dimension, self.layers, network, spline, interleaved=True)]


class RQNSFAutoregressiveConfig(_RQNSFConfig):
    """Autoregressive neural spline flow, RQ-NSF (AR); see :class:`RQNSFCouplingConfig`.

    Example:
        >>> flow = RQNSFAutoregressiveConfig(layers=2).build(event_shape=(3,))
        >>> flow.sample(5).shape
        torch.Size([5, 3])
    """

    traits: ClassVar[Traits] = AUTOREGRESSIVE_TRAITS

    def _layers(
        self, dimension: int, context_features: int, spline: RationalQuadratic
    ) -> list[Callable[[], Transform]]:
        hidden = self.hidden
        if self.residual_blocks:
            # The first layer, and two a block.
            hidden = self.hidden * (2 * self.residual_blocks + 1)

        def make(layer: int) -> Transform:
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
            return Autoregressive(made, spline)

        return [functools.partial(make, layer) for layer in range(self.layers)]


_PAPER = "Durkan, Bekasov, Murray and Papamakarios 2019, arXiv:1906.04032"

_FORMS: list[tuple[str, type[_RQNSFConfig], str]] = [
    ("c", RQNSFCouplingConfig, "spline couplings"),
    ("ar", RQNSFAutoregressiveConfig, "autoregressive splines"),
]

ENTRIES = [
    Entry("rqnsf-c", RQNSFCouplingConfig, "couplings by rational-quadratic splines", _PAPER),
    Entry(
        "rqnsf-ar", RQNSFAutoregressiveConfig, "autoregressive rational-quadratic splines", _PAPER
    ),
    *(
        Entry(
            f"rqnsf-{form}-{dataset}",
            config_class,
            f"{title} with the settings for {dataset.upper()}",
            "Durkan et al. 2019, arXiv:1906.04032, section 5.1, and the authors' experiments",
            {
                "layers": 10,
                "hidden": (256,),
                "residual_blocks": 2,
                "bins": 8,
                "tail_bound": 3.0,
                "linear": True,
                "dropout": dropout,
            },
        )
        for form, config_class, title in _FORMS
        for dataset, dropout in {
            "power": 0.0,
            "gas": 0.1,
            "hepmass": 0.2,
            "miniboone": 0.2,
            "bsds300": 0.2,
        }.items()
    ),
]
