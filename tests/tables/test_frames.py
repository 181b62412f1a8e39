"""Tables of other libraries."""

from decimal import Decimal

import numpy as np
import pandas as pd
import polars
import pyarrow
import pytest
import torch
from people import people, with_holes

from ardist.tables import Schema
from ardist.tables.frames import as_frame


@pytest.mark.parametrize("make", [polars.from_pandas, pyarrow.Table.from_pandas])
def test_frames_with_the_arrow_interface(make):
    table = with_holes(people())
    frame = as_frame(make(table))
    one, other = Schema.of(table), Schema.of(frame)
    assert [c.kind for c in one.columns if c.name != "size"] == [
        c.kind for c in other.columns if c.name != "size"
    ]
    codes = Schema.of(table.drop(columns="size"))
    np.testing.assert_array_equal(
        codes.encode(table), Schema.of(frame.drop(columns="size")).encode(frame)
    )


def test_dicts_and_arrays():
    assert as_frame({"a": [1, 2], "b": ["x", None]}).shape == (2, 2)
    assert as_frame({"a": 1, "b": "x"}).shape == (1, 2)
    rows = as_frame([{"a": 1, "b": "x"}, {"b": "y", "a": 2}])
    assert rows.equals(pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}))
    array = as_frame(np.array([[1.0, np.nan]]))
    assert list(array) == ["x0", "x1"]
    objects = as_frame(np.array([[1, "x"]], dtype=object))
    assert objects.dtypes.equals(pd.DataFrame({"x0": [1], "x1": ["x"]}).dtypes)


@pytest.mark.parametrize("make", [np.array, torch.tensor, np.float64])
def test_cells_of_a_dict_may_be_numbers_of_numpy_and_torch(make):
    frame = as_frame({"a": make(1.5), "b": "x", "c": None})
    pd.testing.assert_frame_equal(frame, pd.DataFrame({"a": [1.5], "b": ["x"], "c": [None]}))
    frame = as_frame({"a": make(1.5), "b": ["x", "y"]})
    assert frame["a"].tolist() == [1.5, 1.5]


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", object])
def test_masked_cells_are_missing(dtype):
    numbers = np.ma.array(np.ones((3, 2)).astype(dtype), mask=np.eye(3, 2))
    expected = pd.DataFrame(np.eye(3, 2) == 1, columns=["x0", "x1"])
    pd.testing.assert_frame_equal(as_frame(numbers).isna(), expected)
    columns = as_frame({"x0": numbers[:, 0], "x1": numbers[:, 1]})
    pd.testing.assert_frame_equal(columns.isna(), expected)


def test_tensors_of_any_kind_are_tables():
    numbers = torch.tensor([[0.5, 1.0], [1.5, 2.0]], dtype=torch.bfloat16, requires_grad=True)
    expected = pd.DataFrame({"x0": [0.5, 1.5], "x1": [1.0, 2.0]}).astype("float32")
    pd.testing.assert_frame_equal(as_frame(numbers), expected)
    columns = {"x0": numbers[:, 0], "x1": numbers[:, 1]}
    pd.testing.assert_frame_equal(as_frame(columns), expected)


def test_rows_may_mix_text_and_numbers():
    frame = as_frame([("a", 1), ("b", 2.5), (None, 3)])
    pd.testing.assert_frame_equal(frame, pd.DataFrame({"x0": ["a", "b", None], "x1": [1, 2.5, 3]}))


@pytest.mark.parametrize("data", [np.zeros(3), np.zeros((2, 2, 2)), [1, 2], [[1, 2], [3]], [], 5])
def test_what_has_no_columns_is_refused_in_one_line(data):
    with pytest.raises(ValueError, match=r"^X: expected a data frame, .* got [^\n]*$"):
        as_frame(data)


def test_names_become_text():
    assert list(as_frame(pd.DataFrame([[1, 2]]))) == ["0", "1"]


@pytest.mark.parametrize(
    ("cells", "kind", "dtype"),
    [
        pytest.param(pd.arrays.SparseArray([0, 0, 1, 2] * 20), "discrete", "int64", id="sparse"),
        pytest.param(
            pd.Series([None, "a", "b"] * 20).astype(
                pd.ArrowDtype(pyarrow.dictionary(pyarrow.int32(), pyarrow.string()))
            ),
            "category",
            "string",
            id="dictionary",
        ),
        pytest.param(
            pd.Series([None, *map(Decimal, range(90))]).astype(
                pd.ArrowDtype(pyarrow.decimal128(9, 2))
            ),
            "real",
            "double[pyarrow]",
            id="decimals",
        ),
        pytest.param(
            pd.date_range("2020", periods=60, freq="7h", tz="dateutil/Europe/Paris", unit="us"),
            "time",
            "datetime64[us, UTC]",
            id="a zone of dateutil",
        ),
    ],
)
def test_dtypes_that_hold_no_draws_become_others(cells, kind, dtype):
    frame = as_frame(pd.DataFrame({"x": cells}))
    schema = Schema.of(frame, {"x": kind})
    decoded = schema.decode(schema.encode(frame))
    assert decoded["x"].dtype == dtype
    pd.testing.assert_frame_equal(decoded, frame, check_dtype=False)
