"""Layers that shift and scale each feature, by parameters or by statistics of the data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flows import shares
from flows.discrete.layers.transform import Transform, channels_as_rows, rows_as_channels

__all__ = ["ActNorm", "BatchNorm", "ChannelNorm", "DiagonalScale", "MinMaxScale"]


class ActNorm(Transform):
    """A shift and a scale a feature, which start so that a first batch is standardised.

    Glow, arXiv:1807.03039, section 3.1: ``z = (x + shift) exp(log_scale)``. Until
    :meth:`initialize` has been called it is the identity.

    Args:
        dimension: D.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(dimension))
        self.log_scale = nn.Parameter(torch.zeros(dimension))

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        scale = self.log_scale.exp()
        return (x + self.shift[:, None]) * scale[:, None], self.log_scale.sum()

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        scale = (-self.log_scale).exp()
        return z * scale[:, None] - self.shift[:, None], -self.log_scale.sum()

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None) -> None:
        deviation, mean = torch.std_mean(x, 1, correction=0)
        # A feature that is constant in the batch (or a batch of one) says nothing about scale.
        constant = deviation <= 1e-6 * mean.abs().clamp(min=1.0)
        self.shift.copy_(-mean)
        self.log_scale.copy_(-torch.where(constant, 1.0, deviation).log())


class DiagonalScale(Transform):
    """A scale a feature, ``z = x exp(log_scale)`` (NICE, arXiv:1410.8516, section 3.3).

    Args:
        dimension: D.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(dimension))

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.exp()[:, None], self.log_scale.sum()

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return z * (-self.log_scale).exp()[:, None], -self.log_scale.sum()


class MinMaxScale(Transform):
    """A shift and a scale a feature, fixed by a first batch: its range comes to lie in a box.

    ``z = (x - center) exp(log_scale)``: the range of the batch, widened by ``margin`` about its
    middle, is mapped onto [-bound, bound]. Until :meth:`initialize` has been called the layer is
    the identity. Both are buffers, not parameters: what lies inside the box stays inside, whatever
    training does.

    Args:
        dimension: D.
        bound: half width of the box.
        margin: width of what fills the box, over the width of the batch's range.
    """

    def __init__(self, dimension: int, bound: float, margin: float) -> None:
        super().__init__()
        self.bound = bound
        self.margin = margin
        self.center: Tensor
        self.log_scale: Tensor
        self.register_buffer("center", torch.zeros(dimension))
        self.register_buffer("log_scale", torch.zeros(dimension))

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        scale = self.log_scale.exp()
        return (x - self.center[:, None]) * scale[:, None], self.log_scale.sum()

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        scale = (-self.log_scale).exp()
        return z * scale[:, None] + self.center[:, None], -self.log_scale.sum()

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None) -> None:
        least, largest = x.aminmax(dim=1)
        center, reach = (least + largest) / 2, (largest - least) / 2
        # A feature that is constant in the batch (or a batch of one) says nothing about scale.
        constant = reach <= 1e-6 * center.abs().clamp(min=1.0)
        self.center.copy_(center)
        self.log_scale.copy_(torch.where(constant, 1.0, self.bound / (self.margin * reach)).log())


class BatchNorm(Transform):
    """Batch normalisation between the layers of a flow.

    MAF, arXiv:1705.07057, section 3.3 and appendix B, after RealNVP, arXiv:1605.08803, section
    3.7: ``z = (x - m) exp(log_gamma) / sqrt(v + 1e-5) + beta``. In training ``m`` and ``v``
    (biased) are those of the batch, and running averages of them are kept; in evaluation, and in
    the direction of sampling, the kept statistics serve. They start at 0 and 1, so that an
    untrained layer is close to the identity.

    Args:
        dimension: D.
        momentum: weight of a new batch in the running averages.
    """

    epsilon = 1e-5

    def __init__(self, dimension: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.log_gamma = nn.Parameter(torch.zeros(dimension))
        self.beta = nn.Parameter(torch.zeros(dimension))
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("variance", torch.ones(dimension))

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        # One datum has no variance: what is kept serves, and stays what it is.
        if self.training and (x.shape[1] > 1 or shares.current() is not None):
            variance, mean = shares.var_mean(x, 1, correction=0)
            with torch.no_grad():
                self.mean.lerp_(mean, self.momentum)
                self.variance.lerp_(variance, self.momentum)
        else:
            mean, variance = self.mean, self.variance
        log_scale = self.log_gamma - 0.5 * (variance + self.epsilon).log()
        scale = log_scale.exp()
        return (x - mean[:, None]) * scale[:, None] + self.beta[:, None], log_scale.sum()

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        log_scale = self.log_gamma - 0.5 * (self.variance + self.epsilon).log()
        scale = (-log_scale).exp()
        return (z - self.beta[:, None]) * scale[:, None] + self.mean[:, None], -log_scale.sum()

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None) -> None:
        if x.shape[1] > 1:
            variance, mean = torch.var_mean(x, 1, correction=0)
            self.mean.copy_(mean)
            self.variance.copy_(variance)

    def refresh_statistics(self, x: Tensor, context: Tensor | None) -> None:
        self.initialize(x, context)


class ChannelNorm(Transform):
    """Actnorm or batch normalisation with the pixels of a channel as its data.

    Args:
        norm: a layer on ``(C, n)``.
    """

    def __init__(self, norm: ActNorm | BatchNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        columns, change = self.norm(channels_as_rows(x), None)
        return rows_as_channels(columns, x), change * (x.shape[2] * x.shape[3])

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        columns, change = self.norm.inverse(channels_as_rows(z), None)
        return rows_as_channels(columns, z), change * (z.shape[2] * z.shape[3])

    def initialize(self, x: Tensor, context: Tensor | None) -> None:
        self.norm.initialize(channels_as_rows(x), None)

    def refresh_statistics(self, x: Tensor, context: Tensor | None) -> None:
        self.norm.refresh_statistics(channels_as_rows(x), None)
