"""One continuous transform: a block of a continuous flow, over states of any shape."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from flows import shares
from flows.continuous import kernels
from flows.continuous.errors import CostWarning
from flows.continuous.ode import torchdiffeq
from flows.continuous.ode.autograd import AutogradEvaluator
from flows.continuous.ode.dense import DenseEvaluator
from flows.continuous.ode.dynamics import DenseDynamics
from flows.continuous.ode.evaluator import Evaluator
from flows.continuous.ode.field import Field, Probes
from flows.continuous.ode.gradient import integrate
from flows.continuous.ode.trace import Product, draw_noise, unit_vectors
from flows.continuous.options import ContinuousConfig
from flows.meter import tick

__all__ = ["ContinuousTransform"]

EXACT_IS_DEAR = 512
"""Dimension from which on an exact trace is worth a warning."""


class ContinuousTransform(nn.Module):
    """Moves states along dz/dt = f(t, z) from 0 to T, and integrates the trace on the way.

    Args:
        dynamics: a module that keeps :class:`flows.continuous.ode.field.Dynamics`.
        config: trace, solver, gradient, regularisers.
        name: what the meter calls the block.
    """

    def __init__(self, dynamics: nn.Module, config: ContinuousConfig, name: str = "block") -> None:
        super().__init__()
        self.dynamics = dynamics
        self.config = config
        self.name = name
        self.log_end_time: nn.Parameter | None = None
        if config.learned_end_time:
            self.log_end_time = nn.Parameter(torch.tensor(math.log(config.end_time)))
        # Of the last solve in training; no part of the state.
        self.fitting_step: float | None = None
        self.compiled = False

    @property
    def end_time(self) -> Tensor | float:
        """T: a number, or a tensor of shape ``()`` if it is learned."""
        return self.config.end_time if self.log_end_time is None else self.log_end_time.exp()

    @property
    def bottleneck(self) -> int | None:
        """Width of the narrowest layer, where the noise of the trace goes."""
        return cast(int | None, getattr(self.dynamics, "bottleneck", None))

    def forward(
        self,
        z: Tensor,
        context: Tensor | None = None,
        *,
        exact: bool = False,
        generator: torch.Generator | None = None,
        backward: bool = False,
        regularize: bool = False,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Follow the dynamics, with the log-determinant.

        Args:
            z: states, shape ``(n, ...)``.
            context: shape ``(n, context_features)``, or None.
            exact: whether the trace is exact whatever the config says.
            generator: source of the noise.
            backward: whether to go from T to 0.
            regularize: whether to integrate the config's regularisers.

        Returns:
            States, log-determinants ``(n,)``, and the regularisers' integrals by name, ``(n,)``.

        Raises:
            SolverError: if the problem cannot be solved.
        """
        probes = self.probes(z, exact or self.config.trace == "exact", generator)
        names = tuple(self.config.regularizers) if regularize else ()
        way = self._way(backward)
        z, integrals = self._solve(z, context, probes, names, way, remember=not backward)
        return z, integrals[0], dict(zip(names, integrals[1:], strict=True))

    def without_trace(
        self, z: Tensor, context: Tensor | None = None, *, backward: bool = False
    ) -> Tensor:
        """Follow the dynamics where nobody asks for the log-determinant."""
        way = self._way(backward)
        return self._solve(z, context, None, (), way, remember=not backward)[0]

    def between(
        self, z: Tensor, start: float, end: float, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Follow the dynamics over a part of their time, with the exact log-determinant.

        Args:
            z: states at ``start``, shape ``(n, ...)``.
            start: from 0, the side of the data, to T, that of the latents.
            end: likewise, on either side of ``start``.
            context: shape ``(n, context_features)``, or None.

        Returns:
            States at ``end``, and log-determinants, ``(n,)``.

        Raises:
            SolverError: if the problem cannot be solved.
        """
        if start == end:
            return z, z.new_zeros(len(z))
        z, integrals = self._solve(z, context, self.probes(z, True, None), (), (start, end))
        return z, integrals[0]

    def _way(self, backward: bool) -> tuple[Tensor | float, Tensor | float]:
        """The times at which a solve starts and ends."""
        return (self.end_time, 0.0) if backward else (0.0, self.end_time)

    def _solve(
        self,
        z: Tensor,
        context: Tensor | None,
        probes: Probes | None,
        regularizers: tuple[str, ...],
        way: tuple[Tensor | float, Tensor | float],
        *,
        remember: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The state at the end, and the integrals of trace and regularisers, ``(m, n)``.

        With ``remember`` the step size that fits the start is kept in training for the next solve.
        """
        config = self.config
        settings = config.settings(self.name, compiled=self.compiled)
        settings.check(z.dtype)
        start, end = way
        if config.resolved_backend == "torchdiffeq":
            return torchdiffeq.solve(Field(self.dynamics, context, probes), z, start, end, settings)
        evaluator = evaluator_of(self.dynamics, z, context, probes, regularizers)
        remembers = config.remember_step and self.training and remember
        first_step = self.fitting_step if remembers else None
        z, integrals, fitting_step = integrate(evaluator, z, start, end, settings, first_step)
        if remembers and fitting_step is not None:
            self.fitting_step = fitting_step
        return z, integrals

    def trace_estimates(
        self, z: Tensor, context: Tensor | None, draws: int, generator: torch.Generator | None
    ) -> Tensor:
        """Estimates of the trace at time 0, ``(draws, n)``, each the mean of all probes."""
        count = self.config.probes
        noise = self._noise(z, draws * count, generator)
        tick(part=self.name)
        with torch.no_grad():
            # A weight of 1 / (all products) has each of them carry the whole known trace.
            _, found = Field(self.dynamics, context, noise).products(z.new_zeros(()), z)
        return found.view(draws, count, len(z)).mean(1)

    def vector_jacobians(self, z: Tensor, context: Tensor | None, *, narrow: bool) -> Product:
        """The products ``v^T M`` at time 0; see :meth:`Field.vector_jacobians`."""
        field = Field(self.dynamics, context, None)
        return field.vector_jacobians(z.new_zeros(()), z, narrow=narrow)

    def probes(self, z: Tensor, exact: bool, generator: torch.Generator | None) -> Probes:
        """The vectors of one solve: one draw of noise, or the unit vectors of the exact trace."""
        if not exact:
            return self._noise(z, self.config.probes, generator)
        # The exact trace, too, is cheapest where the dynamics are narrowest.
        size, width = z[0].numel() if len(z) else z.shape[1:].numel(), self.bottleneck
        narrow = width is not None and width < size
        if narrow and width is not None:
            return Probes(unit_vectors(len(z), width, like=z), narrow=True, weight=1.0)
        if size >= EXACT_IS_DEAR:
            warnings.warn(
                f"the exact trace in {size} dimensions takes {size} Jacobian products at each "
                'evaluation of the dynamics, where an estimate (trace = "hutchinson") takes one',
                CostWarning,
                stacklevel=3,
            )
        vectors = unit_vectors(len(z), size, like=z).view(size, *z.shape)
        return Probes(vectors, narrow=False, weight=1.0)

    def _noise(self, z: Tensor, draws: int, generator: torch.Generator | None) -> Probes:
        width = self.bottleneck
        shape = z.shape if width is None else (len(z), width)

        def draw(shape: Sequence[int]) -> Tensor:
            return draw_noise(self.config.noise, shape, like=z, generator=generator)

        vectors = shares.drawn(draw, (draws, *shape), axis=1)
        return Probes(vectors, narrow=width is not None, weight=1 / draws)


def evaluator_of(
    dynamics: nn.Module,
    z: Tensor,
    context: Tensor | None,
    probes: Probes | None,
    regularizers: tuple[str, ...],
) -> Evaluator:
    """The right-hand side for the native solver: the fastest that there is for a case.

    Args:
        dynamics: of the block.
        z: initial state.
        context: shape ``(n, context_features)``, or None.
        probes: the vectors of the trace; None where no trace is asked for.
        regularizers: names whose integrals go along, after the trace.
    """
    if isinstance(dynamics, DenseDynamics) and DenseEvaluator.has(regularizers, probes):
        # A kernel tells the error of its own rows alone.
        alone = shares.current() is None
        if z.is_cpu and alone and kernels.in_use() != "none":
            from flows.continuous.kernels.evaluator import KernelEvaluator

            return KernelEvaluator(dynamics, context, probes, regularizers)
        dense = DenseEvaluator(dynamics, context, probes, regularizers)
        if z.is_cuda and alone and kernels.triton_is_there() and kernels.allowed():
            from flows.continuous.kernels import on_cuda

            if on_cuda.covers(dense, z):
                return on_cuda.TritonEvaluator(dynamics, context, probes, regularizers)
        return dense
    return AutogradEvaluator(Field(dynamics, context, probes), regularizers)
