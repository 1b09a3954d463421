"""Element-wise nonlinearities: one table of values, slopes and curvatures.

Whoever differentiates by hand (:mod:`flows.dense` once, :mod:`flows.continuous.ode.dense` twice)
finds the rules here. What may be overwritten is: to write to memory that is fresh from the system
costs several times as much as the functions themselves.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["NONLINEARITIES", "Activation", "Nonlinearity", "activation", "pure_activation"]

Activation = Literal["relu", "tanh", "elu", "silu", "softplus"]
"""Names of the nonlinearities that a conditioner's config may ask for."""

_aten = torch.ops.aten


class Nonlinearity(abc.ABC):
    """An element-wise function a of an argument p, and its first two derivatives.

    Attributes:
        keeps_result: whether :meth:`pull_back` takes ``a(p)``, or ``p``.
        keeps_argument: whether :meth:`fold` needs ``p``.
    """

    keeps_result = True
    keeps_argument = False

    @abc.abstractmethod
    def pure(self, p: Tensor) -> Tensor:
        """``a(p)``; autograd follows, and ``p`` stays what it is."""

    def in_place(self, p: Tensor) -> Tensor:
        """``a(p)``; autograd follows, and ``p`` may be overwritten."""
        return self.pure(p)

    @abc.abstractmethod
    def pull_back(self, grad: Tensor, kept: Tensor) -> Tensor:
        """``a'(p) grad``, which overwrites ``grad``."""

    def value(self, p: Tensor) -> Tensor:
        """``a(p)``, of which autograd knows nothing; ``p`` may be overwritten."""
        return self.in_place(p)

    @abc.abstractmethod
    def with_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """``a(p)`` and ``a'(p)``, likewise; ``p`` stays only where :attr:`keeps_argument`."""

    @abc.abstractmethod
    def fold(self, x_bar: Tensor, t: Tensor, a: Tensor, s: Tensor, p: Tensor | None) -> Tensor:
        """``a'(p) x_bar + a''(p) t``, which may overwrite ``t``.

        Args:
            x_bar: shape of ``p``; stays what it is, like what follows.
            t: likewise.
            a: ``a(p)``.
            s: ``a'(p)``.
            p: the argument where :attr:`keeps_argument`, else None.
        """


class _Relu(Nonlinearity):
    def pure(self, p: Tensor) -> Tensor:
        return torch.relu(p)

    def in_place(self, p: Tensor) -> Tensor:
        return torch.relu_(p)

    def pull_back(self, grad: Tensor, kept: Tensor) -> Tensor:
        _aten.threshold_backward(grad, kept, 0, grad_input=grad)
        return grad

    def with_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        return torch.relu(p), (p > 0).to(p.dtype)

    def fold(self, x_bar: Tensor, t: Tensor, a: Tensor, s: Tensor, p: Tensor | None) -> Tensor:
        return s * x_bar


class _Tanh(Nonlinearity):
    def pure(self, p: Tensor) -> Tensor:
        return torch.tanh(p)

    def in_place(self, p: Tensor) -> Tensor:
        return torch.tanh_(p)

    def pull_back(self, grad: Tensor, kept: Tensor) -> Tensor:
        _aten.tanh_backward(grad, kept, grad_input=grad)
        return grad

    def value(self, p: Tensor) -> Tensor:
        if p.dtype == torch.float32 and p.device.type == "cpu":
            # torch's vectorised tanh takes eight times as long as its sigmoid. This form is off by
            # at most 1.8e-7 where tanh itself is off by 3e-8, next to sums of weights of that
            # size times the number of inputs.
            return torch.sigmoid(p.mul_(2)).mul_(2).sub_(1)
        return torch.tanh(p)

    def with_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        a = self.value(p)
        return a, torch.addcmul(torch.ones((), dtype=a.dtype, device=a.device), a, a, value=-1)

    def fold(self, x_bar: Tensor, t: Tensor, a: Tensor, s: Tensor, p: Tensor | None) -> Tensor:
        return torch.addcmul(x_bar, a, t, value=-2).mul_(s)


class _Elu(Nonlinearity):
    def pure(self, p: Tensor) -> Tensor:
        return functional.elu(p)

    def in_place(self, p: Tensor) -> Tensor:
        return functional.elu(p, inplace=True)

    def pull_back(self, grad: Tensor, kept: Tensor) -> Tensor:
        _aten.elu_backward(grad, 1.0, 1, 1, True, kept, grad_input=grad)
        return grad

    def with_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        a = self.value(p)
        return a, a.clamp(max=0).add_(1)

    def fold(self, x_bar: Tensor, t: Tensor, a: Tensor, s: Tensor, p: Tensor | None) -> Tensor:
        return t.mul_(a < 0).add_(x_bar).mul_(s)


class _Softplus(Nonlinearity):
    keeps_result = False

    def pure(self, p: Tensor) -> Tensor:
        return functional.softplus(p)

    def pull_back(self, grad: Tensor, kept: Tensor) -> Tensor:
        _aten.softplus_backward(grad, kept, 1, 20, grad_input=grad)
        return grad

    def with_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        return functional.softplus(p), torch.sigmoid(p)

    def fold(self, x_bar: Tensor, t: Tensor, a: Tensor, s: Tensor, p: Tensor | None) -> Tensor:
        return t.addcmul_(s, t, value=-1).add_(x_bar).mul_(s)


class _Silu(Nonlinearity):
    keeps_result = False
    keeps_argument = True

    def pure(self, p: Tensor) -> Tensor:
        return functional.silu(p)

    def pull_back(self, grad: Tensor, kept: Tensor) -> Tensor:
        _aten.silu_backward(grad, kept, grad_input=grad)
        return grad

    def with_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        gate = torch.sigmoid(p)
        a = p * gate
        return a, torch.addcmul(gate, a, 1 - gate)

    def fold(self, x_bar: Tensor, t: Tensor, a: Tensor, s: Tensor, p: Tensor | None) -> Tensor:
        assert p is not None
        gate = torch.sigmoid(p)
        curvature = gate * (1 - gate) * (2 + p * (1 - 2 * gate))
        return torch.addcmul(s * x_bar, curvature, t)


class _Square(Nonlinearity):
    keeps_result = False

    def pure(self, p: Tensor) -> Tensor:
        return torch.square(p)

    def pull_back(self, grad: Tensor, kept: Tensor) -> Tensor:
        return grad.mul_(kept).mul_(2)

    def with_slope(self, p: Tensor) -> tuple[Tensor, Tensor]:
        return p * p, 2 * p

    def fold(self, x_bar: Tensor, t: Tensor, a: Tensor, s: Tensor, p: Tensor | None) -> Tensor:
        return (s * x_bar).add_(t, alpha=2)


NONLINEARITIES: dict[str, Nonlinearity] = {
    "relu": _Relu(),
    "tanh": _Tanh(),
    "elu": _Elu(),
    "silu": _Silu(),
    # As FFJORD's official code calls it.
    "swish": _Silu(),
    "softplus": _Softplus(),
    "square": _Square(),
}
"""All nonlinearities by name."""


def activation(name: Activation) -> Callable[[Tensor], Tensor]:
    """The nonlinearity of a name as a function that may overwrite its argument."""
    return NONLINEARITIES[name].in_place


def pure_activation(name: Activation) -> Callable[[Tensor], Tensor]:
    """The nonlinearity of a name as a function whose argument stays what it is."""
    return NONLINEARITIES[name].pure
