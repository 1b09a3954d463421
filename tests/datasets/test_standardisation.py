"""New rows are standardised as those of the training were."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import datasets
from datasets import DataCorrupt, DataError, DataMissing, Standardisation
from datasets.base import Column


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    path = tmp_path / "my.csv"
    a = random.normal(5, 3, 300)
    frame = pd.DataFrame({"a": a, "same": 1.5, "b": 2 * a + random.normal(size=300)})
    frame.assign(c=random.integers(0, 4, 300)).to_csv(path, index=False)
    return path


def in_order(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T)]


def test_rows_of_the_file_become_those_of_the_data_set(csv: Path, tmp_path: Path) -> None:
    data = datasets.load("table", path=str(csv))
    kept = tmp_path / "columns.json"
    kept.write_text(Standardisation(data.columns).to_json())
    table = Standardisation.load(kept)
    assert table.columns == data.columns
    assert [column.name for column in table.columns] == ["a", "b", "c"]
    x = table.forward(csv)
    whole = np.concatenate([data.train, data.validation, data.test])
    # The continuous ones to the last bit; the discrete one has other noise.
    np.testing.assert_array_equal(in_order(x.numpy()[:, :2]), in_order(whole[:, :2]))
    noise = (x[:, 2].double() * table.columns[2].deviation + table.columns[2].mean) % 1
    assert 0 <= noise.min() < 0.1 < 0.9 < noise.max() <= 1
    torch.testing.assert_close(table.forward(str(csv)), x, rtol=0, atol=0)
    other = table.forward(csv, np.random.default_rng(1))
    assert not torch.equal(other[:, 2], x[:, 2])


def test_there_and_back(csv: Path) -> None:
    table = Standardisation(datasets.load("table", path=str(csv)).columns)
    frame = pd.read_csv(csv)
    x = table.forward(frame[["c", "b", "a"]].assign(note="new"))
    back = table.inverse(x)
    assert list(back.columns) == ["a", "b", "c"]
    np.testing.assert_allclose(back[["a", "b"]], frame[["a", "b"]], rtol=1e-5)
    assert (np.floor(back["c"] + 1e-5) == frame["c"]).all()


def test_the_log_determinant_is_that_of_the_jacobian() -> None:
    table = Standardisation((Column("a", 10.0, 2.0), Column("b", -1.0, 0.1)))
    rows = pd.DataFrame({"a": [1.0, 3.0], "b": [1.0, 1.5]})
    slope = (table.forward(rows)[1] - table.forward(rows)[0]) / torch.tensor([2.0, 0.5])
    assert float(slope.log().sum()) == pytest.approx(table.log_abs_det, rel=1e-5)


def test_what_cannot_be_standardised_is_said(csv: Path, tmp_path: Path) -> None:
    table = Standardisation(datasets.load("table", path=str(csv)).columns)
    frame = pd.read_csv(csv)
    with pytest.raises(DataError, match=r"has no column 'b', which the flow models; it has a, "):
        table.forward(frame.drop(columns="b"))
    with pytest.raises(DataError, match=r"row 3, column 'b': nan; .* complete rows alone"):
        table.forward(frame.assign(b=[1.0, 2.0, np.nan, *[0.0] * 297]))
    with pytest.raises(DataError, match=r"row 1, column 'a': 'x' is no number"):
        table.forward(frame.assign(a="x"))
    with pytest.raises(DataMissing, match=r"there is no .*nowhere\.csv"):
        table.forward(tmp_path / "nowhere.csv")
    with pytest.raises(DataMissing, match=r"there is no .*columns\.json"):
        Standardisation.load(tmp_path / "columns.json")
    (tmp_path / "columns.json").write_text('{"columns": [{"name": "a"}]}')
    with pytest.raises(DataCorrupt, match="does not say how columns were standardised"):
        Standardisation.load(tmp_path / "columns.json")
