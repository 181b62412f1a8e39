"""Properties of every query, over the kinds of columns: evidence, values, ends, marginals."""

import inspect
import pickle

import numpy as np
import pandas as pd
import pytest
from people import people
from sklearn.exceptions import NotFittedError

from ardist.tables import TableDensity

# Each public method of a fitted model: a call whose evidence, if it takes any, is a given table.
SCORES = {
    "score": lambda model, table: model.score(table),
    "score_samples": lambda model, table: model.score_samples(table),
    "cell_scores": lambda model, table: model.cell_scores(table),
}
QUERIES = {
    "predict_proba": lambda model, table: model.predict_proba(table, "job"),
    "density": lambda model, table: model.density(table, "job", ["cook"]),
    "cdf": lambda model, table: model.cdf(table, "age", [20]),
    "quantile": lambda model, table: model.quantile(table, "age"),
    "sample": lambda model, table: model.sample(given=table),
    "sample, where": lambda model, table: model.sample(given=table, where={"age": [20]}),
    "probability": lambda model, table: model.probability({"age": [20]}, given=table),
    "impute": lambda model, table: model.impute(table),
    "impute, draw": lambda model, table: model.impute(table, "draw"),
}
OTHERS = {
    "marginal": lambda model, table: model.marginal(["job"]),
    "report": lambda model, table: model.report(table, table),
    "save": lambda model, table: model.save("model.safetensors"),
}

# Cells that no row can have.
IMPOSSIBLE = {"size": "XL", "smokes": 2, "income": -1.0, "visits": -5, "height": np.inf}

# Values that draws cannot have.
ABSENT = IMPOSSIBLE | {"job": "unseen", "age": 18.5, "visits": 1.5}
ORDERED = [name for name in people(2) if name != "job"]


@pytest.fixture(scope="module")
def table():
    return people()


@pytest.fixture(scope="module")
def model(table):
    return TableDensity(max_epochs=1).fit(table)


@pytest.fixture(scope="module")
def part(model):
    return model.marginal(["age", "job"])


@pytest.mark.parametrize("name", [*SCORES, *QUERIES, *OTHERS])
def test_without_a_model_each_method_says_so(name, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    new, failed = TableDensity(), TableDensity(columns={"job": "real"}, max_epochs=1)
    refit = TableDensity(max_epochs=1).fit(table[["age"]])
    refit.set_params(columns={"job": "real"})
    for model in (failed, refit):
        with pytest.raises(ValueError, match="column 'job': expected numbers"):
            model.fit(table)
    for model in (new, failed, refit):
        with pytest.raises(NotFittedError):
            (SCORES | QUERIES | OTHERS)[name](model, table[:1])


def test_the_tables_of_methods_have_all_of_them():
    own = {name for name, _ in inspect.getmembers(TableDensity, inspect.isfunction)}
    public = {name for name in own & set(vars(TableDensity)) if not name.startswith(("_", "set_"))}
    called = {name.split(",")[0] for name in SCORES | QUERIES | OTHERS}
    assert public - {"fit"} == called


@pytest.mark.parametrize("column", IMPOSSIBLE)
@pytest.mark.parametrize("query", QUERIES)
def test_impossible_evidence_is_refused(query, column, model):
    value = IMPOSSIBLE[column]
    with pytest.raises(ValueError, match=rf"'{column}'.*expected .*got {value!r}|got infinity"):
        QUERIES[query](model, {column: value, "born": None})


@pytest.mark.parametrize("query", ["predict_proba", "sample", "impute"])
def test_the_first_of_many_impossible_cells_is_shown(query, model, table):
    rows = table.iloc[5:9].drop(columns=["age", "job"])
    rows.loc[[6, 8], "income"] = [-3.0, -4.0]
    with pytest.raises(ValueError, match=r"^column 'income': expected numbers above 0, or one of "
                       r"\[0.0\], got -3.0 in 2 of 4 cells, first in row 6$"):  # fmt: skip
        QUERIES[query](model, rows)


def test_impossible_numbers_have_a_score(model, table):
    rows = table[:3].assign(income=[-1.0, 0.0, 5.0])
    assert np.isinf(model.score_samples(rows)).tolist() == [True, False, False]


# Values.


@pytest.mark.parametrize("column", list(people(2)))
def test_missing_values_have_no_density(column, model, table):
    known = table[column].iloc[0]
    for missing in (None, np.nan, pd.NA):
        values = pd.Series([known, missing], dtype=object)
        density = model.density({}, column, values)
        assert np.isnan(density).tolist() == [[False, True]]
        if column in ORDERED:
            assert np.isnan(model.cdf({}, column, values)).tolist() == [[False, True]]
    assert model.density(table[:3], column, []).shape == (3, 0)


@pytest.mark.parametrize("column", ABSENT)
def test_values_that_draws_cannot_have_have_density_zero(column, model):
    assert model.density({}, column, [ABSENT[column]]) == 0


@pytest.mark.parametrize(
    ("column", "value"), [("smokes", True), ("age", 20), ("visits", 30), ("height", 170.0)]
)
def test_texts_are_read_as_the_values_that_they_spell(column, value, model):
    one, other = (model.density({}, column, [x]) for x in (value, str(value)))
    assert one == other > 0
    one, other = (model.predict_proba({column: [x]}, "job") for x in (value, str(value)))
    assert one.equals(other)
    with pytest.raises(ValueError, match=f"^column '{column}': expected .*, got 'none'"):
        model.predict_proba({column: "none"}, "job")


@pytest.mark.parametrize("column", list(people(2)))
def test_given_cells_come_back_with_all_digits(column, model, table):
    given = table[[column]][:4]
    if column == "height":
        given = given.assign(height=[1.1, np.nan, 1 / 3, 1e-7])
    drawn = model.sample(2, given=given)[[column]]
    expected = given.loc[given.index.repeat(2)].reset_index(drop=True)
    known = expected[column].notna()
    pd.testing.assert_frame_equal(
        drawn[known], expected[known], check_exact=True, check_categorical=False
    )
    assert drawn[column].notna().all()


def test_a_given_time_in_a_column_of_dates_is_its_day(model):
    drawn = model.sample(2, given={"born": pd.Timestamp("1970-01-02 13:00")})
    assert (drawn["born"] == pd.Timestamp("1970-01-02")).all()


@pytest.mark.parametrize("q", [np.float32(0.5), [0.5], (0.5,), pd.Series([0.5]), np.array([0.5])])
def test_probabilities_of_quantiles_are_numbers_of_any_type(q, model):
    found = model.quantile({"size": "M"}, "height", q)
    assert np.ravel(found) == model.quantile({"size": "M"}, "height").to_numpy()


@pytest.mark.parametrize("column", ORDERED)
def test_quantiles_at_zero_and_one_are_the_ends(column, model, table):
    found = model.quantile(table[:2], column, [0, 1e-9, 0.5, 1 - 1e-9, 1])
    low, near, _, far, high = (found[q].iloc[0] for q in found)
    if column in ("born", "seen"):  # no dtype of dates has an infinity
        assert pd.isna(low)
        assert pd.isna(high)
        return
    if column != "size":
        assert low <= near < far <= high
    assert model.cdf(table[:1], column, [high]) == 1
    if column in ("income", "height", "visits"):
        assert (low, high) == (-np.inf if column == "height" else 0, np.inf)
        assert np.isfinite([near, far]).all()
    if column != "size":
        assert model.cdf({}, column, [-np.inf, np.inf]).tolist() == [[0, 1]]
    assert model.quantile(table[:2], column, []).shape == (2, 0)


@pytest.mark.parametrize("query", ["predict_proba", "density", "cdf", "quantile"])
def test_a_column_is_a_name(query, model):
    arguments = [["cook"]] if query in ("density", "cdf") else []
    with pytest.raises(ValueError, match=r"^column: expected one of .*, got \['job'\]$"):
        getattr(model, query)({}, ["job"], *arguments)


# Marginals.


@pytest.mark.parametrize("query", QUERIES)
def test_marginals_take_no_evidence_on_other_columns(query, part):
    with pytest.raises(ValueError, match=r"expected columns of \['job', 'age'\], got \['smokes'\], "
                       "which this marginal has integrated out"):  # fmt: skip
        QUERIES[query](part, {"smokes": [True]})


def test_marginals_are_models_of_their_columns(part, table, tmp_path):
    part.save(tmp_path / "part.safetensors")
    loaded = TableDensity.load(tmp_path / "part.safetensors")
    again = part.marginal(["job", "age"])
    for other in (part, loaded, pickle.loads(pickle.dumps(part)), again):
        assert list(other.sample(2)) == other.schema_.names == ["job", "age"]
        assert other.feature_names_in_.tolist() == ["job", "age"]
        assert other.n_features_in_ == 2
        assert repr(other.schema_).count("\n") == 2
        scores = other.score_samples(table[["job", "age"]])
        np.testing.assert_array_equal(scores, part.score_samples(table))
        assert list(other.impute({"age": 20})) == ["age", "job"]


def test_columns_that_are_left_out_are_no_evidence(table):
    rows = table[["job", "smokes"]].assign(id=range(1000, 1400))
    with pytest.warns(UserWarning, match="'id': left out"):
        model = TableDensity(max_epochs=1).fit(rows)
    assert model.score(rows) == model.score(rows.drop(columns="id"))
    with pytest.raises(ValueError, match=r"got 'id', which is left out, since it is an identifier"):
        model.sample(given={"id": 1000})
    assert model.marginal(["job"]).score(rows) == model.marginal(["job"]).score(rows[["job"]])
