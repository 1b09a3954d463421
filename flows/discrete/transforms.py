"""Invertible layers of vector flows, and the flow that is a chain of them.

Layers work on columns: features are rows and the batch lies along them, ``(D, n)``; see
:mod:`flows.dense`. The flow transposes once at each end.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from flows.base import Base, InputError, Traits, VectorFlow

__all__ = [
    "ActNorm",
    "BatchNorm",
    "ChainFlow",
    "DiagonalScale",
    "LULinear",
    "MinMaxScale",
    "Transform",
    "apply_in_chunks",
    "columns",
    "dimension_of",
]


def dimension_of(event_shape: Sequence[int]) -> int:
    """D, the number of scalars in an event.

    Raises:
        InputError: for an event shape that is empty or not positive.
    """
    if len(event_shape) == 0 or min(event_shape) < 1:
        raise InputError(f"event_shape must be positive numbers, got {tuple(event_shape)}")
    return math.prod(event_shape)


class Transform(nn.Module, abc.ABC):
    """An invertible layer on vectors, which are columns."""

    @abc.abstractmethod
    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data side to latent side.

        Args:
            x: shape ``(D, n)``.
            context: shape ``(context_features, n)``, or None.

        Returns:
            ``z``, shape ``(D, n)``, and ``log |det dz/dx|``: shape ``(n,)``, or a scalar where it
            is the same for all.
        """

    @abc.abstractmethod
    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The inverse of :meth:`forward`, with ``log |det dx/dz|``."""

    def initialize(self, x: Tensor, context: Tensor | None) -> None:
        """Set what depends on data from a batch; most layers have nothing to set."""

    def refresh_statistics(self, x: Tensor, context: Tensor | None) -> None:
        """Set the statistics that evaluation uses to those of ``x``; most layers keep none."""

    def outside(self, x: Tensor) -> Tensor | None:
        """Which columns lie outside the region in which the layer is learned.

        Args:
            x: the layer's input, shape ``(D, n)``.

        Returns:
            Booleans, shape ``(n,)``; None where there is no such region, as in most layers.
        """
        return None


class ChainFlow(VectorFlow):
    """A flow that is a chain of layers, first to last from data to latent.

    Args:
        event_shape: shape of one datum.
        context_features: width of the context; 0 for none.
        transforms: the layers.
        traits: what the literature's comparisons list of the system.
        base: density of the latents; standard normal if None.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        context_features: int,
        transforms: Iterable[Transform],
        traits: Traits,
        base: Base | None = None,
    ) -> None:
        super().__init__(event_shape, context_features, base)
        self.transforms = nn.ModuleList(transforms)
        self.traits = traits

    def _encode_vector(
        self,
        x: Tensor,
        context: Tensor | None,
        *,
        exact: bool,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        value, given = columns(x), _columns_or_none(context)
        log_abs_det = x.new_zeros(len(x))
        for transform in self.transforms:
            value, change = transform(value, given)
            log_abs_det = log_abs_det + change
        return value.T, log_abs_det

    def _decode_vector(
        self,
        z: Tensor,
        context: Tensor | None,
        *,
        exact: bool,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        value, given = columns(z), _columns_or_none(context)
        log_abs_det = z.new_zeros(len(z))
        for transform in reversed(self.transforms):
            assert isinstance(transform, Transform)
            value, change = transform.inverse(value, given)
            log_abs_det = log_abs_det + change
        return value.T, log_abs_det

    @torch.no_grad()
    def initialize(self, batch: Tensor, context: Tensor | None = None) -> None:
        super().initialize(batch, context)
        value, given = columns(batch.flatten(1)), _columns_or_none(context)
        for transform in self.transforms:
            assert isinstance(transform, Transform)
            transform.initialize(value, given)
            value, _ = transform(value, given)

    @property
    def keeps_statistics(self) -> bool:
        return any(isinstance(module, BatchNorm) for module in self.modules())

    @torch.no_grad()
    def refresh_statistics(self, data: Tensor, context: Tensor | None = None) -> None:
        super().refresh_statistics(data, context)
        if not self.keeps_statistics:
            return
        training = self.training
        self.eval()
        value, given = columns(data.flatten(1)), _columns_or_none(context)
        for transform in self.transforms:
            assert isinstance(transform, Transform)
            transform.refresh_statistics(value, given)
            value = apply_in_chunks(lambda *parts, of=transform: of(*parts)[0], value, given)
        self.train(training)

    @torch.no_grad()
    def outside_fraction(self, x: Tensor, context: Tensor | None = None) -> float | None:
        super().outside_fraction(x, context)
        nothing = x.new_empty(self.dimension, 0)
        layers = [layer for layer in self.transforms if isinstance(layer, Transform)]
        if all(layer.outside(nothing) is None for layer in layers):
            return None
        training = self.training
        self.eval()
        given = _columns_or_none(context)
        outside = apply_in_chunks(self._outside, columns(x.flatten(1)), given)
        self.train(training)
        return outside.double().mean().item()

    def _outside(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Which of ``(D, n)`` lie outside some layer's region, shape ``(1, n)``."""
        found = x.new_zeros(1, x.shape[1], dtype=torch.bool)
        value = x
        for transform in self.transforms:
            assert isinstance(transform, Transform)
            if (here := transform.outside(value)) is not None:
                found = found | here
            value, _ = transform(value, context)
        return found


def columns(rows: Tensor) -> Tensor:
    """``(n, D)`` to ``(D, n)``, contiguous."""
    return rows.T.contiguous()


def _columns_or_none(rows: Tensor | None) -> Tensor | None:
    return None if rows is None else columns(rows)


def apply_in_chunks(
    function: Callable[[Tensor, Tensor | None], Tensor],
    x: Tensor,
    context: Tensor | None,
    size: int = 10_000,
) -> Tensor:
    """A function of columns, applied to so many at a time: a training set need not fit at once."""
    contexts = [None] * -(-x.shape[1] // size) if context is None else list(context.split(size, 1))
    return torch.cat(
        [function(part, given) for part, given in zip(x.split(size, 1), contexts, strict=True)], 1
    )


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
        if self.training and x.shape[1] > 1:
            variance, mean = torch.var_mean(x, 1, correction=0)
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
