"""FFJORD: a continuous flow with free-form dynamics (Grathwohl et al. 2018, arXiv:1810.01367).

A chain of blocks, each of which moves the data along dz/dt = f(t, z) from t = 0 to t = T, and
accumulates the trace of the dynamics' Jacobian on the way::

    z(T) = x + int_0^T f(t, z) dt,     log |det dz(T)/dx| = int_0^T tr(df/dz) dt.

With the exact trace this is the CNF of Chen et al. 2018 (arXiv:1806.07366), at D Jacobian products
an evaluation; with Hutchinson's estimate, whose noise is drawn once a solve, it is FFJORD, at one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self, cast

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.func import functional_call

from flows.base import InputError, Traits, VectorFlow
from flows.config import FlowConfig, Widths
from flows.continuous.dense_products import DenseEvaluator
from flows.continuous.dynamics import Activation, DenseDynamics, LayerKind
from flows.continuous.integrate import Gradient, SolverOptions, solve
from flows.continuous.runge_kutta import TABLEAUS, StepGuess, integrate
from flows.continuous.trace import (
    Noise,
    bottleneck_products,
    draw_noise,
    products,
    unit_vectors,
)

__all__ = ["FFJORD", "FFJORDConfig"]

Solver = Literal[
    "dopri5",
    "dopri8",
    "bosh3",
    "fehlberg2",
    "adaptive_heun",
    "euler",
    "midpoint",
    "heun2",
    "heun3",
    "rk4",
]

Backend = Literal["native", "torchdiffeq"]

_GRADIENTS: dict[Backend, tuple[Gradient, ...]] = {
    "native": ("checkpoint",),
    "torchdiffeq": ("adjoint", "backprop"),
}


class FFJORDConfig(FlowConfig):
    """Options of :class:`FFJORD`.

    The defaults are the official code's for two-dimensional toy data, but for the trace, which
    is estimated, and the end time, which is that of the other experiments: on toy data it learns
    several times faster than 0.5.

    Attributes:
        hidden: widths of the hidden layers of the dynamics; with a bottleneck, of those above it.
        layers: how the layers depend on time, see :mod:`flows.continuous.dynamics`.
        activation: nonlinearity of the dynamics.
        bottleneck: width k of a layer in the middle of the dynamics, down to which and up from
            which the hidden layers run (hidden 64-64-128 and k = 5 give 64-64-128-5-128-64-64,
            Figure 1 of the paper); the noise then has that width. None for none.
        blocks: how many continuous flows follow one another.
        end_time: T, the length of each block's time.
        trace: how the trace is computed in training and wherever nobody asks for it exactly.
        noise: the estimator's noise.
        solver: name of the torchdiffeq solver.
        atol: absolute tolerance of an adaptive solver.
        rtol: relative tolerance of an adaptive solver.
        steps: number of equal steps of a fixed-step solver.
        backend: ``"native"``: the solver of :mod:`flows.continuous.runge_kutta`;
            ``"torchdiffeq"``: as in the paper, with that library; None: the first where it has the
            solver and the gradient.
        gradient: ``"checkpoint"``: that of the discrete solution, by evaluating accepted steps
            once more (native); ``"adjoint"``: the paper's (torchdiffeq); ``"backprop"``: through
            torchdiffeq's solver, with all its graph in memory; None: the backend's first.
        max_evaluations: cap on evaluations of the dynamics in one solve.
    """

    hidden: Widths = (64, 64, 64)
    layers: LayerKind = "concatsquash"
    activation: Activation = "tanh"
    bottleneck: PositiveInt | None = None
    blocks: PositiveInt = 1
    end_time: PositiveFloat = 1.0
    trace: Literal["hutchinson", "exact"] = "hutchinson"
    noise: Noise = "gaussian"
    solver: Solver = "dopri5"
    atol: PositiveFloat = 1e-5
    rtol: PositiveFloat = 1e-5
    steps: PositiveInt = 20
    backend: Backend | None = None
    gradient: Gradient | None = None
    max_evaluations: PositiveInt = 10_000

    @property
    def resolved_backend(self) -> Backend:
        """The backend that runs."""
        if self.backend is not None:
            return self.backend
        native = self.solver in TABLEAUS and self.gradient in (None, *_GRADIENTS["native"])
        return "native" if native else "torchdiffeq"

    @property
    def resolved_gradient(self) -> Gradient:
        """The gradient that is computed."""
        return _GRADIENTS[self.resolved_backend][0] if self.gradient is None else self.gradient

    @model_validator(mode="after")
    def _backend_has_it(self) -> Self:
        if self.resolved_gradient not in _GRADIENTS[self.resolved_backend]:
            raise ValueError(
                f"backend {self.resolved_backend!r} computes gradients by "
                f"{' or '.join(_GRADIENTS[self.resolved_backend])}, not by {self.gradient}"
            )
        if self.resolved_backend == "native" and self.solver not in TABLEAUS:
            raise ValueError(
                f"backend 'native' has the solvers {', '.join(TABLEAUS)}; for {self.solver} take "
                'backend = "torchdiffeq"'
            )
        return self

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> FFJORD:
        return FFJORD(event_shape, context_features, self)


@dataclass(frozen=True)
class _Probes:
    """The vectors v of the products ``v^T M v`` of one solve.

    Attributes:
        vectors: shape ``(m, n, width)``.
        narrow: whether M is the k x k matrix ``(dh/dz)(dg/dh)`` of dynamics f = g(h(z)), or the
            D x D Jacobian.
    """

    vectors: Tensor
    narrow: bool


class _Field:
    """The right-hand side of one solve: dynamics with context, probes and weights held fixed.

    The adjoint method evaluates the dynamics again in the backward pass. By then a
    ``torch.func.functional_call`` that swapped the weights is over, so they are held here.

    Args:
        block: the dynamics.
        context: shape ``(n, context_features)``, or None.
        probes: the vectors of the trace; None where no trace is asked for.
        sum_products: whether the trace is the products' sum (exact) or their mean (estimate).
    """

    def __init__(
        self,
        block: DenseDynamics,
        context: Tensor | None,
        probes: _Probes | None,
        *,
        sum_products: bool = False,
    ) -> None:
        self.block = block
        self.context = context
        self.probes = probes
        self.sum_products = sum_products
        self.named = dict(block.named_parameters())

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What the field depends on, and whose gradient may be asked for."""
        held = tuple(self.named.values())
        return held if self.context is None else (*held, self.context)

    def velocity(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """``(z,)`` to ``(dz/dt,)``."""
        return (self._call("forward", t, state[0], self.context),)

    def with_trace(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """``(z, log-determinant)`` to the time derivatives of both."""
        f, products_ = self.products(t, state[0])
        return f, products_.sum(0) if self.sum_products else products_.mean(0)

    def products(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity ``(n, D)`` and products ``(m, n)``."""
        assert self.probes is not None
        if self.probes.narrow:
            return bottleneck_products(
                lambda y: self._call("narrow", t, y, self.context),
                lambda h: self._call("widen", t, h),
                z,
                self.probes.vectors,
            )
        return products(lambda y: self._call("forward", t, y, self.context), z, self.probes.vectors)

    def _call(self, method: str, *arguments: Tensor | None) -> Tensor:
        block = self.block
        if all(a is b for a, b in zip(self.named.values(), block.parameters(), strict=True)):
            called: Tensor = getattr(block, method)(*arguments)
            return called
        swapped: Tensor = functional_call(_Method(block, method), self._renamed, arguments)
        return swapped

    @cached_property
    def _renamed(self) -> dict[str, Tensor]:
        return {f"module.{name}": tensor for name, tensor in self.named.items()}


class _Method(nn.Module):
    """One method of a module as a module's forward, which is what functional_call can call."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module = module
        self.method = method

    def forward(self, *arguments: Tensor | None) -> Tensor:
        result: Tensor = getattr(self.module, self.method)(*arguments)
        return result


class FFJORD(VectorFlow):
    """A chain of continuous flows over vectors.

    Args:
        event_shape: shape of one datum; images are flattened.
        context_features: width of the context; 0 for none.
        config: the options; the defaults if None.

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
    ) -> None:
        super().__init__(event_shape, context_features)
        self.config = config = FFJORDConfig() if config is None else config
        self.traits = Traits(
            density="exact" if config.trace == "exact" else "estimated",
            density_passes="solver",
            sample_passes="solver",
            jacobian="free-form",
        )
        self.blocks = nn.ModuleList(
            DenseDynamics(
                self.dimension,
                config.hidden,
                layers=config.layers,
                activation=config.activation,
                bottleneck=config.bottleneck,
                context_features=context_features,
            )
            for _ in range(config.blocks)
        )
        self._guesses = [StepGuess() for _ in range(config.blocks)]

    def _encode_vector(
        self,
        x: Tensor,
        context: Tensor | None,
        *,
        exact: bool,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        return self._through(self._dynamics, x, context, exact, generator, backward=False)

    def _decode_vector(
        self,
        z: Tensor,
        context: Tensor | None,
        *,
        exact: bool,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        return self._through(reversed(self._dynamics), z, context, exact, generator, backward=True)

    def _through(
        self,
        blocks: Iterable[DenseDynamics],
        z: Tensor,
        context: Tensor | None,
        exact: bool,
        generator: torch.Generator | None,
        *,
        backward: bool,
    ) -> tuple[Tensor, Tensor]:
        """Follow the dynamics with the log-determinant, backward in time or not."""
        change = z.new_zeros(len(z))
        for block in blocks:
            exact = exact or self.config.trace == "exact"
            probes = self._probes(block, z, exact, generator)
            if self.config.resolved_backend == "native":
                evaluator = DenseEvaluator(
                    block,
                    dict(block.named_parameters()),
                    context,
                    probes.vectors,
                    narrow=probes.narrow,
                    weight=1.0 if exact else 1 / len(probes.vectors),
                )
                z, integrals = self._integrate(block, evaluator, z, backward=backward)
                change = change + integrals[0]
                continue
            field = _Field(block, context, probes, sum_products=exact)
            z, change = solve(
                field.with_trace,
                (z, change),
                *self._times(z, backward=backward),
                self._options,
                field.tensors,
            )
        return z, change

    def _integrate(
        self, block: DenseDynamics, evaluator: DenseEvaluator, z: Tensor, *, backward: bool
    ) -> tuple[Tensor, Tensor]:
        """Solve one block with the native solver."""
        config = self.config
        end = config.end_time
        return integrate(
            evaluator,
            z,
            *((end, 0.0) if backward else (0.0, end)),
            solver=config.solver,
            atol=config.atol,
            rtol=config.rtol,
            steps=config.steps,
            max_evaluations=config.max_evaluations,
            # In training alone: elsewhere a result must not depend on what was computed before.
            guess=self._guesses[self._dynamics.index(block)]
            if self.training and not backward
            else None,
        )

    def _sample_from(self, z: Tensor, context: Tensor | None) -> Tensor:
        x = z.flatten(1)
        for block in reversed(self._dynamics):
            if self.config.resolved_backend == "native":
                evaluator = DenseEvaluator(block, dict(block.named_parameters()), context, None)
                x, _ = self._integrate(block, evaluator, x, backward=True)
                continue
            field = _Field(block, context, None)
            (x,) = solve(
                field.velocity,
                (x,),
                *self._times(x, backward=True),
                self._options,
                field.tensors,
            )
        return x.reshape(z.shape)

    def trace_estimates(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        draws: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Independent estimates of the trace of the first block's Jacobian at time 0.

        Args:
            x: data, shape ``(n, *event_shape)``.
            context: shape ``(n, context_features)``, or None.
            draws: how many independent draws of the noise.
            generator: source of the noise.

        Returns:
            Estimates, in nats per unit of the flow's time, shape ``(draws, n)``.

        Raises:
            InputError: if a tensor has the wrong shape, dtype or device, or ``draws`` is below 1.
            NotImplementedError: if the flow was built with the exact trace.
        """
        if self.config.trace == "exact":
            return super().trace_estimates(x, context, draws=draws, generator=generator)
        self._check(x, context, "x")
        if draws < 1:
            raise InputError(f"draws must be at least 1, got {draws}")
        z = x.flatten(1)
        block = self._dynamics[0]
        noise = self._noise(block, z, draws, generator)
        probes = _Probes(noise, narrow=block.bottleneck is not None)
        with torch.no_grad():
            _, estimates = _Field(block, context, probes).products(z.new_zeros(()), z)
        return estimates

    @property
    def _dynamics(self) -> list[DenseDynamics]:
        return cast(list[DenseDynamics], list(self.blocks))

    @property
    def _options(self) -> SolverOptions:
        config = self.config
        return SolverOptions(
            solver=config.solver,
            atol=config.atol,
            rtol=config.rtol,
            steps=config.steps,
            gradient=config.resolved_gradient,
            max_evaluations=config.max_evaluations,
        )

    def _times(self, z: Tensor, *, backward: bool) -> tuple[Tensor, Tensor]:
        start, end = z.new_zeros(()), z.new_full((), self.config.end_time)
        return (end, start) if backward else (start, end)

    def _probes(
        self, block: DenseDynamics, z: Tensor, exact: bool, generator: torch.Generator | None
    ) -> _Probes:
        """The vectors of one solve: one draw of noise, or the unit vectors of the exact trace."""
        if not exact:
            return _Probes(self._noise(block, z, 1, generator), narrow=block.bottleneck is not None)
        # The exact trace, too, is cheapest where the dynamics are narrowest.
        narrow = block.bottleneck is not None and block.bottleneck < self.dimension
        width = block.bottleneck if narrow and block.bottleneck is not None else self.dimension
        return _Probes(unit_vectors(len(z), width, like=z), narrow=narrow)

    def _noise(
        self, block: DenseDynamics, z: Tensor, draws: int, generator: torch.Generator | None
    ) -> Tensor:
        width = self.dimension if block.bottleneck is None else block.bottleneck
        return draw_noise(self.config.noise, (draws, len(z), width), like=z, generator=generator)
