"""How an event is cut into blocks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ardist.shapes import (
    as_integer,
    as_integers,
    as_size,
    described,
    is_integer,
    is_sequence,
    shortened,
)


class Blocks(NamedTuple):
    """A partition of one event shape: the grid of blocks and what each block holds."""

    grid_shape: torch.Size
    block_shapes: tuple[torch.Size, ...]  # one for each block, or a single one for all
    elements: Tensor  # (numel,) int64: flat positions in the event, block after block


@dataclass(frozen=True)
class Partition:
    """How an event is cut into blocks, the units that a conditional is a distribution of.

    Made by its static methods, and compared by value. A partition does not know the event's
    shape; `apply` does it to one.

    >>> import ardist as ad
    >>> ad.Partition.along(0).apply(torch.Size((100, 88))).grid_shape
    torch.Size([100])
    """

    name: str
    arguments: tuple[int | tuple[int, ...], ...] = ()
    _shape: tuple[int, ...] | None = field(default=None, repr=False)  # of the given labels

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
        return Partition("along", tuple(as_integer(dim, "dims") for dim in dims))

    @staticmethod
    def patches(size: int | Sequence[int]) -> "Partition":
        """Tiles of this size, whose sides divide the event's.

        A sequence gives the size along the first dimensions, and a block keeps the others: an
        image `(28, 28, 3)` cut into `patches((4, 4))` is a grid `(7, 7)` of blocks `(4, 4, 3)`.
        An integer is the size along every dimension of the event.
        """
        sides = tuple(as_size(size, "size"))
        if not sides:
            raise ValueError("size: expected at least one dimension, got none")
        return Partition("patches", sides if is_integer(size) else (sides,))

    @staticmethod
    def from_labels(labels: Sequence[Any] | Tensor) -> "Partition":
        """One block for each distinct label; `labels` are integers of the event's shape.

        Blocks come in increasing order of their labels, on a grid of one dimension, and the
        elements of a block in raster order. A block of one element has the shape `()`, one of
        n the shape `(n,)`.

        >>> import ardist as ad
        >>> ad.Partition.from_labels([[0, 0, 2], [2, 1, 2]]).apply(torch.Size((2, 3))).block_shapes
        (torch.Size([2]), torch.Size([]), torch.Size([3]))
        """
        values = as_integers(labels, "labels")
        # Only their order matters.
        dense: Tensor = torch.unique(values, return_inverse=True)[1]
        return Partition("from_labels", tuple(dense.flatten().tolist()), tuple(values.shape))

    @staticmethod
    def split(sizes: Sequence[int | Sequence[int]]) -> "Partition":
        """Consecutive slices of a flat event, each with a shape of its own.

        A size 1 is a block of shape `()`, a size n a block of shape `(n,)`, and a tuple is the
        block's shape itself.
        """
        if not is_sequence(sizes) or not sizes:
            raise ValueError(f"sizes: expected one for each block, got {described(sizes)}")
        each = ((as_size(size, "sizes"), is_integer(size)) for size in sizes)
        return Partition("split", tuple(one[0] if flat else tuple(one) for one, flat in each))

    def apply(self, event_shape: torch.Size) -> Blocks:
        """The blocks of an event of this shape; a `ValueError` where it cannot be cut so."""
        event_shape = as_size(event_shape, "event_shape")
        elements = torch.arange(math.prod(event_shape))
        if self.name == "scalars":
            return Blocks(event_shape, (torch.Size(),), elements)
        if self.name == "along":
            return self._cut_along(event_shape, elements)
        if self.name == "patches":
            return self._cut_patches(event_shape, elements)
        if self.name == "from_labels":
            return self._cut_by_labels(event_shape)
        return self._cut_split(event_shape, elements)

    def _cut_along(self, event_shape: torch.Size, elements: Tensor) -> Blocks:
        rank = len(event_shape)
        dims = [dim for dim in self.arguments if isinstance(dim, int) and -rank <= dim < rank]
        dims = [dim % rank for dim in dims]
        if len(set(dims)) != len(self.arguments):
            raise ValueError(
                f"partition: expected distinct dimensions of an event of shape "
                f"{tuple(event_shape)}, got {self}"
            )
        kept = [dim for dim in range(rank) if dim not in dims]
        return Blocks(
            torch.Size(event_shape[dim] for dim in dims),
            (torch.Size(event_shape[dim] for dim in kept),),
            elements.view(event_shape).permute(*dims, *kept).flatten(),
        )

    def _cut_patches(self, event_shape: torch.Size, elements: Tensor) -> Blocks:
        (size,) = self.arguments
        sides = (size,) * len(event_shape) if isinstance(size, int) else size
        number = len(sides)
        tiled = event_shape[:number]
        if len(tiled) < number or any(n % m for n, m in zip(tiled, sides, strict=True)):
            raise ValueError(
                f"partition: expected patches whose sides divide the first of the event's "
                f"{tuple(event_shape)}, got {self}"
            )
        grid = [n // m for n, m in zip(tiled, sides, strict=True)]
        # Along each dimension the number of the tile, then the place in it.
        cut = elements.view(*(n for pair in zip(grid, sides, strict=True) for n in pair), -1)
        tiles, places = range(0, 2 * number, 2), range(1, 2 * number, 2)
        return Blocks(
            torch.Size(grid),
            (torch.Size((*sides, *event_shape[number:])),),
            cut.permute(*tiles, *places, -1).flatten(),
        )

    def _cut_by_labels(self, event_shape: torch.Size) -> Blocks:
        if event_shape != self._shape:
            raise ValueError(
                f"partition: expected labels of the event's shape {tuple(event_shape)}, "
                f"got {self._shape}"
            )
        blocks = torch.tensor(self.arguments)
        counts = blocks.bincount().tolist()
        shapes = tuple(torch.Size(() if count == 1 else (count,)) for count in counts)
        return Blocks(
            torch.Size((len(counts),)),
            shapes[:1] if len(set(shapes)) == 1 else shapes,
            blocks.argsort(stable=True),
        )

    def _cut_split(self, event_shape: torch.Size, elements: Tensor) -> Blocks:
        shapes = tuple(
            torch.Size() if size == 1 else as_size(size, "sizes") for size in self.arguments
        )
        total = sum(math.prod(shape) for shape in shapes)
        if event_shape != (total,):
            raise ValueError(
                f"partition: {self} covers an event of shape ({total},), "
                f"got event_shape {tuple(event_shape)}"
            )
        return Blocks(torch.Size((len(shapes),)), shapes, elements)

    def __repr__(self) -> str:
        inside = repr(list(self.arguments)) if self.name == "split" else shortened(self.arguments)
        return f"Partition.{self.name}({inside})"
