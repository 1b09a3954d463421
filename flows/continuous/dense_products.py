"""Values, Jacobian products and their gradients for dense dynamics, written out by hand.

At a given time dense dynamics are a plain multilayer perceptron (see
:mod:`flows.continuous.dynamics`). Its value, the products ``v^T J v`` of the trace and the
gradients of both are a few matrix products and element-wise steps a layer, which are written here
without autograd. Layer l has input x, pre-activation p = W x + c, slope s = a'(p), and takes a
tangent u to q = W u and on to s q. With bars for gradients::

    q_bar = s u_bar,    p_bar = s x_bar + a''(p) sum(q u_bar),    x_bar = W^T p_bar, ...

The products are by forward mode. For f = g(h(z)) with a bottleneck the tangent starts behind the
bottleneck, runs to the end, enters at the beginning, and stops at the bottleneck, which gives
``(dh/dz)(dg/dh) v``. Without one it runs from the beginning to the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.func import functional_call

from flows.continuous.dynamics import DenseDynamics, TimeAffine
from flows.dense import affine, product

__all__ = ["REGULARIZERS", "DenseEvaluator"]

REGULARIZERS = ("kinetic_energy", "jacobian_norm")
"""Regularisers that cost next to nothing here: the second is made of the trace's products ``J v``,
which a bottleneck's noise, of another width, has none of."""


class _Rule(Protocol):
    """An activation a with its first two derivatives.

    Attributes:
        keeps_input: whether :meth:`fold` needs p itself.
    """

    keeps_input: bool

    def value(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """``a(p)`` and the slope ``a'(p)``; may use the memory of ``p``."""

    def fold(self, x_bar: Tensor, t: Tensor, a: Tensor, s: Tensor, p: Tensor) -> Tensor:
        """``s x_bar + a''(p) t``; may use the memory of ``t``."""


class _Tanh:
    keeps_input = False

    def value(self, p: Tensor) -> tuple[Tensor, Tensor]:
        if p.dtype == torch.float32 and p.device.type == "cpu":
            # torch's vectorised tanh takes eight times as long as its sigmoid. This form is off by
            # at most 1.8e-7 where tanh itself is off by 3e-8, next to sums of weights of that
            # size times the number of inputs.
            a = torch.sigmoid(p.mul_(2)).mul_(2).sub_(1)
        else:
            a = torch.tanh(p)
        return a, torch.addcmul(torch.ones((), dtype=a.dtype, device=a.device), a, a, value=-1)

    def fold(self, x_bar: Tensor, t: Tensor, a: Tensor, s: Tensor, p: Tensor) -> Tensor:
        return torch.addcmul(x_bar, a, t, value=-2).mul_(s)


class _Softplus:
    keeps_input = False

    def value(self, p: Tensor) -> tuple[Tensor, Tensor]:
        return torch.nn.functional.softplus(p), torch.sigmoid(p)

    def fold(self, x_bar: Tensor, t: Tensor, a: Tensor, s: Tensor, p: Tensor) -> Tensor:
        return t.addcmul_(s, t, value=-1).add_(x_bar).mul_(s)


class _Elu:
    keeps_input = True

    def value(self, p: Tensor) -> tuple[Tensor, Tensor]:
        a = torch.nn.functional.elu(p)
        return a, a.clamp(max=0).add_(1)

    def fold(self, x_bar: Tensor, t: Tensor, a: Tensor, s: Tensor, p: Tensor) -> Tensor:
        return t.mul_(p < 0).add_(x_bar).mul_(s)


class _Swish:
    keeps_input = True

    def value(self, p: Tensor) -> tuple[Tensor, Tensor]:
        gate = torch.sigmoid(p)
        a = p * gate
        return a, torch.addcmul(gate, a, 1 - gate)

    def fold(self, x_bar: Tensor, t: Tensor, a: Tensor, s: Tensor, p: Tensor) -> Tensor:
        gate = torch.sigmoid(p)
        curvature = gate * (1 - gate) * (2 + p * (1 - 2 * gate))
        return torch.addcmul(s * x_bar, curvature, t)


class _Square:
    keeps_input = False

    def value(self, p: Tensor) -> tuple[Tensor, Tensor]:
        return p * p, 2 * p

    def fold(self, x_bar: Tensor, t: Tensor, a: Tensor, s: Tensor, p: Tensor) -> Tensor:
        return (s * x_bar).add_(t, alpha=2)


_RULES: dict[str, _Rule] = {
    "tanh": _Tanh(),
    "softplus": _Softplus(),
    "elu": _Elu(),
    "swish": _Swish(),
    "square": _Square(),
}


class _Batch:
    """The network at several times, and the gradients of its weights at each.

    Attributes:
        times: shape ``(s,)``.
        weights: of each layer, ``(s, outputs, inputs)``.
        shifts: of each layer, ``(s, outputs)``.
    """

    def __init__(self, times: Tensor, affine: Sequence[Tensor]) -> None:
        self.times = times
        self.weights = affine[0::2]
        self.shifts = affine[1::2]
        self.gradients: list[Tensor] | None = None

    def allocate(self) -> list[Tensor]:
        """Places for the gradients of weights and shifts, in that order layer by layer."""
        if self.gradients is None:
            self.gradients = [
                torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
                for pair in zip(self.weights, self.shifts, strict=True)
                for tensor in pair
            ]
        return self.gradients


@dataclass
class _Moment:
    batch: _Batch
    index: int

    def __post_init__(self) -> None:
        self.weights = [weight[self.index] for weight in self.batch.weights]
        self.shifts = [shift[self.index] for shift in self.batch.shifts]


@dataclass
class _Record:
    """What one evaluation leaves for its gradient, by layer."""

    moment: _Moment
    velocity: Tensor
    inputs: list[Tensor]
    slopes: list[Tensor]
    before: list[Tensor | None]
    tangent_inputs: dict[int, Tensor]
    tangent_outputs: dict[int, Tensor]


class DenseEvaluator:
    """The right-hand side of one solve with dense dynamics; see the module's docstring.

    Args:
        block: the dynamics.
        named: the block's parameters by name, as they were when the solve began.
        context: shape ``(n, context_features)``, or None.
        vectors: the v of the products, shape ``(m, n, width)``; None where no trace is asked for.
        narrow: whether the products are those of the bottleneck.
        weight: what the sum of the products is multiplied with: 1 / m for the mean of m probes.
        regularizers: some of :data:`REGULARIZERS`, whose integrals go along, after the trace.
    """

    compiles = True

    # Gradients by weights at single times wait until they take this many numbers.
    WAITING = 1 << 15

    def __init__(
        self,
        block: DenseDynamics,
        named: dict[str, Tensor],
        context: Tensor | None,
        vectors: Tensor | None,
        *,
        narrow: bool = False,
        weight: float = 1.0,
        regularizers: Sequence[str] = (),
    ) -> None:
        self.block = block
        self.regularizers = tuple(regularizers)
        self.named = named
        self.context = context
        self.context_bar: Tensor | None = None
        self.vectors = vectors
        self.weight = weight
        self.rule = _RULES[block.activation]
        self.depth = len(block.stack)
        self.width = sum(cast(TimeAffine, layer).outputs for layer in block.stack)
        self.dimension = block.dimension
        first = block.narrow_depth if narrow else 0
        self.tangent_order = [*range(first, self.depth), *range(first)]
        self.controlled = 0 if vectors is None else 1
        self.integrals = self.controlled + len(self.regularizers)
        self.tensors: Sequence[Tensor] = tuple(named.values())
        if context is not None:
            self.tensors = (*named.values(), context)
        self.waiting: list[_Batch] = []
        self.waiting_size = 0
        self.current: _Batch | None = None
        self.totals: list[Tensor | None] = [None] * len(named)

    # -- the network at given times -----------------------------------------------------------

    def _affine(self, times: Tensor) -> list[Tensor]:
        block = self.block
        if all(a is b for a, b in zip(self.named.values(), block.parameters(), strict=True)):
            return block.affine(times)
        module = _Affine(block)
        renamed = {f"block.{name}": tensor for name, tensor in self.named.items()}
        made: list[Tensor] = functional_call(module, renamed, (times,))
        return made

    def room(self, z: Tensor) -> int:
        return len(z) * self.width

    def moments(self, times: Tensor) -> list[_Moment]:
        with torch.no_grad():
            batch = _Batch(times, self._affine(times))
        self.current = batch
        return [_Moment(batch, index) for index in range(len(times))]

    # -- values and products --------------------------------------------------------------------

    def _input(self, z: Tensor) -> Tensor:
        return z if self.context is None else torch.cat([z, self.context], 1)

    def rates(self, moment: _Moment, z: Tensor, f: Tensor, q: Tensor | None) -> None:
        x = self._input(z)
        slopes = []
        last = self.depth - 1
        for layer in range(last):
            p = affine(x, moment.weights[layer], moment.shifts[layer])
            x, slope = self.rule.value(p)
            slopes.append(slope)
        f.copy_(affine(x, moment.weights[last], moment.shifts[last]))
        if self.block.residual:
            f.sub_(z)
        if q is None or self.vectors is None:
            return
        u = self.vectors
        for layer in self.tangent_order:
            u = self._tangent(moment, layer, u)
            if layer != last:
                u = u.mul_(slopes[layer])
        trace = q[0]
        torch.sum((u * self.vectors).sum(2), 0, out=trace)
        if self.weight != 1:
            trace.mul_(self.weight)
        if self.block.residual:
            trace.sub_(self.dimension)
        for place, name in enumerate(self.regularizers, 1):
            if name == "kinetic_energy":
                torch.sum(f.square(), 1, out=q[place])
            else:
                q[place] = self._image(u).square().sum((0, 2)) * self.weight

    def _image(self, u: Tensor) -> Tensor:
        """``J v`` for each of the vectors, from what the network makes of it."""
        return u - self.vectors if self.block.residual and self.vectors is not None else u

    def _tangent(self, moment: _Moment, layer: int, u: Tensor) -> Tensor:
        """``W u`` for each tangent; the context, if the layer sees it, has none."""
        weight = moment.weights[layer]
        if layer == 0:
            weight = weight[:, : self.dimension]
        return product(u.reshape(-1, u.shape[2]), weight.t()).view(*u.shape[:2], -1)

    def recorded(self, moment: _Moment, z: Tensor, f: Tensor, *, with_integrals: bool) -> _Record:
        record = _Record(moment, f, [self._input(z)], [], [], {}, {})
        x = record.inputs[0]
        last = self.depth - 1
        for layer in range(last):
            p = affine(x, moment.weights[layer], moment.shifts[layer])
            record.before.append(p if self.rule.keeps_input else None)
            x, slope = self.rule.value(p)
            record.inputs.append(x)
            record.slopes.append(slope)
        f.copy_(affine(x, moment.weights[last], moment.shifts[last]))
        if self.block.residual:
            f.sub_(z)
        if with_integrals and self.vectors is not None:
            u = self.vectors
            for layer in self.tangent_order:
                record.tangent_inputs[layer] = u
                u = self._tangent(moment, layer, u)
                record.tangent_outputs[layer] = u
                if layer != last:
                    u = u * record.slopes[layer]
        return record

    def pull(self, record: _Record, f_bar: Tensor, q_bar: Tensor | None) -> Tensor:
        moment, index = record.moment, record.moment.index
        gradients = moment.batch.allocate()
        last = self.depth - 1
        # What the tangents contribute by way of each slope: sum(q u_bar). Here as below, each
        # tensor is let go, or its memory used again, as soon as its last reader is done.
        curved: dict[int, Tensor] = {}
        reached: set[int] = set()
        if record.tangent_inputs:
            assert q_bar is not None
            assert self.vectors is not None
            u_bar = self.vectors * (q_bar[0] * self.weight).view(1, -1, 1)
            for place, name in enumerate(self.regularizers, 1):
                if name == "kinetic_energy":
                    f_bar = torch.addcmul(f_bar, record.velocity, q_bar[place, :, None], value=2)
                else:
                    image = self._image(record.tangent_outputs[last])
                    u_bar.addcmul_(image, q_bar[place, :, None], value=2 * self.weight)
            for layer in reversed(self.tangent_order):
                if layer != last:
                    weighed = record.tangent_outputs.pop(layer).mul_(u_bar)
                    curved[layer] = weighed[0] if len(weighed) == 1 else weighed.sum(0)
                    u_bar = u_bar.mul_(record.slopes[layer])
                tangent = record.tangent_inputs.pop(layer)
                width = tangent.shape[2]
                weight_bar = gradients[2 * layer][index]
                flat_bar = u_bar.reshape(-1, u_bar.shape[2])
                weight_bar[:, :width] = product(flat_bar.t(), tangent.reshape(-1, width))
                weight_bar[:, width:] = 0
                reached.add(layer)
                if layer != self.tangent_order[0]:
                    weight = moment.weights[layer]
                    if layer == 0:
                        weight = weight[:, : self.dimension]
                    u_bar = product(flat_bar, weight).view(*u_bar.shape[:2], -1)
        p_bar = x_bar = f_bar
        for layer in reversed(range(self.depth)):
            if layer != last:
                slope, before = record.slopes.pop(), record.before.pop()
                if layer in curved:
                    p_bar = self.rule.fold(
                        x_bar,
                        curved.pop(layer),
                        record.inputs[layer + 1],
                        slope,
                        slope if before is None else before,
                    )
                else:
                    p_bar = x_bar.mul_(slope)
                record.inputs.pop()
            weight_bar = gradients[2 * layer][index]
            if layer in reached:
                weight_bar += product(p_bar.t(), record.inputs[layer])
            else:
                weight_bar.copy_(product(p_bar.t(), record.inputs[layer]))
            torch.sum(p_bar, 0, out=gradients[2 * layer + 1][index])
            x_bar = product(p_bar, moment.weights[layer])
        z_bar = x_bar[:, : self.dimension]
        if self.block.residual:
            z_bar = z_bar - f_bar
        if self.context is None:
            return z_bar
        context_bar = x_bar[:, self.dimension :]
        self.context_bar = (
            context_bar if self.context_bar is None else self.context_bar + context_bar
        )
        return z_bar

    # -- gradients of the weights, from those at single times ---------------------------------

    def collect(self) -> None:
        assert self.current is not None
        self.waiting.append(self.current)
        self.waiting_size += sum(tensor.numel() for tensor in self.current.allocate())
        if self.waiting_size > self.WAITING:
            self._settle()

    def _settle(self) -> None:
        if not self.waiting:
            return
        times = torch.cat([batch.times for batch in self.waiting])
        arrived = [
            torch.cat(parts) if len(parts) > 1 else parts[0]
            for parts in zip(*(batch.allocate() for batch in self.waiting), strict=True)
        ]
        leaves = [
            (place, tensor)
            for place, tensor in enumerate(self.named.values())
            if tensor.requires_grad
        ]
        with torch.enable_grad():
            affine = self._affine(times)
        reached = [pair for pair in zip(affine, arrived, strict=True) if pair[0].requires_grad]
        if leaves and reached:
            found = torch.autograd.grad(
                [made for made, _ in reached],
                [tensor for _, tensor in leaves],
                [bar for _, bar in reached],
                allow_unused=True,
            )
            for (place, _), gradient in zip(leaves, found, strict=True):
                before = self.totals[place]
                if gradient is not None:
                    self.totals[place] = gradient if before is None else before + gradient
        self.waiting = []
        self.waiting_size = 0

    def gradients(self) -> list[Tensor | None]:
        self._settle()
        totals = self.totals
        self.totals = [None] * len(self.named)
        if self.context is None:
            return totals
        context_bar, self.context_bar = self.context_bar, None
        return [*totals, context_bar]


class _Affine(torch.nn.Module):
    """A block's ``affine`` as a module's forward, which is what functional_call can call."""

    def __init__(self, block: DenseDynamics) -> None:
        super().__init__()
        self.block = block

    def forward(self, times: Tensor) -> list[Tensor]:
        """See :meth:`DenseDynamics.affine`."""
        return self.block.affine(times)
