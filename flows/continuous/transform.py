"""One continuous transform: a block of a continuous flow, over states of any shape."""

from __future__ import annotations

import math
import warnings
from typing import cast

import torch
from torch import Tensor, nn

from flows.continuous.dense_products import REGULARIZERS, DenseEvaluator
from flows.continuous.dynamics import DenseDynamics
from flows.continuous.errors import CostWarning, ToleranceTooTight
from flows.continuous.field import AutogradEvaluator, Field, Probes
from flows.continuous.integrate import SolverOptions, solve
from flows.continuous.options import ContinuousConfig
from flows.continuous.runge_kutta import Evaluator, StepGuess, integrate
from flows.continuous.trace import draw_noise, unit_vectors

__all__ = ["ContinuousTransform"]

EXACT_IS_DEAR = 512
"""Dimension from which on an exact trace is worth a warning."""


class ContinuousTransform(nn.Module):
    """Moves states along dz/dt = f(t, z) from 0 to T, and integrates the trace on the way.

    Args:
        dynamics: a module that keeps :class:`flows.continuous.field.Dynamics`.
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
        # No part of the state: it is used in training alone, where it spares a search.
        self.guess = StepGuess()
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
        config = self.config
        probes = self.probes(z, exact or config.trace == "exact", generator)
        names = tuple(config.regularizers) if regularize else ()
        if config.resolved_backend == "native":
            evaluator = self._evaluator(context, probes, names)
            z, integrals = self._integrate(evaluator, z, backward=backward)
            return z, integrals[0], dict(zip(names, integrals[1:], strict=True))
        field = Field(self.dynamics, context, probes)
        z, change = solve(
            lambda t, state: field.rates(t, state[0]),
            (z, z.new_zeros(len(z))),
            *self._times(z, backward=backward),
            self._options(z),
            field.tensors,
        )
        return z, change, {}

    def without_trace(
        self, z: Tensor, context: Tensor | None = None, *, backward: bool = False
    ) -> Tensor:
        """Follow the dynamics where nobody asks for the log-determinant."""
        if self.config.resolved_backend == "native":
            return self._integrate(self._evaluator(context, None, ()), z, backward=backward)[0]
        field = Field(self.dynamics, context, None)
        (z,) = solve(
            lambda t, state: (field.velocity(t, state[0]),),
            (z,),
            *self._times(z, backward=backward),
            self._options(z),
            field.tensors,
        )
        return z

    def trace_estimates(
        self, z: Tensor, context: Tensor | None, draws: int, generator: torch.Generator | None
    ) -> Tensor:
        """Estimates of the trace at time 0, ``(draws, n)``, each the mean of all probes."""
        count = self.config.probes
        noise = self._noise(z, draws * count, generator)
        with torch.no_grad():
            # A weight of 1 / (all products) has each of them carry the whole known trace.
            _, found = Field(self.dynamics, context, noise).products(z.new_zeros(()), z)
        return found.view(draws, count, len(z)).mean(1)

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
        vectors = draw_noise(self.config.noise, (draws, *shape), like=z, generator=generator)
        return Probes(vectors, narrow=width is not None, weight=1 / draws)

    def _evaluator(
        self, context: Tensor | None, probes: Probes | None, regularizers: tuple[str, ...]
    ) -> Evaluator:
        dynamics = self.dynamics
        narrow = probes is not None and probes.narrow
        by_hand = set(REGULARIZERS) - ({"jacobian_norm"} if narrow else set())
        if isinstance(dynamics, DenseDynamics) and by_hand.issuperset(regularizers):
            return DenseEvaluator(
                dynamics,
                dict(dynamics.named_parameters()),
                context,
                None if probes is None else probes.vectors,
                narrow=narrow,
                weight=1.0 if probes is None else probes.weight,
                regularizers=regularizers,
            )
        return AutogradEvaluator(Field(dynamics, context, probes), regularizers)

    def _integrate(
        self, evaluator: Evaluator, z: Tensor, *, backward: bool
    ) -> tuple[Tensor, Tensor]:
        config = self.config
        self._check_tolerance(z)
        end = self.end_time
        return integrate(
            evaluator,
            z,
            *((end, 0.0) if backward else (0.0, end)),
            solver=config.solver,
            atol=config.atol,
            rtol=config.rtol,
            steps=config.steps,
            max_evaluations=config.max_evaluations,
            part=self.name,
            guess=self.guess if self.training and not backward else None,
            compiled=self.compiled,
        )

    def _times(self, z: Tensor, *, backward: bool) -> tuple[Tensor, Tensor]:
        start = z.new_zeros(())
        end = self.end_time
        end = end if isinstance(end, Tensor) else z.new_full((), end)
        return (end, start) if backward else (start, end)

    def _options(self, z: Tensor) -> SolverOptions:
        self._check_tolerance(z)
        config = self.config
        return SolverOptions(
            solver=config.solver,
            atol=config.atol,
            rtol=config.rtol,
            steps=config.steps,
            gradient=config.resolved_gradient,
            max_evaluations=config.max_evaluations,
            part=self.name,
        )

    def _check_tolerance(self, z: Tensor) -> None:
        config = self.config
        # Rounding is random where error control sees it, so that a tolerance somewhat below it
        # still works; this far below, steps shrink without end.
        limit = torch.finfo(z.dtype).eps / 16
        if max(config.atol, config.rtol) < limit:
            raise ToleranceTooTight(
                f"atol = {config.atol:g} and rtol = {config.rtol:g} are below what {z.dtype} "
                f"resolves (about {torch.finfo(z.dtype).eps:.1g}): loosen them, or use "
                "flow.double()"
            )
