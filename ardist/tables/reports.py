"""A comparison of a synthetic table with the real one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import NearestNeighbors

from ardist.tables.columns import Column, Levels, Numbers
from ardist.tables.schema import Schema

_ROWS = 5000  # of each table, at most, for pairs, the classifier and the nearest rows
_FOLDS = 3  # of the cross-validation of the classifier
_BINS = 10  # of numbers, for pairs
_MOST_PLOTS = 16


@dataclass(frozen=True, repr=False)
class Report:
    """A comparison of a synthetic table with the real one. It prints as a few lines.

    If the synthetic table has no missing cells, it gets missing cells as in random rows of the real
    table for everything except the marginals.

    Attributes:
        marginals: for each column, the largest difference between the real and the synthetic
            probability of a set of values (total variation), or for numbers of an interval from
            -inf (Kolmogorov-Smirnov), and the shares of missing cells.
        real_pairs: Cramer's V of each pair of columns in the real table, from 0 (independent) to 1.
            Numbers are binned by deciles.
        synthetic_pairs: the same for the synthetic table, with the bins of the real table.
        accuracy: the accuracy, by cross-validation, of a gradient-boosted classifier that tells
            real rows from synthetic rows. It is 0.5 if the classifier cannot tell them apart.
        copies: the share of synthetic rows that are equal to a row of the real table.
        held_out_copies: the same share for held-out rows, None without such rows. It shows how many
            copies to expect by chance.
        nearer: the probability that a synthetic row is nearer to the real table than a held-out row
            is, by the nearest row of the real table. It is about 0.5 if the model copies nothing,
            and None without held-out rows.

    >>> import numpy as np, pandas as pd
    >>> from ardist.tables import TableDensity
    >>> rng = np.random.default_rng(0)
    >>> tables = [pd.DataFrame({"height": rng.normal(170, 10, 300)}) for _ in range(2)]
    >>> model = TableDensity(max_epochs=1).fit(tables[0])
    >>> report = model.report(tables[0], model.sample(300), held_out=tables[1])
    >>> report.marginals["difference"].shape, 0.4 < report.accuracy < 0.6
    ((1,), True)
    """

    marginals: pd.DataFrame
    real_pairs: pd.DataFrame
    synthetic_pairs: pd.DataFrame
    accuracy: float
    copies: float
    held_out_copies: float | None
    nearer: float | None
    _cells: dict[str, tuple[Column, np.ndarray, np.ndarray]]

    def __repr__(self) -> str:
        gap = (self.real_pairs - self.synthetic_pairs).abs().to_numpy()
        largest = self.marginals["difference"]
        lines = [
            f"marginals: differ by {largest.mean():.3f} on average, most in "
            f"{largest.idxmax()!r} ({largest.max():.3f})",
            f"pairs: Cramer's V differs by {gap.mean():.3f} on average, by {gap.max():.3f} at most",
            f"classifier: {self.accuracy:.1%} right about real or synthetic (50% if alike)",
        ]
        copies = f"copies: {self.copies:.2%} of the synthetic rows are in the real table"
        if self.held_out_copies is not None:
            copies += f", {self.held_out_copies:.2%} of the held-out rows"
        lines.append(copies)
        if self.nearer is not None:
            lines.append(f"nearest rows: nearer than for held-out rows in {self.nearer:.1%}")
        return "\n".join(lines)

    def plot(self) -> Any:
        """A figure with the marginals of up to 16 columns, and the dependences of all pairs.

        Returns:
            a matplotlib figure.
        """
        from matplotlib.figure import Figure

        shown = list(self._cells)[:_MOST_PLOTS]
        width = min(4, len(shown))
        height = -(-len(shown) // width)
        figure = Figure(figsize=(2.6 * width, 2.0 * height + 3.4), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=(2.0 * height, 3.4))
        upper, lower = parts
        axes = np.ravel(upper.subplots(height, width, squeeze=False))
        for axis in axes[len(shown) :]:
            axis.set_axis_off()
        for axis, name in zip(axes, shown, strict=False):
            _plot_marginal(axis, name, *self._cells[name])
        axes[0].legend(fontsize="small")
        panels = lower.subplots(1, 2)
        for axis, title, pairs in (
            (panels[0], "real", self.real_pairs),
            (panels[1], "synthetic", self.synthetic_pairs),
        ):
            image = axis.imshow(pairs, vmin=0, vmax=1, cmap="viridis")
            axis.set(title=f"dependence of pairs, {title}", xticks=[], yticks=range(len(pairs)))
            axis.set_yticklabels(pairs.index, fontsize="x-small")
        lower.colorbar(image, ax=panels, label="Cramer's V")
        return figure


def compare(
    schema: Schema, real: pd.DataFrame, synthetic: pd.DataFrame, held_out: pd.DataFrame | None
) -> Report:
    """The report on tables with the columns of a schema."""
    tables = [table for table in (real, synthetic, held_out) if table is not None]
    for name, table in zip(("df", "synthetic", "held_out"), tables, strict=False):
        if len(table) < _FOLDS:
            raise ValueError(f"{name}: expected at least {_FOLDS} rows, got {len(table)}")
    codes = [schema.encode(table) for table in tables]
    few = [_some(part) for part in codes]
    few[1] = _with_holes(few[1], few[0])
    cells = {
        column.name: (column, codes[0][:, place], codes[1][:, place])
        for place, column in enumerate(schema.columns)
    }
    marginals = pd.DataFrame(
        {
            "difference": {name: _difference(*each) for name, each in cells.items()},
            "missing": {name: np.isnan(each[1]).mean() for name, each in cells.items()},
            "missing in synthetic": {
                name: np.isnan(each[2]).mean() for name, each in cells.items()
            },
        }
    )
    edges = [_edges(column, real_codes) for column, real_codes, _ in cells.values()]
    pairs = [_pairs(schema, part, edges) for part in few[:2]]
    points = [_points(schema, part) for part in few]
    distances = [_nearest(_points(schema, codes[0]), part) for part in points[1:]]
    nearer = None
    if held_out is not None:
        differences = distances[0][:, None] - distances[1]
        nearer = float(((differences < 0) + 0.5 * (differences == 0)).mean())
    return Report(
        marginals=marginals,
        real_pairs=pairs[0],
        synthetic_pairs=pairs[1],
        accuracy=_accuracy(schema, few[0], few[1]),
        copies=float((distances[0] == 0).mean()),
        held_out_copies=None if held_out is None else float((distances[1] == 0).mean()),
        nearer=nearer,
        _cells=cells,
    )


def _some(codes: np.ndarray) -> np.ndarray:
    order = np.random.default_rng(0).permutation(len(codes))
    return codes[order[:_ROWS]]


def _with_holes(codes: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Rows with missing cells as in random rows of the real table, unless they have their own.

    Otherwise the classifier could recognize the rows of a model that integrates missing cells out
    by their lack of missing cells.
    """
    if np.isnan(codes).any():
        return codes
    rows = np.random.default_rng(1).integers(len(real), size=len(codes))
    return np.where(np.isnan(real[rows]), np.nan, codes)


def _difference(column: Column, real: np.ndarray, synthetic: np.ndarray) -> float:
    """The distance of two samples of codes without missing cells, NaN if a sample is empty."""
    real, synthetic = real[~np.isnan(real)], synthetic[~np.isnan(synthetic)]
    if not len(real) or not len(synthetic):
        return np.nan
    if isinstance(column, Levels) and column.kind != "discrete":
        shares = [
            np.bincount(part.astype(int), minlength=256) / len(part) for part in (real, synthetic)
        ]
        size = max(map(len, shares))
        one, other = (np.pad(part, (0, size - len(part))) for part in shares)
        return float(np.abs(one - other).sum() / 2)
    values = np.union1d(real, synthetic)
    below = [
        np.searchsorted(np.sort(part), values, "right") / len(part) for part in (real, synthetic)
    ]
    return float(np.abs(below[0] - below[1]).max())


def _edges(column: Column, codes: np.ndarray) -> np.ndarray | None:
    """The bounds of bins of numbers; None for columns with finitely many values."""
    codes = codes[~np.isnan(codes)]
    if column.kind in ("bool", "category", "ordinal") or not len(codes):
        return None
    return np.unique(np.quantile(codes, np.arange(1, _BINS) / _BINS))


def _pairs(schema: Schema, codes: np.ndarray, edges: list[np.ndarray | None]) -> pd.DataFrame:
    """Cramer's V of all pairs of columns, a missing cell being a value of its own."""
    labels = []
    for part, bounds in zip(codes.T, edges, strict=True):
        bins = part if bounds is None else np.searchsorted(bounds, part, "right").astype(float)
        bins = np.where(np.isnan(part), -1, bins)
        labels.append(np.unique(bins, return_inverse=True)[1])
    table = np.array([[_cramers_v(one, other) for other in labels] for one in labels])
    return pd.DataFrame(table, index=schema.names, columns=schema.names)


def _cramers_v(one: np.ndarray, other: np.ndarray) -> float:
    """Cramer's V, corrected for its bias (Bergsma 2013)."""
    rows, columns, count = one.max() + 1, other.max() + 1, len(one)
    joint = np.zeros((rows, columns))
    np.add.at(joint, (one, other), 1)
    expected = np.outer(joint.sum(1), joint.sum(0)) / count
    spread = ((joint - expected) ** 2 / expected).sum() / count
    spread = max(0.0, spread - (rows - 1) * (columns - 1) / (count - 1))
    least = min(size - (size - 1) ** 2 / (count - 1) for size in (rows, columns)) - 1
    return float(min(1.0, np.sqrt(spread / least))) if least > 0 else 0.0


def _points(schema: Schema, codes: np.ndarray) -> np.ndarray:
    """Rows as points, with a dimension for each level and for missing cells; numbers are scaled."""
    parts = []
    for column, part in zip(schema.columns, codes.T, strict=True):
        parts.append(np.isnan(part)[:, None])
        if isinstance(column, Numbers):
            form = part - column.center
            if column.is_log:  # zero may be a point
                least = 0.5 if column.is_integer else np.exp(column.center - 3 * column.scale)
                form = np.log(np.maximum(part, 0) + least) - column.center
            if column.stretch:
                form = np.arcsinh(part / column.stretch) - column.center
            parts.append(np.nan_to_num(form / column.scale)[:, None])
        elif isinstance(column, Levels) and column.is_ordered:
            parts.append(np.nan_to_num(part / len(column.levels))[:, None])
        else:
            parts.append(part[:, None] == np.arange(column.family.num_params))
    return np.concatenate(parts, 1).astype(np.float32)


def _nearest(points: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The distance of each row to the nearest point."""
    search = NearestNeighbors(n_neighbors=1, metric="manhattan").fit(points)
    return search.kneighbors(rows)[0][:, 0]


def _accuracy(schema: Schema, real: np.ndarray, synthetic: np.ndarray) -> float:
    count = min(len(real), len(synthetic))
    rows = np.concatenate((real[:count], synthetic[:count]))
    labels = np.repeat((0, 1), count)
    is_level = [
        column.kind == "category" and np.nanmax(part, initial=0.0) < 255
        for column, part in zip(schema.columns, rows.T, strict=True)
    ]
    classifier = HistGradientBoostingClassifier(
        max_iter=50, categorical_features=is_level, random_state=0
    )
    return float(cross_val_score(classifier, rows, labels, cv=_FOLDS).mean())


def _plot_marginal(
    axis: Any, name: str, column: Column, real: np.ndarray, synthetic: np.ndarray
) -> None:
    real, synthetic = real[~np.isnan(real)], synthetic[~np.isnan(synthetic)]
    both = np.concatenate((real, synthetic))
    if isinstance(column, Levels):
        bins = np.arange(len(column.levels) + 2) - 0.5
    else:
        bins = np.linspace(np.quantile(both, 0.005), np.quantile(both, 0.995), 30)
    for part, label, style in (
        (real, "real", {"alpha": 0.4}),
        (synthetic, "synthetic", {"histtype": "step"}),
    ):
        if len(part):
            axis.hist(part, bins=bins, density=True, label=label, **style)
    axis.set_title(name, fontsize="small")
    axis.set(yticks=[], xticks=[])
