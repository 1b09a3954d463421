"""Flows of the library normflows (Stimper et al.), as they are.

Its layers run from latent to data, and so they are used: a density takes the layers' inverses, as
its ``NormalizingFlow.log_prob`` and ``forward_kld`` do. Its masked affine layer, which the library
calls MAF, has its one-pass direction from latent to data. As its authors train it on data (their
notebook ``conditional_flow``) a density then takes D passes a layer and a sample one, which is what
others call IAF. Turned round, its scale, within (0.001, 1.001), could not expand the data: see the
remark of its entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flows.base import Flow, Traits
from flows.discrete.layers.autoregressive import INVERSE_AUTOREGRESSIVE_TRAITS
from flows.peers.base import IgnoreContext, PeerConfig, PeerFlow, entries, load

__all__ = ["ENTRIES", "NormflowsConfig"]


class _Normflows(PeerFlow):
    conditioner_names = ("param_map", "transform_net", "autoregressive_net")

    def _run(self, value: Tensor, *, forward: bool) -> tuple[Tensor, Tensor]:
        """The library's layers in their own order, or their inverses from the last to the first."""
        assert isinstance(self.peer, nn.ModuleList)
        layers: Iterable[Any] = self.peer if forward else reversed(self.peer)
        log_abs_det = value.new_zeros(len(value))
        for layer in layers:
            value, change = layer(value) if forward else layer.inverse(value)
            log_abs_det = log_abs_det + change
        return value, log_abs_det

    def _forth(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._run(x, forward=False)

    def _back(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self._run(z, forward=True)


class NormflowsConfig(PeerConfig):
    """A flow of normflows; see :class:`flows.peers.base.PeerConfig`.

    Halves are swapped and the last layers of affine couplings' conditioners start at zero (as in
    its RealNVP example); for splines, masks alternate.
    """

    @property
    def traits(self) -> Traits:
        return INVERSE_AUTOREGRESSIVE_TRAITS if self.system == "maf" else super().traits

    def _build(self, event_shape: Sequence[int], dimension: int) -> Flow:
        normflows = load("normflows")
        splines = load("normflows.flows.neural_spline.coupling")

        def network(inputs: int, outputs: int, *, init_zeros: bool = False) -> nn.Module:
            peer: nn.Module = normflows.nets.MLP(
                [inputs, *self.hidden, outputs], init_zeros=init_zeros
            )
            return peer

        flows = normflows.flows
        layers: list[nn.Module] = []
        for layer in range(self.layers):
            if self.system == "realnvp":
                given = dimension - dimension // 2
                conditioner = network(given, 2 * (dimension // 2), init_zeros=True)
                layers.append(flows.AffineCouplingBlock(conditioner))
                layers.append(flows.Permute(dimension, mode="swap"))
            elif self.system == "rqnsf-c":
                mask = torch.where((torch.arange(dimension) + layer) % 2 == 0, -1.0, 1.0)
                layers.append(
                    splines.PiecewiseRationalQuadraticCoupling(
                        mask,
                        lambda inputs, outputs: IgnoreContext(
                            network(inputs, outputs), self.hidden[-1]
                        ),
                        **self._splines,
                    )
                )
            else:
                shared = {"use_residual_blocks": False, "num_blocks": len(self.hidden) - 1}
                width = self._one_width("normflows")
                if self.system == "maf":
                    layers.append(flows.MaskedAffineAutoregressive(dimension, width, **shared))
                else:
                    autoregressive = load("normflows.flows.neural_spline.autoregressive")
                    spline = autoregressive.MaskedPiecewiseRationalQuadraticAutoregressive
                    layers.append(_Turned(spline(dimension, width, **shared, **self._splines)))
                layers.append(_Reverse())
        return _Normflows(event_shape, self.layers, nn.ModuleList(layers), self.traits)


class _Turned(nn.Module):
    """A layer the other way round, as the library's own spline wrappers have it."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's inverse."""
        result: tuple[Tensor, Tensor] = self.layer.inverse(value)
        return result

    def inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The layer."""
        result: tuple[Tensor, Tensor] = self.layer(value)
        return result


class _Reverse(nn.Module):
    """The features in reversed order, which normflows lacks."""

    def forward(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """``(n, D)`` to the same, and zeros."""
        return value.flip(1), value.new_zeros(())

    def inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The same as :meth:`forward`."""
        result: tuple[Tensor, Tensor] = self(value)
        return result


ENTRIES = entries(
    NormflowsConfig,
    "normflows",
    "Stimper et al. 2023, doi:10.21105/joss.05361",
    {
        "maf": (
            "The masked affine layer of normflows has its one pass from latent to data and scales "
            "by at most 1.001 there, so that a density, as its authors train it, takes D passes a "
            "layer (an IAF by other names), and cannot contract the data."
        ),
    },
)
