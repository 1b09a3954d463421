"""RealNVP on images: checkerboard and channel-wise couplings at several scales."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveFloat, PositiveInt

from flows.base import Flow
from flows.config import FlowConfig
from flows.discrete.elementwise import Affine
from flows.discrete.image import (
    ChannelCoupling,
    ChannelNorm,
    CheckerboardCoupling,
    Conditioner,
    ImageTransform,
    MultiScaleFlow,
    ResidualConvolutions,
    Squeeze,
    image_shape,
)
from flows.discrete.transforms import BatchNorm

__all__ = ["ImageRealNVPConfig"]


class ImageRealNVPConfig(FlowConfig):
    """RealNVP on images.

    Density estimation using Real NVP (Dinh, Sohl-Dickstein and Bengio 2016, arXiv:1605.08803),
    sections 3.4 to 3.7: at each scale three couplings with checkerboard masks, a squeeze, three
    with channel-wise masks, and half of the channels leaves; at the last four with checkerboard
    masks. Residual conditioners with weight normalisation; batch normalisation after each
    coupling. What leaves early is N(0, I), as in the paper.

    Attributes:
        levels: number of scales; all but the last halve the sides.
        blocks: number of residual blocks of a conditioner.
        channels: width of the conditioners.
        log_scale_bound: largest absolute log-scale of a coupling.
        batch_norm: whether batch normalisation follows each coupling.

    Example:
        >>> import torch
        >>> flow = ImageRealNVPConfig(blocks=1, channels=8).build(event_shape=(1, 8, 8))
        >>> flow.log_prob(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5])
    """

    levels: PositiveInt = 2
    blocks: PositiveInt = 2
    channels: PositiveInt = 32
    log_scale_bound: PositiveFloat = 5.0
    batch_norm: bool = True

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> Flow:
        channels, height, width = image_shape(event_shape, self.levels - 1)
        affine = Affine(self.log_scale_bound, shift_first=False)

        def network(inputs: int, outputs: int) -> Conditioner:
            return ResidualConvolutions(
                inputs, outputs, self.channels, self.blocks, context_features
            )

        levels: list[list[ImageTransform]] = []
        for level in range(self.levels):
            last = level == self.levels - 1
            layers: list[ImageTransform] = []

            def add(coupling: ImageTransform, to: list[ImageTransform], channels: int) -> None:
                to.append(coupling)
                if self.batch_norm:
                    to.append(ChannelNorm(BatchNorm(channels)))

            for index in range(4 if last else 3):
                add(
                    CheckerboardCoupling(
                        channels, height, width, network, affine, swap=index % 2 == 1
                    ),
                    layers,
                    channels,
                )
            if not last:
                layers.append(Squeeze())
                channels, height, width = 4 * channels, height // 2, width // 2
                for index in range(3):
                    add(
                        ChannelCoupling(channels, network, affine, swap=index % 2 == 1),
                        layers,
                        channels,
                    )
                channels //= 2
            levels.append(layers)
        return MultiScaleFlow(event_shape, context_features, levels, [None] * self.levels)
