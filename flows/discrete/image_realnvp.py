"""RealNVP on images: checkerboard and channel-wise couplings at several scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, PositiveInt

from flows.base import Flow, Traits
from flows.config import Entry, FlowConfig
from flows.discrete.layers.convolutions import Conditioner, ResidualConvolutions
from flows.discrete.layers.coupling import COUPLING_TRAITS, CheckerboardCoupling, Couplings
from flows.discrete.layers.elementwise import Affine, LogScaleBound
from flows.discrete.layers.multiscale import MultiScaleFlow, image_shape
from flows.discrete.layers.norm import BatchNorm, ChannelNorm
from flows.discrete.layers.squeeze import Squeeze
from flows.discrete.layers.transform import Transform

__all__ = ["ENTRIES", "ImageRealNVPConfig"]


class ImageRealNVPConfig(FlowConfig):
    """RealNVP on images.

    Density estimation using Real NVP (Dinh, Sohl-Dickstein and Bengio 2016, arXiv:1605.08803),
    sections 3.4 to 3.7: at each scale three couplings with checkerboard masks, a squeeze, three
    with channel-wise masks, and half of the channels leaves; at the last four with checkerboard
    masks. Residual conditioners with weight normalisation; batch normalisation after each
    coupling. What leaves early is N(0, I), as in the paper.

    Example:
        >>> import torch
        >>> flow = ImageRealNVPConfig(blocks=1, channels=8).build(event_shape=(1, 8, 8))
        >>> flow.log_prob(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5])
    """

    traits: ClassVar[Traits] = COUPLING_TRAITS

    levels: PositiveInt = Field(
        default=2, description="number of scales, of which all but the last halve the sides"
    )
    blocks: PositiveInt = Field(default=2, description="number of residual blocks of a conditioner")
    channels: PositiveInt = Field(default=32, description="width of the conditioners")
    log_scale_bound: LogScaleBound = 5.0
    batch_norm: bool = Field(
        default=True, description="whether batch normalisation follows each coupling"
    )

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> Flow:
        channels, height, width = image_shape(event_shape, self.levels - 1)
        affine = Affine(self.log_scale_bound, shift_first=False)

        def network(inputs: int, outputs: int) -> Conditioner:
            return ResidualConvolutions(
                inputs, outputs, self.channels, self.blocks, context_features
            )

        def normed(couplings: Sequence[Transform]) -> list[Transform]:
            if not self.batch_norm:
                return list(couplings)
            return [
                layer
                for coupling in couplings
                for layer in (coupling, ChannelNorm(BatchNorm(channels)))
            ]

        levels: list[list[Transform]] = []
        for level in range(self.levels):
            last = level == self.levels - 1
            layers = normed(
                [
                    CheckerboardCoupling(
                        channels, height, width, network, affine, swap=index % 2 == 1
                    )
                    for index in range(4 if last else 3)
                ]
            )
            if not last:
                channels, height, width = 4 * channels, height // 2, width // 2
                layers += [
                    Squeeze(),
                    *normed(
                        [
                            Couplings(channels, 1, network, affine, swap=index % 2 == 1)
                            for index in range(3)
                        ]
                    ),
                ]
                channels //= 2
            levels.append(layers)
        return MultiScaleFlow(event_shape, context_features, levels, [None] * self.levels)


ENTRIES = [
    Entry(
        "realnvp-image",
        ImageRealNVPConfig,
        "RealNVP on images: checkerboard and channel-wise couplings at several scales",
        "Dinh, Sohl-Dickstein and Bengio 2016, arXiv:1605.08803",
    ),
    Entry(
        "realnvp-cifar10",
        ImageRealNVPConfig,
        "RealNVP with 8 residual blocks of 64 channels, as for CIFAR-10",
        "Dinh, Sohl-Dickstein and Bengio 2016, arXiv:1605.08803, section 4.1",
        {"levels": 3, "blocks": 8, "channels": 64},
    ),
]
