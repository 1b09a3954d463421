"""Flows of images at several scales.

A multi-scale flow halves the image's sides by squeezing (2 x 2 pixels become four channels) and
factors half of the channels out at each scale (RealNVP, arXiv:1605.08803, section 3.6). What is
factored out is standardised by a density that may be learned and depend on the half that stays:
the latents of all scales then have one base, N(0, I), and lie one after the other in a tensor of
the event's shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flows.base import InputError, dimension_of
from flows.discrete.layers.chain import LayeredFlow, Visit
from flows.discrete.layers.convolutions import ZeroConvolution
from flows.discrete.layers.coupling import COUPLING_TRAITS
from flows.discrete.layers.elementwise import Affine
from flows.discrete.layers.squeeze import Squeeze
from flows.discrete.layers.transform import (
    Transform,
    in_chunks,
    parameters_ahead,
    sum_features,
)

__all__ = ["LearnedPrior", "MultiScaleFlow", "image_shape"]


def image_shape(event_shape: Sequence[int], halvings: int) -> tuple[int, int, int]:
    """Channels, height and width of an event whose sides are to be halved so many times.

    Raises:
        InputError: if the event is no image, or its sides cannot be halved so often.
    """
    dimension_of(event_shape)
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
        self.network = ZeroConvolution(given, 2 * channels) if given else None
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
        return parameters_ahead(parameters, self.affine.parameter_count)

    def standardise(
        self, leaving: Tensor, given: Tensor | None, context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """To a standard normal, with the log-determinant, ``(n,)``."""
        value, change = self.affine.encode(
            leaving, self._compute_parameters(leaving, given, context)
        )
        return value, sum_features(change)

    def restore(
        self, value: Tensor, given: Tensor | None, context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The inverse of :meth:`standardise`."""
        leaving, change = self.affine.decode(value, self._compute_parameters(value, given, context))
        return leaving, sum_features(change)


class MultiScaleFlow(LayeredFlow):
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
        levels: Sequence[Sequence[Transform]],
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

    def _layers(self, level: int) -> list[Transform]:
        layers = self.levels[level]
        assert isinstance(layers, nn.ModuleList)
        return [layer for layer in layers if isinstance(layer, Transform)]

    def _prior(self, level: int) -> LearnedPrior | None:
        prior = self.priors[level]
        return prior if isinstance(prior, LearnedPrior) else None

    def _encode(
        self, x: Tensor, context: Tensor | None, *, exact: bool, generator: torch.Generator | None
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
        self, z: Tensor, context: Tensor | None, *, exact: bool, generator: torch.Generator | None
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

    def _visit(self, data: Tensor, context: Tensor | None, visit: Visit) -> None:
        value = data
        for level in range(len(self.levels)):
            for layer in self._layers(level):
                visit(layer, value, context)
                value = in_chunks(lambda *parts, of=layer: of(*parts)[0], value, context)
            value = value.chunk(2, 1)[0]
