"""Which kind a column gets, and what is left out."""

import numpy as np
import pandas as pd
import pytest

from ardist.tables import Schema

RNG = np.random.default_rng(0)


def kind_of(cells):
    schema = Schema.of(pd.DataFrame({"x": cells, "other": [True, False] * (len(cells) // 2)}))
    return schema.left_out.get("x") or schema.columns[0].kind


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (RNG.integers(0, 40, 1000), "discrete"),
        (RNG.integers(0, 90, 1000), "count"),  # too few rows for 90 probabilities
        (RNG.integers(0, 2, 20), "discrete"),
        (RNG.integers(0, 10**6, 1000), "count"),
        (RNG.integers(0, 10**12, 1000), "real"),  # float32 has no integers so large
        (RNG.choice([1, 10, 5000], 1000), "discrete"),
        (RNG.choice([0.5, 1.0, 2.5], 1000), "discrete"),
        (RNG.normal(size=1000), "real"),
        (RNG.lognormal(size=1000), "positive"),
        (RNG.uniform(5, 6, size=1000), "real"),
        (np.where(RNG.random(1000) < 0.5, 0.0, RNG.lognormal(size=1000)), "positive"),
        ([f"{code:05}" for code in RNG.integers(0, 99, 1000)], "category"),  # of an address
        ([f"2024-01-{day:02}" for day in RNG.integers(1, 28, 1000)], "date"),
        ([f"2024-01-0{day}T08:30" for day in RNG.integers(1, 9, 1000)], "time"),
    ],
)
def test_kinds(cells, kind):
    assert kind_of(cells) == kind


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (range(1000, 1100), "it is an identifier: 100 different integers in 100 rows"),
        (RNG.permutation(400)[:300] + 7, "it is an identifier: 300 different integers in 300 rows"),
        ([f"name {i}" for i in range(100)], "it is an identifier: 100 levels in 100 rows"),
        ([None] * 100, "all of its cells are missing"),
    ],
)
def test_columns_that_are_left_out(cells, reason):
    with pytest.warns(UserWarning, match=f"column 'x': left out, since {reason}"):
        assert kind_of(cells) == reason


def test_what_is_left_out_can_be_declared():
    table = pd.DataFrame({"id": range(100)})
    assert Schema.of(table, {"id": "count"}).columns[0].kind == "count"


def test_a_column_with_one_value_warns():
    with pytest.warns(UserWarning, match="column 'x': has one value, 'a', and no information"):
        assert kind_of(["a"] * 50) == "category"
    with pytest.warns(UserWarning, match=r"column 'x': has one value, 2.5"):
        assert kind_of([2.5] * 50) == "discrete"


def test_many_rare_levels_warn():
    cells = [*(f"name {i}" for i in range(60)), *["ann", "bob"] * 20]
    with pytest.warns(UserWarning, match="60 of 100 cells have a level that no other row has"):
        assert kind_of(cells) == "category"


def test_points_are_far_more_frequent_than_others():
    income = np.concatenate(([0.0] * 300, [1000.0] * 50, RNG.normal(1500, 300, 650).round(2)))
    (column,) = Schema.of(pd.DataFrame({"x": income})).columns
    assert column.points == (0.0, 1000.0)
    (column,) = Schema.of(pd.DataFrame({"x": RNG.normal(1700, 100, 3000).round()})).columns
    assert column.points == ()
