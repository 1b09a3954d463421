"""Options that every continuous flow has: trace, solver, gradient, regularisers."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from flows.config import FlowConfig
from flows.continuous.ode.regularizers import INTEGRANDS
from flows.continuous.ode.settings import Gradient, Settings
from flows.continuous.ode.tableaus import TABLEAUS
from flows.continuous.ode.trace import Noise

__all__ = ["REGULARIZERS", "Backend", "ContinuousConfig", "Solver"]

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
    "torchdiffeq": ("adjoint", "seminorm", "backprop"),
}

REGULARIZERS = tuple(INTEGRANDS)
"""Names of the regularisers, which are names of options too."""


class ContinuousConfig(FlowConfig):
    """Options common to continuous flows.

    Attributes:
        end_time: T, the length of each block's time.
        learned_end_time: whether T is a parameter of each block, starting from ``end_time``.
        trace: how the trace is computed in training and wherever nobody asks for it exactly.
        noise: the estimator's noise.
        probes: number of independent draws whose mean is the estimate.
        solver: torchdiffeq's name of the solver.
        atol: absolute tolerance of an adaptive solver.
        rtol: relative tolerance of an adaptive solver.
        steps: number of equal steps of a fixed-step solver.
        backend: ``"native"``: the solver of :mod:`flows.continuous.ode.gradient`;
            ``"torchdiffeq"``: as in the paper, with that library; None: the first where it has the
            solver and the gradient.
        gradient: ``"checkpoint"``: that of the discrete solution, by evaluating accepted steps
            once more (native); ``"adjoint"``: the paper's, ``"seminorm"``: the same with error
            control of the state alone (Kidger, Chen and Lyons 2021, arXiv:2009.09457),
            ``"backprop"``: through the solver, with all its graph in memory (torchdiffeq); None:
            the backend's first.
        max_evaluations: cap on evaluations of the dynamics in one solve.
        remember_step: whether the step size that fitted the start of a block's last solve in
            training is the first that its next one tries (native). It spares 23 to 34 % of a
            training step's evaluations; in return a loss depends, within the tolerance, on the
            solve before.
        kinetic_energy: weight of the integral of ||f||^2 over time, and
        jacobian_norm: of ||J^T e||^2, an estimate of ||J||_F^2 by the trace's own noise: the two
            of RNODE (Finlay et al. 2020, arXiv:2002.02798, section 3), per sample, not divided by
            the dimension. Dense dynamics take ||J e||^2, another estimate of the same, whose
            product comes with the trace; with a bottleneck, whose noise has another width, the
            norm itself, by D products. The others, dearer, are the official code's of FFJORD:
        mean_speed: weight of the integral of the mean of |f|.
        rms_speed: of ||f|| / sqrt(D).
        directional_derivative: of ||J^T f|| / sqrt(D).
        jacobian_frobenius: of ||J||_F, by D products.
        jacobian_diagonal: of ||diag J||, by D products.
        jacobian_off_diagonal: of ||J - diag J||_F, by D products.
    """

    end_time: PositiveFloat = 1.0
    learned_end_time: bool = False
    trace: Literal["hutchinson", "exact"] = "hutchinson"
    noise: Noise = "gaussian"
    probes: PositiveInt = 1
    solver: Solver = "dopri5"
    atol: PositiveFloat = 1e-5
    rtol: PositiveFloat = 1e-5
    steps: PositiveInt = 20
    backend: Backend | None = None
    gradient: Gradient | None = None
    max_evaluations: PositiveInt = 10_000
    remember_step: bool = True
    kinetic_energy: NonNegativeFloat = 0.0
    jacobian_norm: NonNegativeFloat = 0.0
    mean_speed: NonNegativeFloat = 0.0
    rms_speed: NonNegativeFloat = 0.0
    directional_derivative: NonNegativeFloat = 0.0
    jacobian_frobenius: NonNegativeFloat = 0.0
    jacobian_diagonal: NonNegativeFloat = 0.0
    jacobian_off_diagonal: NonNegativeFloat = 0.0

    @property
    def regularizers(self) -> dict[str, float]:
        """The regularisers with a weight above zero."""
        weights = {name: float(getattr(self, name)) for name in REGULARIZERS}
        return {name: weight for name, weight in weights.items() if weight > 0}

    def settings(self, part: str, *, compiled: bool) -> Settings:
        """How the solvers are to solve a part of the flow."""
        return Settings(
            solver=self.solver,
            atol=self.atol,
            rtol=self.rtol,
            steps=self.steps,
            gradient=self.resolved_gradient,
            max_evaluations=self.max_evaluations,
            part=part,
            compiled=compiled,
        )

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
        backend = self.resolved_backend
        if self.resolved_gradient not in _GRADIENTS[backend]:
            raise ValueError(
                f"backend {backend!r} computes gradients by "
                f"{' or '.join(_GRADIENTS[backend])}, not by {self.gradient}"
            )
        if backend == "native" and self.solver not in TABLEAUS:
            raise ValueError(
                f"backend 'native' has the solvers {', '.join(TABLEAUS)}; for {self.solver} take "
                'backend = "torchdiffeq"'
            )
        if backend == "torchdiffeq" and self.regularizers:
            raise ValueError(
                f"{', '.join(self.regularizers)}: regularisers are integrated by the native "
                "backend alone, outside the error control: leave backend and gradient unset"
            )
        return self
