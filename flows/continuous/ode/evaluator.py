"""What a solve asks of its right-hand side: single evaluations, and steps made of them.

The problem is ``dz/dt = f(t, z)`` together with integrals over the path, ``dq/dt = r(t, z)`` (the
trace, regularisers), which do not act back on ``z``. The order of calls:

* Forward, for each attempted step: :meth:`Evaluator.moments` once, for the times of its stages, and
  :meth:`Evaluator.rates` stage by stage.
* Backward, for each accepted step from the last to the first: :meth:`Evaluator.moments`, and
  :meth:`Evaluator.pull` from the last stage to the first.

All of these are functions: they change neither their arguments nor the evaluator. The gradients of
the tensors behind the right-hand side leave a pull as its shares; the backward pass opens
:meth:`Evaluator.gradients`, hands it the shares of each step, and asks it for the sums.

A step is made of these, here. An evaluator that can do one as a whole overrides
:meth:`Evaluator.step` and :meth:`Evaluator.pull_step`; one that can do whole ways overrides
:meth:`Evaluator.solve` and :meth:`Evaluator.pull_solve`.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from flows import shares
from flows.continuous.ode.settings import Settings
from flows.continuous.ode.tableaus import Coefficients

if TYPE_CHECKING:
    from flows.continuous.ode.forward import Tape

__all__ = ["Evaluator", "Gradients", "Problem", "Shares", "Step", "mean_square"]

Shares = list[Tensor | None]
"""What one pull contributes to the gradients, in whatever parts the evaluator's sums take."""


@dataclass(frozen=True)
class Problem:
    """How to solve, and where what is in the flat state ``y``: ``z``, then the integrals.

    Attributes:
        settings: how to solve.
        coefficients: of the method.
        shape: of ``z``.
        integrals: how many follow, one number a row of ``z`` each.
    """

    settings: Settings
    coefficients: Coefficients
    shape: tuple[int, ...]
    integrals: int

    @property
    def z_size(self) -> int:
        """Numbers of ``z``."""
        return math.prod(self.shape)

    @property
    def controlled_size(self) -> int:
        """Numbers that the error control looks at: those of ``z`` and the first integral."""
        return self.z_size + min(self.integrals, 1) * self.shape[0]

    @property
    def size(self) -> int:
        """Numbers of ``y``."""
        return self.z_size + self.integrals * self.shape[0]


class Step(NamedTuple):
    """What an attempted step gives.

    Attributes:
        y: the solution after the step, flat.
        square: mean square of the error over its tolerance, shape ``()``; 0 where the method has
            no estimate.
        rate: ``dy/dt`` at each stage, shape ``(stages, size)``. What a stage leaves out is 0: it
            is still multiplied by its weight of zero, and NaN would come through.
    """

    y: Tensor
    square: Tensor
    rate: Tensor


class Gradients(Protocol):
    """The sums of one backward pass."""

    def add(self, times: Tensor, shares: Sequence[Shares]) -> None:
        """Add the shares of the pulls at so many times, shape ``(s,)``."""

    def totals(self) -> list[Tensor | None]:
        """The gradients, one for each of the evaluator's tensors."""


class Evaluator(abc.ABC):
    """The right-hand side of one solve, and how to differentiate it.

    Attributes:
        tensors: what it depends on and whose gradient may be asked for.
        integrals: m, how many integrals go along. The error control looks at the first.
        compiles: whether torch.compile makes one graph of a step.
        structure: equal for evaluators that differ in their :meth:`inputs` alone, so that what is
            recorded over one's serves another; None where that cannot be promised.
    """

    tensors: Sequence[Tensor]
    integrals: int
    compiles: bool = False
    structure: Hashable = None

    @abc.abstractmethod
    def room(self, z: Tensor) -> int:
        """How many numbers may be kept to spare memory later: about what an evaluation takes."""

    @abc.abstractmethod
    def moments(self, times: Tensor) -> Sequence[Any]:
        """What depends on time alone, for each of the times, shape ``(s,)``."""

    @abc.abstractmethod
    def rates(self, moment: Any, z: Tensor, *, integrands: bool) -> tuple[Tensor, Tensor | None]:
        """dz/dt, shape of ``z``, and dq/dt, ``(m, n)``, or None if not asked for."""

    @abc.abstractmethod
    def pull(
        self, moment: Any, z: Tensor, f_bar: Tensor, q_bar: Tensor | None
    ) -> tuple[Tensor, Shares]:
        """From the gradients by dz/dt and dq/dt to that by ``z``, and this pull's shares.

        Args:
            moment: one of :meth:`moments`.
            z: the state, shape ``(n, ...)``.
            f_bar: the gradient by dz/dt, shape of ``z``.
            q_bar: the gradient by dq/dt, shape ``(m, n)``; None where the integrands have none.
        """

    @abc.abstractmethod
    def gradients(self) -> Gradients:
        """Empty sums for one backward pass."""

    # -- the same over other tensors ----------------------------------------------------------

    def inputs(self) -> list[Tensor]:
        """All tensors that it reads beside times and states: ``tensors``, then what is constant."""
        return list(self.tensors)

    def over(self, inputs: Sequence[Tensor]) -> Self:
        """The same evaluator reading others, of the shapes of its own; see :attr:`structure`."""
        raise NotImplementedError

    # -- what is made of evaluations ----------------------------------------------------------

    def solve(
        self,
        problem: Problem,
        z: Tensor,
        start: float,
        end: float,
        first_step: float | None,
        tape: Tape | None,
    ) -> Tensor | None:
        """A whole way, by the same control, reported to the meter.

        Args and errors are those of :func:`flows.continuous.ode.forward.forward`. What it needs for
        the way back it leaves in ``tape.whole``.

        Returns:
            The solution at the end, flat; None to have it made step by step.
        """
        return None

    def pull_solve(
        self, problem: Problem, tape: Tape, z_bar: Tensor, q_bar: Tensor | None
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The gradient of what :meth:`solve` left, reported to the meter.

        Args:
            problem: how to solve, and the state's layout.
            tape: of the way.
            z_bar: gradient by the solution, shape ``(n, ...)``.
            q_bar: gradient by the integrals, ``(m, n)``; None without.

        Returns:
            The gradients by the initial state and by each of the evaluator's tensors.
        """
        raise NotImplementedError

    def step(
        self,
        problem: Problem,
        moments: Sequence[Any],
        y: Tensor,
        first_rate: Tensor | None,
        dt: Tensor,
    ) -> Step:
        """Attempt a step.

        Args:
            problem: how to solve, and the state's layout.
            moments: at the times that the step evaluates, see :attr:`Tableau.evaluated`.
            y: where the step begins, flat.
            first_rate: ``dy/dt`` there, which an adaptive method does not evaluate again.
            dt: size, shape ``()``; negative where time runs backward.
        """
        tableau, end = problem.settings.tableau, problem.z_size
        weights = problem.coefficients.stages * dt
        asked = [counts and problem.integrals > 0 for counts in tableau.counts]
        last = len(tableau.times) - 1
        rate = y.new_zeros(last + 1, problem.size)
        if first_rate is not None:
            rate[0] = first_rate
        y1 = y
        for moment, stage in zip(moments, range(int(tableau.adaptive), last + 1), strict=True):
            if stage == last and tableau.adaptive:
                y1 = torch.addmv(y, rate[:last].t(), weights[last, :last])
                point = y1[:end]
            elif stage == 0:
                point = y[:end]
            else:
                point = torch.addmv(y[:end], rate[:stage, :end].t(), weights[stage, :stage])
            f, q = self.rates(moment, point.view(problem.shape), integrands=asked[stage])
            rate[stage, :end] = f.reshape(-1)
            if q is not None:
                rate[stage, end:] = q.reshape(-1)
        if not tableau.adaptive:
            y1 = torch.addmv(y, rate.t(), problem.coefficients.solution * dt)
            return Step(y1, y.new_zeros(()), rate)
        end = problem.controlled_size
        error = torch.mv(rate[:, :end].t(), problem.coefficients.error * dt)
        settings = problem.settings
        scale = torch.maximum(y[:end].abs(), y1[:end].abs()).mul_(settings.rtol)
        return Step(y1, mean_square(error.div_(scale.add_(settings.atol)), problem), rate)

    def pull_step(
        self,
        problem: Problem,
        moments: Sequence[Any],
        dt: Tensor,
        z: Tensor,
        velocities: Tensor | None,
        z_bar: Tensor,
        q_bar: Tensor | None,
    ) -> tuple[Tensor, list[Shares]]:
        """Gradient of one step: from that by its solution to that by its starting point.

        Args:
            problem: how to solve, and the state's layout.
            moments: at the times of the stages that the solution depends on.
            dt: size, shape ``()``.
            z: where the step began, flat.
            velocities: dz/dt at the stages but the last of these, one flat row each; None where
                they were not kept.
            z_bar: gradient by the solution, flat.
            q_bar: gradient by the integrals, ``(m, n)``; None without.

        Returns:
            The gradient by ``z``, flat, and the shares of each stage's pull.
        """
        tableau, shape = problem.settings.tableau, problem.shape
        used = tableau.used
        weights = problem.coefficients.stages * dt

        def point(stage: int) -> Tensor:
            if stage == 0:
                return z.view(shape)
            return torch.addmv(z, rate[:stage].t(), weights[stage, :stage]).view(shape)

        # With the velocities at hand a stage is evaluated, with its graph, when its turn comes, and
        # one at a time is in memory. Where they were not kept they come first, without graphs.
        if velocities is None:
            rate = z.new_empty(used - 1, z.numel())
            for stage in range(used - 1):
                f, _ = self.rates(moments[stage], point(stage), integrands=False)
                rate[stage] = f.reshape(-1)
        else:
            rate = velocities
        bars = z.new_empty(used, z.numel())
        shares: list[Shares] = [[]] * used
        scaled = problem.coefficients.solution * dt
        for stage in reversed(range(used)):
            f_bar = torch.mul(z_bar, scaled[stage])
            if stage + 1 < used:
                f_bar.addmv_(bars[stage + 1 :].t(), weights[stage + 1 : used, stage])
            stage_q_bar = None
            if q_bar is not None and tableau.solution[stage] != 0:
                stage_q_bar = q_bar * scaled[stage]
            bar, shares[stage] = self.pull(
                moments[stage], point(stage), f_bar.view(shape), stage_q_bar
            )
            bars[stage] = bar.reshape(-1)
        return z_bar + bars.sum(0), shares


def mean_square(scaled: Tensor, problem: Problem) -> Tensor:
    """The larger of the state's and the integrals' mean square; overwrites its argument."""
    square = scaled.square_()
    state = shares.mean(square[: problem.z_size].mean())
    if problem.integrals:
        state = torch.maximum(state, shares.mean(square[problem.z_size :].mean()))
    return state
