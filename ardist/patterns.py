"""Orders that follow from the grid alone: each gives the ranks of its blocks."""

import math
from collections.abc import Callable

import torch
from torch import Size, Tensor

# One side of a box of blocks: how many there are along it, and what one step along it adds to a
# block's raster index.
Side = tuple[int, int]


def raster(grid_shape: Size) -> Tensor:
    return torch.arange(math.prod(grid_shape)).view(grid_shape)


def reverse(grid_shape: Size) -> Tensor:
    return raster(grid_shape).flatten().flip(0).view(grid_shape)


def random(grid_shape: Size, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return ranks_of(torch.randperm(math.prod(grid_shape), generator=generator), grid_shape)


def column_major(grid_shape: Size) -> Tensor:
    backwards = raster(grid_shape[::-1])
    return backwards.permute(tuple(reversed(range(len(grid_shape))))).contiguous()


def snake(grid_shape: Size) -> Tensor:
    ranks = torch.zeros((), dtype=torch.int64)
    for size in grid_shape:
        # Every other run along this dimension goes backwards.
        ahead = torch.arange(size)
        runs = ranks.unsqueeze(-1)
        ranks = runs * size + torch.where(runs % 2 == 0, ahead, size - 1 - ahead)
    return ranks


def diagonal(grid_shape: Size) -> Tensor:
    return _places(grid_shape).sum(-1).view(grid_shape)


def checkerboard(grid_shape: Size) -> Tensor:
    return diagonal(grid_shape) % 2


def multiscale(grid_shape: Size, levels: int) -> Tensor:
    most = 1 + (max(grid_shape, default=1) - 1).bit_length()
    if levels > most:
        raise ValueError(f"levels: a grid {tuple(grid_shape)} has at most {most}, got {levels}")
    places = _places(grid_shape)
    ranks = torch.zeros(places.shape[0], dtype=torch.int64)
    for level in range(1, levels):  # a block is as late as there are lattices that miss it
        ranks += (places % 2**level != 0).any(-1)
    return ranks.view(grid_shape)


def spiral(grid_shape: Size) -> Tensor:
    if len(grid_shape) != 2:
        raise ValueError(
            f"ordering: spiral is for grids of two dimensions, got the grid {tuple(grid_shape)}"
        )
    rows, columns = grid_shape
    row, column = _places(grid_shape).unbind(-1)
    ring = torch.stack((row, column, rows - 1 - row, columns - 1 - column)).amin(0)
    # The grid within the outer rings, and the way from its corner along its own ring.
    height, width = rows - 2 * ring, columns - 2 * ring
    row, column = row - ring, column - ring
    way = row + column
    onward = (row == 0) | (column == width - 1)
    along = torch.where(onward, way, 2 * (height + width - 2) - way)
    return (rows * columns - height * width + along).view(grid_shape)


def hilbert(grid_shape: Size) -> Tensor:
    if len(grid_shape) > 3:
        raise ValueError(
            f"ordering: hilbert is for grids of at most three dimensions, "
            f"got the grid {tuple(grid_shape)}"
        )
    sides = list(zip(grid_shape, raster(grid_shape).stride(), strict=True))
    # From corner to corner along an even side: along an odd one neighbours may not get there.
    sides.sort(key=lambda side: (side[0] % 2, -side[0]))
    a, b, c = [*sides, (1, 0), (1, 0), (1, 0)][:3]
    return ranks_of(torch.tensor(_filled(0, a, b, c)), grid_shape)


def _filled(start: int, a: Side, b: Side, c: Side) -> list[int]:
    """The blocks of a box, from the corner `start` to the far end of its side `a`.

    The generalized Hilbert curve of Cerveny (https://github.com/jakubcerveny/gilbert), which
    cuts a box into at most five that follow each other.
    """
    if 3 * c[0] > 4 * b[0]:
        b, c = c, b
    (width, right), (height, up), (depth, out) = a, b, c
    if height == 1:
        return [start + at * right for at in range(width)]
    if width == depth == 1:
        return [start + at * up for at in range(height)]
    (a1, a2), (b1, b2), (c1, c2) = _halves(a), _halves(b), _halves(c)
    far_right, far_out, middle = (width - 1) * right, (depth - 1) * out, b1[0] * up
    if 2 * width > 3 * max(height, depth):
        boxes = [(0, a1, b, c), (a1[0] * right, a2, b, c)]
    elif 3 * height > 4 * depth:
        boxes = [
            (0, b1, c, a1),
            (middle, a, b2, c),
            (far_right + middle - up, _back(b1), c, _back(a2)),
        ]
    else:
        boxes = [
            (0, b1, c1, a1),
            (middle, c, a1, b2),
            (far_out + middle - up, a, _back(b1), _back(c2)),
            (far_right + far_out + middle, _back(c), _back(a2), b2),
            (far_right + middle - up, _back(b1), c1, _back(a2)),
        ]
    return [block for at, *sides in boxes for block in _filled(start + at, *sides)]


def _halves(side: Side) -> tuple[Side, Side]:
    """A side cut in two, the first part even where it can be."""
    size, step = side
    first = size // 2
    first += first % 2 if size > 2 else 0
    return (first, step), (size - first, step)


def _back(side: Side) -> Side:
    return side[0], -side[1]


def _places(grid_shape: Size) -> Tensor:
    """Where each block is: (num_blocks, dimensions)."""
    return torch.ones(grid_shape).nonzero()


def ranks_of(order: Tensor, grid_shape: Size) -> Tensor:
    """The ranks of blocks that are drawn in this order, one by one."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(order.shape[0])).view(grid_shape)


PATTERNS: dict[str, Callable[..., Tensor]] = {
    curve.__name__: curve
    for curve in (
        *(raster, reverse, random, column_major, snake, diagonal, spiral, hilbert),
        *(checkerboard, multiscale),
    )
}
