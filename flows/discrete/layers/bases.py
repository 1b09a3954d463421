"""Densities over latents beside the standard normal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from flows.base import Base, draw_normal
from flows.discrete.layers.autoregressive import MADE
from flows.discrete.layers.transform import columns

__all__ = ["MixtureMADE", "StandardLogistic"]


def _draw_uniform(
    shape: Sequence[int], *, like: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Uniform noise on (0, 1), with the dtype and device of ``like``; drawn as noise is."""
    device = like.device if generator is None else generator.device
    noise = torch.rand(tuple(shape), dtype=like.dtype, device=device, generator=generator)
    return noise.to(like.device).clamp(min=torch.finfo(like.dtype).tiny)


class StandardLogistic(Base):
    """The standard logistic density in each dimension (NICE, arXiv:1410.8516, section 3.4).

    Example:
        >>> StandardLogistic((2,)).log_prob(torch.zeros(1, 2))
        tensor([-2.7726])
    """

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return -(z + 2 * functional.softplus(-z)).flatten(1).sum(1)

    def sample(
        self, n: int, context: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        uniform = _draw_uniform((n, *self.event_shape), like=self.anchor, generator=generator)
        return uniform.logit(eps=torch.finfo(uniform.dtype).eps)


class MixtureMADE(Base):
    """An autoregressive density whose conditionals are mixtures of Gaussians (MADE MoG).

    MAF, arXiv:1705.07057, section 4.1 ("MADE MoG") and, as the base of a flow, "MAF MoG".
    The components of a conditional start at quantiles of a standard normal, with the scale that
    makes their mixture's variance 1, so that fresh latents are close to N(0, I).

    Args:
        made: the conditioner, with :meth:`parameter_count` parameters a feature.
        event_shape: shape of one event, which is flattened.
        components: number of components.

    Attributes:
        log_scale_bound: largest absolute log-scale of a component.
    """

    log_scale_bound = 5.0

    def __init__(self, made: MADE, event_shape: Sequence[int], components: int) -> None:
        super().__init__(event_shape)
        self.made = made
        self.components = components
        levels = (torch.arange(components, dtype=torch.float64) + 0.5) / components
        centres = torch.special.ndtri(levels)
        spread = centres.square().mean()
        scale = (1 - spread).clamp(min=1e-2).sqrt()
        like = torch.empty(())
        start = torch.stack((torch.zeros_like(centres), centres, scale.log().expand(components)))
        self.start: Tensor
        self.register_buffer("start", start.to(like), persistent=False)

    @staticmethod
    def parameter_count(components: int) -> int:
        """How many parameters a feature takes: logit, mean and log-scale of each component."""
        return 3 * components

    def _mixture(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From ``(3 components, *S)``: logits, means and log-scales, each ``(components, *S)``."""
        shaped = parameters.unflatten(0, (3, self.components))
        start = self.start.reshape(3, self.components, *([1] * (parameters.ndim - 1)))
        logits, means, raw = (shaped + start).unbind(0)
        return logits, means, self.log_scale_bound * torch.tanh(raw / self.log_scale_bound)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        value = columns(z.flatten(1))
        given = None if context is None else columns(context)
        logits, means, log_scales = self._mixture(self.made(value, given))
        standard = (value - means) * (-log_scales).exp()
        component = -0.5 * standard.square() - log_scales - 0.5 * math.log(2 * math.pi)
        mixed = torch.logsumexp(torch.log_softmax(logits, 0) + component, 0)
        return mixed.sum(0)

    def sample(
        self, n: int, context: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        size = self.event_shape.numel()
        # A component is chosen by Gumbel's trick: noise is added to the logits, and the largest
        # wins; the noise of one feature lies side by side.
        uniform = _draw_uniform((size, self.components, n), like=self.anchor, generator=generator)
        gumbel = -(-uniform.log()).log()
        normal = draw_normal((size, n), like=self.anchor, generator=generator)

        def step(feature: int, parameters: Tensor) -> Tensor:
            logits, means, log_scales = self._mixture(parameters)
            chosen = (logits + gumbel[feature]).argmax(0, keepdim=True)
            mean, log_scale = means.gather(0, chosen), log_scales.gather(0, chosen)
            return (mean + log_scale.exp() * normal[feature]).squeeze(0)

        given = None if context is None else columns(context)
        like = self.anchor.expand(size, n)
        return self.made.sweep(like, given, step).T.reshape(n, *self.event_shape)
