"""Inverse autoregressive flows: samples in one pass a layer, densities feature by feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from flows.base import Flow, Traits
from flows.config import FlowConfig, Widths
from flows.discrete.elementwise import Affine, Elementwise
from flows.discrete.made import MADE, Autoregressive, Inverse
from flows.discrete.spline import RationalQuadratic
from flows.discrete.transforms import ChainFlow, dimension_of
from flows.networks import Activation

__all__ = ["IAF_TRAITS", "IAFConfig"]

IAF_TRAITS = Traits(
    density="exact",
    density_passes="D",
    sample_passes="1",
    jacobian="triangular",
)


class IAFConfig(FlowConfig):
    """The inverse of an autoregressive flow.

    Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al. 2016,
    arXiv:1606.04934), section 3: the latent's features come first, and a sample is made of them
    in one pass a layer. Its density is exact too, feature by feature.

    Attributes:
        layers: number of autoregressive layers, order reversed from one to the next.
        hidden: widths of each conditioner's hidden layers.
        activation: of the conditioners.
        transformer: ``affine`` (the paper's) or ``rational-quadratic`` (the inverse of RQ-NSF AR).
        log_scale_bound: largest absolute log-scale of an affine layer.
        bins: number of bins of a spline.
        tail_bound: half width of the interval on which a spline acts.

    Example:
        >>> flow = IAFConfig(layers=2).build(event_shape=(3,))
        >>> flow.sample(5).shape
        torch.Size([5, 3])
    """

    layers: PositiveInt = 4
    hidden: Widths = (64, 64)
    activation: Activation = "relu"
    transformer: Literal["affine", "rational-quadratic"] = "affine"
    log_scale_bound: PositiveFloat = 5.0
    bins: PositiveInt = 8
    tail_bound: PositiveFloat = 3.0

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
        return ChainFlow(event_shape, context_features, transforms, IAF_TRAITS)
