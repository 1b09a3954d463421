"""The dynamics' nonlinearities with their first two derivatives, for panels.

All but the square are made of one exponential, written as a polynomial, so that loops over them
become vector instructions; a library's functions would be called number by number.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from flows.continuous.kernels.compiled import compiled

__all__ = ["ACTIVATIONS", "activate", "sigmoid", "tanh"]

ACTIVATIONS = ("tanh", "softplus", "elu", "swish", "square")
"""Names in the order of the numbers that the kernels know them by."""

Array = NDArray[Any]

_TANH, _SOFTPLUS, _ELU, _SWISH, _SQUARE = range(5)

# exp(x) = 2^n exp(r) with r between +-log(2) / 2; n log(2) is taken off in two parts, the first
# with so few digits that n times it is exact. The series of exp(r) ends where its rest is below
# half of an ulp.
_F = tuple(np.float32(1 / math.factorial(k)) for k in range(8))
_D = tuple(1 / math.factorial(k) for k in range(14))
_F_LOG2_HIGH, _F_LOG2_LOW = np.float32(0.693359375), np.float32(math.log(2) - 0.693359375)
_D_LOG2_HIGH, _D_LOG2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10
# Beyond these the result is the largest or smallest that there is.
_F_LEAST, _F_MOST, _D_LEAST, _D_MOST = np.float32(-87), np.float32(88), -708.0, 709.0
_F_HALF, _F_PER_LOG2, _D_PER_LOG2 = np.float32(0.5), np.float32(1 / math.log(2)), 1 / math.log(2)


@compiled
def _exp_single(x: Any) -> Any:
    # Comparisons as they stand let NaN through.
    x = _F_LEAST if x < _F_LEAST else x
    x = _F_MOST if x > _F_MOST else x
    n = np.floor(x * _F_PER_LOG2 + _F_HALF)
    r = (x - n * _F_LOG2_HIGH) - n * _F_LOG2_LOW
    y = _F[7] * r + _F[6]
    y = ((y * r + _F[5]) * r + _F[4]) * r + _F[3]
    y = ((y * r + _F[2]) * r + _F[1]) * r + _F[0]
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23))
    return y * power.view(np.float32)


@compiled
def _exp_double(x: Any) -> Any:
    x = _D_LEAST if x < _D_LEAST else x
    x = _D_MOST if x > _D_MOST else x
    n = np.floor(x * _D_PER_LOG2 + 0.5)
    r = (x - n * _D_LOG2_HIGH) - n * _D_LOG2_LOW
    y = ((_D[13] * r + _D[12]) * r + _D[11]) * r + _D[10]
    y = ((y * r + _D[9]) * r + _D[8]) * r + _D[7]
    y = ((y * r + _D[6]) * r + _D[5]) * r + _D[4]
    y = (((y * r + _D[3]) * r + _D[2]) * r + _D[1]) * r + _D[0]
    power = np.int64((np.int64(n) + 1023) << 52)
    return y * power.view(np.float64)


# log(1 + y) = 2 artanh(s) with s = y / (2 + y), of which the series goes by s^2 / (2 k + 1).
_FL = tuple(np.float32(2 / (2 * k + 1)) for k in range(8))
_DL = tuple(2 / (2 * k + 1) for k in range(17))
_F_TWO = np.float32(2)


@compiled
def _log1p_single(y: Any) -> Any:
    s = y / (_F_TWO + y)
    q = s * s
    t = ((_FL[7] * q + _FL[6]) * q + _FL[5]) * q + _FL[4]
    t = (((t * q + _FL[3]) * q + _FL[2]) * q + _FL[1]) * q + _FL[0]
    return t * s


@compiled
def _log1p_double(y: Any) -> Any:
    s = y / (2.0 + y)
    q = s * s
    t = (((_DL[16] * q + _DL[15]) * q + _DL[14]) * q + _DL[13]) * q + _DL[12]
    t = (((t * q + _DL[11]) * q + _DL[10]) * q + _DL[9]) * q + _DL[8]
    t = (((t * q + _DL[7]) * q + _DL[6]) * q + _DL[5]) * q + _DL[4]
    t = (((t * q + _DL[3]) * q + _DL[2]) * q + _DL[1]) * q + _DL[0]
    return t * s


def _exp(x: Any) -> Any:
    """The exponential, to about an ulp."""
    raise NotImplementedError


def _log1p(y: Any) -> Any:
    """The logarithm of 1 + y, for y between 0 and 1."""
    raise NotImplementedError


@overload(_exp)
def _(x):  # type: ignore[no-untyped-def]
    return (lambda x: _exp_single(x)) if x == types.float32 else (lambda x: _exp_double(x))


@overload(_log1p)
def _(y):  # type: ignore[no-untyped-def]
    return (lambda y: _log1p_single(y)) if y == types.float32 else (lambda y: _log1p_double(y))


@compiled
def sigmoid(x: Any) -> Any:
    """The logistic function."""
    one = type(x)(1)
    return one / (one + _exp(-x))


@compiled
def tanh(x: Any) -> Any:
    """The hyperbolic tangent, to about an ulp of 1."""
    one, two = type(x)(1), type(x)(2)
    return one - two / (_exp(two * x) + one)


@compiled
def activate(
    kind: int, values: Array, slopes: Array, curves: Array, count: int, curved: bool
) -> None:
    """Apply the nonlinearity a number ``kind`` of :data:`ACTIVATIONS` stands for.

    Args:
        kind: which.
        values: flat; p, which becomes a(p).
        slopes: flat, gets a'(p).
        curves: flat, gets a''(p) if ``curved``.
        count: how many numbers.
        curved: see there.
    """
    number = values.dtype.type
    nought, one, two = number(0), number(1), number(2)
    if kind == _TANH:
        for i in range(count):
            a = tanh(values[i])
            values[i] = a
            slopes[i] = one - a * a
    elif kind == _SOFTPLUS:
        for i in range(count):
            p = values[i]
            e = _exp(-abs(p))
            # Beyond 20 the value is taken for p, as torch does.
            a = p if p > number(20) else (p if p > nought else nought) + _log1p(e)
            values[i] = a if p == p else p
            gate = one / (one + e)
            slopes[i] = gate if p > nought else e * gate
    elif kind == _ELU:
        for i in range(count):
            p = values[i]
            e = _exp(p)
            values[i] = p if p > nought else e - one
            slopes[i] = one if p > nought else e
            if curved:
                curves[i] = e if p < nought else nought
    elif kind == _SWISH:
        for i in range(count):
            p = values[i]
            gate = sigmoid(p)
            values[i] = p * gate
            slopes[i] = gate + p * gate * (one - gate)
            if curved:
                curves[i] = gate * (one - gate) * (two + p * (one - two * gate))
    else:
        for i in range(count):
            p = values[i]
            values[i] = p * p
            slopes[i] = two * p
            if curved:
                curves[i] = two
    if curved and kind == _TANH:
        for i in range(count):
            curves[i] = -two * values[i] * slopes[i]
    if curved and kind == _SOFTPLUS:
        for i in range(count):
            curves[i] = slopes[i] * (one - slopes[i])
