"""The estimator: its scores, draws and answers agree with each other."""

import pickle
from datetime import date, datetime
from decimal import Decimal
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from people import people, with_holes
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from ardist import Ordering, networks
from ardist.networks.base import ConditionalNetwork
from ardist.shapes import default_dtype
from ardist.tables import TableDensity

QUERY = {"size": "M", "job": "nurse"}


@pytest.fixture(scope="module")
def table():
    return people()


@pytest.fixture(scope="module")
def model(table):
    return TableDensity(max_epochs=10).fit(table)


@pytest.fixture(scope="module")
def holes(table):
    return with_holes(table)


@pytest.fixture(scope="module")
def some(holes):
    return holes[["job", "age", "income", "smokes"]]


@pytest.fixture(scope="module")
def whole(some):
    """A model of which cells are missing too."""
    return TableDensity(max_epochs=8, missing="model").fit(some)


def test_the_cells_of_a_row_sum_to_its_score(model, table, holes):
    for rows in (table[:20], holes[:20]):
        cells = model.cell_scores(rows)
        assert list(cells) == list(table)
        assert (cells.isna() == rows.isna()).all(axis=None)
        np.testing.assert_allclose(cells.sum(axis=1), model.score_samples(rows), rtol=1e-5)
    assert model.score(table[:20]) == model.score_samples(table[:20]).mean()


def test_training_improves_on_independent_columns(table):
    train, test = (rows[["size", "job"]] for rows in (table, people(seed=7)))
    joint = TableDensity(max_epochs=30).fit(train)
    alone = sum(joint.marginal([name]).score(test[[name]]) for name in test)
    assert joint.score(test) > alone + 0.2


def test_missing_cells_are_integrated_out(model, table):
    rows = table[["size", "job", "age"]][:10]
    part = table[:10].assign(**{name: None for name in table if name not in rows})
    np.testing.assert_allclose(
        model.score_samples(part), model.marginal(list(rows)).score_samples(rows), rtol=1e-5
    )


@pytest.mark.parametrize("column", ["smokes", "job", "size", "age"])
def test_probabilities_are_those_of_whole_rows(model, table, column):
    others = [name for name in ("income", "height", "visits") if name != column]
    rows = table[[column, *others]][:5]
    probs = model.predict_proba(rows, column)
    np.testing.assert_allclose(probs.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(model.density(rows, column, list(probs)), probs, rtol=1e-5)


def test_probabilities_are_ratios_of_those_of_rows(model, table):
    rows = table[["job", "income", "smokes"]][:5]
    joint = model.marginal(list(rows)).score_samples(rows)
    below = model.marginal(["job", "income"]).score_samples(rows.drop(columns="smokes"))
    probs = model.predict_proba(rows, "smokes").to_numpy()
    picked = probs[np.arange(5), rows["smokes"].astype(int)]
    np.testing.assert_allclose(np.log(picked), joint - below, rtol=1e-4, atol=1e-5)


def test_rows_may_have_holes_of_their_own(model, holes):
    rows = holes.drop(columns="job")[:12]
    together = model.predict_proba(rows, "job")
    each = [model.predict_proba(rows[i : i + 1], "job") for i in range(12)]
    pd.testing.assert_frame_equal(together, pd.concat(each), rtol=1e-5)


@pytest.mark.parametrize("column", ["income", "height", "visits", "age", "size", "born", "seen"])
def test_quantiles_invert_the_cdf(model, column):
    q = [0.1, 0.5, 0.9]
    values = model.quantile(QUERY, column, q).iloc[0]
    reached = model.cdf(QUERY, column, values.to_list())[0]
    assert (reached >= np.array(q) - 1e-3).all()
    if column in ("height", "seen"):
        np.testing.assert_allclose(reached, q, atol=1e-3)
    assert model.quantile(QUERY, column).iloc[0] == values[0.5]


def test_densities_integrate_to_the_cdf(model):
    grid = np.linspace(100, 240, 3001)
    density = model.density(QUERY, "height", grid)[0]
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-3)
    upto = model.cdf(QUERY, "height", [165.0])[0, 0]
    assert np.trapezoid(density[grid <= 165.0], grid[grid <= 165.0]) == pytest.approx(
        upto, abs=1e-2
    )


def test_a_spike_has_its_probability(model):
    spike = model.density(QUERY, "income", [0.0])[0, 0]
    assert spike == pytest.approx(model.cdf(QUERY, "income", [0.0])[0, 0], rel=1e-5)
    assert spike == pytest.approx(0.3, abs=0.15)
    assert model.quantile(QUERY, "income", spike / 2).iloc[0] == 0.0


def test_draws_follow_the_conditionals(model):
    drawn = model.sample(1000, given=QUERY)
    assert (drawn["job"] == "nurse").all()
    assert (drawn["size"] == "M").all()
    probs = model.predict_proba(QUERY, "smokes").iloc[0]
    assert drawn["smokes"].mean() == pytest.approx(probs[True], abs=0.05)
    below = model.cdf(QUERY, "height", [170.0])[0, 0]
    assert (drawn["height"] <= 170.0).mean() == pytest.approx(below, abs=0.06)


def test_draws_have_the_dtypes_of_the_table(model, table):
    drawn = model.sample(50)
    assert drawn.dtypes.astype(str).equals(table.dtypes.astype(str))
    assert drawn["age"].between(18, 37).all()
    assert (drawn["income"] >= 0).all()
    model.score(drawn)
    assert drawn.equals(model.sample(50))
    assert not drawn.equals(model.sample(50, random_state=1))


def test_draws_given_several_rows(model):
    given = pd.DataFrame({"job": ["cook", "pilot"], "age": [None, 30]})
    drawn = model.sample(3, given=given)
    assert drawn["job"].tolist() == ["cook"] * 3 + ["pilot"] * 3
    assert drawn["age"][3:].tolist() == [30] * 3


def test_unseen_levels_are_the_rare_ones(table):
    rows = table[["job", "size", "smokes"]].copy()
    rows.loc[:2, "job"] = ["clown", "baker", "smith"]
    model = TableDensity(max_epochs=1).fit(rows)
    drawn = [model.sample(20, given={"job": "other"})]
    for job in ("clown", "unseen"):
        with pytest.warns(UserWarning, match=f"'{job}' was not .* and is written as 'other'"):
            drawn.append(model.sample(20, given={"job": job}))
    assert (drawn[0]["job"] == "other").all()
    assert all(drawn[0].equals(other) for other in drawn[1:])
    odds = model.predict_proba({"job": ["clown", "unseen"]}, "smokes")
    np.testing.assert_array_equal(odds.loc[0], odds.loc[1])
    shares = model.density(QUERY, "job", ["clown", "unseen", "nurse"])[0]
    np.testing.assert_allclose(
        shares[[0, 2]], model.predict_proba(QUERY, "job").loc[0, ["other", "nurse"]]
    )
    assert shares[0] == shares[1] > 0


def test_unseen_levels_have_no_density_without_rare_ones(model, table):
    assert model.density({"size": "M"}, "job", ["unseen"]).item() == 0
    with pytest.warns(UserWarning, match="'unseen' was not in the table of fit"):
        filled = model.impute(table[:3].assign(job=["unseen", None, "cook"]))
    assert filled["job"][0] == "unseen"
    with pytest.raises(
        ValueError, match=r"^column 'job': expected one of \['cook', .*got 'unseen'"
    ):
        model.sample(given={"job": "unseen"})
    with pytest.raises(ValueError, match=r"^column 'age': expected one of .*, got 99$"):
        model.sample(given={"age": 99})


@pytest.mark.parametrize(
    "network", ["masked", partial(networks.Transformer, dim=8, depth=1, heads=1)]
)
def test_networks_start_at_the_marginals_once(network, table, monkeypatch):
    starts, start_at = [], ConditionalNetwork.start_at
    monkeypatch.setattr(
        ConditionalNetwork, "start_at", lambda *args: starts.append(start_at(*args))
    )
    TableDensity(network, max_epochs=1).fit(table[["size", "smokes"]])
    assert len(starts) == 1


def test_draws_are_within_limits(model, table):
    limits = {"age": (28.5, None), "job": ["cook", "nurse"], "size": (None, "M")}
    drawn = model.sample(200, where=limits, given={"smokes": True})
    assert drawn["age"].between(29, 37).all()
    assert set(drawn["job"]) == {"cook", "nurse"}
    assert set(drawn["size"]) == {"S", "M"}
    assert drawn["smokes"].all()
    heights = model.sample(200, where={"height": (160.0, 165.0)})["height"]
    assert heights.between(160.0, 165.0).all()


def test_probabilities_of_limits(model):
    below = model.cdf(None, "height", [165.0])[0, 0]
    assert model.probability({"height": (None, 165.0)}) == pytest.approx(below, rel=1e-3)
    probs = model.predict_proba({"size": "M"}, "job").iloc[0]
    both = model.probability({"job": ["cook", "nurse"]}, given={"size": "M"})
    assert both == pytest.approx(probs["cook"] + probs["nurse"], rel=1e-3)
    limits = {"age": (30, 40), "income": (1.0, None)}
    drawn = model.sample(2000)
    share = (drawn["age"].between(30, 40) & (drawn["income"] >= 1.0)).mean()
    assert model.probability(limits) == pytest.approx(share, abs=0.04)


def test_limited_columns_are_not_missing(whole):
    drawn = whole.sample(200, where={"age": (30, None)})
    assert (drawn["age"] >= 30).all()
    assert drawn["job"].isna().any()


@pytest.mark.parametrize("method", ["median", "mode", "draw"])
def test_imputation_fills_the_holes_alone(model, holes, method):
    rows = holes.assign(id=1)[:60].drop(columns="id")
    rows.index = rows.index + 100
    full = model.impute(rows, method)
    assert not full.isna().any(axis=None)
    assert full.dtypes.equals(rows.dtypes)
    assert full.index.equals(rows.index)
    pd.testing.assert_frame_equal(full.mask(rows.isna()), rows)
    model.score(full)


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        pytest.param("job", pd.Categorical(["oboist", None, None]), id="levels"),
        pytest.param("size", pd.Categorical(["L", None, None], ordered=True), id="ordered levels"),
        pytest.param("height", pd.array([171, None, None], dtype="Int64"), id="integers"),
        pytest.param("born", ["1970-01-01", None, None], id="text"),
    ],
)
@pytest.mark.filterwarnings("ignore:column 'job'")
def test_imputation_may_need_another_dtype(model, column, cells):
    rows = pd.DataFrame({column: cells}, index=[7, 7, 8])
    full = model.impute(rows, "draw")
    assert full.index.equals(rows.index)
    assert full[column].notna().all()
    # Text of dates may become dates: in pandas 2 its dtype is object.
    assert str(full[column].tolist()[0]).startswith(str(cells[0]))


@pytest.mark.parametrize(
    ("column", "cells", "kind"),
    [
        pytest.param("height", [Decimal("170.5"), None], "f", id="decimals"),
        pytest.param("born", [date(1970, 1, 1), None], "M", id="dates"),
        pytest.param("seen", [datetime(1970, 1, 1, 12), None], "M", id="times"),
    ],
)
def test_objects_are_imputed_in_one_type(column, cells, kind, model):
    rows = pd.DataFrame({column: pd.Series(cells, dtype=object)})
    full = model.impute(rows)
    assert full[column].dtype.kind == kind
    assert full[column].notna().all()
    expected = pd.Timestamp(cells[0]) if kind == "M" else float(cells[0])
    assert full[column][0] == expected


def test_imputation_is_the_median_and_the_mode(model, holes):
    rows = holes[:40]
    medians, modes = model.impute(rows), model.impute(rows, "mode")
    for name in ("age", "height", "size"):
        hole = rows[name].isna()
        predicted = model.quantile(rows, name)[hole]
        assert medians[name][hole].tolist() == predicted.tolist()
    hole = rows["job"].isna()
    assert (
        modes["job"][hole].tolist()
        == model.predict_proba(rows, "job").idxmax(axis=1)[hole].tolist()
    )
    assert modes["job"].equals(medians["job"])
    # The density at a mode is that of no median less.
    hole = rows["height"].isna().to_numpy()
    at = [
        np.diag(model.density(rows, "height", each["height"].to_list()))[hole]
        for each in (modes, medians)
    ]
    assert (at[0] >= at[1] - 1e-4).all()


def test_missing_cells_can_be_modeled(whole, some):
    cells = whole.cell_scores(some[:20])
    assert not cells.isna().any(axis=None)
    np.testing.assert_allclose(cells.sum(axis=1), whole.score_samples(some[:20]), rtol=1e-5)
    drawn = whole.sample(400)
    assert drawn.isna().to_numpy().mean() == pytest.approx(0.2, abs=0.06)
    full = whole.impute(some[:30], "draw")
    assert not full.isna().any(axis=None)


def test_marginals_have_their_columns_alone(model, table):
    part = model.marginal(name for name in ("job", "age"))
    assert list(part.sample(3)) == ["job", "age"]
    assert list(part.cell_scores(table[["age", "job"]][:3])) == ["job", "age"]
    assert part.predict_proba({"age": 30}, "job").equals(model.predict_proba({"age": 30}, "job"))


def test_columns_are_found_by_name(model, table):
    shuffled = table[list(table)[::-1]]
    assert (model.score_samples(shuffled) == model.score_samples(table)).all()


def test_scores_move_with_the_units(table):
    rows = table[["height", "job"]]
    other = rows.assign(height=rows["height"] / 100)
    one, two = (TableDensity(max_epochs=3).fit(part) for part in (rows, other))
    np.testing.assert_allclose(
        two.score_samples(other), one.score_samples(rows) + np.log(100), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("kind", ["transformer", "made"])
def test_other_networks(kind, table):
    makers = {
        "transformer": partial(networks.Transformer, dim=16, depth=1, heads=2),
        "made": partial(networks.MADE, hidden_features=(32,)),
    }
    rows = table[["job", "age", "height", "smokes"]]
    model = TableDensity(makers[kind], max_epochs=2).fit(rows)
    joint, below = model.score_samples(rows), model.marginal(["job", "age", "height"])
    last = model.predict_proba(rows, "smokes").to_numpy()
    last = np.log(last[np.arange(len(rows)), rows["smokes"].astype(int)])
    expected = joint - below.score_samples(rows.drop(columns="smokes"))
    np.testing.assert_allclose(expected, last, atol=1e-4)
    model.sample(5)
    if kind == "made":
        with pytest.raises(ValueError, match="later columns, got MADE"):
            model.predict_proba(rows, "job")
        with pytest.raises(ValueError, match="columns that a marginal lacks, before others, got M"):
            model.marginal(["age"]).score(rows)
    else:
        assert model.predict_proba(rows, "job").shape == (len(rows), 3)


def test_limits_of_a_later_column_in_a_network_with_one_order(table):
    rows = table[["job", "smokes", "age"]].copy()
    rows.loc[rows["job"] == "nurse", "smokes"] ^= True  # so that they depend on each other
    rows.loc[:20, "age"] = None  # which comes last
    maker = partial(networks.MADE, hidden_features=(32,))
    model = TableDensity(maker, max_epochs=10).fit(rows)
    jobs = model.predict_proba({}, "job").iloc[0]
    given = pd.DataFrame({"job": jobs.index})
    joint = jobs.to_numpy() * model.predict_proba(given, "smokes")[True].to_numpy()
    assert model.probability({"smokes": [True]}) == pytest.approx(joint.sum(), abs=0.03)
    drawn = model.sample(4000, where={"smokes": [True]})
    assert drawn["smokes"].all()
    shares = drawn["job"].value_counts(normalize=True).reindex(jobs.index)
    np.testing.assert_allclose(shares, joint / joint.sum(), atol=0.05)
    both = model.sample(50, given={"job": jobs.index[0]}, where={"age": (30, None)})
    assert (both["age"] >= 30).all()
    assert (both["job"] == jobs.index[0]).all()
    with pytest.raises(ValueError, match=r"^network: .* later columns, got MADE$"):
        model.sample(5, given={"smokes": True}, where={"job": [jobs.index[0]]})


@pytest.mark.parametrize("kind", [networks.MADE, networks.Masked, networks.Transformer])
def test_networks_of_another_order_are_refused(kind, some):
    """Queries and files have the order of the table."""

    def in_reverse(factorization):
        return kind(factorization.with_ordering(Ordering.reverse()))

    with pytest.raises(ValueError, match="network: expected one of the factorization that"):
        TableDensity(in_reverse, max_epochs=1).fit(some)


@pytest.mark.parametrize("missing", ["marginalize", "model"])
def test_networks_with_one_order_need_rows_without_missing_cells(missing, some):
    with pytest.raises(ValueError, match=r"^network: .* missing cells, .* got MADE$"):
        TableDensity(networks.MADE, missing=missing, max_epochs=1).fit(some)


def test_a_model_is_saved_and_loaded(model, table, tmp_path):
    model.save(tmp_path / "people.safetensors")
    other = TableDensity.load(tmp_path / "people.safetensors")
    assert (other.score_samples(table) == model.score_samples(table)).all()
    assert other.schema_ == model.schema_
    assert other.sample(5).equals(model.sample(5))


# scikit-learn.


class WithoutProba(TableDensity):
    """Its `predict_proba` takes a column, which the checks do not give."""

    @property
    def predict_proba(self):
        raise AttributeError


def test_the_checks_of_scikit_learn():
    results = check_estimator(WithoutProba(max_epochs=1), on_fail=None, on_skip=None)
    failed = {
        entry["check_name"]: entry["exception"] for entry in results if entry["status"] == "failed"
    }
    assert not failed
    assert len(results) > 30


def test_clones_and_pickles(model, table):
    again = clone(model)
    assert again.get_params() == model.get_params()
    assert not hasattr(again, "network_")
    copied = pickle.loads(pickle.dumps(model))
    assert (copied.score_samples(table) == model.score_samples(table)).all()


def test_a_fitted_model_does_not_depend_on_later_parameters(some, tmp_path):
    for missing, other in (("marginalize", "model"), ("model", "marginalize")):
        model = TableDensity(missing=missing, max_epochs=1).fit(some)
        expected = model.marginal(["age", "job"]).score(some)
        model.set_params(missing=other)
        assert model.marginal(["age", "job"]).score(some) == expected
        model.save(tmp_path / "model.safetensors")
        loaded = TableDensity.load(tmp_path / "model.safetensors")
        assert loaded.missing == missing
        assert loaded.score(some) == model.score(some)


def test_model_selection_and_pipelines(table):
    rows = table[["job", "age", "smokes"]]
    assert np.isfinite(cross_val_score(TableDensity(max_epochs=1), rows, cv=2)).all()
    grid = {"columns": [None, {"age": "count"}]}
    search = GridSearchCV(TableDensity(max_epochs=1), grid, cv=2).fit(rows)
    assert search.best_params_["columns"] in grid["columns"]
    steps = [("same", FunctionTransformer()), ("density", TableDensity(max_epochs=1))]
    assert np.isfinite(Pipeline(steps).fit(rows).score(rows))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_each_method_works_without_gradients(mode, table):
    rows = table[["job", "age"]]
    expected = TableDensity(max_epochs=1).fit(rows)
    with mode():
        model = TableDensity(max_epochs=1).fit(rows)
        assert model.sample(3).equals(expected.sample(3))
        assert model.impute(rows.assign(job=None)[:3]).notna().all(axis=None)
    assert model.fit(rows).score(rows) == expected.score(rows)


def test_the_default_dtype_of_torch_has_no_effect(table):
    rows = table[["job", "age", "height"]]
    expected = TableDensity(max_epochs=1).fit(rows)
    with default_dtype(torch.float64):
        model = TableDensity(max_epochs=1).fit(rows)
        assert model.score(rows) == pytest.approx(expected.score(rows), abs=0.1)
        assert expected.impute(rows.assign(job=None)).notna().all(axis=None)
        assert model.sample(3, where={"height": (170, 180)})["height"].between(170, 180).all()
    assert model.sample(3).shape == (3, 3)


def test_fit_leaves_the_random_state(table):
    before = torch.get_rng_state()
    first = TableDensity(max_epochs=1).fit(table[["job", "age"]])
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    second = TableDensity(max_epochs=1).fit(table[["job", "age"]])
    assert first.score(table[["job", "age"]]) == second.score(table[["job", "age"]])
