"""FFJORD: a continuous flow with free-form dynamics (Grathwohl et al. 2018, arXiv:1810.01367).

A chain of blocks, each of which moves the data along dz/dt = f(t, z) from t = 0 to t = T, and
accumulates the trace of the dynamics' Jacobian on the way::

    z(T) = x + int_0^T f(t, z) dt,     log |det dz(T)/dx| = int_0^T tr(df/dz) dt.

With the exact trace this is the CNF of Chen et al. 2018 (arXiv:1806.07366), at D Jacobian products
an evaluation; with Hutchinson's estimate, whose noise is drawn once a solve, it is FFJORD, at one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from flows.base import InputError
from flows.config import Entry, Widths
from flows.continuous.base import ContinuousFlow, Passage
from flows.continuous.errors import CostWarning
from flows.continuous.moving_norm import MovingBatchNorm
from flows.continuous.ode.dynamics import Activation, DenseDynamics, LayerKind
from flows.continuous.options import ContinuousConfig
from flows.continuous.transform import ContinuousTransform

__all__ = ["ENTRIES", "FFJORD", "FFJORDConfig"]


class FFJORDConfig(ContinuousConfig):
    """Options of :class:`FFJORD`, besides those of every continuous flow.

    The defaults are the official code's for two-dimensional toy data, but for the trace, which
    is estimated, and the end time, which is that of the other experiments: on toy data it learns
    several times faster than 0.5.

    With a bottleneck of k the hidden layers run down to it and up from it (hidden 64-64-128 and
    k = 5 give 64-64-128-5-128-64-64, Figure 4 of the paper); the noise then has that width.
    """

    version: ClassVar[int] = 2

    hidden: Widths = Field(
        default=(64, 64, 64),
        description="widths of the hidden layers of the dynamics; with a bottleneck, of those "
        "above it",
    )
    layers: LayerKind = Field(default="concatsquash", description="how the layers depend on time")
    activation: Activation = Field(default="tanh", description="nonlinearity of the dynamics")
    residual: bool = Field(
        default=False,
        description="whether the velocity is the network's value minus the state, whose trace is "
        "known and not estimated",
    )
    bottleneck: PositiveInt | None = Field(
        default=None, description="width of a layer in the middle of the dynamics; none for none"
    )
    blocks: PositiveInt = Field(
        default=1, description="how many continuous transforms follow one another"
    )
    batch_norm: bool = Field(
        default=False,
        description="whether moving batch norm goes before, between and after the blocks",
    )

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> FFJORD:
        return FFJORD(event_shape, context_features, self)


class FFJORD(ContinuousFlow):
    """A chain of continuous transforms over vectors.

    Args:
        event_shape: shape of one datum; images are flattened.
        context_features: width of the context; 0 for none.
        config: the options; the defaults if None.
        dynamics: modules to use instead of the config's network, one for each block; see
            :class:`flows.continuous.ode.field.Dynamics`.

    Raises:
        InputError: if the number of given dynamics is not the config's number of blocks.

    Example:
        >>> flow = FFJORD((2,), config=FFJORDConfig(hidden=(8,), blocks=2))
        >>> flow.log_prob(torch.zeros(3, 2), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        context_features: int = 0,
        config: FFJORDConfig | None = None,
        dynamics: Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__(event_shape, context_features)
        self.dimension = self.event_shape.numel()
        self.config = config = FFJORDConfig() if config is None else config
        self.traits = config.traits
        if config.bottleneck is not None and config.bottleneck > self.dimension:
            warnings.warn(
                f"a bottleneck of {config.bottleneck} is wider than the data's {self.dimension} "
                "dimensions: noise of its width makes the trace's estimate more variable, not less",
                CostWarning,
                stacklevel=2,
            )
        if dynamics is None:
            dynamics = [
                DenseDynamics(
                    self.dimension,
                    config.hidden,
                    layers=config.layers,
                    activation=config.activation,
                    bottleneck=config.bottleneck,
                    context_features=context_features,
                    residual=config.residual,
                )
                for _ in range(config.blocks)
            ]
        if len(dynamics) != config.blocks:
            raise InputError(
                f"got {len(dynamics)} dynamics for {config.blocks} blocks: give one for each"
            )
        self.blocks = nn.ModuleList(
            ContinuousTransform(module, config, f"block {index}")
            for index, module in enumerate(dynamics)
        )
        self.norms = nn.ModuleList(
            MovingBatchNorm(self.dimension)
            for _ in range(config.blocks + 1 if config.batch_norm else 0)
        )

    @property
    def _first(self) -> ContinuousTransform:
        return cast(ContinuousTransform, self.blocks[0])

    @property
    def _chain(self) -> list[nn.Module]:
        """Blocks and norms in the order in which data pass them."""
        if not len(self.norms):
            return [*self.blocks]
        first, *others = self.norms
        pairs = zip(self.blocks, others, strict=True)
        return [first, *(part for pair in pairs for part in pair)]

    def _state(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def _travel(self, x: Tensor, passage: Passage) -> Tensor:
        z = self._state(x)
        for part in self._chain:
            z = passage.through(part, z)
        return z.reshape(x.shape)

    def _travel_back(self, z: Tensor, passage: Passage) -> Tensor:
        x = z.flatten(1)
        for part in reversed(self._chain):
            x = passage.through(part, x)
        return x.reshape(z.shape)

    @torch.no_grad()
    def initialize(self, batch: Tensor, context: Tensor | None = None) -> None:
        """Set the moving batch norms' statistics from a batch; without them, do nothing."""
        super().initialize(batch, context)
        if not len(self.norms) or not len(batch):
            return
        z = self._state(batch)
        passage = Passage(context, z.new_zeros(len(z)), traced=False)
        for part in self._chain:
            training = part.training
            if isinstance(part, MovingBatchNorm):
                part.initialize(z)
                part.eval()
            z = passage.through(part, z)
            part.train(training)


_CODE = "Grathwohl et al. 2018, arXiv:1810.01367; settings of the official code, "

ENTRIES = [
    Entry(
        "ffjord",
        FFJORDConfig,
        "continuous flow, free-form dynamics, Hutchinson's trace estimator",
        "Grathwohl et al. 2018, arXiv:1810.01367",
    ),
    Entry(
        "ffjord-toy",
        FFJORDConfig,
        "FFJORD for two-dimensional toy data, exact trace",
        _CODE + "train_toy.py (layers concatsquash; the paper's appendix C says concat)",
        {"end_time": 0.5, "trace": "exact"},
    ),
    # The tabular hidden widths, blocks and nonlinearities are those of the paper's Table 4. The
    # layers are concatsquash, the official code's default, where the paper says concat.
    *(
        Entry(
            f"ffjord-{name}",
            FFJORDConfig,
            f"FFJORD for {name.upper()}",
            _CODE + "train_tabular.py; widths, blocks and nonlinearity of the paper's Table 4",
            {
                "hidden": hidden,
                "activation": activation,
                "blocks": blocks,
                "atol": 1e-8,
                "rtol": 1e-6,
            },
        )
        for name, hidden, activation, blocks in (
            ("power", (60, 60, 60), "tanh", 5),
            ("gas", (160, 160, 160), "tanh", 5),
            ("hepmass", (210, 210), "softplus", 10),
            ("miniboone", (860, 860), "softplus", 1),
            ("bsds300", (1260, 1260, 1260), "softplus", 2),
        )
    ),
    Entry(
        "cnf-exact",
        FFJORDConfig,
        "continuous flow with the exact trace, D Jacobian products an evaluation",
        "Chen et al. 2018, arXiv:1806.07366, section 4",
        {"trace": "exact"},
    ),
]
