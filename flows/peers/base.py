"""What the wrappers of other libraries' flows share.

A peer is a library's stock layers, put together as the library's own flow would be, with the
architecture of ours: the same number of layers, conditioners of the same widths, orders and
halves that alternate. The weights' initial values, the bounds of the scales and the handling of
numbers are the library's own; the base density is ours, the standard normal, since some
libraries' bases cannot change dtype. Peers take vectors (images are flattened) and no context.
"""

from __future__ import annotations

import abc
import importlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from flows.base import Flow, FlowError, InputError, Traits, VectorFlow, dimension_of
from flows.config import Entry, FlowConfig, Widths
from flows.discrete.layers.autoregressive import AUTOREGRESSIVE_TRAITS
from flows.discrete.layers.coupling import COUPLING_TRAITS
from flows.meter import tick

__all__ = ["IgnoreContext", "MissingLibrary", "PeerConfig", "PeerFlow", "System", "entries", "load"]

System = Literal["realnvp", "maf", "rqnsf-c", "rqnsf-ar"]
"""The systems that the libraries have in common with this one."""

_TRAITS: dict[System, Traits] = {
    "realnvp": COUPLING_TRAITS,
    "rqnsf-c": COUPLING_TRAITS,
    "maf": AUTOREGRESSIVE_TRAITS,
    "rqnsf-ar": AUTOREGRESSIVE_TRAITS,
}


class MissingLibrary(FlowError, ImportError):
    """A peer's library is not installed; the message says how to install it."""


def load(module: str, extra: str = "peers") -> Any:
    """Import a module of a peer's library, which an extra of this project brings.

    Raises:
        MissingLibrary: if the library is not installed.

    Example:
        >>> load("math").pi
        3.141592653589793
    """
    library = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise MissingLibrary(
            f"this flow is one of the library {library}, which is not installed: "
            f"pip install {library}, or install ffjord-bench[{extra}]"
        ) from error


class IgnoreContext(nn.Module):
    """A network for a library that hands its conditioners a context, which there is none of.

    Args:
        network: from ``(n, inputs)`` to ``(n, outputs)``.
        hidden_features: the width of its last hidden layer, by whose root the libraries' splines
            scale their logits.
    """

    def __init__(self, network: nn.Module, hidden_features: int) -> None:
        super().__init__()
        self.network = network
        self.hidden_features = hidden_features

    def forward(self, value: Tensor, context: None = None) -> Tensor:
        """The network's result."""
        result: Tensor = self.network(value)
        return result


class PeerFlow(VectorFlow):
    """A flow of another library behind the contract.

    Passes are counted where the library calls its conditioners, which may be more often than the
    system's definition asks for.

    Args:
        event_shape: shape of one datum.
        layers: number of layers, each with one conditioner.
        peer: the library's module.
        traits: of the flow.

    Attributes:
        conditioner_names: by which the library's layers call their conditioners.
    """

    conditioner_names: Collection[str]
    # What libraries do in Python besides may break a graph.
    one_graph = False

    def __init__(
        self,
        event_shape: Sequence[int],
        layers: int,
        peer: nn.Module,
        traits: Traits,
    ) -> None:
        super().__init__(event_shape)
        self.traits = traits
        self.peer = peer
        conditioners = [
            module
            for name, module in peer.named_modules()
            if name.rpartition(".")[2] in self.conditioner_names
        ]
        assert len(conditioners) == layers, "the library calls its conditioners otherwise"
        for conditioner in conditioners:
            conditioner.register_forward_pre_hook(_tick)

    def _forth(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data ``(n, D)`` to latent and ``log |det dz/dx|`` by the library."""
        result: tuple[Tensor, Tensor] = self.peer(x)
        return result

    def _back(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latent ``(n, D)`` to data and ``log |det dx/dz|`` by the library."""
        inverse: Any = self.peer.inverse
        result: tuple[Tensor, Tensor] = inverse(z)
        return result

    def _encode_vector(
        self, x: Tensor, context: Tensor | None, *, exact: bool, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        return self._forth(x)

    def _decode_vector(
        self, z: Tensor, context: Tensor | None, *, exact: bool, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        return self._back(z)


def _tick(module: nn.Module, arguments: tuple[Any, ...]) -> None:
    """What runs before each pass of a conditioner."""
    tick()


class PeerConfig(FlowConfig):
    """Options of a peer: those that have the same meaning in every library."""

    system: System = Field(description="which of the library's flows")
    layers: PositiveInt = Field(
        default=8, description="number of couplings or autoregressive layers"
    )
    hidden: Widths = Field(
        default=(64, 64),
        description="widths of each conditioner's hidden layers, with ReLU; all the same width, "
        "where a library knows only one",
    )
    bins: PositiveInt = Field(default=8, description="number of bins of a spline")
    tail_bound: PositiveFloat = Field(
        default=3.0, description="half width of the interval on which a spline acts"
    )

    @property
    def traits(self) -> Traits:
        return _TRAITS[self.system]

    def build(self, event_shape: Sequence[int], context_features: int = 0) -> Flow:
        if context_features:
            raise InputError("a peer is built without context: give context_features = 0")
        dimension = dimension_of(event_shape)
        if dimension < 2:
            raise InputError("a peer needs an event of at least two numbers")
        return self._build(event_shape, dimension)

    @abc.abstractmethod
    def _build(self, event_shape: Sequence[int], dimension: int) -> Flow:
        """The flow, on an event of ``dimension`` numbers, at least two."""

    @property
    def _splines(self) -> dict[str, Any]:
        """The options of splines, as nflows and normflows call them."""
        return {"num_bins": self.bins, "tails": "linear", "tail_bound": self.tail_bound}

    def _one_width(self, library: str) -> int:
        """The width of all hidden layers.

        Raises:
            InputError: if they differ.
        """
        if len(set(self.hidden)) != 1:
            raise InputError(
                f"{library} knows one width for all hidden layers, got {list(self.hidden)}"
            )
        return self.hidden[0]


def entries(
    config_class: type[PeerConfig],
    library: str,
    source: str,
    remarks: Mapping[System, str] | None = None,
) -> list[Entry]:
    """The entries of a library: one for each system, with a system's :attr:`Entry.remark`."""
    summaries: dict[System, str] = {
        "realnvp": "affine couplings",
        "maf": "masked affine autoregressive layers",
        "rqnsf-c": "spline couplings",
        "rqnsf-ar": "autoregressive splines",
    }
    return [
        Entry(
            f"{library}/{system}",
            config_class,
            f"{summary} of the library {library}, as it is",
            source,
            {"system": system},
            (remarks or {}).get(system, ""),
        )
        for system, summary in summaries.items()
    ]
