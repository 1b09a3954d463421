"""From the integers of an image to the real numbers that a flow models, and back."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from datasets.base import DataError, Preprocessing

__all__ = ["Dequantize", "bits_per_dim"]


def bits_per_dim(nll_nats: float, dimension: int) -> float:
    """Negative log-likelihood in bits per dimension.

    Args:
        nll_nats: mean of ``-(log p(x) + log |det dx/draw|)`` in nats, with ``x, log |det|`` from
            :meth:`Preprocessing.forward`: the NLL of the integers + U[0, 1), whose bins have
            width 1. It bounds the NLL of the integers themselves from above (Theis et al. 2015,
            arXiv:1511.01844, section 3.1).
        dimension: number of scalars in one datum: height x width x channels.

    Returns:
        ``nll_nats / (dimension log 2)``. As the change of variables of every preprocessing step
        is already in ``nll_nats``, no term for grey levels or logits is left to add.

    Example:
        A uniform density over 256 grey levels needs eight bits a pixel.

        >>> bits_per_dim(784 * math.log(256), 784)
        8.0
    """
    return nll_nats / (dimension * math.log(2))


class Dequantize(Preprocessing):
    """Integers + U[0, 1), over the number of grey levels, then an optional logit.

    ``y = (raw + u) / levels`` and ``x = logit(alpha + (1 - 2 alpha) y)``, as Papamakarios et al.
    2017 (arXiv:1705.07057, appendix) apply it; ``log |dx/draw|`` is
    ``log(1 - 2 alpha) - log p - log(1 - p) - log levels`` for each pixel, with p the logit's
    argument.

    Args:
        levels: number of grey levels; stored values are 0 to ``levels - 1``.
        alpha: keeps the logit's argument off 0 and 1; None for no logit.

    Raises:
        DataError: if ``alpha`` is not in (0, 0.5), or there are fewer than two levels.

    Example:
        >>> raw = torch.tensor([[0, 16]], dtype=torch.uint8)
        >>> x, log_abs_det = Dequantize(17).forward(raw, torch.Generator().manual_seed(0))
        >>> [int(17 * value) for value in x[0]], round(float(log_abs_det / -2), 4)
        ([0, 16], 2.8332)
    """

    def __init__(self, levels: int, alpha: float | None = None) -> None:
        if alpha is not None and not 0 < alpha < 0.5:
            raise DataError(f"alpha must lie between 0 and 0.5, got {alpha}; None for no logit")
        if levels < 2:
            raise DataError(f"an image needs at least two grey levels, got {levels}")
        self.levels = levels
        self.alpha = alpha

    def forward(
        self, raw: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        source = raw.device if generator is None else generator.device
        noise = torch.rand(raw.shape, generator=generator, device=source).to(raw.device)
        level = raw.to(noise.dtype)
        y = (level + noise) / self.levels
        size = raw[0].numel() if len(raw) else 0
        log_scale = -size * math.log(self.levels)
        if self.alpha is None:
            return y, torch.full_like(y.flatten(1)[:, 0] if size else y.new_empty(0), log_scale)
        shrink = 1 - 2 * self.alpha
        # Both sides from their own small numbers: 1 - p would lose the digits of a small alpha.
        log_p = (self.alpha + shrink * y).log()
        log_q = (self.alpha + shrink * ((self.levels - level - noise) / self.levels)).log()
        log_abs_det = -(log_p + log_q).flatten(1).sum(1)
        return log_p - log_q, log_abs_det + (log_scale + size * math.log(shrink))

    def inverse(self, x: Tensor) -> Tensor:
        y = x if self.alpha is None else (torch.sigmoid(x) - self.alpha) / (1 - 2 * self.alpha)
        return y * self.levels
