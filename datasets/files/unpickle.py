"""Reading two old pickles, GAS and CIFAR-10, without running what a pickle may contain.

Unpickling calls whatever functions the file names. Here only NumPy's array constructors are
called; every class of pandas becomes an inert record of what it was built from, so that a file
of any version of pandas can be read, whichever is installed.
"""

from __future__ import annotations

import codecs
import pickle
from collections.abc import Iterable
from typing import IO, Any

import numpy as np
from numpy._core.multiarray import _reconstruct, scalar

from datasets.base import Array, DataCorrupt

__all__ = ["load_frame", "load_plain"]


class _Record:
    """Stands for an object of pandas: what it was called with, and its state."""

    def __new__(cls, *arguments: Any, **named: Any) -> _Record:
        record = super().__new__(cls)
        record.arguments = [*arguments, *named.values()]
        record.state = None
        return record

    arguments: list[Any]
    state: Any

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Everything was noted when the record was made."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


_NUMPY: dict[tuple[str, str], Any] = {
    ("ndarray", "numpy"): np.ndarray,
    ("dtype", "numpy"): np.dtype,
    **{
        (name, f"numpy.{package}.{module}"): function
        for package in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", scalar),
            ("numeric", "_frombuffer", np._core.numeric._frombuffer),  # type: ignore[attr-defined]
        )
    },
}
_PLAIN: dict[tuple[str, str], Any] = {
    ("encode", "_codecs"): codecs.encode,
    ("slice", "builtins"): slice,
    ("slice", "__builtin__"): slice,
    ("object", "builtins"): object,
    ("object", "__builtin__"): object,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _NUMPY.get((name, module), _PLAIN.get((name, module)))
        if known is not None:
            return known
        if module.partition(".")[0] == "pandas" or (name, module) in (
            ("_reconstructor", "copyreg"),
            ("_reconstructor", "copy_reg"),
        ):
            return _Record
        raise pickle.UnpicklingError(f"the file would call {module}.{name}")


def load_plain(stream: IO[bytes]) -> Any:
    """A pickle, of Python 2 or 3, of numbers, texts, containers and arrays.

    Raises:
        DataCorrupt: if it is damaged, or would call anything else.
    """
    try:
        return _Unpickler(stream, encoding="bytes").load()
    except Exception as error:  # A damaged pickle raises whatever its bytes happen to mean.
        raise DataCorrupt(f"not a complete pickle of arrays: {error}") from error


def load_frame(stream: IO[bytes]) -> dict[str, Array]:
    """The numeric columns of a pickled pandas DataFrame, of whichever version.

    Args:
        stream: the opened file.

    Returns:
        Columns by name, in their order.

    Raises:
        DataCorrupt: if the file is damaged, or no DataFrame of numbers.
    """
    try:
        root = _Unpickler(stream, encoding="latin1").load()
    except Exception as error:  # A damaged pickle raises whatever its bytes happen to mean.
        raise DataCorrupt(f"not a complete pickle of a DataFrame: {error}") from error
    arrays = list(_arrays(root, set()))
    named = [array for array in arrays if array.dtype.kind in "OUS" and array.ndim == 1]
    for names in named:
        # A frame keeps its values in blocks of one type, transposed: (columns, rows).
        block = next(
            (a for a in arrays if a.ndim == 2 and a.dtype.kind == "f" and len(a) == len(names)),
            None,
        )
        if block is not None:
            return {str(name): np.asarray(row) for name, row in zip(names, block, strict=True)}
    raise DataCorrupt("the pickle holds no DataFrame whose columns are all of one float type")


def _arrays(value: Any, seen: set[int]) -> Iterable[Array]:
    """Every array in a tree of records and containers."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, _Record):
        yield from _arrays(value.arguments, seen)
        yield from _arrays(value.state, seen)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _arrays(part, seen)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _arrays(part, seen)
