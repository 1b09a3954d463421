"""The continuous flow of the library diffrax (Kidger et al.), in JAX: its fair form.

diffrax solves, its controller chooses the steps, its adjoint gives the gradient; JAX
differentiates the dynamics. Put together as its users are told to, and for speed:

* All blocks with their solves are one compiled function, one for a density, one for samples, one
  for a loss with its gradients (:mod:`flows.peers.jax`).
* Dormand and Prince's method; a step is accepted by the root mean square of the error over its
  tolerance, of the state and of the log-determinant each for itself, the larger of the two.
* The first step tried is 0.01: diffrax 0.7 chooses it by the state only for a kind of term that its
  own solve does not hand on.
* The trace is ``e^T J e`` by ``jax.jvp``, or D products; samples leave it out.
* The gradient is that of the discrete solution: attempted steps are evaluated once more, from
  checkpoints whose number does not grow with theirs (``RecursiveCheckpointAdjoint``).

The network is ours, see :mod:`flows.peers.continuous`, written again in JAX with the same
parameters. The noise is drawn by torch, for one block after another as in ours, and handed over.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from flows.base import draw_normal
from flows.config import Entry
from flows.continuous.errors import StepUnderflow, TooManyEvaluations
from flows.meter import step, tick
from flows.peers.base import load
from flows.peers.continuous import ContinuousPeerConfig, ContinuousPeerFlow
from flows.peers.jax import InJax, Operation, Work, load_jax

__all__ = ["ENTRIES", "DiffraxFFJORDConfig"]

# Evaluations of one attempt of Dormand and Prince's method, whose last is the next one's first.
STAGES = 6
# The first attempt's first.
BEFORE = 1

Trace = Literal["none", "hutchinson", "exact"]


class DiffraxFFJORDConfig(ContinuousPeerConfig):
    """Continuous flow of diffrax; see :class:`flows.peers.continuous.ContinuousPeerConfig`."""

    def _build(self, event_shape: Sequence[int]) -> ContinuousPeerFlow:
        load_jax()
        load("diffrax", extra="jax")
        return _DiffraxFFJORD(event_shape, self)


class _DiffraxFFJORD(InJax, ContinuousPeerFlow):
    def _through(
        self,
        z: Tensor,
        order: Sequence[int],
        backward: bool,
        exact: bool,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        operation, inputs = self._prepare(z, backward, exact, generator)
        z, change = operation.call(self._weights(), {}, inputs, self._report)
        return z, change

    def _sample_from(self, z: Tensor, context: Tensor | None) -> Tensor:
        operation = _operation(self.config, "none", backward=True)
        (x,) = operation.call(self._weights(), {}, [z.flatten(1)], self._report)
        return x.reshape(z.shape)

    def _loss_in_one(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        operation, inputs = self._prepare(x, False, False, generator)
        return operation.loss(self._weights(), {}, inputs, self._report)

    def _prepare(
        self, z: Tensor, backward: bool, exact: bool, generator: torch.Generator | None
    ) -> tuple[Operation, list[Tensor]]:
        """The operation for a passage of states ``(n, D)``, and what goes into it."""
        trace: Trace = "exact" if exact else self.config.trace
        inputs = [z]
        if trace == "hutchinson":
            draws = [draw_normal(z.shape, like=z, generator=generator) for _ in self.blocks]
            inputs.append(torch.stack(draws))
        return _operation(self.config, trace, backward=backward), inputs

    def _weights(self) -> dict[str, Tensor]:
        return dict(self.blocks.named_parameters())

    def _report(self, counts: Mapping[str, Any], work: Work) -> None:
        config = self.config
        for block, accepted, rejected, outcome in zip(
            *(counts[name].tolist() for name in ("block", "accepted", "rejected", "outcome")),
            strict=True,
        ):
            attempts, part = accepted + rejected, f"block {block}"
            # A gradient evaluates each attempt once more, and some of many more often, which
            # diffrax does not count.
            tick(STAGES * attempts + (0 if work == "gradient" else BEFORE), part)
            if work == "value":
                step(True, part, accepted)
                step(False, part, rejected)
            if outcome == TOO_MANY:
                raise TooManyEvaluations.at(config.max_evaluations, config.atol, config.rtol)
            if outcome == FAILED:
                raise StepUnderflow.at("dopri5", "of diffrax")


# -- in JAX -------------------------------------------------------------------------------------

SOLVED, TOO_MANY, FAILED = range(3)


@functools.cache
def _operation(config: ContinuousPeerConfig, trace: Trace, *, backward: bool) -> Operation:
    """A passage through all blocks.

    Of states ``(n, D)`` and, for an estimate, noise ``(blocks, n, D)``; gives states and, unless
    there is no trace, log-determinants ``(n,)``.
    """
    jax = load_jax()
    order = list(range(config.blocks))[:: -1 if backward else 1]

    def passage(parameters: Any, constants: Any, z: Any, noise: Any = None) -> Any:
        names = [name.removeprefix("0.") for name in parameters if name.startswith("0.")]
        # One loop over equal blocks, which compiles in the time of one.
        stacked = {
            name: jax.numpy.stack([parameters[f"{index}.{name}"] for index in order])
            for name in names
        }

        def through(state: Any, block: Any) -> Any:
            solution = _solve(config, trace, block, state, backward=backward)
            return jax.tree.map(lambda values: values[0], solution.ys), _counts(solution)

        change = () if trace == "none" else (jax.numpy.zeros_like(z[:, 0]),)
        results, counts = jax.lax.scan(through, (z, *change), (stacked, noise))
        return results, {**counts, "block": jax.numpy.array(order)}

    return Operation(passage)


def _solve(
    config: ContinuousPeerConfig,
    trace: Trace,
    block: Any,
    state: Any,
    *,
    backward: bool,
) -> Any:
    """The library's solution of one block, given as its parameters and noise."""
    jax, diffrax = load_jax(), load("diffrax")
    jnp = jax.numpy

    def rates(t: Any, state: Any, arguments: Any) -> Any:
        parameters, noise = arguments

        def velocity(z: Any) -> Any:
            return _velocity(config, parameters, t, z)

        z = state[0]
        if trace == "none":
            return (velocity(z),)
        if trace == "hutchinson":
            rate, product = jax.jvp(velocity, (z,), (noise,))
            return rate, (noise * product).sum(1)
        rate, product = jax.linearize(velocity, z)
        unit = jnp.eye(z.shape[1], dtype=z.dtype)
        columns = jax.vmap(lambda e: product(jnp.broadcast_to(e, z.shape)))(unit)
        return rate, jnp.einsum("ini->n", columns)

    def norm(state: Any) -> Any:
        parts = [jnp.sqrt(jnp.square(part).mean()) for part in state]
        return functools.reduce(jnp.maximum, parts)

    times = (config.end_time, 0.0) if backward else (0.0, config.end_time)
    return diffrax.diffeqsolve(
        diffrax.ODETerm(rates),
        diffrax.Dopri5(),
        *times,
        dt0=None,
        y0=state,
        args=block,
        stepsize_controller=diffrax.PIDController(
            rtol=config.rtol,
            atol=config.atol,
            norm=norm,
            # Where time no longer moves; without it a failing solve goes on to the cap.
            dtmin=config.end_time * float(jnp.finfo(state[0].dtype).eps),
        ),
        adjoint=diffrax.RecursiveCheckpointAdjoint(),
        max_steps=max(1, (config.max_evaluations - BEFORE) // STAGES),
        throw=False,
    )


def _counts(solution: Any) -> dict[str, Any]:
    jnp, results = load_jax().numpy, load("diffrax").RESULTS
    failure = jnp.where(solution.result == results.max_steps_reached, TOO_MANY, FAILED)
    return {
        "accepted": solution.stats["num_accepted_steps"],
        "rejected": solution.stats["num_rejected_steps"],
        "outcome": jnp.where(solution.result == results.successful, SOLVED, failure),
    }


def _velocity(config: ContinuousPeerConfig, parameters: Any, t: Any, z: Any) -> Any:
    """As :class:`flows.continuous.ode.dynamics.DenseDynamics`: ``(n, D)`` at time ``t``."""
    jax = load_jax()
    activate = {
        "tanh": jax.numpy.tanh,
        "softplus": jax.nn.softplus,
        "elu": jax.nn.elu,
        "swish": jax.nn.silu,
        "square": jax.numpy.square,
    }[config.activation]
    for index in range(len(config.hidden) + 1):
        if index:
            z = activate(z)
        prefix = f"dynamics.stack.{index}."
        layer = {
            name.removeprefix(prefix): value
            for name, value in parameters.items()
            if name.startswith(prefix)
        }
        weight, shift = _affine(config, layer, t, z.shape[1])
        z = z @ weight.T + shift
    return z


def _affine(config: ContinuousPeerConfig, layer: Any, t: Any, inputs: int) -> tuple[Any, Any]:
    """A layer's weight ``(outputs, inputs)`` and shift ``(outputs,)`` at time ``t``.

    The kinds are those of :mod:`flows.continuous.ode.dynamics`.
    """
    jax = load_jax()
    kind = config.layers

    def of_time(name: str) -> Any:
        value = layer[f"{name}.weight"][:, 0] * t
        return value + layer[f"{name}.bias"] if f"{name}.bias" in layer else value

    if kind == "hyper":
        hidden = jax.numpy.tanh(of_time("hidden"))
        made = layer["made.weight"] @ hidden + layer["made.bias"]
        outputs = made.size // (inputs + 1)
        return made[outputs:].reshape(outputs, inputs), made[:outputs]
    if kind == "blend":
        start, end = ((layer[f"{name}.weight"], layer[f"{name}.bias"]) for name in ("start", "end"))
        return tuple(one + t * (other - one) for one, other in zip(start, end, strict=True))
    weight, bias = layer["linear.weight"], layer["linear.bias"]
    if kind == "ignore":
        return weight, bias
    if kind == "concat":
        return weight[:, 1:], bias + weight[:, 0] * t
    if kind == "concat_v2":
        return weight, bias + of_time("shift")
    gate = jax.nn.sigmoid(of_time("gate"))
    shift = of_time("shift") if kind == "concatsquash" else 0.0
    return weight * gate[:, None], bias * gate + shift


ENTRIES = [
    Entry(
        "diffrax/ffjord",
        DiffraxFFJORDConfig,
        "continuous flow with the solver, trace and gradient of the library diffrax, "
        "compiled by JAX, and our network",
        "Kidger 2021, arXiv:2202.02435; github.com/patrick-kidger/diffrax",
    )
]
