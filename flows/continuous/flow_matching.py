"""FFJORD's field, trained by flow matching instead of likelihood.

Flow matching (Lipman et al. 2022, arXiv:2210.02747; the linear paths of its section 4.1 with
sigma_min = 0, as in rectified flow, arXiv:2209.03003) fixes the path that the field has to follow
and regresses on its velocity, so that a training step solves nothing. With data x, noise e and a
way s from 0 to 1 that the whole chain of K blocks of length T covers::

    z(s) = (1 - s) x + s e,      loss = E (1/D) || K T f_k(t, z(s)) - (e - x) ||^2,

block k having the part of the way from k/K to (k+1)/K, at its own times t = (K s - k) T. The
minimum is the field that carries the data's density to the base's. Densities, samples and their
cost are those of :class:`flows.continuous.ffjord.FFJORD`: only :meth:`loss` differs.

How a batch's data and noise are paired is free. Pairs of least cost in the batch (Tong et al. 2023,
arXiv:2302.00482, section 3.3; Pooladian et al. 2023, arXiv:2304.14772) give straighter ways and a
loss of less variance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from flows.base import InputError, Loss
from flows.config import Entry
from flows.continuous.ffjord import FFJORD, FFJORDConfig
from flows.continuous.ode.dynamics import DenseDynamics
from flows.continuous.transform import ContinuousTransform
from flows.meter import tick

__all__ = ["ENTRIES", "FlowMatching", "FlowMatchingConfig"]

Pairs = Literal["independent", "least_cost"]


class FlowMatchingConfig(FFJORDConfig):
    """Options of :class:`FlowMatching`: those of FFJORD, and how data and noise are paired.

    Trace, solver and tolerances serve densities and samples alone.
    """

    pairs: Pairs = Field(
        default="independent",
        description="of data and noise: as drawn, or those of least squared distance in the batch "
        "(minibatch optimal transport; cubic in the batch's rows, on the host)",
    )

    @model_validator(mode="after")
    def _solves_nothing(self) -> Self:
        refused = [*self.regularizers]
        refused += ["learned_end_time"] * self.learned_end_time + ["batch_norm"] * self.batch_norm
        if refused:
            raise ValueError(
                f"{', '.join(refused)}: flow matching solves nothing in training, so that nothing "
                "along a solution can be regularised or learned; leave it out, or take `ffjord`"
            )
        return self

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> FlowMatching:
        return FlowMatching(event_shape, context_features, self)


class FlowMatching(FFJORD):
    """A chain of continuous transforms over vectors, trained by flow matching.

    Args:
        event_shape: shape of one datum; images are flattened.
        context_features: width of the context; 0 for none.
        config: the options; the defaults if None.

    Example:
        >>> flow = FlowMatching((2,), config=FlowMatchingConfig(hidden=(8,), blocks=2))
        >>> flow.loss(torch.zeros(6, 2), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        context_features: int = 0,
        config: FlowMatchingConfig | None = None,
    ) -> None:
        config = FlowMatchingConfig() if config is None else config
        super().__init__(event_shape, context_features, config)
        self.pairs = config.pairs

    @property
    def indivisible(self) -> str:
        return "flow matching gives each block a part of the batch, and pairs its rows"

    @property
    def loss_is_nll(self) -> bool:
        return False

    def loss(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The mean squared error of the velocities on the way from data to noise.

        Each block gets an equal part of the batch, at uniform times; one evaluation of each
        block's dynamics.

        Args:
            x: data, shape ``(n, *event_shape)``, at least one row a block.
            context: shape ``(n, context_features)``, or None.
            generator: source of noise and times; None for torch's global one.

        Returns:
            A scalar, squared units of the data a dimension; not an NLL.

        Raises:
            InputError: if a tensor has the wrong shape, dtype or device, or too few rows.
        """
        self._check(x, context, "x")
        count = len(self.blocks)
        if len(x) < count:
            raise InputError(
                f"flow matching gives each of {count} blocks a part of the batch, which has "
                f"{len(x)} rows: give more"
            )
        x = x.flatten(1)
        noise = self.base.sample(len(x), context, generator=generator).flatten(1)
        if self.pairs == "least_cost":
            # Not before it is needed: it takes long to import.
            from scipy.optimize import linear_sum_assignment

            # Squared distances differ from -x e^T by what no pairing changes.
            cost = -(x @ noise.T)
            order = linear_sum_assignment(cost.detach().cpu().double().numpy())[1]
            noise = noise[torch.as_tensor(order, device=x.device)]
        times = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
        contexts = [None] * count if context is None else context.tensor_split(count)
        parts = zip(
            cast(Iterable[ContinuousTransform], self.blocks),
            x.tensor_split(count),
            noise.tensor_split(count),
            times.tensor_split(count),
            contexts,
            strict=True,
        )
        errors = []
        for index, (block, data, end, time, given) in enumerate(parts):
            way = ((index + time) / count)[:, None]
            z = torch.lerp(data, end, way)
            length = block.config.end_time
            velocity = cast(DenseDynamics, block.dynamics).at_each(time * length, z, given)
            tick(part=block.name)
            errors.append((velocity * (count * length) - (end - data)).square().mean())
        return torch.stack(errors).mean()

    def compiled_loss(self) -> Loss:
        """:meth:`loss` as it is: it solves nothing that could be compiled."""
        return self.loss


_SOURCE = "Lipman, Chen, Ben-Hamu, Nickel and Le 2022, arXiv:2210.02747, section 4.1"

ENTRIES = [
    Entry(
        "ffjord-fm",
        FlowMatchingConfig,
        "FFJORD's field trained by flow matching, which solves nothing in training",
        _SOURCE,
    ),
    Entry(
        "ffjord-fm-ot",
        FlowMatchingConfig,
        "the same with pairs of least cost in each batch (minibatch optimal transport)",
        f"Tong et al. 2023, arXiv:2302.00482, section 3.3; {_SOURCE}",
        {"pairs": "least_cost"},
    ),
]
