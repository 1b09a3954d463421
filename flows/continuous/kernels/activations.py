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

from flows.continuous.kernels.compiled import compiled, in_order, whole_vectors

__all__ = ["ACTIVATIONS", "activate", "sigmoid", "tanh"]

ACTIVATIONS = ("tanh", "softplus", "elu", "swish", "square")
"""Names in the order of the numbers that the kernels know them by."""

Array = NDArray[Any]

_TANH, _SOFTPLUS, _ELU, _SWISH, _SQUARE = range(5)

# exp(x) = 2^n 2^f with n + f = x / log(2) and f between +-1/2. The series of 2^f ends where its
# rest is below half of an ulp. A number to which _ROUNDING is added has n, and what 2^n has for an
# exponent, as its last digits.
_F = tuple(np.float32(math.log(2) ** k / math.factorial(k)) for k in range(8))
_D = tuple(math.log(2) ** k / math.factorial(k) for k in range(14))
_F_PER_LOG2, _D_PER_LOG2 = np.float32(1 / math.log(2)), 1 / math.log(2)
_F_ROUNDING, _D_ROUNDING = np.float32(1.5 * 2**23 + 127), 1.5 * 2**52 + 1023
# Beyond these the result is the smallest that there is, or one whose square there is.
_F_LEAST, _F_MOST, _D_LEAST, _D_MOST = np.float32(-87), np.float32(43), -708.0, 354.0


@in_order
def _exp_single(x: Any) -> Any:
    # Comparisons as they stand let NaN through.
    x = _F_LEAST if x < _F_LEAST else x
    x = (_F_MOST if x > _F_MOST else x) * _F_PER_LOG2
    rounded = np.float32(x + _F_ROUNDING)
    f = x - (rounded - _F_ROUNDING)
    y = _F[7] * f + _F[6]
    y = ((y * f + _F[5]) * f + _F[4]) * f + _F[3]
    y = ((y * f + _F[2]) * f + _F[1]) * f + _F[0]
    power = np.int32(rounded.view(np.int32) << np.int32(23))
    return y * power.view(np.float32)


@in_order
def _exp_double(x: Any) -> Any:
    x = _D_LEAST if x < _D_LEAST else x
    x = (_D_MOST if x > _D_MOST else x) * _D_PER_LOG2
    rounded = np.float64(x + _D_ROUNDING)
    f = x - (rounded - _D_ROUNDING)
    y = ((_D[13] * f + _D[12]) * f + _D[11]) * f + _D[10]
    y = ((y * f + _D[9]) * f + _D[8]) * f + _D[7]
    y = ((y * f + _D[6]) * f + _D[5]) * f + _D[4]
    y = (((y * f + _D[3]) * f + _D[2]) * f + _D[1]) * f + _D[0]
    power = np.int64(rounded.view(np.int64) << np.int64(52))
    return y * power.view(np.float64)


# log(1 + e) = 2 artanh(s) with s = e / (2 + e), of which the series goes by s^2 / (2 k + 1).
_FL = tuple(np.float32(2 / (2 * k + 1)) for k in range(8))
_DL = tuple(2 / (2 * k + 1) for k in range(17))


@compiled
def _twice_artanh_single(s: Any) -> Any:
    q = s * s
    t = ((_FL[7] * q + _FL[6]) * q + _FL[5]) * q + _FL[4]
    t = (((t * q + _FL[3]) * q + _FL[2]) * q + _FL[1]) * q + _FL[0]
    return t * s


@compiled
def _twice_artanh_double(s: Any) -> Any:
    q = s * s
    t = (((_DL[16] * q + _DL[15]) * q + _DL[14]) * q + _DL[13]) * q + _DL[12]
    t = (((t * q + _DL[11]) * q + _DL[10]) * q + _DL[9]) * q + _DL[8]
    t = (((t * q + _DL[7]) * q + _DL[6]) * q + _DL[5]) * q + _DL[4]
    t = (((t * q + _DL[3]) * q + _DL[2]) * q + _DL[1]) * q + _DL[0]
    return t * s


def _exp(x: Any) -> Any:
    """The exponential, to about an ulp, and where it is large or small to ``|x|`` ulp."""
    raise NotImplementedError


def _twice_artanh(s: Any) -> Any:
    """The logarithm of (1 + s) / (1 - s), for s between 0 and 1/3."""
    raise NotImplementedError


@overload(_exp)
def _(x):  # type: ignore[no-untyped-def]
    return (lambda x: _exp_single(x)) if x == types.float32 else (lambda x: _exp_double(x))


@overload(_twice_artanh)
def _(s):  # type: ignore[no-untyped-def]
    if s == types.float32:
        return lambda s: _twice_artanh_single(s)
    return lambda s: _twice_artanh_double(s)


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
        count: how many numbers, an even one.
        curved: see there.
    """
    whole_vectors()
    number = values.dtype.type
    nought, one, two = number(0), number(1), number(2)
    if kind == _TANH:
        # Two share a division, which takes a third as long as all the rest.
        half = count // 2
        for i in range(half):
            c, d = _exp(two * values[i]) + one, _exp(two * values[half + i]) + one
            inverse = two / (c * d)
            a, b = one - d * inverse, one - c * inverse
            values[i], values[half + i] = a, b
            slopes[i], slopes[half + i] = one - a * a, one - b * b
    elif kind == _SOFTPLUS:
        for i in range(count):
            p = values[i]
            e = _exp(-abs(p))
            # Beyond 20 the value is taken for p, as torch does.
            # One division for the logarithm's and the gate's.
            inverse = one / ((one + e) * (two + e))
            log = _twice_artanh(e * (one + e) * inverse)
            a = p if p > number(20) else (p if p > nought else nought) + log
            values[i] = a if p == p else p
            gate = (two + e) * inverse
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
