"""The order in which blocks are drawn."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Size, Tensor

from ardist.patterns import PATTERNS, ranks_of
from ardist.shapes import (
    as_integers,
    as_positive,
    as_seed,
    as_size,
    as_tensor,
    check_type,
    pyplot,
    shortened,
)
from ardist.specification import Specified, register

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Ordering(Specified):
    """The order in which the blocks of a grid are drawn.

    Its static methods make orderings, which compare by value. An ordering gives each block a rank.
    Blocks of equal rank are drawn in one step and are independent given all blocks of lower rank.
    With an ordering from a graph, a block depends on its parents only. Unless its docstring says
    otherwise, an ordering is total (one block a step) and supports grids of any dimensions.

    >>> import torch, ardist as ad
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
    _grid: tuple[int, ...] | None = field(default=None, repr=False)  # of the given ranks or blocks

    @staticmethod
    def raster() -> "Ordering":
        """Raster order, the last dimension fastest. The default."""
        return Ordering("raster")

    @staticmethod
    def reverse() -> "Ordering":
        """Raster order from the end to the beginning."""
        return Ordering("reverse")

    @staticmethod
    def permutation(perm: Sequence[int] | Tensor) -> "Ordering":
        """A given order: `perm[k]` is the raster index of the block that is drawn k-th.

        Raises:
            ValueError: if `perm` is not a permutation of 0, ..., n - 1.

        >>> import ardist as ad
        >>> print(ad.Ordering.permutation([2, 0, 1]).show())  # ranks of blocks 0, 1, 2
        1 2 0
        """
        values = tuple(as_integers(perm, "perm").flatten().tolist())
        if sorted(values) != list(range(len(values))):
            raise ValueError(
                f"perm: expected a permutation of 0, ..., {len(values) - 1}, "
                f"got {shortened(values)}"
            )
        return Ordering("permutation", values, (len(values),))

    @staticmethod
    def random(seed: int = 0, per_step: int = 1) -> "Ordering":
        """A random permutation. The same seed and grid always give the same order.

        Args:
            seed: the seed of the permutation.
            per_step: the number of blocks that are drawn in each step; the last step may have
                fewer. With more than one block per step, sampling is faster, and the blocks of a
                step are independent given the earlier ones.

        >>> import ardist as ad
        >>> print(ad.Ordering.random(0, per_step=4).show((3, 3)))
        0 1 0
        0 1 1
        2 1 0
        """
        arguments = (as_seed(seed, "seed"), as_positive(per_step, "per_step"))
        return Ordering("random", arguments[: 1 if per_step == 1 else 2])

    @staticmethod
    def column_major() -> "Ordering":
        """The first dimension fastest: an image column by column, each from top to bottom.

        >>> import ardist as ad
        >>> print(ad.Ordering.column_major().show((2, 3)))
        0 2 4
        1 3 5
        """
        return Ordering("column_major")

    @staticmethod
    def snake() -> "Ordering":
        """Raster order with every other row reversed, so that each block is next to the previous.

        It is also called boustrophedon. In more than two dimensions every other plane is reversed
        as well.

        >>> import ardist as ad
        >>> print(ad.Ordering.snake().show((2, 3)))
        0 1 2
        5 4 3
        """
        return Ordering("snake")

    @staticmethod
    def diagonal() -> "Ordering":
        """Anti-diagonals, each drawn in one step.

        The rank of a block is the sum of its indices, so all neighbors with smaller indices are
        earlier. An image (H, W) takes H + W - 1 steps instead of H * W.

        >>> print(Ordering.diagonal().show((2, 4)))
        0 1 2 3
        1 2 3 4
        """
        return Ordering("diagonal")

    @staticmethod
    def spiral() -> "Ordering":
        """A clockwise spiral from the first corner to the middle, for grids of two dimensions.

        Each block is next to the previous one. Other grids raise a `ValueError`.

        >>> import ardist as ad
        >>> print(ad.Ordering.spiral().show((3, 3)))
        0 1 2
        7 8 3
        6 5 4
        """
        return Ordering("spiral")

    @staticmethod
    def hilbert() -> "Ordering":
        """A Hilbert curve for grids of any size and at most three dimensions.

        Blocks that are near in rank are near on the grid. In two dimensions each block is next to
        the previous one. In three dimensions this holds if all sides are even, and otherwise some
        steps are diagonal. The curve is Cerveny's generalized one,
        https://github.com/jakubcerveny/gilbert.

        >>> print(Ordering.hilbert().show((4, 4)))
         0  3  4  5
         1  2  7  6
        14 13  8  9
        15 12 11 10
        """
        return Ordering("hilbert")

    @staticmethod
    def checkerboard() -> "Ordering":
        """Two steps: first the blocks whose indices have an even sum, then all others.

        >>> import ardist as ad
        >>> print(ad.Ordering.checkerboard().show((2, 3)))
        0 1 0
        1 0 1
        """
        return Ordering("checkerboard")

    @staticmethod
    def multiscale(levels: int) -> "Ordering":
        """Coarse levels first, each in one step.

        The first level has every `2 ** (levels - 1)`-th block along each dimension, and each
        further level halves the distance. (Reed et al. 2017, "Parallel multiscale autoregressive
        density estimation", draw each level in several steps.) A grid whose longest side is n has
        at most `1 + ceil(log2(n))` levels. With that number of levels the first is a single block.
        More levels raise a `ValueError` when the ordering is applied to the grid.

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
        """Given ranks, of the grid's shape. Equal ranks are ties, and there may be gaps.

        >>> import ardist as ad
        >>> print(ad.Ordering.from_ranks([[0, 5], [5, 9]]).show())
        0 1
        1 2
        """
        values = as_integers(ranks, "ranks")
        return Ordering("from_ranks", tuple(values.flatten().tolist()), tuple(values.shape))

    @staticmethod
    def from_graph(adjacency: Sequence[Sequence[bool]] | Tensor) -> "Ordering":
        """A directed acyclic graph over blocks.

        The dependencies of a block are its parents only. Its rank is the length of the longest path
        that leads to it.

        Args:
            adjacency: (num_blocks, num_blocks) of 0 and 1; `adjacency[i, j]` is whether block i
                depends on block j.

        Raises:
            ValueError: if the graph has a cycle, which the error names, or `adjacency` is not a
                square matrix of 0 and 1.

        >>> import ardist as ad
        >>> print(ad.Ordering.from_graph([[0, 0, 0], [1, 0, 0], [1, 0, 0]]).show((3,)))
        0 1 1
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
        """Whether the dependencies come from a graph, and may be fewer than all lower ranks."""
        return self.name == "from_graph"

    def ranks(self, grid_shape: Size) -> Tensor:
        """The ranks 0, 1, ... of the blocks of a grid: (*grid_shape) int64.

        Raises:
            ValueError: if the ordering does not fit the grid.
        """
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
        """Whether block i may depend on block j: (num_blocks, num_blocks) bool.

        Raises:
            ValueError: if the ordering does not fit the grid.

        >>> import torch, ardist as ad
        >>> ad.Ordering.reverse().dependencies(torch.Size((2,)))
        tensor([[False,  True],
                [False, False]])
        """
        ranks = self.ranks(grid_shape).flatten()
        if self.is_graph:
            return self._adjacency()
        return ranks.unsqueeze(-1) > ranks

    def _adjacency(self) -> Tensor:
        return torch.tensor(self.arguments, dtype=torch.bool).view((self._grid or ()) * 2)

    @property
    def _maker(self) -> Callable[..., "Ordering"]:
        return getattr(Ordering, self.name)

    @property
    def _arguments(self) -> dict[str, Any]:
        given: Sequence[Any] = self.arguments
        if self._grid is not None:
            shape = self._grid * 2 if self.is_graph else self._grid
            given = [torch.tensor(given).view(shape).tolist()]
        names = inspect.signature(self._maker).parameters
        return dict(zip(names, given, strict=False))  # arguments at their default are left out

    # Text and figures.

    def _example_grid(self, side: int) -> Size:
        """The grid of given ranks or blocks, or a square of this side (larger for many levels)."""
        if self.name == "multiscale":
            side = max(side, 2 ** (self.arguments[0] - 1))
        return Size(self._grid if self._grid is not None else (side, side))

    def show(self, grid_shape: Sequence[int] | None = None) -> str:
        """The ranks on a grid as lines of text, one plane after another in three dimensions.

        Args:
            grid_shape: by default the shape of the given ranks, or 4 x 4.

        Raises:
            ValueError: if the ordering does not fit the grid.

        >>> import ardist as ad
        >>> print(ad.Ordering.raster().show((2, 3)))
        0 1 2
        3 4 5
        """
        grid = self._example_grid(4) if grid_shape is None else as_size(grid_shape, "grid_shape")
        ranks = self.ranks(grid)
        width = len(str(int(ranks.max())))
        planes = ranks.reshape(-1, *(1, 1, *grid)[-2:]).tolist()
        return "\n\n".join(
            "\n".join(" ".join(f"{rank:{width}}" for rank in row) for row in plane)
            for plane in planes
        )

    def plot(self, grid_shape: Sequence[int] | None = None, ax: "Axes | None" = None) -> "Axes":
        """Plots the ranks on a grid. Early blocks are dark, and a line follows a total order.

        Args:
            grid_shape: of one or two dimensions; by default the shape of the given ranks, or 8 x 8.
            ax: the axes to draw on; a new figure by default.

        Returns:
            the axes.

        Raises:
            ImportError: if matplotlib is not installed.
            ValueError: if the grid has other dimensions, or the ordering does not fit it.
        """
        plt = pyplot("Ordering.plot")
        grid = self._example_grid(8) if grid_shape is None else as_size(grid_shape, "grid_shape")
        if len(grid) not in (1, 2):
            raise ValueError(f"grid_shape: expected one or two dimensions, got {tuple(grid)}")
        ranks = torch.atleast_2d(self.ranks(grid).cpu())
        last = int(ranks.max())
        ax = plt.subplots()[1] if ax is None else ax
        check_type(ax, plt.Axes, "ax")
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
        grid = self._example_grid(4)
        return f"{self!r}\n{self.show()}" if 0 < math.prod(grid) <= 256 else repr(self)

    def __repr__(self) -> str:
        return f"Ordering.{self.name}({shortened(self.arguments)})"


_NAMES = (*PATTERNS, "permutation", "from_ranks", "from_graph")
register("Ordering", {name: getattr(Ordering, name) for name in _NAMES})


def _depths(parents: Tensor) -> Tensor:
    """The length of the longest path that leads to each node, (n,) int64."""
    children, waiting = parents.T.contiguous(), parents.sum(-1)  # the number of parents left
    depths = torch.zeros_like(waiting)
    depth, ready = 0, waiting == 0
    while ready.any():
        depths[ready] = depth
        waiting -= children[ready].sum(0)
        waiting[ready] = -1
        depth, ready = depth + 1, waiting == 0
    if (waiting > 0).any():
        raise ValueError(f"adjacency: expected no cycle, got {_cycle(parents)}")
    return depths


def _cycle(parents: Tensor) -> str:
    """The text of one cycle of a graph that has cycles."""
    remaining = torch.ones(parents.shape[0], dtype=torch.bool)
    for _ in range(parents.shape[0]):  # a node without remaining parents is not on a cycle
        remaining &= (parents & remaining).any(-1)
    path = [int(remaining.nonzero()[0])]
    while path[-1] not in path[:-1]:
        path.append(int((parents[path[-1]] & remaining).nonzero()[0]))
    return " <- ".join(map(str, path[path.index(path[-1]) :]))
