"""Flows, data sets, measures and studies from outside the project.

A plugin is a Python file or an importable module with a list ``ENTRIES``, whose items are entries
of flows or data sets, families of measures, or studies; each goes to the registry of its kind by
its type. Plugins come

* from installed distributions, by entry points of the groups :data:`GROUPS` whose value is a module
  (``[project.entry-points."ffjord_bench.flows"]``, ``mine = "my_package.flows"``),
* by ``--plugin path/to/file.py`` or ``--plugin module`` on the command line,
* by ``plugins = [...]`` in a matrix file, paths being relative to the file.

Its *origin* says what was loaded: the module with the version of its distribution, or the name of
the file with its hash (of a module too that belongs to no distribution, or to one that is installed
editable). It stands in the records and among the versions behind a cell's key, so that an edited
file makes its records stale. The hash is of that one file.

:func:`loaded` goes with each task to a cell's process, which loads the same (:func:`restore`).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.errors import PluginError, brief

__all__ = ["GROUPS", "Plugin", "load", "load_installed", "loaded", "restore"]

GROUPS = tuple(f"ffjord_bench.{kind}" for kind in ("flows", "datasets", "measures", "studies"))
"""Groups of entry points. What a module's entries are is told by their types, not by the group."""


@dataclass(frozen=True)
class Plugin:
    """A plugin that has been loaded.

    Attributes:
        source: absolute path of a file, or a module's name.
        origin: what it is and in which version, as records name it.
    """

    source: str
    origin: str


_LOADED: dict[str, Plugin] = {}


def loaded() -> tuple[Plugin, ...]:
    """The plugins of this process, in the order in which they were loaded."""
    return tuple(_LOADED.values())


def restore(plugins: Iterable[Plugin]) -> None:
    """Load the plugins of another process.

    Raises:
        PluginError: if one cannot be loaded, or is not what it was there.
    """
    for plugin in plugins:
        here = load(plugin.source)
        if here.origin != plugin.origin:
            raise PluginError(
                f"plugin {plugin.source} was changed: {plugin.origin} was loaded when the run "
                f"began, {here.origin} is there now; run again"
            )


def load(source: str, folder: Path | None = None) -> Plugin:
    """Load a plugin and register its entries; one that is loaded is left as it is.

    Args:
        source: path of a file that ends in ``.py``, or a module's name.
        folder: to which a path is relative; the working folder by default.

    Raises:
        PluginError: if it is missing, fails, or an entry of it cannot be taken.
    """
    is_file = source.endswith(".py")
    if is_file:
        source = str(((folder or Path()) / Path(source).expanduser()).resolve())
    if source in _LOADED:
        return _LOADED[source]
    if is_file:
        origin = _file_origin(source)
        module = _imported(source, lambda: _from_file(Path(source)))
    else:
        module = _imported(source, lambda: importlib.import_module(source))
        origin = _module_origin(module)
    _register(getattr(module, "ENTRIES", None), source, origin)
    _LOADED[source] = Plugin(source, origin)
    return _LOADED[source]


def load_installed() -> None:
    """Load the plugins of installed distributions.

    Raises:
        PluginError: as :func:`load`; the message names the distribution.
    """
    for group in GROUPS:
        for point in importlib.metadata.entry_points(group=group):
            try:
                load(point.module)
            except PluginError as error:
                distribution = point.dist.name if point.dist is not None else "unknown"
                raise PluginError(
                    f"installed distribution {distribution}, entry point {point.name!r} of "
                    f"{group}: {error}"
                ) from error


# -- what is loaded ---------------------------------------------------------------------------


def _imported(source: str, make: Callable[[], ModuleType]) -> ModuleType:
    try:
        return make()
    except OSError as error:
        raise PluginError(f"plugin {source}: cannot be read: {error.strerror}") from error
    except ModuleNotFoundError as error:
        if error.name is not None and (source == error.name or source.startswith(error.name + ".")):
            raise PluginError(
                f"plugin {source}: there is no such module; a file is given by a path that ends "
                "in .py"
            ) from error
        raise PluginError(f"plugin {source}: {_where(error, source)}{error}") from error
    except SyntaxError as error:
        place = f"{error.filename}, line {error.lineno}"
        raise PluginError(f"plugin {source}: {place}: {error.msg}") from error
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise PluginError(f"plugin {source}: {_where(error, source)}{what}") from error


def _where(error: BaseException, source: str) -> str:
    """The line of the plugin in which an exception arose."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == source] or [
        frame for frame in frames if "importlib" not in frame.filename and frame.name == "<module>"
    ]
    return f"line {own[-1].lineno}: " if own else ""


def _from_file(path: Path) -> ModuleType:
    """Import a file under a name of its own, by which its classes can be pickled."""
    name = f"ffjord_bench_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _file_origin(path: str) -> str:
    try:
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise PluginError(f"plugin {path}: there is no such file") from error
    except OSError as error:
        raise PluginError(f"plugin {path}: cannot be read: {error.strerror}") from error
    return f"{Path(path).name}, sha256 {digest[:16]}"


def _module_origin(module: ModuleType) -> str:
    top = module.__name__.partition(".")[0]
    names = importlib.metadata.packages_distributions().get(top, [])
    for name in names:
        distribution = importlib.metadata.distribution(name)
        url = json.loads(distribution.read_text("direct_url.json") or "{}")
        # What is installed editable changes while its version stays.
        if not url.get("dir_info", {}).get("editable"):
            return f"{module.__name__}, {name} {distribution.version}"
    if not module.__file__:
        raise PluginError(f"plugin {module.__name__}: has no file, and so no version")
    return _file_origin(module.__file__)


# -- where it goes ----------------------------------------------------------------------------


_REGISTRIES = {
    "flows.Entry": "flows.registry",
    "datasets.Entry": "datasets.registry",
    "benchmarks.measures.Family": "benchmarks.measures",
    "benchmarks.studies.Study": "benchmarks.studies",
}
"""The types of entries, and where the function ``add(entries, origin)`` is that takes them."""


def _register(entries: Any, source: str, origin: str) -> None:
    """Hand entries to the registries of their kinds."""
    if not isinstance(entries, list | tuple) or not entries:
        raise PluginError(
            f"plugin {source}: needs a list ENTRIES with one entry or more, such as "
            "ENTRIES = [flows.Entry(...)]"
        )
    by_registry: dict[str, list[Any]] = {}
    for number, entry in enumerate(entries, start=1):
        kind = next((kind for kind in _REGISTRIES if _is_a(entry, kind)), None)
        if kind is None:
            raise PluginError(
                f"plugin {source}: item {number} of ENTRIES is {brief(entry)}, which is none of "
                f"{', '.join(_REGISTRIES)}"
            )
        by_registry.setdefault(_REGISTRIES[kind], []).append(entry)
    for registry, found in by_registry.items():
        try:
            importlib.import_module(registry).add(found, origin)
        # Each registry's BadEntry; they have no other base in common.
        except TypeError as error:
            raise PluginError(f"plugin {source}: {error}") from error


def _is_a(entry: Any, kind: str) -> bool:
    """Whether an entry has a type; where its module is not loaded, nothing can have it."""
    module, _, name = kind.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return found is not None and isinstance(entry, found)
