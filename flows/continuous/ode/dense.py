"""Values, Jacobian products and their gradients for dense dynamics, written out by hand.

At a given time dense dynamics are a plain multilayer perceptron (see
:mod:`flows.continuous.ode.dynamics`). Its value, the products ``v^T J v`` of the trace and the
gradients of both are a few matrix products and element-wise steps a layer, which are written here
without autograd. Layer l has input x, pre-activation p = W x + c, slope s = a'(p), and takes a
tangent u to q = W u and on to s q. With bars for gradients::

    q_bar = s u_bar,    p_bar = s x_bar + a''(p) sum(q u_bar),    x_bar = W^T p_bar, ...

The products are by forward mode. For f = g(h(z)) with a bottleneck the tangent starts behind the
bottleneck, runs to the end, enters at the beginning, and stops at the bottleneck, which gives
``(dh/dz)(dg/dh) v``. Without one it runs from the beginning to the end.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self, cast

import torch
from torch import Tensor

from flows.activations import NONLINEARITIES
from flows.continuous.ode.dynamics import LAYERS, DenseDynamics, TimeAffine
from flows.continuous.ode.evaluator import Evaluator, Shares
from flows.continuous.ode.field import Held, Probes, added, gradients_by, inputs_of, taken
from flows.linalg import product

__all__ = ["DenseEvaluator"]


class Moment(NamedTuple):
    """The network at one time: weight ``(outputs, inputs)`` and shift of each layer."""

    weights: tuple[Tensor, ...]
    shifts: tuple[Tensor, ...]


@dataclass
class _Record:
    """What one evaluation leaves for its gradient, by layer; it is used up by it."""

    inputs: list[Tensor] = field(default_factory=list)
    slopes: list[Tensor] = field(default_factory=list)
    arguments: list[Tensor | None] = field(default_factory=list)
    tangent_inputs: dict[int, Tensor] = field(default_factory=dict)
    tangent_outputs: dict[int, Tensor] = field(default_factory=dict)


class DenseEvaluator(Evaluator):
    """The right-hand side of one solve with dense dynamics; see the module's docstring.

    Its gradients are those by the weights at single times, which are summed where the layers make
    them of their parameters, see :class:`_Sums`.

    Args:
        dynamics: of the block.
        context: shape ``(n, context_features)``, or None.
        probes: the vectors of the trace; None where no trace is asked for.
        regularizers: names whose integrals go along, after the trace; see :meth:`has`.
    """

    compiles = True

    def __init__(
        self,
        dynamics: DenseDynamics,
        context: Tensor | None,
        probes: Probes | None,
        regularizers: Sequence[str] = (),
    ) -> None:
        self.held = Held(dynamics)
        self.context = context
        self.probes = probes
        self.regularizers = tuple(regularizers)
        self.nonlinearity = NONLINEARITIES[dynamics.activation]
        self.dimension = dynamics.dimension
        self.residual = dynamics.residual
        self.depth = len(dynamics.stack)
        self.width = sum(cast(TimeAffine, layer).outputs for layer in dynamics.stack)
        first = dynamics.narrow_depth if probes is not None and probes.narrow else 0
        self.tangent_order = [*range(first, self.depth), *range(first)]
        self.integrals = 0 if probes is None else 1 + len(self.regularizers)
        self.tensors: Sequence[Tensor] = self.held.with_context(context)

    @staticmethod
    def has(regularizers: Sequence[str], probes: Probes | None) -> bool:
        """Whether the regularisers cost next to nothing here.

        That is the kinetic energy and, made of the trace's own products ``J v``, the Jacobian's
        norm; a bottleneck's noise, of another width, has none of these.
        """
        narrow = probes is not None and probes.narrow
        return {"kinetic_energy", *(() if narrow else ("jacobian_norm",))}.issuperset(regularizers)

    @property
    def structure(self) -> Hashable:  # type: ignore[override]
        dynamics, probes = cast(DenseDynamics, self.held.module), self.probes
        layers = [cast(TimeAffine, layer) for layer in dynamics.stack]
        known = type(dynamics) is DenseDynamics and {*map(type, layers)} <= {*LAYERS.values()}
        return (
            type(self),
            # A module of other kinds may read what is no parameter.
            tuple((type(one), one.inputs, one.outputs) for one in layers) if known else dynamics,
            dynamics.activation,
            self.residual,
            tuple(self.tangent_order),
            None if probes is None else probes.weight,
            self.regularizers,
        )

    def inputs(self) -> list[Tensor]:
        return inputs_of(self.held, self.context, self.probes)

    def over(self, inputs: Sequence[Tensor]) -> Self:
        made = copy.copy(self)
        made.held, made.context, made.probes = taken(self.held, self.context, self.probes, inputs)
        made.tensors = made.held.with_context(made.context)
        return made

    def room(self, z: Tensor) -> int:
        return len(z) * self.width

    def moments(self, times: Tensor) -> list[Moment]:
        with torch.no_grad():
            affine = [tensor.unbind() for tensor in self.held.call("affine", times)]
        return [
            Moment(weights, shifts)
            for weights, shifts in zip(
                zip(*affine[0::2], strict=True), zip(*affine[1::2], strict=True), strict=True
            )
        ]

    def gradients(self) -> _Sums:
        return _Sums(self.held, self.context)

    # -- values and products --------------------------------------------------------------------

    def rates(self, moment: Moment, z: Tensor, *, integrands: bool) -> tuple[Tensor, Tensor | None]:
        f, u = self._run(moment, z, integrands, None)
        if u is None or self.probes is None:
            return f, None
        vectors, weight = self.probes.vectors, self.probes.weight
        trace = (u * vectors).sum(2).sum(0)
        if weight != 1:
            trace.mul_(weight)
        if self.residual:
            trace.sub_(self.dimension)
        if not self.regularizers:
            return f, trace[None]
        found = {
            "kinetic_energy": lambda: f.square().sum(1),
            "jacobian_norm": lambda: self._image(u).square().sum((0, 2)) * weight,
        }
        return f, torch.stack([trace, *(found[name]() for name in self.regularizers)])

    def _run(
        self, moment: Moment, z: Tensor, integrands: bool, record: _Record | None
    ) -> tuple[Tensor, Tensor | None]:
        """Velocity, and with the integrands what the network makes of the probes' vectors."""
        rule, last = self.nonlinearity, self.depth - 1
        x = z if self.context is None else torch.cat([z, self.context], 1)
        slopes = [] if record is None else record.slopes
        for layer in range(last):
            p = product(x, moment.weights[layer].t(), moment.shifts[layer])
            if record is not None:
                record.inputs.append(x)
                record.arguments.append(p if rule.folds_argument else None)
            x = rule.value(p)
            if integrands or record is not None:
                slopes.append(rule.slope(x, p))
        f = product(x, moment.weights[last].t(), moment.shifts[last])
        if record is not None:
            record.inputs.append(x)
        if self.residual:
            f.sub_(z)
        if not integrands or self.probes is None:
            return f, None
        u = self.probes.vectors
        for layer in self.tangent_order:
            if record is not None:
                record.tangent_inputs[layer] = u
            u = self._times(u, self._seen(moment, layer).t())
            if record is not None:
                record.tangent_outputs[layer] = u
            if layer != last:
                u = u.mul_(slopes[layer]) if record is None else u * slopes[layer]
        return f, u

    def _seen(self, moment: Moment, layer: int) -> Tensor:
        """The weight that a tangent sees: the context, in the first layer's input, has none."""
        weight = moment.weights[layer]
        return weight[:, : self.dimension] if layer == 0 else weight

    @staticmethod
    def _times(u: Tensor, matrix: Tensor) -> Tensor:
        return product(u.reshape(-1, u.shape[2]), matrix).view(*u.shape[:2], -1)

    def _image(self, u: Tensor) -> Tensor:
        """``J v`` for each of the vectors, from what the network makes of it."""
        return u - self.probes.vectors if self.residual and self.probes is not None else u

    def pull(
        self, moment: Moment, z: Tensor, f_bar: Tensor, q_bar: Tensor | None
    ) -> tuple[Tensor, Shares]:
        record = _Record()
        f, _ = self._run(moment, z, q_bar is not None, record)
        # What the tangents contribute to the weights, and by way of each slope: sum(q u_bar). Here
        # as below, each tensor is let go, or its memory used again, as soon as its last reader is
        # done.
        last = self.depth - 1
        weight_bars: dict[int, Tensor] = {}
        curved: dict[int, Tensor] = {}
        if q_bar is not None:
            assert self.probes is not None
            vectors, weight = self.probes.vectors, self.probes.weight
            u_bar = vectors * (q_bar[0] * weight).view(1, -1, 1)
            for place, name in enumerate(self.regularizers, 1):
                if name == "kinetic_energy":
                    f_bar = torch.addcmul(f_bar, f, q_bar[place, :, None], value=2)
                else:
                    image = self._image(record.tangent_outputs[last])
                    u_bar.addcmul_(image, q_bar[place, :, None], value=2 * weight)
            for layer in reversed(self.tangent_order):
                if layer != last:
                    weighed = record.tangent_outputs.pop(layer).mul_(u_bar)
                    curved[layer] = weighed[0] if len(weighed) == 1 else weighed.sum(0)
                    u_bar = u_bar.mul_(record.slopes[layer])
                tangent = record.tangent_inputs.pop(layer)
                weight_bars[layer] = product(
                    u_bar.reshape(-1, u_bar.shape[2]).t(), tangent.reshape(-1, tangent.shape[2])
                )
                if layer != self.tangent_order[0]:
                    u_bar = self._times(u_bar, self._seen(moment, layer))
        velocity_bar = x_bar = f_bar
        shares: Shares = []
        for layer in reversed(range(self.depth)):
            p_bar = x_bar
            if layer != last:
                slope, argument = record.slopes.pop(), record.arguments.pop()
                if layer in curved:
                    p_bar = self.nonlinearity.fold(
                        x_bar, curved.pop(layer), record.inputs[layer + 1], slope, argument
                    )
                else:
                    p_bar = x_bar.mul_(slope)
                record.inputs.pop()
            weight_bar = product(p_bar.t(), record.inputs[layer])
            if layer in weight_bars:
                tangent_bar = weight_bars.pop(layer)
                weight_bar[:, : tangent_bar.shape[1]].add_(tangent_bar)
            shares += [p_bar.sum(0), weight_bar]
            x_bar = product(p_bar, moment.weights[layer])
        z_bar = x_bar[:, : self.dimension]
        if self.residual:
            z_bar = z_bar - velocity_bar
        context_bar = None if self.context is None else x_bar[:, self.dimension :]
        return z_bar, [*reversed(shares), context_bar]


class _Sums:
    """Gradients by the parameters, from those by the weights that they make at single times.

    One pass through the layers' functions of time serves many times: gradients wait until they
    take :data:`WAITING` numbers.

    Args:
        held: the dynamics with the parameters.
        context: shape ``(n, context_features)``, or None.
    """

    WAITING = 1 << 15

    def __init__(self, held: Held, context: Tensor | None) -> None:
        self.held = held
        self.with_context = context is not None
        self.sums: Shares = [None] * len(held.tensors)
        self.context_bar: Tensor | None = None
        self.times: list[Tensor] = []
        self.shares: list[Shares] = []

    def add(self, times: Tensor, shares: Sequence[Shares]) -> None:
        for *_, context_bar in reversed(shares):
            self.context_bar = added(self.context_bar, context_bar)
        self.times.append(times)
        self.shares += [share[:-1] for share in shares]
        one_time = sum(part.numel() for part in shares[0][:-1] if part is not None)
        if len(self.shares) * one_time > self.WAITING:
            self._settle()

    def totals(self) -> list[Tensor | None]:
        if self.shares:
            self._settle()
        return [*self.sums, self.context_bar] if self.with_context else self.sums

    def _settle(self) -> None:
        with torch.enable_grad():
            made = self.held.call("affine", torch.cat(self.times))
        bars = [torch.stack(cast(list[Tensor], parts)) for parts in zip(*self.shares, strict=True)]
        self.times, self.shares = [], []
        reached = [pair for pair in zip(made, bars, strict=True) if pair[0].requires_grad]
        if reached:
            found = gradients_by(self.held.tensors, *zip(*reached, strict=True))
            self.sums = [added(before, more) for before, more in zip(self.sums, found, strict=True)]
