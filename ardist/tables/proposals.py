"""The kind of each column of a table, declared or proposed from its cells."""

import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ardist.shapes import described, is_sequence
from ardist.tables.columns import (
    UNITS,
    Column,
    Levels,
    Numbers,
    as_dates,
    numbers_of,
)

# The kinds of columns, and what each is for.
KINDS = {
    "bool": "True or False",
    "category": "levels without an order",
    "ordinal": "ordered levels, those of an ordered categorical dtype or a list of them",
    "discrete": "numbers of which there are few",
    "count": "integers of which there are many",
    "real": "real numbers",
    "positive": "positive numbers, by their logarithms",
    "date": "dates, without a time",
    "time": "dates with a time, or durations",
    "left out": "not modelled",
}

WIDEST = 256  # the number of integers, at most, that are states of their own
MOST_POINTS = 32  # of one column
_OF_OBJECTS = {
    "integer": "Int64",
    **dict.fromkeys(("floating", "mixed-integer-float", "decimal"), "float64"),
    **dict.fromkeys(("date", "datetime"), "datetime64[us]"),
}
_NUMBER = re.compile(r"[-+]?[$€£]?\d[\d.,' _]*%?$")
_DATE = re.compile(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}")


@dataclass(frozen=True)
class LeftOut:
    """The reason why a column is not modelled."""

    reason: str


def propose(cells: pd.Series, declared: Any = None) -> Column | LeftOut:
    """The column for these cells, or why it is left out.

    Args:
        cells: of one column, with its name.
        declared: a name of `KINDS`, a list of ordered levels, a column, or None.

    Raises:
        ValueError: if the cells are of mixed types, infinite, or look like numbers or dates that
            were not read, or if they do not fit what is declared.
    """
    name = str(cells.name)
    if isinstance(declared, Column):
        declared.encode(cells)
        return declared
    if is_sequence(declared):
        return _listed(cells, name, tuple(declared))
    if declared is not None and (not isinstance(declared, str) or declared not in KINDS):
        raise ValueError(
            f"columns: expected a kind of {list(KINDS)}, or a list of ordered levels, for "
            f"{name!r}, got {described(declared)}"
        )
    if declared == "left out":
        return LeftOut("it is declared so")
    present = cells.dropna()
    if present.empty:
        return LeftOut("all of its cells are missing")
    kind = declared or _kind_of(present, name)
    if isinstance(kind, LeftOut):
        return kind
    column = _MAKERS[kind](cells, present, name, kind)
    if declared is None and present.nunique() == 1:
        warnings.warn(
            f"column {name!r}: has one value, {present.iloc[0]!r}, and tells nothing of others",
            stacklevel=2,
        )
    return column


def _kind_of(present: pd.Series, name: str) -> str | LeftOut:
    """The kind that fits cells, of which none is missing, or why they are left out."""
    dtype = present.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return "ordinal" if dtype.ordered else "category"
    inferred = pd.api.types.infer_dtype(present, skipna=True)
    if inferred == "boolean":
        return "bool"
    if inferred in ("integer", "floating", "mixed-integer-float", "decimal"):
        return _kind_of_numbers(numbers_of(present, name))
    if inferred in ("datetime", "datetime64", "date"):
        return _kind_of_dates(as_dates(present))
    if inferred.startswith("timedelta"):
        return "time"
    if inferred == "string":
        return _kind_of_text(present, name)
    types = sorted({type(cell).__name__ for cell in present})
    raise ValueError(
        f"column {name!r}: expected cells of one type, numbers, text, bools or dates, got "
        f"{', '.join(types)}; for example {present.iloc[0]!r}"
    )


def _kind_of_numbers(numbers: np.ndarray) -> str | LeftOut:
    values, counts = np.unique(numbers, return_counts=True)
    span, rows = values[-1] - values[0], len(numbers)
    is_integer = not (values % 1).any()
    if is_integer and rows >= 50 and len(values) == rows and 2 * span < rows**1.5:
        return LeftOut(f"it is an identifier: {rows} different integers in {rows} rows")
    if is_integer and span < WIDEST and (rows >= 5 * span or span < 2):
        return "discrete"
    is_repeated = (counts == 1).sum() <= 0.01 * rows
    if len(values) <= MOST_POINTS and rows >= 20 * len(values) and is_repeated:
        return "discrete"
    if is_integer and span < 1e9:
        return "count"
    rest = numbers[~np.isin(numbers, _points(values, counts))]
    return "positive" if len(rest) and rest.min() > 0 and _is_skewed(rest) else "real"


def _kind_of_dates(moments: pd.Series) -> str:
    return "date" if (moments == moments.dt.normalize()).all() else "time"


def _kind_of_text(present: pd.Series, name: str) -> str | LeftOut:
    levels = pd.Series(present.unique(), dtype=object)
    is_date = levels.str.match(_DATE)
    if is_date.mean() > 0.9:
        moments = as_dates(levels)
        if moments.isna().any():
            odd = levels[moments.isna()].iloc[0]
            raise ValueError(
                f"column {name!r}: expected dates such as 2024-12-31, got {odd!r}; "
                f"pandas.to_datetime with format= reads others, and columns="
                f"{{{name!r}: 'category'}} takes them as text"
            )
        return _kind_of_dates(moments)
    is_number = levels.str.fullmatch(_NUMBER)
    has_zeros = levels.str.fullmatch(r"0\d+").any()  # as codes have: 01067
    if is_number.mean() > 0.9 and not has_zeros:
        odd = levels[pd.to_numeric(levels, errors="coerce").isna()]
        example = (odd if len(odd) else levels).iloc[0]
        raise ValueError(
            f"column {name!r}: expected numbers, got text such as {example!r}; pandas.read_csv "
            f"with decimal=, thousands= or na_values= reads numbers, and columns="
            f"{{{name!r}: 'category'}} takes them as text"
        )
    if len(levels) > 0.9 * len(present) and len(present) >= 20:
        return LeftOut(f"it is an identifier: {len(levels)} levels in {len(present)} rows")
    return "category"


# How the columns of each kind are made.


def _category(cells: pd.Series, present: pd.Series, name: str, kind: str) -> Column:
    counts = present.value_counts(sort=False)
    counts = counts[counts > 0]
    kept = counts[counts > 1] if (counts > 1).any() else counts
    levels = [_plain(level) for level in kept.index]
    if not isinstance(present.dtype, pd.CategoricalDtype):
        levels = sorted(levels, key=lambda level: (str(type(level)), level))
    pooled = int(counts.sum() - kept.sum())
    if pooled > len(present) / 2:
        warnings.warn(
            f"column {name!r}: {pooled} of {len(present)} cells have a level that no other row "
            f"has, and are pooled",
            stacklevel=2,
        )
    return Levels(name, kind, _dtype(cells), _missing(cells), tuple(levels), pooled)


def _ordinal(cells: pd.Series, present: pd.Series, name: str, kind: str) -> Column:
    if not (isinstance(cells.dtype, pd.CategoricalDtype) and cells.dtype.ordered):
        raise ValueError(
            f"columns: expected a list of the levels of {name!r} in their order, since its dtype "
            f"{cells.dtype} has none, got 'ordinal'"
        )
    return _listed(cells, name, tuple(map(_plain, cells.dtype.categories)))


def _listed(cells: pd.Series, name: str, levels: tuple[Any, ...]) -> Column:
    """Ordered levels; a single one is no order."""
    if len(set(levels)) < max(2, len(levels)):
        raise ValueError(
            f"columns: expected at least two different levels of {name!r}, got "
            f"{described(list(levels))}"
        )
    column = Levels(name, "ordinal", _dtype(cells), _missing(cells), levels)
    column.encode(cells)
    return column


def _bool(cells: pd.Series, present: pd.Series, name: str, kind: str) -> Column:
    column = Levels(name, kind, _dtype(cells), _missing(cells), (False, True))
    column.encode(cells)
    return column


def _discrete(cells: pd.Series, present: pd.Series, name: str, kind: str) -> Column:
    values = np.unique(numbers_of(present, name))
    if not (values % 1).any() and values[-1] - values[0] < WIDEST:
        values = np.arange(values[0], values[-1] + 1)
    return Levels(name, kind, _dtype(cells), _missing(cells), tuple(values.tolist()))


def _numbers(cells: pd.Series, present: pd.Series, name: str, kind: str) -> Column:
    numbers = numbers_of(present, name, kind)
    values, counts = np.unique(numbers, return_counts=True)
    is_integer = kind in ("count", *UNITS)
    points = _points(values, counts) if kind not in UNITS else values[:0]
    rest = numbers[~np.isin(numbers, points)]
    rest = rest if len(rest) else numbers
    is_log = kind == "positive" or (kind == "count" and rest.min() >= 0 and _is_skewed(rest + 0.5))
    if kind == "positive" and rest.min() <= 0:
        raise ValueError(
            f"column {name!r}: expected numbers above 0, apart from spikes, got {rest.min():g}"
        )
    origin = 0.0 if is_log else float(np.round(np.median(rest), 0 if is_integer else 12))
    form = np.log(rest + 0.5 * is_integer) if is_log else rest - origin
    center = float(form.mean())
    column = Numbers(
        name,
        kind,
        _dtype(cells),
        _missing(cells),
        origin=origin,
        center=center,
        scale=float(form.std()) or 1.0,
        is_log=is_log,
        is_integer=is_integer,
        points=tuple(points.tolist()),
        decimals=None if is_integer else _decimals(values),
        low=float(values[0]),
        high=float(values[-1]),
    )
    column.encode(cells)
    return column


_MAKERS: dict[str, Any] = {
    "bool": _bool,
    "category": _category,
    "ordinal": _ordinal,
    "discrete": _discrete,
    **dict.fromkeys(("count", "real", "positive", *UNITS), _numbers),
}


def _points(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The values that are far more frequent than others, at most `MOST_POINTS`."""
    rows = counts.sum()
    is_point = (counts >= max(5, 0.005 * rows)) & (counts >= 10 * np.median(counts))
    if len(values) == 1:
        is_point[:] = True
    most = np.argsort(-counts, kind="stable")[:MOST_POINTS]
    return np.sort(values[most][is_point[most]])


def _is_skewed(numbers: np.ndarray) -> bool:
    """Whether positive numbers are skewed, and their logarithms less so."""
    raw = _skewness(numbers)
    return raw > 1 and abs(_skewness(np.log(numbers))) < raw


def _skewness(numbers: np.ndarray) -> float:
    deviation = numbers - numbers.mean()
    return float((deviation**3).mean() / max((deviation**2).mean() ** 1.5, 1e-300))


def _decimals(values: np.ndarray) -> int | None:
    """The number of decimals that all values are rounded to, up to 6."""
    for decimals in range(7):
        if np.allclose(values.round(decimals), values, rtol=1e-12, atol=0):
            return decimals
    return None


def _missing(cells: pd.Series) -> float:
    return float(cells.isna().mean())


def _dtype(cells: pd.Series) -> str:
    """The dtype of cells that are written: the own one, but for numbers and dates as objects."""
    if isinstance(cells.dtype, pd.CategoricalDtype):
        return "category"
    inferred = pd.api.types.infer_dtype(cells, skipna=True) if cells.dtype == object else ""
    return _OF_OBJECTS.get(inferred, str(cells.dtype))


def _plain(level: Any) -> Any:
    """A level as Python's bool, integer, float or text."""
    level = level.item() if isinstance(level, np.generic) else level
    return level if isinstance(level, bool | int | float | str) else str(level)
