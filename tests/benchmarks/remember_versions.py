"""Remembers the code behind each version of :mod:`benchmarks.versions`.

    .venv/bin/python tests/benchmarks/remember_versions.py

writes ``versions.json``: for each version its number and a hash of the code behind it, which
``test_versions.py`` compares with what is there. The code behind a system or a family of measures
is its module and what that imports of this project, straight or through others, up to what has a
version of its own, enters the cells' keys itself or is checked by the data's hashes. Comments,
layout, docstrings, descriptions of columns and options and the versions themselves count for
nothing. The values of the defaults of options count, which do not stand in keys; a new option
counts where it is code.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MEMORY = Path(__file__).with_name("versions.json")
COMMAND = ".venv/bin/python tests/benchmarks/remember_versions.py"

PACKAGES = ("flows", "datasets", "benchmarks")
COMMON_CODE = {
    "training rule": (
        "benchmarks.train",
        "benchmarks.batches",
        "benchmarks.evaluation",
        "benchmarks.tune",
    ),
    "basis of flows": (
        "flows.base",
        "flows.config",
        "flows.meter",
        "flows.dense",
        "flows.linalg",
        "flows.activations",
    ),
    "basis of measures": (
        "benchmarks.measures.subject",
        "benchmarks.environment",
        "datasets.base",
    ),
}
# Catalogs, and what a cell is: all of that stands in the keys.
IN_THE_KEYS = (
    "flows.registry",
    "datasets.registry",
    "benchmarks.cell",
    "benchmarks.matrix",
    "benchmarks.measures.base",
    "benchmarks.versions",
)
# Assignments that say something about code and do nothing, or whose options stand in the keys.
WORDS = {"__all__", "COLUMNS", "ENTRIES", "version"}


@dataclass(frozen=True)
class Item:
    """A version and the modules behind it."""

    version: int
    modules: tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """Sixteen digits for the code and the defaults."""
        return hash_of(map(tree_of, self.modules), self.defaults)


def items() -> dict[str, Item]:
    """Every version there is, by name."""
    import datasets
    import flows
    from benchmarks import measures
    from benchmarks.cell import Budget, defaults_of
    from benchmarks.versions import COMMON

    found = {name: Item(COMMON[name], modules) for name, modules in COMMON_CODE.items()}
    rule = found["training rule"]
    found["training rule"] = Item(rule.version, rule.modules, defaults_of(Budget))
    for entry in flows.ENTRIES.values():
        cls = entry.config_class
        name = f"system {cls.__name__.removesuffix('Config')}"
        found[name] = Item(cls.version, closure(cls.__module__), defaults_of(cls))
    for data in datasets.ENTRIES.values():
        cls = data.config_class
        name = f"data set {cls.__name__.removesuffix('Config')}"
        # Their code is checked by the hashes of what it makes.
        found[name] = Item(cls.version, (), defaults_of(cls))
    for name, family in measures.FAMILIES.items():
        found[f"measure {name}"] = Item(family.version, closure(family.measure.__module__))
    return found


def closure(module: str) -> tuple[str, ...]:
    """A module and what it imports of this project, up to what is accounted for elsewhere."""
    elsewhere = {name for modules in COMMON_CODE.values() for name in modules} | {*IN_THE_KEYS}
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found | elsewhere:
            found.add(name)
            waiting += imported(name)
    return tuple(sorted(found))


@cache
def imported(module: str) -> tuple[str, ...]:
    """The modules of this project that a module names in its imports; packages do not count."""
    found: list[str] = []
    for node in ast.walk(tree_of(module)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found += (
            name for name in names if name.split(".")[0] in PACKAGES and path_of(name).is_file()
        )
    return tuple(found)


@cache
def tree_of(module: str) -> ast.Module:
    """A module's syntax tree."""
    return ast.parse(path_of(module).read_text(encoding="utf-8"))


def path_of(module: str) -> Path:
    """Where a module lies."""
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


def hash_of(trees: Iterable[ast.Module], defaults: Mapping[str, Any] | None = None) -> str:
    """Sixteen digits for what modules do, the same under every version of Python."""
    text = "\n".join(map(canonical, trees))
    if defaults:
        text += json.dumps(defaults, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def canonical(tree: ast.Module) -> str:
    """A syntax tree as text."""
    return "".join(_canonical(tree))


def _canonical(value: object) -> Iterator[str]:
    """Pieces of that, without what is empty, since later versions of Python add fields."""
    if isinstance(value, list):
        for part in value:
            if not isinstance(part, ast.AST) or _says_something(part):
                yield from _canonical(part)
                yield ","
    elif isinstance(value, ast.AST):
        yield f"{type(value).__name__}("
        for name, part in ast.iter_fields(value):
            constant = isinstance(value, ast.Constant) and name == "value"
            if constant or not (part is None or part == [] or name == "kind"):
                yield f"{name}="
                yield from _canonical(part)
                yield ";"
        yield ")"
    else:
        yield repr(value)


def _says_something(node: ast.AST) -> bool:
    """Whether a node is more than words: no docstring or description, and none of :data:`WORDS`."""
    if isinstance(node, ast.keyword):
        return node.arg != "description"
    if isinstance(node, ast.Expr):
        constant = node.value
        return not (isinstance(constant, ast.Constant) and isinstance(constant.value, str))
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return not any(isinstance(target, ast.Name) and target.id in WORDS for target in targets)


def present() -> dict[str, dict[str, int | str]]:
    """What is there now, in the form in which it is remembered."""
    return {
        name: {
            "version": item.version,
            "hash": item.hash,
        }
        for name, item in items().items()
    }


def complaints(
    then: dict[str, dict[str, int | str]], now: dict[str, dict[str, int | str]]
) -> list[str]:
    """What has to be decided or written down, a line for each version."""
    found = []
    for name in sorted({**then, **now}):
        if name not in then or name not in now:
            found.append(f"{name} is {'new' if name not in then else 'gone'}: run `{COMMAND}`")
        elif then[name] == now[name]:
            continue
        elif then[name]["version"] == now[name]["version"]:
            found.append(
                f"the code behind {name} has changed. If results or costs measured with it no "
                "longer compare with those before, raise its version (see benchmarks/versions.py), "
                f"so that its records are measured anew. Then, or if they do, run `{COMMAND}`"
            )
        else:
            found.append(
                f"{name} went from version {then[name]['version']} to {now[name]['version']}: "
                f"run `{COMMAND}`"
            )
    return found


def main() -> None:
    """Write down what is there now."""
    sys.path.insert(0, str(ROOT))
    # An item a line: changes to different ones merge.
    lines = [f'"{name}": {json.dumps(item)}' for name, item in sorted(present().items())]
    MEMORY.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{len(lines)} versions written to {MEMORY.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
