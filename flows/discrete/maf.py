"""Masked autoregressive flow (MAF): density in one pass a layer, samples feature by feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from flows.base import Flow, Traits, dimension_of
from flows.config import Entry, FlowConfig
from flows.discrete.layers.autoregressive import AUTOREGRESSIVE_TRAITS, MADE, Autoregressive
from flows.discrete.layers.bases import MixtureMADE
from flows.discrete.layers.chain import ChainFlow
from flows.discrete.layers.elementwise import LOG_SCALE_BOUND, Affine, LogScaleBound
from flows.discrete.layers.norm import BatchNorm
from flows.discrete.layers.transform import Transform
from flows.networks import ConditionerActivation, ConditionerWidths

__all__ = ["ENTRIES", "MAFConfig"]


class MAFConfig(FlowConfig):
    """Masked autoregressive flow.

    Masked Autoregressive Flow for Density Estimation (Papamakarios, Pavlakou and Murray 2017,
    arXiv:1705.07057), section 3.1: each layer is a Gaussian autoregressive model whose random
    numbers the next layer models, in reversed order. Unlike there a layer's log-scales are bounded,
    see :data:`flows.discrete.layers.elementwise.LOG_SCALE_BOUND`. With ``components``, an
    autoregressive mixture of Gaussians takes the standard normal's place as base (MAF MoG, section
    4.1).

    Example:
        >>> flow = MAFConfig(layers=2).build(event_shape=(3,))
        >>> flow.sample(5).shape
        torch.Size([5, 3])
    """

    version: ClassVar[int] = 2
    traits: ClassVar[Traits] = AUTOREGRESSIVE_TRAITS

    layers: PositiveInt = Field(default=5, description="number of autoregressive layers")
    hidden: ConditionerWidths = (64, 64)
    activation: ConditionerActivation = "relu"
    log_scale_bound: LogScaleBound = LOG_SCALE_BOUND
    batch_norm: bool = Field(
        default=False, description="whether batch normalisation follows each layer, as in the paper"
    )
    components: NonNegativeInt = Field(
        default=0,
        description="Gaussians in each conditional of a mixture base; 0: standard normal base",
    )

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> Flow:
        dimension = dimension_of(event_shape)

        def conditioner(layer: int, parameter_count: int) -> MADE:
            return MADE(
                dimension,
                context_features,
                self.hidden,
                parameter_count,
                self.activation,
                reverse=layer % 2 == 1,
            )

        affine = Affine(self.log_scale_bound, shift_first=True)
        transforms: list[Transform] = []
        for layer in range(self.layers):
            transforms.append(Autoregressive(conditioner(layer, affine.parameter_count), affine))
            if self.batch_norm:
                transforms.append(BatchNorm(dimension))
        base = None
        if self.components:
            made = conditioner(self.layers, MixtureMADE.parameter_count(self.components))
            base = MixtureMADE(made, event_shape, self.components)
        return ChainFlow(event_shape, context_features, transforms, self.traits, base)


# The paper's log-scales have no bound: one next to none.
_EXPERIMENTS = {"hidden": (100, 100), "log_scale_bound": 5.0}
_PAPER = "Papamakarios, Pavlakou and Murray 2017, arXiv:1705.07057"

ENTRIES = [
    Entry(
        "maf",
        MAFConfig,
        "masked autoregressive layers, order reversed from one to the next",
        _PAPER,
    ),
    Entry(
        "maf-mog",
        MAFConfig,
        "MAF whose base is an autoregressive mixture of Gaussians",
        f"{_PAPER}, section 4.1",
        {"components": 10},
    ),
    # Settings of the paper. The networks' widths are those for POWER and GAS; the larger sets of
    # its experiments have hidden = [512, 512].
    *(
        Entry(
            f"maf-{layers}",
            MAFConfig,
            f"MAF with {layers} layers, as in MAF's experiments",
            f"{_PAPER}, section 4 and appendix D",
            {**_EXPERIMENTS, "batch_norm": True, "layers": layers},
        )
        for layers in (5, 10)
    ),
    Entry(
        "maf-mog-5",
        MAFConfig,
        "MAF with 5 layers and a mixture base, as in MAF's experiments",
        f"{_PAPER}, section 4",
        {**_EXPERIMENTS, "batch_norm": True, "layers": 5, "components": 10},
    ),
    Entry(
        "made",
        MAFConfig,
        "one masked autoregressive layer with Gaussian conditionals",
        "Germain et al. 2015, arXiv:1502.03509; settings of arXiv:1705.07057, section 4",
        {**_EXPERIMENTS, "layers": 1},
    ),
]
