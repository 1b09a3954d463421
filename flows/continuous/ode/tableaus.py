"""Explicit Runge-Kutta methods by their coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["TABLEAUS", "Coefficients", "Tableau", "coefficients"]


class Coefficients(NamedTuple):
    """A method's weights as tensors: A, b and the error's, which are zeros without an estimate."""

    stages: Tensor
    solution: Tensor
    error: Tensor


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method.

    Attributes:
        times: c, the stages' times as fractions of the step.
        stages: A, row i the weights of the stages before i.
        solution: b, the weights of the solution.
        error: b minus the weights of the embedded method; None for a fixed-step method. An
            adaptive method's last stage is at the solution itself, and is the first of the
            next step.
        order: of the solution.
    """

    times: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    solution: tuple[float, ...]
    error: tuple[float, ...] | None
    order: int

    @property
    def used(self) -> int:
        """How many stages the solution depends on: all but an adaptive method's last."""
        return len(self.times) - self.adaptive

    @property
    def counts(self) -> tuple[bool, ...]:
        """Whether a stage's integrand has a weight in the solution or the error."""
        error = self.error or (0.0,) * len(self.times)
        return tuple(b != 0 or e != 0 for b, e in zip(self.solution, error, strict=True))

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error."""
        return self.error is not None

    @property
    def evaluated(self) -> tuple[float, ...]:
        """The times of the stages that a step evaluates: an adaptive one is given its first."""
        return self.times[int(self.adaptive) :]


TABLEAUS = {
    # Dormand and Prince 1980, with the error weights of Shampine 1986 that torchdiffeq uses.
    "dopri5": Tableau(
        (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
        (
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0),
        (
            35 / 384 - 1951 / 21600,
            0,
            500 / 1113 - 22642 / 50085,
            125 / 192 - 451 / 720,
            -2187 / 6784 + 12231 / 42400,
            11 / 84 - 649 / 6300,
            -1 / 60,
        ),
        5,
    ),
    # Bogacki and Shampine 1989.
    "bosh3": Tableau(
        (0, 1 / 2, 3 / 4, 1),
        ((), (1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        (2 / 9, 1 / 3, 4 / 9, 0),
        (2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
        3,
    ),
    "euler": Tableau((0,), ((),), (1,), None, 1),
    "midpoint": Tableau((0, 1 / 2), ((), (1 / 2,)), (0, 1), None, 2),
    # Kutta's 3/8 rule, which torchdiffeq calls rk4.
    "rk4": Tableau(
        (0, 1 / 3, 2 / 3, 1),
        ((), (1 / 3,), (-1 / 3, 1), (1, -1, 1)),
        (1 / 8, 3 / 8, 3 / 8, 1 / 8),
        None,
        4,
    ),
}
"""The methods by torchdiffeq's names."""


@cache
def coefficients(solver: str, dtype: torch.dtype, device: torch.device) -> Coefficients:
    """A method's weights in a dtype on a device."""
    tableau = TABLEAUS[solver]
    size = len(tableau.times)
    rows = [(*row, *[0.0] * (size - len(row))) for row in tableau.stages]
    made = (rows, tableau.solution, tableau.error or [0.0] * size)
    return Coefficients(*(torch.tensor(one, dtype=torch.float64).to(device, dtype) for one in made))
