"""A density estimator of scikit-learn over tables."""

import copy
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ardist.factorization import Factorization
from ardist.networks import Masked
from ardist.networks.base import ConditionalNetwork
from ardist.networks.constants import reference_of
from ardist.saving import read, save
from ardist.shapes import as_choice, as_positive, default_dtype, described
from ardist.tables.columns import Codes, Column, Levels, Numbers, plain
from ardist.tables.events import Events
from ardist.tables.frames import as_frame, is_records
from ardist.tables.reports import Report, compare
from ardist.tables.rows import Rows, check_unknown
from ardist.tables.schema import Schema
from ardist.training import fit

_MISSING = ("marginalize", "model")
_METADATA = "ardist.tables"  # key in the metadata of a file
_BATCH_SIZE, _LR = 512, 3e-3  # the largest batch, and the learning rate
_STEPS = (1000, 8000, 6000)  # of training, for the numbers of rows of `_LOG_ROWS`
_AVERAGE = 6.0  # epochs whose weights are averaged, at most
_HELD_ROWS = 2000  # at most, for validation; more rows help more in training
_VALID_ROWS = 2048  # at most, in one batch
_IN_ORDER = 0.1  # share of the rows that are trained in the order of the table
_LOG_ROWS = (3.0, math.log10(3e4), 5.0)  # of tables whose regularization was chosen on validation
_PARTICLES = 1000  # for limits, at least
_LEAST = 2.0**-24  # float32 tells this probability from 0, and 1 minus it from 1

Method = Callable[[Tensor, Tensor], Tensor]  # of a family: parameters and values
Function = TypeVar("Function", bound=Callable[..., Any])


def _on_cpu(method: Function) -> Function:
    """Decorates a method to make its tensors on the CPU, whatever the default device is."""

    @wraps(method)
    def on_cpu(*args: Any, **kwargs: Any) -> Any:
        if torch.get_default_device().type == "cpu":
            return method(*args, **kwargs)  # a context would slow each operation
        with torch.device("cpu"):
            return method(*args, **kwargs)

    return cast(Function, on_cpu)


class TableDensity(DensityMixin, BaseEstimator):  # type: ignore[misc]  # they have no types
    """The joint density of the columns of a table, and of any of them given any others.

    `fit` proposes a family for each column (see `Schema`) and trains a network on all of them by
    `ardist.training.fit`. Scores are in nats: log-probabilities of discrete columns, and log
    densities of numbers in the units of the table, so that models of one table can be compared.

    A table is a pandas data frame, a frame with the Arrow interface (polars, pyarrow), a dict of
    columns, a list of dicts of cells, or an array, whose columns are named x0, x1, ... Columns are
    found by name, in any order. Columns that `fit` left out are not read. Queries also take tables
    that lack columns.

    Missing cells (NaN, NaT, None, `pandas.NA`) are integrated out, in training and in queries.
    Levels of a category that `fit` saw once or not at all, and discrete numbers that it has not
    seen, are read as one level "other". If `fit` saw no such cells, queries with them warn. A cell
    that no row can have, such as a negative number in a column of positive numbers, scores -inf,
    and is an error as evidence. In a column of times with a time zone, text without a zone is local
    time.

    `networks.Masked` gives the conditional of a column given any set of other columns in one pass,
    and each row may have another set. But its conditionals need not be consistent: each order of
    the columns defines its own joint distribution, and two orders agree only as far as the network
    has learned.

    - `predict_proba`, `density`, `cdf`, `quantile`, and `impute` by medians or modes use the
      conditional of one column given the known cells. Prefer them for one column.
    - `sample`, and `impute` by draws, draw the unknown cells in the order of the table, each given
      the known cells and the cells drawn before. Use them for several columns.
    - Scores are sums over the known cells in the order of the table, each given the known cells to
      its left. Conditionals that are computed from scores by Bayes' rule may differ from
      `predict_proba`.
    - `where=` and `probability` weight draws in the order of the table, and are estimates.

    Args:
        network: "masked", or a callable that makes a network from a `Factorization`, such as
            `functools.partial(ardist.networks.Transformer, dim=64, depth=3, heads=4)`. A network
            with one order (`MADE`) trains on tables without missing cells, under either `missing`,
            and answers only queries about a column given earlier ones. `where=` takes limits of
            any columns.
        columns: replaces proposals, by name: a kind ("bool", "category", "ordinal", "discrete",
            "count", "real", "positive", "date", "time", "duration", "clock" (times of day) or "left
            out"), or a list of ordered levels. Numbers in a column of text are drawn as text.
        missing: "marginalize", or "model": whether a cell is missing is part of the row. Its
            probability is in the scores, and sampled tables have missing cells.
        max_epochs: the largest number of passes over the table; by default enough for 1,000 to
            8,000 steps, depending on the number of rows. A tenth of the rows, at most 2,000, is
            held out. Training ends earlier if their likelihood stops improving.
        time_limit: the largest number of seconds of training.
        random_state: an integer, with which `fit` and each call of `sample` repeat their results,
            or None or a `RandomState` for different results in each call.
        progress: whether `fit` shows a progress bar.

    Attributes:
        schema_: the `Schema`, which prints as a small table.
        network_: the trained network.
        history_: the `ardist.training.History` of training.
        feature_names_in_: the names of all columns of the table, or of the columns of a marginal.
        n_features_in_: the number of these names.

    >>> import pandas as pd
    >>> from sklearn.datasets import load_wine
    >>> from ardist.tables import TableDensity
    >>> wine = load_wine(as_frame=True).frame[["alcohol", "color_intensity", "target"]]
    >>> model = TableDensity(max_epochs=5).fit(wine)
    >>> model.score_samples(wine).shape
    (178,)
    >>> model.predict_proba({"alcohol": 14.0}, "target").shape
    (1, 3)
    """

    network_: ConditionalNetwork

    def __init__(
        self,
        network: str | Callable[[Factorization], ConditionalNetwork] = "masked",
        *,
        columns: Mapping[str, Any] | None = None,
        missing: str = "marginalize",
        max_epochs: int | None = None,
        time_limit: float | None = None,
        random_state: Any = 0,
        progress: bool = False,
    ) -> None:
        self.network = network
        self.columns = columns
        self.missing = missing
        self.max_epochs = max_epochs
        self.time_limit = time_limit
        self.random_state = random_state
        self.progress = progress

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = tags.input_tags.categorical = True
        return tags

    # Training.

    @_on_cpu
    @torch.inference_mode(False)  # parameters that are made in inference mode cannot be trained
    def fit(self, X: Any, y: None = None) -> "TableDensity":
        """Trains on a table.

        Args:
            X: a table of at least two rows.
            y: not used.

        Raises:
            ValueError: if X is not a table, or a column cannot be modeled; the message names it.
        """
        as_choice(self.missing, _MISSING, "missing")
        if self.max_epochs is not None:
            as_positive(self.max_epochs, "max_epochs")
        frame = as_frame(X)
        if frame.shape[1] == 0:
            raise ValueError("X: expected at least one column, got 0 feature(s)")
        if len(frame) < 2:
            raise ValueError(f"X: expected at least 2 rows, got {len(frame)} sample(s)")
        if hasattr(self, "network_"):
            del self.network_  # if this call fails, there is no model
        schema, has_flags = Schema.of(frame, self.columns), self.missing == "model"
        events = self._keep(schema, has_flags, list(frame.columns))
        rows = events.encode(frame, is_whole=True)
        seed = self._seed()
        with torch.random.fork_rng(devices=[]), default_dtype(torch.float32):
            torch.manual_seed(seed)
            network = self._make_network(events.factorization, len(frame))
        check_unknown(network, rows)
        if network.output_maps and not network.starts_at_data:  # other networks do so in `fit`
            network.start_at(rows)
        count, batch_size = len(frame), min(max(len(frame) // 32, 64), _BATCH_SIZE)
        steps = np.interp(math.log10(count), _LOG_ROWS, _STEPS)
        epochs = self.max_epochs or math.ceil(steps * batch_size / count)
        averaged = min(_AVERAGE, epochs / 20) * count / batch_size  # steps
        if self.time_limit is not None:  # training may be too short to forget the first weights
            averaged = 0.0
        is_any_order = network.has_row_orders
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        train, held = rows[order].tensor_split([count - min(max(1, count // 10), _HELD_ROWS)])
        # Each row is scored with several random sets, since few scores would be noisy.
        held = held.repeat(max(1, _VALID_ROWS // held.shape[0]), 1)
        self.history_ = fit(
            network,
            train,
            valid=DataLoader(TensorDataset(held.unsqueeze(0)), None),  # at once, not row by row
            batch_size=batch_size,
            lr=_LR,
            max_epochs=epochs,
            patience=max(10, epochs // 4),
            time_limit=self.time_limit,
            orderings="row" if is_any_order and not network.has_masks else None,
            in_order=_IN_ORDER if is_any_order else 0.0,
            nan_policy="marginalize",
            weight_decay=_regularization(count)[2],
            average=1 - 1 / max(10.0, averaged),
            seed=seed,
            progress=self.progress,
        )
        self.network_ = network
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

    def _make_network(self, fac: Factorization, num_rows: int) -> ConditionalNetwork:
        if self.network == "masked":
            width, dropout, _ = _regularization(num_rows)
            return Masked(fac, hidden_features=(width, width), dropout=dropout)
        if not callable(self.network) or isinstance(self.network, ConditionalNetwork):
            raise ValueError(
                f"network: expected 'masked' or a callable from a factorization to a network, got "
                f"{described(self.network)}"
            )
        network = self.network(fac)
        if not isinstance(network, ConditionalNetwork):
            raise ValueError(
                f"network: expected a callable that returns a network of ardist.networks, got "
                f"{described(network)}"
            )
        if network.factorization != fac:  # queries use its names, order and families
            raise ValueError(
                f"network: expected one of the factorization that the callable takes, got one of "
                f"{network.factorization}"
            )
        weight = reference_of(network)
        if weight.dtype != torch.float32 or weight.device.type != "cpu":
            raise ValueError(
                f"network: expected one in torch.float32 on cpu, got {weight.dtype} on "
                f"{weight.device}"
            )
        return network

    # Rows.

    def _keep(self, schema: Schema, has_flags: bool, names: Sequence[str]) -> Events:
        """Restricts the model to the columns with these names, among the network's columns."""
        self.feature_names_in_ = np.array(names, dtype=object)
        self.n_features_in_ = len(names)
        self.schema_ = schema.part(names)
        self._kept = Events(schema, has_flags, tuple(self.schema_.names))
        return self._kept

    @property
    def _events(self) -> Events:
        check_is_fitted(self)
        return self._kept

    @property
    def _rows(self) -> Rows:
        return Rows(self.network_, self._events)

    def _frame(self, data: Any, is_whole: bool, argument: str = "X") -> pd.DataFrame:
        """A table as a data frame, after checks of its columns.

        If it has to be whole, it needs all columns that are modeled, and loses the columns that a
        marginal has integrated out. In other tables these columns would be evidence, and raise.
        """
        others = self._events.schema
        is_named = hasattr(data, "columns") or isinstance(data, Mapping) or is_records(data)
        frame, known = as_frame(data, argument), list(self.feature_names_in_)
        if not is_named and frame.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {frame.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        if not is_named:
            frame = frame.set_axis(known, axis=1)
        if is_whole:
            frame = frame[[n for n in frame.columns if n in known or n not in others.all_names]]
        if unknown := [name for name in frame.columns if name not in known]:
            out = ", which this marginal has integrated out" if unknown[0] in others.names else ""
            raise ValueError(f"{argument}: expected columns of {known}, got {unknown}{out}")
        lacking = [name for name in self.schema_.names if name not in frame]
        if is_whole and lacking:
            raise ValueError(
                f"{argument}: expected the columns {self.schema_.names}, got none named {lacking}; "
                f"{argument}.assign({lacking[0]}=None) adds missing cells, and marginal(columns) "
                f"needs no others"
            )
        return frame

    @contextmanager
    def _seeded(self, random_state: Any) -> Iterator[None]:
        """Seeds draws with the random state, and restores torch's generator afterwards."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed(random_state))
            yield

    def _seed(self, random_state: Any = None) -> int:
        state = self.random_state if random_state is None else random_state
        try:
            return int(check_random_state(state).randint(2**31 - 1))
        except ValueError as error:
            raise ValueError(
                f"random_state: expected an integer from 0 to 2**32 - 1, None or a "
                f"numpy.random.RandomState, got {described(state)}"
            ) from error

    # Scores.

    def score(self, X: Any, y: None = None) -> float:
        """The mean of `score_samples`, in nats per row."""
        scores = self.score_samples(X)
        if not len(scores):
            raise ValueError("X: expected at least one row, got 0 sample(s)")
        return float(scores.mean())

    @_on_cpu
    def score_samples(self, X: Any) -> np.ndarray:
        """The log-likelihood of the known cells of each row in nats, (rows,).

        It is a log density in the units of the columns of numbers. It is -inf if a cell is outside
        the support of its column, such as a negative number in a column of positive numbers.

        Raises:
            ValueError: if a column is missing or was not in the table of `fit`, or a cell is of
                another type than its column, such as text in a column of numbers.
        """
        rows = self._events.encode(self._frame(X, is_whole=True), is_whole=True)
        return self._rows.scores(rows).sum(1)

    @_on_cpu
    def cell_scores(self, X: Any) -> pd.DataFrame:
        """The log-likelihood of each cell given those to its left, in nats; NaN if it is missing.

        The cells of a row sum to `score_samples`. Unusual cells have low scores. With
        `missing="model"` the scores contain the probability that the cell is missing or not.
        """
        frame, events = self._frame(X, is_whole=True), self._events
        rows = events.encode(frame, is_whole=True)
        start = len(events.flagged)
        flags, cells = np.split(self._rows.scores(rows), [start], 1)
        cells[rows[:, start:].isnan().numpy()] = math.nan
        for place, flag in zip(events.flagged, flags.T, strict=True):
            cells[:, place] = np.where(np.isnan(cells[:, place]), flag, cells[:, place] + flag)
        table = pd.DataFrame(cells, index=frame.index, columns=events.schema.names)
        return table[self.schema_.names]

    # The distribution of one column.

    @_on_cpu
    def predict_proba(self, X: Any, column: str) -> pd.DataFrame:
        """The probabilities of a column's values given the other cells of each row, in one pass.

        Args:
            X: a table, which may lack columns. Its cells of `column` are not read.
            column: the name of a column with finitely many values.

        Returns:
            a row for each row of X, and a column for each value.

        Raises:
            ValueError: if the column has infinitely many values, or is unknown.
        """
        target = self._column(column)
        if not isinstance(target, Levels):
            raise ValueError(
                f"column: expected one with finitely many values, got {column!r}, of kind "
                f"{target.kind}; density, cdf and quantile answer for numbers"
            )
        frame, params = self._conditional(X, column)
        states = torch.arange(float(len(target.written)))
        table = target.drawn.log_prob(params.unsqueeze(1), states).exp().double().numpy()
        return pd.DataFrame(table, index=frame.index, columns=target.written)

    @_on_cpu
    def density(self, X: Any, column: str, values: Sequence[Any]) -> np.ndarray:
        """The density of a column at each of some values, given the other cells of each row.

        It is a probability for discrete columns, integers and points, and 0 for values that draws
        cannot have, such as a level that `fit` has not seen, a fraction in a column of integers, or
        infinity. Values are read like cells: text that spells a number is that number, and a time
        in a column of dates is its day.

        Args:
            X: a table, which may lack columns. Its cells of `column` are not read.
            column: the name of a column.
            values: values of the column, or missing values.

        Returns:
            (rows, values), NaN for missing values.

        Raises:
            ValueError: if a value is of another type than the column, such as a text that is no
                number, or a cell of X is impossible in its column.
        """
        target = self._column(column)
        density = self._at(X, target, target.locate(_cells(values, column)), target.drawn.log_prob)
        return np.exp(density)

    @_on_cpu
    def cdf(self, X: Any, column: str, values: Sequence[Any]) -> np.ndarray:
        """The probability that a column is at most each of some values.

        The arguments and the shape of the result are as for `density`. Numbers may be infinite.

        Raises:
            ValueError: if the column has no order, or as `density` does.
        """
        target = self._ordered(column)
        return self._at(X, target, target.floor(_cells(values, column)), target.drawn.cdf)

    @_on_cpu
    def quantile(self, X: Any, column: str, q: float | Sequence[float] = 0.5) -> Any:
        """Quantiles of a column given the other cells of each row.

        Args:
            X: a table, which may lack columns. Its cells of `column` are not read.
            column: the name of a column with an order.
            q: a probability, or several.

        Returns:
            a series, or a data frame with a column for each probability. The quantiles at 0 and 1
            are the ends of the column's support: infinite for most numbers, and missing for dates
            and times, which have no infinity.

        Raises:
            ValueError: if the column has no order, or a probability is outside [0, 1].
        """
        target, wanted = self._ordered(column), np.array(q, ndmin=1)
        if (
            wanted.dtype.kind not in "iuf"
            or wanted.ndim > 1
            or not ((wanted >= 0) & (wanted <= 1)).all()
        ):
            raise ValueError(f"q: expected probabilities within [0, 1], got {described(q)}")
        frame, params = self._conditional(X, column)
        inside = torch.from_numpy(wanted).float().clamp(_LEAST, 1 - _LEAST)
        codes = target.drawn.icdf(params.unsqueeze(1), inside).double().numpy()  # (rows, q)
        codes[:, wanted == 0], codes[:, wanted == 1] = target.ends
        parts = [target.decode(part).set_axis(frame.index) for part in codes.T]
        if np.ndim(q) == 0:
            return parts[0]
        return pd.concat(parts, axis=1, keys=wanted) if parts else frame[[]]

    def _column(self, name: str) -> Column:
        return self._events.column(name)

    def _ordered(self, name: str) -> Column:
        column = self._column(name)
        if not column.is_ordered:
            raise ValueError(
                f"column: expected one with an order, got {name!r}, of kind {column.kind}; "
                f"predict_proba gives the probabilities of its levels"
            )
        return column

    def _conditional(self, data: Any, name: str) -> tuple[pd.DataFrame, Tensor]:
        """A table, and the parameters of a column given the other cells of each row."""
        frame, events = self._frame(_evidence(data), is_whole=False), self._events
        rows = events.encode(frame.drop(columns=name, errors="ignore"), is_whole=False)
        block = events.block(name)
        return frame, self._rows.params(rows, [block])[block]

    def _at(self, data: Any, column: Column, codes: Codes, of: Method) -> np.ndarray:
        """The values of a method of the column's family at some codes, (rows, codes)."""
        _, params = self._conditional(data, column.name)
        is_known = ~np.isnan(codes)
        at = torch.from_numpy(np.where(is_known, codes, 0.0)).float()
        return np.where(is_known, of(params.unsqueeze(1), at).double().numpy(), math.nan)

    # Draws.

    @_on_cpu
    def sample(
        self,
        n: int = 1,
        *,
        given: Any = None,
        where: Mapping[str, Any] | None = None,
        random_state: Any = None,
    ) -> pd.DataFrame:
        """Samples synthetic rows.

        Args:
            n: the number of rows, or the number of rows for each row of `given`.
            given: the known cells: a dict of cells, or a table, which may lack columns. A level
                that `fit` pooled or has not seen is written as "other", with a warning, if the
                column has such cells.
            where: limits by name, such as `{"age": (40, None), "job": ["cook", "nurse"]}`: a tuple
                of the lowest and the highest value, both included and None for no limit, or, in
                columns with finitely many values, a list, set, array or series of values. Dates,
                durations and times of day may be text, such as `("1h", "2h")`. Limited cells are
                never missing. The rows are sampled from the density given that all limits hold, by
                `ardist.sampling.smc`. With limits, `given` has at most one row.
            random_state: in place of the model's `random_state`. If that is an integer, each call
                gives the same rows.

        Returns:
            a table with the columns that are modeled.

        Raises:
            ValueError: if a given value is impossible in its column, or draws cannot have it, or
                the column of a given value is not modeled, or no value is within limits.
        """
        count, frame = as_positive(n, "n"), self._given(given)
        for column in self.schema_.columns:
            if isinstance(column, Levels) and column.name in frame:
                column.check_given(frame[column.name])
        rows = self._events.encode(frame, is_whole=False).repeat_interleave(count, 0)
        with self._seeded(random_state):
            if where is not None:
                rows = self._rows.limited(self._one_row(frame), where, count, _PARTICLES)
            drawn = self._events.decode(self._rows.draw(rows))
        for column in self.schema_.columns:
            if isinstance(column, Numbers) and column.name in frame:  # codes have 7 digits
                cells = column.written(frame[column.name]).repeat(count).set_axis(drawn.index)
                drawn[column.name] = _replace(drawn[column.name], cells, cells.notna().to_numpy())
        return drawn

    @_on_cpu
    def probability(
        self, where: Mapping[str, Any], *, given: Any = None, random_state: Any = None
    ) -> float:
        """The probability that columns are within limits, estimated by `ardist.sampling.smc`.

        With `missing="model"` it is the probability given that the limited cells are not missing.

        Args:
            where: limits by name, as in `sample`.
            given: a dict of cells, or a table of one row.
            random_state: in place of the model's `random_state`.
        """
        frame = self._given(given)
        with self._seeded(random_state):
            return self._rows.probability(self._one_row(frame), where, _PARTICLES)

    def _given(self, data: Any) -> pd.DataFrame:
        """The table of known cells that draws have."""
        frame = self._frame(_evidence(data), is_whole=False, argument="given")
        for name in frame.columns:
            self._events.place(name)
        return frame

    def _one_row(self, frame: pd.DataFrame) -> Tensor:
        if len(frame) != 1:
            raise ValueError(f"given: expected one row with where=, got {len(frame)}")
        return self._events.encode(frame, is_whole=False)[0]

    @_on_cpu
    def impute(
        self,
        X: Any,
        method: str = "median",
        *,
        random_state: Any = None,
    ) -> pd.DataFrame:
        """Imputes the missing cells of a table in all columns that are modeled.

        Each cell is imputed given the observed cells of its row.

        Args:
            X: a table, which may lack columns.
            method: "median", which is the likeliest level in columns without an order; "mode", the
                likeliest value, for numbers among 64 quantiles; or "draw", a draw of all missing
                cells of a row together. Medians have the least mean absolute error. Only draws keep
                the spread of a column and its dependence on other columns.
            random_state: for draws, in place of the model's `random_state`.

        Returns:
            X as a pandas data frame, even if X is a table of another library.
        """
        as_choice(method, ("median", "mode", "draw"), "method")
        frame, events = self._frame(X, is_whole=False), self._events
        rows, start = events.encode(frame, is_whole=False), len(events.flagged)
        places = list(map(events.place, self.schema_.names))
        holes = rows[:, start:].isnan()
        affected = holes[:, places].any(1)
        if affected.any():
            rows[affected] = self._filled(rows[affected], method, random_state)
        codes, table = rows[:, start:].double().numpy(), frame.copy()
        for place in places:
            column, hole = events.schema.columns[place], holes[:, place].numpy()
            if hole.any():
                cells = column.decode(codes[:, place]).set_axis(frame.index)
                table[column.name] = _replace(frame.get(column.name), cells, hole)
        return table

    def _filled(self, rows: Tensor, method: str, random_state: Any) -> Tensor:
        """Rows whose unknown cells are imputed."""
        if method != "draw":
            return self._rows.fill(rows, method)
        with self._seeded(random_state):
            return self._rows.draw(rows, is_listed=True)

    def marginal(self, columns: Sequence[str]) -> "TableDensity":
        """The density of some columns alone. The other columns are integrated out.

        The result is a model of these columns, with the same methods: it scores, samples, answers
        queries and is saved. Its scores skip the other columns of a table. Evidence about the other
        columns is an error.

        Args:
            columns: names.

        Raises:
            ValueError: if a column is unknown, or there is none.
        """
        events = self._events
        wanted = list(columns) if pd.api.types.is_list_like(columns) else []
        if not wanted:
            raise ValueError(f"columns: expected names, got {described(columns)}")
        for name in wanted:
            events.place(name)
        other = copy.copy(self)
        names = [name for name in self.schema_.names if name in wanted]
        other._keep(events.schema, events.has_flags, names)
        return other

    def report(self, df: Any, synthetic: Any, held_out: Any = None) -> Report:
        """Compares a synthetic table with the real one, in a few lines and a figure.

        Args:
            df: the table that the model was fitted to.
            synthetic: a table of samples, with about as many rows.
            held_out: rows that the model was not fitted to. They show how near rows are to the
                table if they are not copied from it.

        Raises:
            ValueError: if a table has fewer than 3 rows, since the classifier has 3 folds, or has
                other columns than the table of `fit`.
        """
        given = {"df": df, "synthetic": synthetic, "held_out": held_out}
        tables = {name: t if t is None else self._frame(t, True, name) for name, t in given.items()}
        return compare(self.schema_, *tables.values())

    # Files.

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the model in one .safetensors file, which `ardist.load` reads as a network.

        The file of a marginal contains the whole network, which can sample the other columns, too.

        Args:
            path: the path of the file. An existing file is replaced.

        Raises:
            ValueError: if the network cannot be described (see `ardist.save`).
        """
        entries = {
            "schema": self._events.schema.to_dict(),
            "missing": _MISSING[self._events.has_flags],
            "names": self.feature_names_in_.tolist(),
        }
        save(self.network_, path, metadata={_METADATA: json.dumps(entries)})

    @classmethod
    @_on_cpu
    def load(cls, path: str | os.PathLike[str], *, classes: Sequence[type] = ()) -> "TableDensity":
        """Loads a model that `save` wrote. Nothing in the file is executed.

        Args:
            path: the path of the file.
            classes: your own networks or families that the file names.

        Raises:
            ValueError: if the file holds no model, or one that this version cannot read.
        """
        network, metadata = read(path, classes=classes)
        name, text = Path(path).name, metadata.get(_METADATA)
        if text is None:
            raise ValueError(
                f"path: expected a file that TableDensity.save wrote, got a network without "
                f"columns in {name}; ardist.load reads it"
            )
        try:
            entries = json.loads(text)
            model = cls(missing=as_choice(entries["missing"], _MISSING, "missing"))
            schema = Schema.from_dict(entries["schema"])
            names = [str(name) for name in entries["names"]]
            factorization = model._keep(schema, model.missing == "model", names).factorization
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"path: expected the columns of a table in {name}, got {error!r}"
            ) from error
        if network.factorization != factorization:
            raise ValueError(
                f"path: expected a network of the columns in {name}, got one of "
                f"{network.factorization.names}"
            )
        model.network_ = network
        return model


def _regularization(num_rows: int) -> tuple[int, float, float]:
    """Width, dropout and weight decay of the network for a number of rows.

    Dropout and the logarithm of the weight decay are linear in the logarithm of the number.
    """
    rows = math.log10(max(num_rows, 1))
    dropout = np.interp(rows, _LOG_ROWS, (0.4, 0.15, 0.1))
    decay = np.exp(np.interp(rows, _LOG_ROWS, np.log((1.0, 0.3, 0.1))))
    return (256 if num_rows <= 50_000 else 384), float(dropout), float(decay)


def _evidence(data: Any) -> Any:
    """The evidence of a query; by default one row without known cells."""
    is_empty = data is None or (isinstance(data, Mapping) and not data)
    return pd.DataFrame(index=[0]) if is_empty else data


def _cells(values: Any, name: str) -> pd.Series:
    if isinstance(values, str) or np.ndim(values) != 1:
        raise ValueError(f"values: expected a list of values, got {described(values)}")
    return pd.Series(values, name=name)


def _replace(cells: pd.Series | None, new: pd.Series, hole: np.ndarray) -> pd.Series:
    """Cells whose holes are filled with the cells of another series."""
    if cells is None or hole.all():
        return new
    if cells.dtype == object and new.dtype.kind in "fmM":  # decimals and floats do not mix
        with suppress(TypeError, ValueError):
            cells = cells.astype(new.dtype)
    cells, values = cells.copy(), new[hole].to_numpy()
    try:
        cells[hole] = values
    except (TypeError, ValueError):  # the dtype cannot hold them, such as one of a few categories
        cells = cells.astype(object)
        cells[hole] = values
        if not isinstance(new.dtype, pd.CategoricalDtype):
            return cells.infer_objects()
        cells = cells.map(plain)
        levels = new.cat.categories.append(pd.Index(cells)).unique()
        cells = cells.astype(pd.CategoricalDtype(levels, new.cat.ordered))
    return cells
