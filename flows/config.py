"""Typed options of a flow, and its entries: what a matrix file may say, checked before a run."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PositiveInt

from flows.base import Flow, Traits

__all__ = ["Entry", "FlowConfig", "Widths"]

# TOML and JSON have lists only; the type is a tuple so that a config is immutable and hashable.
Widths = Annotated[
    tuple[PositiveInt, ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]
"""Widths of a network's hidden layers, from input to output."""


class FlowConfig(BaseModel, abc.ABC):
    """Options of one system. Each system's file defines its own, beside the system.

    Strict: an unknown option, or a value of another type, is an error that names it. Each option
    is a ``Field`` with a default and a description, one line, which ``describe`` shows.

    Attributes:
        version: of the system, of all entries made of it. Raised by hand with a change after which
            its results or its costs no longer compare with those before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: ClassVar[int] = 1

    @property
    @abc.abstractmethod
    def traits(self) -> Traits:
        """What the literature's comparisons list of the flow that :meth:`build` makes."""

    @abc.abstractmethod
    def build(self, event_shape: Sequence[int], context_features: int = 0) -> Flow:
        """Make the flow, with fresh weights from torch's global generator.

        Args:
            event_shape: shape of one datum.
            context_features: width of the context; 0 for none.

        Returns:
            An untrained flow in torch's default dtype on the CPU.

        Raises:
            FlowError: if the system cannot model events of that shape; the message says why.
        """


@dataclass(frozen=True)
class Entry:
    """A named flow: a system, or a system with the settings of a paper.

    Attributes:
        name: as given in a matrix file.
        config_class: the class of its typed options.
        summary: one line for ``list flows``.
        source: the paper, with the section or table that the options come from.
        options: what differs from the config's defaults.
        remark: what whoever reads its results must know, where they come of a fault of another
            library's; one sentence, or nothing.
        origin: where an entry from outside the project comes from, with its version or the hash
            of its file; empty for the project's own. Set by :func:`flows.registry.add`.
    """

    name: str
    config_class: type[FlowConfig]
    summary: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    remark: str = ""
    origin: str = ""

    @property
    def config(self) -> FlowConfig:
        """The typed options as they are if nothing is changed."""
        return self.config_class.model_validate(dict(self.options))
