"""Inverse autoregressive flows: samples in one pass a layer, densities feature by feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from flows.base import Flow, Traits, dimension_of
from flows.config import Entry, FlowConfig
from flows.discrete.layers.autoregressive import (
    INVERSE_AUTOREGRESSIVE_TRAITS,
    MADE,
    Autoregressive,
    Inverse,
)
from flows.discrete.layers.chain import ChainFlow
from flows.discrete.layers.elementwise import LOG_SCALE_BOUND, Affine, Elementwise, LogScaleBound
from flows.discrete.layers.spline import RationalQuadratic
from flows.networks import ConditionerActivation, ConditionerWidths

__all__ = ["ENTRIES", "IAFConfig"]


class IAFConfig(FlowConfig):
    """The inverse of an autoregressive flow.

    Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al. 2016,
    arXiv:1606.04934), section 3: the latent's features come first, and a sample is made of them
    in one pass a layer. Its density is exact too, feature by feature. The transformer is the
    paper's, ``affine``, or makes the inverse of RQ-NSF (AR).

    Example:
        >>> flow = IAFConfig(layers=2).build(event_shape=(3,))
        >>> flow.sample(5).shape
        torch.Size([5, 3])
    """

    version: ClassVar[int] = 2
    traits: ClassVar[Traits] = INVERSE_AUTOREGRESSIVE_TRAITS

    layers: PositiveInt = Field(
        default=4,
        description="number of autoregressive layers, order reversed from one to the next",
    )
    hidden: ConditionerWidths = (64, 64)
    activation: ConditionerActivation = "relu"
    transformer: Literal["affine", "rational-quadratic"] = Field(
        default="affine", description="what a layer does to each feature"
    )
    log_scale_bound: LogScaleBound = LOG_SCALE_BOUND
    bins: PositiveInt = Field(default=8, description="number of bins of a spline")
    tail_bound: PositiveFloat = Field(
        default=3.0, description="half width of the interval on which a spline acts"
    )

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> Flow:
        dimension = dimension_of(event_shape)
        elementwise: Elementwise = (
            Affine(self.log_scale_bound, shift_first=False)
            if self.transformer == "affine"
            else RationalQuadratic(self.bins, self.tail_bound)
        )
        transforms = [
            Inverse(
                Autoregressive(
                    MADE(
                        dimension,
                        context_features,
                        self.hidden,
                        elementwise.parameter_count,
                        self.activation,
                        reverse=layer % 2 == 1,
                    ),
                    elementwise,
                )
            )
            for layer in range(self.layers)
        ]
        return ChainFlow(event_shape, context_features, transforms, self.traits)


ENTRIES = [
    Entry(
        "iaf",
        IAFConfig,
        "inverse autoregressive layers: samples in one pass, densities in D",
        "Kingma et al. 2016, arXiv:1606.04934",
    )
]
