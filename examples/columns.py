"""A table's columns as codes of families, and back: what mixed_columns.py reads and writes."""

import csv
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import numpy as np

from ardist import families as fam

CODES = 256  # of a "logistic" column, at most
KINDS = ("categorical", "integer", "logistic", "normal", "lognormal")
MISSING = ("NA", "N/A", "NULL", "null")  # beside blanks, and numbers that are not finite
Array = np.ndarray


class Column:
    """A column's cells as codes of a family, and log p of each without the other columns.

    Integers have bins from end to end of the column: one for each integer that training has
    twice (once, where it has none twice), and one for each gap. A code is a bin or, in a
    "logistic" column, a quantile of bins. Within a code bins have their frequencies, within a bin
    integers are alike: so p of all integers sums to 1, be the codes told by frequencies or by a
    network. A "lognormal" column's codes are of its logarithms.

    Args:
        cells: as text, "" where one is blank.
        train: which rows frequencies are taken from.
        kind: of KINDS; proposed if None.

    Attributes:
        kind: as given or proposed.
        family: of the codes.
        values: text, or floats with NaN for a blank.
        codes: of the values, floats, NaN for a blank.
        within: log p of each value given its code, the same for any model.
        alone: log p of each value: of a discrete one by its frequency plus a half, of a real one
            by mean and deviation.
        decimals: of a real one, the most that a cell has.
        usual: the most frequent category, or the median.
    """

    def __init__(self, cells: Array, train: Array, kind: str | None = None) -> None:
        known = cells != ""
        train = train & known
        self.kind = kind or propose(cells[known])
        if self.kind.endswith("normal"):
            values = floats(cells)
            self.decimals = max(-Decimal(cell).as_tuple().exponent for cell in cells[known])
            self._standardize(values, train)
            return
        if self.kind == "categorical":
            self.values, self.starts = cells, np.unique(cells[known])
            self.widths = np.ones(len(self.starts))
        else:
            self.values = floats(cells)
            seen, times = np.unique(self.values[train], return_counts=True)
            if (self.values[known] % 1).any():
                raise ValueError(f"{kind}: expected integers, got fractions")
            own = seen[times > 1] if times.max() > 1 else seen
            ends = [np.nanmin(self.values), np.nanmax(self.values) + 1]
            starts = np.unique([*own, *own + 1, *ends])
            self.starts, self.widths = starts[:-1], np.diff(starts)
        bins = np.searchsorted(self.starts, self.values, "right").clip(1, len(self.starts)) - 1
        mass = np.bincount(bins[train], minlength=len(self.starts)) + 0.5
        self.mass, code_of = mass / mass.sum(), np.arange(len(mass))
        if self.kind == "logistic":
            middle = self.mass.cumsum() - self.mass / 2
            code_of = np.unique(middle * CODES // 1, return_inverse=True)[1]
        self.total = np.bincount(code_of, self.mass)  # p of each code
        self.codes = np.where(known, code_of[bins], np.nan)
        self.alone = np.log(self.mass / self.widths)[bins]
        self.within = self.alone - np.log(self.total)[code_of[bins]]
        self.usual = self.guess(self.codes[train])
        self.family: fam.Family = fam.Categorical(len(self.total))
        if self.kind == "logistic":
            self.family = fam.DiscretizedLogisticMixture(5, len(self.total))

    def _standardize(self, values: Array, train: Array) -> None:
        logs = self.kind == "lognormal"
        if logs and np.nanmin(values) <= 0:
            raise ValueError(f"lognormal: expected values above 0, got {np.nanmin(values)}")
        scale = np.log(values) if logs else values
        self.values, self.centre = values, scale[train].mean()
        self.unit = scale[train].std() or 1.0
        self.codes = (scale - self.centre) / self.unit
        self.within = -math.log(self.unit) - np.nan_to_num(scale) * logs
        self.alone = self.within - (np.nan_to_num(self.codes) ** 2 + math.log(2 * math.pi)) / 2
        self.usual = self.guess(self.codes[train])
        self.family = fam.Mixture(fam.Normal(min_scale=0.05), 5)

    def decode(self, codes: Array) -> Array:
        """Values, at random where a code has several."""
        if self.kind.endswith("normal"):
            values = codes * self.unit + self.centre
            values = np.exp(values) if self.kind == "lognormal" else values
            return values.round(self.decimals) if self.decimals > 0 else values.round().astype(int)
        codes = codes.astype(int)
        if self.kind == "categorical":
            return self.starts[codes]
        place = self.total.cumsum()[codes] - self.total[codes] * np.random.rand(*codes.shape)
        bins = np.searchsorted(self.mass.cumsum(), place).clip(max=len(self.mass) - 1)
        return (self.starts[bins] + np.random.rand(*codes.shape) * self.widths[bins]).astype(int)

    def guess(self, codes: Array) -> Array:
        """The most frequent category, or the median, along the first dimension of codes."""
        if self.kind != "categorical":
            return np.median(self.decode(codes), 0)
        times = (codes[..., None] == np.arange(len(self.starts))).sum(0)
        return self.starts[times.argmax(-1)]

    @property
    def measure(self) -> str:
        return "right" if self.kind == "categorical" else "off by, mean"

    def compare(self, guess: Array, truth: Array) -> float:
        """The `measure` of guesses: the share of right ones, or how far they are off."""
        each = guess == truth if self.kind == "categorical" else np.abs(guess - truth)
        return float(each.mean()) if len(each) else math.nan


def propose(values: Array) -> str:
    """Text is categorical; fractions, and integers most of which occur once, are lognormal where
    positive and skewed, else normal; other integers are smooth but for a frequent one.
    """
    try:
        numbers, times = np.unique(values.astype(float), return_counts=True)
    except ValueError:
        return "categorical"
    if (numbers % 1).any() or 2 * (times == 1).sum() > len(values):
        mean, median = np.average(numbers, weights=times), np.median(values.astype(float))
        return "lognormal" if numbers[0] > 0 and mean > 1.1 * median else "normal"
    return "logistic" if times.max() < len(values) / 10 else "integer"


def floats(cells: Array) -> Array:
    return np.where(cells == "", "nan", cells).astype(float)


def read_adult(path: Path) -> tuple[dict[str, Array], Array]:
    """Cells as text by column, and whether each row is to train (0), validate (1) or test (2)."""
    data, cells, parts = np.load(path), {}, ("train", "valid", "test")
    levels = json.loads(str(data["categories_json"]))
    for name in data["columns"].tolist():
        codes = np.concatenate([data[f"{part}/{name}"] for part in parts])
        cells[name] = (np.array(levels[name])[codes] if name in levels else codes).astype(str)
    return cells, np.repeat(range(3), [len(data[f"{part}/{name}"]) for part in parts])


def tidy(cell: str) -> str:
    """Without spaces about it, and "" where it says that a value is missing."""
    cell = cell.strip()
    try:
        return cell if math.isfinite(float(cell)) else ""
    except ValueError:
        return "" if cell in MISSING else cell


def read_csv(path: Path) -> tuple[dict[str, Array], Array]:
    """The same for a file whose first line has the names; a tenth each validates and tests.

    Cells are parted by whichever of "," ";" and tab the first line has most of. Columns that
    training has one value of, or none, are left out.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        delimiter = max(",;\t", key=file.readline().count)
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        names, rows = [name.strip() for name in next(reader, [])], []
        for row in filter(any, reader):
            if len(row) != len(names):
                line = f"line {reader.line_num} has {len(row)} cells"
                raise ValueError(f"{line}, the first line has {len(names)}")
            rows.append([tidy(cell) for cell in row])
    count = len(rows)
    if count < 10 or len(set(names)) < len(names):
        raise ValueError(f"expected distinct names and at least 10 rows, got {names} and {count}")
    part = np.random.permutation(np.arange(count) * 10 // count - 7).clip(0)
    cells = dict(zip(names, np.array(rows).T, strict=True))
    told = [name for name in names if len({*cells[name][part == 0]} - {""}) > 1]
    if len(told) < len(names):
        print(f"left out, one value or none: {[name for name in names if name not in told]}")
    if not told:
        raise ValueError("expected a column of more than one value, got none")
    return {name: cells[name] for name in told}, part


def write_csv(name: str, columns: Mapping[str, Array]) -> None:
    path = Path("output") / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
    print(f"wrote {path}")
