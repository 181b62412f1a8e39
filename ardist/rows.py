"""The rule that pairs rows with contexts: row i of M * N rows has context i % N."""

from torch import Tensor


def repeat_rows(x: Tensor, num_rows: int, dim: int = 0) -> Tensor:
    """One entry for each of N contexts along `dim`, repeated to `num_rows` = M * N rows."""
    count = x.shape[dim]
    if count == num_rows:
        return x
    repeats = [1] * x.dim()
    repeats[dim] = num_rows // count
    return x.repeat(repeats)


def select_rows(x: Tensor, rows: Tensor, dim: int = 0) -> Tensor:
    """The entries of the given rows along `dim`, which has N entries: for each row or context.

    A single entry serves all rows and stays.
    """
    count = x.shape[dim]
    return x if count == 1 else x.index_select(dim, rows % count)


def add_to_rows(rows: Tensor, x: Tensor) -> Tensor:
    """`rows` (M * N, ...) plus `x` (N, ...), which is broadcast instead of repeated."""
    if x.shape[0] in (1, rows.shape[0]):
        return rows + x
    grouped: Tensor = rows.unflatten(0, (-1, x.shape[0])) + x
    return grouped.flatten(0, 1)
