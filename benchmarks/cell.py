"""A cell: one contestant's training, with everything that determines its result.

Its key is the hash of that, without what is as it comes: of the options of flow, data set and
budget those count that differ from the defaults of their classes, so that a new option with a
neutral default orphans no record. A default whose *value* changes, like all other changes of code,
changes a key by a version that is raised by hand (:mod:`benchmarks.versions`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache, cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_core import to_jsonable_python

import datasets
import flows
from benchmarks.versions import versions_of
from datasets.own import OwnConfig

__all__ = [
    "SCHEMA",
    "Budget",
    "Cell",
    "Contestant",
    "DType",
    "Devices",
    "Strict",
    "Threads",
    "defaults_of",
]

SCHEMA = 3
"""Version of cells and records. Raising it makes every cell a new one."""

DType = Literal["float32", "float64"]
Threads = Annotated[int, Field(gt=0, le=4096)]
Devices = Annotated[int, Field(gt=0, le=1024)]


class Strict(BaseModel):
    """Base of what is read from a matrix file: unknown keys and other types are errors.

    So are numbers that are not finite.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Budget(Strict):
    """The one training rule: the same for every contestant of a study, unless its item says other.

    Training ends at the first bound reached, so that contestants can be compared at equal steps,
    equal time or equal work.
    """

    steps: NonNegativeInt | None = Field(1000, description="optimiser steps; 0 for none at all")
    seconds: PositiveFloat | None = Field(None, description="training seconds, evaluation apart")
    nfe: PositiveInt | None = Field(
        None,
        description="network evaluations of the training steps (flows.meter), validations apart: "
        "each pass through a conditioner counts 1, so that a step of RealNVP with 10 couplings "
        "counts 10, and D for a network that is inverted one dimension after another; each "
        "evaluation of an ODE's right-hand side counts 1, those of the backward pass (adjoint or "
        "recomputation) too; backpropagation itself counts nothing, and a network counts 1 "
        "whatever its size",
    )
    batch_size: PositiveInt = Field(256, description="rows a step")
    optimizer: Literal["adam", "adamw", "adamax"] = Field("adam", description="update rule")
    learning_rate: PositiveFloat = Field(
        1e-3, description="peak learning rate; in a matrix file, a list is a grid that is tuned"
    )
    weight_decay: NonNegativeFloat = Field(0.0, description="decay, as the optimiser defines it")
    schedule: Literal["constant", "cosine"] = Field(
        "cosine", description="of the learning rate, over the part of the budget used"
    )
    warmup_steps: NonNegativeInt = Field(0, description="steps of linear warm-up")
    clip_norm: PositiveFloat | None = Field(5.0, description="gradient norm is clipped to this")
    validate_every: PositiveInt = Field(100, description="steps between validations")
    validation_rows: PositiveInt = Field(5000, description="first rows used to validate")
    patience: PositiveInt | None = Field(
        None, description="validations without gain before training ends"
    )
    compile: bool = Field(
        False,
        description="torch.compile a training step; on CUDA, a CUDA graph (Flow.compiled_loss)",
    )

    @model_validator(mode="after")
    def _bounded(self) -> Budget:
        if self.steps is None and self.seconds is None and self.nfe is None:
            raise ValueError("a budget needs a bound: give steps, seconds or nfe")
        if self.compile and self.nfe is not None:
            raise ValueError(
                "a step compiled whole counts no network evaluations: bound it otherwise"
            )
        return self


class Contestant(Strict):
    """A flow by its catalog name, with all its options, defaults filled in."""

    flow: str
    flow_options: Mapping[str, Any]

    @cached_property
    def label(self) -> str:
        """Name with the options that differ from the catalog's, as ``ffjord[bottleneck=8]``."""
        return _label(self.flow, self.flow_options, flows)

    def config(self) -> flows.FlowConfig:
        """The typed options."""
        return flows.configure(self.flow, self.flow_options)


# JSON knows lists only.
_as_tuple = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)


class Cell(Strict):
    """One contestant's training, with everything that determines its result.

    Attributes:
        flow: catalog name.
        flow_options: all options of the flow, defaults filled in.
        dataset: catalog name.
        dataset_options: all options of the data set, defaults filled in.
        seed: of weights, batch order and estimator noise; the data do not depend on it.
        budget: the training rule; of a tuned cell with the least rate of the grid.
        learning_rates: the grid of a tuned cell, rising; empty for one rate, the budget's.
        measures: families to measure.
        device: ``cpu`` or ``cuda``.
        threads: of the process, for operations on the CPU.
        dtype: of the flow and the data.
        devices: how many train the flow, each with its share of every batch; the cost is measured
            on one.
        reference: a contestant against which this one is timed in interleaved pairs.
    """

    flow: str
    flow_options: Mapping[str, Any]
    dataset: str
    dataset_options: Mapping[str, Any]
    seed: NonNegativeInt
    budget: Budget
    learning_rates: Annotated[tuple[PositiveFloat, ...], _as_tuple] = ()
    measures: Annotated[tuple[str, ...], _as_tuple]
    device: Literal["cpu", "cuda"]
    threads: Threads
    dtype: DType = "float32"
    devices: Devices = 1
    reference: Contestant | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Cell:
        """The same grid is the same cell, however it is written."""
        if rates := self.learning_rates:
            if len(rates) < 2 or rates != tuple(sorted(set(rates))):
                raise ValueError("a grid of learning rates has two or more, each once, rising")
            if self.budget.learning_rate != rates[0]:
                raise ValueError("the budget of a tuned cell has the least rate of its grid")
        return self

    @model_validator(mode="after")
    def _divisible(self) -> Cell:
        if self.devices > 1 and self.budget.compile:
            raise ValueError("devices: a step that is compiled whole is trained on one")
        if self.devices > self.budget.batch_size:
            raise ValueError(
                f"devices = {self.devices} cannot divide a batch of {self.budget.batch_size} rows"
            )
        return self

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits: for the cell, the schema and the versions of the code."""
        document = {"schema": SCHEMA, "versions": versions_of(self), "cell": self.identity}
        text = json.dumps(document, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def identity(self) -> str:
        """What makes the cell as text, the same whatever the versions of the code.

        Left out is what is as the classes of the options and of the cell have it. An entry's own
        options stand in it, so that a preset that changes makes other cells. A user's own file
        counts by what it holds, not by its name.
        """
        document = self.model_dump(mode="json", exclude_defaults=True)
        document["flow_options"] = _changed(flows.ENTRIES.get(self.flow), self.flow_options)
        options = _changed(datasets.ENTRIES.get(self.dataset), self.dataset_options)
        document["dataset_options"] = options | _contents(self.dataset, self.dataset_options)
        if (reference := self.reference) is not None:
            options = _changed(flows.ENTRIES.get(reference.flow), reference.flow_options)
            document["reference"]["flow_options"] = options
        return json.dumps(document, sort_keys=True, allow_nan=False)

    def at_rate(self, learning_rate: float) -> Cell:
        """The same cell with one learning rate and no grid."""
        document = self.model_dump()
        document["budget"]["learning_rate"] = learning_rate
        return Cell.model_validate({**document, "learning_rates": ()})

    @cached_property
    def flow_label(self) -> str:
        """As :attr:`Contestant.label`."""
        return _label(self.flow, self.flow_options, flows)

    @cached_property
    def contestant(self) -> Contestant:
        """The flow with its options."""
        return Contestant(flow=self.flow, flow_options=self.flow_options)

    @cached_property
    def dataset_label(self) -> str:
        """Name with the options that differ from the catalog's, as ``power[rows=20000]``."""
        return _label(self.dataset, self.dataset_options, datasets)

    def __str__(self) -> str:
        return f"{self.flow_label} on {self.dataset_label}, seed {self.seed}"

    def dataset_config(self) -> datasets.DatasetConfig:
        """The typed options of the data set."""
        return datasets.configure(self.dataset, self.dataset_options)


@cache
def defaults_of(config_class: type[BaseModel]) -> dict[str, Any]:
    """Each option that has a default, with that default as JSON has it."""
    return {
        name: to_jsonable_python(field.get_default(call_default_factory=True))
        for name, field in config_class.model_fields.items()
        if not field.is_required()
    }


def _changed(
    entry: flows.Entry | datasets.Entry | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The options that differ from their class's defaults; all of an entry that is not here."""
    usual = defaults_of(entry.config_class) if entry is not None else {}
    return {
        name: value
        for name, value in options.items()
        if not (name in usual and usual[name] == value)
    }


def _contents(name: str, options: Mapping[str, Any]) -> dict[str, str]:
    """The options that name a user's own files, each with the hash of what its file holds."""
    entry = datasets.ENTRIES.get(name)
    if entry is None or not issubclass(entry.config_class, OwnConfig):
        return {}
    return entry.config_class.file_contents(options)


def _label(name: str, options: Mapping[str, Any], catalog: Any) -> str:
    """Name and changed options; all options where the plugin that knows the name is not here."""
    usual = {}
    if (entry := catalog.ENTRIES.get(name)) is not None:
        usual = defaults_of(entry.config_class) | to_jsonable_python(dict(entry.options))
    changed = [
        f"{option}={'-'.join(map(str, value)) if isinstance(value, list) else value}"
        # In the config's order, since a record's options come back in another.
        for option, value in {**usual, **options}.items()
        if value != usual.get(option)
    ]
    return f"{name}[{','.join(changed)}]" if changed else name
