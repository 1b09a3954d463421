"""Masked autoregressive flow (MAF): density in one pass a layer, samples feature by feature."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from flows.base import Flow, Traits
from flows.config import FlowConfig, Widths
from flows.discrete.bases import MixtureMADE
from flows.discrete.elementwise import Affine
from flows.discrete.made import MADE, Autoregressive
from flows.discrete.transforms import BatchNorm, ChainFlow, Transform, dimension_of
from flows.networks import Activation

__all__ = ["MAF_TRAITS", "MAFConfig"]

MAF_TRAITS = Traits(
    density="exact",
    density_passes="1",
    sample_passes="D",
    jacobian="triangular",
)


class MAFConfig(FlowConfig):
    """Masked autoregressive flow.

    Masked Autoregressive Flow for Density Estimation (Papamakarios, Pavlakou and Murray 2017,
    arXiv:1705.07057), section 3.1: each layer is a Gaussian autoregressive model whose random
    numbers the next layer models, in reversed order.

    Attributes:
        layers: number of autoregressive layers.
        hidden: widths of each conditioner's hidden layers.
        activation: of the conditioners.
        log_scale_bound: largest absolute log-scale of a layer.
        batch_norm: whether batch normalisation follows each layer, as in the paper's experiments.
        components: number of Gaussians in each conditional of an autoregressive mixture that
            takes the standard normal's place as base (MAF MoG, section 4.1); 0 for none.

    Example:
        >>> import torch
        >>> flow = MAFConfig(layers=2).build(event_shape=(3,))
        >>> flow.sample(5).shape
        torch.Size([5, 3])
    """

    layers: PositiveInt = 5
    hidden: Widths = (64, 64)
    activation: Activation = "relu"
    log_scale_bound: PositiveFloat = 5.0
    batch_norm: bool = False
    components: NonNegativeInt = 0

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> Flow:
        dimension = dimension_of(event_shape)
        transforms: list[Transform] = []
        for layer in range(self.layers):
            made = MADE(
                dimension,
                context_features,
                self.hidden,
                Affine.parameter_count,
                self.activation,
                reverse=layer % 2 == 1,
            )
            transforms.append(Autoregressive(made, Affine(self.log_scale_bound, shift_first=True)))
            if self.batch_norm:
                transforms.append(BatchNorm(dimension))
        base = None
        if self.components:
            made = MADE(
                dimension,
                context_features,
                self.hidden,
                MixtureMADE.parameter_count(self.components),
                self.activation,
                reverse=self.layers % 2 == 1,
            )
            base = MixtureMADE(made, event_shape, self.components, self.log_scale_bound)
        return ChainFlow(event_shape, context_features, transforms, MAF_TRAITS, base)
