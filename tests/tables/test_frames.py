"""Tables of other libraries."""

import numpy as np
import pandas as pd
import polars
import pyarrow
import pytest
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


@pytest.mark.parametrize("data", [np.zeros(3), np.zeros((2, 2, 2)), [1, 2], [[1, 2], [3]], [], 5])
def test_what_has_no_columns_is_refused_in_one_line(data):
    with pytest.raises(ValueError, match=r"^X: expected a data frame, .* got [^\n]*$"):
        as_frame(data)


def test_names_become_text():
    assert list(as_frame(pd.DataFrame([[1, 2]]))) == ["0", "1"]
