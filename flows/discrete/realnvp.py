"""RealNVP: affine couplings that transform the two halves of a vector in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from flows.base import Flow, Traits, dimension_of
from flows.config import Entry, FlowConfig, Widths
from flows.discrete.layers.chain import ChainFlow
from flows.discrete.layers.coupling import COUPLING_TRAITS, Couplings
from flows.discrete.layers.elementwise import LOG_SCALE_BOUND, Affine, LogScaleBound
from flows.networks import MLP, ConditionerActivation, ConditionerWidths

__all__ = ["ENTRIES", "RealNVPConfig"]


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
    (arXiv:1705.07057, section 4). There, with ``separate_networks``, shift and log-scale have a
    network each, of ReLU and of tanh, and ``activation`` has no meaning.

    Example:
        >>> import torch
        >>> flow = RealNVPConfig(layers=4).build(event_shape=(3,))
        >>> z, log_abs_det = flow.encode(torch.ones(2, 3))
        >>> z.tolist(), log_abs_det.tolist()
        ([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], [0.0, 0.0])
    """

    version: ClassVar[int] = 2
    traits: ClassVar[Traits] = COUPLING_TRAITS

    layers: PositiveInt = Field(default=8, description="number of couplings")
    hidden: ConditionerWidths = (64, 64)
    activation: ConditionerActivation = "relu"
    log_scale_bound: LogScaleBound = LOG_SCALE_BOUND
    batch_norm: bool = Field(
        default=False, description="whether batch normalisation follows each coupling"
    )
    separate_networks: bool = Field(
        default=False,
        description="whether shift and log-scale have a network each, of ReLU and of tanh",
    )

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> Flow:
        def network(inputs: int, outputs: int) -> nn.Module:
            seen = inputs + context_features
            if self.separate_networks:
                return _SeparateNetworks(seen, self.hidden, outputs // 2)
            return MLP(seen, self.hidden, outputs, self.activation)

        couplings = Couplings(
            dimension_of(event_shape),
            self.layers,
            network,
            Affine(self.log_scale_bound, shift_first=False),
            interleaved=True,
            batch_norm=self.batch_norm,
        )
        return ChainFlow(event_shape, context_features, [couplings], self.traits)


ENTRIES = [
    Entry(
        "realnvp",
        RealNVPConfig,
        "affine couplings with alternating halves",
        "Dinh, Sohl-Dickstein and Bengio 2016, arXiv:1605.08803",
    ),
    # The networks' widths are those for POWER and GAS; the larger sets of MAF's experiments have
    # hidden = [512, 512].
    *(
        Entry(
            f"realnvp-{layers}",
            RealNVPConfig,
            f"RealNVP with {layers} layers, as in MAF's experiments",
            "Papamakarios, Pavlakou and Murray 2017, arXiv:1705.07057, section 4 and appendix D",
            {
                "hidden": (100, 100),
                # There the log-scales have no bound: one next to none.
                "log_scale_bound": 5.0,
                "batch_norm": True,
                "layers": layers,
                "separate_networks": True,
            },
        )
        for layers in (5, 10)
    ),
]
