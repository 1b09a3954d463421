"""Invertible functions of one number, whose parameters a conditioner computes.

Couplings and autoregressive layers differ in what their conditioners may see; what is done with
the parameters is the same, and is here. Values have any shape S, parameters ``(P, *S)``: each
parameter is one contiguous block, and every step runs along whole blocks.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor

__all__ = ["Additive", "Affine", "Elementwise"]


class Elementwise(abc.ABC):
    """An invertible function of one number; parameters of zero make it the identity.

    Attributes:
        parameter_count: P, how many parameters a number takes.
    """

    parameter_count: int

    @abc.abstractmethod
    def encode(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """Data to latent.

        Args:
            x: values, of any shape S.
            parameters: shape ``(P, *S)``.

        Returns:
            ``z`` and ``log |dz/dx|``, both of shape S; None stands for zeros.
        """

    @abc.abstractmethod
    def decode(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """The inverse of :meth:`encode`, with ``log |dx/dz|``."""


class Additive(Elementwise):
    """``z = x + t``: the volume is preserved (NICE, arXiv:1410.8516, section 3.2)."""

    parameter_count = 1

    def encode(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        return x + parameters.squeeze(0), None

    def decode(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        return z - parameters.squeeze(0), None


class Affine(Elementwise):
    """``z = x exp(s) + t``, or ``z = (x + t) exp(s)``, with ``s = bound tanh(raw / bound)``.

    The first is RealNVP's (arXiv:1605.08803, equation 7); the second has the shift before the
    scale, as MAF (arXiv:1705.07057, equation 4) and Glow's code have it. The log-scale is bounded
    smoothly and in both directions alike: a layer can expand and contract by ``exp(bound)``, and
    no more, which keeps a sample finite where the conditioner extrapolates.

    Args:
        bound: largest absolute log-scale.
        shift_first: whether the shift comes before the scale.
    """

    parameter_count = 2

    def __init__(self, bound: float, shift_first: bool) -> None:
        self.bound = bound
        self.shift_first = shift_first

    def _shift_and_log_scale(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = parameters.unbind(0)
        # tanh(raw / bound) by the sigmoid, which takes the CPU a quarter of the time.
        double = 2 * self.bound
        return shift, torch.sigmoid(raw * (4 / double)) * double - self.bound

    def encode(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        shift, log_scale = self._shift_and_log_scale(parameters)
        if self.shift_first:
            return (x + shift) * log_scale.exp(), log_scale
        return torch.addcmul(shift, x, log_scale.exp()), log_scale

    def decode(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        shift, log_scale = self._shift_and_log_scale(parameters)
        log_scale = -log_scale
        if self.shift_first:
            return z * log_scale.exp() - shift, log_scale
        return (z - shift) * log_scale.exp(), log_scale
