"""In which order blocks are drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Size, Tensor

from ardist.patterns import PATTERNS, ranks_of
from ardist.shapes import (
    as_integer,
    as_integers,
    as_positive,
    as_size,
    as_tensor,
    check_type,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Ordering:
    """In which order the blocks of a grid are drawn.

    Made by its static methods, and compared by value. An ordering gives every block a rank;
    blocks of equal rank are drawn in one step, independent given all lower ranks. An ordering
    from a graph is finer than its ranks: a block depends on its parents alone. Where nothing
    else is said, an ordering is total (one block a step) and serves grids of any dimensions.

    >>> import ardist as ad
    >>> ad.Ordering.reverse().ranks(torch.Size((4,)))
    tensor([3, 2, 1, 0])
    >>> print(ad.Ordering.spiral())
    Ordering.spiral()
     0  1  2  3
    11 12 13  4
    10 15 14  5
     9  8  7  6
    """

    name: str
    arguments: tuple[int, ...] = ()
    _grid: tuple[int, ...] | None = field(default=None, repr=False)  # for which it was given

    @staticmethod
    def raster() -> "Ordering":
        """The grid's own order, last dimension fastest. The default."""
        return Ordering("raster")

    @staticmethod
    def reverse() -> "Ordering":
        """Raster from the end to the beginning."""
        return Ordering("reverse")

    @staticmethod
    def permutation(perm: Sequence[int] | Tensor) -> "Ordering":
        """`perm[k]` is the block, counted in raster order, that is drawn k-th."""
        values = tuple(as_integers(perm, "perm").flatten().tolist())
        if sorted(values) != list(range(len(values))):
            raise ValueError(
                f"perm: expected a permutation of 0, ..., {len(values) - 1}, "
                f"got {shortened(values)}"
            )
        return Ordering("permutation", values, (len(values),))

    @staticmethod
    def random(seed: int = 0) -> "Ordering":
        """A permutation drawn from `seed`: the same seed and grid always give the same order."""
        return Ordering("random", (as_integer(seed, "seed"),))

    @staticmethod
    def column_major() -> "Ordering":
        """First dimension fastest: an image column by column, each from top to bottom."""
        return Ordering("column_major")

    @staticmethod
    def snake() -> "Ordering":
        """Raster with every other run backwards, so that each block is next to the one before.

        Also called boustrophedon; in more dimensions than two, planes turn back as rows do.
        """
        return Ordering("snake")

    @staticmethod
    def diagonal() -> "Ordering":
        """Anti-diagonal after anti-diagonal, each drawn in one step.

        A block's rank is the sum of its indices: all of its neighbours with smaller indices are
        earlier, and an image (H, W) takes H + W - 1 steps instead of H * W. The ties are what
        it is for; drawn one by one, diagonals would cost as many steps as raster order.

        >>> print(Ordering.diagonal().show((2, 4)))
        0 1 2 3
        1 2 3 4
        """
        return Ordering("diagonal")

    @staticmethod
    def spiral() -> "Ordering":
        """Clockwise from the first corner to the middle, each block next to the one before.

        For grids of two dimensions.
        """
        return Ordering("spiral")

    @staticmethod
    def hilbert() -> "Ordering":
        """A Hilbert curve for grids of any size: near in rank is near on the grid.

        For grids of at most three dimensions. Each block is next to the one before, in two
        dimensions always and in three where all sides are even; some steps of other boxes are
        diagonal. After Cerveny's generalized curve, https://github.com/jakubcerveny/gilbert.

        >>> print(Ordering.hilbert().show((4, 4)))
         0  3  4  5
         1  2  7  6
        14 13  8  9
        15 12 11 10
        """
        return Ordering("hilbert")

    @staticmethod
    def checkerboard() -> "Ordering":
        """Two steps: blocks whose indices have an even sum, and the others given these."""
        return Ordering("checkerboard")

    @staticmethod
    def multiscale(levels: int) -> "Ordering":
        """Coarse blocks first, each level in one step.

        The first level is every `2 ** (levels - 1)`-th block along each dimension, and each
        further one halves the distance (Reed et al. 2017, "Parallel multiscale autoregressive
        density estimation", draw theirs in more steps). A grid whose longest side is n has at
        most `1 + ceil(log2(n))` levels; with so many the first is a single block.

        >>> print(Ordering.multiscale(3).show((5, 5)))
        0 2 1 2 0
        2 2 2 2 2
        1 2 1 2 1
        2 2 2 2 2
        0 2 1 2 0
        """
        return Ordering("multiscale", (as_positive(levels, "levels"),))

    @staticmethod
    def from_ranks(ranks: Sequence[int] | Tensor) -> "Ordering":
        """Ranks of the grid's shape; equal ones are ties, and gaps between them do not matter."""
        values = as_integers(ranks, "ranks")
        return Ordering("from_ranks", tuple(values.flatten().tolist()), tuple(values.shape))

    @staticmethod
    def from_graph(adjacency: Sequence[Sequence[bool]] | Tensor) -> "Ordering":
        """A directed acyclic graph over blocks: `adjacency[i, j]` says that i depends on j.

        A block's dependencies are its parents, not all that is shallower, and its rank is the
        length of the longest path that leads to it. A cycle is a `ValueError` that names it.
        """
        edges = as_tensor(adjacency, "adjacency")
        parents = edges == 1
        if parents.dim() != 2 or parents.shape[0] != parents.shape[1]:
            raise ValueError(f"adjacency: expected a square matrix, got {tuple(parents.shape)}")
        if not (parents | (edges == 0)).all():
            raise ValueError(
                f"adjacency: expected 0 and 1, got {shortened(edges.unique().tolist())}"
            )
        _depths(parents)
        values = tuple(parents.flatten().int().tolist())
        return Ordering("from_graph", values, (parents.shape[0],))

    @property
    def is_graph(self) -> bool:
        """Whether dependencies are those of a graph, and so may be fewer than all lower ranks."""
        return self.name == "from_graph"

    def ranks(self, grid_shape: Size) -> Tensor:
        """Ranks 0, 1, ... of the blocks: (*grid_shape) int64; a `ValueError` if they misfit."""
        grid_shape = as_size(grid_shape, "grid_shape")
        if self._grid is None:
            return PATTERNS[self.name](grid_shape, *self.arguments)
        if self.name == "from_ranks":
            if self._grid != tuple(grid_shape):
                raise ValueError(
                    f"ordering: expected ranks of the grid's shape {tuple(grid_shape)}, "
                    f"got {self._grid}"
                )
            dense: Tensor = torch.unique(torch.tensor(self.arguments), return_inverse=True)[1]
            return dense.view(grid_shape)
        if math.prod(grid_shape) != self._grid[0]:
            raise ValueError(
                f"ordering: expected one over the {math.prod(grid_shape)} blocks of the grid "
                f"{tuple(grid_shape)}, got one over {self._grid[0]}"
            )
        if self.is_graph:
            return _depths(self._adjacency()).view(grid_shape)
        return ranks_of(torch.tensor(self.arguments), grid_shape)

    def dependencies(self, grid_shape: Size) -> Tensor:
        """Which block may depend on which: (num_blocks, num_blocks) bool, row on column."""
        ranks = self.ranks(grid_shape).flatten()
        if self.is_graph:
            return self._adjacency()
        return ranks.unsqueeze(-1) > ranks

    def _adjacency(self) -> Tensor:
        return torch.tensor(self.arguments, dtype=torch.bool).view((self._grid or ()) * 2)

    # Pictures.

    def _example(self, side: int) -> Size:
        """The grid it was given for, or a square that has all of its ranks."""
        if self.name == "multiscale":
            side = max(side, 2 ** (self.arguments[0] - 1))
        return Size(self._grid if self._grid is not None else (side, side))

    def show(self, grid_shape: Sequence[int] | None = None) -> str:
        """The ranks on a grid as lines of text, planes of more than two dimensions one by one.

        By default on the grid that it was given for, or on one of 4 x 4.
        """
        grid = self._example(4) if grid_shape is None else as_size(grid_shape, "grid_shape")
        ranks = self.ranks(grid)
        width = len(str(int(ranks.max())))
        planes = ranks.reshape(-1, *(1, 1, *grid)[-2:]).tolist()
        return "\n\n".join(
            "\n".join(" ".join(f"{rank:{width}}" for rank in row) for row in plane)
            for plane in planes
        )

    def plot(self, grid_shape: Sequence[int] | None = None, ax: "Axes | None" = None) -> "Axes":
        """Draws the ranks on a grid: dark is early, and a line follows an order without ties.

        Args:
            grid_shape: of one or two dimensions; by default the grid that it was given for, or
                one of 8 x 8.
            ax: where to draw; a new figure by default.

        Returns:
            The axes.

        Raises:
            ImportError: without matplotlib.
            ValueError: for a grid of other dimensions, or one that the ordering does not fit.
        """
        try:
            import matplotlib.axes
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError(
                "Ordering.plot needs matplotlib: pip install 'ardist[examples]'"
            ) from error
        grid = self._example(8) if grid_shape is None else as_size(grid_shape, "grid_shape")
        if len(grid) not in (1, 2):
            raise ValueError(f"grid_shape: expected one or two dimensions, got {tuple(grid)}")
        ranks = torch.atleast_2d(self.ranks(grid))
        last = int(ranks.max())
        ax = plt.subplots()[1] if ax is None else ax
        check_type(ax, matplotlib.axes.Axes, "ax")
        ax.imshow(ranks.numpy(), cmap="Blues_r", vmax=2 * last + 1)  # dark enough for white numbers
        order = ranks.flatten().argsort()
        rows, columns = (index.tolist() for index in torch.unravel_index(order, ranks.shape))
        if last + 1 == order.shape[0]:
            ax.plot(columns, rows, color="white", alpha=0.35, linewidth=1)
        if order.shape[0] <= 100:
            for row, column in zip(rows, columns, strict=True):
                rank = str(ranks[row, column].item())
                ax.text(column, row, rank, ha="center", va="center", color="white")
        ax.set(xticks=[], yticks=[], title=repr(self))
        return ax

    def __str__(self) -> str:
        grid = self._example(4)
        return f"{self!r}\n{self.show()}" if 0 < math.prod(grid) <= 256 else repr(self)

    def __repr__(self) -> str:
        return f"Ordering.{self.name}({shortened(self.arguments)})"


def _depths(parents: Tensor) -> Tensor:
    """Length of the longest path that leads to each node of the graph."""
    depths = torch.zeros(parents.shape[0], dtype=torch.int64)
    for _ in range(parents.shape[0]):
        deeper = torch.where(parents, depths + 1, 0).amax(-1)
        if torch.equal(deeper, depths):
            return depths
        depths = deeper
    raise ValueError(f"adjacency: expected no cycle, got {_cycle(parents)}")


def _cycle(parents: Tensor) -> str:
    """One cycle of a graph that has some, written along its edges."""
    alive = torch.ones(parents.shape[0], dtype=torch.bool)
    for _ in range(parents.shape[0]):  # what has no parent left is on no cycle
        alive &= (parents & alive).any(-1)
    path = [int(alive.nonzero()[0])]
    while path[-1] not in path[:-1]:
        path.append(int((parents[path[-1]] & alive).nonzero()[0]))
    return " <- ".join(map(str, path[path.index(path[-1]) :]))
