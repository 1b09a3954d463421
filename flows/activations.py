"""Element-wise nonlinearities: one table of values, slopes and curvatures.

Whoever differentiates by hand (:mod:`flows.dense` once, :mod:`flows.continuous.ode.dense` twice)
finds the rules here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["NONLINEARITIES", "Activation", "Nonlinearity", "activation", "pure_activation"]

Activation = Literal["relu", "tanh", "elu", "silu", "softplus"]
"""Names of the nonlinearities that a conditioner's config may ask for."""


@dataclass(frozen=True)
class Nonlinearity:
    """An element-wise function a of an argument p, and its first two derivatives.

    What may be overwritten is: to write to memory that is fresh from the system costs several
    times as much as the functions themselves.

    Attributes:
        pure: ``a(p)``, which autograd follows; ``p`` stays what it is.
        in_place: the same; where ``keeps_result`` it overwrites ``p``.
        value: ``a(p)`` where no autograd follows; where ``keeps_result`` it may overwrite ``p``.
        pull_back: from a gradient, which it overwrites, and ``a(p)`` or ``p``, as ``keeps_result``
            says, to ``a'(p)`` times the gradient.
        slope: from ``a(p)`` and ``p``, of which it takes one as ``keeps_result`` says, to
            ``a'(p)``.
        fold: from ``x_bar, t, a(p), a'(p), p`` to ``a'(p) x_bar + a''(p) t``; may overwrite ``t``.
        keeps_result: whether the slope follows from the result, or from the argument.
        folds_argument: whether ``fold`` takes ``p``, which otherwise is None.
    """

    pure: Callable[[Tensor], Tensor]
    in_place: Callable[[Tensor], Tensor]
    value: Callable[[Tensor], Tensor]
    pull_back: Callable[[Tensor, Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    fold: Callable[[Tensor, Tensor, Tensor, Tensor, Any], Tensor]
    keeps_result: bool
    folds_argument: bool = False


_aten = torch.ops.aten


def _tanh(p: Tensor) -> Tensor:
    if p.dtype == torch.float32 and p.device.type == "cpu":
        # torch's vectorised tanh takes eight times as long as its sigmoid. This form is off by
        # at most 1.8e-7 where tanh itself is off by 3e-8, next to sums of weights of that size
        # times the number of inputs.
        return torch.sigmoid(p.mul_(2)).mul_(2).sub_(1)
    return torch.tanh(p)


def _elu_in_place(p: Tensor) -> Tensor:
    return functional.elu(p, inplace=True)


def _silu_slope(a: Tensor, p: Tensor) -> Tensor:
    gate = torch.sigmoid(p)
    return torch.addcmul(gate, a, 1 - gate)


def _silu_fold(x_bar: Tensor, t: Tensor, a: Tensor, s: Tensor, p: Tensor) -> Tensor:
    gate = torch.sigmoid(p)
    curvature = gate * (1 - gate) * (2 + p * (1 - 2 * gate))
    return torch.addcmul(s * x_bar, curvature, t)


_SILU = Nonlinearity(
    pure=functional.silu,
    in_place=functional.silu,
    value=functional.silu,
    pull_back=lambda grad, p: _aten.silu_backward(grad, p, grad_input=grad),
    slope=_silu_slope,
    fold=_silu_fold,
    keeps_result=False,
    folds_argument=True,
)

NONLINEARITIES: dict[str, Nonlinearity] = {
    "relu": Nonlinearity(
        pure=torch.relu,
        in_place=torch.relu_,
        value=torch.relu_,
        pull_back=lambda grad, a: _aten.threshold_backward(grad, a, 0, grad_input=grad),
        slope=lambda a, p: (a > 0).to(a.dtype),
        fold=lambda x_bar, t, a, s, p: s * x_bar,
        keeps_result=True,
    ),
    "tanh": Nonlinearity(
        pure=torch.tanh,
        in_place=torch.tanh_,
        value=_tanh,
        pull_back=lambda grad, a: _aten.tanh_backward(grad, a, grad_input=grad),
        slope=lambda a, p: torch.addcmul(a.new_ones(()), a, a, value=-1),
        fold=lambda x_bar, t, a, s, p: torch.addcmul(x_bar, a, t, value=-2).mul_(s),
        keeps_result=True,
    ),
    "elu": Nonlinearity(
        pure=functional.elu,
        in_place=_elu_in_place,
        value=_elu_in_place,
        pull_back=lambda grad, a: _aten.elu_backward(grad, 1.0, 1, 1, True, a, grad_input=grad),
        slope=lambda a, p: a.clamp(max=0).add_(1),
        fold=lambda x_bar, t, a, s, p: t.mul_(a < 0).add_(x_bar).mul_(s),
        keeps_result=True,
    ),
    "softplus": Nonlinearity(
        pure=functional.softplus,
        in_place=functional.softplus,
        value=functional.softplus,
        pull_back=lambda grad, p: _aten.softplus_backward(grad, p, 1, 20, grad_input=grad),
        slope=lambda a, p: torch.sigmoid(p),
        fold=lambda x_bar, t, a, s, p: t.addcmul_(s, t, value=-1).add_(x_bar).mul_(s),
        keeps_result=False,
    ),
    "silu": _SILU,
    # As FFJORD's official code calls it.
    "swish": _SILU,
    "square": Nonlinearity(
        pure=torch.square,
        in_place=torch.square,
        value=torch.square,
        pull_back=lambda grad, p: grad.mul_(p).mul_(2),
        slope=lambda a, p: 2 * p,
        fold=lambda x_bar, t, a, s, p: (s * x_bar).add_(t, alpha=2),
        keeps_result=False,
    ),
}
"""All nonlinearities by name."""


def activation(name: Activation) -> Callable[[Tensor], Tensor]:
    """The nonlinearity of a name as a function that may overwrite its argument."""
    return NONLINEARITIES[name].in_place


def pure_activation(name: Activation) -> Callable[[Tensor], Tensor]:
    """The nonlinearity of a name as a function whose argument stays what it is."""
    return NONLINEARITIES[name].pure
