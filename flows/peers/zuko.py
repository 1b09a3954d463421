"""Flows of the library zuko (Rozet et al.), as they are."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flows.base import Flow
from flows.peers.base import PeerConfig, PeerFlow, entries, load

__all__ = ["ENTRIES", "ZukoConfig", "load_zuko"]


def load_zuko() -> Any:
    """Import zuko, and undo what its import does to all of torch.distributions.

    It switches the validation of every distribution's arguments off, in all of the process.

    Raises:
        MissingLibrary: if it is not installed.
    """
    before = torch.distributions.Distribution._validate_args
    try:
        return load("zuko")
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)


class _Zuko(PeerFlow):
    conditioner_names = ("hyper",)

    def _transform(self) -> Any:
        return self.peer().transform

    def _forth(self, x: Tensor) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = self._transform().call_and_ladj(x)
        return result

    def _back(self, z: Tensor) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = self._transform().inv.call_and_ladj(z)
        return result

    def _sample_from(self, z: Tensor, context: Tensor | None) -> Tensor:
        # As the library samples: without the log-determinant.
        x: Tensor = self._transform().inv(z.flatten(1))
        return x.reshape(z.shape)


class ZukoConfig(PeerConfig):
    """A flow of zuko; see :class:`flows.peers.base.PeerConfig`.

    Splines of its couplings are those of its NSF.
    """

    def _build(self, event_shape: Sequence[int], dimension: int) -> Flow:
        zuko = load_zuko()
        shared = {
            "features": dimension,
            "transforms": self.layers,
            "hidden_features": list(self.hidden),
        }
        splines = {
            "univariate": functools.partial(
                zuko.transforms.MonotonicRQSTransform, bound=self.tail_bound
            ),
            "shapes": [(self.bins,), (self.bins,), (self.bins - 1,)],
        }
        match self.system:
            case "realnvp":
                peer = zuko.flows.RealNVP(**shared)
            case "rqnsf-c":
                peer = zuko.flows.RealNVP(**shared, **splines)
            case "maf":
                peer = zuko.flows.MAF(**shared)
            case "rqnsf-ar":
                peer = zuko.flows.MAF(**shared, **splines)
        return _Zuko(event_shape, self.layers, peer, self.traits)


ENTRIES = entries(
    ZukoConfig,
    "zuko",
    "Rozet et al. 2022, doi:10.5281/zenodo.7625672",
)
