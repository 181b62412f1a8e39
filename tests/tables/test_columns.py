"""Columns: their cells as codes, and the families of these."""

import datetime
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from people import people, with_holes

from ardist.tables import Schema
from ardist.tables.proposals import KINDS

CELLS = {
    "bool": pd.Series([True, False] * 60),
    "bool, nullable": pd.Series([True, False, None] * 40, dtype="boolean"),
    "bool, objects": pd.Series([True, False, None] * 40, dtype=object),
    "category": pd.Series(["a", "b", "b", None] * 30),
    "category, objects": pd.Series(["a", "b", "b", None] * 30, dtype=object),
    "category, string": pd.Series(["a", "b", "b", pd.NA] * 30, dtype="string"),
    "category, dtype": pd.Series(["a", "b", "b", None] * 30, dtype="category"),
    "ordinal": pd.Series(pd.Categorical(["S", "L", "M", None] * 30, ["S", "M", "L"], ordered=True)),
    "discrete": pd.Series([3, 5, 4, 4] * 30),
    "discrete, int8": pd.Series([3, 5, 4, 4] * 30, dtype="int8"),
    "discrete, nullable": pd.Series([3, 5, None, 4] * 30, dtype="Int64"),
    "discrete, with NaN": pd.Series([3, 5, np.nan, 4] * 30),
    "discrete, fractions": pd.Series([0.5, 1.5, 2.5, np.nan] * 30),
    "count": pd.Series(np.arange(200) ** 2 + 7),
    "count, nullable": pd.Series([*(np.arange(200) ** 2), None], dtype="Int64"),
    "real": pd.Series(np.random.default_rng(0).normal(3e6, 1.0, 200)),
    "real, rounded": pd.Series(np.random.default_rng(0).normal(1.7, 0.1, 200).round(2)),
    "real, float32": pd.Series(np.random.default_rng(0).normal(0, 1.0, 200).astype("float32")),
    "positive": pd.Series(np.exp(np.random.default_rng(0).normal(0, 2, 200))),
    "date": pd.Series(pd.date_range("1960-01-01", periods=200, freq="31D")),
    "date, text": pd.Series(pd.date_range("1960-01-01", periods=200, freq="31D").strftime("%F")),
    "date, objects": pd.Series(pd.date_range("1960-01-01", periods=200, freq="31D").date),
    "time": pd.Series([pd.NaT, *pd.date_range("1960-01-01", periods=200, freq="301h")]),
    "time, zone": pd.Series(pd.date_range("1960-01-01", periods=200, freq="7h", tz="Asia/Tokyo")),
    "time, text": pd.Series(pd.date_range("2020", periods=200, freq="3h").strftime("%F %T")),
    "time, fractions": pd.Series(pd.date_range("2020", periods=200, freq="10ms")),
    "duration": pd.Series(pd.to_timedelta(np.arange(200) ** 2, "min")),
    "duration, signed": pd.Series(pd.to_timedelta(np.arange(200) ** 2 - 900, "min")),
    "duration, nanoseconds": pd.Series(pd.to_timedelta(np.arange(200) ** 2 + 100, "ns")),
    "duration, fractions": pd.Series([pd.NaT, *pd.to_timedelta(np.arange(200) ** 2, "ms")]),
    "clock": pd.Series([*(f"{m // 60:02}:{m % 60:02}" for m in range(0, 1440, 7)), None]),
    "clock, seconds": pd.Series(
        [f"{m // 60:02}:{m % 60:02}:{m % 53:02}" for m in range(0, 1440, 7)]
    ),
    "clock, objects": pd.Series([datetime.time(m // 60, m % 60) for m in range(0, 1440, 7)]),
}


def column_of(cells, declared=None):
    (column,) = Schema.of(pd.DataFrame({"x": cells}), {"x": declared}).columns
    return column


def assert_same(decoded, cells, rtol):
    """Missing cells may be None or NaN."""
    assert decoded.isna().equals(cells.isna())
    pd.testing.assert_series_equal(
        decoded.dropna(), cells.dropna(), check_categorical=False, rtol=rtol
    )


@pytest.mark.parametrize("name", CELLS)
def test_a_column_has_its_kind_and_comes_back(name):
    cells = CELLS[name].rename("x")
    column = column_of(cells)
    assert column.kind == name.split(",")[0]
    decoded = column.decode(column.encode(cells))
    if name == "date, objects":
        cells = pd.to_datetime(cells).astype("datetime64[us]")
    assert_same(decoded, cells, rtol=1e-6 if name == "real, float32" else 1e-12)


PARIS = pd.Timestamp("2020", tz="dateutil/Europe/Paris").tz
UTC = pd.date_range("2020", periods=60, freq="7h", tz="UTC", unit="us")
TEXTS = {
    "bool": ["1", "0", "0"],
    "discrete": ["3", "-1", "4.5"],
    "count": ["30", "0", "1200"],
    "real": ["3", "-0.5", "1200.125"],
    "positive": ["3", "0.001", "45000000"],
}


@pytest.mark.parametrize("dtype", ["str", object, "string", "large_string[pyarrow]"])
@pytest.mark.parametrize("kind", TEXTS)
def test_numbers_that_are_declared_over_text_come_back_as_text(kind, dtype):
    cells = pd.Series([*TEXTS[kind], None] * 25, name="x", dtype=dtype)
    column = column_of(cells, kind)
    decoded = column.decode(column.encode(cells))
    assert decoded.dtype == cells.dtype
    assert decoded.isna().equals(cells.isna())
    assert decoded.dropna().tolist() == cells.dropna().tolist()
    drawn = column.decode(column.drawn.sample(torch.zeros(50, column.family.num_params)).numpy())
    assert all(isinstance(cell, str) for cell in drawn)
    column.encode(drawn)


@pytest.mark.parametrize(
    ("kind", "cells", "dtype"),
    [
        ("count", pd.Categorical([1, 200, 30, None] * 25), "Int64"),
        ("discrete", pd.Categorical([1, 2, 2] * 25), "int64"),
        ("date", pd.Categorical(pd.date_range("2020", periods=60)), "datetime64[us]"),
        ("real", pd.array([True, False, None] * 25, dtype="boolean"), "float64"),
        ("real", [True, "0.5", 3, None] * 25, "float64"),
        ("time", pd.Series([*UTC, None], dtype=object), "datetime64[us, UTC]"),
        ("time", [*UTC.tz_localize(None), None], "datetime64[us]"),
        ("time", pd.Series([*UTC.tz_localize(None), pd.NA], dtype=object), "datetime64[us]"),
        ("time", [datetime.datetime(2020, 1, 1, 5), datetime.date(2020, 1, 2)], "datetime64[us]"),
        ("time", [datetime.datetime(2020, 1, h, tzinfo=PARIS) for h in range(1, 9)],
         "datetime64[us, UTC]"),
        ("time", pd.Series([*UTC, *UTC.tz_convert("Asia/Tokyo")]), "datetime64[us, UTC]"),
        ("duration", pd.Series(["1h", "90min", None] * 25, dtype=object), "object"),
        ("time", pd.Series(pd.date_range("2020", periods=60), dtype="date32[day][pyarrow]"),
         "date32[day][pyarrow]"),
    ],
)  # fmt: skip
def test_cells_are_written_in_a_dtype_that_holds_the_declared_kind(kind, cells, dtype):
    cells = pd.Series(cells, name="x", dtype=object if isinstance(cells, list) else None)
    column = column_of(cells, kind)
    decoded = column.decode(column.encode(cells))
    assert decoded.dtype == dtype
    assert decoded.isna().equals(cells.isna())
    np.testing.assert_array_equal(column.encode(decoded), column.encode(cells))
    column.decode(column.drawn.sample(torch.randn(50, column.family.num_params)).numpy())


def test_rare_categories_that_are_no_text_are_missing_in_draws():
    cells = pd.Series(pd.Categorical([1, 2] * 50 + [7]), name="x")
    column = column_of(cells)
    assert column.decode(column.encode(cells)).isna().tolist() == [False] * 100 + [True]


@pytest.mark.parametrize("name", CELLS)
def test_families_have_their_codes_in_the_support_and_draw_known_cells(name):
    cells = CELLS[name].rename("x")
    column = column_of(cells)
    codes = torch.from_numpy(column.encode(cells)).float()
    known = codes[~codes.isnan()]
    params = torch.zeros(column.family.num_params)
    assert column.family.log_prob(params, known).isfinite().all()
    assert column.family.num_params == column.drawn.num_params == column.listed.num_params
    drawn = column.decode(column.drawn.sample(params.expand(50, -1)).double().numpy())
    assert not drawn.isna().any()
    column.encode(drawn)
    if column.kind in ("category", "ordinal", "discrete", "bool"):
        assert set(drawn) <= set(cells.dropna())


@pytest.mark.parametrize("name", CELLS)
def test_columns_survive_json(name):
    schema = Schema.of(pd.DataFrame({"x": CELLS[name]}))
    again = Schema.from_dict(json.loads(json.dumps(schema.to_dict())))
    assert again == schema
    assert [c.family for c in again.columns] == [c.family for c in schema.columns]


def test_dates_far_from_zero_keep_their_digits():
    seconds = pd.Series(pd.to_datetime(np.arange(1000) + 1_700_000_000, unit="s"))
    column = column_of(seconds)
    codes = torch.from_numpy(column.encode(seconds)).float()
    assert column.decode(codes.double().numpy()).equals(seconds.rename("x"))


LAST_DAYS = {
    "datetime64[ns]": "2262-04-11",
    "timestamp[ns][pyarrow]": "2262-04-11",
    **dict.fromkeys(("datetime64[us]", "datetime64[s]", "date32[day][pyarrow]"), "9999-12-31"),
    **dict.fromkeys(("datetime64[us, UTC]", "str"), "9999-12-31"),
}


@pytest.mark.parametrize("dtype", LAST_DAYS)
def test_dates_reach_as_far_as_their_dtype(dtype):
    days = np.arange("2020-01-01", "2020-09-01", dtype="datetime64[D]")
    days = np.append(days, np.datetime64(LAST_DAYS[dtype])).astype("datetime64[s]")
    text = pd.Series(days, name="x").dt.strftime("%Y-%m-%d")
    cells = text if dtype == "str" else pd.Series(days, name="x")
    cells = cells.dt.tz_localize("UTC") if "UTC" in dtype else cells
    cells = cells.astype(dtype)
    column = column_of(cells)
    assert column.kind == "date"
    assert LAST_DAYS[dtype] in column.describe()
    assert_same(column.decode(column.encode(cells)), cells, 0)
    beyond = column.decode(np.array([-1e7, 1e7]))
    assert column.encode(beyond).tolist()[1] == column.encode(cells)[-1]
    assert not beyond.map(str).str.contains(r"[1-9]\d?:|:[1-9]").any()  # no time of day


def test_the_density_is_in_the_units_of_the_table():
    heights = pd.Series(np.random.default_rng(0).normal(1.7, 0.1, 500))
    params = torch.randn(24)
    grid = np.linspace(-5, 8, 20_001)
    for factor in (1.0, 100.0):
        column = column_of(heights * factor)
        codes = torch.from_numpy(column.encode(pd.Series(grid * factor, name="x")))
        density = column.family.log_prob(params.double(), codes).exp().numpy()
        assert np.trapezoid(density, grid * factor) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    "values", [np.arange(5000) * 7, np.arange(200) ** 2, np.arange(1, 5000) ** 2]
)
def test_integers_have_probabilities_that_sum_to_one(values):
    column = column_of(pd.Series(values), "count")
    width = 4000 if values.max() > 1e6 else 10**6
    # All components at the center, as narrow as they may be.
    params = torch.zeros(24, dtype=torch.double)
    params[8:] = torch.tensor([0.0, -60.0]).repeat(8)
    center = int(column.decode(column.drawn.icdf(params, torch.tensor([0.5])).numpy())[0])
    grid = pd.Series(np.arange(max(0, center - width), center + width), name="x")
    codes = torch.from_numpy(column.encode(grid))
    assert column.family.log_prob(params, codes).exp().sum() == pytest.approx(1.0, abs=1e-6)


def test_integers_of_a_wide_column_are_counted_up_to_themselves():
    column = column_of(pd.Series(np.arange(5000) * 7), "count")
    assert not column.is_rounded
    params = torch.zeros(1, 24, dtype=torch.double)
    grid = pd.Series(np.arange(-40_000, 17_000), name="x")
    probs = column.family.log_prob(params, torch.from_numpy(column.encode(grid))).exp()
    upto = column.family.cdf(params, torch.from_numpy(column.floor(grid)))
    torch.testing.assert_close(upto - upto[0], probs.cumsum(0) - probs[0], rtol=0, atol=1e-6)


def test_levels_may_be_intervals():
    cells = pd.cut(pd.Series(np.arange(100.0), name="x"), 4)
    column = column_of(cells)
    assert column.kind == "ordinal"
    decoded = column.decode(column.encode(cells))
    assert decoded.astype(str).equals(cells.astype(str))


@pytest.mark.parametrize(
    "levels",
    [
        pytest.param(pd.date_range("2024", periods=3), id="dates"),
        pytest.param(pd.period_range("2024", periods=3, freq="M"), id="periods"),
        pytest.param(list(pd.date_range("2024", periods=3).date), id="dates as objects"),
        pytest.param([b"a", b"b", b"c"], id="bytes"),
    ],
)
def test_levels_of_other_types_are_text(levels):
    cells = pd.Series([*levels] * 20 + [None], name="x", dtype=pd.Series(levels).dtype)
    column = column_of(cells, "category")
    decoded = column.decode(column.encode(cells))
    assert decoded.isna().equals(cells.isna())
    assert decoded.dropna().tolist() == [str(cell) for cell in cells.dropna()]


def test_limits_may_be_text():
    column = column_of(CELLS["discrete"])
    assert column.within(("4", None)) == column.within((4, None)) == {1.0, 2.0}
    assert column.within(["4"]) == {1.0}
    for column in (column_of(CELLS["bool"]), column_of(pd.Series(["1", "0"] * 9), "bool")):
        assert column.within(("True", None)) == column.within((True, None)) == {1.0}
        assert column.within(["True"]) == column.within([True]) == {1.0}


def test_limits_may_be_intervals():
    cells = pd.cut(pd.Series(np.arange(100.0), name="x"), 4)
    column, (_, level, *_) = column_of(cells), cells.cat.categories
    assert column.within([level]) == {1.0}
    assert column.within((level, None)) == {1.0, 2.0, 3.0}


@pytest.mark.parametrize(
    "make", [list, set, frozenset, iter, np.array, pd.Series, pd.Index, pd.array, pd.Categorical]
)
@pytest.mark.parametrize("name", ["category", "category, dtype", "ordinal", "discrete", "bool"])
def test_limits_may_be_what_isin_takes(name, make):
    column = column_of(CELLS[name])
    assert column.within(make(column.written[:2])) == {0.0, 1.0}


def test_limits_may_be_what_between_takes():
    column = column_of(CELLS["real"])
    low, high = (float(column.origin + end) for end in (-1, 2))
    for make in (np.array, pd.Series, torch.DoubleTensor):
        assert column.within(tuple(make([low, high]))) == column.within((low, high))
    assert column.within((np.array(low), None)) == column.within((low, None))


@pytest.mark.parametrize("given", [(np.nan, 4), (3, np.nan), [np.nan], [[3]]])
def test_odd_limits_are_refused(given):
    with pytest.raises(ValueError, match=r"^(where|column 'x'): expected"):
        column_of(CELLS["discrete"]).within(given)


@pytest.mark.parametrize("zone", ["", ", tz=UTC", ", tz=Asia/Tokyo"])
def test_times_of_arrow_come_back(zone):
    dtype = f"timestamp[us{zone}][pyarrow]"
    times = pd.date_range("2024", periods=60, freq="7h", tz="UTC" if zone else None)
    cells = pd.Series([pd.NaT, *times], name="x").astype(dtype)
    column = column_of(cells)
    assert column.kind == "time"
    pd.testing.assert_series_equal(column.decode(column.encode(cells)), cells)


@pytest.mark.parametrize("dtype", ["float64", "Int64", object, "datetime64[us]", "str", "category"])
@pytest.mark.parametrize("name", CELLS)
def test_missing_cells_are_missing_in_any_dtype(name, dtype):
    column = column_of(CELLS[name])
    cells = pd.Series([None, None], name="x", dtype=dtype)
    assert np.isnan(column.encode(cells)).all()
    assert np.isnan(column.encode(cells[:0])).shape == (0,)


@pytest.mark.parametrize("factor", [1e-29, 1e28])
def test_positive_numbers_near_the_ends_of_single_precision_are_modeled(factor):
    cells = pd.Series(np.geomspace(1.1, 9, 200) * factor, name="x")
    column = column_of(cells, "positive")
    codes = torch.from_numpy(column.encode(cells)).float()
    params = torch.zeros(column.family.num_params)
    scores = column.family.log_prob(params, codes)
    unit = column_of(cells / factor, "positive")
    expected = unit.family.log_prob(params, codes / factor) - np.log(factor)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
    drawn = column.drawn.icdf(params, torch.tensor([0.1, 0.9]))
    torch.testing.assert_close(
        drawn / factor, unit.drawn.icdf(params, torch.tensor([0.1, 0.9])), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("cell", [1e-40, 1e-50])
def test_positive_numbers_that_single_precision_lacks_are_refused(cell):
    column = column_of(CELLS["positive"])
    with pytest.raises(ValueError, match=r"^column 'x': expected numbers of at least 1e-30"):
        column.encode(pd.Series([1.0, cell], name="x"))


@pytest.mark.parametrize("unit", [2.0**-60, 1.0, 2.0**60])
def test_numbers_next_to_a_far_median_are_told_apart_in_any_unit(unit):
    cells = pd.Series((1e3 + 1e-4 * np.random.default_rng(0).normal(size=200)) * unit)
    codes = column_of(cells, "real").encode(cells).astype(np.float32)
    assert len(np.unique(codes)) == 200


@pytest.mark.parametrize("unit", [1e-310, 1e-200, 1e-100, 1e-32])
@pytest.mark.parametrize("name", ["real", "positive"])
def test_columns_in_units_that_single_precision_lacks_are_refused(name, unit):
    cells = (CELLS[name] - CELLS[name].min() * (name == "real")) * unit
    with pytest.raises(ValueError, match=r"^column 'x': expected numbers .*of at least 1e-30"):
        column_of(cells)


@pytest.mark.parametrize("dtype", ["float32", "float16", "Float32", "float[pyarrow]"])
def test_numbers_in_single_precision_are_their_shortest_decimals(dtype):
    doses = pd.Series([0.1, 0.25, None, 1.7] * 30, name="x")
    heights = pd.Series(np.arange(140, 200).repeat(2) / 100, name="x")
    for cells in (doses, heights):
        column = column_of(cells.astype(dtype))
        assert replace(column, dtype="float64") == column_of(cells)
        np.testing.assert_array_equal(column.encode(cells), column.encode(cells.astype(dtype)))
        decoded = column.decode(column.encode(cells))
        pd.testing.assert_series_equal(decoded, cells.astype(dtype))


@pytest.mark.parametrize("dtype", ["int64", "uint64", "Int64", "int64[pyarrow]"])
def test_huge_integers_are_written_as_they_are_given(dtype):
    cells = pd.Series(2**62 + 10**13 * np.arange(100) + 1, dtype=dtype, name="x")
    pd.testing.assert_series_equal(column_of(cells).written(cells), cells)


def test_huge_integers_are_real_numbers():
    cells = pd.Series([10**25 + 10**22 * i for i in range(100)] + [None], name="x", dtype=object)
    column = column_of(cells)
    assert column.kind == "real"
    np.testing.assert_allclose(column.decode(column.encode(cells)), cells.astype(float))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "Int8", "uint32", "int64", "UInt64"])
def test_draws_of_integers_are_within_their_dtype(dtype):
    ends = np.iinfo(dtype.lower())
    column = column_of(pd.Series(np.arange(100) ** 2 // 99, dtype=dtype), "real")
    drawn = column.decode(np.array([-4.0 * ends.max, 0.0, 4.0 * ends.max]))
    assert drawn.dtype == dtype
    assert drawn[0] == ends.min
    assert drawn[1] == round(column.origin)
    assert ends.max - int(drawn[2]) < 2048  # the largest that float64 has


def test_large_numbers_keep_their_decimals():
    cells = pd.Series(1e12 + 10 * np.random.default_rng(0).normal(size=300), name="x")
    column = column_of(cells)
    codes = column.encode(cells).astype(np.float32)
    np.testing.assert_allclose(column.decode(codes.astype(float)), cells, rtol=0, atol=2e-4)


@pytest.mark.parametrize("declared", [None, "real"])
@pytest.mark.parametrize(
    "values",
    [
        pytest.param([10**25 + i for i in range(300)], id="more digits than float64 has"),
        pytest.param(np.linspace(0, 1, 300) + 1e9 * (np.arange(300) % 2), id="two clusters"),
    ],
)
def test_columns_that_lose_their_digits_warn(values, declared):
    with pytest.warns(UserWarning, match="'x': 300 different numbers are read as"):
        column_of(pd.Series(values), declared)


def test_numbers_that_the_density_cannot_resolve_warn():
    cells = np.concatenate((np.linspace(0, 1, 150), 1e4 + np.linspace(0, 1, 150)))
    with pytest.warns(UserWarning, match="'x': many numbers are nearer to each other"):
        column_of(pd.Series(cells))


@pytest.mark.parametrize("huge", [1e5, 1e9, -1e20])
def test_a_huge_number_leaves_the_others_their_scale(huge):
    rng = np.random.default_rng(0)
    column = column_of(pd.Series([*rng.normal(5, 2, 500), huge]))
    assert 0.5 < column.stretch < 4
    assert column.describe().endswith(", with heavy tails")
    params = torch.zeros(column.family.num_params, dtype=torch.double)
    draws = column.decode(column.family.icdf(params, torch.tensor([0.05, 0.5, 0.95])).numpy())
    assert draws.between(-100, 100).all()
    grid = torch.linspace(-2000, 2000, 400_001, dtype=torch.double)
    density = column.family.log_prob(params, grid).exp()
    assert torch.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-3)


def test_draws_of_durations_are_not_negative():
    for unit in ("s", "ms"):
        lengths = np.random.default_rng(0).exponential(3600, 500).round()
        column = column_of(pd.Series(pd.to_timedelta(lengths, unit)))
        params = torch.randn(5000, column.family.num_params)
        drawn = column.decode(column.drawn.sample(params).double().numpy())
        assert (drawn >= pd.Timedelta(0)).all()
        assert drawn.dtype.kind == "m"


@pytest.mark.parametrize("center", [0, 300, 1430])
def test_times_of_day_have_probabilities_that_sum_to_one(center):
    """Also around midnight, where the numbers end."""
    torch.manual_seed(0)
    minutes = (center + 100 * np.random.default_rng(0).normal(size=300)) % 1440
    day = [f"{m // 60:02}:{m % 60:02}" for m in range(1440)]
    column = column_of(pd.Series([day[int(m)] for m in minutes]))
    assert column.kind == "clock"
    params = torch.randn(5, column.family.num_params, dtype=torch.float64)
    codes = torch.from_numpy(column.encode(pd.Series(day)))
    probabilities = column.family.log_prob(params.unsqueeze(1), codes).exp()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5).double(), rtol=0, atol=1e-3)
    ends = torch.from_numpy(column.floor(pd.Series(["00:00", "23:59"])))
    below = column.family.cdf(params.unsqueeze(1), ends)
    torch.testing.assert_close(below[:, 0], probabilities[:, 0], rtol=0.05, atol=1e-4)
    torch.testing.assert_close(below[:, 1], torch.ones(5).double())
    uniform = torch.linspace(0.001, 0.999, 99).double()
    for quantiles in column.drawn.icdf(params.unsqueeze(1), uniform).numpy():
        assert column.decode(quantiles).is_monotonic_increasing


def test_spikes_have_a_probability():
    income = pd.Series([0.0] * 200 + np.exp(np.random.default_rng(0).normal(9, 1, 300)).tolist())
    column = column_of(income)
    assert column.points == (0.0,)
    params = torch.zeros(column.family.num_params)
    assert column.family.mass(params, torch.tensor(0.0)) == 0.5


def test_rare_and_unseen_levels_are_one():
    cells = pd.Series(["a", "b"] * 50 + ["rare", "once"], name="x")
    column = column_of(cells)
    assert (column.levels, column.pooled) == (("a", "b"), 2)
    assert column.encode(pd.Series(["a", "once", "new", None], name="x")).tolist()[:3] == [0, 2, 2]
    assert column.decode(np.array([0.0, 2.0, np.nan])).tolist()[:2] == ["a", "other"]
    assert column.listed.log_prob(torch.zeros(3), torch.arange(3.0)).exp().tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        (["a" * 5000, "b\nc"] * 60, f"2 levels: {'a' * 37}..., b c"),
        ([1e12 + 1, 1e12 + 2.5, 1e12 + 3] * 60, "3 numbers, 1000000000001 to 1000000000003"),
        (np.arange(200) * 1e-9 + 1.5, "1.5 to 1.5000002"),
        ([-0.0] * 300 + np.geomspace(1, 9, 200).tolist(), "0 to 9, spikes at 0"),
    ],
)
def test_values_are_described_in_one_short_line(cells, text):
    described = column_of(pd.Series(cells)).describe()
    assert text in described
    assert len(described) < 100
    assert "\n" not in described


def test_the_text_of_rare_levels_is_new():
    cells = pd.Series(["a", "other"] * 50 + ["rare"], name="x")
    assert column_of(cells).written == ["a", "other", "(other)"]


def test_unseen_levels_warn_without_rare_ones():
    schema = Schema.of(pd.DataFrame({"x": ["a", "b"] * 50}))
    with pytest.warns(UserWarning, match="'x': 'c' was not in the table of fit; 2 such cells"):
        codes = schema.encode(pd.DataFrame({"x": ["c", "a", "c"]}))
    assert codes.ravel().tolist() == [2, 0, 2]


def test_a_schema_prints_as_a_table():
    table = people().assign(id=range(1000, 1400))
    with pytest.warns(UserWarning, match="'id': left out, since it is an identifier: 400"):
        schema = Schema.of(table)
    assert repr(schema).splitlines()[:4] == [
        "column  kind      missing  values",
        "size    ordinal        0%  3 levels: S, M, L",
        "job     category       0%  3 levels: cook, nurse, pilot",
        "age     discrete       0%  20 numbers, 18 to 37",
    ]
    assert repr(schema).splitlines()[-1].startswith("id      left out           it is an ident")


def test_tables_with_holes_come_back():
    table = with_holes(people())
    schema = Schema.of(table)
    decoded = schema.decode(schema.encode(table))
    assert list(decoded) == list(table)
    for name in table:
        assert_same(decoded[name], table[name], rtol=1e-12)


DECLARED = {
    "category": pd.Series([3, 4, 4] * 30),
    "discrete": pd.Series(np.arange(500)),
    "count": pd.Series([3, 4, 4] * 30),
    "real": pd.Series([3, 4, 4] * 30),
    "positive": pd.Series([3, 4, 4] * 30),
    "bool": pd.Series([0, 1] * 50),
    "date": pd.Series(pd.date_range("2020", periods=50, freq="h")),
}


@pytest.mark.parametrize("kind", DECLARED)
def test_kinds_can_be_declared(kind):
    cells = DECLARED[kind].rename("x")
    column = column_of(cells, kind)
    assert column.kind == kind
    assert np.isfinite(column.encode(cells)).all()
    assert set(DECLARED) < set(KINDS)


def test_declared_names_of_other_types_are_refused():
    with pytest.raises(ValueError, match=r"columns: expected names of \['x'\], got \[0, 'y'\]"):
        Schema.of(pd.DataFrame({"x": [1, 2]}), {"y": "real", 0: "real"})


def test_levels_can_be_declared_in_order():
    column = column_of(pd.Series(["low", "high"] * 30), ["low", "middle", "high"])
    assert (column.kind, column.levels) == ("ordinal", ("low", "middle", "high"))


@pytest.mark.parametrize("make", [list, tuple, np.array, pd.Index, pd.Series])
def test_levels_may_be_in_any_list(make):
    column = column_of(pd.Series([1, 2, 2] * 30), make([2, 1, 3]))
    assert column.levels == (2, 1, 3)
    assert all(type(level) is int for level in column.levels)
