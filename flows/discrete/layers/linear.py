"""Invertible linear maps of the features, or of the channels of an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from flows.discrete.layers.transform import Transform, channels_as_rows, rows_as_channels

__all__ = ["ChannelLinear", "LULinear"]


class LULinear(Transform):
    """An invertible linear map ``z = W x`` with ``W = P L U``.

    Glow, arXiv:1807.03039, section 3.2, equation 10: P is a fixed permutation, L unit lower
    triangular, U upper triangular with the diagonal ``sign exp(log_diagonal)``; W starts as a
    random rotation. The log-determinant is a sum of D numbers.

    Args:
        dimension: D.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        # Decomposed in float64 on the CPU, whatever the default device: once, and small.
        rotation, _ = torch.linalg.qr(
            torch.randn(dimension, dimension, dtype=torch.float64, device="cpu")
        )
        permutation, lower, upper = torch.linalg.lu(rotation)
        like = torch.empty(())
        diagonal = upper.diagonal()
        self.lower = nn.Parameter(lower.tril(-1).to(like))
        self.upper = nn.Parameter(upper.triu(1).to(like))
        self.log_diagonal = nn.Parameter(diagonal.abs().log().to(like))
        self.sign: Tensor
        self.order: Tensor
        self.inverse_order: Tensor
        self.register_buffer("sign", diagonal.sign().to(like))
        # (P y)_i = y_order[i].
        self.register_buffer("order", permutation.argmax(1).to(like.device))
        self.register_buffer("inverse_order", permutation.argmax(0).to(like.device))

    def _factors(self) -> tuple[Tensor, Tensor]:
        lower = self.lower.tril(-1) + torch.eye(
            len(self.sign), dtype=self.lower.dtype, device=self.lower.device
        )
        upper = self.upper.triu(1) + torch.diag(self.sign * self.log_diagonal.exp())
        return lower, upper

    def weight_and_log_abs_det(self) -> tuple[Tensor, Tensor]:
        """W, shape ``(D, D)``, and ``log |det W|``."""
        lower, upper = self._factors()
        return (lower @ upper)[self.order], self.log_diagonal.sum()

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        weight, log_abs_det = self.weight_and_log_abs_det()
        return weight @ x, log_abs_det

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        lower, upper = self._factors()
        value = z[self.inverse_order]
        value = torch.linalg.solve_triangular(lower, value, upper=False, unitriangular=True)
        value = torch.linalg.solve_triangular(upper, value, upper=True)
        return value, -self.log_diagonal.sum()


class ChannelLinear(Transform):
    """An invertible 1 x 1 convolution, LU-parameterised (Glow, arXiv:1807.03039, section 3.2).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = LULinear(channels)

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        weight, change = self.linear.weight_and_log_abs_det()
        return functional.conv2d(x, weight[:, :, None, None]), change * (x.shape[2] * x.shape[3])

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        columns, change = self.linear.inverse(channels_as_rows(z), None)
        return rows_as_channels(columns, z), change * (z.shape[2] * z.shape[3])
