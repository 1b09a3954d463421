"""FFJORD: a continuous flow with free-form dynamics (Grathwohl et al. 2018, arXiv:1810.01367).

A chain of blocks, each of which moves the data along dz/dt = f(t, z) from t = 0 to t = T, and
accumulates the trace of the dynamics' Jacobian on the way::

    z(T) = x + int_0^T f(t, z) dt,     log |det dz(T)/dx| = int_0^T tr(df/dz) dt.

With the exact trace this is the CNF of Chen et al. 2018 (arXiv:1806.07366), at D Jacobian products
an evaluation; with Hutchinson's estimate, whose noise is drawn once a solve, it is FFJORD, at one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import cast

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from flows.base import InputError, Traits, VectorFlow
from flows.config import Widths
from flows.continuous.base import ContinuousFlow, Passage
from flows.continuous.errors import CostWarning
from flows.continuous.moving_norm import MovingBatchNorm
from flows.continuous.ode.dynamics import Activation, DenseDynamics, LayerKind
from flows.continuous.options import ContinuousConfig
from flows.continuous.transform import ContinuousTransform

__all__ = ["FFJORD", "FFJORDConfig"]


class FFJORDConfig(ContinuousConfig):
    """Options of :class:`FFJORD`, besides those of every continuous flow.

    The defaults are the official code's for two-dimensional toy data, but for the trace, which
    is estimated, and the end time, which is that of the other experiments: on toy data it learns
    several times faster than 0.5.

    Attributes:
        hidden: widths of the hidden layers of the dynamics; with a bottleneck, of those above it.
        layers: how the layers depend on time, see :mod:`flows.continuous.ode.dynamics`.
        activation: nonlinearity of the dynamics.
        residual: whether the velocity is the network's value minus the state; the trace of the
            second is known and not estimated.
        bottleneck: width k of a layer in the middle of the dynamics, down to which and up from
            which the hidden layers run (hidden 64-64-128 and k = 5 give 64-64-128-5-128-64-64,
            Figure 1 of the paper); the noise then has that width. None for none.
        blocks: how many continuous transforms follow one another.
        batch_norm: whether moving batch norm goes before, between and after the blocks.
    """

    hidden: Widths = (64, 64, 64)
    layers: LayerKind = "concatsquash"
    activation: Activation = "tanh"
    residual: bool = False
    bottleneck: PositiveInt | None = None
    blocks: PositiveInt = 1
    batch_norm: bool = False

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> FFJORD:
        return FFJORD(event_shape, context_features, self)


class FFJORD(ContinuousFlow, VectorFlow):
    """A chain of continuous transforms over vectors.

    Args:
        event_shape: shape of one datum; images are flattened.
        context_features: width of the context; 0 for none.
        config: the options; the defaults if None.
        dynamics: modules to use instead of the config's network, one for each block; see
            :class:`flows.continuous.ode.field.Dynamics`.

    Raises:
        InputError: if the number of given dynamics is not the config's number of blocks.

    Example:
        >>> flow = FFJORD((2,), config=FFJORDConfig(hidden=(8,), blocks=2))
        >>> flow.log_prob(torch.zeros(3, 2), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        context_features: int = 0,
        config: FFJORDConfig | None = None,
        dynamics: Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__(event_shape, context_features)
        self.config = config = FFJORDConfig() if config is None else config
        self.traits = Traits(
            density="exact" if config.trace == "exact" else "estimated",
            density_passes="solver",
            sample_passes="solver",
            jacobian="free-form",
        )
        if config.bottleneck is not None and config.bottleneck > self.dimension:
            warnings.warn(
                f"a bottleneck of {config.bottleneck} is wider than the data's {self.dimension} "
                "dimensions: noise of its width makes the trace's estimate more variable, not less",
                CostWarning,
                stacklevel=2,
            )
        if dynamics is None:
            dynamics = [
                DenseDynamics(
                    self.dimension,
                    config.hidden,
                    layers=config.layers,
                    activation=config.activation,
                    bottleneck=config.bottleneck,
                    context_features=context_features,
                    residual=config.residual,
                )
                for _ in range(config.blocks)
            ]
        if len(dynamics) != config.blocks:
            raise InputError(
                f"got {len(dynamics)} dynamics for {config.blocks} blocks: give one for each"
            )
        self.blocks = nn.ModuleList(
            ContinuousTransform(module, config, f"block {index}")
            for index, module in enumerate(dynamics)
        )
        self.norms = nn.ModuleList(
            MovingBatchNorm(self.dimension)
            for _ in range(config.blocks + 1 if config.batch_norm else 0)
        )

    @property
    def _transforms(self) -> list[ContinuousTransform]:
        return cast(list[ContinuousTransform], list(self.blocks))

    @property
    def _norms(self) -> list[MovingBatchNorm]:
        return cast(list[MovingBatchNorm], list(self.norms))

    @property
    def _first(self) -> ContinuousTransform:
        return self._transforms[0]

    def _state(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def _encode_vector(
        self,
        x: Tensor,
        context: Tensor | None,
        *,
        exact: bool,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        passage = Passage(x, context, exact=exact, generator=generator, regularize=False)
        return self._travel(x, passage), passage.change

    def _travel(self, x: Tensor, passage: Passage) -> Tensor:
        z = self._state(x)
        if self._norms:
            z, change = self._norms[0].encode(z)
            passage.change = passage.change + change
        for index, block in enumerate(self._transforms):
            z = passage.through(block, z)
            if self._norms:
                z, change = self._norms[index + 1].encode(z)
                passage.change = passage.change + change
        return z.reshape(x.shape)

    def _decode_vector(
        self,
        z: Tensor,
        context: Tensor | None,
        *,
        exact: bool,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        change = z.new_zeros(len(z))
        for index, block in reversed(list(enumerate(self._transforms))):
            if self._norms:
                z, more = self._norms[index + 1].decode(z)
                change = change + more
            z, more, _ = block(z, context, exact=exact, generator=generator, backward=True)
            change = change + more
        if self._norms:
            z, more = self._norms[0].decode(z)
            change = change + more
        return z, change

    def _sample_from(self, z: Tensor, context: Tensor | None) -> Tensor:
        x = z.flatten(1)
        for index, block in reversed(list(enumerate(self._transforms))):
            if self._norms:
                x, _ = self._norms[index + 1].decode(x)
            x = block.without_trace(x, context, backward=True)
        if self._norms:
            x, _ = self._norms[0].decode(x)
        return x.reshape(z.shape)

    @torch.no_grad()
    def initialize(self, batch: Tensor, context: Tensor | None = None) -> None:
        """Set the moving batch norms' statistics from a batch; without them, do nothing."""
        super().initialize(batch, context)
        if not self._norms or not len(batch):
            return
        z = batch.flatten(1)
        self._norms[0].initialize(z)
        z = self._normalised(0, z)
        for index, block in enumerate(self._transforms):
            z = block.without_trace(z, context)
            self._norms[index + 1].initialize(z)
            z = self._normalised(index + 1, z)

    def _normalised(self, index: int, z: Tensor) -> Tensor:
        norm = self._norms[index]
        before = norm.training
        norm.eval()
        z, _ = norm.encode(z)
        norm.train(before)
        return z
