"""Batch norm by moving statistics, between the blocks of a continuous flow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flows import shares

__all__ = ["MovingBatchNorm"]


class MovingBatchNorm(nn.Module):
    """``y = (x - mean) / sqrt(variance + eps) * exp(log_scale) + shift`` by feature.

    Mean and variance are moving averages, in training too. A batch in training is normalised with
    the averages as the batches before left them, and moves them afterwards: a sample's density
    depends on those, but not on the others in its own batch, and the averages are constants to the
    gradient. Order and constants are those of the official code of FFJORD (Grathwohl et al. 2018,
    arXiv:1810.01367); unlike there, :meth:`initialize` sets the averages from data, without which
    the first batches are hardly normalised at all.

    Args:
        features: number of features.
        eps: added to the variance.
        decay: weight of a new batch in the averages.
    """

    def __init__(self, features: int, eps: float = 1e-4, decay: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.decay = decay
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.shift = nn.Parameter(torch.zeros(features))
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.ones(features))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Take the statistics of a batch, shape ``(n, features)``."""
        self.mean.copy_(x.mean(0))
        if len(x) > 1:
            self.variance.copy_(x.var(0))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise; then, in training, move the statistics towards the batch's.

        Returns:
            Shape ``(n, features)``, and the log-determinant, ``(n,)``.
        """
        log_scale = self.log_scale - 0.5 * (self.variance + self.eps).log()
        # A copy, because the buffer changes before the backward pass.
        y = (x - self.mean.clone()) * log_scale.exp() + self.shift
        if self.training and (len(x) > 1 or shares.current() is not None):
            with torch.no_grad():
                variance, mean = shares.var_mean(x, 0, correction=1)
                self.mean.lerp_(mean, self.decay)
                self.variance.lerp_(variance, self.decay)
        return y, log_scale.sum().expand(len(x))

    def decode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse; never moves the statistics."""
        log_scale = self.log_scale - 0.5 * (self.variance + self.eps).log()
        x = (y - self.shift) * (-log_scale).exp() + self.mean
        return x, -log_scale.sum().expand(len(y))
