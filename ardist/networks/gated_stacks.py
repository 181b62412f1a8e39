"""Gated convolutions in two stacks, for raster order and its symmetries."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardist.factorization import Factorization
from ardist.rows import add_to_rows, select_rows

# What the context adds to a block's vertical and horizontal sums.
Encodings = tuple[Tensor | None, Tensor | None]
# Whether rows and columns change places, and the dimensions that are then flipped.
Turn = tuple[bool, tuple[int, ...]]


class GatedStacks(nn.Module):
    """Gated residual convolutions whose kernels are cut so that they see the past alone.

    The vertical stack sees the rows above, the horizontal one the pixels to the left and what
    the vertical stack has found, so that there is no blind spot: what `depth` layers see is a
    whole rectangle (van den Oord et al. 2016, "Conditional image generation with PixelCNN
    decoders"). Both take the features shifted, by a row or by a pixel; from there on all layers
    are alike. Other symmetries of raster order are turned into it, and back.

    Args:
        factorization: over a grid (H, W), in an order for which `turn_of` finds a turn.
        channels: width of both stacks, and of the features.
        kernel_size: odd; of which a layer keeps the part above, or to the left.
        dilations: of each layer.
        context_size: width of the context, 0 for none.
        dropout: probability, of what each layer adds.
    """

    def __init__(
        self,
        factorization: Factorization,
        *,
        channels: int,
        kernel_size: int,
        dilations: Sequence[int],
        context_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        turn = turn_of(factorization)
        if turn is None:
            raise ValueError(
                f"factorization: expected raster order or one of its symmetries, "
                f"got {factorization.ordering!r}"
            )
        self._rotate = turn
        height, width = factorization.grid_shape
        self.turned_grid = (width, height) if turn[0] else (height, width)
        self.blocks = nn.ModuleList(
            _Block(channels, kernel_size, dilation, context_size, dropout) for dilation in dilations
        )

    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """What each pixel's past tells: (M * N, H, W, channels) from features of that shape.

        `context` is (N, 1 or H, 1 or W, context_size).
        """
        turned = _turned(features, self._rotate).permute(0, 3, 1, 2)  # stays channels-last
        above = F.pad(turned, (0, 0, 1, 0))[:, :, :-1]
        left = F.pad(turned, (1, 0))[..., :-1]
        for block, encodings in zip(self.blocks, self.encode(context), strict=True):
            above, left = block(above, left, encodings)
        return _turned_back(left.permute(0, 2, 3, 1), self._rotate)

    def encode(self, context: Tensor | None) -> list[Encodings]:
        """What the context adds to both sums of each block: (N, 2 * channels, 1 or H, 1 or W)."""
        if context is None:
            return [(None, None)] * len(self.blocks)
        turned = _turned(context, self._rotate)
        return [cast(_Block, block).encode(turned) for block in self.blocks]

    def incremental(self, batch_size: int, context: Tensor | None) -> "_Incremental":
        """The same a pixel at a time, each layer computed only there."""
        return _Incremental(self, batch_size, context)


class _Block(nn.Module):
    """One layer of both stacks, over (N, channels, H, W)."""

    def __init__(
        self, channels: int, kernel_size: int, dilation: int, context_size: int, dropout: float
    ) -> None:
        super().__init__()
        self.behind, self.dilation = kernel_size // 2, dilation
        self.reach = self.behind * dilation
        kernel = (self.behind + 1, kernel_size)
        self.vertical = nn.Conv2d(channels, 2 * channels, kernel, dilation=dilation)
        self.horizontal = nn.Conv2d(
            channels, 2 * channels, (1, self.behind + 1), dilation=dilation, bias=False
        )
        self.across = nn.Conv2d(channels, 2 * channels, 1)  # from vertical to horizontal
        self.out = nn.Conv2d(channels, channels, 1, bias=False)
        for part in (self.vertical, self.horizontal, self.across, self.out):
            nn.init.normal_(part.weight, std=part.weight[0].numel() ** -0.5)
        self.dropout = nn.Dropout(dropout)
        if context_size:
            self.context = nn.Linear(context_size, 4 * channels, bias=False)

    def encode(self, context: Tensor) -> Encodings:
        """From contexts (N, h, w, C): each (N, 2 * channels, h, w)."""
        vertical, horizontal = self.context(context).permute(0, 3, 1, 2).chunk(2, 1)
        return vertical, horizontal

    def forward(self, above: Tensor, left: Tensor, encodings: Encodings) -> tuple[Tensor, Tensor]:
        reach = self.reach
        padded = F.pad(above, (reach, reach, reach, 0))
        above = above + self.dropout(self.from_above(padded, encodings[0]))
        rest = self.to_left(above, encodings[1])
        added = self.dropout(self.from_left(F.pad(left, (reach, 0)), rest))
        return above, left + self.out(added)

    def from_above(self, above: Tensor, encoding: Tensor | None) -> Tensor:
        """What the vertical stack gains, of an input with `reach` zeros at three sides."""
        return _gated(_plus(self.vertical(above), encoding))

    def to_left(self, above: Tensor, encoding: Tensor | None) -> Tensor:
        """The horizontal sums, but for what lies to the left."""
        return _plus(self.across(above), encoding)

    def from_left(self, left: Tensor, rest: Tensor) -> Tensor:
        """What the horizontal stack gains, of an input with `reach` zeros to the left."""
        return _gated(self.horizontal(left) + rest)


def _plus(sums: Tensor, encoding: Tensor | None) -> Tensor:
    return sums if encoding is None else add_to_rows(sums, encoding)


def _gated(sums: Tensor) -> Tensor:
    value, gate = sums.chunk(2, 1)
    return value.tanh() * gate.sigmoid()


class _Incremental:
    """The vertical stack a row at a time, the horizontal one a pixel at a time.

    What the horizontal layers read lies in buffers with zeros to the left, so that a kernel's
    taps are read in place. Rows and columns are those of the turned grid.
    """

    def __init__(self, body: GatedStacks, batch_size: int, context: Tensor | None) -> None:
        self._blocks: list[_Block] = list(body.blocks)  # type: ignore[arg-type]
        self._encodings = [
            [None if part is None else part.expand(-1, -1, *body.turned_grid) for part in pair]
            for pair in body.encode(context)
        ]
        self._num_taken = 0
        self._width = width = body.turned_grid[1]
        # For each layer the last rows that its vertical part reads again: (rows, C, reach, ...).
        self._above: list[Tensor] = []
        # What its horizontal part reads, see `_place`: (rows, dilation, behind + ..., C).
        self._left: list[Tensor] = []
        # The horizontal sums of a row, but for what lies to the left: (rows, W, 2 * C).
        self._rest: list[Tensor] = []
        self._taps: list[Tensor] = []  # (taps * C, 2 * C)
        self._outs: list[Tensor] = []  # (C, C)
        for block in self._blocks:
            taps, out = block.horizontal.weight.squeeze(2), block.out.weight.flatten(1)
            self._taps.append(taps.permute(2, 1, 0).flatten(0, 1))
            self._outs.append(out.T)
            channels, reach, dilation = out.shape[0], block.reach, block.dilation
            columns = block.behind + width // dilation + 1
            self._above.append(out.new_zeros(batch_size, channels, reach, width + 2 * reach))
            self._left.append(out.new_zeros(batch_size, dilation, columns, channels))
            self._rest.append(out.new_empty(batch_size, width, 2 * channels))
        self._make_views()

    def _place(self, layer: int, column: Any) -> tuple[Any, ...]:
        """Where a column, or several, are in a buffer of `_left`.

        Those a dilation apart, which one kernel reads, lie side by side.
        """
        block = self._blocks[layer]
        return slice(None), column % block.dilation, column // block.dilation + block.behind

    def _make_views(self) -> None:
        rows, width, double = self._rest[0].shape
        self._sums = self._rest[0].new_empty(rows, double)
        self._value, self._gate = self._sums.chunk(2, 1)
        self._result = self._sums.new_empty(rows, double // 2)
        # The first layer's inputs are features, of the pixel before; the last column's are those
        # of the row's last pixel, which the next row reads.
        own = [
            [left[self._place(layer, column)] for column in range(width + 1)]
            for layer, left in enumerate(self._left)
        ]
        self._features = own[0]
        # For each column and layer: the rest of the sums, the taps side by side, the last of
        # these, and where the layer's output goes.
        self._columns = []
        for column in range(width):
            views = []
            for layer, block in enumerate(self._blocks):
                _, residue, last = self._place(layer, column)
                taps = self._left[layer][:, residue, last - block.behind : last + 1].view(rows, -1)
                target = own[layer + 1][column] if layer + 1 < len(own) else self._result
                views.append((self._rest[layer][:, column], taps, own[layer][column], target))
            self._columns.append(views)

    def step(self, previous: Tensor | None) -> Tensor:
        """The hidden state of the next pixel, (rows, 1, C), from the features of the last one."""
        if previous is not None:
            column = self._num_taken % self._width
            self._features[column + 1].copy_(previous.squeeze(1))
            self._num_taken += 1
        row, column = divmod(self._num_taken, self._width)
        if column == 0:
            done = self._left[0][self._place(0, torch.arange(1, self._width + 1))]
            self._take_rows(done.unsqueeze(1), row)
        maps = zip(self._columns[column], self._taps, self._outs, strict=True)
        for (rest, taps, own, target), weight, out in maps:
            torch.addmm(rest, taps, weight, out=self._sums)
            self._value.tanh_().mul_(self._gate.sigmoid_())
            torch.addmm(own, self._value, out, out=target)
        return self._result.unsqueeze(1)

    def _take_rows(self, features: Tensor, first: int) -> None:
        """The vertical stack over the rows from `first` on, and what the last one needs of it.

        `features` (rows, n, W, C) are those of the row above each; zeros for the first of all.
        """
        above = features.permute(0, 3, 1, 2)
        end = first + above.shape[2]
        for layer, block in enumerate(self._blocks):
            reach = block.reach
            padded = torch.cat((self._above[layer], F.pad(above, (reach, reach))), 2)
            self._above[layer] = padded[:, :, -reach:].clone()
            given, shared = self._encodings[layer]
            given = None if given is None else given[:, :, first:end]
            above = above + block.from_above(padded, given)
            shared = None if shared is None else shared[:, :, end - 1 : end]
            rest = block.to_left(above[:, :, -1:], shared)
            self._rest[layer].copy_(rest.squeeze(2).transpose(1, 2))

    def prefill(self, features: Tensor) -> Tensor:
        """Takes the features of the first pixels, (rows, pixels, C); the next hidden state."""
        self._num_taken = features.shape[1]
        row, column = divmod(self._num_taken, self._width)
        done, begun = features.split([row * self._width, column], 1)
        done = done.unflatten(1, (row, self._width))
        self._take_rows(F.pad(done, (0, 0, 0, 0, 1, 0)), 0)
        columns = torch.arange(column + 1)
        left = F.pad(begun, (0, 0, 1, 0))  # (rows, columns, C)
        for layer, block in enumerate(self._blocks):
            self._left[layer][self._place(layer, columns)] = left
            padded = F.pad(left, (0, 0, block.reach, 0)).transpose(1, 2).unsqueeze(2)
            rest = self._rest[layer][:, : column + 1].transpose(1, 2).unsqueeze(2)
            left = left + block.out(block.from_left(padded, rest)).squeeze(2).transpose(1, 2)
        return left[:, -1:]

    def select(self, rows: Tensor) -> None:
        """Row i becomes what row `rows[i]` was."""
        for buffers in (self._above, self._left, self._rest):
            buffers[:] = [buffer.index_select(0, rows) for buffer in buffers]
        self._encodings = [
            [None if part is None else select_rows(part, rows) for part in pair]
            for pair in self._encodings
        ]
        self._make_views()


def turn_of(factorization: Factorization) -> Turn | None:
    """The turn that makes the order raster order; None where no one does."""
    if not factorization.is_total:
        return None
    ranks = factorization.ranks.view(1, *factorization.grid_shape)
    raster = factorization.ranks.flatten().sort().values
    for transpose in (False, True):
        for flips in ((), (1,), (2,), (1, 2)):
            if torch.equal(_turned(ranks, (transpose, flips)).flatten(), raster):
                return transpose, flips
    return None


def _turned(grid: Tensor, turn: Turn) -> Tensor:
    """(N, H, W, ...) with raster order as the order of drawing; a dimension of 1 stays."""
    transpose, flips = turn
    grid = grid.transpose(1, 2) if transpose else grid
    return grid.flip(flips) if flips else grid


def _turned_back(grid: Tensor, turn: Turn) -> Tensor:
    transpose, flips = turn
    grid = grid.flip(flips) if flips else grid
    return grid.transpose(1, 2) if transpose else grid
