"""Which cells of a matrix: filters and seeds, as they are typed."""

from __future__ import annotations

import re
from collections.abc import Callable

from benchmarks.cell import Cell
from benchmarks.errors import MatrixError, brief, hint
from benchmarks.matrix import MAX_CELLS, Matrix

__all__ = ["filter_cells", "parse_seeds"]


def parse_seeds(text: str) -> list[int]:
    """Seeds from text such as ``0-4`` or ``0,2,5-7``.

    Raises:
        MatrixError: for anything else.

    Example:
        >>> parse_seeds("0-2,7")
        [0, 1, 2, 7]
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first, last) if dash else (first,)
        if not all(re.fullmatch(r"[0-9]{1,18}", end) for end in ends):
            raise MatrixError(
                f"seeds {brief(text)}: expected numbers and ranges such as 0-4 or 0,2,5, of at "
                "most 18 digits"
            )
        numbers = range(int(first), int(ends[-1]) + 1)
        if not numbers:
            raise MatrixError(f"seeds {brief(text)}: the range {part.strip()} is empty")
        if len(numbers) + len(seeds) > MAX_CELLS:
            raise MatrixError(f"seeds {brief(text)}: more than {MAX_CELLS:,} seeds")
        seeds.update(dict.fromkeys(numbers))
    return list(seeds)


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
    axes: dict[str, Callable[[Cell], set[str]]] = {
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
                f"filter {brief(text)}: {brief(axis)} is no axis{hint(axis, axes)} "
                f"The form is 'flow=ffjord,maf;dataset=power'"
            )
        known = {name: None for cell in matrix.cells for name in sorted(axes[axis](cell))}
        wanted = _split_labels(values)
        for value in wanted:
            if value not in known:
                raise MatrixError(
                    f"filter {brief(text)}: matrix {matrix.name} has no {axis} {brief(value)}"
                    f"{hint(value, known)}"
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
