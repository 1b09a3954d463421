"""Reading arrays and tables of whatever usual format a user has them in."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets.base import Array, DataError
from datasets.files.untrusted import (
    DEFLATED_AT_MOST,
    Stored,
    check_room,
    npy,
    npz,
    open_plain,
    reading,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["hdf5", "module", "numbers", "read_array", "read_frame", "without"]

_TEXT = {".csv": ",", ".tsv": "\t"}
_ARRAYS = (".npy", ".npz", ".h5", ".hdf5")
_PARQUET = (".parquet", ".pq")


def module(name: str, path: Path) -> Any:
    """A library that is not always there.

    Raises:
        DataError: saying how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(f"reading {path} needs {name}: pip install {name}") from error


def read_array(path: Path, array: str | None, dimensions: tuple[int, ...]) -> Array:
    """An array from an NPY, NPZ or HDF5 file.

    Args:
        path: of the file.
        array: its name, where there are several; None for the only one that has the dimensions.
        dimensions: how many it may have.

    Raises:
        DataError: if there is no such array, several serve, or h5py is needed and not there.
        DataCorrupt: if the file is damaged.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        found = npy(path)
        _choose(path, {"": found.shape}, array, dimensions)
        return found.read()
    with (npz if suffix == ".npz" else hdf5)(path) as arrays:
        shapes = {name: stored.shape for name, stored in arrays.items()}
        return arrays[_choose(path, shapes, array, dimensions)].read()


@contextlib.contextmanager
def hdf5(path: Path) -> Iterator[Mapping[str, Stored]]:
    """The arrays of numbers in an HDF5 file, as :func:`datasets.files.untrusted.npz` gives them.

    Raises:
        DataError: if h5py is not there.
        DataCorrupt: if the file is damaged, or an array states a size that it cannot have.
    """
    h5py = module("h5py", path)

    def stored(item: Any) -> Stored:
        def read() -> Array:
            if item.is_virtual or item.external:
                raise ValueError(f"{item.name} lies in other files")
            if item.dtype.kind not in "biufc":
                raise ValueError(f"{item.name} holds {item.dtype}, no numbers")
            if item.nbytes > DEFLATED_AT_MOST * item.id.get_storage_size():
                raise ValueError(
                    f"{item.name} states {item.nbytes:,} bytes, of which "
                    f"{item.id.get_storage_size():,} are stored"
                )
            check_room(item.nbytes)
            return np.asarray(item)

        return Stored(tuple(item.shape or ()), read)

    with reading(path, "HDF5 file"), h5py.File(path, "r") as opened:
        found: dict[str, Stored] = {}

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = stored(item)

        opened.visititems(visit)
        yield found


def _choose(
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    array: str | None,
    dimensions: tuple[int, ...],
) -> str:
    due = " or ".join(map(str, dimensions))
    held = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"
    if array is not None:
        if array not in shapes:
            raise DataError(f"{path} holds no array {array!r}; it holds {held}")
        names = [array] if len(shapes[array]) in dimensions else []
    else:
        names = [name for name, shape in shapes.items() if len(shape) in dimensions]
    if not names:
        raise DataError(f"{path} holds no array of {due} dimensions; it holds {held}")
    if len(names) > 1:
        raise DataError(f"{path} holds {held}; say which with array = {names[0]!r}")
    return names[0]


def read_frame(path: Path, array: str | None = None) -> pd.DataFrame:
    """A table: CSV or TSV (compressed by gzip or not), Parquet, NPY, NPZ or HDF5.

    The first line of a text names the columns unless it holds numbers alone; 0, 1, 2 and so on are
    the names that pandas writes where there are none.

    Args:
        path: of the file.
        array: of an NPZ or HDF5 file which array, where several have two dimensions.

    Raises:
        DataError: if the format is none of these, or a library for it is not there.
        DataCorrupt: if the file is damaged, or its lines differ in length.
    """
    import pandas as pd

    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix in _ARRAYS:
        values = read_array(path, array, (2,))
        return pd.DataFrame(values, columns=_numbered(values.shape[1]))
    if suffix in _PARQUET:
        module("pyarrow", path)
        with reading(path, "Parquet file"):
            about = module("pyarrow.parquet", path).ParquetFile(path).metadata
            check_room(8 * about.num_rows * about.num_columns)
            frame: pd.DataFrame = pd.read_parquet(path, engine="pyarrow")
            return frame
    if suffix not in _TEXT:
        known = ", ".join((*_TEXT, *_PARQUET, *_ARRAYS))
        raise DataError(f"{path}: a table is one of {known}, by the end of its name")
    with reading(path, "table"):
        with open_plain(path) as stream:
            text = stream.read()
        options: dict[str, Any] = {"sep": _TEXT[suffix], "index_col": False, "low_memory": False}
        first = pd.read_csv(io.BytesIO(text), header=None, nrows=1, dtype=str, **options)
        names = list(first.iloc[0])
        named = not all(map(_is_number, names)) or _counts(names)
        with warnings.catch_warnings():
            # Longer lines than the first: pandas would cut them off.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(io.BytesIO(text), header=0 if named else None, **options)
    frame.columns = list(map(str, frame.columns)) if named else _numbered(frame.shape[1])
    return frame


def _numbered(count: int) -> list[str]:
    return [f"column {i + 1}" for i in range(count)]


def _counts(names: list[str]) -> bool:
    return len(names) > 1 and names == [str(i) for i in range(len(names))]


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True


def without(frame: pd.DataFrame, columns: list[str], path: Path) -> pd.DataFrame:
    """A table without some columns.

    Raises:
        DataError: if there is no such column.
    """
    for column in columns:
        if column not in frame.columns:
            near = difflib.get_close_matches(column, list(frame.columns), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f": {', '.join(frame.columns)}"
            raise DataError(f"{path} has no column {column!r}{hint}")
    return frame.drop(columns=columns)


def numbers(column: pd.Series[float], path: Path) -> Array:
    """A column as float64, NaN where a value is missing.

    Raises:
        DataError: if it holds text; the row is named.
    """
    import pandas as pd

    types = pd.api.types
    if types.is_complex_dtype(column) or not (
        types.is_numeric_dtype(column)
        or types.is_object_dtype(column)
        or types.is_string_dtype(column)
    ):
        found = pd.Series(np.nan, index=column.index)
    else:
        found = pd.to_numeric(column, errors="coerce")
    text = (found.isna() & column.notna()).to_numpy()
    if text.any():
        row = int(np.flatnonzero(text)[0])
        raise DataError(
            f"{path}, row {row + 1}, column {column.name!r}: {column.iloc[row]!r} is no number; "
            f"drop_columns = [{column.name!r}] leaves the column out"
        )
    return found.to_numpy(dtype=np.float64, na_value=np.nan)
