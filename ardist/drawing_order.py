"""The order in which blocks are drawn, and permutations between it and raster order."""

from collections.abc import Sequence
from itertools import accumulate, chain

import torch
from torch import Tensor

from ardist.layout import Layout
from ardist.rows import repeat_rows
from ardist.shapes import constant


class Permutation:
    """An order of the entries along a dimension: one for all rows, or one for each row.

    Args:
        order: the raster index of each entry in the order of drawing, (n,) or (rows, n).
            None is raster order.
        inverse: the place of each entry in the order of drawing, of the same shape; computed
            from `order` by default.
    """

    def __init__(self, order: Tensor | None, inverse: Tensor | None = None) -> None:
        self.order = order
        self.inverse = order.argsort(-1) if order is not None and inverse is None else inverse

    @staticmethod
    def of_ranks(ranks: Tensor) -> "Permutation":
        """The order of total ranks (n,) or (rows, n). Raster order (n,) is recognized."""
        raster = torch.arange(ranks.shape[-1], device=ranks.device)
        if ranks.dim() == 1 and torch.equal(ranks, raster):
            return Permutation(None)
        return Permutation(ranks.argsort(-1), ranks)

    def to(self, device: torch.device) -> "Permutation":
        if self.order is None or self.inverse is None or self.order.device == device:
            return self
        return Permutation(self.order.to(device), self.inverse.to(device))

    def to_drawing(self, x: Tensor, dim: int = 1) -> Tensor:
        """Permutes entries along `dim` from raster order to the order of drawing."""
        return x if self.order is None else arrange(x, self.order, dim)

    def to_raster(self, x: Tensor, dim: int = 1) -> Tensor:
        """The inverse of `to_drawing`."""
        return x if self.inverse is None else arrange(x, self.inverse, dim)

    def part(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The entries drawn from `start` to `stop`, of x (rows, n, ...) in raster order."""
        if self.order is None:
            return x[:, start:stop]
        return arrange(x, self.order[..., start:stop], 1)

    def put(self, x: Tensor, values: Tensor, start: int) -> Tensor:
        """A copy of x (rows, n, ...) in raster order with the entries drawn from `start` on
        replaced by `values` (rows, k, ...).
        """
        stop = start + values.shape[1]
        if self.order is None:
            return torch.cat((x[:, :start], values, x[:, stop:]), 1)
        order = self.order[..., start:stop]
        if order.dim() == 1:
            return x.index_copy(1, order, values)
        return x.scatter(1, _for_entries(repeat_rows(order, x.shape[0]), values), values)


def arrange(x: Tensor, order: Tensor, dim: int = 1) -> Tensor:
    """The entries of x along `dim` by their indices, (k,) or, for dimension 1, (rows, k)."""
    if order.dim() == 1:
        return x.index_select(dim, order)
    rows = max(x.shape[0], order.shape[0])
    return repeat_rows(x, rows).gather(1, _for_entries(repeat_rows(order, rows), x))


def _for_entries(order: Tensor, x: Tensor) -> Tensor:
    """Indices (rows, k, *rest) for `gather` and `scatter` of entries of x (..., ..., *rest)."""
    rest = x.shape[2:]
    return order.reshape((*order.shape, *(1,) * len(rest))).expand((*order.shape, *rest))


class DrawingOrder:
    """The steps of a draw: which blocks each step draws, and where they are.

    Values and parameters are laid out as in `Layout`: (rows, entries, ...). An entry is a block, or
    one number of a block if the layout is flat.

    Args:
        layout: the layout of all blocks, in raster order.
        steps: the blocks of each step, if the order is the same for all rows.
        ranks: otherwise, the ranks of the blocks in each row, (rows, num_blocks) int64.
    """

    def __init__(
        self, layout: Layout, steps: Sequence[Sequence[int]], ranks: Tensor | None = None
    ) -> None:
        self.layout, self.ranks = layout, ranks
        self.is_ragged = False
        """Whether the steps of the rows differ in width, so that no decoder can draw them."""
        if ranks is not None:
            steps = [[block] for block in range(layout.num_blocks)]
            self.is_ragged = layout.flat or _has_ties(ranks)
            self.values = self.params = Permutation(ranks.argsort(-1), ranks)
        self.steps = steps
        self.num_steps = len(steps)
        if ranks is not None and self.is_ragged and ranks.shape[0]:
            self.num_steps = int(ranks.max()) + 1

    @constant
    def ends(self) -> list[int]:
        """For each t, the number of entries of values in the first t steps."""
        return self.ends_of("value" if self.layout.flat else "block")

    @constant
    def _param_ends(self) -> list[int]:
        return self.ends_of("param")

    def ends_of(self, kind: str) -> list[int]:
        """For each t, the number of flat entries of a kind (see `Layout.sizes`) in t steps."""
        sizes = self.layout.sizes[kind]
        return [0, *accumulate(sum(sizes[block] for block in step) for step in self.steps)]

    def layout_of(self, start: int, stop: int) -> Layout:
        """The conditionals of the steps from `start` to `stop`, in the order of drawing."""
        if (start, stop) not in self._layouts:
            self._layouts[start, stop] = self.layout.select(list(chain(*self.steps[start:stop])))
        return self._layouts[start, stop]

    @constant
    def _layouts(self) -> dict[tuple[int, int], Layout]:
        return {}

    @constant
    def step_layouts(self) -> list[Layout]:
        """The conditionals of each step; steps of equally many equal blocks share one."""
        if self.layout.flat:
            return [self.layout.select(blocks) for blocks in self.steps]
        shared = {count: self.layout.select(range(count)) for count in set(map(len, self.steps))}
        return [shared[len(blocks)] for blocks in self.steps]

    @constant
    def blocks(self) -> list[int]:
        """All blocks in the order of drawing, if that is the same for all rows."""
        return list(chain(*self.steps))

    @constant
    def values(self) -> Permutation:
        """The order of the entries of values along dimension 1."""
        return self.flat("value" if self.layout.flat else "block")

    @constant
    def params(self) -> Permutation:
        """The order of the entries of parameters along dimension 1."""
        return self.flat("param" if self.layout.flat else "block")

    def flat(self, kind: str) -> Permutation:
        """The order of the flat entries of a kind (see `Layout.sizes`), if rows share an order."""
        columns = self.layout.columns(kind, self.blocks)
        return Permutation(None if columns == sorted(columns) else torch.tensor(columns))

    def part(self, x: Tensor, start: int, stop: int, kind: str = "value") -> Tensor:
        """The entries of the steps from `start` to `stop`, from x of all blocks in raster order."""
        ends = self._param_ends if self.layout.flat and kind == "param" else self.ends
        return self._of(kind, x).part(x, ends[start], ends[stop])

    def put(self, x: Tensor, values: Tensor, start: int) -> Tensor:
        """A copy of values x in raster order, with the blocks from step `start` on replaced."""
        return self._of("value", x).put(x, values, self.ends[start])

    def to_drawing(self, x: Tensor) -> Tensor:
        """Permutes the values of all blocks from raster order to the order of drawing."""
        return self._of("value", x).to_drawing(x)

    def to_raster(self, x: Tensor) -> Tensor:
        """The inverse of `to_drawing`."""
        return self._of("value", x).to_raster(x)

    def _of(self, kind: str, x: Tensor) -> Permutation:
        return (self.values if kind == "value" else self.params).to(x.device)

    def select(self, rows: Tensor) -> "DrawingOrder":
        """The order of these rows."""
        if self.ranks is None:
            return self
        return DrawingOrder(self.layout, self.steps, self.ranks.index_select(0, rows))


def _has_ties(ranks: Tensor) -> bool:
    return ranks.shape[0] > 0 and int(ranks.amax(-1).min()) < ranks.shape[-1] - 1
