"""Partitions of an event into blocks."""

import inspect
import math
from collections.abc import Callable, Sequence
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
from ardist.specification import Specified, register


class Blocks(NamedTuple):
    """The blocks of one event shape: their grid, their shapes and their elements."""

    grid_shape: torch.Size
    block_shapes: tuple[torch.Size, ...]  # one for each block, or a single one for all
    elements: Tensor  # (numel,) int64: flat positions in the event, block after block


@dataclass(frozen=True)
class Partition(Specified):
    """A partition of an event into blocks. Each conditional is a distribution of one block.

    Its static methods make partitions, which compare by value. A partition has no event shape of
    its own: `apply` returns the blocks for a given event shape.

    >>> import ardist as ad
    >>> ad.Partition.along(0).apply(torch.Size((100, 88))).grid_shape
    torch.Size([100])
    """

    name: str
    arguments: tuple[int | tuple[int, ...], ...] = ()
    _shape: tuple[int, ...] | None = field(default=None, repr=False)  # of the given labels

    @staticmethod
    def scalars() -> "Partition":
        """Each element is a block of shape `()`, and the grid is the event's shape. The default.

        >>> import ardist as ad
        >>> ad.Partition.scalars().apply(torch.Size((28, 28))).grid_shape
        torch.Size([28, 28])
        """
        return Partition("scalars")

    @staticmethod
    def along(*dims: int) -> "Partition":
        """One block for each index along `dims`. A block has the other dimensions.

        For an image `(28, 28, 3)`, `along(0, 1)` gives a grid `(28, 28)` of blocks `(3,)`.

        Raises:
            ValueError: if there are no dimensions, or in `apply` if an event does not have them.

        >>> import ardist as ad
        >>> ad.Partition.along(0, 1).apply(torch.Size((28, 28, 3))).block_shapes
        (torch.Size([3]),)
        """
        if not dims:
            raise ValueError("dims: expected at least one dimension to cut along, got none")
        return Partition("along", tuple(as_integer(dim, "dims") for dim in dims))

    @staticmethod
    def patches(size: int | Sequence[int]) -> "Partition":
        """Tiles whose sides divide the sides of the event.

        A sequence gives the sides along the first dimensions, and a block spans the remaining
        dimensions. For an image `(28, 28, 3)`, `patches((4, 4))` gives a grid `(7, 7)` of blocks
        `(4, 4, 3)`. An integer is the side along every dimension of the event.

        Raises:
            ValueError: if the size is not positive, or in `apply` if it does not divide the event.

        >>> import ardist as ad
        >>> ad.Partition.patches((4, 4)).apply(torch.Size((28, 28, 3))).block_shapes
        (torch.Size([4, 4, 3]),)
        """
        sides = tuple(as_size(size, "size"))
        if not sides:
            raise ValueError("size: expected at least one dimension, got none")
        return Partition("patches", sides if is_integer(size) else (sides,))

    @staticmethod
    def from_labels(labels: Sequence[Any] | Tensor) -> "Partition":
        """One block for each distinct label.

        The grid has one dimension, with the blocks in increasing order of their labels. The
        elements of a block are in raster order. A block of one element has shape `()`, and a block
        of n elements has shape `(n,)`.

        Args:
            labels: integers of the event's shape.

        Raises:
            ValueError: if the labels are not integers, or in `apply` if an event has another shape.

        >>> import ardist as ad
        >>> ad.Partition.from_labels([[0, 0, 2], [2, 1, 2]]).apply(torch.Size((2, 3))).block_shapes
        (torch.Size([2]), torch.Size([]), torch.Size([3]))
        """
        values = as_integers(labels, "labels")
        # Only the order of the labels matters.
        dense: Tensor = torch.unique(values, return_inverse=True)[1]
        return Partition("from_labels", tuple(dense.flatten().tolist()), tuple(values.shape))

    @staticmethod
    def split(sizes: Sequence[int | Sequence[int]]) -> "Partition":
        """Consecutive slices of a flat event, each with its own shape.

        Args:
            sizes: one for each block. A size 1 is a block of shape `()`, a size n is a block of
                shape `(n,)`, and a tuple is the shape of the block.

        Raises:
            ValueError: if a size is not positive, or in `apply` if the sizes do not sum to the
                size of the event.

        >>> import ardist as ad
        >>> ad.Partition.split([1, 2, (2, 2)]).apply(torch.Size((7,))).block_shapes
        (torch.Size([]), torch.Size([2]), torch.Size([2, 2]))
        """
        if not is_sequence(sizes) or not sizes:
            raise ValueError(f"sizes: expected one for each block, got {described(sizes)}")
        pairs = ((as_size(size, "sizes"), is_integer(size)) for size in sizes)
        return Partition("split", tuple(size[0] if flat else tuple(size) for size, flat in pairs))

    def apply(self, event_shape: torch.Size) -> Blocks:
        """The blocks of an event of this shape.

        Raises:
            ValueError: if the partition does not fit the event shape.
        """
        event_shape = as_size(event_shape, "event_shape")
        elements = torch.arange(math.prod(event_shape))
        if self.name == "scalars":
            return Blocks(event_shape, (torch.Size(),), elements)
        if self.name == "along":
            return self._apply_along(event_shape, elements)
        if self.name == "patches":
            return self._apply_patches(event_shape, elements)
        if self.name == "from_labels":
            return self._apply_labels(event_shape)
        return self._apply_split(event_shape, elements)

    def _apply_along(self, event_shape: torch.Size, elements: Tensor) -> Blocks:
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
            elements.view(event_shape).permute((*dims, *kept)).flatten(),
        )

    def _apply_patches(self, event_shape: torch.Size, elements: Tensor) -> Blocks:
        (size,) = self.arguments
        sides = (size,) * len(event_shape) if isinstance(size, int) else size
        number = len(sides)
        tiled = event_shape[:number]
        if len(tiled) < number or any(n % m for n, m in zip(tiled, sides, strict=True)):
            raise ValueError(
                f"partition: expected patches whose sides divide the first dimensions of the event "
                f"shape {tuple(event_shape)}, got {self}"
            )
        grid = [n // m for n, m in zip(tiled, sides, strict=True)]
        # Each tiled dimension becomes two: the index of the tile, and the place in the tile.
        tiles = elements.view(*(n for pair in zip(grid, sides, strict=True) for n in pair), -1)
        indices, places = range(0, 2 * number, 2), range(1, 2 * number, 2)
        return Blocks(
            torch.Size(grid),
            (torch.Size((*sides, *event_shape[number:])),),
            tiles.permute(*indices, *places, -1).flatten(),
        )

    def _apply_labels(self, event_shape: torch.Size) -> Blocks:
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

    def _apply_split(self, event_shape: torch.Size, elements: Tensor) -> Blocks:
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

    @property
    def _maker(self) -> Callable[..., "Partition"]:
        return getattr(Partition, self.name)

    @property
    def _arguments(self) -> dict[str, Any]:
        given: Any = self.arguments[0] if self.name == "patches" else self.arguments
        if self._shape is not None:
            given = torch.tensor(given).view(self._shape).tolist()
        return dict.fromkeys(inspect.signature(self._maker).parameters, given)

    def __repr__(self) -> str:
        inside = repr(list(self.arguments)) if self.name == "split" else shortened(self.arguments)
        return f"Partition.{self.name}({inside})"


_NAMES = ("scalars", "along", "patches", "from_labels", "split")
register("Partition", {name: getattr(Partition, name) for name in _NAMES})
