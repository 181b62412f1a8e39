"""What networks over a sequence of blocks share: reading blocks, their order, and heads."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardist.factorization import Factorization
from ardist.families import Family


class BlockEmbedding(nn.Module):
    """Drawn blocks as vectors, read through each family's `project`.

    One map serves all blocks where they have one family, so that their number is free;
    otherwise each block has its own.
    """

    def __init__(self, factorization: Factorization, size: int) -> None:
        super().__init__()
        self._layout = layout = factorization.layout
        sizes = layout.sizes["feature"]
        self._sizes = sizes if layout.flat else sizes[:1]
        self.weight = nn.Parameter(torch.empty(size, sum(self._sizes)))
        self.bias = nn.Parameter(torch.zeros(len(self._sizes), size))
        with torch.no_grad():
            for part in self.weight.split(self._sizes, 1):
                part.normal_(std=part.shape[1] ** -0.5)

    def map_of(self, block: int) -> tuple[Family, Tensor, Tensor]:
        """A block's family and the weight (size, num_features) and bias (size,) that read it."""
        index = block if self._layout.flat else 0
        weight = self.weight.split(self._sizes, 1)[index]
        return self._layout.families[index], weight, self.bias[index]

    def forward(self, blocks: Tensor) -> Tensor:
        """Blocks of a row in raster order of the grid as (N, num_blocks, size)."""
        if not self._layout.flat:
            family, weight, bias = self.map_of(0)
            return family.project(blocks, weight, bias)
        pieces = blocks.split(self._layout.sizes["value"], -1)
        vectors = []
        for block, piece in enumerate(pieces):
            family, weight, bias = self.map_of(block)
            value = piece.reshape(len(blocks), *family.event_shape)
            vectors.append(family.project(value, weight, bias))
        return torch.stack(vectors, 1)


class BlockHead(nn.Module):
    """Vectors to the conditionals' parameters, as `BlockEmbedding` shared or one for each block."""

    def __init__(self, factorization: Factorization, size: int) -> None:
        super().__init__()
        self._layout = layout = factorization.layout
        sizes = layout.sizes["param"]
        self._sizes = sizes if layout.flat else sizes[:1]
        linear = nn.Linear(size, sum(self._sizes))
        self.weight, self.bias = linear.weight, linear.bias

    def map_of(self, block: int) -> tuple[Tensor, Tensor]:
        """The weight (num_params, size) and bias (num_params,) of a block."""
        index = block if self._layout.flat else 0
        return self.weight.split(self._sizes)[index], self.bias.split(self._sizes)[index]

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, num_blocks, size) to (N, num_blocks, num_params), or flat (N, total)."""
        if not self._layout.flat:
            return F.linear(hidden, self.weight, self.bias)
        parts = [F.linear(h, *self.map_of(block)) for block, h in enumerate(hidden.unbind(1))]
        return torch.cat(parts, -1)


def drawing_order(ranks: Tensor) -> Tensor | None:
    """The blocks of total ranks in the order of drawing; None where it is raster order."""
    order = ranks.argsort()
    return None if torch.equal(order, torch.arange(len(order), device=order.device)) else order
