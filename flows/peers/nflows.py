"""Flows of the library nflows (Durkan, Bekasov, Murray and Papamakarios), as they are.

Its known faults come along, and are the remarks of its entries: affine couplings
whose scales from data to latent lie within (0.001, 1.001), and affine autoregressive layers whose
scales start at 0.7, so that fresh samples explode.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from flows.base import Flow
from flows.peers.base import IgnoreContext, PeerConfig, PeerFlow, entries, load

__all__ = ["ENTRIES", "NflowsConfig"]


class _Nflows(PeerFlow):
    conditioner_names = ("transform_net", "autoregressive_net")


class NflowsConfig(PeerConfig):
    """A flow of nflows; see :class:`flows.peers.base.PeerConfig`.

    Couplings have masks that alternate (as its SimpleRealNVP has), autoregressive layers a
    reversal between them (as its MaskedAutoregressiveFlow has), both with plain conditioners.
    """

    def _build(self, event_shape: Sequence[int], dimension: int) -> Flow:
        transforms = load("nflows.transforms")
        nets = load("nflows.nn.nets")

        def network(inputs: int, outputs: int) -> nn.Module:
            return IgnoreContext(nets.MLP([inputs], [outputs], list(self.hidden)), self.hidden[-1])

        layers: list[nn.Module] = []
        for layer in range(self.layers):
            mask = torch.where((torch.arange(dimension) + layer) % 2 == 0, -1.0, 1.0)
            if self.system == "realnvp":
                layers.append(transforms.AffineCouplingTransform(mask, network))
            elif self.system == "rqnsf-c":
                coupling = transforms.PiecewiseRationalQuadraticCouplingTransform
                layers.append(coupling(mask, network, **self._splines))
            else:
                shared = {
                    "features": dimension,
                    "hidden_features": self._one_width("nflows"),
                    "num_blocks": len(self.hidden) - 1,
                    "use_residual_blocks": False,
                }
                if self.system == "maf":
                    layers.append(transforms.MaskedAffineAutoregressiveTransform(**shared))
                else:
                    spline = transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform
                    layers.append(spline(**shared, **self._splines))
                layers.append(transforms.ReversePermutation(dimension))
        return _Nflows(event_shape, self.layers, transforms.CompositeTransform(layers), self.traits)


ENTRIES = entries(
    NflowsConfig,
    "nflows",
    "Durkan, Bekasov, Murray and Papamakarios 2020, doi:10.5281/zenodo.4296287",
    {
        "realnvp": (
            "Each coupling of nflows scales by sigmoid(s + 2) + 0.001, at most 1.001, from data "
            "to latent, so that no density rises above the base's mode: the NLL of eight layers "
            "is at least 0.91 nats a dimension, whatever the data."
        ),
        "maf": (
            "Each autoregressive layer of nflows starts with scales near log 2 from data to "
            "latent, not 1, so that an untrained flow of eight layers contracts data about "
            "twentyfold and its samples reach hundreds and more."
        ),
    },
)
