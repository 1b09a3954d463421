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

import contextlib
import itertools
import math
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_origin

from pydantic import BaseModel, Field, NonNegativeInt, ValidationError, field_validator

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


_KEYS = [*MatrixFile.model_fields, *Study.model_fields, *Budget.model_fields]


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
    top = _Place(shown)
    _refuse_extremes(document, top)
    with top.validating(_KEYS):
        file = MatrixFile.model_validate(document)
    for source in file.plugins:
        try:
            plugins.load(source, folder)
        except PluginError as error:
            raise PluginError(f"{shown}: plugins: {error}") from error
    return _resolve(file, top, device, seeds)


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


@dataclass(frozen=True)
class _Place:
    """A place in a matrix file, for messages.

    Attributes:
        shown: how the file is called.
        path: to the place; positions in lists are counted from 1, as people do.
    """

    shown: str
    path: tuple[str | int, ...] = ()

    def __truediv__(self, name: str | int) -> _Place:
        return _Place(self.shown, (*self.path, name))

    def __str__(self) -> str:
        return f"{self.shown}: {' -> '.join(map(str, self.path)) or 'top level'}"

    def error(self, why: str) -> MatrixError:
        """What is wrong there."""
        return MatrixError(f"{self}: {why}")

    @contextlib.contextmanager
    def validating(self, known: Sequence[str]) -> Iterator[None]:
        """What pydantic finds in the block, a line each: the place, and what was expected.

        Args:
            known: keys, of which the nearest to an unknown one is offered.

        Raises:
            MatrixError: instead of pydantic's.
        """
        try:
            yield
        except ValidationError as error:
            raise MatrixError("\n".join(self._lines(error, known))) from error

    def _lines(self, error: ValidationError, known: Sequence[str]) -> Iterator[str]:
        for item in error.errors(include_url=False):
            where = self
            for part in item["loc"]:
                where /= part + 1 if isinstance(part, int) else part
            if item["type"] == "extra_forbidden":
                yield f"{where}: unknown key{hint(str(item['loc'][-1]), known)}"
            elif item["type"] == "missing":
                yield f"{where}: is missing"
            else:
                yield f"{where}: {item['msg']}, got {brief(item['input'])}"


# -- bounds -----------------------------------------------------------------------------------


MAX_DEPTH = 20
MAX_NAME = 100
MAX_CHARACTERS = 4096
MAX_INTEGER = 2**63 - 1
MAX_CELLS = 100_000


def _refuse_extremes(value: Any, place: _Place) -> None:
    """Refuse values with which nothing can be meant, and which fail later where nobody expects it.

    Raises:
        MatrixError: with the place and the bound.
    """
    why = ""
    if len(place.path) > MAX_DEPTH:
        why = f"is nested more than {MAX_DEPTH} deep"
    elif isinstance(value, float) and not math.isfinite(value):
        why = "numbers must be finite"
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        why = f"integers have at most 64 bits, from -{MAX_INTEGER} to {MAX_INTEGER}"
    elif isinstance(value, str) and (len(value) > MAX_CHARACTERS or not value.isprintable()):
        # Descriptions may have lines.
        if len(value) > MAX_CHARACTERS:
            why = f"a text has at most {MAX_CHARACTERS} characters, this one {len(value)}"
        elif place.path[-1:] != ("description",):
            why = "control characters are not allowed here"
    if why:
        raise place.error(f"{why}, got {brief(value)}")
    if isinstance(value, dict):
        for name, part in value.items():
            if len(name) > MAX_NAME:
                raise (place / brief(name)).error(f"a name has at most {MAX_NAME} characters")
            _refuse_extremes(part, place / name)
    elif isinstance(value, list):
        for number, part in enumerate(value, start=1):
            _refuse_extremes(part, place / number)


def _resolve(
    file: MatrixFile,
    top: _Place,
    device: Literal["cpu", "cuda"],
    seeds: Sequence[int] | None,
) -> Matrix:
    cells: dict[str, Cell] = {}
    studies: dict[str, list[str]] = {}
    _budget(top / "budget", [file.budget])
    for number, study in enumerate(file.study, start=1):
        place = top / "study" / number
        layers = [file.budget, study.budget]
        _budget(place / "budget", layers)
        families = study.measures or file.measures
        for family in families:
            if family not in measures.FAMILIES:
                near = hint(family, measures.FAMILIES)
                raise (place / "measures").error(f"no measure is called {family!r}{near}")
        flow_axis = []
        for index, item in enumerate(study.flows, start=1):
            here = place / "flows" / index
            options, own = _own_budget(item, here)
            rule = _budget(here / "budget", [*layers, own])
            flow_axis += [(*found, *rule) for found in _configure(options, flows, here)]
        dataset_axis = [
            resolved
            for index, item in enumerate(study.datasets, start=1)
            for resolved in _configure(item, datasets, place / "datasets" / index)
        ]
        reference = None
        if study.reference is not None:
            found = _configure(study.reference, flows, place / "reference")
            if len(found) != 1:
                raise (place / "reference").error(
                    "one flow was expected, and a list among its options makes several"
                )
            reference = Contestant(flow=found[0][0], flow_options=found[0][1])
        name = study.name or f"study-{number}"
        if name in studies:
            raise place.error(f"another study is called {name!r} too")
        studies[name] = []
        own_seeds = seeds or study.seeds or file.seeds
        _bounded(len(cells) + len(flow_axis) * len(dataset_axis) * len(own_seeds), place)
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
                raise place.error(why) from error
            cells.setdefault(cell.key, cell)
            studies[name].append(cell.key)
    return Matrix(
        name=file.name, description=file.description, cells=list(cells.values()), studies=studies
    )


def _bounded(count: int, place: _Place) -> None:
    if count > MAX_CELLS:
        raise place.error(f"makes {count:,} cells, more than {MAX_CELLS:,}: divide it")


def _own_budget(
    item: str | dict[str, Any], place: _Place
) -> tuple[str | dict[str, Any], dict[str, Any]]:
    """An item of the flows without its budget, and the budget."""
    if isinstance(item, str) or "budget" not in item:
        return item, {}
    own = item["budget"]
    if not isinstance(own, dict):
        raise (place / "budget").error(
            f"expected a table such as {{ learning_rate = 1e-3 }}, got {brief(own)}"
        )
    return {name: value for name, value in item.items() if name != "budget"}, own


def _budget(place: _Place, layers: Sequence[dict[str, Any]]) -> tuple[Budget, tuple[float, ...]]:
    """Budgets laid over each other to (training rule, grid of learning rates).

    Args:
        place: of the last, which counts most; all but it were checked before.
        layers: the budgets.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= layer
    for name, value in merged.items():
        if isinstance(value, list) and name in Budget.model_fields and name != "learning_rate":
            raise (place / name).error(
                f"only learning_rate may be a list in a budget, got {brief(value)}; make a study "
                "for each"
            )
    rates: tuple[float, ...] = ()
    if isinstance(merged.get("learning_rate"), list):
        rates = _grid(merged["learning_rate"], place / "learning_rate")
        merged["learning_rate"] = rates[0]
    with place.validating(_KEYS):
        budget = Budget.model_validate(merged)
    if rates and budget.steps == 0:
        raise (place / "learning_rate").error(
            "a grid of rates needs training, and steps = 0 has none; give one rate"
        )
    return budget, rates


def _grid(values: list[Any], place: _Place) -> tuple[float, ...]:
    """A grid of learning rates, rising."""
    for index, value in enumerate(values, start=1):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            raise (place / index).error(f"a learning rate is a number above 0, got {brief(value)}")
        if value in values[: index - 1]:
            raise (place / index).error(f"{value!r} is there already")
    if len(values) < 2:
        raise place.error(
            f"a grid has two learning rates or more, got {brief(values)}; write a single one "
            "without brackets"
        )
    return tuple(sorted(map(float, values)))


def _configure(
    item: str | dict[str, Any], catalog: Any, place: _Place
) -> list[tuple[str, dict[str, Any]]]:
    """One item of an axis to (name, all options); a list, of names too, is an axis."""
    options = {"name": item} if isinstance(item, str) else dict(item)
    names = options.pop("name", None)
    resolved: list[tuple[str, dict[str, Any]]] = []
    if names == []:
        raise (place / "name").error(_EMPTY)
    for name in names if isinstance(names, list) else [names]:
        if not isinstance(name, str):
            raise place.error(f"expected a table with a name, got {brief(item)}")
        try:
            entry = catalog.entry(name)
        except (flows.UnknownFlow, datasets.UnknownDataset) as error:
            raise place.error(str(error)) from error
        fields = entry.config_class.model_fields
        axes = []
        for option, value in options.items():
            if not _is_axis(value, fields.get(option)):
                axes.append([(option, value)])
            elif value:
                axes.append([(option, each) for each in value])
            else:
                raise (place / name / option).error(_EMPTY)
        _bounded(len(resolved) + math.prod(map(len, axes)), place / name)
        for combination in itertools.product(*axes):
            with (place / name).validating([*fields]):
                config = catalog.configure(name, dict(combination))
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
