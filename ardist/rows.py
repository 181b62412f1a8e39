"""The convention that pairs rows with contexts: row i of M * N rows has context i % N."""

from typing import TypeVar

from torch import Tensor

X = TypeVar("X", Tensor, Tensor | None)  # such as the encoding of a context, if there is one


def repeat_rows(x: X, num_rows: int, dim: int = 0) -> X:
    """One entry for each of N contexts along `dim`, repeated to `num_rows` = M * N rows."""
    if x is None or (count := x.shape[dim]) == num_rows:
        return x
    repeats = [1] * x.dim()
    repeats[dim] = num_rows // count
    return x.repeat(repeats)


def select_rows(x: X, rows: Tensor, dim: int = 0) -> X:
    """The entries of the given rows along `dim`, which has one entry for each row or context.

    A single entry applies to all rows and stays as it is.
    """
    if x is None or (count := x.shape[dim]) == 1:
        return x
    return x.index_select(dim, rows % count)


def add_to_rows(rows: Tensor, x: Tensor) -> Tensor:
    """`rows` (M * N, ...) plus `x` (N, ...), which is broadcast instead of repeated."""
    if x.shape[0] in (1, rows.shape[0]):
        return rows + x
    grouped: Tensor = rows.unflatten(0, (-1, x.shape[0])) + x
    return grouped.flatten(0, 1)
