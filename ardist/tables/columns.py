"""Columns of a table: their cells as codes that a family models, and back."""

import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from ardist.families import Bernoulli, Categorical, Family, Ordinal, Truncated
from ardist.families.guards import ends_of
from ardist.families.proposed import NumberForm
from ardist.shapes import described

OTHER = "other"
LARGEST = 1e30  # size of a number; float32 ends at 3e38
SECONDS = "s"  # the unit of times, while dates have days
UNITS = {"date": "D", "time": SECONDS}
_BOOLS = {"True": 1.0, "False": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}
_TEXT_OF = {"date": "%Y-%m-%d", "time": "%Y-%m-%d %H:%M:%S"}

Codes = np.ndarray  # float64 (rows,), NaN for missing cells


@dataclass(frozen=True)
class Column(ABC):
    """A column whose cells are modelled.

    Attributes:
        name: of the column.
        kind: one of `KINDS` of `ardist.tables.proposals`.
        dtype: of the cells that are written, as pandas spells it.
        missing: the share of missing cells in the table that it was made for.
    """

    name: str
    kind: str
    dtype: str
    missing: float

    @property
    @abstractmethod
    def family(self) -> Family:
        """The family of the codes, by which cells are scored."""

    @property
    def drawn(self) -> Family:
        """The family of codes that are drawn or predicted: without those of unseen values."""
        return self.family

    @property
    def listed(self) -> Family:
        """The family of the codes of values that are known."""
        return self.drawn

    @property
    def is_ordered(self) -> bool:
        """Whether the codes have the order of the cells."""
        return True

    @property
    @abstractmethod
    def ends(self) -> tuple[float, float]:
        """The least and the largest code that cells can have; they may be infinite."""

    @property
    @abstractmethod
    def possible(self) -> str:
        """What cells can be, for errors."""

    @abstractmethod
    def locate(self, cells: pd.Series) -> Codes:
        """The codes of cells, infinite for those that cannot be in this column.

        Raises:
            ValueError: if a cell is of another type.
        """

    def encode(self, cells: pd.Series) -> Codes:
        """The codes of cells.

        Raises:
            ValueError: if a cell cannot be in this column.
        """
        codes = self.locate(cells)
        self._refuse(np.isinf(codes), cells)
        return codes

    def check_evidence(self, cells: pd.Series, codes: Codes) -> None:
        """Raises a `ValueError` if a cell, with this code, is outside of the family's support."""
        known = torch.from_numpy(codes).float()
        is_possible = (self.family.inside(known) | known.isnan()).numpy()
        self._refuse(~is_possible, cells)

    def _refuse(self, is_odd: np.ndarray, cells: pd.Series) -> None:
        """Raises a `ValueError` that names the first cell that is not possible, if there is one."""
        if not is_odd.any():
            return
        odd = cells[is_odd]
        where = f" in {len(odd)} of {len(cells)} cells, first in row {odd.index[0]}"
        raise ValueError(
            f"column {self.name!r}: expected {self.possible}, got "
            f"{described(odd.tolist()[0])}"
            f"{where * (len(cells) > 1)}"
        )

    @abstractmethod
    def floor(self, cells: pd.Series) -> Codes:
        """The largest code that is not above each of the cells, which need no code of their own."""

    @abstractmethod
    def decode(self, codes: Codes) -> pd.Series:
        """The cells of codes, missing where a code is NaN."""

    @abstractmethod
    def describe(self) -> str:
        """The values that are modelled, in a few words."""


@dataclass(frozen=True)
class Levels(Column):
    """A column with finitely many values: a bool, a category, an ordinal or a discrete number.

    Categories and numbers have one more state, for values that are not listed: unseen ones, and
    levels of a category that `fit` saw once. A number that it saw once is listed.

    Attributes:
        levels: the values, in the order of their codes.
        pooled: the number of cells of the table whose value is not listed.
    """

    levels: tuple[Any, ...]
    pooled: int = 0

    @property
    def has_other(self) -> bool:
        """Whether there is a state for values that are not listed."""
        return self.kind in ("category", "discrete")

    @property
    def writes_other(self) -> bool:
        """Whether draws may have that state, which is then a text."""
        return self.pooled > 0 and self.kind == "category" and isinstance(self.levels[0], str)

    @property
    def is_ordered(self) -> bool:
        return self.kind != "category"

    @property
    def other(self) -> str:
        """The text of the state for values that are not listed."""
        name = OTHER
        while name in self.levels:
            name = f"({name})"
        return name

    @property
    def written(self) -> list[Any]:
        """The values that draws may have, in the order of their codes."""
        return [*self.levels, *([self.other] if self.writes_other else [])]

    @cached_property
    def family(self) -> Family:
        if self.kind == "bool":
            return Bernoulli()
        if self.kind == "ordinal":
            return Ordinal(len(self.levels))
        return Categorical(len(self.levels) + 1)

    @property
    def drawn(self) -> Family:
        return self.family if self.writes_other else self.listed

    @cached_property
    def listed(self) -> Family:
        return Truncated(self.family, 0, len(self.levels) - 1) if self.has_other else self.family

    @cached_property
    def _index(self) -> pd.Index:
        is_number = self.kind in ("bool", "discrete")
        return pd.Index(np.asarray(self.levels, float) if is_number else list(self.levels))

    @property
    def ends(self) -> tuple[float, float]:
        return 0.0, len(self.levels) - 1.0

    @property
    def possible(self) -> str:
        return f"one of {described(list(self.levels))}"

    def locate(self, cells: pd.Series) -> Codes:
        is_missing = cells.isna().to_numpy()
        present = self._comparable(cells[~is_missing])
        is_other = self.has_other & ~present.isin((math.inf, -math.inf))
        unlisted = np.where(is_other, len(self.levels), math.inf)
        found = self._index.get_indexer(present)
        codes = np.full(len(cells), math.nan)
        codes[~is_missing] = np.where(found < 0, unlisted, found)
        return codes

    def _is_unlisted(self, cells: pd.Series) -> np.ndarray:
        """Whether each cell has the state for values that are not listed."""
        return self.locate(cells) == len(self.levels)

    def warn_of_unseen(self, cells: pd.Series) -> None:
        """Warns of cells that are not listed, if `fit` has seen none."""
        if not self.pooled and (unseen := cells[self._is_unlisted(cells)].tolist()):
            warnings.warn(
                f"column {self.name!r}: {unseen[0]!r} was not in the table of fit; {len(unseen)} "
                f"such cells are read as one rare level",
                stacklevel=2,
            )

    def check_given(self, cells: pd.Series) -> None:
        """Refuses cells that draws cannot have, or warns that they are written as another level."""
        is_unlisted = self._is_unlisted(cells)
        if not self.writes_other:
            self._refuse(is_unlisted, cells)
        elif odd := [cell for cell in cells[is_unlisted] if cell != self.other]:
            warnings.warn(
                f"column {self.name!r}: {odd[0]!r} was not in the table of fit, or once, and is "
                f"written as {self.other!r}",
                stacklevel=2,
            )

    def _comparable(self, cells: pd.Series) -> pd.Index:
        """Cells in the type of the levels, as far as they have it."""
        if self.kind in ("bool", "discrete"):
            return pd.Index(self._numbers(cells))
        if isinstance(cells.dtype, pd.CategoricalDtype):  # whose levels may be intervals or dates
            cells = cells.cat.rename_categories(list(map(plain, cells.cat.categories)))
        return pd.Index(cells.astype(object))

    def floor(self, cells: pd.Series) -> Codes:
        if self.kind == "ordinal":
            return self.encode(cells)
        codes = np.searchsorted(np.asarray(self.levels, float), self._numbers(cells), "right") - 1.0
        return np.where(cells.isna(), math.nan, codes)

    def _numbers(self, cells: pd.Series) -> np.ndarray:
        """Cells of a bool, also as texts, or of a discrete number."""
        if self.kind == "bool" and not pd.api.types.is_numeric_dtype(cells.dtype):
            cells = cells.map(lambda cell: _BOOLS.get(str(cell), math.inf), na_action="ignore")
        return read_numbers(cells, self.name)

    def decode(self, codes: Codes) -> pd.Series:
        values = self.written
        is_missing = np.isnan(codes)
        indices = np.where(is_missing, -1, codes).astype(int)
        if self.dtype == "category":
            cells: Any = pd.Categorical.from_codes(indices, values, ordered=self.kind == "ordinal")
            return pd.Series(cells, name=self.name)
        cells = np.array([*values, None], dtype=object)[indices]
        return pd.Series(cells, name=self.name, dtype=object).astype(_holding(self, is_missing))

    def describe(self) -> str:
        if self.kind == "bool":
            return "False, True"
        count = len(self.levels)
        if self.kind == "discrete":
            ends = _range(self.levels[0], self.levels[-1])
            return f"{count} number{'s' * (count > 1)}, {ends}"
        listed = ", ".join(map(_short, self.levels[:3])) + (", ..." if count > 3 else "")
        pooled = f"; {self.pooled} rare cells pooled" if self.pooled else ""
        return f"{count} level{'s' * (count > 1)}: {listed}{pooled}"


@dataclass(frozen=True)
class Numbers(NumberForm, Column):
    """A column of numbers, dates or times, by a mixture of normals in units of its own.

    A code is a number minus the `origin`. Dates are days, and times and durations seconds, since
    1970. The score of an integer is a log-probability, and that of another number a log density, in
    the units of the table. A point has a probability of its own.
    """

    @property
    def ends(self) -> tuple[float, float]:
        ends = ends_of(self.family.support)
        return ends.lower, ends.upper

    @property
    def possible(self) -> str:
        text = "integers" if self.is_integer else "numbers"
        if self.is_log:
            text += " from 0 on" if self.is_integer else " above 0"
        return text + (f", or one of {list(self.points)}" if self.points else "")

    def locate(self, cells: pd.Series) -> Codes:
        numbers = read_numbers(cells, self.name, self.kind)
        with np.errstate(invalid="ignore"):  # a remainder of infinity
            is_possible = (numbers % 1 == 0) if self.is_integer else np.abs(numbers) <= LARGEST
        return np.where(is_possible | np.isnan(numbers), numbers - self.origin, math.inf)

    def encode(self, cells: pd.Series) -> Codes:
        numbers_of(cells, self.name, self.kind)
        return super().encode(cells)

    def floor(self, cells: pd.Series) -> Codes:
        codes = read_numbers(cells, self.name, self.kind) - self.origin
        return codes + 0.5 if self.is_integer and not self.is_rounded else codes

    def decode(self, codes: Codes) -> pd.Series:
        numbers = codes.astype(float) + self.origin
        if self.is_integer:
            numbers = numbers.round() + 0.0  # without -0
        elif self.decimals is not None:
            numbers = numbers.round(self.decimals)
        if self.kind in UNITS:
            return _as_times(self, numbers)
        cells = pd.Series(numbers, name=self.name)
        if "int" in self.dtype.lower() and np.isinf(numbers).any():
            return cells  # which no dtype of integers holds
        return cells.astype(_holding(self, np.isnan(codes)))

    def describe(self) -> str:
        text = _range(self.low, self.high)
        if self.kind in UNITS and not self.dtype.startswith("timedelta"):
            both = pd.to_datetime([self.low, self.high], unit=UNITS[self.kind])
            text = " to ".join(moment.strftime(_TEXT_OF[self.kind]) for moment in both)
        if self.is_log:
            text += ", by logarithms"
        if self.points:
            listed = ", ".join(f"{point:g}" for point in self.points[:3])
            text += f", spikes at {listed}{', ...' * (len(self.points) > 3)}"
        return text


def _range(low: float, high: float) -> str:
    """Two numbers as text, with as many of the digits from 6 to 17 as tell them apart."""
    texts = ([f"{end:.{digits}g}" for end in (low, high)] for digits in range(6, 18))
    return " to ".join(next((pair for pair in texts if pair[0] != pair[1]), [f"{low:.6g}"] * 2))


def _short(level: Any) -> str:
    """A level as text, of one line and at most 40 characters."""
    text = " ".join(str(level).split())
    return text if len(text) <= 40 else f"{text[:37]}..."


def numbers_of(cells: pd.Series, name: str, kind: str = "") -> np.ndarray:
    """As `read_numbers`, of cells that a table can have.

    Raises:
        ValueError: if a cell is no number or infinite, or no date or time.
    """
    numbers = read_numbers(cells, name, kind)
    if (count := int(np.isinf(numbers).sum())) > 0:
        raise ValueError(
            f"column {name!r}: expected finite numbers, got infinity in {count} of {len(numbers)} "
            f"cells; NaN marks missing cells"
        )
    if (largest := np.nanmax(np.abs(numbers), initial=0.0)) > LARGEST:
        raise ValueError(
            f"column {name!r}: expected numbers up to {LARGEST:g}, got one of size {largest:g}; "
            f"divide the column by a constant"
        )
    return numbers


def read_numbers(cells: pd.Series, name: str, kind: str = "") -> np.ndarray:
    """Cells as float64, NaN where missing: days of a date, seconds of a time or duration.

    Raises:
        ValueError: if a cell is no number, or no date or time.
    """
    if kind in UNITS:
        return _times_of(cells, name, UNITS[kind])
    try:
        return pd.to_numeric(cells).to_numpy(dtype=float, na_value=math.nan) + 0.0  # without -0
    except (TypeError, ValueError):
        text = cells.dropna()
        odd = text[pd.to_numeric(text.astype(object), errors="coerce").isna()]
        got = repr((odd if len(odd) else text).iloc[0])
        raise ValueError(f"column {name!r}: expected numbers, got {got}") from None


def _times_of(cells: pd.Series, name: str, unit: str) -> np.ndarray:
    is_missing = cells.isna().to_numpy()
    if isinstance(cells.dtype, np.dtype) and cells.dtype.kind == "m":
        ticks = cells.astype("timedelta64[s]")
    else:
        present = cells[~is_missing]
        if pd.api.types.is_numeric_dtype(present.dtype) and len(present):
            raise ValueError(f"column {name!r}: expected dates, got {present.iloc[0]}")
        moments = as_dates(cells)
        odd = moments.isna().to_numpy() & ~is_missing
        if odd.any():
            raise ValueError(
                f"column {name!r}: expected dates such as 2024-12-31, got "
                f"{cells[odd].iloc[0]!r} in {odd.sum()} of {len(cells)} cells; pandas.to_datetime "
                f"with format= reads others"
            )
        ticks = moments.dt.tz_convert("UTC").dt.tz_localize(None).astype(f"datetime64[{SECONDS}]")
    numbers = ticks.to_numpy().astype(np.int64).astype(float)
    numbers[is_missing] = math.nan
    return np.floor(numbers / 86400) if unit == "D" else numbers


def plain(level: Any) -> bool | int | float | str:
    """A level as Python's bool, integer, float or text."""
    level = level.item() if isinstance(level, np.generic) else level
    return level if isinstance(level, bool | int | float | str) else str(level)


def as_dates(cells: pd.Series) -> pd.Series:
    """Dates, and text in the format of ISO 8601, in UTC; NaT for what is neither."""
    return pd.to_datetime(cells, utc=True, format="ISO8601", errors="coerce")


def _as_times(column: Numbers, numbers: np.ndarray) -> pd.Series:
    is_missing = ~np.isfinite(numbers)
    ticks = np.where(is_missing, 0, numbers).astype(np.int64)
    if column.dtype.startswith("timedelta"):
        cells = pd.Series(ticks.astype("timedelta64[s]"), name=column.name).astype(column.dtype)
        return cells.mask(is_missing)
    moments = pd.Series(ticks.astype(f"datetime64[{UNITS[column.kind]}]"), name=column.name)
    if column.dtype.startswith("datetime64"):
        dtype: Any = pd.api.types.pandas_dtype(column.dtype)
        if isinstance(dtype, pd.DatetimeTZDtype):
            moments = moments.dt.tz_localize("UTC")
        return moments.astype(dtype).mask(is_missing)
    text = moments.dt.strftime(_TEXT_OF[column.kind])
    return text.astype(column.dtype).mask(is_missing)


def _holding(column: Column, is_missing: np.ndarray) -> str:
    """The dtype of the column, or a nullable one if it cannot hold missing cells."""
    if is_missing.any() and column.dtype.startswith(("int", "uint")):
        return column.dtype.replace("i", "I").replace("uI", "UI")
    if is_missing.any() and column.dtype == "bool":
        return "boolean"
    return column.dtype
