"""Reading two old pickles, GAS and CIFAR-10, without running what a pickle may contain.

Unpickling calls whatever functions the file names. Here it calls none: every class and function
becomes an inert record of what it was called with, and arrays are made of the records of NumPy's,
where shape, type and bytes fit together. So a file of any version of pandas can be read, whichever
is installed, and no bytes can pass for pointers to objects.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any, ClassVar

import numpy as np

from datasets.base import Array, DataCorrupt

__all__ = ["load_frame", "load_plain"]


class _Record:
    """Stands for an object: what its class or function was called with, and its state."""

    made_by: str
    arguments: list[Any]
    state: Any

    def __new__(cls, *arguments: Any, **named: Any) -> _Record:
        record = super().__new__(cls)
        record.arguments = [*arguments, *named.values()]
        record.state = None
        return record

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Everything was noted when the record was made."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


_NUMPY = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *(
        (f"numpy.{package}.{module}", name)
        for package in ("core", "_core")
        for module, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    ),
}
_PLAIN = {
    ("builtins", "slice"),
    ("__builtin__", "slice"),
    ("builtins", "object"),
    ("__builtin__", "object"),
    ("copyreg", "_reconstructor"),
    ("copy_reg", "_reconstructor"),
}
_DTYPE = re.compile(r"[biufSU]\d{1,5}")


def _encode(text: str, encoding: str) -> bytes:
    """How protocols before 3 write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the file would encode by {encoding!r}")
    return text.encode("latin1")


_PYTHON: Any = pickle._Unpickler


class _Unpickler(_PYTHON):  # type: ignore[misc]
    """The one in Python: that in C allocates what an opcode states, and places in its memo."""

    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        super().__init__(stream, encoding=encoding)
        self.classes: dict[str, type[_Record]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if not (
            (module, name) in _NUMPY | _PLAIN
            or (module.partition(".")[0] == "pandas" and len(name) < 100)
        ):
            raise pickle.UnpicklingError(f"the file would call {module}.{name}")
        return self.classes.setdefault(name, type(name, (_Record,), {"made_by": name}))

    def _keyed(self, items: Iterable[Any]) -> None:
        # A tuple's hash goes down its nesting on the machine's stack, without an end.
        if not all(isinstance(key, str | bytes | int | float) for key in items):
            raise pickle.UnpicklingError("a key is neither text nor a number")

    def load_setitem(self) -> None:
        self._keyed(self.stack[-2:-1])
        _PYTHON.load_setitem(self)

    def load_setitems(self) -> None:
        self._keyed(self.stack[::2])
        _PYTHON.load_setitems(self)

    def load_dict(self) -> None:
        self._keyed(self.stack[::2])
        _PYTHON.load_dict(self)

    def refuse(self) -> None:
        raise pickle.UnpicklingError("the file holds more than numbers, texts and arrays")

    dispatch: ClassVar[dict[int, Any]] = {
        **_PYTHON.dispatch,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        **dict.fromkeys(
            (
                opcode[0]
                for opcode in (
                    pickle.ADDITEMS,
                    pickle.FROZENSET,
                    pickle.INST,
                    pickle.OBJ,
                    pickle.EXT1,
                    pickle.EXT2,
                    pickle.EXT4,
                )
            ),
            refuse,
        ),
    }


def _load(stream: IO[bytes], encoding: str, form: str) -> Any:
    # In memory: of a buffered file, reading asks for as much as an opcode states.
    whole = io.BytesIO(stream.read())
    try:
        return _Unpickler(whole, encoding).load()
    except Exception as error:  # A damaged pickle raises whatever its bytes happen to mean.
        raise DataCorrupt(f"not a complete pickle of {form}: {error}") from error


def load_plain(stream: IO[bytes]) -> dict[Any, Any]:
    """A pickled dictionary, of Python 2 or 3, of numbers, texts, containers and arrays.

    Args:
        stream: the opened file, no longer than fits into memory.

    Returns:
        The dictionary; values that are arrays are so at its first level alone.

    Raises:
        DataCorrupt: if it is damaged, something else, or would call anything.
    """
    root = _load(stream, "bytes", "arrays")
    if not isinstance(root, dict):
        raise DataCorrupt(f"a pickled {type(root).__name__}, no dictionary")
    return {
        key: _array(value) if isinstance(value, _Record) else value for key, value in root.items()
    }


def load_frame(stream: IO[bytes]) -> dict[str, Array]:
    """The numeric columns of a pickled pandas DataFrame, of whichever version.

    Args:
        stream: the opened file, no longer than fits into memory.

    Returns:
        Columns by name, in their order.

    Raises:
        DataCorrupt: if the file is damaged, or no DataFrame of numbers.
    """
    arrays = list(_arrays(_load(stream, "latin1", "a DataFrame")))
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


def _arrays(root: Any) -> Iterator[Array]:
    """Every array in a tree of records and containers, in the order of the tree."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, _Record):
            if (found := _array(value)) is not None:
                yield found
            else:
                waiting += [value.state, *reversed(value.arguments)]
        elif isinstance(value, dict):
            waiting += reversed(value.values())
        elif isinstance(value, list | tuple):
            waiting += reversed(value)


def _array(record: _Record) -> Array | None:
    """The array that a record stands for; None if it stands for something else.

    Raises:
        DataCorrupt: if its bytes do not make such an array.
    """
    try:
        if record.made_by == "_frombuffer":
            values, dtype, shape, order = record.arguments[:4]
        elif record.made_by == "_reconstruct" and isinstance(record.state, tuple):
            shape, dtype, fortran, values = record.state[-4:]
            order = "F" if fortran else "C"
        else:
            return None
        if isinstance(values, list):
            return _texts(values)
        kind = _dtype(dtype)
        # Python 2 wrote bytes as text.
        data = values.encode("latin1") if isinstance(values, str) else values
        if not isinstance(data, bytes | bytearray):
            raise ValueError("its values are no bytes")
        shape = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
        if math.prod(shape) * kind.itemsize != len(data) or any(size < 0 for size in shape):
            raise ValueError(f"{len(data)} bytes do not make the shape {shape} of {kind}")
        return np.frombuffer(data, kind).reshape(shape, order=order)
    except Exception as error:  # What the record holds may be anything.
        raise DataCorrupt(f"an array in the pickle is damaged: {error}") from error


def _texts(values: list[Any]) -> Array:
    """An array of objects, of which texts and numbers are let through."""
    found = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        found[i] = value if isinstance(value, str | bytes | int | float) else None
    return found


def _dtype(record: Any) -> np.dtype[Any]:
    if not isinstance(record, _Record) or record.made_by != "dtype":
        raise ValueError("its type is none of NumPy's")
    code = record.arguments[0]
    code = code.decode("ascii") if isinstance(code, bytes) else code
    if not _DTYPE.fullmatch(code):
        raise ValueError(f"its type is {code!r}, no number or text")
    order = record.state[1] if isinstance(record.state, tuple) else "="
    swap: Any = order.decode("ascii") if isinstance(order, bytes) else order
    return np.dtype(code).newbyteorder(swap)
