"""The continuous flow of the library zuko (Rozet et al.): its CNF, in a chain.

Its own, and left as it is (zuko 1.6, ``zuko.transforms.FreeFormJacobianTransform``):

* Dormand and Prince's method without the reuse of a step's last evaluation as the next one's
  first: seven evaluations a step, where six would do. The first step tried is the whole time.
* A step is accepted by the largest error of the batch over its tolerance, which is stricter than
  the root mean square that torchdiffeq and our solver go by, ...
* ... but the log-determinant is integrated at a hundredth of its size, so that its own tolerance
  is up to a hundred times looser.
* The gradient evaluates accepted steps once more, with the adjoint's equations (Zhuang et al. 2020,
  arXiv:2006.02493): memory does not grow with their number.

Sampling leaves the trace out. Its CNF has a network of its own as well, with ELU and the time as
sines and cosines; here the network is ours, see :mod:`flows.peers.continuous`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flows.base import global_noise_from
from flows.config import Entry
from flows.peers.continuous import BlockwisePeerFlow, ContinuousPeerConfig
from flows.peers.zuko import load_zuko

__all__ = ["ENTRIES", "ZukoFFJORDConfig"]


class ZukoFFJORDConfig(ContinuousPeerConfig):
    """Continuous flow of zuko; see :class:`flows.peers.continuous.ContinuousPeerConfig`."""

    def _build(self, event_shape: Sequence[int]) -> BlockwisePeerFlow:
        load_zuko()
        return _ZukoFFJORD(event_shape, self)


class _ZukoFFJORD(BlockwisePeerFlow):
    def _transform(self, index: int, exact: bool) -> Any:
        # As its lazy transforms do: one for each call, with the parameters of the moment.
        config, block = self.config, self.blocks[index]
        return load_zuko().transforms.FreeFormJacobianTransform(
            f=block,
            t0=0.0,
            t1=config.end_time,
            phi=block.parameters(),
            atol=config.atol,
            rtol=config.rtol,
            exact=exact,
        )

    def _follow(
        self,
        index: int,
        z: Tensor,
        *,
        backward: bool,
        exact: bool,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        transform = self._transform(index, exact)
        transform = transform.inv if backward else transform
        with global_noise_from(None if exact else generator, z.device):
            result: tuple[Tensor, Tensor] = transform.call_and_ladj(z)
        return result

    def _follow_back_for_samples(self, index: int, z: Tensor) -> Tensor:
        x: Tensor = self._transform(index, exact=True).inv(z)
        return x


ENTRIES = [
    Entry(
        "zuko/ffjord",
        ZukoFFJORDConfig,
        "continuous flow with the solver, trace and gradient of the library zuko, and our network",
        "Rozet et al. 2022, doi:10.5281/zenodo.7625672; its CNF",
    )
]
