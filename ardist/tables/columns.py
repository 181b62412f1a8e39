"""Columns of a table, which encode cells as codes that a family models, and decode them."""

import math
import re
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from ardist.families import Bernoulli, Categorical, Family, Hurdle, Ordinal, Truncated
from ardist.families.guards import ends_of
from ardist.families.proposed import NumberForm
from ardist.shapes import described
from ardist.tables.frames import scalar
from ardist.tables.times import DAY, UNITS, from_seconds, seconds_of

OTHER = "other"
LARGEST, SMALLEST = 1e30, 1e-30  # sizes of numbers; float32 ends at 3e38 and 1e-38
_BOOLS = {"True": 1.0, "False": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}
_INTEGERS = re.compile(r"(u?)int(\d+)", re.IGNORECASE)  # dtypes of integers, as "UInt8"

Codes = np.ndarray  # float64 (rows,), NaN for missing cells


@dataclass(frozen=True)
class Column(ABC):
    """A column whose cells are modeled.

    Attributes:
        name: the name of the column.
        kind: one of `KINDS` of `ardist.tables.proposals`.
        dtype: the dtype in which cells are written, as pandas spells it.
        missing: the share of missing cells in the table from which the column was made.
    """

    name: str
    kind: str
    dtype: str
    missing: float

    @property
    @abstractmethod
    def family(self) -> Family:
        """The family of the codes, which scores cells."""

    @property
    def drawn(self) -> Family:
        """The family of codes that are drawn or predicted, without states that are not written."""
        return self.family

    @property
    def listed(self) -> Family:
        """The family of the codes of listed values, without a state for other values."""
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
        """A description of the cells that are possible, for errors."""

    @abstractmethod
    def locate(self, cells: pd.Series) -> Codes:
        """The codes of cells, infinite for cells that cannot be in this column.

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
        """Raises a `ValueError` if the code of a cell is outside the family's support."""
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
        """The largest code that is not above each cell. The cells need no codes of their own."""

    @abstractmethod
    def within(self, given: Any) -> set[float] | tuple[float, float]:
        """The codes of limits: of a list of values, or of a tuple of the lowest and highest value.

        Raises:
            ValueError: if `given` is neither, or no value is within the limits.
        """

    @abstractmethod
    def decode(self, codes: Codes) -> pd.Series:
        """The cells of codes. A cell is missing if its code is NaN."""

    @abstractmethod
    def describe(self) -> str:
        """The values that are modeled, in a few words."""

    def _cell(self, value: Any) -> pd.Series:
        return pd.Series([scalar(value)], name=self.name)

    def _disordered(self, given: Any) -> ValueError:
        return ValueError(f"where: expected two ends in order for {self.name!r}, got {given}")

    def _as_cells(self, numbers: np.ndarray) -> pd.Series:
        """Numbers in the dtype of the column, missing where they are NaN."""
        cells = pd.Series(numbers, name=self.name)
        if pd.api.types.is_string_dtype(self.dtype):
            text = cells.map(partial(np.format_float_positional, trim="-"), na_action="ignore")
            return text.astype(object).astype(self.dtype)
        if found := _INTEGERS.search(self.dtype):
            if np.isinf(numbers).any():
                return cells  # since no integer dtype holds infinity
            cells = cells.clip(*_range_of(bool(found[1]), int(found[2])))
        return cells.astype(self._holding(np.isnan(numbers)))

    def _holding(self, is_missing: np.ndarray) -> str:
        """The dtype of the column, or a nullable one if it cannot hold missing cells."""
        if is_missing.any() and self.dtype.startswith(("int", "uint")):
            return self.dtype.replace("i", "I").replace("uI", "UI")
        if is_missing.any() and self.dtype == "bool":
            return "boolean"
        return self.dtype


@dataclass(frozen=True)
class Levels(Column):
    """A column with finitely many values: a bool, a category, an ordinal or a discrete number.

    Categories and numbers have one more state, for values that are not listed: unseen values, and
    levels of a category that `fit` saw once. A number that `fit` saw once is listed.

    Attributes:
        levels: the values, in the order of their codes.
        pooled: the number of cells of the table with a value that is not listed.
    """

    levels: tuple[Any, ...]
    pooled: int = 0

    @property
    def has_other(self) -> bool:
        """Whether there is a state for values that are not listed."""
        return self.kind in ("category", "discrete")

    @property
    def writes_other(self) -> bool:
        """Whether draws may have that state, which is then written as text."""
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
        return self._comparable(pd.Series(self.levels))

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
        """Warns of cells that are not listed, if `fit` has seen no such cells."""
        if not self.pooled and (unseen := cells[self._is_unlisted(cells)].tolist()):
            warnings.warn(
                f"column {self.name!r}: {unseen[0]!r} was not in the table of fit; {len(unseen)} "
                f"such cells are read as one rare level",
                stacklevel=2,
            )

    def check_given(self, cells: pd.Series) -> None:
        """Raises a `ValueError` for cells that draws cannot have, or warns if they are pooled."""
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
        """Cells, converted to the type of the levels if that is possible."""
        if self.kind in ("bool", "discrete"):
            return pd.Index(self._numbers(cells))
        codes, distinct = pd.factorize(cells.astype(object))  # cells may be intervals or dates
        return pd.Index(list(map(plain, distinct)), dtype=object).take(codes)

    def floor(self, cells: pd.Series) -> Codes:
        if self.kind == "ordinal":
            return self.encode(cells)
        codes = np.searchsorted(self._index, self._numbers(cells), "right") - 1.0
        return np.where(cells.isna(), math.nan, codes)

    def _numbers(self, cells: pd.Series) -> np.ndarray:
        """The numbers of cells, which are bools, bools as text, or discrete numbers."""
        if self.kind == "bool" and not pd.api.types.is_numeric_dtype(cells.dtype):
            cells = cells.map(lambda cell: _BOOLS.get(str(cell), math.inf), na_action="ignore")
        return read_numbers(cells, self.name)

    def within(self, given: Any) -> set[float]:
        is_pair = isinstance(given, tuple) and len(given) == 2 and self.is_ordered
        is_list = not isinstance(given, tuple) and pd.api.types.is_list_like(given)
        listed = list(given) if is_list else []
        if not (is_pair or listed):
            raise ValueError(
                f"where: expected a list of values for {self.name!r}, of kind {self.kind}, or a "
                f"tuple of two ends for a column with an order, got {described(given)}"
            )
        if listed:
            values = pd.Series(listed, name=self.name).map(plain).astype(object)
            codes = set(self.locate(values).tolist())
            if not (codes <= set(range(len(self.levels))) or set(values) <= set(self.written)):
                raise ValueError(
                    f"where: expected values of {self.written} for {self.name!r}, got "
                    f"{described(listed)}"
                )
            return codes
        first, last = 0.0, len(self.levels) - 1.0
        low, high = (
            None if end is None else float(self.floor(self._cell(end))[0]) for end in given
        )
        is_odd = any(end is not None and math.isnan(end) for end in (low, high))
        if is_odd or (low is not None and high is not None and low > high):
            raise self._disordered(given)
        if low is not None:  # the first level that is not below the end
            first = low + (self.locate(self._cell(given[0]))[0] != low)
        last = last if high is None else min(high, last)
        if first > last:
            raise ValueError(
                f"where: expected limits of {self.name!r} that hold a value of {self.written}, got "
                f"{described(given)}"
            )
        return set(np.arange(first, last + 1).tolist())

    def decode(self, codes: Codes) -> pd.Series:
        values = self.written
        is_missing = np.isnan(codes) | (codes >= len(values))  # as are levels that are not written
        indices = np.where(is_missing, -1, codes).astype(int)
        if self.kind == "discrete":
            return self._as_cells(np.array([*values, math.nan])[indices])
        if self.dtype == "category":
            cells: Any = pd.Categorical.from_codes(indices, values, ordered=self.kind == "ordinal")
            return pd.Series(cells, name=self.name)
        cells = np.array([*values, None], dtype=object)[indices]
        return pd.Series(cells, name=self.name, dtype=object).astype(self._holding(is_missing))

    def describe(self) -> str:
        if self.kind == "bool":
            return ", ".join(map(str, self.levels))
        count = len(self.levels)
        if self.kind == "discrete":
            ends = _range(self.levels[0], self.levels[-1])
            return f"{count} number{'s' * (count > 1)}, {ends}"
        listed = ", ".join(map(_short, self.levels[:3])) + (", ..." if count > 3 else "")
        pooled = f"; {self.pooled} rare cells pooled" if self.pooled else ""
        return f"{count} level{'s' * (count > 1)}: {listed}{pooled}"


@dataclass(frozen=True)
class Numbers(NumberForm, Column):
    """A column of numbers, dates, times or durations, modeled by a mixture in its own units.

    A code is a number minus the `origin`. Dates are days since 1970, and times seconds since 1970.
    Durations are seconds. Times of day are minutes or seconds since midnight. Integers are scored
    by log-probabilities, and other numbers by log densities in the units of the table. A point has
    a probability of its own.

    Attributes:
        unit: the unit of dates, times and durations, in seconds.
    """

    unit: float = 1.0

    def bounded(self, family: Family) -> Family:
        if self.kind != "clock":
            return family
        first, last = self.ends
        return Truncated(family, first - 0.5, last + 0.5)

    @property
    def ends(self) -> tuple[float, float]:
        if self.kind == "clock":
            return -self.origin, DAY / self.unit - 1 - self.origin
        ends = ends_of(self.family.support)
        return ends.lower, ends.upper

    @property
    def possible(self) -> str:
        text = "integers" if self.is_integer else "numbers"
        if self.kind == "duration":
            text = "durations"
        if self.is_log:
            text += " from 0 on" if self.is_integer else " above 0"
        return text + (f", or one of {list(self.points)}" if self.points else "")

    def _numbers(self, cells: pd.Series) -> np.ndarray:
        """Cells as numbers in the unit."""
        if self.kind in UNITS:
            return seconds_of(cells, self.name, self.kind, self.dtype) / self.unit
        return read_numbers(cells, self.name)

    def locate(self, cells: pd.Series) -> Codes:
        numbers = self._numbers(cells)
        if self.is_integer and self.kind in UNITS:
            numbers = np.floor(numbers)
        with np.errstate(invalid="ignore"):  # a remainder of infinity
            is_possible = (numbers % 1 == 0) if self.is_integer else np.abs(numbers) <= LARGEST
        return np.where(is_possible | np.isnan(numbers), numbers - self.origin, math.inf)

    def encode(self, cells: pd.Series) -> Codes:
        if self.kind not in UNITS:
            self._check_size(numbers_of(cells, self.name))
        return super().encode(cells)

    def _check_size(self, numbers: np.ndarray) -> None:
        """Raises a `ValueError` if float32 cannot hold the numbers' scale, or their logarithms."""
        least = numbers[numbers > 0].min(initial=1.0) if self.is_log else self.stretch or self.scale
        if least < SMALLEST:
            wanted = "numbers" if self.is_log else "numbers with a deviation"
            raise ValueError(
                f"column {self.name!r}: expected {wanted} of at least {SMALLEST:g}, got {least:g}; "
                f"multiply the column by a constant"
            )

    def floor(self, cells: pd.Series) -> Codes:
        numbers = self._numbers(cells)
        if not self.is_integer:
            return numbers - self.origin
        return np.floor(numbers) - self.origin + (0.0 if self.is_rounded else 0.5)

    def within(self, given: Any) -> tuple[float, float]:
        if not (isinstance(given, tuple) and len(given) == 2):
            raise ValueError(
                f"where: expected limits (low, high) for {self.name!r}, of kind {self.kind}, None "
                f"for no limit, got {described(given)}; a list is for columns with finitely many "
                f"values"
            )
        low, high = (
            end + self.origin if cell is None else float(self._numbers(self._cell(cell))[0])
            for cell, end in zip(given, self.ends, strict=True)
        )
        if not low <= high:
            raise self._disordered(given)
        ends = self._ends_of(low, high)
        if not self._has_mass(*inward(*ends)):
            near = "; draws have 7 digits next to the median" if self._has_mass(*ends) else ""
            raise ValueError(
                f"where: expected limits of {self.name!r}, of kind {self.kind}, that hold values "
                f"of a probability above 0, got {described(given)}{near}"
            )
        return ends

    def _has_mass(self, low: float, high: float) -> bool:
        """Whether codes between two ends, if any, have a probability, as points or otherwise."""
        if any(low <= self.code_of_point(point) <= high for point in self.points):
            return True
        rest = self.family.family if isinstance(self.family, Hurdle) else self.family
        support = ends_of(rest.support)
        if self.is_rounded:
            return max(low, support.lower) <= min(high, support.upper)
        return max(low, support.lower) < min(high, support.upper)

    def _ends_of(self, low: float, high: float) -> tuple[float, float]:
        """The ends of the codes that are decoded to numbers from `low` to `high`."""
        ends = low, high
        if self.is_integer or self.decimals is not None:
            step = 10.0 ** -(self.decimals or 0)
            # The first and the last number within, up to rounding errors of the division.
            least, most = np.ceil(np.round(low / step, 6)), np.floor(np.round(high / step, 6))
            reach = 0.0 if self.is_rounded else 0.5 - 1e-9  # of the codes that round to a number
            ends = (least - reach) * step, (most + reach) * step
            if least > most:
                return math.inf, -math.inf
            if not self.is_integer:
                ends = max(low, ends[0]), min(high, ends[1])
        # A point has a code in float32.
        codes = [self.code_of_point(x) if x in self.points else x - self.origin for x in ends]
        return codes[0], codes[1]

    def decode(self, codes: Codes) -> pd.Series:
        numbers = codes.astype(float) + self.origin
        for point in self.points:
            numbers[codes == self.code_of_point(point)] = point
        if self.is_integer:
            numbers = numbers.round() + 0.0  # without -0
        elif self.decimals is not None:
            numbers = numbers.round(self.decimals)
        return self._as_cells(numbers)

    def written(self, cells: pd.Series) -> pd.Series:
        """Cells in the form of draws, with all of their digits. Times in dates become the day."""
        if self.kind not in UNITS and str(cells.dtype) == self.dtype:
            return cells  # also integers with more digits than float64 has
        numbers = self._numbers(cells)
        return self._as_cells(np.floor(numbers) if self.is_integer else numbers)

    def _as_cells(self, numbers: np.ndarray) -> pd.Series:
        if self.kind in UNITS:
            return from_seconds(numbers * self.unit, self.name, self.kind, self.dtype, self.unit)
        return super()._as_cells(numbers)

    def describe(self) -> str:
        text = _range(self.low, self.high)
        if self.kind in UNITS:
            both = np.array([self.low, self.high]) * self.unit
            dtype = self.dtype if self.kind == "duration" else "object"
            ends = from_seconds(both, self.name, self.kind, dtype, self.unit)
            text = " to ".join(map(str, ends))
        if self.is_log:
            text += ", by logarithms"
        if self.stretch:
            text += ", with heavy tails"
        if self.points:
            listed = ", ".join(f"{point:g}" for point in self.points[:3])
            text += f", spikes at {listed}{', ...' * (len(self.points) > 3)}"
        return text


def inward(low: float, high: float) -> tuple[float, float]:
    """The ends in float32, in which the network draws, rounded inward."""
    least, most = np.float32(low), np.float32(high)
    least = np.nextafter(least, np.float32(math.inf)) if least < low else least
    most = np.nextafter(most, np.float32(-math.inf)) if most > high else most
    return float(least), float(most)


def _range_of(is_unsigned: bool, bits: int) -> tuple[float, float]:
    """The least and the largest float64 that an integer dtype holds."""
    end = 2.0 ** (bits - (not is_unsigned))
    return 0.0 if is_unsigned else -end, end - max(1.0, np.spacing(end) / 2)


def _range(low: float, high: float) -> str:
    """Two numbers as text, with the fewest digits, from 6 to 17, that tell them apart."""
    texts = ([f"{end:.{digits}g}" for end in (low, high)] for digits in range(6, 18))
    return " to ".join(next((pair for pair in texts if pair[0] != pair[1]), [f"{low:.6g}"] * 2))


def _short(level: Any) -> str:
    """A level as one line of text of at most 40 characters."""
    text = " ".join(str(level).split())
    return text if len(text) <= 40 else f"{text[:37]}..."


def numbers_of(cells: pd.Series, name: str) -> np.ndarray:
    """As `read_numbers`, but raises an error for numbers that a table cannot have.

    Raises:
        ValueError: if a cell is no number, infinite or too large.
    """
    numbers = read_numbers(cells, name)
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


def read_numbers(cells: pd.Series, name: str) -> np.ndarray:
    """Cells as float64, NaN if missing. Single-precision numbers become their shortest decimals.

    Raises:
        ValueError: if a cell is no number.
    """
    if cells.dtype.kind in "cmM" or isinstance(cells.dtype, pd.PeriodDtype):
        # Otherwise pandas would read them as real parts or numbers of ticks.
        cells = cells.astype(object).map(str).where(cells.notna(), None)
    try:
        found = pd.to_numeric(cells)
        numbers = found.to_numpy(dtype=float, na_value=math.nan) + 0.0  # without -0
    except (TypeError, ValueError):
        text = cells.dropna()
        odd = text[pd.to_numeric(text.astype(object), errors="coerce").isna()]
        got = repr((odd if len(odd) else text).iloc[0])
        raise ValueError(f"column {name!r}: expected numbers, got {got}") from None
    if found.dtype.kind != "f" or found.dtype.itemsize == numbers.itemsize:
        return numbers
    single = numbers.astype(f"f{found.dtype.itemsize}")
    for decimals in reversed(range(16)):  # the fewest in the end
        rounded = numbers.round(decimals)
        numbers = np.where(rounded.astype(single.dtype) == single, rounded, numbers)
    return numbers


def plain(level: Any) -> bool | int | float | str:
    """A level as Python's bool, integer, float or text."""
    level = level.item() if isinstance(level, np.generic) else scalar(level)
    return level if isinstance(level, bool | int | float | str) else str(level)
