"""The continuous flow of the library torchflows (Nabergoj): its FFJORD, in a chain.

Its own, and left as it is (torchflows 1.2, ``ContinuousBijection``):

* **The log-determinant has no gradient.** Its trace estimator is computed apart from autograd's
  graph, so that a training step maximises the base density of the latents alone. It is not maximum
  likelihood, does not learn a density, and costs less than a training step that is. With the option
  ``trace_gradient`` the library's bijection and solver integrate a trace of ours that has one.
* The gradient is plain backpropagation through torchdiffeq's solver: memory grows with the number
  of steps.
* Sampling integrates the trace too.

Set by its own options, where its defaults differ from the others' definition: the solver ``dopri5``
with our tolerances (it has ``rk4`` in one single step), the noise fixed within a solve (it draws
anew at each evaluation, which an adaptive solver cannot work with), no penalty on the Jacobian.
The noise is handed in where the library keeps it; the exact trace, which it lacks, is its estimator
with the D unit vectors, times sqrt(D), for noise. The network is ours, see
:mod:`flows.peers.continuous`; its own has layers ``concat`` with tanh.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from flows.base import draw_normal
from flows.config import Entry
from flows.continuous.errors import StepUnderflow
from flows.continuous.ode.trace import products, unit_vectors
from flows.peers.base import load
from flows.peers.continuous import BlockwisePeerFlow, ContinuousPeerConfig

__all__ = ["ENTRIES", "TorchflowsFFJORDConfig"]


class TorchflowsFFJORDConfig(ContinuousPeerConfig):
    """Continuous flow of torchflows; see :class:`flows.peers.continuous.ContinuousPeerConfig`."""

    trace_gradient: bool = Field(
        default=False,
        description="whether the log-determinant has a gradient, which the library lacks",
    )

    def _build(self, event_shape: Sequence[int]) -> BlockwisePeerFlow:
        return _TorchflowsFFJORD(event_shape, self)


class _TorchflowsFFJORD(BlockwisePeerFlow):
    def __init__(self, event_shape: Sequence[int], config: TorchflowsFFJORDConfig) -> None:
        super().__init__(event_shape, config)
        library = load("torchflows.bijections.continuous.base")
        # In a tuple, which nn.Module does not look into: the networks inside are those of
        # self.blocks, and the library's counters and end times are no part of the state.
        self.bijections: tuple[Any, ...] = tuple(
            library.ContinuousBijection(
                (self.dimension,),
                _DifferentiableTrace(block)
                if config.trace_gradient
                else library.HutchinsonTimeDerivative(block, reuse_noise=True),
                solver="dopri5",
                end_time=config.end_time,
                atol=config.atol,
                rtol=config.rtol,
            )
            for block in self.blocks
        )

    def _follow(
        self,
        index: int,
        z: Tensor,
        *,
        backward: bool,
        exact: bool,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        if exact:
            noise = self.dimension**0.5 * unit_vectors(len(z), self.dimension, like=z)
        else:
            noise = draw_normal((1, *z.shape), like=z, generator=generator)
        return self._solve(index, z, noise, backward)

    def _follow_back_for_samples(self, index: int, z: Tensor) -> Tensor:
        # The library computes the trace at full price; nobody reads it, so that any noise will do.
        return self._solve(index, z, z.new_zeros(1, *z.shape), backward=True)[0]

    def _solve(self, index: int, z: Tensor, noise: Tensor, backward: bool) -> tuple[Tensor, Tensor]:
        bijection = self.bijections[index]
        # Time is handed over: the library keeps its root in float32.
        times = z.new_tensor([0.0, self.config.end_time])
        bijection.f._reusable_noise = noise
        try:
            # Its inverse runs from 0 on, its forward direction back to 0.
            result: tuple[Tensor, Tensor] = (
                bijection.forward(z, integration_times=times)
                if backward
                else bijection.inverse(z, integration_times=times)
            )
        except AssertionError as error:
            # torchdiffeq checks what the user did with assertions.
            if "underflow" in str(error) or "non-finite" in str(error):
                raise StepUnderflow.at("dopri5", str(error).splitlines()[0][:80]) from error
            raise
        finally:
            bijection.f._reusable_noise = None
        return result


class _DifferentiableTrace(nn.Module):
    """What the library's bijection integrates: its ``HutchinsonTimeDerivative``, mended.

    Args:
        dynamics: a module of time ``()`` and state ``(n, D)``.
    """

    def __init__(self, dynamics: nn.Module) -> None:
        super().__init__()
        self.dynamics = dynamics
        # Named as in the library: shape (probes, n, D).
        self._reusable_noise: Tensor | None = None

    def before_odeint(self) -> None:
        """Called by the library before each solve."""

    def prepare_initial_state(self, z0: Tensor) -> tuple[Tensor, Tensor]:
        """Called by the library: the states, and no change of density yet."""
        return z0, z0.new_zeros(len(z0))

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Velocity ``(n, D)`` and the mean of the probes' estimates of the trace, ``(n,)``."""
        assert self._reusable_noise is not None
        velocity, estimates = products(
            lambda z: self.dynamics(t, z), state[0], self._reusable_noise
        )
        return velocity, estimates.mean(0)


ENTRIES = [
    Entry(
        "torchflows/ffjord",
        TorchflowsFFJORDConfig,
        "continuous flow with the solver, trace and gradient of the library torchflows, "
        "whose log-determinant has no gradient unless mended, and our network",
        "Nabergoj, github.com/davidnabergoj/torchflows; its FFJORD",
        remark=(
            "The log-determinant of torchflows' continuous flow has no gradient unless "
            "trace_gradient is set, so that its training does not maximise the likelihood."
        ),
    )
]
