"""What all continuous flows share: regularised training and draws of the trace's estimate."""

from __future__ import annotations

import abc
import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from flows.base import Flow, InputError, Loss
from flows.continuous.errors import CostWarning
from flows.continuous.moving_norm import MovingBatchNorm
from flows.continuous.ode.regularizers import BY_ALL_PRODUCTS
from flows.continuous.ode.trace import Product
from flows.continuous.options import ContinuousConfig
from flows.continuous.transform import EXACT_IS_DEAR, ContinuousTransform

__all__ = ["ContinuousFlow", "Passage"]


@dataclass
class Passage:
    """One way through a flow, either direction, and the sums that are gathered on it.

    Attributes:
        context: shape ``(n, context_features)``, or None.
        change: log-determinants so far, shape ``(n,)``.
        exact: whether traces are exact whatever the config says.
        generator: source of the estimator's noise.
        backward: whether the way is from latents to data.
        traced: whether the blocks' log-determinants are asked for.
        regularize: whether to integrate the config's regularisers.
        prices: the regularisers' integrals by name, shape ``(n,)``.
    """

    context: Tensor | None
    change: Tensor
    exact: bool = False
    generator: torch.Generator | None = None
    backward: bool = False
    traced: bool = True
    regularize: bool = False
    prices: dict[str, Tensor] = field(default_factory=dict)

    def through(self, part: nn.Module, z: Tensor) -> Tensor:
        """Follow a block, or pass a moving batch norm."""
        if isinstance(part, MovingBatchNorm):
            z, change = part.decode(z) if self.backward else part.encode(z)
            self.change = self.change + change
            return z
        assert isinstance(part, ContinuousTransform)
        if not self.traced:
            return part.without_trace(z, self.context, backward=self.backward)
        z, change, prices = part(
            z,
            self.context,
            exact=self.exact,
            generator=self.generator,
            backward=self.backward,
            regularize=self.regularize,
        )
        self.change = self.change + change
        for name, price in prices.items():
            self.prices[name] = self.prices[name] + price if name in self.prices else price
        return z


class ContinuousFlow(Flow):
    """A flow of continuous transforms, whose config has regularisers.

    A system implements :meth:`_travel` and :meth:`_travel_back`, and names its first block in
    :attr:`_first`.
    """

    config: ContinuousConfig

    @property
    @abc.abstractmethod
    def _first(self) -> ContinuousTransform:
        """The block that the data enter first."""

    @abc.abstractmethod
    def _travel(self, x: Tensor, passage: Passage) -> Tensor:
        """Data to latents, both ``(n, *event_shape)``; the sums go into ``passage``."""

    @abc.abstractmethod
    def _travel_back(self, z: Tensor, passage: Passage) -> Tensor:
        """Latents to data, likewise."""

    def _state(self, x: Tensor) -> Tensor:
        """Data in the shape in which the first block takes them."""
        return x

    def _encode(
        self,
        x: Tensor,
        context: Tensor | None,
        *,
        exact: bool,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        passage = Passage(context, x.new_zeros(len(x)), exact=exact, generator=generator)
        return self._travel(x, passage), passage.change

    def _decode(
        self,
        z: Tensor,
        context: Tensor | None,
        *,
        exact: bool,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        passage = Passage(
            context, z.new_zeros(len(z)), exact=exact, generator=generator, backward=True
        )
        return self._travel_back(z, passage), passage.change

    def _sample_from(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self._travel_back(
            z, Passage(context, z.new_zeros(len(z)), backward=True, traced=False)
        )

    @property
    def indivisible(self) -> str:
        native = self.config.resolved_backend != "torchdiffeq"
        return "" if native else "torchdiffeq chooses its steps by the rows of one process alone"

    @property
    def loss_is_nll(self) -> bool:
        return not self.config.regularizers

    def loss(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss of :meth:`training_loss`, where there are regularisers to weigh in."""
        if not self.config.regularizers:
            return super().loss(x, context, generator=generator)
        return self.training_loss(x, context, generator=generator)[0]

    def compiled_loss(self) -> Loss:
        """:meth:`loss` with the solver's steps compiled, each way as one graph.

        The solver itself stays as it is, and its evaluations are counted. On CUDA a step is
        replayed as a CUDA graph. On a CPU this does not pay: measured on one thread, a step of
        training took 0.86 (D = 2, 64-64-64) to 1.09 (D = 6, 60-60-60) of the time without, after
        100 s of compiling. Convolutional dynamics, regularisers and the torchdiffeq backend stay
        uncompiled.
        """
        for module in self.modules():
            if isinstance(module, ContinuousTransform):
                module.compiled = True
        return self.loss

    def training_loss(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What training minimises: the negative log-likelihood with the weighted regularisers.

        Args:
            x: data, shape ``(n, *event_shape)``.
            context: shape ``(n, context_features)``, or None.
            generator: source of the estimator's noise.

        Returns:
            The loss, nats a sample, shape ``()``, and each term's mean before weighting:
            ``"nll"`` and the regularisers by name, each the sum over blocks.

        Raises:
            InputError: if a tensor has the wrong shape, dtype or device.
            SolverError: if the problem cannot be solved.
        """
        self._check(x, context, "x")
        weights = self.config.regularizers
        self._warn_of_cost(weights)
        passage = Passage(context, x.new_zeros(len(x)), generator=generator, regularize=True)
        z = self._travel(x, passage)
        nll = -(self.base.log_prob(z, context) + passage.change).mean()
        terms = {"nll": nll, **{name: price.mean() for name, price in passage.prices.items()}}
        loss = nll
        for name in passage.prices:
            loss = loss + weights[name] * terms[name]
        return loss, terms

    def _warn_of_cost(self, weights: dict[str, float]) -> None:
        names = [*BY_ALL_PRODUCTS]
        if self._first.bottleneck is not None:
            # Noise of the bottleneck's width cannot be pulled back by the whole Jacobian.
            names.append("jacobian_norm")
        dear = [name for name in names if name in weights]
        size = self.event_shape.numel()
        if dear and size >= EXACT_IS_DEAR:
            warnings.warn(
                f"{' and '.join(dear)} in {size} dimensions: each takes {size} Jacobian products "
                "at each evaluation of the dynamics, where kinetic_energy takes none",
                CostWarning,
                stacklevel=3,
            )

    def trace_estimates(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        draws: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Independent estimates of the trace of the first block's Jacobian at time 0.

        Args:
            x: data, shape ``(n, *event_shape)``.
            context: shape ``(n, context_features)``, or None.
            draws: how many independent draws of the noise.
            generator: source of the noise.

        Returns:
            Estimates, in nats per unit of the flow's time, shape ``(draws, n)``.

        Raises:
            InputError: if a tensor has the wrong shape, dtype or device, or ``draws`` is below 1.
            NotImplementedError: if the flow was built with the exact trace.
        """
        if self.config.trace == "exact":
            return super().trace_estimates(x, context, draws=draws, generator=generator)
        self._check(x, context, "x")
        if draws < 1:
            raise InputError(f"draws must be at least 1, got {draws}")
        return self._first.trace_estimates(self._state(x), context, draws, generator)

    @property
    def noise_width(self) -> int:
        """How many numbers the noise of a probe has a row: the bottleneck's width, or D."""
        width = self._first.bottleneck
        return self.event_shape.numel() if width is None else width

    def vector_jacobians(
        self, x: Tensor, context: Tensor | None = None, *, narrow: bool | None = None
    ) -> Product:
        """The products by which the trace of the first block is found or estimated, at time 0.

        Args:
            x: data, shape ``(n, *event_shape)``.
            context: shape ``(n, context_features)``, or None.
            narrow: whether in a bottleneck's space; by default where there is one.

        Returns:
            Of vectors v, ``(m, n, width)``, the products ``v^T M``, with M the D x D Jacobian, or
            the k x k matrix ``(dh/dz)(dg/dh)`` of dynamics f = g(h(z)). A product is taken with
            the graph of one evaluation, made here.

        Raises:
            InputError: if a tensor has the wrong shape, dtype or device, or there is no
                bottleneck.
        """
        self._check(x, context, "x")
        there = self._first.bottleneck is not None
        if narrow and not there:
            raise InputError("this flow has no bottleneck: give narrow = False")
        z = self._state(x)
        shape = (len(x), self.noise_width) if there and narrow is not False else z.shape
        product = self._first.vector_jacobians(z, context, narrow=there and narrow is not False)

        def flat(vectors: Tensor) -> Tensor:
            return product(vectors.reshape(-1, *shape)).flatten(2)

        return flat
