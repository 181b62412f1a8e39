"""In which order blocks are drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ordering:
    """In which order the blocks of a grid are drawn.

    Made by its static methods, and compared by value. An ordering gives every block a rank;
    blocks of equal rank are drawn in one step, independent given all lower ranks. An ordering
    from a graph is finer than its ranks: a block depends on its parents alone.

    >>> import ardist as ad
    >>> ad.Ordering.reverse().ranks(torch.Size((4,)))
    tensor([3, 2, 1, 0])
    """

    name: str
    arguments: tuple[int, ...] = ()
    _shape: tuple[int, ...] | None = field(default=None, repr=False)  # of the given ranks

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
        values = tuple(int(block) for block in torch.as_tensor(perm).flatten().tolist())
        if sorted(values) != list(range(len(values))):
            raise ValueError(
                f"perm: expected a permutation of 0, ..., {len(values) - 1}, got {_short(values)}"
            )
        return Ordering("permutation", values)

    @staticmethod
    def random(seed: int = 0) -> "Ordering":
        """A permutation drawn from `seed`: the same seed and grid always give the same order."""
        return Ordering("random", (seed,))

    @staticmethod
    def from_ranks(ranks: Sequence[int] | Tensor) -> "Ordering":
        """Ranks of the grid's shape; equal ones are ties, and gaps between them do not matter."""
        values = torch.as_tensor(ranks)
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise ValueError(f"ranks: expected integers, got {values.dtype}")
        return Ordering("from_ranks", tuple(values.flatten().tolist()), tuple(values.shape))

    @staticmethod
    def from_graph(adjacency: Sequence[Sequence[bool]] | Tensor) -> "Ordering":
        """A directed acyclic graph over blocks: `adjacency[i, j]` says that i depends on j.

        A block's dependencies are its parents, not all that is shallower, and its rank is the
        length of the longest path that leads to it. A cycle is a `ValueError` that names it.
        """
        parents = torch.as_tensor(adjacency).bool()
        if parents.dim() != 2 or parents.shape[0] != parents.shape[1]:
            raise ValueError(f"adjacency: expected a square matrix, got {tuple(parents.shape)}")
        _depths(parents)
        values = tuple(parents.flatten().int().tolist())
        return Ordering("from_graph", values, tuple(parents.shape))

    def ranks(self, grid_shape: torch.Size) -> Tensor:
        """Ranks 0, 1, ... of the blocks: (*grid_shape) int64; a `ValueError` if they misfit."""
        num_blocks = math.prod(grid_shape)
        if self.name == "raster":
            return torch.arange(num_blocks).view(grid_shape)
        if self.name == "reverse":
            return torch.arange(num_blocks - 1, -1, -1).view(grid_shape)
        if self.name == "from_graph":
            self._expect(num_blocks, math.isqrt(len(self.arguments)), grid_shape)
            return _depths(self._adjacency()).view(grid_shape)
        if self.name == "from_ranks":
            if self._shape != tuple(grid_shape):
                raise ValueError(
                    f"ordering: expected ranks of the grid's shape {tuple(grid_shape)}, "
                    f"got {self._shape}"
                )
            dense: Tensor = torch.unique(torch.tensor(self.arguments), return_inverse=True)[1]
            return dense.view(grid_shape)
        if self.name == "random":
            generator = torch.Generator().manual_seed(self.arguments[0])
            order = torch.randperm(num_blocks, generator=generator)
        else:
            self._expect(num_blocks, len(self.arguments), grid_shape)
            order = torch.tensor(self.arguments)
        return torch.empty_like(order).scatter_(0, order, torch.arange(num_blocks)).view(grid_shape)

    def dependencies(self, grid_shape: torch.Size) -> Tensor:
        """Which block may depend on which: (num_blocks, num_blocks) bool, row on column."""
        ranks = self.ranks(grid_shape).flatten()
        if self.name == "from_graph":
            return self._adjacency()
        return ranks.unsqueeze(-1) > ranks

    def _adjacency(self) -> Tensor:
        return torch.tensor(self.arguments, dtype=torch.bool).view(self._shape or ())

    def _expect(self, num_blocks: int, given: int, grid_shape: torch.Size) -> None:
        if num_blocks != given:
            raise ValueError(
                f"ordering: expected one over the {num_blocks} blocks of the grid "
                f"{tuple(grid_shape)}, got one over {given}"
            )

    def __repr__(self) -> str:
        return f"Ordering.{self.name}({_short(self.arguments)})"


def _short(values: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, values[:8]))
    return f"{shown}, ..." if len(values) > 8 else shown


def _depths(parents: Tensor) -> Tensor:
    """Length of the longest path that leads to each node of the graph."""
    depths = torch.zeros(len(parents), dtype=torch.int64)
    for _ in range(len(parents)):
        deeper = torch.where(parents, depths + 1, 0).amax(-1)
        if torch.equal(deeper, depths):
            return depths
        depths = deeper
    raise ValueError(f"adjacency: expected no cycle, got {_cycle(parents)}")


def _cycle(parents: Tensor) -> str:
    """One cycle of a graph that has some, written along its edges."""
    alive = torch.ones(len(parents), dtype=torch.bool)
    for _ in range(len(parents)):  # what has no parent left is on no cycle
        alive &= (parents & alive).any(-1)
    path = [int(alive.nonzero()[0])]
    while path[-1] not in path[:-1]:
        path.append(int((parents[path[-1]] & alive).nonzero()[0]))
    return " <- ".join(map(str, path[path.index(path[-1]) :]))
