"""From a matrix file to cells.

A matrix file names axes: flows, data sets, seeds, budgets. Their product gives cells.

Budgets are merged: the matrix's, over it the study's, over it that of a flow's item, so that each
contestant's own learning rate can stand beside it::

    [budget]
    steps = 500
    learning_rate = 1e-2

    [[study]]
    flows = [{ name = "ffjord", budget = { learning_rate = 3e-2 } }, "realnvp"]
    datasets = ["8gaussians"]
    budget = { batch_size = 128 }

Flows, data sets and measures of one's own come in by files beside the matrix or by modules::

    plugins = ["mine.py"]

A list of learning rates is no axis of the product: it is a grid that is *tuned*. Each cell trains a
fresh flow of the same seed at every rate of it, and the one with the best validation is tested
(:mod:`benchmarks.tune`)::

    budget = { learning_rate = [1e-3, 3e-3, 1e-2] }
"""

from __future__ import annotations

import itertools
import math
import tomllib
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_origin

from pydantic import (
    BaseModel,
    Field,
    NonNegativeInt,
    ValidationError,
    field_validator,
)

import datasets
import flows
from benchmarks import measures, plugins
from benchmarks.cell import Budget, Cell, Contestant, Devices, DType, Strict, Threads
from benchmarks.errors import MatrixError, PluginError, brief, hint

__all__ = ["Matrix", "load_matrix", "matrix_of"]


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
    plugins: list[str] = Field(default_factory=list)
    seeds: list[NonNegativeInt] = Field(default=[0], min_length=1)
    threads: Threads = 1
    devices: Devices = 1
    dtype: DType = "float32"
    measures: list[str] = Field(default_factory=measures.by_default, min_length=1)
    budget: dict[str, Any] = Field(default_factory=dict)
    study: list[Study] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not value.replace("-", "").replace("_", "").isalnum():
            raise ValueError("a matrix's name consists of letters, digits, '-' and '_'")
        if len(value.encode()) > MAX_NAME:
            raise ValueError(f"a matrix's name has at most {MAX_NAME} bytes")
        return value


class Matrix(BaseModel):
    """A matrix file, resolved: its cells in order, each once.

    Attributes:
        name: names the default folder of the records.
        description: one line.
        cells: every cell.
        studies: study name to the keys of its cells.
    """

    name: str
    description: str
    cells: list[Cell]
    studies: dict[str, list[str]]


def load_matrix(
    name_or_path: str,
    *,
    device: Literal["cpu", "cuda"] = "cpu",
    seeds: Sequence[int] | None = None,
    profile: Literal["small", "full"] | None = None,
) -> Matrix:
    """Read a matrix and make its cells.

    Args:
        name_or_path: name of a study, or path of a matrix file, which ends in ``.toml``.
        device: where the cells are to run.
        seeds: instead of the file's.
        profile: of a study; by default ``small`` on a CPU and ``full`` on a GPU.

    Returns:
        The resolved matrix.

    Raises:
        MatrixError: if there is no such matrix, or anything in it is wrong.
    """
    if name_or_path.endswith(".toml"):
        if profile is not None:
            raise MatrixError(f"{name_or_path}: a matrix file has no profiles, studies have")
        document, shown = _read(Path(name_or_path), name_or_path), name_or_path
    else:
        # Studies know how to report their records, and those what a cell is.
        from benchmarks import studies

        profile = profile or ("full" if device == "cuda" else "small")
        study = studies.study(name_or_path)
        if study.includes:
            parts = [
                load_matrix(part, device=device, seeds=seeds, profile=profile)
                for part in study.includes
            ]
            return _union(study.name, study.title, parts)
        document, shown = study.matrix(profile), f"study {study.name}, {profile}"
    folder = Path(name_or_path).parent
    return matrix_of(document, shown, device=device, seeds=seeds, folder=folder)


def matrix_of(
    document: Mapping[str, Any],
    shown: str,
    *,
    device: Literal["cpu", "cuda"] = "cpu",
    seeds: Sequence[int] | None = None,
    folder: Path = Path(),
) -> Matrix:
    """The cells of what a matrix file holds.

    Args:
        document: as :class:`MatrixFile` takes it.
        shown: how it is called in messages.
        device: where the cells are to run.
        seeds: instead of the document's.
        folder: to which the paths of plugins are relative.

    Raises:
        MatrixError: if anything in it is wrong.
    """
    _refuse_extremes(document, shown)
    try:
        file = MatrixFile.model_validate(document)
    except ValidationError as error:
        raise MatrixError(_explain(shown, (), error)) from error
    _load_plugins(file.plugins, folder, shown)
    return _resolve(file, shown, device, seeds)


def _union(name: str, description: str, parts: Sequence[Matrix]) -> Matrix:
    """Several matrices as one, each cell once; a block is named ``matrix/block``."""
    return Matrix(
        name=name,
        description=description,
        cells=list({cell.key: cell for part in parts for cell in part.cells}.values()),
        studies={
            f"{part.name}/{block}": keys for part in parts for block, keys in part.studies.items()
        },
    )


def _read(path: Path, shown: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MatrixError(f"there is no matrix file {shown}") from error
    except OSError as error:
        raise MatrixError(f"{shown[:200]}: cannot be read: {error.strerror}") from error
    # Not valid TOML, no text, an integer of thousands of digits; or nested too deeply.
    except (ValueError, RecursionError) as error:
        raise MatrixError(f"{shown[:200]}: not valid TOML: {error}") from error


def _load_plugins(sources: Sequence[str], folder: Path, shown: str) -> None:
    for source in sources:
        try:
            plugins.load(source, folder)
        except PluginError as error:
            raise PluginError(f"{shown}: plugins: {error}") from error


# -- bounds -----------------------------------------------------------------------------------


MAX_DEPTH = 20
MAX_NAME = 100
MAX_CHARACTERS = 4096
MAX_INTEGER = 2**63 - 1
MAX_CELLS = 100_000


def _refuse_extremes(value: Any, shown: str, place: tuple[str | int, ...] = ()) -> None:
    """Refuse values with which nothing can be meant, and which fail later where nobody expects it.

    Raises:
        MatrixError: with the place and the bound.
    """
    why = ""
    if len(place) > MAX_DEPTH:
        why = f"is nested more than {MAX_DEPTH} deep"
    elif isinstance(value, float) and not math.isfinite(value):
        why = "numbers must be finite"
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        why = f"integers have at most 64 bits, from -{MAX_INTEGER} to {MAX_INTEGER}"
    elif isinstance(value, str) and (len(value) > MAX_CHARACTERS or not value.isprintable()):
        # Descriptions may have lines.
        if len(value) > MAX_CHARACTERS:
            why = f"a text has at most {MAX_CHARACTERS} characters, this one {len(value)}"
        elif place[-1:] != ("description",):
            why = "control characters are not allowed here"
    if why:
        raise MatrixError(f"{shown}: {_place(place)}: {why}, got {brief(value)}")
    if isinstance(value, dict):
        for name, part in value.items():
            if len(name) > MAX_NAME:
                raise MatrixError(
                    f"{shown}: {_place((*place, brief(name)))}: a name has at most {MAX_NAME} "
                    "characters"
                )
            _refuse_extremes(part, shown, (*place, name))
    elif isinstance(value, list):
        for number, part in enumerate(value, start=1):
            _refuse_extremes(part, shown, (*place, number))


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
                    f"{hint(family, measures.FAMILIES)}"
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
        own_seeds = seeds or study.seeds or file.seeds
        _bounded(len(cells) + len(flow_axis) * len(dataset_axis) * len(own_seeds), shown, place)
        for contestant, (dataset, dataset_options), seed in itertools.product(
            flow_axis, dataset_axis, own_seeds
        ):
            flow, flow_options, budget, rates = contestant
            try:
                cell = Cell(
                    flow=flow,
                    flow_options=flow_options,
                    dataset=dataset,
                    dataset_options=dataset_options,
                    seed=seed,
                    budget=budget,
                    learning_rates=rates,
                    # In the catalog's order: the order in the file does not change the key.
                    measures=measures.complete(families),
                    device=device,
                    threads=file.threads,
                    devices=file.devices,
                    dtype=file.dtype,
                    reference=reference,
                )
            except ValidationError as error:
                why = "; ".join(item["msg"] for item in error.errors())
                raise MatrixError(f"{shown}: {_place(place)}: {why}") from error
            cells.setdefault(cell.key, cell)
            studies[name].append(cell.key)
    return Matrix(
        name=file.name, description=file.description, cells=list(cells.values()), studies=studies
    )


def _bounded(count: int, shown: str, place: tuple[str | int, ...]) -> None:
    if count > MAX_CELLS:
        raise MatrixError(
            f"{shown}: {_place(place)}: makes {count:,} cells, more than {MAX_CELLS:,}: divide it"
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
            f"{{ learning_rate = 1e-3 }}, got {brief(own)}"
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
                f"budget, got {brief(value)}; make a study for each"
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
                f"got {brief(value)}"
            )
        if value in values[: index - 1]:
            raise MatrixError(f"{shown}: {_place((*place, index))}: {value!r} is there already")
    if len(values) < 2:
        raise MatrixError(
            f"{shown}: {_place(place)}: a grid has two learning rates or more, got "
            f"{brief(values)}; write a single one without brackets"
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
    resolved: list[tuple[str, dict[str, Any]]] = []
    if names == []:
        raise MatrixError(f"{shown}: {_place((*place, 'name'))}: {_EMPTY}")
    for name in names if isinstance(names, list) else [names]:
        if not isinstance(name, str):
            raise MatrixError(
                f"{shown}: {_place(place)}: expected a table with a name, got {brief(item)}"
            )
        try:
            entry = catalog.entry(name)
        except (flows.UnknownFlow, datasets.UnknownDataset) as error:
            raise MatrixError(f"{shown}: {_place(place)}: {error}") from error
        fields = entry.config_class.model_fields
        axes = []
        for option, value in options.items():
            if not _is_axis(value, fields.get(option)):
                axes.append([(option, value)])
            elif value:
                axes.append([(option, each) for each in value])
            else:
                raise MatrixError(f"{shown}: {_place((*place, name, option))}: {_EMPTY}")
        _bounded(len(resolved) + math.prod(map(len, axes)), shown, (*place, name))
        for combination in itertools.product(*axes):
            try:
                config = catalog.configure(name, dict(combination))
            except ValidationError as error:
                raise MatrixError(
                    _explain(shown, (*place, name), error, known=list(fields))
                ) from error
            resolved.append((name, config.model_dump(mode="json")))
    return resolved


_EMPTY = "an empty list has no values, so that nothing would run; give one, or leave it out"


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
            lines.append(f"{shown}: {where}: unknown key{hint(str(item['loc'][-1]), known)}")
        elif item["type"] == "missing":
            lines.append(f"{shown}: {where}: is missing")
        else:
            lines.append(f"{shown}: {where}: {item['msg']}, got {brief(item['input'])}")
    return "\n".join(lines)
