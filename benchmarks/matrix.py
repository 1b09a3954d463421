"""From a matrix file to cells.

A matrix file names axes: flows, data sets, seeds, budgets. Their product gives cells; a cell is
one contestant's training with everything that determines its result, defaults filled in. The hash
of that is its key: the same key never runs twice, and a default that changes in the code, or a
version raised by hand (:mod:`benchmarks.versions`), changes the key.

Budgets are merged: the matrix's, over it the study's, over it that of a flow's item, so that each
contestant's own learning rate can stand beside it::

    [budget]
    steps = 500
    learning_rate = 1e-2

    [[study]]
    flows = [{ name = "ffjord", budget = { learning_rate = 3e-2 } }, "realnvp"]
    datasets = ["8gaussians"]
    budget = { batch_size = 128 }

A list of learning rates is no axis of the product: it is a grid that is *tuned*. Each cell trains a
fresh flow of the same seed at every rate of it, and the one with the best validation is tested
(:mod:`benchmarks.tune`)::

    budget = { learning_rate = [1e-3, 3e-3, 1e-2] }
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import math
import tomllib
import typing
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

import datasets
import flows
from benchmarks import measures
from benchmarks.errors import MatrixError
from benchmarks.versions import versions_of

__all__ = [
    "SCHEMA",
    "Budget",
    "Cell",
    "Matrix",
    "bundled_matrices",
    "filter_cells",
    "load_matrix",
    "parse_seeds",
]

SCHEMA = 2
"""Version of cells and records. Raising it makes every cell a new one."""

DType = Literal["float32", "float64"]


class Strict(BaseModel):
    """Base of what is read from a matrix file: unknown keys and other types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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
        return _label(self.flow, self.flow_options, flows.configure(self.flow))

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
    threads: PositiveInt
    dtype: DType = "float32"
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

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits: for the cell, the schema and the versions of the code."""
        document = {"schema": SCHEMA, "versions": versions_of(self), "cell": self.identity}
        text = json.dumps(document, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def identity(self) -> str:
        """The cell as text, the same for the same cell whatever the versions of the code."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, allow_nan=False)

    def at_rate(self, learning_rate: float) -> Cell:
        """The same cell with one learning rate and no grid."""
        document = self.model_dump()
        document["budget"]["learning_rate"] = learning_rate
        return Cell.model_validate({**document, "learning_rates": ()})

    @cached_property
    def flow_label(self) -> str:
        """As :attr:`Contestant.label`."""
        return self.contestant.label

    @cached_property
    def contestant(self) -> Contestant:
        """The flow with its options."""
        return Contestant(flow=self.flow, flow_options=self.flow_options)

    @cached_property
    def dataset_label(self) -> str:
        """Name with the options that differ from the catalog's, as ``power[rows=20000]``."""
        return _label(self.dataset, self.dataset_options, datasets.configure(self.dataset))

    def __str__(self) -> str:
        return f"{self.flow_label} on {self.dataset_label}, seed {self.seed}"

    def dataset_config(self) -> datasets.DatasetConfig:
        """The typed options of the data set."""
        return datasets.configure(self.dataset, self.dataset_options)


def _label(name: str, options: Mapping[str, Any], default: BaseModel) -> str:
    usual = default.model_dump(mode="json")
    changed = [
        f"{option}={'-'.join(map(str, value)) if isinstance(value, list) else value}"
        # In the config's order, since a record's options come back in another.
        for option, value in {**usual, **options}.items()
        if value != usual.get(option)
    ]
    return f"{name}[{','.join(changed)}]" if changed else name


# -- the file ---------------------------------------------------------------------------------


class Study(Strict):
    """One block of the matrix: a product of flows, data sets and seeds under one budget."""

    name: str | None = None
    flows: list[str | dict[str, Any]] = Field(min_length=1)
    datasets: list[str | dict[str, Any]] = Field(min_length=1)
    seeds: list[NonNegativeInt] | None = Field(None, min_length=1)
    budget: dict[str, Any] = Field(default_factory=dict)
    measures: list[str] | None = Field(None, min_length=1)
    reference: str | dict[str, Any] | None = None


class MatrixFile(Strict):
    """What a matrix file may hold."""

    name: str
    description: str = ""
    seeds: list[NonNegativeInt] = Field(default=[0], min_length=1)
    threads: PositiveInt = 1
    dtype: DType = "float32"
    measures: list[str] = Field(default_factory=lambda: list(measures.FAMILIES), min_length=1)
    budget: dict[str, Any] = Field(default_factory=dict)
    study: list[Study] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not value.replace("-", "").replace("_", "").isalnum():
            raise ValueError("a matrix's name consists of letters, digits, '-' and '_'")
        return value


class Matrix(BaseModel):
    """A matrix file, resolved: its cells in order, each once.

    Attributes:
        name: names the default folder of the records.
        description: one line for ``list matrices``.
        cells: every cell.
        studies: study name to the keys of its cells.
    """

    name: str
    description: str
    cells: list[Cell]
    studies: dict[str, list[str]]


def bundled_matrices() -> dict[str, Traversable]:
    """The matrix files that ship with the project, by name."""
    folder = resources.files("benchmarks") / "matrices"
    found = (item for item in folder.iterdir() if item.name.endswith(".toml"))
    return {item.name.removesuffix(".toml"): item for item in sorted(found, key=lambda i: i.name)}


def load_matrix(
    name_or_path: str,
    *,
    device: Literal["cpu", "cuda"] = "cpu",
    seeds: Sequence[int] | None = None,
) -> Matrix:
    """Read a matrix and make its cells.

    Args:
        name_or_path: name of a bundled matrix, or path of a file that ends in ``.toml``.
        device: where the cells are to run.
        seeds: instead of the file's.

    Returns:
        The resolved matrix.

    Raises:
        MatrixError: if there is no such matrix, or anything in it is wrong.
    """
    source: Traversable | Path
    bundled = bundled_matrices()
    if name_or_path.endswith(".toml"):
        source = Path(name_or_path)
        if not source.is_file():
            raise MatrixError(f"there is no matrix file {name_or_path}")
        shown = name_or_path
    elif name_or_path in bundled:
        source = bundled[name_or_path]
        shown = f"matrix {name_or_path}"
    else:
        raise MatrixError(f"no matrix is called {name_or_path!r}{_hint(name_or_path, bundled)}")
    try:
        document = tomllib.loads(source.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MatrixError(f"{shown}: not valid TOML: {error}") from error
    try:
        file = MatrixFile.model_validate(document)
    except ValidationError as error:
        raise MatrixError(_explain(shown, (), error)) from error
    return _resolve(file, shown, device, seeds)


def _resolve(
    file: MatrixFile,
    shown: str,
    device: Literal["cpu", "cuda"],
    seeds: Sequence[int] | None,
) -> Matrix:
    cells: dict[str, Cell] = {}
    studies: dict[str, list[str]] = {}
    _budget(shown, [(("budget",), file.budget)])
    for number, study in enumerate(file.study, start=1):
        place = ("study", number)
        layers = [(("budget",), file.budget), ((*place, "budget"), study.budget)]
        _budget(shown, layers)
        families = study.measures or file.measures
        for family in families:
            if family not in measures.FAMILIES:
                raise MatrixError(
                    f"{shown}: {_place((*place, 'measures'))}: no measure is called {family!r}"
                    f"{_hint(family, measures.FAMILIES)}"
                )
        flow_axis = []
        for index, item in enumerate(study.flows, start=1):
            here = (*place, "flows", index)
            options, own = _own_budget(item, shown, here)
            rule = _budget(shown, [*layers, ((*here, "budget"), own)])
            flow_axis += [(*found, *rule) for found in _configure(options, flows, shown, here)]
        dataset_axis = [
            resolved
            for index, item in enumerate(study.datasets, start=1)
            for resolved in _configure(item, datasets, shown, (*place, "datasets", index))
        ]
        reference = None
        if study.reference is not None:
            found = _configure(study.reference, flows, shown, (*place, "reference"))
            if len(found) != 1:
                raise MatrixError(
                    f"{shown}: {_place((*place, 'reference'))}: one flow was expected, and "
                    "a list among its options makes several"
                )
            reference = Contestant(flow=found[0][0], flow_options=found[0][1])
        name = study.name or f"study-{number}"
        if name in studies:
            raise MatrixError(f"{shown}: {_place(place)}: another study is called {name!r} too")
        studies[name] = []
        for contestant, (dataset, dataset_options), seed in itertools.product(
            flow_axis, dataset_axis, seeds or study.seeds or file.seeds
        ):
            flow, flow_options, budget, rates = contestant
            cell = Cell(
                flow=flow,
                flow_options=flow_options,
                dataset=dataset,
                dataset_options=dataset_options,
                seed=seed,
                budget=budget,
                learning_rates=rates,
                # In the catalog's order, so that the order in the file does not change the key.
                measures=measures.complete(families),
                device=device,
                threads=file.threads,
                dtype=file.dtype,
                reference=reference,
            )
            cells.setdefault(cell.key, cell)
            studies[name].append(cell.key)
    return Matrix(
        name=file.name, description=file.description, cells=list(cells.values()), studies=studies
    )


def _own_budget(
    item: str | dict[str, Any], shown: str, place: tuple[str | int, ...]
) -> tuple[str | dict[str, Any], dict[str, Any]]:
    """An item of the flows without its budget, and the budget."""
    if isinstance(item, str) or "budget" not in item:
        return item, {}
    own = item["budget"]
    if not isinstance(own, dict):
        raise MatrixError(
            f"{shown}: {_place((*place, 'budget'))}: expected a table such as "
            f"{{ learning_rate = 1e-3 }}, got {own!r}"
        )
    return {name: value for name, value in item.items() if name != "budget"}, own


def _budget(
    shown: str, layers: Sequence[tuple[tuple[str | int, ...], dict[str, Any]]]
) -> tuple[Budget, tuple[float, ...]]:
    """Budgets laid over each other to (training rule, grid of learning rates).

    Args:
        shown: how the file is called in messages.
        layers: places and budgets, the last of which counts most; all but it were checked before.
    """
    place = layers[-1][0]
    merged: dict[str, Any] = {}
    for _, layer in layers:
        merged |= layer
    for name, value in merged.items():
        if isinstance(value, list) and name in Budget.model_fields and name != "learning_rate":
            raise MatrixError(
                f"{shown}: {_place((*place, name))}: only learning_rate may be a list in a "
                f"budget, got {value!r}; make a study for each"
            )
    rates: tuple[float, ...] = ()
    if isinstance(merged.get("learning_rate"), list):
        rates = _grid(merged["learning_rate"], shown, (*place, "learning_rate"))
        merged["learning_rate"] = rates[0]
    try:
        budget = Budget.model_validate(merged)
    except ValidationError as error:
        raise MatrixError(_explain(shown, place, error)) from error
    if rates and budget.steps == 0:
        raise MatrixError(
            f"{shown}: {_place((*place, 'learning_rate'))}: a grid of rates needs training, "
            "and steps = 0 has none; give one rate"
        )
    return budget, rates


def _grid(values: list[Any], shown: str, place: tuple[str | int, ...]) -> tuple[float, ...]:
    """A grid of learning rates, rising."""
    for index, value in enumerate(values, start=1):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            raise MatrixError(
                f"{shown}: {_place((*place, index))}: a learning rate is a number above 0, "
                f"got {value!r}"
            )
        if value in values[: index - 1]:
            raise MatrixError(f"{shown}: {_place((*place, index))}: {value!r} is there already")
    if len(values) < 2:
        raise MatrixError(
            f"{shown}: {_place(place)}: a grid has two learning rates or more, got {values!r}; "
            "write a single one without brackets"
        )
    return tuple(sorted(map(float, values)))


def _configure(
    item: str | dict[str, Any],
    catalog: Any,
    shown: str,
    place: tuple[str | int, ...],
) -> list[tuple[str, dict[str, Any]]]:
    """One item of an axis to (name, all options); a list, of names too, is an axis."""
    options = {"name": item} if isinstance(item, str) else dict(item)
    names = options.pop("name", None)
    resolved = []
    for name in names if isinstance(names, list) else [names]:
        if not isinstance(name, str):
            raise MatrixError(
                f"{shown}: {_place(place)}: expected a table with a name, got {item!r}"
            )
        try:
            entry = catalog.entry(name)
        except (flows.UnknownFlow, datasets.UnknownDataset) as error:
            raise MatrixError(f"{shown}: {_place(place)}: {error}") from error
        fields = entry.config_class.model_fields
        axes = [
            [(option, each) for each in value]
            if _is_axis(value, fields.get(option))
            else [(option, value)]
            for option, value in options.items()
        ]
        for combination in itertools.product(*axes):
            try:
                config = catalog.configure(name, dict(combination))
            except ValidationError as error:
                raise MatrixError(
                    _explain(shown, (*place, name), error, known=list(fields))
                ) from error
            resolved.append((name, config.model_dump(mode="json")))
    return resolved


def _is_axis(value: Any, field: Any) -> bool:
    """A list is an axis, unless the option is itself a sequence and the list its value."""
    if not isinstance(value, list):
        return False
    if field is not None and _takes_sequence(field.annotation):
        return bool(value) and isinstance(value[0], list)
    return True


def _takes_sequence(annotation: Any) -> bool:
    if get_origin(annotation) in (tuple, list):
        return True
    return any(_takes_sequence(part) for part in typing.get_args(annotation))


# -- messages ---------------------------------------------------------------------------------


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
    return f"; did you mean {near[0]!r}?" if near else ""


def _place(location: Iterable[str | int]) -> str:
    return " -> ".join(map(str, location))


def _explain(
    shown: str,
    place: tuple[str | int, ...],
    error: ValidationError,
    known: Sequence[str] | None = None,
) -> str:
    """File, place and what was expected, a line each; the nearest name for an unknown key."""
    if known is None:
        known = [*MatrixFile.model_fields, *Study.model_fields, *Budget.model_fields]
    lines = []
    for item in error.errors(include_url=False):
        # Positions in lists are counted from 1, as people do.
        location = [part + 1 if isinstance(part, int) else part for part in item["loc"]]
        where = _place((*place, *location)) or "top level"
        if item["type"] == "extra_forbidden":
            lines.append(f"{shown}: {where}: unknown key{_hint(str(item['loc'][-1]), known)}")
        elif item["type"] == "missing":
            lines.append(f"{shown}: {where}: is missing")
        else:
            lines.append(f"{shown}: {where}: {item['msg']}, got {item['input']!r}")
    return "\n".join(lines)


# -- choosing cells ---------------------------------------------------------------------------


def parse_seeds(text: str) -> list[int]:
    """Seeds from text such as ``0-4`` or ``0,2,5-7``.

    Raises:
        MatrixError: for anything else.

    Example:
        >>> parse_seeds("0-2,7")
        [0, 1, 2, 7]
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise MatrixError(f"seeds {text!r}: expected numbers and ranges such as 0-4 or 0,2,5")
        numbers = range(int(first), int(last or first) + 1)
        if not numbers:
            raise MatrixError(f"seeds {text!r}: the range {part.strip()} is empty")
        seeds.extend(number for number in numbers if number not in seeds)
    return seeds


def filter_cells(matrix: Matrix, text: str) -> list[Cell]:
    """The cells that a filter such as ``flow=ffjord,maf;dataset=power`` keeps.

    Args:
        matrix: the resolved matrix.
        text: axes ``flow``, ``dataset``, ``study`` and ``seed``, separated by semicolons, each
            with the values to keep. A flow or data set is meant by its name (all variants) or by
            its label (one variant).

    Returns:
        The cells kept, in the matrix's order.

    Raises:
        MatrixError: for an axis or a value that the matrix does not have.
    """
    study_of: dict[str, set[str]] = {}
    for study, keys in matrix.studies.items():
        for key in keys:
            study_of.setdefault(key, set()).add(study)
    axes: dict[str, typing.Callable[[Cell], set[str]]] = {
        "flow": lambda cell: {cell.flow, cell.flow_label},
        "dataset": lambda cell: {cell.dataset, cell.dataset_label},
        "study": lambda cell: study_of[cell.key],
        "seed": lambda cell: {str(cell.seed)},
    }
    kept = matrix.cells
    for clause in filter(None, (part.strip() for part in text.split(";"))):
        axis, equals, values = clause.partition("=")
        axis = axis.strip()
        if axis not in axes or not equals:
            raise MatrixError(
                f"filter {text!r}: {axis!r} is no axis{_hint(axis, axes)} "
                f"The form is 'flow=ffjord,maf;dataset=power'"
            )
        known = {name: None for cell in matrix.cells for name in sorted(axes[axis](cell))}
        wanted = _split_labels(values)
        for value in wanted:
            if value not in known:
                raise MatrixError(
                    f"filter {text!r}: matrix {matrix.name} has no {axis} {value!r}"
                    f"{_hint(value, known)}"
                )
        kept = [cell for cell in kept if axes[axis](cell) & set(wanted)]
    return kept


def _split_labels(text: str) -> list[str]:
    """Split at commas outside brackets: ``ffjord[noise=gaussian,atol=1],maf`` is two labels."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]
