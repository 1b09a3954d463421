"""Typed options of a flow: what a matrix file may say, checked before anything runs."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PositiveInt

from flows.base import Flow

__all__ = ["FlowConfig", "Widths"]

# TOML and JSON have lists only; the type is a tuple so that a config is immutable and hashable.
Widths = Annotated[
    tuple[PositiveInt, ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]
"""Widths of a network's hidden layers, from input to output."""


class FlowConfig(BaseModel, abc.ABC):
    """Options of one system. Each system's file defines its own, beside the system.

    Strict: an unknown option, or a value of another type, is an error that names it.

    Attributes:
        version: of the system, of all entries made of it. Raised by hand with a change after which
            its results or its costs no longer compare with those before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: ClassVar[int] = 1

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
