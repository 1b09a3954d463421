"""Options that every continuous flow has: trace, solver, gradient, regularisers."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from flows.base import Traits
from flows.config import FlowConfig
from flows.continuous.ode.regularizers import INTEGRANDS
from flows.continuous.ode.settings import Gradient, Settings
from flows.continuous.ode.tableaus import TABLEAUS
from flows.continuous.ode.trace import Noise

__all__ = ["REGULARIZERS", "Backend", "ContinuousConfig", "Solver", "continuous_traits"]

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


def continuous_traits(trace: Literal["hutchinson", "exact"]) -> Traits:
    """What every continuous flow is."""
    return Traits(
        density="exact" if trace == "exact" else "estimated",
        density_passes="solver",
        sample_passes="solver",
        jacobian="free-form",
    )


class ContinuousConfig(FlowConfig):
    """Options common to continuous flows.

    The regularisers' options are weights of integrals over time, per sample, not divided by the
    dimension D. The first two are RNODE's (Finlay et al. 2020, arXiv:2002.02798, section 3):
    ``jacobian_norm`` is that of ||J^T e||^2, an estimate of ||J||_F^2 by the trace's own noise.
    Dense dynamics take ||J e||^2, another estimate of the same, whose product comes with the trace;
    with a bottleneck, whose noise has another width, the norm itself, by D products. The others,
    dearer, are the official code's of FFJORD.

    With ``remember_step`` a training loss depends, within the tolerance, on the solve before.

    Of the gradients, ``checkpoint`` is that of the discrete solution, by evaluating accepted steps
    once more (native); ``adjoint`` is the paper's, ``seminorm`` the same with error control of the
    state alone (Kidger, Chen and Lyons 2021, arXiv:2009.09457), and ``backprop`` goes through the
    solver, with all its graph in memory (torchdiffeq).
    """

    end_time: PositiveFloat = Field(default=1.0, description="T, the length of each block's time")
    learned_end_time: bool = Field(
        default=False, description="whether T is a parameter of each block, starting from end_time"
    )
    trace: Literal["hutchinson", "exact"] = Field(
        default="hutchinson",
        description="how the trace is computed in training and wherever nobody asks for it exactly",
    )
    noise: Noise = Field(default="gaussian", description="the trace estimator's noise")
    probes: PositiveInt = Field(
        default=1, description="number of independent draws of the noise whose mean is the estimate"
    )
    solver: Solver = Field(default="dopri5", description="torchdiffeq's name of the solver")
    atol: PositiveFloat = Field(
        default=1e-5, description="absolute tolerance of an adaptive solver"
    )
    rtol: PositiveFloat = Field(
        default=1e-5, description="relative tolerance of an adaptive solver"
    )
    steps: PositiveInt = Field(
        default=20, description="number of equal steps of a fixed-step solver"
    )
    backend: Backend | None = Field(
        default=None,
        description="our own solver, or torchdiffeq's as in the paper; none for our own where it "
        "has the solver and the gradient",
    )
    gradient: Gradient | None = Field(
        default=None, description="how the gradient is computed; none for the backend's first"
    )
    max_evaluations: PositiveInt = Field(
        default=10_000, description="cap on evaluations of the dynamics in one solve"
    )
    remember_step: bool = Field(
        default=True,
        description="whether a block's solve in training first tries the step size that fitted its "
        "last one (native), which spares up to a quarter of the evaluations",
    )
    kinetic_energy: NonNegativeFloat = Field(default=0.0, description="weight of ||f||^2")
    jacobian_norm: NonNegativeFloat = Field(
        default=0.0, description="weight of an estimate of ||J||_F^2 by the trace's noise"
    )
    mean_speed: NonNegativeFloat = Field(default=0.0, description="weight of the mean of |f|")
    rms_speed: NonNegativeFloat = Field(default=0.0, description="weight of ||f|| / sqrt(D)")
    directional_derivative: NonNegativeFloat = Field(
        default=0.0, description="weight of ||J^T f|| / sqrt(D)"
    )
    jacobian_frobenius: NonNegativeFloat = Field(
        default=0.0, description="weight of ||J||_F, by D products"
    )
    jacobian_diagonal: NonNegativeFloat = Field(
        default=0.0, description="weight of ||diag J||, by D products"
    )
    jacobian_off_diagonal: NonNegativeFloat = Field(
        default=0.0, description="weight of ||J - diag J||_F, by D products"
    )

    @property
    def traits(self) -> Traits:
        return continuous_traits(self.trace)

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
