"""The kind of each column of a table, declared or proposed from its cells."""

import re
import warnings
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ardist.families.proposed import MOST_POINTS, WIDEST, NumberForm, kind_of, split_points
from ardist.shapes import described
from ardist.tables.columns import Column, Levels, Numbers, numbers_of, plain
from ardist.tables.times import UNITS, as_dates, clock_of, seconds_of, unit_of

# The kinds of columns, and the cells that each kind is for.
KINDS = {
    "bool": "True or False",
    "category": "levels without an order",
    "ordinal": "ordered levels: an ordered categorical dtype, or a list of the levels",
    "discrete": "numbers of which there are few",
    "count": "integers of which there are many",
    "real": "real numbers",
    "positive": "positive numbers, by their logarithms",
    "date": "dates, without a time",
    "time": "dates with a time",
    "duration": "lengths of time",
    "clock": "times of day",
    "left out": "not modeled",
}

_OF_OBJECTS = {
    "integer": "Int64",
    **dict.fromkeys(("floating", "mixed-integer-float", "decimal"), "float64"),
    "date": "datetime64[us]",
    **dict.fromkeys(("timedelta", "timedelta64"), "timedelta64[us]"),
    "time": "time",
}
_NUMBER = re.compile(r"[-+]?[$€£]?\d[\d.,' _]*%?$")
_DATE = re.compile(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}")


@dataclass(frozen=True)
class LeftOut:
    """The reason why a column is not modeled."""

    reason: str


def propose(cells: pd.Series, declared: Any = None) -> Column | LeftOut:
    """The column for these cells, or the reason why it is left out.

    Args:
        cells: the cells of one column, with its name.
        declared: a name of `KINDS`, a list of ordered levels, a column, or None.

    Raises:
        ValueError: if the cells are of mixed types, infinite, or look like numbers or dates that
            were not read, or if they do not fit the declaration.
    """
    name = str(cells.name)
    if isinstance(declared, Column):
        declared.encode(cells)
        return declared
    if pd.api.types.is_list_like(declared, allow_sets=False):
        return _listed(cells, list(declared))
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
    column = _MAKERS[kind](cells, kind)
    _warn_of_coarse(column, present)
    if declared is None and present.nunique() == 1:
        warnings.warn(
            f"column {name!r}: has one value, {plain(present.iloc[0])!r}, and no "
            f"information about others",
            stacklevel=2,
        )
    return column


def _warn_of_coarse(column: Column, present: pd.Series) -> None:
    """Warns if numbers are so close to each other that the column cannot tell them apart."""
    if column.kind not in ("discrete", "count", "real", "positive", "time", "duration"):
        return
    count, read = present.nunique(), len(np.unique(column.encode(present).astype(np.float32)))
    if read < 0.9 * count:
        warnings.warn(
            f"column {column.name!r}: {count} different numbers are read as {read}, since they "
            f"have 7 digits next to their median; subtract a constant, or split the column",
            stacklevel=3,
        )
    elif isinstance(column, Numbers) and not column.is_fine:
        warnings.warn(
            f"column {column.name!r}: many numbers are nearer to each other than the density can "
            f"resolve next to the others; split the column, or set what is far away to missing",
            stacklevel=3,
        )


def _kind_of(present: pd.Series, name: str) -> str | LeftOut:
    """The kind that fits cells without missing ones, or the reason why they are left out."""
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
        return "duration"
    if inferred == "time":
        return "clock"
    if inferred == "string":
        return _kind_of_text(present, name)
    types = sorted({type(cell).__name__ for cell in present})
    raise ValueError(
        f"column {name!r}: expected cells of one type, numbers, text, bools or dates, got "
        f"{', '.join(types)}; for example {present.iloc[0]!r}"
    )


def _kind_of_numbers(numbers: np.ndarray) -> str | LeftOut:
    values, rows = np.unique(numbers), len(numbers)
    is_dense = 2 * (values[-1] - values[0]) < rows**1.5
    if rows >= 50 and len(values) == rows and is_dense and not (values % 1).any():
        return LeftOut(f"it is an identifier: {rows} different integers in {rows} rows")
    return kind_of(numbers)


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
    if len(levels) > MOST_POINTS and clock_of(levels).notna().all():
        return "clock"
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


def _category(cells: pd.Series, kind: str) -> Column:
    present = cells.dropna()
    counts = present.value_counts(sort=False)
    counts = counts[counts > 0]
    kept = counts[counts > 1] if (counts > 1).any() else counts
    levels = [plain(level) for level in kept.index]
    if not isinstance(present.dtype, pd.CategoricalDtype):
        levels = sorted(levels, key=lambda level: (str(type(level)), level))
    pooled = int(counts.sum() - kept.sum())
    if pooled > len(present) / 2:
        warnings.warn(
            f"column {cells.name!r}: {pooled} of {len(present)} cells have a level that no other "
            f"row has, and are pooled",
            stacklevel=2,
        )
    name, kind, dtype, missing = _about(cells, kind)
    if dtype != "category" and any(plain(level) != level for level in kept.index):
        dtype = "object"  # of their text
    return Levels(name, kind, dtype, missing, tuple(levels), pooled)


def _ordinal(cells: pd.Series, kind: str) -> Column:
    if not (isinstance(cells.dtype, pd.CategoricalDtype) and cells.dtype.ordered):
        raise ValueError(
            f"columns: expected a list of the levels of {cells.name!r} in their order, since its "
            f"dtype {cells.dtype} has none, got 'ordinal'"
        )
    return _listed(cells, list(cells.dtype.categories))


def _listed(cells: pd.Series, listed: list[Any]) -> Column:
    """A column of ordered levels, of which there are at least two."""
    levels = tuple(map(plain, listed))
    if len(set(levels)) < max(2, len(levels)) or pd.Series(listed).isna().any():
        raise ValueError(
            f"columns: expected at least two different levels of {cells.name!r}, none of them "
            f"missing, got {described(listed)}"
        )
    column = Levels(*_about(cells, "ordinal"), levels)
    column.encode(cells)
    return column


def _bool(cells: pd.Series, kind: str) -> Column:
    column = Levels(*_about(cells, kind), (False, True))
    codes = column.encode(cells)
    if pd.api.types.infer_dtype(cells, skipna=True) != "string":
        return column
    spelled = (next(iter(cells[codes == code]), str(bool(code))) for code in (0, 1))
    return replace(column, levels=tuple(spelled))


def _discrete(cells: pd.Series, kind: str) -> Column:
    values = np.unique(numbers_of(cells.dropna(), str(cells.name)))
    if not (values % 1).any() and values[-1] - values[0] < WIDEST:
        values = values[0] + np.arange(values[-1] - values[0] + 1)
    return Levels(*_about(cells, kind), tuple(values.tolist()))


def _numbers(cells: pd.Series, kind: str) -> Column:
    present, name, unit = cells.dropna(), str(cells.name), 1.0
    if kind in UNITS:
        seconds = seconds_of(present, name, kind, _dtype(cells, kind))
        unit = unit_of(seconds, kind)
        numbers = seconds / unit if kind in ("time", "duration") else np.floor(seconds / unit)
    else:
        numbers = numbers_of(present, name)
    if kind == "positive" and (least := split_points(numbers)[1].min()) <= 0:
        raise ValueError(
            f"column {cells.name!r}: expected numbers above 0, apart from spikes, got {least:g}"
        )
    form = NumberForm.of(numbers, kind)
    column = Numbers(*_about(cells, kind), **asdict(form), unit=unit)
    column.encode(cells)
    return column


_MAKERS: dict[str, Any] = {
    "bool": _bool,
    "category": _category,
    "ordinal": _ordinal,
    "discrete": _discrete,
    **dict.fromkeys(("count", "real", "positive", *UNITS), _numbers),
}


def _about(cells: pd.Series, kind: str) -> tuple[str, str, str, float]:
    """The name, the kind, the dtype and the share of missing cells of a column."""
    return str(cells.name), kind, _dtype(cells, kind), float(cells.isna().mean())


def _dtype(cells: pd.Series, kind: str) -> str:
    """The dtype in which cells are written: their own, except for numbers and dates as objects.

    Numbers and dates in a categorical column have the dtype of its levels.
    """
    if isinstance(cells.dtype, pd.CategoricalDtype):
        is_level = kind in ("bool", "category", "ordinal")
        return "category" if is_level else _dtype(cells.cat.categories.to_series(), kind)
    if kind in ("count", "real", "positive") and pd.api.types.is_bool_dtype(cells.dtype):
        return "float64"
    if cells.dtype != object:
        return str(cells.dtype)
    inferred = pd.api.types.infer_dtype(cells, skipna=True)
    if inferred == "integer" and max(map(abs, cells.dropna())) >= 2**63:
        return "float64"  # which holds it
    if inferred.startswith("datetime"):
        present = cells.dropna()
        own = str(present.infer_objects().dtype)
        has_zone = present.map(lambda cell: getattr(cell, "tzinfo", None) is not None).any()
        other = "datetime64[us, UTC]" if has_zone else "datetime64[us]"
        return other if own == "object" or "(" in own else own  # of several zones, or of dateutil
    is_number = kind in ("discrete", "count", "real", "positive") and inferred != "string"
    return _OF_OBJECTS.get(inferred, "float64" if is_number else "object")
