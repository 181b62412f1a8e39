"""A table with a column of each kind, on which the tests of tables train."""

import numpy as np
import pandas as pd

ROWS = 400


def people(rows=ROWS, seed=0):
    """Jobs that depend on a size, and an income that depends on both."""
    rng = np.random.default_rng(seed)
    size = rng.integers(0, 3, rows)
    job = np.where(rng.random(rows) < 0.8, size, rng.integers(0, 3, rows))
    income = np.exp(rng.normal(9 + job, 0.5)).round(2)
    table = pd.DataFrame(
        {
            "size": pd.Categorical.from_codes(size, ["S", "M", "L"], ordered=True),
            "job": np.array(["cook", "nurse", "pilot"], dtype=object)[job],
            "age": rng.integers(18, 38, rows),
            "income": np.where(rng.random(rows) < 0.3, 0.0, income),
            "height": rng.normal(170.0, 10.0, rows),
            "visits": rng.geometric(0.005, rows),
            "born": pd.Timestamp("1950-01-01") + pd.to_timedelta(rng.integers(0, 9999, rows), "D"),
            "seen": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 10**8, rows), "s"),
            "smokes": rng.random(rows) < 0.3,
        }
    )
    table["job"] = table["job"].astype("str")
    return table


def with_holes(table, share=0.2, seed=1):
    """A copy with missing cells in each column that can hold them."""
    rng = np.random.default_rng(seed)
    table = table.astype({"age": "Int64", "visits": float, "smokes": "boolean"})
    return table.mask(rng.random(table.shape) < share)
