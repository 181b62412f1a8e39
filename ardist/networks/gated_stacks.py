"""Gated convolutions in two stacks, for raster order and its symmetries."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardist.factorization import Factorization
from ardist.recomputation import recomputed
from ardist.rows import add_to_rows, select_rows

# The encodings of the context that are added to a layer's vertical and horizontal sums.
Encodings = tuple[Tensor | None, Tensor | None]
# Whether rows and columns are transposed, and the dimensions that are flipped afterwards.
Symmetry = tuple[bool, tuple[int, ...]]


class GatedStacks(nn.Module):
    """Gated residual convolutions with kernels that cover only earlier pixels.

    The vertical stack reads the rows above. The horizontal stack reads the pixels to the left and
    the vertical stack. So there is no blind spot: the receptive field of `depth` layers is a whole
    rectangle (van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders"). The
    features are shifted once before the first layer, by a row or by a pixel, and all layers are
    alike. A grid in another symmetry of raster order is transposed and flipped into raster order,
    and back afterwards.

    Args:
        factorization: over a grid (H, W), in raster order or one of its symmetries.
        channels: width of both stacks, and of the features.
        kernel_size: odd; a layer uses the part of the kernel above, or to the left.
        dilations: one for each layer.
        context_size: width of the context, 0 for none.
        dropout: probability, for the output that each layer adds.
        checkpoint_layers: whether the backward pass computes each layer again.
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
        checkpoint_layers: bool = False,
    ) -> None:
        super().__init__()
        self._recomputes = checkpoint_layers
        symmetry = symmetry_of(factorization)
        if symmetry is None:
            raise ValueError(
                f"factorization: expected raster order or one of its symmetries, "
                f"got {factorization.ordering!r}"
            )
        self._symmetry = symmetry
        height, width = factorization.grid_shape
        self.raster_grid = (width, height) if symmetry[0] else (height, width)
        self.blocks = nn.ModuleList(
            _Block(channels, kernel_size, dilation, context_size, dropout) for dilation in dilations
        )

    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """The hidden state of each pixel, from the earlier pixels: (M * N, H, W, channels).

        Args:
            features: (M * N, H, W, channels).
            context: (N, 1 or H, 1 or W, context_size).
        """
        grid = _to_raster_order(features, self._symmetry).permute(0, 3, 1, 2)  # (M * N, C, H, W)
        above = F.pad(grid, (0, 0, 1, 0))[:, :, :-1]
        left = F.pad(grid, (1, 0))[..., :-1]
        if context is not None:
            context = _to_raster_order(context, self._symmetry)
        for block in self.blocks:
            args = (above, left, context)
            above, left = recomputed(block, block, *args) if self._recomputes else block(*args)
        return _from_raster_order(left.permute(0, 2, 3, 1), self._symmetry)

    def encode(self, context: Tensor | None) -> list[Encodings]:
        """The encodings for each layer, (N, 2 * channels, 1 or H, 1 or W) each."""
        grid = None if context is None else _to_raster_order(context, self._symmetry)
        return [cast(_Block, block).encode(grid) for block in self.blocks]

    def incremental(self, batch_size: int, context: Tensor | None) -> "_Incremental":
        """Evaluates the network one pixel at a time. Each layer is computed only at that pixel."""
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

    def encode(self, context: Tensor | None) -> Encodings:
        """From contexts (N, h, w, C) to encodings (N, 2 * channels, h, w)."""
        if context is None:
            return None, None
        vertical, horizontal = self.context(context).permute(0, 3, 1, 2).chunk(2, 1)
        return vertical, horizontal

    def forward(self, above: Tensor, left: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        reach, encodings = self.reach, self.encode(context)
        padded = F.pad(above, (reach, reach, reach, 0))
        above = above + self.dropout(self.from_above(padded, encodings[0]))
        rest = self.to_left(above, encodings[1])
        update = self.dropout(self.from_left(F.pad(left, (reach, 0)), rest))
        return above, left + self.out(update)

    def from_above(self, above: Tensor, encoding: Tensor | None) -> Tensor:
        """The update of the vertical stack, from an input with `reach` zeros at three sides."""
        return _gate(_add(self.vertical(above), encoding))

    def to_left(self, above: Tensor, encoding: Tensor | None) -> Tensor:
        """The part of the horizontal sums that does not come from the pixels to the left."""
        return _add(self.across(above), encoding)

    def from_left(self, left: Tensor, rest: Tensor) -> Tensor:
        """The update of the horizontal stack, from an input with `reach` zeros to the left."""
        return _gate(self.horizontal(left) + rest)


def _add(sums: Tensor, encoding: Tensor | None) -> Tensor:
    return sums if encoding is None else add_to_rows(sums, encoding)


def _gate(sums: Tensor) -> Tensor:
    """Gated activations (N, channels, ...) of sums (N, 2 * channels, ...)."""
    value, gate = sums.chunk(2, 1)
    return value.tanh() * gate.sigmoid()


class _Incremental:
    """The vertical stack a row at a time, and the horizontal stack a pixel at a time.

    The inputs of the horizontal layers are in buffers with zeros to the left, so that the taps of a
    kernel are views. Rows and columns are counted on the grid in raster order.
    """

    def __init__(self, body: GatedStacks, batch_size: int, context: Tensor | None) -> None:
        self._blocks: list[_Block] = list(body.blocks)  # type: ignore[arg-type]
        self._encodings = [
            [None if part is None else part.expand(-1, -1, *body.raster_grid) for part in pair]
            for pair in body.encode(context)
        ]
        self._num_taken = 0
        self._width = width = body.raster_grid[1]
        # Each of the following lists has one entry for each layer.
        # The last grid rows that the vertical part reads again: (rows, C, reach, W + 2 * reach).
        self._above: list[Tensor] = []
        # The inputs of the horizontal part, see `_place`: (rows, dilation, behind + ..., C).
        self._left: list[Tensor] = []
        # The part of the horizontal sums that does not come from the left: (rows, W, 2 * C).
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
        """The index of one or more columns in a buffer of `_left`.

        Columns that are a dilation apart are adjacent in the buffer, since one kernel reads them.
        """
        block = self._blocks[layer]
        return slice(None), column % block.dilation, column // block.dilation + block.behind

    def _make_views(self) -> None:
        rows, width, double = self._rest[0].shape
        self._sums = self._rest[0].new_empty(rows, double)
        self._value, self._gate = self._sums.chunk(2, 1)
        self._result = self._sums.new_empty(rows, double // 2)
        # The input of each layer at each column, (rows, C). The first layer's input is the features
        # of the pixel before. An extra column has the last pixel of the row, which the next row
        # reads.
        inputs = [
            [left[self._place(layer, column)] for column in range(width + 1)]
            for layer, left in enumerate(self._left)
        ]
        self._features = inputs[0]
        # For each column and layer: the rest of the sums, all taps as one vector, the last tap, and
        # the buffer for the layer's output.
        self._columns = []
        for column in range(width):
            views = []
            for layer, block in enumerate(self._blocks):
                _, residue, last = self._place(layer, column)
                taps = self._left[layer][:, residue, last - block.behind : last + 1].flatten(1)
                target = inputs[layer + 1][column] if layer + 1 < len(inputs) else self._result
                views.append((self._rest[layer][:, column], taps, inputs[layer][column], target))
            self._columns.append(views)

    def step(self, previous: Tensor | None) -> Tensor:
        """The hidden state of the next pixel, (rows, 1, C), from the features of the last one."""
        if previous is not None:
            column = self._num_taken % self._width
            self._features[column + 1].copy_(previous.squeeze(1))
            self._num_taken += 1
        row, column = divmod(self._num_taken, self._width)
        if column == 0:
            above = self._left[0][self._place(0, torch.arange(1, self._width + 1))]  # (rows, W, C)
            self._run_vertical(above.unsqueeze(1), row)
        maps = zip(self._columns[column], self._taps, self._outs, strict=True)
        for (rest, taps, last, target), weight, out in maps:
            torch.addmm(rest, taps, weight, out=self._sums)
            self._value.tanh_().mul_(self._gate.sigmoid_())
            torch.addmm(last, self._value, out, out=target)
        return self._result.unsqueeze(1)

    def _run_vertical(self, features: Tensor, first: int) -> None:
        """Runs the vertical stack over n grid rows from `first` on, and stores `_rest` of the last.

        Args:
            features: (rows, n, W, C), the features of the row above each grid row; zeros for row 0.
            first: the index of the first grid row.
        """
        above = features.permute(0, 3, 1, 2)  # (rows, C, n, W)
        end = first + above.shape[2]
        for layer, block in enumerate(self._blocks):
            reach = block.reach
            padded = torch.cat((self._above[layer], F.pad(above, (reach, reach))), 2)
            self._above[layer] = padded[:, :, -reach:].clone()
            vertical, horizontal = self._encodings[layer]
            vertical = None if vertical is None else vertical[:, :, first:end]
            above = above + block.from_above(padded, vertical)
            horizontal = None if horizontal is None else horizontal[:, :, end - 1 : end]
            rest = block.to_left(above[:, :, -1:], horizontal)  # (rows, 2 * C, 1, W)
            self._rest[layer].copy_(rest.squeeze(2).transpose(1, 2))

    def prefill(self, features: Tensor) -> Tensor:
        """The hidden state of the next pixel, (rows, 1, C), after the first pixels.

        Args:
            features: of the first pixels, (rows, pixels, C).
        """
        self._num_taken = features.shape[1]
        row, column = divmod(self._num_taken, self._width)
        whole, partial = features.split([row * self._width, column], 1)
        whole = whole.unflatten(1, (row, self._width))  # (rows, row, W, C)
        self._run_vertical(F.pad(whole, (0, 0, 0, 0, 1, 0)), 0)
        columns = torch.arange(column + 1)
        left = F.pad(partial, (0, 0, 1, 0))  # (rows, columns, C)
        for layer, block in enumerate(self._blocks):
            self._left[layer][self._place(layer, columns)] = left
            padded = F.pad(left, (0, 0, block.reach, 0)).transpose(1, 2).unsqueeze(2)
            rest = self._rest[layer][:, : column + 1].transpose(1, 2).unsqueeze(2)
            left = left + block.out(block.from_left(padded, rest)).squeeze(2).transpose(1, 2)
        return left[:, -1:]

    def select(self, rows: Tensor) -> None:
        """Row i becomes a copy of the previous row `rows[i]`."""
        for buffers in (self._above, self._left, self._rest):
            buffers[:] = [buffer.index_select(0, rows) for buffer in buffers]
        self._encodings = [[select_rows(part, rows) for part in pair] for pair in self._encodings]
        self._make_views()


def symmetry_of(factorization: Factorization) -> Symmetry | None:
    """The symmetry of the grid that makes the order raster order, or None if there is none."""
    if not factorization.is_total:
        return None
    ranks = factorization.ranks.view(1, *factorization.grid_shape)
    raster = factorization.ranks.flatten().sort().values
    for transpose in (False, True):
        for flips in ((), (1,), (2,), (1, 2)):
            if torch.equal(_to_raster_order(ranks, (transpose, flips)).flatten(), raster):
                return transpose, flips
    return None


def _to_raster_order(grid: Tensor, symmetry: Symmetry) -> Tensor:
    """A grid (N, H, W, ...) transposed and flipped so that it is drawn in raster order."""
    transpose, flips = symmetry
    grid = grid.transpose(1, 2) if transpose else grid
    return grid.flip(flips) if flips else grid


def _from_raster_order(grid: Tensor, symmetry: Symmetry) -> Tensor:
    """The inverse of `_to_raster_order`."""
    transpose, flips = symmetry
    grid = grid.flip(flips) if flips else grid
    return grid.transpose(1, 2) if transpose else grid
