"""Converts named columns, in a dict or a data frame, to events and back."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ardist.layout import Layout
from ardist.shapes import as_array, described, is_sequence, lead_of, shortened


def check_names(names: Any, num_blocks: int) -> tuple[str, ...]:
    """The names of the blocks as a tuple; a `ValueError` unless each block has its own name."""
    if (
        not is_sequence(names)
        or len(names) != num_blocks
        or not all(isinstance(name, str) for name in names)
        or len(set(names)) < len(names)
    ):
        raise ValueError(
            f"names: expected {num_blocks} different strings, one for each block, got "
            f"{described(names)}"
        )
    return tuple(names)


def pack(names: Sequence[str], layout: Layout, columns: Mapping[str, Any]) -> Tensor:
    """Packs columns (*lead, *column_shape) by name into events (*lead, total), block by block."""
    found = getattr(columns, "columns", columns)  # iterating over a polars frame gives columns
    if found is columns and not isinstance(columns, Mapping):
        raise ValueError(f"columns: expected a dict or a frame, got {described(columns)}")
    if set(found) != set(names):
        raise ValueError(f"columns: expected {sorted(names)}, got {sorted(set(found))}")
    given = [columns[name] for name in names]
    tensors = [_as_column(name, column) for name, column in zip(names, given, strict=True)]
    if not layout.is_index:
        floats = [c.dtype for c in given if isinstance(c, Tensor) and c.is_floating_point()]
        dtype = reduce(torch.promote_types, floats) if floats else torch.get_default_dtype()
        tensors = [column.to(dtype) for column in tensors]
    shapes = [family.event_shape for family in layout.families]
    lead = lead_of(tensors[0], shapes[0])
    for name, column, shape in zip(names, tensors, shapes, strict=True):
        if column.shape != lead + shape:
            raise ValueError(
                f"columns: expected {tuple(lead + shape)} in {name!r}, got {tuple(column.shape)}"
            )
    parts = zip(tensors, shapes, strict=True)
    return torch.cat([column.reshape(*lead, shape.numel()) for column, shape in parts], -1)


def unpack(names: Sequence[str], layout: Layout, x: Tensor) -> dict[str, Tensor]:
    """The inverse of `pack`; columns of indices become int64, unless a number is missing."""
    pieces = x.split(layout.sizes["value"], -1)
    return {
        name: (piece.long() if family.is_index and not piece.isnan().any() else piece).reshape(
            (*x.shape[:-1], *family.event_shape)
        )
        for name, piece, family in zip(names, pieces, layout.families, strict=True)
    }


def _as_column(name: str, values: Any) -> Tensor:
    """A column as a tensor; other types than tensors become int64 or the default dtype."""
    if isinstance(values, Tensor):
        return values
    try:
        array = as_array(values)
        if array.dtype == object:  # nullable columns: numbers, and markers of missing ones
            missing = (None, getattr(sys.modules.get("pandas"), "NA", None))
            each = np.array([np.nan if any(x is m for m in missing) else x for x in array.flat])
            array = each.reshape((*array.shape, *each.shape[1:]))
        is_large = array.dtype.kind == "u" and array.max(initial=0) >= 2**63  # int64 would wrap
        whole = np.float64 if is_large else np.int64
        kind = {"b": np.int64, "i": np.int64, "u": whole, "f": np.float64}[array.dtype.kind]
    except (KeyError, TypeError, ValueError) as error:
        found = list(values) if isinstance(values, Iterable) else [values]
        raise ValueError(
            f"columns: expected numbers in {name!r}, categories as 0, 1, ..., got "
            f"{shortened(found)}"
        ) from error
    column = torch.from_numpy(array.astype(kind))
    return column.to(torch.get_default_dtype()) if column.is_floating_point() else column
