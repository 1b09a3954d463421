"""Pixels into channels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from flows.discrete.layers.transform import Transform

__all__ = ["Squeeze"]


class Squeeze(Transform):
    """2 x 2 pixels become four channels: ``(C, H, W)`` to ``(4 C, H / 2, W / 2)``."""

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return functional.pixel_unshuffle(x, 2), x.new_zeros(())

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return functional.pixel_shuffle(z, 2), z.new_zeros(())
