"""A table's columns as codes of families, and back: what mixed_columns.py reads and writes."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ardist import families as fam

CODES = 256  # of a "logistic" column, at most
KINDS = ("categorical", "integer", "logistic", "normal")
Array = np.ndarray


class Column:
    """A column's cells as codes of a family, and log p of each without the other columns.

    Integers have bins from end to end of the column: one for each integer that training has
    twice, and one for each gap. A code is a bin or, in a "logistic" column, a quantile of bins.
    Within a code bins have their frequencies, within a bin integers are alike: so p of all
    integers sums to 1, be the codes told by frequencies or by a network.

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
        usual: the most frequent category, or the median.
    """

    def __init__(self, cells: Array, train: Array, kind: str | None = None) -> None:
        known = cells != ""
        train = train & known
        self.kind = kind or propose(cells[known])
        if self.kind == "normal":
            self._standardize(floats(cells), train)
            return
        if self.kind == "categorical":
            self.values, self.starts = cells, np.unique(cells[known])
            self.widths = np.ones(len(self.starts))
        else:
            self.values = floats(cells)
            seen, times = np.unique(self.values[train], return_counts=True)
            own, ends = seen[times > 1], [np.nanmin(self.values), np.nanmax(self.values) + 1]
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
        self.values, self.centre = values, values[train].mean()
        self.unit = values[train].std() or 1.0
        self.codes = (values - self.centre) / self.unit
        self.within = np.full(len(values), -math.log(self.unit))
        self.alone = self.within - (np.nan_to_num(self.codes) ** 2 + math.log(2 * math.pi)) / 2
        self.usual = self.guess(self.codes[train])
        self.family = fam.Mixture(fam.Normal(min_scale=0.05), 5)

    def decode(self, codes: Array) -> Array:
        """Values, at random where a code has several."""
        if self.kind == "normal":
            return (codes * self.unit + self.centre).round(6)
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
    """Text is categorical, fractions are normal; integers are smooth but for a frequent one."""
    try:
        numbers, times = np.unique(values.astype(float), return_counts=True)
    except ValueError:
        return "categorical"
    if (numbers % 1).any():
        return "normal"
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


def read_csv(path: Path) -> tuple[dict[str, Array], Array]:
    """The same for a file whose first line has the names; a tenth each validates and tests."""
    with path.open(newline="") as file:
        names, *rows = csv.reader(file)
    cells = np.char.strip(np.array(rows))
    part = np.random.permutation(np.arange(len(rows)) * 10 // len(rows) - 7).clip(0)
    return dict(zip(names, cells.T, strict=True)), part


def write_csv(name: str, columns: Mapping[str, Array]) -> None:
    path = Path("output") / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
    print(f"wrote {path}")
