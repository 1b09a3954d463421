"""What the wrappers of other libraries' continuous flows share.

The library integrates: its solver, its trace, its gradient. The network is the one of
:class:`flows.continuous.ffjord.FFJORD`, called by the library as any module would be, so that
what is compared is not the network. None of our solver or of our hand-written Jacobian products
is in it. The time runs from 0 at the data to T at the latent, as ours does.

The flow's state has the names and shapes of our FFJORD's, so that the two exchange weights::

    peer.load_state_dict(ffjord.state_dict())

The base density is ours, the standard normal. Peers take vectors (images are flattened) and no
context.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, cast

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from flows.base import InputError, Traits, VectorFlow, draw_normal
from flows.config import FlowConfig, Widths
from flows.continuous.errors import TooManyEvaluations
from flows.continuous.ode.dynamics import Activation, DenseDynamics, LayerKind
from flows.continuous.ode.trace import products
from flows.continuous.options import continuous_traits
from flows.meter import tick

__all__ = [
    "BlockwisePeerFlow",
    "ContinuousPeerConfig",
    "ContinuousPeerFlow",
    "CountedDynamics",
]


class ContinuousPeerConfig(FlowConfig):
    """Options of a continuous peer, called as those of :class:`flows.continuous.ffjord.FFJORD`.

    What is not here is not the user's to choose: the solver is Dormand and Prince's of order 5
    (``dopri5``), the noise Gaussian with one probe, the gradient the library's own.
    """

    hidden: Widths = Field(
        default=(64, 64, 64), description="widths of the hidden layers of the dynamics"
    )
    layers: LayerKind = Field(default="concatsquash", description="how the layers depend on time")
    activation: Activation = Field(default="tanh", description="nonlinearity of the dynamics")
    blocks: PositiveInt = Field(
        default=1, description="how many continuous transforms follow one another"
    )
    end_time: PositiveFloat = Field(default=1.0, description="T, the length of each block's time")
    trace: Literal["hutchinson", "exact"] = Field(
        default="hutchinson",
        description="how the trace is computed in training and wherever nobody asks for it exactly",
    )
    atol: PositiveFloat = Field(default=1e-5, description="absolute tolerance")
    rtol: PositiveFloat = Field(default=1e-5, description="relative tolerance")
    max_evaluations: PositiveInt = Field(
        default=10_000, description="cap on evaluations of the dynamics in one forward solve"
    )

    @property
    def traits(self) -> Traits:
        return continuous_traits(self.trace)

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> ContinuousPeerFlow:
        if context_features:
            raise InputError("a peer is built without context: give context_features = 0")
        return self._build(event_shape)

    @abc.abstractmethod
    def _build(self, event_shape: Sequence[int]) -> ContinuousPeerFlow:
        """The flow."""


class CountedDynamics(nn.Module):
    """Dynamics as a library calls them, which counts the calls and caps those of a solve.

    Args:
        dynamics: a module of time ``()`` and state ``(n, D)``.
        name: what the meter calls the block.
        config: the cap, and the tolerances that its message names.
    """

    def __init__(self, dynamics: nn.Module, name: str, config: ContinuousPeerConfig) -> None:
        super().__init__()
        self.dynamics = dynamics
        self.name = name
        self.config = config
        # What is left in the solve under way; None between solves and in a backward pass.
        self.left: int | None = None

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """The velocity, shape of ``z``.

        Raises:
            TooManyEvaluations: at the cap.
        """
        if self.left is not None:
            if self.left == 0:
                config = self.config
                raise TooManyEvaluations.at(config.max_evaluations, config.atol, config.rtol)
            self.left -= 1
        tick(part=self.name)
        velocity: Tensor = self.dynamics(t, z)
        return velocity

    @contextmanager
    def solve(self) -> Iterator[None]:
        """A forward solve: the cap counts from here."""
        self.left = self.config.max_evaluations
        try:
            yield
        finally:
            self.left = None


class ContinuousPeerFlow(VectorFlow):
    """A chain of a library's continuous transforms behind the contract.

    Args:
        event_shape: shape of one datum.
        config: the options.
    """

    def __init__(self, event_shape: Sequence[int], config: ContinuousPeerConfig) -> None:
        super().__init__(event_shape)
        self.config = config
        self.traits = config.traits
        self.blocks = nn.ModuleList(
            CountedDynamics(
                DenseDynamics(
                    self.dimension,
                    config.hidden,
                    layers=config.layers,
                    activation=config.activation,
                ),
                f"block {index}",
                config,
            )
            for index in range(config.blocks)
        )

    def _counted(self, index: int) -> CountedDynamics:
        return cast(CountedDynamics, self.blocks[index])

    def _encode_vector(
        self, x: Tensor, context: Tensor | None, *, exact: bool, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        return self._through(x, range(len(self.blocks)), False, exact, generator)

    def _decode_vector(
        self, z: Tensor, context: Tensor | None, *, exact: bool, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        return self._through(z, range(len(self.blocks))[::-1], True, exact, generator)

    @abc.abstractmethod
    def _through(
        self,
        z: Tensor,
        order: Sequence[int],
        backward: bool,
        exact: bool,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """States ``(n, D)`` through all blocks in order, from 0 to T, or T to 0 if ``backward``.

        With log-determinants ``(n,)``, whose trace is exact if the config or the call says so.
        """

    def trace_estimates(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        draws: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Hutchinson's estimates at the first block's start, as the libraries define them."""
        if self.config.trace == "exact":
            return super().trace_estimates(x, context, draws=draws, generator=generator)
        self._check(x, context, "x")
        if draws < 1:
            raise InputError(f"draws must be at least 1, got {draws}")
        z = x.flatten(1)
        noise = draw_normal((draws, *z.shape), like=z, generator=generator)
        dynamics = self._counted(0).dynamics
        with torch.no_grad():
            return products(lambda y: dynamics(y.new_zeros(()), y), z, noise)[1]


class BlockwisePeerFlow(ContinuousPeerFlow):
    """A chain of which the library follows one block at a time."""

    @abc.abstractmethod
    def _follow(
        self,
        index: int,
        z: Tensor,
        *,
        backward: bool,
        exact: bool,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """Through one block by the library; else as :meth:`_through`."""

    @abc.abstractmethod
    def _follow_back_for_samples(self, index: int, z: Tensor) -> Tensor:
        """From T to 0 as the library does where nobody asks for the log-determinant."""

    def _through(
        self,
        z: Tensor,
        order: Sequence[int],
        backward: bool,
        exact: bool,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        exact = exact or self.config.trace == "exact"
        change = z.new_zeros(len(z))
        for index in order:
            with self._counted(index).solve():
                z, more = self._follow(
                    index, z, backward=backward, exact=exact, generator=generator
                )
            change = change + more
        return z, change

    def _sample_from(self, z: Tensor, context: Tensor | None) -> Tensor:
        x = z.flatten(1)
        for index in reversed(range(len(self.blocks))):
            with self._counted(index).solve():
                x = self._follow_back_for_samples(index, x)
        return x.reshape(z.shape)
