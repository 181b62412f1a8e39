"""Tables of numbers in files, for the examples that take any table."""

from pathlib import Path

import numpy as np

PARTS = ("train", "valid", "test")
FORMATS = "an .npz file with arrays train, valid and test, or a CSV file of numbers"


def read(path: Path, suffix: str = "", seed: int = 0) -> list[np.ndarray]:
    """Training, validation and test rows of a file, (rows, columns) float64 each.

    A CSV file, with or without a line of names, is split at random by `split`. Its cells are
    separated by commas or semicolons.

    Args:
        path: a file in one of `FORMATS`.
        suffix: a suffix of the names of the arrays of training and validation rows.
        seed: seed of the split.
    """
    if not path.is_file():
        raise SystemExit(f"{path} is missing: expected {FORMATS}")
    if path.suffix == ".npz":
        names = [f"train{suffix}", f"valid{suffix}", "test"]
        with np.load(path) as file:
            if missing := set(names) - set(file.files):
                raise SystemExit(f"{path} has no arrays {sorted(missing)}, but {file.files}")
            parts = [file[name].astype(float) for name in names]
    else:
        parts = split(_rows_of(path), seed)
    if not all(part.ndim == 2 and len(part) and np.isfinite(part).all() for part in parts):
        raise SystemExit(f"{path}: expected rows of finite numbers in each of {PARTS}")
    return parts


def split(rows: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """80, 10 and 10 percent of the rows, in an order that depends on the seed."""
    rows = np.random.default_rng(seed).permutation(rows)
    return np.split(rows, [len(rows) * 8 // 10, len(rows) * 9 // 10])


def _rows_of(path: Path) -> np.ndarray:
    lines = path.read_text().splitlines()
    delimiter = ";" if ";" in lines[0] else ","
    has_names = not all(map(_is_number, lines[0].split(delimiter)))
    try:
        return np.loadtxt(lines[has_names:], delimiter=delimiter, ndmin=2)
    except ValueError as error:
        raise SystemExit(f"{path}: expected numbers, separated by commas; {error}") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
