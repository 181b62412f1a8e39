"""A density estimator of scikit-learn over tables."""

import copy
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ardist.distribution import AutoregressiveDistribution
from ardist.factorization import Factorization
from ardist.families import Bernoulli
from ardist.layout import Layout
from ardist.networks import Masked
from ardist.networks.base import ConditionalNetwork
from ardist.saving import read, save
from ardist.shapes import as_choice, as_positive, described
from ardist.tables.columns import Column, Levels
from ardist.tables.frames import as_frame
from ardist.tables.reports import Report, compare
from ardist.tables.schema import Schema
from ardist.training import fit

_MISSING = ("marginalize", "model")
_METADATA = "ardist.tables"  # of a file
_BATCH_SIZE, _LR = 512, 3e-3  # of a batch at most
_AVERAGE = 3.0  # epochs whose weights are averaged
_VALID_ROWS = 2048  # in one batch
_IN_ORDER = 0.25  # share of the rows that are trained in the order of the table
_LOG_ROWS = (3.0, math.log10(3e4), 5.0)  # of tables whose regularization was chosen on validation
_PASSES = 2**16  # of rows through a network in one batch
_ROWS_OF_A_PATTERN = 16  # at least, if rows with other cells missing are drawn one after another
_QUANTILES = 64  # among which the mode of numbers is searched


class TableDensity(DensityMixin, BaseEstimator):  # type: ignore[misc]  # they have no types
    """The joint density of the columns of a table, and of any of them given any others.

    `fit` proposes a family for each column (see `Schema`) and trains a network on all of them by
    `ardist.training.fit`. Scores are in nats: log-probabilities of discrete columns, and log
    densities of numbers in the units of the table, so that models of one table can be compared.

    A table is a pandas data frame, a frame with the Arrow interface (polars, pyarrow), a dict of
    columns, or an array, whose columns are named x0, x1, ... Columns are found by name, in any
    order.
    Missing cells (NaN, NaT, None, `pandas.NA`) are integrated out, in training and in queries.
    Queries also take tables that lack columns. They are exact for the network: `networks.Masked`
    predicts each column from any set of others, in one pass, and each row may have another set.

    Args:
        network: "masked", or a callable that makes a network from a `Factorization`, such as
            `functools.partial(ardist.networks.Transformer, dim=64, depth=3, heads=4)`. A network
            with one order (`MADE`) answers only queries about a column given earlier ones.
        columns: by name, in place of the proposals: a kind ("bool", "category", "ordinal",
            "discrete", "count", "real", "positive", "date", "time" or "left out"), or a list of
            ordered levels.
        missing: "marginalize", or "model": whether a cell is missing is part of the row. Its
            probability is in the scores, and sampled tables have missing cells.
        max_epochs: passes over the table at most; by default training ends when the likelihood of
            a tenth of the rows, which are not trained on, improves no more.
        time_limit: seconds of training at most.
        random_state: an integer, or None or a `RandomState` for different results in each call.
        progress: whether `fit` shows a bar.

    Attributes:
        schema_: the columns, which print as a small table.
        network_: the trained network.
        history_: the `ardist.training.History` of training.
        feature_names_in_: the names of all columns of the table.
        n_features_in_: their number.

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

    def fit(self, X: Any, y: None = None) -> "TableDensity":
        """Trains on a table.

        Args:
            X: a table of at least two rows.
            y: not used.

        Raises:
            ValueError: if X is no table, or a column cannot be modelled; the message names it.
        """
        as_choice(self.missing, _MISSING, "missing")
        frame = as_frame(X)
        if frame.shape[1] == 0:
            raise ValueError("X: expected at least one column, got 0 feature(s)")
        if len(frame) < 2:
            raise ValueError(f"X: expected at least 2 rows, got {len(frame)} sample(s)")
        self.feature_names_in_ = np.array(frame.columns, dtype=object)
        self.n_features_in_ = len(self.feature_names_in_)
        self.schema_ = Schema.of(frame, self.columns)
        self.kept_ = self.schema_.names
        rows = self._encode(frame)
        seed = self._seed()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network_ = self._make_network(len(frame))
        if self.network_.output_maps:
            self.network_.start_at(rows)
        count, batch_size = len(frame), min(max(len(frame) // 32, 64), _BATCH_SIZE)
        is_any_order = self.network_.has_row_orders
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        train, held = rows[order].tensor_split([count - max(1, count // 10)])
        # Each row is read with several random sets, since the validation of few would be noise.
        held = held.repeat(max(1, _VALID_ROWS // held.shape[0]), 1)
        self.history_ = fit(
            self.network_,
            train,
            valid=DataLoader(TensorDataset(held), _VALID_ROWS),
            batch_size=batch_size,
            lr=_LR,
            max_epochs=self.max_epochs,
            time_limit=self.time_limit,
            orderings="row" if is_any_order and not self.network_.has_masks else None,
            in_order=_IN_ORDER if is_any_order else 0.0,
            nan_policy="marginalize",
            weight_decay=_regularization(count)[2],
            average=1 - 1 / max(10.0, _AVERAGE * count / batch_size),
            seed=seed,
            progress=self.progress,
        )
        return self

    def _make_network(self, num_rows: int) -> ConditionalNetwork:
        fac = self._factorization()
        if self.network == "masked":
            width, dropout, _ = _regularization(num_rows)
            return Masked(fac, hidden_features=(width, width), dropout=dropout)
        if not callable(self.network):
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
        return network

    def _factorization(self) -> Factorization:
        """A block for each column that is modelled, after one for each that tells missing cells."""
        columns = self.schema_.columns
        flags = {f"{columns[place].name} is missing": Bernoulli() for place in self._flagged()}
        return Factorization.columns({**flags, **{c.name: c.family for c in columns}})

    def _flagged(self) -> list[int]:
        """The places of the columns whose missing cells are modelled."""
        if self.missing != "model":
            return []
        columns = enumerate(self.schema_.columns)
        return [place for place, column in columns if column.missing > 0]

    def _place(self, name: str) -> int:
        """The place of a column that is kept among those that are modelled."""
        if name not in self.kept_:
            reason = self.schema_.left_out.get(name)
            why = "" if reason is None else f", which is left out, since {reason}"
            raise ValueError(f"column: expected one of {self.kept_}, got {name!r}{why}")
        return self.schema_.names.index(name)

    # Rows.

    def _frame(self, data: Any, is_whole: bool) -> pd.DataFrame:
        """A table with known columns, and with all that are kept if it has to be whole."""
        check_is_fitted(self)
        is_named = hasattr(data, "columns") or isinstance(data, Mapping)
        frame, known = as_frame(data), list(self.feature_names_in_)
        if not is_named and frame.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {frame.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        if not is_named:
            frame = frame.set_axis(known, axis=1)
        if unknown := [name for name in frame.columns if name not in known]:
            raise ValueError(f"X: expected columns of {known}, got {unknown}")
        lacking = [name for name in self.kept_ if name not in frame]
        if is_whole and lacking:
            raise ValueError(
                f"X: expected the columns {self.kept_}, got none named {lacking}; X.assign("
                f"{lacking[0]}=None) adds missing cells, and marginal(columns) needs no others"
            )
        return frame

    def _encode(self, frame: pd.DataFrame, is_whole: bool = True) -> Tensor:
        """The rows of a table, (rows, blocks), NaN where unknown.

        Args:
            is_whole: whether a cell that is unknown is missing from the table, which is known.
        """
        kept = frame[[name for name in frame.columns if name in self.kept_]]
        codes = self.schema_.encode(kept)
        flags = np.isnan(codes[:, self._flagged()]).astype(float)
        if not is_whole:
            flags[flags > 0] = math.nan
        for number, place in enumerate(self._flagged()):
            if self.schema_.columns[place].name not in self.kept_:
                flags[:, number] = math.nan
        return torch.from_numpy(np.concatenate((flags, codes), 1)).float()

    def _decode(self, rows: Tensor) -> pd.DataFrame:
        """The kept columns of rows, with missing cells where a flag says so."""
        values = rows.double().numpy()
        count = len(self._flagged())
        flags, codes = values[:, :count], values[:, count:]
        codes[:, self._flagged()] = np.where(flags > 0, math.nan, codes[:, self._flagged()])
        return self.schema_.decode(codes)[self.kept_]

    def _joint(self) -> AutoregressiveDistribution:
        # Values outside of a support score -inf, as they may occur in another table.
        return self.network_.condition(nan_policy="marginalize", validate_args=False)

    def _batches(self, rows: Tensor) -> Iterator[Tensor]:
        return iter(rows.split(max(1, _PASSES // rows.shape[1])))

    def _seed(self, random_state: Any = None) -> int:
        state = self.random_state if random_state is None else random_state
        return int(check_random_state(state).randint(2**31 - 1))

    # Scores.

    def score(self, X: Any, y: None = None) -> float:
        """The mean of `score_samples`, in nats of a row."""
        return float(self.score_samples(X).mean())

    def score_samples(self, X: Any) -> np.ndarray:
        """The log-likelihood of each row in nats, (rows,): that of its cells that are not missing.

        It is a log density in the units of the columns of numbers. It is -inf if a number has none,
        as negative numbers in a column of positive ones.

        Raises:
            ValueError: if a column is missing or was not in the table of `fit`, or a cell is
                impossible in its column.
        """
        rows = self._encode(self._frame(X, is_whole=True))
        return self._scores(rows).sum(1)

    def cell_scores(self, X: Any) -> pd.DataFrame:
        """The log-likelihood of each cell given those to its left, in nats; NaN if it is missing.

        The cells of a row sum to `score_samples`. Unusual cells have low scores. With
        `missing="model"` the scores contain the probability that the cell is missing or not.
        """
        frame = self._frame(X, is_whole=True)
        rows = self._encode(frame)
        scores, flagged = self._scores(rows), self._flagged()
        cells = np.where(rows[:, len(flagged) :].isnan(), math.nan, scores[:, len(flagged) :])
        for number, place in enumerate(flagged):
            cells[:, place] = np.nan_to_num(cells[:, place], neginf=-math.inf) + scores[:, number]
        table = pd.DataFrame(cells, index=frame.index, columns=self.schema_.names)
        return table[self.kept_]

    @torch.no_grad()
    def _scores(self, rows: Tensor) -> np.ndarray:
        """Of each block, (rows, blocks) float64; 0 where it is unknown."""
        joint = self._joint()
        scores = [joint.log_prob_blocks(part) for part in self._batches(rows)]
        return torch.cat(scores).double().numpy()

    # The distribution of one column.

    def predict_proba(self, X: Any, column: str) -> pd.DataFrame:
        """The probabilities of a column's values given the other cells of each row.

        Args:
            X: a table, which may lack columns. Its cells of `column` are not read.
            column: one with finitely many values.

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

    def density(self, X: Any, column: str, values: Sequence[Any]) -> np.ndarray:
        """The density of a column at each of some values, given the other cells of each row.

        It is a probability for discrete columns, integers and points.

        Args:
            X: a table, which may lack columns. Its cells of `column` are not read.
            column: the name of a column.
            values: of the column.

        Returns:
            (rows, values).
        """
        target = self._column(column)
        codes = torch.from_numpy(target.encode(_cells(values, column, target))).float()
        _, params = self._conditional(X, column)
        return target.drawn.log_prob(params.unsqueeze(1), codes).exp().double().numpy()

    def cdf(self, X: Any, column: str, values: Sequence[Any]) -> np.ndarray:
        """The probability that a column is at most each of some values; else as `density`.

        Raises:
            ValueError: if the column has no order.
        """
        target = self._ordered(column)
        codes = torch.from_numpy(target.floor(_cells(values, column, target))).float()
        _, params = self._conditional(X, column)
        return target.drawn.cdf(params.unsqueeze(1), codes).double().numpy()

    def quantile(self, X: Any, column: str, q: float | Sequence[float] = 0.5) -> Any:
        """Quantiles of a column given the other cells of each row.

        Args:
            X: a table, which may lack columns. Its cells of `column` are not read.
            column: the name of a column with an order.
            q: a probability, or several.

        Returns:
            a series, or a data frame with a column for each probability.

        Raises:
            ValueError: if the column has no order, or a probability is outside [0, 1].
        """
        target, wanted = self._ordered(column), np.atleast_1d(np.asarray(q, dtype=float))
        if not ((wanted >= 0) & (wanted <= 1)).all():
            raise ValueError(f"q: expected probabilities within [0, 1], got {described(q)}")
        frame, params = self._conditional(X, column)
        uniform = torch.from_numpy(wanted).float()
        codes = target.drawn.icdf(params.unsqueeze(1), uniform).double().numpy()  # (rows, q)
        parts = [target.decode(part).set_axis(frame.index) for part in codes.T]
        return parts[0] if np.ndim(q) == 0 else pd.concat(parts, axis=1, keys=wanted)

    def _column(self, name: str) -> Column:
        check_is_fitted(self)
        return self.schema_.columns[self._place(name)]

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
        frame = self._frame(_evidence(data), is_whole=False)
        rows = self._encode(frame.drop(columns=name, errors="ignore"), is_whole=False)
        block = len(self._flagged()) + self._place(name)
        parts = [self._predict(part, [block])[block] for part in self._batches(rows)]
        return frame, torch.cat(parts)

    @torch.no_grad()
    def _predict(self, rows: Tensor, blocks: Sequence[int]) -> dict[int, Tensor]:
        """The parameters of some blocks, each given all that is known in a row."""
        joint, layout = self._joint(), self.network_.factorization.layout
        known = ~rows.isnan()
        values = torch.where(known, rows, joint.bound.placeholder)
        if self.network_.has_masks:
            batch = joint.batch_of(values)
            params = batch.bound.forward(batch.blocks(values), observed=known)
            return {block: _of(layout, params, block) for block in blocks}
        found = {}
        for block in blocks:
            stage = 2 * (~known).long()
            stage[:, block] = 1
            ordered = _in_order(joint, stage)
            batch = ordered.batch_of(values)
            found[block] = _of(layout, batch.forward(batch.blocks(values)), block)
        return found

    # Draws.

    def sample(self, n: int = 1, *, given: Any = None, random_state: Any = None) -> pd.DataFrame:
        """Synthetic rows.

        Args:
            n: the number of rows, or of rows for each row of `given`.
            given: a dict of cells, or a table which may lack columns: the cells that rows have.
            random_state: in place of that of the model, under which each call gives the same rows.

        Returns:
            a table with the columns that are modelled.
        """
        check_is_fitted(self)
        count = as_positive(n, "n")
        frame = self._frame(_evidence(given), is_whole=False)
        rows = self._encode(frame, is_whole=False).repeat_interleave(count, 0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed(random_state))
            parts = [self._draw(part) for part in self._batches(rows)]
        return self._decode(torch.cat(parts))

    def _draw(self, rows: Tensor) -> Tensor:
        """Rows whose unknown blocks are drawn."""
        count = len(self._flagged())
        if not count:
            return self._complete(rows)
        flagged = self._complete(rows)[:, :count]
        absent = torch.zeros(rows.shape, dtype=torch.bool)
        absent[:, [count + place for place in self._flagged()]] = flagged > 0
        return self._complete(torch.cat((flagged, rows[:, count:]), 1), absent)

    @torch.no_grad()
    def _complete(
        self, rows: Tensor, last: Tensor | None = None, is_listed: bool = False
    ) -> Tensor:
        """Rows whose unknown blocks are drawn.

        Args:
            rows: (rows, blocks), NaN where unknown.
            last: (rows, blocks) bool, the blocks that are drawn last, so that no other depends on
                them.
            is_listed: whether to draw no values but those that are known.
        """
        flags = [Bernoulli() for _ in self._flagged()]
        columns = [c.listed if is_listed else c.drawn for c in self.schema_.columns]
        joint = self._joint().with_families([*flags, *columns])
        known = ~rows.isnan()
        values = torch.where(known, rows, joint.bound.placeholder)
        stage = (~known).long() if last is None else torch.where(known, 0, 1 + last.long())
        patterns, owner = stage.unique(dim=0, return_inverse=True)
        if (
            patterns.shape[0] * _ROWS_OF_A_PATTERN > rows.shape[0]
        ):  # each row has an order of its own
            return _in_order(joint, stage).given(values, known).sample().to(rows.dtype)
        drawn = torch.empty_like(rows)
        for number, pattern in enumerate(patterns.unbind()):
            part = owner == number
            p = _in_order(joint, pattern).given(values[part], known[part])
            drawn[part] = p.sample().to(rows.dtype)
        return drawn

    def impute(
        self,
        X: Any,
        method: str = "median",
        *,
        random_state: Any = None,
    ) -> pd.DataFrame:
        """A table without missing cells in the columns that are modelled.

        Each cell is imputed given the observed cells of its row, by the exact conditional.

        Args:
            X: a table, which may lack columns.
            method: "median", that of a column with an order, and the likeliest level of a category;
                "mode", the likeliest value, which is searched among 64 quantiles of numbers; or
                "draw", a draw of all missing cells of a row together. The mean error is least with
                medians. Only draws keep the spread of a column and its dependence on others.
            random_state: of draws, in place of that of the model.

        Returns:
            a copy of X.
        """
        as_choice(method, ("median", "mode", "draw"), "method")
        frame = self._frame(X, is_whole=False)
        rows = self._encode(frame, is_whole=False)
        count = len(self._flagged())
        places = list(map(self._place, self.kept_))
        holes = rows.isnan()
        affected = holes[:, [count + place for place in places]].any(1)
        if affected.any():
            rows[affected] = self._filled(rows[affected], method, random_state)
        codes, table = rows[:, count:].double().numpy(), frame.copy()
        for place in places:
            column = self.schema_.columns[place]
            hole = holes[:, count + place].numpy()
            if hole.any():
                cells = column.decode(codes[:, place]).set_axis(frame.index)
                table[column.name] = _replace(frame.get(column.name), cells, hole)
        return table

    def _filled(self, rows: Tensor, method: str, random_state: Any) -> Tensor:
        """Rows whose unknown cells are imputed."""
        if method == "draw":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._seed(random_state))
                return torch.cat(
                    [self._complete(part, is_listed=True) for part in self._batches(rows)]
                )
        count, parts = len(self._flagged()), []
        for part in self._batches(rows):
            holes = part.isnan()
            blocks = holes.any(0)[count:].nonzero().flatten().add(count).tolist()
            predicted, filled = self._predict(part, blocks), part.clone()
            for block, params in predicted.items():
                column, hole = self.schema_.columns[block - count], holes[:, block]
                filled[hole, block] = _point_of(column, params[hole], method).to(part.dtype)
            parts.append(filled)
        return torch.cat(parts)

    def marginal(self, columns: Sequence[str]) -> "TableDensity":
        """The density of some columns alone: the others are integrated out.

        The result scores, samples and answers queries as this object does, for these columns.

        Args:
            columns: names.

        Raises:
            ValueError: if a column is unknown, or there is none.
        """
        check_is_fitted(self)
        if isinstance(columns, str) or not len(columns):
            raise ValueError(f"columns: expected names, got {described(columns)}")
        for name in columns:
            self._place(name)
        other = copy.copy(self)
        other.kept_ = [name for name in self.kept_ if name in set(columns)]
        return other

    def report(self, df: Any, synthetic: Any, held_out: Any = None) -> Report:
        """How a synthetic table differs from the real one, as a few lines and a figure.

        Args:
            df: the table that the model was fitted to.
            synthetic: a table of samples, of about as many rows.
            held_out: rows that the model was not fitted to, which show how near to the table rows
                are that are not copied from it.
        """
        tables = [None if t is None else self._frame(t, True) for t in (df, synthetic, held_out)]
        names = set(self.kept_)
        columns = tuple(column for column in self.schema_.columns if column.name in names)
        return compare(Schema(columns, {}), *tables)

    # Files.

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the model in one .safetensors file, which `ardist.load` reads as a network.

        Args:
            path: of the file. It replaces an existing one.

        Raises:
            ValueError: if the network cannot be described (see `ardist.save`).
        """
        check_is_fitted(self)
        entries = {
            "schema": self.schema_.to_dict(),
            "missing": self.missing,
            "names": self.feature_names_in_.tolist(),
        }
        save(self.network_, path, metadata={_METADATA: json.dumps(entries)})

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, classes: Sequence[type] = ()) -> "TableDensity":
        """The model that `save` wrote. Nothing in the file is executed.

        Args:
            path: of the file.
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
            model.schema_ = Schema.from_dict(entries["schema"])
            names = [str(name) for name in entries["names"]]
            factorization = model._factorization()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"path: expected the columns of a table in {name}, got {error!r}"
            ) from error
        if network.factorization != factorization:
            raise ValueError(
                f"path: expected a network of the columns in {name}, got one of "
                f"{network.factorization.names}"
            )
        model.network_, model.kept_ = network, model.schema_.names
        model.feature_names_in_ = np.array(names, dtype=object)
        model.n_features_in_ = len(names)
        return model


def _regularization(num_rows: int) -> tuple[int, float, float]:
    """Width, dropout and weight decay of the network for a number of rows.

    Dropout and the logarithm of the weight decay are linear in the logarithm of the number.
    """
    rows = math.log10(max(num_rows, 1))
    dropout = np.interp(rows, _LOG_ROWS, (0.4, 0.15, 0.1))
    decay = np.exp(np.interp(rows, _LOG_ROWS, np.log((1.0, 0.3, 0.1))))
    return (256 if num_rows <= 30_000 else 384), float(dropout), float(decay)


def _evidence(data: Any) -> Any:
    """Nothing is known, of one row, by default."""
    return (
        pd.DataFrame(index=[0])
        if data is None or (isinstance(data, Mapping) and not data)
        else data
    )


def _cells(values: Any, name: str, column: Column) -> pd.Series:
    if isinstance(values, str) or np.ndim(values) != 1:
        raise ValueError(f"values: expected a list of values, got {described(values)}")
    return pd.Series(values, name=name)


def _of(layout: Layout, params: Tensor, block: int) -> Tensor:
    """The parameters of one block, (rows, num_params)."""
    return layout.gather_blocks("param", params, [block]).flatten(1)


def _in_order(joint: AutoregressiveDistribution, stage: Tensor) -> AutoregressiveDistribution:
    """The joint in which blocks of an earlier stage come first, and else in its own order.

    Args:
        stage: of each block, (blocks) or (rows, blocks) int64.
    """
    own = joint.factorization.ranks.flatten()
    ranks = (stage * own.shape[0] + own).argsort(-1).argsort(-1)
    if (ranks == own).all():
        return joint
    if not (network := joint.bound.unwrapped).has_row_orders:
        raise ValueError(
            f"network: expected one that follows any order, such as 'masked', to condition on "
            f"later columns, got {type(network).__name__}"
        )
    return joint.with_ordering(ranks)


def _point_of(column: Column, params: Tensor, method: str) -> Tensor:
    """The codes of the median or mode, (rows,), of values that are known."""
    if method == "median" and column.is_ordered:
        return column.listed.icdf(params, torch.tensor(0.5))
    family, params = column.listed, params.unsqueeze(1)
    if isinstance(column, Levels):
        candidates = torch.arange(float(len(column.levels))).expand(params.shape[0], -1)
    else:
        middles = (torch.arange(_QUANTILES) + 0.5) / _QUANTILES
        candidates = family.icdf(params, middles)  # (rows, quantiles)
    scores = family.log_prob(params, candidates)
    mass = family.mass(params, candidates)
    # A point with less than half of the probability may still exceed a density, in other units.
    if not column.family.support.is_discrete or (mass == 0).any():
        scores = torch.where(mass > 0, torch.where(mass > 0.5, math.inf, -math.inf), scores)
    best = scores.argmax(1, keepdim=True)
    return candidates.gather(1, best).squeeze(1)


def _replace(cells: pd.Series | None, new: pd.Series, hole: np.ndarray) -> pd.Series:
    """Cells with those of another series in their holes."""
    if cells is None or hole.all():
        return new
    cells = cells.copy()
    cells[hole] = new[hole].to_numpy()
    return cells
