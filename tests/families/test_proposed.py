"""Families that are proposed from a column."""

import numpy as np
import pandas as pd
import pytest
import torch

import ardist as ad
from ardist import families as fam
from ardist.tables import Schema

RNG = np.random.default_rng(0)
COLUMNS = {
    "bools": RNG.random(300) < 0.5,
    "binary": RNG.integers(0, 2, 300),
    "codes": RNG.integers(0, 7, 300).astype(float),
    "years": RNG.integers(2000, 2010, 300),
    "negative": RNG.integers(-3, 3, 300),
    "halves": RNG.choice([0.5, 1.0, 2.5], 300),
    "counts": RNG.integers(0, 10**4, 300),
    "skewed counts": RNG.lognormal(4, 1, 300).round(),
    "large": RNG.integers(10**5, 10**6, 300),
    "reals": 1e3 + RNG.normal(size=300),
    "rounded": (1e3 + RNG.normal(size=300)).round(1),
    "positive": RNG.lognormal(5, 2, 300),
    "spiked": np.where(RNG.random(300) < 0.5, 0.0, RNG.lognormal(size=300)),
    "one value": np.full(300, 2.5),
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bools", fam.Bernoulli()),
        ("binary", fam.Bernoulli()),
        ("codes", fam.Categorical(7)),
    ],
)
def test_codes(name, expected):
    assert fam.auto(COLUMNS[name]) == expected


@pytest.mark.parametrize("name", COLUMNS)
def test_a_proposed_family_takes_its_column_and_draws_of_its_kind(name):
    column = torch.tensor(COLUMNS[name]).float()
    fac = ad.Factorization(1, fam.auto(column))
    net = ad.networks.MADE(fac, hidden_features=())
    net.start_at(column.unsqueeze(-1))
    p = net.condition()
    assert p.log_prob(column.unsqueeze(-1)).isfinite().all()
    drawn = p.sample((300,)).squeeze(-1).float()
    if not (column % 1).any():
        assert not (drawn % 1).any()
    low, high = column.min(), column.max()
    span = high - low + 0.1
    assert ((low - span < drawn) & (drawn < high + span)).float().mean() > 0.9
    if name in ("positive", "spiked", "skewed counts"):
        assert (drawn >= 0).all()


@pytest.mark.parametrize("name", ["counts", "skewed counts", "reals", "positive", "spiked"])
def test_a_table_has_the_family_of_the_column(name):
    table = pd.DataFrame({name: COLUMNS[name]})
    (column,) = Schema.of(table).columns
    values = torch.tensor(COLUMNS[name])
    proposed = fam.auto(values)
    params = torch.randn(proposed.num_params, dtype=torch.float64)
    codes = torch.tensor(column.encode(table[name]))
    torch.testing.assert_close(
        proposed.log_prob(params, values), column.family.log_prob(params, codes)
    )


def test_other_types_of_columns():
    column = COLUMNS["counts"]
    of_array = repr(fam.auto(column))
    masked = np.ma.array([*column, 10**6], mask=[*np.zeros(300), 1])
    others = torch.tensor(column), column.tolist(), pd.Series(column), [*column, np.nan], masked
    for other in others:
        assert repr(fam.auto(other)) == of_array


@pytest.mark.parametrize("unit", [2.0**-700, 2.0**-400, 2.0**-60, 2.0**60, 2.0**700])
@pytest.mark.parametrize("name", ["reals", "near", "positive", "heavy"])
def test_the_location_and_scale_of_a_family_move_with_the_unit(name, unit):
    others = {"near": 1 + 1e-9 * RNG.normal(size=300), "heavy": RNG.standard_t(1, 300)}
    column = {**COLUMNS, **others}[name]
    family, moved = fam.auto(column), fam.auto(column * unit)
    params = torch.randn(family.num_params, dtype=torch.float64)
    quantiles = [
        each.icdf(params, torch.tensor([0.1, 0.9], dtype=torch.float64)) for each in (family, moved)
    ]
    # The origin is rounded, which moves the middle of heavy tails.
    torch.testing.assert_close(quantiles[1] / unit, quantiles[0], rtol=1e-2, atol=0.0)


def test_columns_in_half_precision_have_a_family():
    for dtype in (torch.float16, torch.bfloat16):
        assert fam.auto((torch.arange(100) % 3).to(dtype)) == fam.Categorical(3)
