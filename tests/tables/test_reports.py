"""Reports about synthetic tables."""

import numpy as np
import pandas as pd
import pytest
from people import people, with_holes

from ardist.tables.reports import compare
from ardist.tables.schema import Schema


@pytest.fixture(scope="module")
def schema():
    return Schema.of(with_holes(people()))


def test_equal_tables_cannot_be_told_apart(schema):
    real, other, held_out = (with_holes(people(300, seed), seed=seed) for seed in (1, 2, 3))
    report = compare(schema, real, other, held_out)
    assert report.marginals["difference"].max() < 0.15
    assert (report.real_pairs - report.synthetic_pairs).abs().max(axis=None) < 0.25
    assert report.accuracy == pytest.approx(0.5, abs=0.08)
    assert report.copies == report.held_out_copies == 0
    assert report.nearer == pytest.approx(0.5, abs=0.08)
    assert repr(report).count("\n") == 4


def test_a_table_without_missing_cells_is_compared_with_holes(schema):
    report = compare(schema, with_holes(people(300, 1)), people(300, 2), None)
    assert report.accuracy == pytest.approx(0.5, abs=0.08)
    assert (report.real_pairs - report.synthetic_pairs).abs().max(axis=None) < 0.25
    assert (report.marginals["missing in synthetic"] == 0).all()


def test_a_broken_dependence_shows(schema):
    real = people(300, 1)
    broken = real.assign(job=np.random.default_rng(0).permutation(real["job"]))
    report = compare(schema, real, broken, None)
    assert report.marginals["difference"].max() == 0
    assert report.real_pairs.loc["size", "job"] > report.synthetic_pairs.loc["size", "job"] + 0.5
    assert report.accuracy > 0.6
    assert report.nearer is report.held_out_copies is None


def test_a_shifted_marginal_shows(schema):
    real = people(300, 1)
    shifted = real.assign(height=real["height"] + 10, smokes=True)
    differences = compare(schema, real, shifted, None).marginals["difference"]
    assert differences["height"] == pytest.approx(0.38, abs=0.08)
    assert differences["smokes"] == pytest.approx(1 - real["smokes"].mean())


def test_copies_show(schema):
    real, held_out = people(300, 1), people(300, 2)
    report = compare(schema, real, pd.concat((real[:150], people(150, 3))), held_out)
    assert report.copies == 0.5
    assert report.nearer > 0.7


@pytest.mark.parametrize("unit", [2.0**-60, 2.0**60])
def test_a_report_does_not_depend_on_the_units(unit):
    numbers = np.random.default_rng(0).lognormal(0, 1.5, (3, 200, 2))
    numbers[:, :40, 0] = 0.0
    reports = []
    for parts in (numbers, numbers * unit):
        tables = [pd.DataFrame(part, columns=["spiked", "positive"]) for part in parts]
        reports.append(compare(Schema.of(tables[0]), *tables))
    assert reports[0].nearer == pytest.approx(reports[1].nearer, abs=1e-3)
    assert repr(reports[0]) == repr(reports[1])


@pytest.mark.parametrize("place", range(3))
def test_tables_of_a_report_have_three_rows(place, schema):
    tables = [people(3 - (place == i), i) for i in range(3)]
    name = ("df", "synthetic", "held_out")[place]
    with pytest.raises(ValueError, match=f"^{name}: expected at least 3 rows, got 2$"):
        compare(schema, *tables)
    assert repr(compare(schema, *[people(3, i) for i in range(3)]))


def test_the_picture_has_each_column(schema):
    report = compare(schema, people(200, 1), people(200, 2), None)
    figure = report.plot()
    titles = [axis.get_title() for part in figure.subfigs for axis in part.axes]
    assert set(people()) <= set(titles)
    figure.canvas.draw()


def test_the_picture_leaves_missing_columns_empty(schema):
    report = compare(schema, people(200, 1), people(200, 2).assign(age=None, job=None), None)
    assert report.marginals["difference"].isna().sum() == 2
    report.plot().canvas.draw()
