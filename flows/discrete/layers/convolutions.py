"""Convolutional conditioners of couplings on images."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn
from torch.nn import functional

from flows.discrete.layers.norm import ActNorm, ChannelNorm

__all__ = ["Conditioner", "GlowNetwork", "ResidualConvolutions", "ZeroConvolution"]


class Conditioner(nn.Module, abc.ABC):
    """A convolutional network from what may be seen to parameters; its result starts at zero."""

    @abc.abstractmethod
    def forward(self, seen: Tensor, context: Tensor | None) -> Tensor:
        """``(n, inputs, H, W)`` to ``(n, outputs, H, W)``."""

    def initialize(self, seen: Tensor, context: Tensor | None) -> None:
        """Set what depends on data from a batch."""


class ZeroConvolution(nn.Module):
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
        self.last = ZeroConvolution(width, outputs)
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
