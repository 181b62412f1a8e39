"""How an event is cut into blocks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ardist.shapes import as_size


class Cut(NamedTuple):
    """A partition of one event shape: the grid of blocks and what each block holds."""

    grid_shape: torch.Size
    block_shapes: tuple[torch.Size, ...]  # one for each block, or a single one for all
    elements: Tensor  # (numel,) int64: flat positions in the event, block after block


@dataclass(frozen=True)
class Partition:
    """How an event is cut into blocks, the units that a conditional is a distribution of.

    Made by its static methods, and compared by value. A partition does not know the event's
    shape; `cut` applies it to one.

    >>> import ardist as ad
    >>> ad.Partition.along(0).cut(torch.Size((100, 88))).grid_shape
    torch.Size([100])
    """

    name: str
    arguments: tuple[int | tuple[int, ...], ...] = ()

    @staticmethod
    def scalars() -> "Partition":
        """Every number is a block of shape `()`; the grid is the event's shape. The default."""
        return Partition("scalars")

    @staticmethod
    def along(*dims: int) -> "Partition":
        """One block for each index along `dims`; a block keeps the other dimensions.

        An image `(28, 28, 3)` cut `along(0, 1)` is a grid `(28, 28)` of blocks `(3,)`.
        """
        if not dims:
            raise ValueError("dims: expected at least one dimension to cut along, got none")
        return Partition("along", tuple(dims))

    @staticmethod
    def split(sizes: Sequence[int | Sequence[int]]) -> "Partition":
        """Consecutive slices of a flat event, each with a shape of its own.

        A size 1 is a block of shape `()`, a size n a block of shape `(n,)`, and a tuple is the
        block's shape itself.
        """
        if not sizes:
            raise ValueError("sizes: expected at least one block, got none")
        return Partition(
            "split", tuple(size if isinstance(size, int) else tuple(size) for size in sizes)
        )

    def cut(self, event_shape: torch.Size) -> Cut:
        """The blocks of an event of this shape; a `ValueError` where it cannot be cut so."""
        elements = torch.arange(math.prod(event_shape))
        if self.name == "scalars":
            return Cut(event_shape, (torch.Size(),), elements)
        if self.name == "along":
            return self._cut_along(event_shape, elements)
        return self._cut_split(event_shape, elements)

    def _cut_along(self, event_shape: torch.Size, elements: Tensor) -> Cut:
        rank = len(event_shape)
        dims = [dim for dim in self.arguments if isinstance(dim, int) and -rank <= dim < rank]
        dims = [dim % rank for dim in dims]
        if len(set(dims)) != len(self.arguments):
            raise ValueError(
                f"partition: expected distinct dimensions of an event of shape "
                f"{tuple(event_shape)}, got {self}"
            )
        kept = [dim for dim in range(rank) if dim not in dims]
        return Cut(
            torch.Size(event_shape[dim] for dim in dims),
            (torch.Size(event_shape[dim] for dim in kept),),
            elements.view(event_shape).permute(*dims, *kept).flatten(),
        )

    def _cut_split(self, event_shape: torch.Size, elements: Tensor) -> Cut:
        shapes = tuple(
            torch.Size() if size == 1 else as_size(size, "sizes") for size in self.arguments
        )
        total = sum(math.prod(shape) for shape in shapes)
        if event_shape != (total,):
            raise ValueError(
                f"partition: {self} covers an event of shape ({total},), "
                f"got event_shape {tuple(event_shape)}"
            )
        return Cut(torch.Size((len(shapes),)), shapes, elements)

    def __repr__(self) -> str:
        arguments = self.arguments if self.name == "split" else None
        inside = repr(list(arguments)) if arguments else ", ".join(map(str, self.arguments))
        return f"Partition.{self.name}({inside})"
