"""How rows of a user's table become what a flow models, kept beside the flow's weights."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from datasets.base import Column, DataCorrupt, DataError, DataMissing
from datasets.files.arrays import numbers, read_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Standardisation"]


@dataclass(frozen=True)
class Standardisation:
    """What was done to the columns of a table before a flow was trained on it.

    The density of a row in the table's own units has ``log p(row) = flow.log_prob(x) +
    log_abs_det``.

    Attributes:
        columns: those that the flow models, in its order (:attr:`datasets.Dataset.columns`).

    Example:
        >>> import pandas as pd
        >>> standard = Standardisation((Column("a", 10.0, 2.0), Column("b", 0.0, 1.0)))
        >>> rows = pd.DataFrame({"b": [1.0], "note": ["new"], "a": [14.0]})
        >>> x = standard.forward(rows)
        >>> x
        tensor([[2., 1.]])
        >>> float(standard.inverse(x)["a"][0]), round(standard.log_abs_det, 4)
        (14.0, -0.6931)
    """

    columns: tuple[Column, ...]

    @property
    def log_abs_det(self) -> float:
        """``log |det dx/drow|`` in nats, the same for every row."""
        return -sum(math.log(column.deviation) for column in self.columns)

    def forward(
        self, rows: pd.DataFrame | str | Path, generator: np.random.Generator | None = None
    ) -> Tensor:
        """Rows of the table, or new ones like them, to what the flow models.

        Args:
            rows: a table with these columns by name, in any order and among others; or the path of
                one.
            generator: of the noise that discrete columns get, as in training; by default the same
                noise at every call.

        Returns:
            float32, shape ``(n, len(columns))``.

        Raises:
            DataError: if a column is missing, holds text, or a value is missing or infinite.
        """
        where = Path("the table")
        if isinstance(rows, str | Path):
            where = Path(rows).expanduser()
            if not where.exists():
                raise DataMissing(f"there is no {where.absolute()}")
            rows = read_frame(where)
        if missing := [c.name for c in self.columns if c.name not in rows.columns]:
            raise DataError(
                f"{where} has no column {', '.join(map(repr, missing))}, which the flow models; "
                f"it has {', '.join(map(str, rows.columns))}"
            )
        generator = generator or np.random.default_rng(0)
        standard = []
        for column in self.columns:
            values = numbers(rows[column.name], where)
            if not (finite := np.isfinite(values)).all():
                row = int(np.flatnonzero(~finite)[0])
                raise DataError(
                    f"{where}, row {row + 1}, column {column.name!r}: {values[row]}; a flow has a "
                    "density of complete rows alone: leave such rows out"
                )
            if column.spacing is not None:
                values = values + column.spacing * generator.random(len(values))
            standard.append((values - column.mean) / column.deviation)
        return torch.from_numpy(np.stack(standard, axis=1).astype(np.float32))

    def inverse(self, x: Tensor) -> pd.DataFrame:
        """What a flow models, its samples for instance, in the units of the table.

        Args:
            x: shape ``(n, len(columns))``.

        Returns:
            A row a row; discrete columns with the noise that they had in training.
        """
        import pandas as pd

        values = x.detach().double().cpu().numpy()
        return pd.DataFrame(
            {
                column.name: values[:, place] * column.deviation + column.mean
                for place, column in enumerate(self.columns)
            }
        )

    def to_json(self) -> str:
        """The text of the file that :meth:`load` reads."""
        return json.dumps({"columns": [dataclasses.asdict(c) for c in self.columns]}, indent=1)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the file beside a flow's weights.

        Raises:
            DataMissing: if there is none.
            DataCorrupt: if it is none.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(tuple(Column(**column) for column in found["columns"]))
        except FileNotFoundError as error:
            raise DataMissing(f"there is no {path}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataCorrupt(f"{path} does not say how columns were standardised") from error
