"""An invertible layer, and how its values lie in memory.

Layers of vector flows work on columns: features are rows and the batch lies along them, ``(D, n)``;
see :mod:`flows.dense`. Layers of image flows work on ``(n, C, H, W)``. The context lies as the
values do: ``(context_features, n)`` beside columns, ``(n, context_features)`` beside images.
"""

from __future__ import annotations

import abc
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = [
    "Transform",
    "channels_as_rows",
    "columns",
    "columns_or_none",
    "in_chunks",
    "parameters_ahead",
    "rows_as_channels",
    "sum_features",
]

# Columns, and images, that are evaluated at once: a training set need not fit at once.
_CHUNK = {2: 10_000, 4: 500}


class Transform(nn.Module, abc.ABC):
    """An invertible layer, on columns or on images."""

    @abc.abstractmethod
    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data side to latent side.

        Args:
            x: shape ``(D, n)`` or ``(n, C, H, W)``.
            context: shape ``(context_features, n)`` or ``(n, context_features)``; or None.

        Returns:
            ``z``, and ``log |det dz/dx|``: shape ``(n,)``, or a scalar where it is the same for
            all.
        """

    @abc.abstractmethod
    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The inverse of :meth:`forward`, with ``log |det dx/dz|``."""

    def initialize(self, x: Tensor, context: Tensor | None) -> None:
        """Set what depends on data from a batch; most layers have nothing to set."""

    def refresh_statistics(self, x: Tensor, context: Tensor | None) -> None:
        """Set the statistics that evaluation uses to those of ``x``; most layers keep none."""

    def outside(self, x: Tensor) -> Tensor | None:
        """Which data lie outside the region in which the layer is learned.

        Args:
            x: the layer's input.

        Returns:
            Booleans, shape ``(n,)``; None where there is no such region, as in most layers.
        """
        return None


def columns(rows: Tensor) -> Tensor:
    """``(n, D)`` to ``(D, n)``, contiguous."""
    return rows.T.contiguous()


def columns_or_none(rows: Tensor | None) -> Tensor | None:
    """A context ``(n, context_features)`` beside columns, if there is one."""
    return None if rows is None else columns(rows)


def channels_as_rows(images: Tensor) -> Tensor:
    """``(n, C, H, W)`` to ``(C, n H W)``: pixels as data, channels as features."""
    return images.transpose(0, 1).flatten(1)


def rows_as_channels(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`channels_as_rows`, for images of which ``like`` has n, H and W."""
    n, _, height, width = like.shape
    return rows.reshape(-1, n, height, width).transpose(0, 1)


def parameters_ahead(raw: Tensor, count: int) -> Tensor:
    """What a conditioner gives for values of shape S, as ``(count, *S)``.

    Of columns ``(count D, n)``, of images ``(n, count C, H, W)``.
    """
    if raw.ndim == 2:
        # A fifth of the time of `unflatten`, which counts where a layer is small.
        ahead = raw.view(count, len(raw) // count, raw.shape[1])
    else:
        ahead = raw.unflatten(1, (count, -1)).transpose(0, 1)
    return ahead


def sum_features(values: Tensor) -> Tensor:
    """The sum over all numbers of a datum, of columns or of images: shape ``(n,)``."""
    return values.sum(0) if values.ndim == 2 else values.flatten(1).sum(1)


def in_chunks(
    function: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, context: Tensor | None
) -> Tensor:
    """A function of columns or of images, applied to some of the data at a time."""
    batch, size = (1 if x.ndim == 2 else 0), _CHUNK[x.ndim]
    parts = x.split(size, batch)
    contexts = [None] * len(parts) if context is None else context.split(size, batch)
    return torch.cat(
        [function(part, given) for part, given in zip(parts, contexts, strict=True)], batch
    )
