"""RealNVP: affine couplings that transform the two halves of a vector in turn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from flows.base import Flow
from flows.config import FlowConfig, Widths
from flows.discrete.coupling import COUPLING_TRAITS, Couplings
from flows.discrete.elementwise import Affine
from flows.discrete.transforms import ChainFlow, dimension_of
from flows.networks import MLP, Activation

__all__ = ["RealNVPConfig"]


class _SeparateNetworks(nn.Module):
    """A ReLU network for the shifts and a tanh network for the log-scales."""

    def __init__(self, inputs: int, hidden: Widths, features: int) -> None:
        super().__init__()
        self.shift = MLP(inputs, hidden, features, "relu")
        self.log_scale = MLP(inputs, hidden, features, "tanh")

    def forward(self, seen: Tensor) -> Tensor:
        return torch.cat((self.shift(seen), self.log_scale(seen)))


class RealNVPConfig(FlowConfig):
    """RealNVP on vectors.

    Density estimation using Real NVP (Dinh, Sohl-Dickstein and Bengio 2016, arXiv:1605.08803),
    section 3; masks alternate between features of even and odd index as in MAF's experiments
    (arXiv:1705.07057, section 4).

    Attributes:
        layers: number of couplings.
        hidden: widths of each conditioner's hidden layers.
        activation: of the conditioners.
        log_scale_bound: largest absolute log-scale of a coupling.
        batch_norm: whether batch normalisation follows each coupling.
        separate_networks: whether shift and log-scale have a network each, with ReLU for the
            shift and tanh for the log-scale, as in MAF's experiments; ``activation`` then has no
            meaning.

    Example:
        >>> import torch
        >>> flow = RealNVPConfig(layers=4).build(event_shape=(3,))
        >>> z, log_abs_det = flow.encode(torch.ones(2, 3))
        >>> z.tolist(), log_abs_det.tolist()
        ([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], [0.0, 0.0])
    """

    layers: PositiveInt = 8
    hidden: Widths = (64, 64)
    activation: Activation = "relu"
    log_scale_bound: PositiveFloat = 5.0
    batch_norm: bool = False
    separate_networks: bool = False

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> Flow:
        def network(inputs: int, outputs: int) -> nn.Module:
            if self.separate_networks:
                return _SeparateNetworks(inputs, self.hidden, outputs // 2)
            return MLP(inputs, self.hidden, outputs, self.activation)

        couplings = Couplings(
            dimension_of(event_shape),
            context_features,
            self.layers,
            network,
            Affine(self.log_scale_bound, shift_first=False),
            self.batch_norm,
        )
        return ChainFlow(event_shape, context_features, [couplings], COUPLING_TRAITS)
