"""FFJORD over images: convolutional dynamics at one scale or several.

The multi-scale architecture is that of RealNVP (Dinh et al. 2016, arXiv:1605.08803, section 3.6) as
the official code of FFJORD uses it (Grathwohl et al. 2018, arXiv:1810.01367, section 4.2): at each
scale but the last some blocks, a squeeze of 2 x 2 pixels into channels, as many blocks again, and
half of the channels go to the latent as they are; at the last scale the blocks alone. There are as
many scales as height and width can be halved and stay at least 4.

At one scale the dynamics are an encoder and a decoder: convolutions of stride 2, and transposed
convolutions that undo them. With a bottleneck the noise of the trace's estimate goes between the
two (section 3.1.1 of the paper).
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, cast

import torch
from pydantic import BeforeValidator, Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from flows.activations import NONLINEARITIES
from flows.base import InputError, Traits
from flows.config import Entry, Widths
from flows.continuous.base import ContinuousFlow, Passage
from flows.continuous.errors import CostWarning
from flows.continuous.ode.dynamics import Activation, hidden_widths
from flows.continuous.options import ContinuousConfig
from flows.continuous.transform import ContinuousTransform

__all__ = ["ENTRIES", "ConvolutionalDynamics", "ImageFFJORD", "ImageFFJORDConfig", "Stride"]

SMALLEST = 4
"""Height and width below which the official code does not go on to another scale."""

ConvolutionKind = Literal[
    "ignore", "concat", "concat_v2", "squash", "concatsquash", "blend", "hyper"
]


Stride = Literal[1, 2, -2]
"""Of a convolution: 1 keeps height and width, 2 halves them, -2 doubles them."""

_UNDONE: dict[Stride, Stride] = {1: 1, 2: -2, -2: 2}

Strides = Annotated[
    tuple[Stride, ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]


def _convolution(inputs: int, outputs: int, stride: Stride) -> nn.Conv2d | nn.ConvTranspose2d:
    """With the official code's kernels: 3 x 3, and 4 x 4 where the size changes."""
    if stride == 1:
        return nn.Conv2d(inputs, outputs, 3, padding=1)
    kind = nn.Conv2d if stride == 2 else nn.ConvTranspose2d
    return kind(inputs, outputs, 4, stride=2, padding=1)


def _sides(sides: Sequence[int], strides: Sequence[Stride]) -> list[int] | None:
    """Height and width after some convolutions; None if one would halve odd ones."""
    for stride in strides:
        if stride == 2 and any(side % 2 for side in sides):
            return None
        sides = [side * 2 if stride == -2 else side // stride for side in sides]
    return list(sides)


class _TimeConvolution(nn.Module):
    """A convolution that depends on time as :mod:`flows.continuous.ode.dynamics` says."""

    def __init__(self, inputs: int, outputs: int, kind: ConvolutionKind, stride: Stride) -> None:
        super().__init__()
        self.kind = kind
        self.stride = stride
        self.outputs = outputs
        if kind == "hyper":
            size = 3 if stride == 1 else 4
            ends = (inputs, outputs) if stride == -2 else (outputs, inputs)
            self.shape = (*ends, size, size)
            self.hidden = nn.Linear(1, 8)
            self.made = nn.Linear(8, outputs * (inputs * size**2 + 1))
            with torch.no_grad():
                # So that a fresh layer has weights of the usual size.
                for parameter in self.made.parameters():
                    parameter.div_((size**2 * inputs) ** 0.5)
            return
        extra = 1 if kind == "concat" else 0
        self.convolution = _convolution(inputs + extra, outputs, stride)
        if kind == "blend":
            self.end = _convolution(inputs, outputs, stride)
        if kind in ("squash", "concatsquash"):
            self.gate = nn.Linear(1, outputs)
        if kind in ("concat_v2", "concatsquash"):
            self.shift = nn.Linear(1, outputs, bias=kind == "concat_v2")

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """``(n, inputs, height, width)`` to ``(n, outputs, ...)``, of the stride's size."""
        time = t.reshape(1)
        if self.kind == "hyper":
            made = self.made(torch.tanh(self.hidden(time)))
            weight, bias = made[self.outputs :].view(self.shape), made[: self.outputs]
            if self.stride == -2:
                return functional.conv_transpose2d(x, weight, bias, stride=2, padding=1)
            return functional.conv2d(x, weight, bias, stride=self.stride, padding=1)
        if self.kind == "concat":
            # A channel of the time, and not a shift: the padding around it is zero.
            x = torch.cat([t.expand(len(x), 1, *x.shape[2:]), x], 1)
        y: Tensor = self.convolution(x)
        if self.kind == "blend":
            y = torch.lerp(y, self.end(x), t)
        if self.kind in ("squash", "concatsquash"):
            y = y * torch.sigmoid(self.gate(time))[:, None, None]
        if self.kind in ("concat_v2", "concatsquash"):
            y = y + self.shift(time)[:, None, None]
        return y


class ConvolutionalDynamics(nn.Module):
    """A time-dependent stack of convolutions.

    With a bottleneck f = g(h(z)): h are the layers up to the map in the middle, its activation
    included, and g those after it, which are h's in mirror image.

    Args:
        shape: of the state, ``(channels, height, width)``.
        hidden: channels of the hidden layers; with a bottleneck, of those before it.
        strides: of the layers, with a bottleneck of those of h: one more than ``hidden`` has;
            empty for 1 everywhere.
        bottleneck: channels of the map in the middle; None for none.
        layers: how the layers depend on time.
        activation: nonlinearity after each layer but the last.
        context_features: width of a context, which is added to the input as constant channels.
        residual: whether the velocity is the network's value minus the state.

    Attributes:
        bottleneck: how many numbers the map in the middle holds; None without.

    Raises:
        InputError: if the number of strides is another, or they do not lead back to the state's
            height and width.
    """

    def __init__(
        self,
        shape: Sequence[int],
        hidden: Sequence[int],
        *,
        strides: Sequence[Stride] = (),
        bottleneck: int | None = None,
        layers: ConvolutionKind = "concat",
        activation: Activation = "softplus",
        context_features: int = 0,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.activation = activation
        if len(strides) not in (0, len(hidden) + 1):
            raise InputError(
                f"{len(hidden)} hidden convolutions have {len(hidden) + 1} strides, of which the "
                f"last is that of the last layer or of the bottleneck; got {list(strides)}"
            )
        ones: list[Stride] = [1] * (len(hidden) + 1)
        down = tuple(strides or ones)
        up = () if bottleneck is None else tuple(_UNDONE[stride] for stride in reversed(down))
        channels, *sides = shape
        middle = _sides(sides, down)
        if middle is None or _sides(middle, up) != sides:
            raise InputError(
                f"strides {[*down, *up]} do not lead from {sides[0]} x {sides[1]} back to it: "
                "each 2 halves even sides, and a -2 must undo it"
            )
        self.narrow_depth = len(down)
        self.map_shape = (bottleneck or channels, *middle)
        self.bottleneck = None if bottleneck is None else math.prod(self.map_shape)
        sizes = (channels + context_features, *hidden_widths(hidden, bottleneck), channels)
        self.stack = nn.ModuleList(
            _TimeConvolution(inputs, outputs, layers, stride)
            for (inputs, outputs), stride in zip(
                itertools.pairwise(sizes), (*down, *up), strict=True
            )
        )

    def narrow(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        """``h(z)`` of f = g(h(z)): the map in the middle, flat, ``(n, bottleneck)``."""
        return self._run(t, self._with(context, z), 0, self.narrow_depth).flatten(1)

    def widen(self, t: Tensor, h: Tensor) -> Tensor:
        """``g(h)`` of f = g(h(z)): ``(n, bottleneck)`` to the state's shape."""
        return self._run(t, h.view(-1, *self.map_shape), self.narrow_depth, len(self.stack))

    def forward(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        """dz/dt, shape of ``z``, ``(n, channels, height, width)``."""
        return self._run(t, self._with(context, z), 0, len(self.stack))

    def _with(self, context: Tensor | None, z: Tensor) -> Tensor:
        if context is None:
            return z
        return torch.cat([z, context[:, :, None, None].expand(-1, -1, *z.shape[2:])], 1)

    def _run(self, t: Tensor, x: Tensor, first: int, last: int) -> Tensor:
        activate = NONLINEARITIES[self.activation].pure
        for index in range(first, last):
            x = self.stack[index](t, x)
            if index + 1 < len(self.stack):
                x = activate(x)
        return x


class ImageFFJORDConfig(ContinuousConfig):
    """Options of :class:`ImageFFJORD`, besides those of every continuous flow.

    A convolution of stride 1 is 3 x 3, one of 2 is 4 x 4 and halves height and width, one of -2
    is 4 x 4 and transposed, and doubles them.

    With a bottleneck the convolutions run down to it and up from it: hidden 64-64-128, strides
    1, 2, 1, 2 and a bottleneck of 128 channels are the encoder 64-64-128-128 of the paper's single
    flow and its mirror. The noise then has the shape of the map in the middle: the trace's estimate
    is less variable where that is narrower than the image, and more where it is wider, as this one
    is. The same network without the trick has hidden 64-64-128-128-128-64-64 and strides
    1, 2, 1, 2, -2, 1, -2, 1.
    """

    version: ClassVar[int] = 2

    hidden: Widths = Field(
        default=(64, 64, 64),
        description="channels of the hidden convolutions; with a bottleneck, of those before it",
    )
    strides: Strides = Field(
        default=(),
        description="of each convolution, the last one's or the bottleneck's included: 1, 2 or -2; "
        "empty for 1",
    )
    bottleneck: PositiveInt | None = Field(
        default=None,
        description="channels of a map in the middle of the dynamics, where the trace's noise "
        "goes; none for none",
    )
    layers: ConvolutionKind = Field(
        default="concat", description="how the convolutions depend on time"
    )
    activation: Activation = Field(default="softplus", description="nonlinearity of the dynamics")
    residual: bool = Field(
        default=False, description="whether the velocity is the network's value minus the state"
    )
    blocks: PositiveInt = Field(
        default=2, description="continuous transforms at each place of the architecture"
    )
    multiscale: bool = Field(default=True, description="whether there are several scales")

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> ImageFFJORD:
        return ImageFFJORD(event_shape, context_features, self)


class ImageFFJORD(ContinuousFlow):
    """Continuous transforms with convolutional dynamics over images.

    Args:
        event_shape: ``(channels, height, width)``.
        context_features: width of the context; 0 for none.
        config: the options; the defaults if None.

    Raises:
        InputError: if the event is not an image, or the strides do not lead back to its size.

    Example:
        >>> flow = ImageFFJORD((1, 8, 8), config=ImageFFJORDConfig(hidden=(4,), blocks=1))
        >>> flow.log_prob(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        context_features: int = 0,
        config: ImageFFJORDConfig | None = None,
    ) -> None:
        super().__init__(event_shape, context_features)
        self.config = config = ImageFFJORDConfig() if config is None else config
        if len(self.event_shape) != 3:
            raise InputError(
                f"this flow models images (channels, height, width), got {tuple(event_shape)}: "
                'for vectors take "ffjord"'
            )
        self.traits = Traits(
            density="exact" if config.trace == "exact" else "estimated",
            density_passes="solver",
            sample_passes="solver",
            jacobian="free-form",
        )
        channels, height, width = self.event_shape
        # The state at each group of blocks; groups 2 s and 2 s + 1 before and after squeeze s.
        groups = [(channels, height, width)]
        scales = 1
        while config.multiscale and self._can_halve(height, width):
            scales += 1
            height, width = height // 2, width // 2
            groups += [(4 * channels, height, width), (2 * channels, height, width)]
            channels *= 2
        self.scales = scales
        numbers = itertools.count()
        self.groups = nn.ModuleList(
            nn.ModuleList(
                ContinuousTransform(
                    ConvolutionalDynamics(
                        state,
                        config.hidden,
                        strides=config.strides,
                        bottleneck=config.bottleneck,
                        layers=config.layers,
                        activation=config.activation,
                        context_features=context_features,
                        residual=config.residual,
                    ),
                    config,
                    f"block {next(numbers)}",
                )
                for _ in range(config.blocks)
            )
            for state in groups
        )
        for state, (first, *_) in zip(groups, self._groups, strict=True):
            if (first.bottleneck or 0) > math.prod(state):
                warnings.warn(
                    f"the map in the middle of the dynamics holds {first.bottleneck} numbers, more "
                    f"than the state's {math.prod(state)}: noise of its shape makes the trace's "
                    "estimate more variable, not less",
                    CostWarning,
                    stacklevel=2,
                )
                break

    @staticmethod
    def _can_halve(height: int, width: int) -> bool:
        even = height % 2 == 0 and width % 2 == 0
        return even and min(height, width) // 2 >= SMALLEST

    @property
    def _groups(self) -> list[list[ContinuousTransform]]:
        return [list(cast(Sequence[ContinuousTransform], group)) for group in self.groups]

    @property
    def _first(self) -> ContinuousTransform:
        return self._groups[0][0]

    def _travel(self, x: Tensor, passage: Passage) -> Tensor:
        groups = iter(self._groups)
        done: list[Tensor] = []
        for scale in range(self.scales):
            for block in next(groups):
                x = passage.through(block, x)
            if scale + 1 < self.scales:
                x = functional.pixel_unshuffle(x, 2)
                for block in next(groups):
                    x = passage.through(block, x)
                x, kept = x.chunk(2, 1)
                done.append(kept)
        return self._join(x, done)

    def _travel_back(self, z: Tensor, passage: Passage) -> Tensor:
        x, done = self._part(z)
        groups = reversed(self._groups)
        for scale in reversed(range(self.scales)):
            if scale + 1 < self.scales:
                x = torch.cat([x, done.pop()], 1)
                for block in reversed(next(groups)):
                    x = passage.through(block, x)
                x = functional.pixel_shuffle(x, 2)
            for block in reversed(next(groups)):
                x = passage.through(block, x)
        return x

    def _join(self, last: Tensor, done: list[Tensor]) -> Tensor:
        """All latents, from the finest scale to the coarsest, in the event's shape."""
        flat = torch.cat([part.flatten(1) for part in (*done, last)], 1)
        return flat.reshape(-1, *self.event_shape)

    def _part(self, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The inverse of :meth:`_join`: the coarsest latents, and the others finest first."""
        channels, height, width = self.event_shape
        flat = z.flatten(1)
        done = []
        for _ in range(self.scales - 1):
            height, width = height // 2, width // 2
            channels *= 2
            size = channels * height * width
            done.append(flat[:, :size].reshape(-1, channels, height, width))
            flat = flat[:, size:]
        return flat.reshape(-1, channels, height, width), done


_PAPER = "Grathwohl et al. 2018, arXiv:1810.01367, section 4.2 and appendix: "
_NAMES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
# The logit is the data set's, and so are its options.
_LOGITS = {
    "mnist": ", whose logit has alpha = 1e-6",
    "cifar10": ", whose logit has alpha = 1e-6: give the data set that option, its own is "
    "RealNVP's 0.05",
}

ENTRIES = [
    Entry(
        "ffjord-image",
        ImageFFJORDConfig,
        "FFJORD over images, convolutional dynamics, one scale or several",
        "Grathwohl et al. 2018, arXiv:1810.01367, section 4.2",
        {"noise": "rademacher"},
    ),
    *(
        Entry(
            f"ffjord-{name}",
            ImageFFJORDConfig,
            f"FFJORD for {_NAMES[name]}, one scale",
            _PAPER + "convolutions 64-64-128-128, every other of stride 2, and their mirror; which "
            "of two the strided one is, is not said there" + logit,
            {
                "noise": "rademacher",
                "multiscale": False,
                "hidden": (64, 64, 128, 128, 128, 64, 64),
                "strides": (1, 2, 1, 2, -2, 1, -2, 1),
                "blocks": 1,
            },
        )
        for name, logit in _LOGITS.items()
    ),
    *(
        Entry(
            f"ffjord-{name}-multiscale",
            ImageFFJORDConfig,
            f"FFJORD for {_NAMES[name]}, several scales",
            _PAPER + "two flows of three convolutions of 64 before and after each squeeze; the "
            "official code's train_cnf.py with dims 64,64,64 and 2 blocks" + logit,
            {"noise": "rademacher", "multiscale": True},
        )
        for name, logit in _LOGITS.items()
    ),
]
