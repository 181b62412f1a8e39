"""Orders of a grid: functions from its shape to the ranks of its blocks, (*grid_shape)."""

import math
from collections.abc import Callable

import torch
from torch import Size, Tensor

# One side of a box of blocks: the number of blocks along it, and its stride in the raster index.
Side = tuple[int, int]


def raster(grid_shape: Size) -> Tensor:
    return torch.arange(math.prod(grid_shape)).view(grid_shape)


def reverse(grid_shape: Size) -> Tensor:
    return raster(grid_shape).flatten().flip(0).view(grid_shape)


def random(grid_shape: Size, seed: int, per_step: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(math.prod(grid_shape), generator=generator, device="cpu")
    return ranks_of(order.to(torch.get_default_device()), grid_shape) // per_step


def column_major(grid_shape: Size) -> Tensor:
    backwards = raster(grid_shape[::-1])
    return backwards.permute(tuple(reversed(range(len(grid_shape))))).contiguous()


def snake(grid_shape: Size) -> Tensor:
    ranks = torch.zeros((), dtype=torch.int64)
    for size in grid_shape:
        # Every other run along this dimension is reversed.
        forward = torch.arange(size)
        runs = ranks.unsqueeze(-1)
        ranks = runs * size + torch.where(runs % 2 == 0, forward, size - 1 - forward)
    return ranks


def diagonal(grid_shape: Size) -> Tensor:
    return _indices(grid_shape).sum(-1).view(grid_shape)


def checkerboard(grid_shape: Size) -> Tensor:
    return diagonal(grid_shape) % 2


def multiscale(grid_shape: Size, levels: int) -> Tensor:
    most = 1 + (max(grid_shape, default=1) - 1).bit_length()
    if levels > most:
        raise ValueError(f"levels: a grid {tuple(grid_shape)} has at most {most}, got {levels}")
    indices = _indices(grid_shape)
    ranks = torch.zeros(indices.shape[0], dtype=torch.int64)
    for level in range(1, levels):  # the rank is the number of coarser lattices without the block
        ranks += (indices % 2**level != 0).any(-1)
    return ranks.view(grid_shape)


def spiral(grid_shape: Size) -> Tensor:
    if len(grid_shape) != 2:
        raise ValueError(
            f"ordering: spiral is for grids of two dimensions, got the grid {tuple(grid_shape)}"
        )
    rows, columns = grid_shape
    row, column = _indices(grid_shape).unbind(-1)
    ring = torch.stack((row, column, rows - 1 - row, columns - 1 - column)).amin(0)
    # Without the outer rings, the grid is height x width. A block's place along its ring starts at
    # the corner: the distance from the corner, or on the way back the length minus the distance.
    height, width = rows - 2 * ring, columns - 2 * ring
    row, column = row - ring, column - ring
    distance = row + column
    is_forward = (row == 0) | (column == width - 1)
    place = torch.where(is_forward, distance, 2 * (height + width - 2) - distance)
    return (rows * columns - height * width + place).view(grid_shape)


def hilbert(grid_shape: Size) -> Tensor:
    if len(grid_shape) > 3:
        raise ValueError(
            f"ordering: hilbert is for grids of at most three dimensions, "
            f"got the grid {tuple(grid_shape)}"
        )
    sides = list(zip(grid_shape, raster(grid_shape).stride(), strict=True))
    # The curve ends at the far corner of an even side. Along an odd side it may need diagonals.
    sides.sort(key=lambda side: (side[0] % 2, -side[0]))
    a, b, c = [*sides, (1, 0), (1, 0), (1, 0)][:3]
    return ranks_of(torch.tensor(_curve(0, a, b, c)), grid_shape)


def _curve(start: int, a: Side, b: Side, c: Side) -> list[int]:
    """The blocks of a box in order, from the corner `start` to the far end of its side `a`.

    The generalized Hilbert curve of Cerveny (https://github.com/jakubcerveny/gilbert) divides a box
    into at most five boxes and runs through one after the other.
    """
    if 3 * c[0] > 4 * b[0]:
        b, c = c, b
    (width, right), (height, up), (depth, out) = a, b, c
    if height == 1:
        return [start + index * right for index in range(width)]
    if width == depth == 1:
        return [start + index * up for index in range(height)]
    (a1, a2), (b1, b2), (c1, c2) = _halves(a), _halves(b), _halves(c)
    far_right, far_out, middle = (width - 1) * right, (depth - 1) * out, b1[0] * up
    if 2 * width > 3 * max(height, depth):
        boxes = [(0, a1, b, c), (a1[0] * right, a2, b, c)]
    elif 3 * height > 4 * depth:
        boxes = [
            (0, b1, c, a1),
            (middle, a, b2, c),
            (far_right + middle - up, _reversed(b1), c, _reversed(a2)),
        ]
    else:
        boxes = [
            (0, b1, c1, a1),
            (middle, c, a1, b2),
            (far_out + middle - up, a, _reversed(b1), _reversed(c2)),
            (far_right + far_out + middle, _reversed(c), _reversed(a2), b2),
            (far_right + middle - up, _reversed(b1), c1, _reversed(a2)),
        ]
    return [block for corner, *sides in boxes for block in _curve(start + corner, *sides)]


def _halves(side: Side) -> tuple[Side, Side]:
    """The two halves of a side, the first even if possible."""
    size, step = side
    first = size // 2
    first += first % 2 if size > 2 else 0
    return (first, step), (size - first, step)


def _reversed(side: Side) -> Side:
    return side[0], -side[1]


def _indices(grid_shape: Size) -> Tensor:
    """The indices of each block on the grid: (num_blocks, dimensions)."""
    return torch.ones(grid_shape).nonzero()


def ranks_of(order: Tensor, grid_shape: Size) -> Tensor:
    """The ranks (*grid_shape) of blocks that are drawn one by one.

    Args:
        order: the raster index of each block in the order of drawing, (num_blocks,).
        grid_shape: the shape of the ranks.
    """
    return torch.empty_like(order).scatter_(0, order, torch.arange(order.shape[0])).view(grid_shape)


PATTERNS: dict[str, Callable[..., Tensor]] = {
    pattern.__name__: pattern
    for pattern in (
        *(raster, reverse, random, column_major, snake, diagonal, spiral, hilbert),
        *(checkerboard, multiscale),
    )
}
