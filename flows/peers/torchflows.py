"""Flows of the library torchflows (Nabergoj), as they are.

Its architectures put an elementwise affine map first and last and an actnorm after each layer.
The actnorm layers set themselves from the first batch in training mode: :meth:`initialize` hands
them one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flows.base import Flow
from flows.peers.base import PeerConfig, PeerFlow, entries, load

__all__ = ["ENTRIES", "TorchflowsConfig"]


class _Torchflows(PeerFlow):
    conditioner_names = ("conditioner_transform",)

    @torch.no_grad()
    def initialize(self, batch: Tensor, context: Tensor | None = None) -> None:
        super().initialize(batch, context)
        training = self.training
        self.train()
        self._forth(batch.flatten(1))
        self.train(training)


class TorchflowsConfig(PeerConfig):
    """A flow of torchflows; see :class:`flows.peers.base.PeerConfig`.

    Its autoregressive conditioners have their own nonlinearity, the hyperbolic tangent.
    """

    def _build(self, event_shape: Sequence[int], dimension: int) -> Flow:
        architectures = load("torchflows.bijections.finite.autoregressive.architectures")
        make = {
            "realnvp": architectures.RealNVP,
            "maf": architectures.MAF,
            "rqnsf-c": architectures.CouplingRQNSF,
            "rqnsf-ar": architectures.MaskedAutoregressiveRQNSF,
        }[self.system]
        conditioner: dict[str, Any] = {
            "n_hidden": self._one_width("torchflows"),
            "n_layers": len(self.hidden) + 1,
        }
        more: dict[str, Any] = {}
        if self.system in ("realnvp", "rqnsf-c"):
            conditioner["nonlinearity"] = nn.ReLU
        if self.system in ("rqnsf-c", "rqnsf-ar"):
            more["transformer_kwargs"] = {"n_bins": self.bins, "boundary": self.tail_bound}
        peer = make((dimension,), n_layers=self.layers, conditioner_kwargs=conditioner, **more)
        return _Torchflows(event_shape, self.layers, peer, self.traits)


ENTRIES = entries(
    TorchflowsConfig,
    "torchflows",
    "Nabergoj, github.com/davidnabergoj/torchflows",
)
