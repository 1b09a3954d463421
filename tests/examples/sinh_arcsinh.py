"""A flow of one's own: a linear map, then a curve of learned skewness and tail for each feature."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

import flows
from flows import Entry, FlowConfig, Traits

EXACT = Traits(density="exact", density_passes="1", sample_passes="1", jacobian="triangular")


class SinhArcsinh(flows.VectorFlow):
    """``z = sinh(tail arcsinh(scale L x + shift) - skew)`` (Jones and Pewsey 2009, equation 1)."""

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__(event_shape)
        self.traits = EXACT
        self.parts = torch.nn.Parameter(0.1 * torch.randn(4, self.dimension))
        self.lower = torch.nn.Parameter(0.1 * torch.randn(self.dimension, self.dimension))

    def initialize(self, batch: Tensor, context: Tensor | None = None) -> None:
        super().initialize(batch, context)
        self.parts.data[1] = -batch.flatten(1).std(0, correction=0).clamp(min=0.01).log()

    def _encode_vector(self, x: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        shift, log_scale, log_tail, skew = self.parts
        linear = (x @ self._triangle().T) * log_scale.exp() + shift
        bent = log_tail.exp() * linear.arcsinh() - skew
        log_cosh = torch.logaddexp(bent, -bent) - math.log(2)
        slope = log_cosh - linear.square().log1p() / 2
        return bent.sinh(), (slope + log_tail + log_scale).sum(1)

    def _decode_vector(self, z: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        shift, log_scale, log_tail, skew = self.parts
        linear = ((z.arcsinh() + skew) * (-log_tail).exp()).sinh()
        scaled = (linear - shift) * (-log_scale).exp()
        x = torch.linalg.solve_triangular(self._triangle(), scaled.T, upper=False).T
        return x, -self._encode_vector(x)[1]

    def _triangle(self) -> Tensor:
        return self.lower.tril(-1) + torch.eye(self.dimension).to(self.lower)


class SinhArcsinhConfig(FlowConfig):
    """A linear map and a sinh-arcsinh curve for each feature."""

    traits: ClassVar[Traits] = EXACT

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> flows.Flow:
        if context_features:
            raise flows.InputError("sinh-arcsinh takes no context")
        return SinhArcsinh(event_shape)


ENTRIES = [Entry("sinh-arcsinh", SinhArcsinhConfig, "skewness and tails", "Jones, Pewsey 2009")]
