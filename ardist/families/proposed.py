"""Proposes a family for a column of numbers."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch.distributions.transforms import AffineTransform, ExpTransform

from ardist.families.base import Family
from ardist.families.composed import Mixture
from ardist.families.hurdle import Hurdle
from ardist.families.interval import Rounded
from ardist.families.sinh import SinhTransform
from ardist.families.transformed import Transformed
from ardist.families.univariate import Bernoulli, Categorical, Normal
from ardist.shapes import as_array, described

COMPONENTS = 8  # of the mixture for a column
WIDEST = 256  # the most integers that are states of their own
MOST_POINTS = 32  # of one column
ROWS_PER_INTEGER = 20  # at least, if integers are states of their own
_WINDOW = 4.0  # the deviation of normal numbers over the narrowest interval of a tenth of them
_HEAVY = 10.0  # tails are heavy if the deviation exceeds so many scales of the bulk
_FINE = 0.02  # integers that are closer, in units of the scale, need no rounding
_REAL = ("real", "positive", "time", "duration")  # kinds of numbers with fractions
_WITH_POINTS = ("real", "positive", "count", "duration", "clock")


def auto(column: Any) -> Family:
    """A family for a column of numbers, in the units of the column.

    - Few different integers from 0 on, or bools: `Bernoulli` or `Categorical`.
    - Few different numbers: a `Hurdle` with a point for each.
    - Other numbers: a mixture of eight normals, standardized by the mean and deviation of the
      column. It models the logarithms of skewed positive numbers, and the inverse hyperbolic sines
      if a few numbers are far larger than the others. Integers are `Rounded`, and numbers that are
      far more frequent than others are the points of a `Hurdle`.

    `ardist.tables.TableDensity` chooses in the same way. Its families also have a state for
    categories that it has not seen.

    Args:
        column: a tensor, array, series or list. NaN is a missing number.

    Raises:
        ValueError: if a value is neither a finite number nor NaN, or all values are missing.

    >>> import torch, ardist as ad
    >>> ad.families.auto(torch.arange(100) % 3)
    Categorical(3)
    >>> income = torch.logspace(3, 5, 100)
    >>> ad.families.auto(income).support
    GreaterThan(lower_bound=0.0)
    """
    numbers = _as_numbers(column)
    values, kind = np.unique(numbers), kind_of(numbers)
    is_integer = not (values % 1).any()
    if kind == "discrete" and is_integer and values[0] >= 0 and values[-1] < WIDEST:
        return Bernoulli() if values[-1] <= 1 else Categorical(int(values[-1]) + 1)
    if kind == "discrete":
        form = NumberForm.of(numbers, "count" if is_integer else "real")
        form = replace(form, points=tuple(values.tolist()))
    else:
        form = NumberForm.of(numbers, kind)
    return form.shifted(form.origin, form.is_integer, form.points)


def _as_numbers(column: Any) -> np.ndarray:
    """The numbers that are not missing, (count,) float64."""
    array = as_array(column)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"column: expected numbers, categories as 0, 1, ..., got {described(column)}"
        )
    numbers = array.astype(float).ravel()
    numbers = numbers[~np.isnan(numbers)]
    if not len(numbers) or np.isinf(numbers).any():
        raise ValueError(
            f"column: expected finite numbers, or NaN for missing ones, got "
            f"{'infinity' if len(numbers) else 'none'}"
        )
    return numbers


def kind_of(numbers: np.ndarray) -> str:
    """The kind of model for numbers: "discrete", "count", "positive" or "real".

    Args:
        numbers: (count,) float64, at least one.
    """
    values, counts = np.unique(numbers, return_counts=True)
    span, rows = values[-1] - values[0], len(numbers)
    is_integer = not (values % 1).any() and np.abs(values).max() < 2**53
    if is_integer and span < WIDEST and (rows >= ROWS_PER_INTEGER * span or span < 2):
        return "discrete"
    is_repeated = (counts == 1).sum() <= 0.01 * rows
    if len(values) <= MOST_POINTS and rows >= ROWS_PER_INTEGER * len(values) and is_repeated:
        return "discrete"
    if is_integer and span < 1e9:
        return "count"
    _, rest = split_points(numbers)
    return "positive" if rest.min() > 0 and _is_skewed(rest) else "real"


@dataclass(frozen=True)
class NumberForm:
    """The location, scale and form of numbers, which give their family.

    Attributes:
        origin: a number that is subtracted in float64, since float32 has only 7 digits.
        center: the mean of the modeled numbers without points: the numbers minus the origin, their
            logarithms or their inverse hyperbolic sines.
        scale: the standard deviation of the same numbers.
        stretch: 0, or the unit of numbers with heavy tails, whose inverse hyperbolic sines in this
            unit are modeled.
        is_log: whether the logarithms of the numbers are modeled.
        is_integer: whether all numbers are integers.
        is_rounded: whether the integers are modeled as rounded values of a mixture, since they are
            few in units of the scale. Many integers need no rounding, which halves the cost: if all
            components are wider than one, the density sums to 1 over the integers up to 1e-8 (by
            Poisson's summation).
        least: the smallest standard deviation of a component, in units of `scale`. It keeps peaks
            of the density from being narrower than the rounding of the numbers.
        is_fine: whether components can be as narrow as the densest tenth of the numbers.
        points: numbers with a probability of their own.
        decimals: number of decimals with which numbers are written, None for all.
        low: the smallest number of the column.
        high: the largest number of the column.
    """

    origin: float
    center: float
    scale: float
    stretch: float
    is_log: bool
    is_integer: bool
    is_rounded: bool
    least: float
    is_fine: bool
    points: tuple[float, ...]
    decimals: int | None
    low: float
    high: float

    @staticmethod
    def of(numbers: np.ndarray, kind: str) -> "NumberForm":
        """The form of numbers of a kind.

        Args:
            numbers: (count,) float64, at least one.
            kind: "real", "positive", "count", "duration", "clock", or another name for numbers
                without points.
        """
        is_whole = kind in ("time", "duration") and not (numbers % 1).any()
        is_integer = is_whole or kind not in _REAL
        has_points = kind in _WITH_POINTS
        points, rest = split_points(numbers) if has_points else (numbers[:0], numbers)
        if kind == "duration" and not is_integer and rest.min() == 0 < rest.max():
            points, rest = np.union1d(points, 0.0), rest[rest > 0]  # zero has no logarithm
        is_count = kind == "count" and rest.min() >= 0
        is_length = kind == "duration" and (rest.min() > 0 or (is_integer and rest.min() == 0))
        is_log = kind == "positive" or is_length or (is_count and _is_skewed(rest + 0.5))
        middle = float(np.median(rest))
        origin = 0.0 if is_log else round(middle) + 0.0 if is_integer else float(f"{middle:.15g}")
        stretch = 0.0 if is_log or kind == "clock" else _stretch(rest - origin)
        form = np.log(rest + 0.5 * is_integer) if is_log else rest - origin
        form = np.arcsinh(form / stretch) if stretch else form
        scale = _deviation(form) or 1.0
        decimals = None if is_integer else _decimals(np.unique(numbers))
        # The distance of neighboring rounded numbers, in units of the scale.
        step = 0.0 if decimals is None and not is_integer else 10.0 ** -(decimals or 0) / scale
        if is_log:
            step /= float(np.exp(form.min()))  # of the smallest ones, where it is largest
        if stretch:
            step /= stretch  # of numbers around the center, where it is largest
        # Times of day are too many states, and are between two ends (`bounded`).
        is_rounded = is_integer and step > _FINE and kind != "clock"
        least = 1e-3 if is_log or not step else 1e-4
        if is_integer and not is_rounded:
            least = max(least, step)
        elif not is_log:
            least = max(least, 0.3 * step)
        return NumberForm(
            origin=origin,
            center=float(form.mean()),
            scale=scale,
            stretch=stretch,
            is_log=bool(is_log),
            is_integer=is_integer,
            is_rounded=is_rounded,
            least=least,
            is_fine=bool(_WINDOW * _narrowest(form) > least * scale),
            points=tuple(points.tolist()),
            decimals=decimals,
            low=float(numbers.min()),
            high=float(numbers.max()),
        )

    @cached_property
    def family(self) -> Family:
        """The family of the numbers minus the origin; draws of integers may need rounding."""
        return self.shifted(0.0, self.is_rounded, tuple(map(self.code_of_point, self.points)))

    def code_of_point(self, point: float) -> float:
        """A point minus the origin, in float32, so that a code of any dtype may equal it."""
        return float(np.float32(point - self.origin))

    def bounded(self, family: Family) -> Family:
        """The family, restricted to the ends of the numbers if they have any."""
        return family

    def shifted(self, shift: float, is_rounded: bool, points: tuple[float, ...]) -> Family:
        """The family of the numbers minus the origin plus a shift."""
        inner = Mixture(Normal(min_scale=self.least), COMPONENTS)
        center = self.center if self.stretch else self.center + shift
        transforms: list[Any] = [AffineTransform(center, self.scale)]
        if self.is_log:
            transforms.append(ExpTransform())
            if self.is_integer:
                transforms.append(AffineTransform(-0.5, 1.0))  # so that zero has a logarithm
        if self.stretch:
            transforms += [SinhTransform(), AffineTransform(shift, self.stretch)]
        family = self.bounded(Transformed(inner, transforms))
        if is_rounded:
            family = Rounded(family)
        return Hurdle(points, family) if points else family


def split_points(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers that are far more frequent than others, and the rest, or else all numbers."""
    values, counts = np.unique(numbers, return_counts=True)
    points = _points(values, counts)
    rest = numbers[~np.isin(numbers, points)]
    return points, rest if len(rest) else numbers


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


def _stretch(numbers: np.ndarray) -> float:
    """The scale of the bulk of numbers if their standard deviation is far larger, else 0."""
    quarter, low, three_quarters, high = np.quantile(numbers, (0.25, 0.05, 0.75, 0.95))
    scale = (three_quarters - quarter) / 1.35 or (high - low) / 3.29  # the deviation of normals
    return float(scale) if _deviation(numbers) > _HEAVY * scale > 0 else 0.0


def _narrowest(values: np.ndarray) -> float:
    """The width of the narrowest interval that holds a tenth of the distinct numbers."""
    values = np.unique(values)
    count = len(values) // 10
    return float((values[count:] - values[:-count]).min()) if count else math.inf


def _skewness(numbers: np.ndarray) -> float:
    shape, size = _centered(numbers)
    return float((shape**3).mean() / (shape**2).mean() ** 1.5) if size else 0.0


def _deviation(numbers: np.ndarray) -> float:
    """The standard deviation."""
    shape, size = _centered(numbers)
    return size * float(np.sqrt((shape**2).mean()))


def _centered(numbers: np.ndarray) -> tuple[np.ndarray, float]:
    """Numbers minus their mean, in units of the largest, and this unit: squares might overflow."""
    shape = numbers - numbers.mean()
    size = float(np.abs(shape).max())
    return shape / (size or 1.0), size


def _decimals(values: np.ndarray) -> int | None:
    """The number of decimals that all values are rounded to, up to 6."""
    for decimals in range(7):
        error, size = np.abs(values.round(decimals) - values), np.abs(values)
        rounding = np.minimum(1e-12 * size, 1e-3 * 10.0**-decimals)
        if (error <= np.maximum(rounding, 2 * np.spacing(size))).all():
            return decimals
    return None
