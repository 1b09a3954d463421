"""What both kernels are made of: a layer, its nonlinearity, and states and rates in memory."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["ACTIVATIONS", "activated", "combined", "weights_of"]

ACTIVATIONS = ("tanh", "softplus", "elu", "swish", "square")
"""Names in the order of the numbers that the kernels know them by."""


@triton.jit
def activated(p, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    """a(p), a'(p) and a''(p)."""
    if ACTIVATION == 0:
        a = 2 * tl.sigmoid(2 * p) - 1
        s = 1 - a * a
        c = -2 * a * s
    elif ACTIVATION == 1:
        # Beyond 20 the value is taken for p, as torch does.
        a = tl.where(p > 20, p, tl.maximum(p, 0.0) + tl.log(1 + tl.exp(-tl.abs(p))))
        s = tl.sigmoid(p)
        c = s * (1 - s)
    elif ACTIVATION == 2:
        e = tl.exp(tl.minimum(p, 0.0))
        a = tl.where(p > 0, p, e - 1)
        s = tl.where(p > 0, 1.0, e)
        c = tl.where(p < 0, e, 0.0)
    elif ACTIVATION == 3:
        gate = tl.sigmoid(p)
        a = p * gate
        s = gate + a * (1 - gate)
        c = gate * (1 - gate) * (2 + p * (1 - 2 * gate))
    else:
        a = p * p
        s = 2 * p
        c = 0 * p + 2
    return a, s, c


@triton.jit
def weights_of(made, table, layer, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """A layer's weight, turned around, and shift; 0 beyond its own."""
    row = table + 4 * layer
    weight, shift = tl.load(row), tl.load(row + 1)
    inputs, outputs = tl.load(row + 2), tl.load(row + 3)
    i, o = tl.arange(0, INPUTS)[:, None], tl.arange(0, OUTPUTS)[None, :]
    there = (i < inputs) & (o < outputs)
    turned = tl.load(made + weight + o * inputs + i, mask=there, other=0.0)
    return turned, tl.load(made + shift + o, mask=o < outputs, other=0.0)


@triton.jit
def combined(begin, rates, factors, dt, count, size, places, there):  # type: ignore[no-untyped-def]
    """What is at these places of the state, and so many rates, each by its factor times dt."""
    total = tl.load(begin + places, mask=there, other=0.0)
    for stage in range(count):
        factor = tl.load(factors + stage) * dt
        total += factor * tl.load(rates + stage * size + places, mask=there, other=0.0)
    return total
