"""Limits of columns of each kind: draws are within them, as often as the density says."""

import datetime

import numpy as np
import pandas as pd
import pytest

from ardist.tables import TableDensity

ROWS = 400
RNG = np.random.default_rng(0)
MINUTES = RNG.integers(0, 1440, ROWS)
START = pd.Timestamp("2020-01-01")


def after(numbers, unit):
    return START + pd.to_timedelta(numbers, unit)


TABLE = pd.DataFrame(
    {
        "flag": RNG.random(ROWS) < 0.3,
        "dose": RNG.integers(0, 6, ROWS),
        "real": RNG.normal(1.2, 1.0, ROWS),
        "rounded": RNG.normal(-3.0, 1.0, ROWS).round(1),
        "spiked": np.where(RNG.random(ROWS) < 0.3, 0.25, RNG.normal(1.0, 1.0, ROWS)),
        "positive": np.where(RNG.random(ROWS) < 0.3, 0.0, np.exp(RNG.normal(0, 1, ROWS))),
        "count": RNG.negative_binomial(2, 0.01, ROWS),
        "signed": RNG.integers(-900, 900, ROWS),
        "near": after(RNG.integers(0, 30, ROWS), "D"),
        "far": after(RNG.integers(0, 900, ROWS), "D"),
        "text": after(RNG.integers(0, 300, ROWS), "D").strftime("%Y-%m-%d"),
        "time": after(RNG.integers(0, 10**6, ROWS), "s"),
        "zone": after(RNG.integers(0, 10**6, ROWS), "s").tz_localize("US/Eastern"),
        "duration": pd.to_timedelta(RNG.exponential(3600, ROWS).round(), "s"),
        "clock": [f"{m // 60:02}:{m % 60:02}" for m in MINUTES],
        "alarm": [datetime.time(m // 60, m % 60) for m in MINUTES],
    }
)
TABLE = TABLE.astype({"flag": "boolean", "dose": "Int64", "count": "Int64", "signed": "Int64"})
HOLES = TABLE.mask(RNG.random(TABLE.shape) < 0.1)
LIMITS = (1, 2), (1, 1000)
REALS = ("real", "rounded", "spiked", "positive")


@pytest.fixture(scope="module")
def model():
    return TableDensity(missing="model", max_epochs=1).fit(HOLES)


@pytest.fixture(scope="module")
def whole():
    return TableDensity(max_epochs=1).fit(TABLE)


@pytest.mark.filterwarnings("ignore:smc. the particles cannot be trusted")
@pytest.mark.parametrize("shares", [(0.3, 0.6), (0.5, 0.5)])
def test_draws_are_within_limits_of_cells(model, shares):
    where = {}
    for name in TABLE:
        cells = TABLE[name].sort_values().to_list()
        low, high = (cells[int(share * ROWS)] for share in shares)
        if low != high or name not in REALS:  # one real number has no probability
            where[name] = low, high
    drawn = model.sample(200, where=where)
    assert not drawn[list(where)].isna().any(axis=None)
    for name, (low, high) in where.items():
        assert ((low <= drawn[name]) & (drawn[name] <= high)).all(), name


def test_draws_at_a_spike(model):
    assert (model.sample(20, where={"spiked": (0.25, 0.25)})["spiked"] == 0.25).all()
    assert (model.sample(20, where={"positive": (None, 0.0)})["positive"] == 0.0).all()


@pytest.mark.parametrize("name", ["real", "rounded", "time", "zone", "duration"])
def test_probabilities_of_limits_are_differences_of_the_cdf(model, name):
    low, high = TABLE[name].quantile([0.3, 0.6])
    below, upto = model.cdf({}, name, [low, high])[0]
    found = model.probability({name: (low, high)})
    assert found == pytest.approx(upto - below, rel=1e-3, abs=1e-4)


VALUES = {
    "near": pd.date_range("2020-01-10", periods=4),
    "far": pd.date_range("2020-01-10", periods=4),
    "clock": [f"08:{minute}" for minute in range(10, 14)],
    "alarm": [datetime.time(8, minute) for minute in range(10, 14)],
    "count": range(101, 105),
    "signed": range(-2, 2),
    "dose": range(1, 5),
}


@pytest.mark.parametrize("name", VALUES)
def test_draws_within_limits_follow_the_density(whole, name):
    values = list(VALUES[name])
    density = whole.density({}, name, values)[0]
    where = {name: (values[0], values[-1])}
    assert whole.probability(where) == pytest.approx(density.sum(), rel=0.01)
    drawn = whole.sample(600, where=where)[name]
    shares = np.array([(drawn == value).mean() for value in values])
    np.testing.assert_allclose(shares, density / density.sum(), atol=0.08)


def test_text_is_read_as_a_cell(model):
    zone = model.sample(100, where={"zone": ("2020-01-02", "2020-01-03")})["zone"]
    assert (zone.dt.strftime("%F %T") >= "2020-01-02").all()
    assert (zone.dt.strftime("%F %T") <= "2020-01-03 00:00:00").all()
    both = model.cdf({}, "zone", ["2020-01-05", "2020-01-05T00:00-05:00"])[0]
    assert both[0] == both[1]
    lengths = model.sample(100, where={"duration": ("1h", "2h")})["duration"]
    assert lengths.between(pd.Timedelta("1h"), pd.Timedelta("2h")).all()


def test_limits_beside_a_spike_have_no_probability():
    cells = [-3.0] * 20 + np.geomspace(1, 100, 60).tolist()
    model = TableDensity(columns={"x": "positive"}, max_epochs=1).fit(pd.DataFrame({"x": cells}))
    assert (model.sample(20, where={"x": (-3, -1)})["x"] == -3).all()
    with pytest.raises(ValueError, match="limits of 'x', of kind positive, that hold values"):
        model.sample(20, where={"x": (-2.5, -1)})


@pytest.mark.parametrize("kind", ["real", "count", "time"])
def test_limits_that_are_too_near_for_the_digits_of_draws_are_refused(kind):
    numbers = pd.Series(np.linspace(0, 10**9, 60)).round()
    cells = after(numbers, "s") if kind == "time" else numbers
    model = TableDensity(columns={"x": kind}, max_epochs=1).fit(pd.DataFrame({"x": cells}))
    (low, high), far = ((after(x, "s") if kind == "time" else x for x in ends) for ends in LIMITS)
    with pytest.raises(ValueError, match=r"above 0, got .*; draws have 7 digits next to the med"):
        model.probability({"x": (low, high)})
    assert model.sample(20, where={"x": tuple(far)})["x"].ge(low).all()


def test_given_cells_may_be_limited(model):
    rows = model.sample(5, given={"dose": 1, "real": 1.1}, where={"dose": (1, 2), "real": (1.1, 2)})
    assert (rows["dose"] == 1).all()
    assert model.probability({"dose": [1, 2]}, given={"dose": 1}) == 1.0
