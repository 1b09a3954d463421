"""What flows of images share: layers on ``(n, C, H, W)``, convolutional conditioners, scales.

A multi-scale flow halves the image's sides by squeezing (2 x 2 pixels become four channels) and
factors half of the channels out at each scale (RealNVP, arXiv:1605.08803, section 3.6). What is
factored out is standardised by a density that may be learned and depend on the half that stays:
the latents of all scales then have one base, N(0, I), and lie one after the other in a tensor of
the event's shape.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from flows.base import Flow, InputError
from flows.discrete.coupling import COUPLING_TRAITS
from flows.discrete.elementwise import Affine
from flows.discrete.transforms import ActNorm, BatchNorm, LULinear
from flows.meter import tick

__all__ = [
    "ChannelCoupling",
    "ChannelLinear",
    "ChannelNorm",
    "CheckerboardCoupling",
    "Conditioner",
    "GlowNetwork",
    "ImageTransform",
    "LearnedPrior",
    "MultiScaleFlow",
    "ResidualConvolutions",
    "Squeeze",
    "image_shape",
]


def image_shape(event_shape: Sequence[int], halvings: int) -> tuple[int, int, int]:
    """Channels, height and width of an event whose sides are to be halved so many times.

    Raises:
        InputError: if the event is no image, or its sides cannot be halved so often.
    """
    if len(event_shape) == 0 or min(event_shape) < 1:
        raise InputError(f"event_shape must be positive numbers, got {tuple(event_shape)}")
    if len(event_shape) != 3:
        raise InputError(
            "a flow of images needs events of shape (channels, height, width), "
            f"got {tuple(event_shape)}"
        )
    channels, height, width = event_shape
    factor = 2**halvings
    if height % factor or width % factor:
        raise InputError(
            f"the flow halves the image's sides {halvings} times: height and width must be "
            f"divisible by {factor}, got {height} x {width}; give fewer levels, or pad the images"
        )
    return channels, height, width


class ImageTransform(nn.Module, abc.ABC):
    """An invertible layer on images."""

    @abc.abstractmethod
    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data side to latent side.

        Args:
            x: shape ``(n, C, H, W)``.
            context: shape ``(n, context_features)``, or None.

        Returns:
            ``z``, an image, and ``log |det dz/dx|``: shape ``(n,)``, or a scalar.
        """

    @abc.abstractmethod
    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The inverse of :meth:`forward`, with ``log |det dx/dz|``."""

    def initialize(self, x: Tensor, context: Tensor | None) -> None:
        """Set what depends on data from a batch; most layers have nothing to set."""

    def refresh_statistics(self, x: Tensor, context: Tensor | None) -> None:
        """Set the statistics that evaluation uses to those of ``x``; most layers keep none."""


def _as_columns(x: Tensor) -> Tensor:
    """``(n, C, H, W)`` to ``(C, n H W)``: pixels as data, channels as features."""
    return x.transpose(0, 1).flatten(1)


def _as_image(columns: Tensor, like: Tensor) -> Tensor:
    n, _, height, width = like.shape
    return columns.reshape(-1, n, height, width).transpose(0, 1)


class Squeeze(ImageTransform):
    """2 x 2 pixels become four channels: ``(C, H, W)`` to ``(4 C, H / 2, W / 2)``."""

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return functional.pixel_unshuffle(x, 2), x.new_zeros(())

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return functional.pixel_shuffle(z, 2), z.new_zeros(())


class ChannelNorm(ImageTransform):
    """Actnorm or batch normalisation with the pixels of a channel as its data.

    Args:
        norm: a layer on ``(C, n)``.
    """

    def __init__(self, norm: ActNorm | BatchNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        columns, change = self.norm(_as_columns(x), None)
        return _as_image(columns, x), change * (x.shape[2] * x.shape[3])

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        columns, change = self.norm.inverse(_as_columns(z), None)
        return _as_image(columns, z), change * (z.shape[2] * z.shape[3])

    def initialize(self, x: Tensor, context: Tensor | None) -> None:
        self.norm.initialize(_as_columns(x), None)

    def refresh_statistics(self, x: Tensor, context: Tensor | None) -> None:
        self.norm.refresh_statistics(_as_columns(x), None)


class ChannelLinear(ImageTransform):
    """An invertible 1 x 1 convolution, LU-parameterised (Glow, arXiv:1807.03039, section 3.2).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = LULinear(channels)

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        weight, change = self.linear.weight_and_log_abs_det()
        return functional.conv2d(x, weight[:, :, None, None]), change * (x.shape[2] * x.shape[3])

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        columns, change = self.linear.inverse(_as_columns(z), None)
        return _as_image(columns, z), change * (z.shape[2] * z.shape[3])


class Conditioner(nn.Module, abc.ABC):
    """A convolutional network from what may be seen to parameters; its result starts at zero."""

    @abc.abstractmethod
    def forward(self, seen: Tensor, context: Tensor | None) -> Tensor:
        """``(n, inputs, H, W)`` to ``(n, outputs, H, W)``."""

    def initialize(self, seen: Tensor, context: Tensor | None) -> None:
        """Set what depends on data from a batch."""


class _ZeroConvolution(nn.Module):
    """A convolution that starts at zero, with the factor ``exp(3 logs)`` of Glow's code."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
        nn.init.zeros_(self.convolution.weight)
        assert self.convolution.bias is not None
        nn.init.zeros_(self.convolution.bias)
        self.log_factor = nn.Parameter(torch.zeros(outputs, 1, 1))

    def forward(self, value: Tensor) -> Tensor:
        result: Tensor = self.convolution(value) * (3 * self.log_factor).exp()
        return result


class GlowNetwork(Conditioner):
    """Glow's conditioner (arXiv:1807.03039, section 4 and appendix B).

    A 3 x 3, a 1 x 1 and a zero-initialised 3 x 3 convolution; actnorm takes the place of the
    first two's biases.

    Args:
        inputs: number of channels seen.
        outputs: number of parameters a pixel.
        width: channels of the hidden layers.
        context_features: width of the context, which shifts the hidden channels; 0 for none.
    """

    def __init__(self, inputs: int, outputs: int, width: int, context_features: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 1, bias=False)
        # Glow's code draws hidden weights from N(0, 0.05^2).
        nn.init.normal_(self.first.weight, std=0.05)
        nn.init.normal_(self.second.weight, std=0.05)
        self.norms = nn.ModuleList((ChannelNorm(ActNorm(width)), ChannelNorm(ActNorm(width))))
        self.last = _ZeroConvolution(width, outputs)
        self.context = nn.Linear(context_features, width, bias=False) if context_features else None

    def forward(self, seen: Tensor, context: Tensor | None) -> Tensor:
        return self._run(seen, context, initialize=False)

    def initialize(self, seen: Tensor, context: Tensor | None) -> None:
        self._run(seen, context, initialize=True)

    def _run(self, value: Tensor, context: Tensor | None, *, initialize: bool) -> Tensor:
        for index, (convolution, norm) in enumerate(
            zip((self.first, self.second), self.norms, strict=True)
        ):
            assert isinstance(norm, ChannelNorm)
            value = convolution(value)
            if index == 0 and self.context is not None:
                value = value + self.context(context)[:, :, None, None]
            if initialize:
                norm.initialize(value, None)
            value = torch.relu_(norm(value, None)[0])
        result: Tensor = self.last(value)
        return result


class _WeightNormConvolution(nn.Module):
    """A convolution whose weight is a direction times a length.

    Weight normalisation (Salimans and Kingma 2016, arXiv:1602.07868, equation 2). Own, since
    torch's parametrised modules cannot be pickled.
    """

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        plain = nn.Conv2d(inputs, outputs, size)
        assert plain.bias is not None
        self.direction = plain.weight
        self.length = nn.Parameter(plain.weight.detach().flatten(1).norm(dim=1))
        self.bias = plain.bias

    def forward(self, value: Tensor) -> Tensor:
        norm = self.direction.flatten(1).norm(dim=1)
        weight = self.direction * (self.length / norm)[:, None, None, None]
        return functional.conv2d(value, weight, self.bias, padding=weight.shape[-1] // 2)


class ResidualConvolutions(Conditioner):
    """RealNVP's conditioner: a residual network with weight normalisation and skip connections.

    arXiv:1605.08803, section 4.1: pre-activation residual blocks of 3 x 3 convolutions; a 1 x 1
    convolution of every block's result is added to what the last layer sees. Batch normalisation
    is left to the flow's own layers.

    Args:
        inputs: number of channels seen.
        outputs: number of parameters a pixel.
        width: channels of the hidden layers.
        blocks: number of residual blocks.
        context_features: width of the context, which shifts the hidden channels; 0 for none.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int, blocks: int, context_features: int
    ) -> None:
        super().__init__()
        self.first = _WeightNormConvolution(inputs, width, 3)
        self.inner = nn.ModuleList(_WeightNormConvolution(width, width, 3) for _ in range(blocks))
        self.outer = nn.ModuleList(_WeightNormConvolution(width, width, 3) for _ in range(blocks))
        self.skip = nn.ModuleList(
            _WeightNormConvolution(width, width, 1) for _ in range(blocks + 1)
        )
        self.last = nn.Conv2d(width, outputs, 1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)
        self.context = nn.Linear(context_features, width, bias=False) if context_features else None

    def forward(self, seen: Tensor, context: Tensor | None) -> Tensor:
        value = self.first(seen)
        if self.context is not None:
            value = value + self.context(context)[:, :, None, None]
        collected = self.skip[0](value)
        for inner, outer, skip in zip(self.inner, self.outer, self.skip[1:], strict=True):
            value = value + outer(torch.relu_(inner(torch.relu(value))))
            collected = collected + skip(value)
        result: Tensor = self.last(torch.relu_(collected))
        return result


class ChannelCoupling(ImageTransform):
    """One half of the channels is transformed, given the other.

    Args:
        channels: C.
        network: makes a conditioner of so many inputs and outputs.
        affine: what is done with the parameters.
        swap: whether the first half is the one that is transformed.
    """

    def __init__(
        self,
        channels: int,
        network: Callable[[int, int], Conditioner],
        affine: Affine,
        swap: bool = False,
    ) -> None:
        super().__init__()
        self.sizes = [channels - channels // 2, channels // 2]
        self.swap = swap
        given, transformed = reversed(self.sizes) if swap else self.sizes
        self.network = network(given, affine.parameter_count * transformed)
        self.affine = affine

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is given and what is transformed."""
        first, second = x.split(self.sizes, 1)
        return (second, first) if self.swap else (first, second)

    def _joined(self, given: Tensor, transformed: Tensor) -> Tensor:
        return torch.cat((transformed, given) if self.swap else (given, transformed), 1)

    def _compute_parameters(self, given: Tensor, context: Tensor | None) -> Tensor:
        tick()
        parameters: Tensor = self.network(given, context)
        return _ahead(parameters, self.affine.parameter_count)

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        given, half = self._halves(x)
        half, change = self.affine.encode(half, self._compute_parameters(given, context))
        assert change is not None
        return self._joined(given, half), change.flatten(1).sum(1)

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        given, half = self._halves(z)
        half, change = self.affine.decode(half, self._compute_parameters(given, context))
        assert change is not None
        return self._joined(given, half), change.flatten(1).sum(1)

    def initialize(self, x: Tensor, context: Tensor | None) -> None:
        self.network.initialize(self._halves(x)[0], context)


def _ahead(parameters: Tensor, count: int) -> Tensor:
    """``(n, P C, H, W)`` to ``(P, n, C, H, W)``."""
    n, channels, height, width = parameters.shape
    return parameters.reshape(n, count, channels // count, height, width).transpose(0, 1)


class CheckerboardCoupling(ImageTransform):
    """Pixels of one colour of a checkerboard are transformed, given those of the other.

    RealNVP, arXiv:1605.08803, section 3.4, figure 3. The network sees the colour's mask too.

    Args:
        channels: C.
        height: H.
        width: W.
        network: makes a conditioner of so many inputs and outputs.
        affine: what is done with the parameters.
        swap: whether the pixel in the corner is among those transformed.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        network: Callable[[int, int], Conditioner],
        affine: Affine,
        swap: bool = False,
    ) -> None:
        super().__init__()
        colour = (torch.arange(height)[:, None] + torch.arange(width)) % 2 == int(swap)
        self.given: Tensor
        self.register_buffer("given", colour.to(torch.get_default_dtype()), persistent=False)
        self.network = network(channels + 1, affine.parameter_count * channels)
        self.affine = affine

    def _seen(self, x: Tensor) -> Tensor:
        mask = self.given.expand(len(x), 1, -1, -1)
        return torch.cat((x * self.given, mask), 1)

    def _compute_parameters(self, x: Tensor, context: Tensor | None) -> Tensor:
        tick()
        parameters = self.network(self._seen(x), context)
        # Parameters of zero are the identity.
        return _ahead(parameters * (1 - self.given), self.affine.parameter_count)

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        z, change = self.affine.encode(x, self._compute_parameters(x, context))
        assert change is not None
        return z, change.flatten(1).sum(1)

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        x, change = self.affine.decode(z, self._compute_parameters(z, context))
        assert change is not None
        return x, change.flatten(1).sum(1)

    def initialize(self, x: Tensor, context: Tensor | None) -> None:
        self.network.initialize(self._seen(x), context)


class LearnedPrior(nn.Module):
    """A Gaussian of what leaves the flow, given what stays; Glow's split and top priors.

    Given nothing it has a mean and a log-scale a channel, which is what the zero-initialised
    convolution of zeros in Glow's code amounts to.

    Args:
        given: number of channels that stay; 0 for none.
        channels: number of channels that leave.
        context_features: width of the context, which shifts both moments; 0 for none.
        affine: bounds the log-scale.
    """

    def __init__(self, given: int, channels: int, context_features: int, affine: Affine) -> None:
        super().__init__()
        self.channels = channels
        self.affine = affine
        self.network = _ZeroConvolution(given, 2 * channels) if given else None
        self.moments = None if given else nn.Parameter(torch.zeros(2 * channels, 1, 1))
        self.context: nn.Linear | None = None
        if context_features:
            self.context = nn.Linear(context_features, 2 * channels, bias=False)
            nn.init.zeros_(self.context.weight)

    def _compute_parameters(
        self, like: Tensor, given: Tensor | None, context: Tensor | None
    ) -> Tensor:
        if self.network is not None:
            parameters = self.network(given)
        else:
            assert self.moments is not None
            parameters = self.moments.expand(len(like), -1, *like.shape[2:])
        if self.context is not None:
            parameters = parameters + self.context(context)[:, :, None, None]
        return _ahead(parameters, 2)

    def standardise(
        self, leaving: Tensor, given: Tensor | None, context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """To a standard normal, with the log-determinant, ``(n,)``."""
        value, change = self.affine.encode(
            leaving, self._compute_parameters(leaving, given, context)
        )
        assert change is not None
        return value, change.flatten(1).sum(1)

    def restore(
        self, value: Tensor, given: Tensor | None, context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The inverse of :meth:`standardise`."""
        leaving, change = self.affine.decode(value, self._compute_parameters(value, given, context))
        assert change is not None
        return leaving, change.flatten(1).sum(1)


class MultiScaleFlow(Flow):
    """Layers at several scales; at each but the last, half of the channels leaves.

    Args:
        event_shape: channels, height, width.
        context_features: width of the context; 0 for none.
        levels: for each scale its layers; what they give has an even number of channels, but for
            the last.
        priors: for each scale the density of what leaves, or None for N(0, I).
    """

    traits = COUPLING_TRAITS

    def __init__(
        self,
        event_shape: Sequence[int],
        context_features: int,
        levels: Sequence[Sequence[ImageTransform]],
        priors: Sequence[LearnedPrior | None],
    ) -> None:
        super().__init__(event_shape, context_features)
        assert len(levels) == len(priors)
        self.levels = nn.ModuleList(nn.ModuleList(layers) for layers in levels)
        self.priors = nn.ModuleList(nn.Identity() if one is None else one for one in priors)
        # The shape of what each level gives: the sides halve with each squeeze.
        self._shapes: list[tuple[int, int, int]] = []
        channels, height, width = event_shape
        for index, layers in enumerate(levels):
            for layer in layers:
                if isinstance(layer, Squeeze):
                    channels, height, width = 4 * channels, height // 2, width // 2
            self._shapes.append((channels, height, width))
            if index < len(levels) - 1:
                assert channels % 2 == 0
                channels //= 2

    def _layers(self, level: int) -> list[ImageTransform]:
        layers = self.levels[level]
        assert isinstance(layers, nn.ModuleList)
        return [layer for layer in layers if isinstance(layer, ImageTransform)]

    def _prior(self, level: int) -> LearnedPrior | None:
        prior = self.priors[level]
        return prior if isinstance(prior, LearnedPrior) else None

    def _encode(
        self,
        x: Tensor,
        context: Tensor | None,
        *,
        exact: bool,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        log_abs_det = x.new_zeros(len(x))
        latents, value = [], x
        last = len(self.levels) - 1
        for level in range(last + 1):
            for layer in self._layers(level):
                value, change = layer(value, context)
                log_abs_det = log_abs_det + change
            stays, leaves = value.chunk(2, 1) if level < last else (None, value)
            if (prior := self._prior(level)) is not None:
                leaves, change = prior.standardise(leaves, stays, context)
                log_abs_det = log_abs_det + change
            latents.append(leaves.flatten(1))
            if stays is not None:
                value = stays
        return torch.cat(latents, 1).reshape(x.shape), log_abs_det

    def _decode(
        self,
        z: Tensor,
        context: Tensor | None,
        *,
        exact: bool,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        log_abs_det = z.new_zeros(len(z))
        last = len(self.levels) - 1
        shapes = [
            (channels if level == last else channels // 2, height, width)
            for level, (channels, height, width) in enumerate(self._shapes)
        ]
        latents = z.flatten(1).split([c * h * w for c, h, w in shapes], 1)
        value = z
        for level in range(last, -1, -1):
            stays = None if level == last else value
            leaves = latents[level].unflatten(1, shapes[level])
            if (prior := self._prior(level)) is not None:
                leaves, change = prior.restore(leaves, stays, context)
                log_abs_det = log_abs_det + change
            value = leaves if stays is None else torch.cat((stays, leaves), 1)
            for layer in reversed(self._layers(level)):
                value, change = layer.inverse(value, context)
                log_abs_det = log_abs_det + change
        return value, log_abs_det

    @torch.no_grad()
    def initialize(self, batch: Tensor, context: Tensor | None = None) -> None:
        super().initialize(batch, context)
        value = batch
        for level in range(len(self.levels)):
            for layer in self._layers(level):
                layer.initialize(value, context)
                value, _ = layer(value, context)
            value = value.chunk(2, 1)[0]

    @property
    def keeps_statistics(self) -> bool:
        return any(isinstance(module, BatchNorm) for module in self.modules())

    @torch.no_grad()
    def refresh_statistics(self, data: Tensor, context: Tensor | None = None) -> None:
        super().refresh_statistics(data, context)
        if not self.keeps_statistics:
            return
        training = self.training
        self.eval()
        value = data
        for level in range(len(self.levels)):
            for layer in self._layers(level):
                layer.refresh_statistics(value, context)
                value = _in_chunks(layer, value, context)
            value = value.chunk(2, 1)[0]
        self.train(training)


def _in_chunks(
    layer: ImageTransform, images: Tensor, context: Tensor | None, size: int = 500
) -> Tensor:
    """A layer, applied to so many images at a time: a training set need not fit at once."""
    contexts = [None] * -(-len(images) // size) if context is None else list(context.split(size))
    return torch.cat(
        [layer(part, given)[0] for part, given in zip(images.split(size), contexts, strict=True)]
    )
