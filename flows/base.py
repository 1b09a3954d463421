"""The contract that every flow of the suite keeps.

A normalizing flow models the density of ``x`` by an invertible map to a latent ``z`` of known
density::

    log p(x) = log p_base(z) + log |det dz/dx|,        z = encode(x)

The words, here and everywhere below:

``event_shape``
    shape of one datum: ``(D,)`` for a vector, ``(channels, height, width)`` for an image.
``encode``
    data to latent, with ``log |det dz/dx|``. The direction of a density.
``decode``
    latent to data, with ``log |det dx/dz|``. The direction of a sample.
``context``
    what a conditional flow is conditioned on, shape ``(n, context_features)``.

A system implements ``_encode`` and ``_decode``; :class:`Flow` checks what a user hands in, in
one place, and gives ``log_prob``, ``sample`` and ``forward`` from the two. A direction that a
system does not have raises :class:`NotInvertible` with the reason.

What a flow must also keep, and ``tests/flows/test_contract.py`` checks for every one:

* It is finite and sane before training: fresh ``sample`` and ``log_prob`` without NaN.
* It works in float32 and float64, on any device, through ``state_dict``, ``deepcopy``, pickle and
  ``torch.func.functional_call``.
* Nothing depends on data except through :meth:`Flow.initialize`, which is called once, before
  training; no forward pass changes the flow's state behind the user's back. There are two
  exceptions, both in training mode: batch norm keeps statistics, as its paper defines it, and a
  continuous flow keeps the step size that fitted its last solve, unless ``remember_step`` is off.
* Randomness is explicit: what is drawn, dropout's noise too, is drawn from the generator handed
  in.
* Each evaluation of a network is reported to :func:`flows.meter.tick`.
* No rows give no rows, in every direction that the flow has, and evaluate nothing.
"""

from __future__ import annotations

import abc
import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

__all__ = [
    "Base",
    "Flow",
    "FlowError",
    "InputError",
    "Loss",
    "NotInvertible",
    "Recipe",
    "StandardNormal",
    "Traits",
    "VectorFlow",
    "dimension_of",
    "draw_normal",
    "global_noise_from",
]

Passes = Literal["1", "D", "solver", "none"]


class FlowError(Exception):
    """Any error that a flow raises for what its user did; the base of all the others."""


class InputError(FlowError, ValueError):
    """What is handed to a flow is no tensor, or one of the wrong shape, dtype or device."""


class NotInvertible(FlowError, NotImplementedError):
    """The flow has no such direction; the message says why and which direction it has."""


@dataclass(frozen=True)
class Traits:
    """What the literature's comparisons list of a system (FFJORD, arXiv:1810.01367, Table 1).

    Attributes:
        density: whether ``log_prob`` is exact or an unbiased estimate.
        density_passes: network passes of a density one after the other, by the system's
            definition: ``"1"``, ``"D"``, ``"solver"`` or ``"none"``. What an implementation
            evaluates, which may be less, :mod:`flows.meter` counts.
        sample_passes: network passes of a sample, likewise.
        jacobian: the form to which the Jacobian is restricted.
        trains_on_data: whether the density of given data can be evaluated, hence maximised.
    """

    density: Literal["exact", "estimated"]
    density_passes: Passes
    sample_passes: Passes
    jacobian: Literal["free-form", "triangular", "block-triangular", "low-rank"]
    trains_on_data: bool = True


@dataclass(frozen=True)
class Recipe:
    """What a flow was built from, as :func:`flows.build` notes it on the flow.

    Attributes:
        name: of the entry.
        options: of the config, all of them, as JSON has them.
        context_features: width of the context.
    """

    name: str
    options: Mapping[str, Any]
    context_features: int


def dimension_of(event_shape: Sequence[int]) -> int:
    """D, the number of scalars in an event.

    Raises:
        InputError: for an event shape that is empty or not positive.
    """
    if isinstance(event_shape, int):
        raise InputError(f"event_shape is a tuple: write ({event_shape},), not {event_shape}")
    if len(event_shape) == 0 or min(event_shape) < 1:
        raise InputError(f"event_shape must be positive numbers, got {tuple(event_shape)}")
    return math.prod(event_shape)


def draw_normal(
    shape: Sequence[int],
    *,
    like: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """Standard normal noise with the dtype and device of ``like``.

    The draw is made on the generator's own device and moved, so that one CPU generator gives the
    same noise whatever device the flow is on. None is torch's global generator.
    """
    if generator is None:
        return torch.randn(tuple(shape), dtype=like.dtype, device=like.device)
    noise = torch.randn(
        tuple(shape), dtype=like.dtype, device=generator.device, generator=generator
    )
    return noise.to(like.device)


@contextlib.contextmanager
def global_noise_from(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Have torch's global generator of a device stand in for a given one.

    For what draws from the global one and lets nobody hand another in, such as torch's dropout.
    What is drawn inside the block is determined by the given generator, which moves on; the
    global one is put back. A generator on another device than the flow's gives a seed.

    Args:
        generator: None for the global one as it is.
        device: where the noise is drawn.
    """
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        standing = torch.cuda.default_generators[index]
    else:
        standing = torch.default_generator
    if generator is None or generator is standing:
        yield
        return
    kept = standing.get_state()
    try:
        if generator.device.type == device.type:
            # No seed is drawn, for which the host would wait.
            standing.set_state(generator.get_state())
            yield
            generator.set_state(standing.get_state())
        else:
            seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
            standing.manual_seed(int(seed))
            yield
    finally:
        standing.set_state(kept)


class Base(nn.Module, abc.ABC):
    """A density over latents, of known form: what a flow maps the data to."""

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        # Carries dtype and device where there may be no parameter to ask.
        self.anchor: Tensor
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    @abc.abstractmethod
    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of latents.

        Args:
            z: latents, shape ``(n, *event_shape)``.
            context: shape ``(n, context_features)``, or None.

        Returns:
            Nats, shape ``(n,)``.
        """

    @abc.abstractmethod
    def sample(
        self, n: int, context: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw ``n`` latents, shape ``(n, *event_shape)``."""


class StandardNormal(Base):
    """The standard normal density N(0, I) over events.

    Example:
        >>> StandardNormal((2,)).log_prob(torch.zeros(1, 2))
        tensor([-1.8379])
    """

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        dimension = self.event_shape.numel()
        return -0.5 * (z.flatten(1).square().sum(1) + dimension * math.log(2 * math.pi))

    def sample(
        self, n: int, context: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return draw_normal((n, *self.event_shape), like=self.anchor, generator=generator)


class Loss(Protocol):
    """What :meth:`Flow.loss` is: from data to what training minimises."""

    def __call__(
        self, x: Tensor, context: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor: ...


class Flow(nn.Module, abc.ABC):
    """A normalizing flow. See the module's docstring for the contract.

    All methods take and raise the same:

    ``x``, ``z``
        data and latents, shape ``(n, *event_shape)``, of the flow's dtype and on its device.
    ``context``
        shape ``(n, context_features)``, a row a datum; None for a flow without context.
    ``exact``
        where the log-determinant or the density would be estimated, compute it exactly.
    ``generator``
        source of all that is drawn, an estimator's noise too; None for torch's global one.
    :class:`InputError`
        if a tensor has the wrong shape, dtype or device, or the context does not fit.
    :class:`NotInvertible`
        if the system lacks the direction that is asked for.

    Args:
        event_shape: shape of one datum.
        context_features: width of the context that a conditional flow takes; 0 for a flow that
            takes none.
        base: density of the latents; standard normal if None.

    Attributes:
        event_shape: as given.
        context_features: as given.
        base: density of the latents.
        traits: what the literature's comparisons list of the system.
        recipe: what :func:`flows.build` made the flow from; None for one that was made otherwise.
        in_torch: whether torch computes it, and so can count its memory and its matrix products.
        one_graph: whether torch.compile makes one graph of its density; else it may make several.

    Raises:
        InputError: for an event shape that is empty or not positive.
    """

    traits: Traits
    recipe: Recipe | None = None
    in_torch: ClassVar[bool] = True
    one_graph: ClassVar[bool] = True

    def __init__(
        self,
        event_shape: Sequence[int],
        context_features: int = 0,
        base: Base | None = None,
    ) -> None:
        super().__init__()
        dimension_of(event_shape)
        self.event_shape = torch.Size(event_shape)
        self.context_features = context_features
        self.base: Base = StandardNormal(self.event_shape) if base is None else base

    # -- what a system implements --------------------------------------------------------------

    @abc.abstractmethod
    def _encode(
        self, x: Tensor, context: Tensor | None, *, exact: bool, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Data to latent: ``(n, *event_shape)`` to the same and ``log |det dz/dx|``, ``(n,)``."""

    @abc.abstractmethod
    def _decode(
        self, z: Tensor, context: Tensor | None, *, exact: bool, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Latent to data: ``(n, *event_shape)`` to the same and ``log |det dx/dz|``, ``(n,)``."""

    def _sample_from(self, z: Tensor, context: Tensor | None) -> Tensor:
        """Latent to data where nobody asks for the log-determinant.

        A system in which the determinant costs extra (FFJORD: half of the work) overrides it.
        """
        x, _ = self._decode(z, context, exact=False, generator=None)
        return x

    def initialize(self, batch: Tensor, context: Tensor | None = None) -> None:
        """Data-dependent initialisation on some data, to be called once, before training.

        Most systems have none and do nothing.
        """
        self._check(batch, context, "batch")

    def refresh_statistics(self, data: Tensor, context: Tensor | None = None) -> None:
        """Set the statistics that evaluation uses to those of a training set.

        For batch normalisation between layers, whose running averages are only an approximation
        (MAF, arXiv:1705.07057, appendix B, evaluates with the statistics of the training set); to
        be called before validating and testing. The layers' networks take the data in chunks, so
        that memory is that of the data, twice. Most systems keep none and do nothing.
        """
        self._check(data, context, "data")

    @property
    def loss_is_nll(self) -> bool:
        """Whether :meth:`loss` is the mean negative log-likelihood in nats, and nothing besides."""
        return True

    @property
    def keeps_statistics(self) -> bool:
        """Whether :meth:`refresh_statistics` does anything."""
        return False

    @property
    def indivisible(self) -> str:
        """Why processes cannot divide a batch (:mod:`flows.shares`); empty where they can.

        They can where all that :meth:`loss` draws for a batch, and averages over it, goes by
        :mod:`flows.shares`, and the loss is a mean over rows.
        """
        return f"{type(self).__name__} does not say that its batch can be divided"

    def outside_fraction(self, x: Tensor, context: Tensor | None = None) -> float | None:
        """The part of the data that passes some layer outside the region in which it is learned.

        A spline is learned inside its box and the identity outside it: rows that leave the box
        are modelled by the base density, whatever the training.

        Returns:
            Rows outside in any coordinate of any layer's input, as a part of all, from 0 to 1;
            None for a flow without such a region.

        Raises:
            InputError: if there are no rows, too.
        """
        self._check(x, context, "x")
        if len(x) == 0:
            raise InputError("x has no rows: there is nothing to be a part of")
        return None

    def trace_estimates(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        draws: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Independent estimates of the instantaneous trace, at fixed data.

        Only for a system whose ``traits.density`` is ``"estimated"``: what one draw of noise
        makes of the trace of the dynamics' Jacobian at ``x`` and the start of the flow.

        Returns:
            Of so many independent draws, in nats per unit of the flow's time, shape ``(draws, n)``.

        Raises:
            NotImplementedError: for a flow whose density is exact.
        """
        raise NotImplementedError(f"{type(self).__name__} has an exact density: nothing to draw")

    # -- what every flow has --------------------------------------------------------------------

    def encode(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        exact: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Map data to latents.

        Returns:
            ``z``, and ``log |det dz/dx|`` in nats, shape ``(n,)``.
        """
        self._check(x, context, "x")
        if len(x) == 0 and self.traits.density_passes != "none":
            return self._no_rows(x)
        return self._encode(x, context, exact=exact, generator=generator)

    def decode(
        self,
        z: Tensor,
        context: Tensor | None = None,
        *,
        exact: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Map latents to data; the inverse of :meth:`encode`, with ``log |det dx/dz|``."""
        self._check(z, context, "z")
        if len(z) == 0 and self.traits.sample_passes != "none":
            return self._no_rows(z)
        return self._decode(z, context, exact=exact, generator=generator)

    def log_prob(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        exact: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Log-density of data, in nats, shape ``(n,)``."""
        self._check(x, context, "x")
        if len(x) == 0 and self.traits.density_passes != "none":
            return self._no_rows(x)[1]
        z, log_abs_det = self._encode(x, context, exact=exact, generator=generator)
        return self.base.log_prob(z, context) + log_abs_det

    def loss(
        self, x: Tensor, context: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """What training minimises: the mean negative log-density, and a system's penalties.

        Returns:
            Nats, a scalar.
        """
        log_prob: Tensor = self(x, context, generator=generator)
        return -log_prob.mean()

    def compiled_loss(self) -> Loss:
        """:meth:`loss` by torch.compile, which pays off over many steps at one batch size.

        The first call compiles, for a minute or so. On CUDA what was compiled is a CUDA graph.

        Returns:
            A function that takes what :meth:`loss` takes. Passes through networks are counted by
            no meter where they are part of a compiled graph.
        """
        compiled = torch.compile(self, fullgraph=self.one_graph, mode="reduce-overhead")

        def loss(
            x: Tensor, context: Tensor | None = None, *, generator: torch.Generator | None = None
        ) -> Tensor:
            # A graph takes no generator. It draws from torch's own.
            with global_noise_from(generator, self.device):
                log_prob: Tensor = compiled(x, context)
            return -log_prob.mean()

        return loss

    @torch.no_grad()
    def sample(
        self, n: int, context: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw ``n`` data from the flow, without a graph; :meth:`rsample` keeps one.

        Returns:
            Samples, shape ``(n, *event_shape)``.
        """
        return self.rsample(n, context, generator=generator)

    def rsample(
        self, n: int, context: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Samples that are differentiable in the parameters; otherwise as :meth:`sample`.

        As torch.distributions has it: what a flow that is trained by its samples needs.
        """
        self._check_context(n, context)
        if n == 0 and self.traits.sample_passes != "none":
            return self._no_rows(self.base.anchor.new_empty(0, *self.event_shape))[0]
        z = self.base.sample(n, context, generator=generator)
        with self._noise_from(generator):
            return self._sample_from(z, context)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        exact: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The same as :meth:`log_prob`, so that DDP and torch.compile serve the flow as it is."""
        return self.log_prob(x, context, exact=exact, generator=generator)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the flow."""
        return self.base.anchor.dtype

    @property
    def device(self) -> torch.device:
        """Device on which the flow lives."""
        return self.base.anchor.device

    @property
    def parameter_count(self) -> int:
        """Number of trainable scalars."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def _no_rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What a direction makes of no rows: as many, whose gradients are zero."""
        zero = sum((p.flatten()[:0].sum() for p in self.parameters()), x.new_zeros(()))
        return x + zero, x.new_zeros(0) + zero

    def _noise_from(self, generator: torch.Generator | None) -> AbstractContextManager[None]:
        """Inside of it, what a layer draws from torch's global generator comes from this one.

        Nothing in most systems, whose layers draw nothing or from what is handed in.
        """
        return contextlib.nullcontext()

    def __repr__(self) -> str:
        name = type(self).__name__ if self.recipe is None else self.recipe.name
        return (
            f"<flow {name}: event shape {tuple(self.event_shape)}, "
            f"{self.parameter_count:,} parameters, {self.dtype} on {self.device}>"
        )

    # -- checks, in one place -----------------------------------------------------------------

    def _check_tensor(self, value: object, name: str) -> None:
        if not isinstance(value, Tensor):
            raise InputError(
                f"{name} is a {type(value).__name__}, not a tensor: "
                f"hand in torch.as_tensor({name}, dtype={self.dtype})"
            )

    def _check(self, value: Tensor, context: Tensor | None, name: str) -> None:
        self._check_tensor(value, name)
        if value.ndim != len(self.event_shape) + 1 or value.shape[1:] != self.event_shape:
            raise InputError(
                f"{name} must have shape (n, {', '.join(map(str, self.event_shape))}), "
                f"got {tuple(value.shape)}"
            )
        if value.dtype != self.dtype:
            raise InputError(
                f"{name} is {value.dtype}, the flow is {self.dtype}: convert one of them, "
                f"as in flow.to({name}.dtype)"
            )
        if value.device != self.device:
            raise InputError(
                f"{name} is on {value.device}, the flow on {self.device}: move one of them"
            )
        self._check_context(len(value), context)

    def _check_context(self, n: int, context: Tensor | None) -> None:
        if self.context_features == 0:
            if context is not None:
                raise InputError("this flow was built without context_features: give no context")
            return
        expected = (n, self.context_features)
        if context is None:
            raise InputError(f"this flow is conditional: give a context of shape {expected}")
        self._check_tensor(context, "context")
        if tuple(context.shape) != expected:
            raise InputError(f"context must have shape {expected}, got {tuple(context.shape)}")


class VectorFlow(Flow):
    """A flow that treats an event as a vector of D numbers; images are flattened on the way in.

    A system implements ``_encode_vector`` and ``_decode_vector`` on ``(n, D)`` tensors.

    Attributes:
        dimension: D, the number of scalars in an event.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        context_features: int = 0,
        base: Base | None = None,
    ) -> None:
        super().__init__(event_shape, context_features, base)
        self.dimension = self.event_shape.numel()

    @abc.abstractmethod
    def _encode_vector(
        self, x: Tensor, context: Tensor | None, *, exact: bool, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """``(n, D)`` to latents ``(n, D)`` and ``log |det dz/dx|``, ``(n,)``."""

    @abc.abstractmethod
    def _decode_vector(
        self, z: Tensor, context: Tensor | None, *, exact: bool, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """``(n, D)`` to data ``(n, D)`` and ``log |det dx/dz|``, ``(n,)``."""

    def _encode(
        self, x: Tensor, context: Tensor | None, *, exact: bool, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        z, log_abs_det = self._encode_vector(
            x.flatten(1), context, exact=exact, generator=generator
        )
        return z.reshape(x.shape), log_abs_det

    def _decode(
        self, z: Tensor, context: Tensor | None, *, exact: bool, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        x, log_abs_det = self._decode_vector(
            z.flatten(1), context, exact=exact, generator=generator
        )
        return x.reshape(z.shape), log_abs_det
